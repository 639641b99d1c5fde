//! Metrics that look at classes one by one: F1 and the area under the ROC curve.

use super::Scored;

/// F1: of the positive class of two, else the mean over the classes or labels that occur or are predicted. `None` if there
/// are none.
pub(super) fn f1(scored: &Scored, rows: &[usize]) -> Option<f64> {
    let classes = scored.classes();
    // True positives, predicted, true, for each class.
    let mut counts = vec![[0usize; 3]; classes];
    let mut count = |class: usize, kind: usize| {
        if let Some(counts) = counts.get_mut(class) {
            counts[kind] += 1;
        }
    };
    if scored.independent {
        for (label, truth, score) in scored.labels(rows) {
            let predicted = score > 0.0;
            let held = [truth && predicted, predicted, truth];
            held.into_iter().enumerate().filter(|(_, held)| *held).for_each(|(kind, _)| count(label, kind));
        }
    } else {
        for (class, scores) in scored.targets(rows) {
            let predicted = scores.best();
            count(predicted, 1);
            count(class, 2);
            if predicted == class {
                count(class, 0);
            }
        }
    }
    let of = |[both, predicted, truth]: &[usize; 3]| {
        (predicted + truth > 0).then(|| 2.0 * *both as f64 / (predicted + truth) as f64)
    };
    average(positive(scored, &counts).iter().filter_map(of))
}

/// The area under the ROC curve: of the positive class of two, else the mean over the classes or labels for which it is
/// defined. `None` if there are none.
pub(super) fn auc(scored: &Scored, rows: &[usize]) -> Option<f64> {
    // A score and whether it should be high, for each class.
    let mut pairs: Vec<Vec<(f64, bool)>> = vec![Vec::new(); scored.classes()];
    if scored.independent {
        for (label, truth, score) in scored.labels(rows) {
            pairs[label].push((f64::from(score), truth));
        }
    } else {
        for (class, scores) in scored.targets(rows) {
            // Softmax is not monotonic in one logit alone: classes are ranked by their log-odds against the rest.
            let top = (0..scored.classes()).map(|c| f64::from(scores.of(c))).fold(f64::NEG_INFINITY, f64::max);
            let weight = |c: usize| (f64::from(scores.of(c)) - top).exp();
            let total: f64 = (0..scored.classes()).map(weight).sum();
            for (c, pairs) in pairs.iter_mut().enumerate() {
                let rest = total - weight(c);
                // Near certainty the difference loses its digits: the sum is then taken anew.
                let rest = if rest > 1e-6 * total {
                    rest
                } else {
                    (0..scored.classes()).filter(|o| *o != c).map(weight).sum()
                };
                pairs.push((f64::from(scores.of(c)) - top - rest.max(f64::MIN_POSITIVE).ln(), c == class));
            }
        }
    }
    average(positive(scored, &pairs).iter().filter_map(|pairs| area(pairs.clone())))
}

/// Of two exclusive classes the second, else all.
fn positive<'a, T>(scored: &Scored, all: &'a [T]) -> &'a [T] {
    if !scored.independent && all.len() == 2 { &all[1..] } else { all }
}

/// The share of pairs of a true and a false one in which the true one scores higher; equal scores count half.
fn area(mut pairs: Vec<(f64, bool)>) -> Option<f64> {
    let positives = pairs.iter().filter(|(_, truth)| *truth).count();
    let negatives = pairs.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut place) = (0.0, 0usize);
    for equals in pairs.chunk_by(|a, b| a.0 == b.0) {
        let mean_rank = place as f64 + (equals.len() as f64 + 1.0) / 2.0;
        ranks += mean_rank * equals.iter().filter(|(_, truth)| *truth).count() as f64;
        place += equals.len();
    }
    let (p, n) = (positives as f64, negatives as f64);
    Some((ranks - p * (p + 1.0) / 2.0) / (p * n))
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use dendrite_onnx::Tensor;

    use super::{super::Truth, *};

    fn scored<'a>(predictions: &'a [f32], classes: &'a [usize], truth: &'a Truth, independent: bool) -> Scored<'a> {
        Scored {
            predictions,
            shape: classes,
            class_axis: 1,
            independent,
            truth,
            ignore: None,
            sequences: None,
            losses: &[],
            measured: &[],
            outputs: &[],
        }
    }

    fn near(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() < 1e-9)
    }

    /// Values of scikit-learn 1.8: `roc_auc_score([0, 0, 1, 1], [.1, .4, .35, .8])` is 0.75; with a tie at .4 it is 0.875.
    #[test]
    fn the_area_counts_pairs() {
        assert!(near(area(vec![(0.1, false), (0.4, false), (0.35, true), (0.8, true)]), 0.75));
        assert!(near(area(vec![(0.1, false), (0.4, false), (0.4, true), (0.8, true)]), 0.875));
        assert_eq!(area(vec![(0.1, true), (0.2, true)]), None);
    }

    #[test]
    fn two_classes_have_one_positive() {
        let truth = Truth::of(&Tensor::from_i64(&[4], &[0, 0, 1, 1]));
        // Score differences -1, 2, 1, 3.
        let scored = scored(&[1.0, 0.0, 0.0, 2.0, 0.0, 1.0, 0.0, 3.0], &[2], &truth, false);
        assert!(near(auc(&scored, &[0, 1, 2, 3]), 0.75));
        // Predicted positive: rows 1, 2 and 3; precision 2/3, recall 1.
        assert!(near(f1(&scored, &[0, 1, 2, 3]), 0.8));
    }

    #[test]
    fn more_classes_are_averaged() {
        let truth = Truth::of(&Tensor::from_i64(&[3], &[0, 1, 2]));
        let scored = scored(&[3.0, 1.0, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0, 4.0], &[3], &truth, false);
        // Class 0: predicted twice, once right, F1 2/3; class 1: never, 0; class 2: 1.
        assert!(near(f1(&scored, &[0, 1, 2]), (2.0 / 3.0 + 0.0 + 1.0) / 3.0));
    }

    #[test]
    fn labels_are_averaged_where_they_are_defined() {
        let truth = Truth::of(&Tensor::from_f32(&[2, 2], &[1.0, 0.0, 0.0, 0.0]));
        let scored = scored(&[0.5, 1.0, -0.5, -1.0], &[2], &truth, true);
        assert!(near(auc(&scored, &[0, 1]), 1.0));
    }
}
