//! Metrics: what a score is reported and accepted by.

mod interval;
mod ranking;

use dendrite_onnx::{Model, Tensor};

use crate::{
    classes::Classes,
    error::{Error, Result},
    options::MetricKind,
    sequence::{Sequences, edits},
};

pub use interval::{Interval, intervals};

/// A metric of predictions against targets.
#[derive(Debug, Clone)]
pub enum Metric {
    /// Share of targets that are met: the largest score is the class (of soft targets: their largest entry); behind a sigmoid,
    /// score and target lie on the same side of one half.
    Accuracy,
    /// Share of targets among the this many largest scores.
    Top(usize),
    /// Classes that are missing, too many or others in what predictions spell, as a share of those in the targets.
    Cer,
    /// F1 of the positive class where there are two classes, else the mean over classes or labels.
    F1,
    /// Area under the receiver operating characteristic: of the positive class where there are two, else the mean over
    /// classes, one against the rest, or over labels. Classes that do not occur, or alone, are left out.
    Auc,
    /// Mean absolute error.
    Mae,
    /// Root of the mean squared error.
    Rmse,
    /// The mean loss.
    Loss,
    /// A graph that gives a number for each sample, of which the mean is taken.
    Graph {
        /// The file's name without its ending.
        name: String,
        /// The graph: inputs `prediction` (the model's output) and `target`.
        model: Box<Model>,
        /// Whether smaller is better.
        minimise: bool,
    },
}

impl Metric {
    /// The metric that `kind` asks for; `None` for [`MetricKind::Auto`]. `minimise` says which way a metric of one's own
    /// goes.
    pub fn from_kind(kind: &MetricKind, minimise: bool) -> Result<Option<Self>> {
        Ok(Some(match kind {
            MetricKind::Auto => return Ok(None),
            MetricKind::Accuracy => Metric::Accuracy,
            MetricKind::Top(k) => Metric::Top(*k),
            MetricKind::Cer => Metric::Cer,
            MetricKind::F1 => Metric::F1,
            MetricKind::Auc => Metric::Auc,
            MetricKind::Mae => Metric::Mae,
            MetricKind::Rmse => Metric::Rmse,
            MetricKind::Loss => Metric::Loss,
            MetricKind::File(path) => {
                let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
                Metric::Graph { name, model: Box::new(Model::open(path)?), minimise }
            }
        }))
    }

    /// The name in reports.
    pub fn name(&self) -> String {
        match self {
            Metric::Accuracy => "accuracy".to_owned(),
            Metric::Top(k) => format!("top{k}"),
            Metric::Cer => "cer".to_owned(),
            Metric::F1 => "f1".to_owned(),
            Metric::Auc => "auc".to_owned(),
            Metric::Mae => "mae".to_owned(),
            Metric::Rmse => "rmse".to_owned(),
            Metric::Loss => "loss".to_owned(),
            Metric::Graph { name, .. } => name.clone(),
        }
    }

    /// Whether it is the loss itself.
    pub fn is_loss(&self) -> bool {
        matches!(self, Metric::Loss)
    }

    /// Whether larger is better.
    pub fn maximise(&self) -> bool {
        match self {
            Metric::Accuracy | Metric::Top(_) | Metric::F1 | Metric::Auc => true,
            Metric::Cer | Metric::Mae | Metric::Rmse | Metric::Loss => false,
            Metric::Graph { minimise, .. } => !minimise,
        }
    }

    /// Whether `a` is worse than `b`.
    pub fn worse(&self, a: f64, b: f64) -> bool {
        if self.maximise() { a < b } else { a > b }
    }

    /// The value over the samples `rows` of what was scored.
    pub fn value(&self, scored: &Scored, rows: &[usize]) -> Result<f64> {
        let fail = |reason: &str| Error::Option {
            reason: reason.to_owned(),
            hint: "choose another with --metric, or other data".to_owned(),
        };
        let ranked = match self {
            Metric::F1 => ranking::f1(scored, rows).ok_or("the F1 score is not defined: no class occurs"),
            Metric::Auc => ranking::auc(scored, rows)
                .ok_or("the AUC is not defined: it takes samples of a class and samples of others"),
            _ => {
                let mut mean = Mean::default();
                self.add(scored, rows, &mut mean);
                return Ok(self.of_mean(mean));
            }
        };
        ranked.map_err(fail)
    }

    /// Whether it is made of a mean over samples, which can be taken of one part of them after another.
    pub(crate) fn is_mean(&self) -> bool {
        !matches!(self, Metric::F1 | Metric::Auc)
    }

    /// Let the samples `rows` count in the mean of which the metric is made.
    pub(crate) fn add(&self, scored: &Scored, rows: &[usize], mean: &mut Mean) {
        match self {
            Metric::Loss => mean.extend(rows.iter().map(|r| scored.losses[*r])),
            Metric::Graph { .. } => mean.extend(rows.iter().map(|r| scored.measured[*r])),
            Metric::Accuracy => scored.hits(rows, 1, mean),
            Metric::Cer => scored.misspelt(rows, mean),
            Metric::Top(k) => scored.hits(rows, *k, mean),
            Metric::Mae => mean.extend(scored.errors(rows).map(f64::abs)),
            Metric::Rmse => mean.extend(scored.errors(rows).map(|e| e * e)),
            Metric::F1 | Metric::Auc => {}
        }
    }

    /// The value, given the mean of which it is made.
    pub(crate) fn of_mean(&self, mean: Mean) -> f64 {
        if matches!(self, Metric::Rmse) { mean.value().sqrt() } else { mean.value() }
    }
}

/// Targets, read once.
#[derive(Debug, Clone)]
pub enum Truth {
    /// Class numbers `[N, positions..]`.
    Classes(Vec<i64>),
    /// Numbers of the predictions' shape.
    Numbers(Vec<f32>),
}

impl Truth {
    /// The targets that a tensor holds.
    pub fn of(target: &Tensor) -> Self {
        match target.to_i64().filter(|_| !target.element_type().is_float()) {
            Some(classes) => Truth::Classes(classes),
            None => Truth::Numbers(target.to_f32().unwrap_or_default()),
        }
    }

    fn number(&self, index: usize) -> Option<f32> {
        match self {
            Truth::Classes(classes) => classes.get(index).map(|c| *c as f32),
            Truth::Numbers(numbers) => numbers.get(index).copied(),
        }
    }
}

/// Predictions and targets of samples.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// Predictions before a final softmax or sigmoid, rows x `shape`.
    pub predictions: &'a [f32],
    /// The shape of one prediction.
    pub shape: &'a [usize],
    /// The axis of predictions, samples first, that holds classes.
    pub class_axis: usize,
    /// Whether scores of a prediction are independent, each behind a sigmoid.
    pub independent: bool,
    /// Targets.
    pub truth: &'a Truth,
    /// The class number that marks positions without a target.
    pub ignore: Option<i64>,
    /// How predictions spell sequences, where targets are such.
    pub sequences: Option<Sequences>,
    /// The loss of each sample.
    pub losses: &'a [f64],
    /// What a metric of one's own gave for each sample.
    pub measured: &'a [f64],
    /// The model's outputs, where they are not the predictions.
    pub outputs: &'a [f32],
}

impl Scored<'_> {
    fn width(&self) -> usize {
        self.shape.iter().product::<usize>().max(1)
    }

    fn layout(&self) -> Classes {
        Classes::of_prediction(self.shape, self.class_axis)
    }

    /// Classes, or labels, of one position.
    fn classes(&self) -> usize {
        if self.independent { self.width() } else { self.layout().count }
    }

    fn positions(&self) -> usize {
        if self.independent { 1 } else { self.width() / self.classes() }
    }

    fn row(&self, row: usize) -> &[f32] {
        let width = self.width();
        self.predictions.get(row * width..(row + 1) * width).unwrap_or_default()
    }

    /// The scores of every position of `rows` with its class; positions without a target are left out.
    fn targets<'s>(&'s self, rows: &'s [usize]) -> impl Iterator<Item = (usize, Scores<'s>)> {
        let (layout, width, positions) = (self.layout(), self.width(), self.positions());
        let class = move |row: usize, position: usize| match self.truth {
            Truth::Classes(labels) => {
                let label = *labels.get(row * positions + position)?;
                usize::try_from(label).ok().filter(|_| Some(label) != self.ignore)
            }
            Truth::Numbers(soft) => {
                let place = |c: usize| row * width + layout.place(position, c);
                Some(best(layout.count, |c| soft.get(place(c)).copied().unwrap_or(f32::MIN)))
            }
        };
        let places = rows.iter().flat_map(move |row| (0..positions).map(move |position| (*row, position)));
        places.filter_map(move |(row, position)| {
            let scores = Scores { values: self.row(row), layout, position };
            Some((class(row, position)?, scores))
        })
    }

    /// Whether each label of each row holds, beside its score: for independent scores.
    fn labels<'s>(&'s self, rows: &'s [usize]) -> impl Iterator<Item = (usize, bool, f32)> + 's {
        let width = self.width();
        rows.iter().flat_map(move |row| (0..width).map(move |label| (*row, label))).filter_map(move |(row, label)| {
            let truth = self.truth.number(row * width + label)? > 0.5;
            Some((label, truth, *self.row(row).get(label)?))
        })
    }

    /// Let every target count as 1 if it is among the `k` largest scores, and as 0 if not.
    fn hits(&self, rows: &[usize], k: usize, mean: &mut Mean) {
        let one = |hit: bool| f64::from(u8::from(hit));
        if self.sequences.is_some() {
            mean.extend(self.spelt(rows).map(|(target, spelt)| one(spelt == target)));
        } else if self.independent {
            mean.extend(self.labels(rows).map(|(_, truth, score)| one(truth == (score > 0.0))));
        } else {
            mean.extend(self.targets(rows).map(|(class, scores)| one(scores.rank(class) < k)));
        }
    }

    /// The target sequence of every row and what its prediction spells.
    fn spelt<'s>(&'s self, rows: &'s [usize]) -> impl Iterator<Item = (&'s [i64], Vec<i64>)> {
        let (layout, width) = (self.layout(), self.width());
        let labels: &[i64] = match self.truth {
            Truth::Classes(labels) => labels,
            Truth::Numbers(_) => &[],
        };
        let length = labels.len() / (self.predictions.len() / width).max(1);
        rows.iter().filter_map(move |row| {
            let target = labels.get(row * length..(row + 1) * length)?;
            let sequences = self.sequences?;
            Some((sequences.target(target), sequences.spelt(self.row(*row), layout)))
        })
    }

    /// Let every class of the targets count with its share of what is misspelt.
    fn misspelt(&self, rows: &[usize], mean: &mut Mean) {
        for (target, spelt) in self.spelt(rows) {
            mean.sum += edits(&spelt, target) as f64;
            mean.count += target.len();
        }
    }

    /// Output minus target, element by element.
    fn errors<'s>(&'s self, rows: &'s [usize]) -> impl Iterator<Item = f64> + 's {
        let outputs = if self.outputs.is_empty() { self.predictions } else { self.outputs };
        let width = self.width();
        rows.iter()
            .flat_map(move |row| row * width..(row + 1) * width)
            .filter_map(move |i| Some(f64::from(*outputs.get(i)?) - f64::from(self.truth.number(i)?)))
    }
}

/// The scores of the classes at one position of a prediction.
#[derive(Debug, Clone, Copy)]
struct Scores<'a> {
    values: &'a [f32],
    layout: Classes,
    position: usize,
}

impl Scores<'_> {
    fn of(&self, class: usize) -> f32 {
        self.values.get(self.layout.place(self.position, class)).copied().unwrap_or(f32::NEG_INFINITY)
    }

    /// The class with the largest score, the first of equals.
    fn best(&self) -> usize {
        best(self.layout.count, |c| self.of(c))
    }

    /// How many classes come before `class`: those of a larger score, and of equals the first.
    fn rank(&self, class: usize) -> usize {
        if class >= self.layout.count {
            return usize::MAX;
        }
        let own = self.of(class);
        (0..self.layout.count).filter(|c| self.of(*c) > own || (self.of(*c) == own && *c < class)).count()
    }
}

fn best(classes: usize, score: impl Fn(usize) -> f32) -> usize {
    (1..classes).fold(0, |best, c| if score(c) > score(best) { c } else { best })
}

/// A mean in the making.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn extend(&mut self, values: impl Iterator<Item = f64>) {
        values.for_each(|v| {
            self.sum += v;
            self.count += 1;
        });
    }

    /// The mean; 0 of nothing.
    fn value(self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored<'a>(predictions: &'a [f32], shape: &'a [usize], truth: &'a Truth, independent: bool) -> Scored<'a> {
        Scored {
            predictions,
            shape,
            class_axis: 1,
            independent,
            truth,
            ignore: Some(-1),
            sequences: None,
            losses: &[],
            measured: &[],
            outputs: &[],
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn classes_are_counted_by_position_and_ignored_ones_are_not() -> Result<()> {
        // Two samples of three classes and two positions: classes come first.
        let predictions = [5.0, 0.0, 1.0, 2.0, 0.0, 3.0, 0.0, 9.0, 1.0, 0.0, 2.0, 0.0];
        let truth = Truth::of(&Tensor::from_i64(&[2, 2], &[0, 1, 2, -1]));
        let scored = scored(&predictions, &[3, 2], &truth, false);
        assert!(close(Metric::Accuracy.value(&scored, &[0, 1])?, 2.0 / 3.0));
        assert!(close(Metric::Top(2).value(&scored, &[0, 1])?, 1.0));
        assert!(close(Metric::Accuracy.value(&scored, &[0])?, 0.5));
        Ok(())
    }

    #[test]
    fn classes_may_come_last() -> Result<()> {
        // The same with positions first.
        let predictions = [5.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 1.0, 2.0, 9.0, 0.0, 0.0];
        let truth = Truth::of(&Tensor::from_i64(&[2, 2], &[0, 1, 2, -1]));
        let scored = Scored { class_axis: 2, ..scored(&predictions, &[2, 3], &truth, false) };
        assert!(close(Metric::Accuracy.value(&scored, &[0, 1])?, 2.0 / 3.0));
        assert!(close(Metric::Top(2).value(&scored, &[0, 1])?, 1.0));
        assert!(close(Metric::Accuracy.value(&scored, &[0])?, 0.5));
        Ok(())
    }

    #[test]
    fn soft_targets_have_the_class_of_their_largest_entry() -> Result<()> {
        let truth = Truth::of(&Tensor::from_f32(&[2, 3], &[0.1, 0.7, 0.2, 0.5, 0.3, 0.2]));
        let scored = scored(&[0.0, 2.0, 1.0, 0.0, 2.0, 1.0], &[3], &truth, false);
        assert!(close(Metric::Accuracy.value(&scored, &[0, 1])?, 0.5));
        Ok(())
    }

    #[test]
    fn independent_scores_are_right_on_the_same_side() -> Result<()> {
        let truth = Truth::of(&Tensor::from_f32(&[2, 2], &[1.0, 0.0, 0.0, 1.0]));
        let scored = scored(&[0.5, 0.5, -3.0, 2.0], &[2], &truth, true);
        assert!(close(Metric::Accuracy.value(&scored, &[0, 1])?, 0.75));
        Ok(())
    }

    #[test]
    fn errors_are_those_of_outputs() -> Result<()> {
        let truth = Truth::of(&Tensor::from_f32(&[2, 1], &[1.0, 3.0]));
        let scored = Scored { outputs: &[2.0, 5.0], ..scored(&[0.0, 0.0], &[1], &truth, false) };
        assert!(close(Metric::Mae.value(&scored, &[0, 1])?, 1.5));
        assert!(close(Metric::Rmse.value(&scored, &[0, 1])?, 2.5f64.sqrt()));
        Ok(())
    }
}
