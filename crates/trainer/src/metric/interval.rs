//! 95 % confidence intervals of metrics.

use rand::RngExt;

use super::{Metric, Scored};
use crate::{error::Result, random::generator};

/// A metric with its 95 % confidence interval.
#[derive(Debug, Clone)]
pub struct Interval {
    /// The metric.
    pub name: String,
    /// The estimate.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The 97.5 % point of the normal distribution.
const TWO_SIDED: f64 = 1.959_964;
/// Resamples of a bootstrap, at most and at least; the work decides in between.
const RESAMPLES: (usize, usize) = (50, 500);
/// Predicted numbers that a bootstrap looks at, about.
const BOOTSTRAP_WORK: usize = 20_000_000;

/// The metric and the loss with their intervals: Wilson's for a share of samples, the bootstrap over samples for F1, AUC
/// and the share of errors in sequences
/// (percentiles, seeded), the normal one for means.
pub fn intervals(metric: &Metric, scored: &Scored) -> Result<Vec<Interval>> {
    let rows: Vec<usize> = (0..scored.losses.len()).collect();
    let mut found = Vec::new();
    let value = metric.value(scored, &rows)?;
    let named = |(low, high): (f64, f64)| Interval { name: metric.name(), value, low, high };
    match metric {
        Metric::Accuracy | Metric::Top(_)
            if scored.sequences.is_some()
                || scored.positions() == 1 && (!scored.independent || scored.width() == 1) =>
        {
            found.push(named(wilson(value, rows.len())));
        }
        Metric::F1 | Metric::Auc | Metric::Cer => found.push(named(bootstrap(metric, scored, value))),
        Metric::Loss => {}
        _ => {
            let each = |row: usize| metric.value(scored, &[row]);
            let values = rows.iter().map(|row| each(*row)).collect::<Result<Vec<f64>>>()?;
            found.push(named(match metric {
                // A mean of squares has an interval, and its root that interval's root.
                Metric::Rmse => {
                    let squares: Vec<f64> = values.iter().map(|v| v * v).collect();
                    let (mean, half) = of_mean(&squares);
                    ((mean - half).max(0.0).sqrt(), (mean + half).sqrt())
                }
                _ => {
                    let (_, half) = of_mean(&values);
                    (value - half, value + half)
                }
            }));
        }
    }
    let (mean, half) = of_mean(scored.losses);
    found.push(Interval { name: Metric::Loss.name(), value: mean, low: mean - half, high: mean + half });
    Ok(found)
}

/// Wilson's interval of a share of `n`.
fn wilson(share: f64, n: usize) -> (f64, f64) {
    let (n, z2) = (n.max(1) as f64, TWO_SIDED * TWO_SIDED);
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = TWO_SIDED / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    (centre - half, centre + half)
}

fn bootstrap(metric: &Metric, scored: &Scored, value: f64) -> (f64, f64) {
    let n = scored.losses.len();
    let resamples = (BOOTSTRAP_WORK / (n * scored.width()).max(1)).clamp(RESAMPLES.0, RESAMPLES.1);
    let mut rng = generator(0, &[5]);
    let mut values: Vec<f64> = (0..resamples)
        .filter_map(|_| {
            let rows: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
            // A resample without one of the classes says nothing.
            metric.value(scored, &rows).ok()
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len().saturating_sub(1)) as f64 * share).round() as usize).copied();
    (at(0.025).unwrap_or(value), at(0.975).unwrap_or(value))
}

/// A mean and half the width of its interval.
fn of_mean(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, TWO_SIDED * (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use dendrite_onnx::Tensor;

    use super::{super::Truth, *};

    #[test]
    fn shares_have_wilsons_interval() {
        // 8 of 10: 0.490 to 0.943 (Newcombe 1998, method 3).
        let (low, high) = wilson(0.8, 10);
        assert!((low - 0.4902).abs() < 1e-3 && (high - 0.9433).abs() < 1e-3, "{low} {high}");
    }

    #[test]
    fn the_bootstrap_is_seeded_and_holds_the_estimate() -> Result<()> {
        let truth = Truth::of(&Tensor::from_i64(&[40], &(0..40).map(|i| i % 2).collect::<Vec<_>>()));
        let predictions: Vec<f32> =
            (0..40).flat_map(|i| [0.0, if i % 2 == 1 { 1.0 } else { -1.0 } + (i % 7) as f32 * 0.4 - 1.2]).collect();
        let scored = Scored {
            predictions: &predictions,
            shape: &[2],
            class_axis: 1,
            independent: false,
            truth: &truth,
            ignore: None,
            sequences: None,
            losses: &[0.5; 40],
            measured: &[],
            outputs: &[],
        };
        let found = intervals(&Metric::Auc, &scored)?;
        let again = intervals(&Metric::Auc, &scored)?;
        assert!(found[0].low < found[0].value && found[0].value < found[0].high && found[0].high <= 1.0, "{found:?}");
        assert_eq!(found[0].low, again[0].low);
        assert_eq!(found.len(), 2);
        Ok(())
    }
}
