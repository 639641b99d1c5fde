//! The paired test by which a cycle is kept.

use serde::Serialize;

use crate::{evaluate::Score, metric::Metric};

/// One-sided 5 % point of the normal distribution: the standard errors that a gain has to exceed.
pub const CRITICAL: f64 = 1.645;

/// The least gain, as a share of the loss before: less would be certain on enough samples, and still of no use to anyone.
const LEAST_GAIN: f64 = 1e-4;

/// What the test found.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Verdict {
    /// Mean over samples of (loss before - loss after); positive is better.
    pub gain: f64,
    /// The gain in standard errors.
    pub t: f64,
    /// Metric after minus metric before.
    pub metric_change: f64,
    /// Whether the loss gain is significant, large enough to be of use, and the metric no worse.
    pub accepted: bool,
    /// Why it was not accepted; told as it happens, and not logged: the numbers say it.
    #[serde(skip)]
    pub refusal: Option<Refusal>,
}

/// Why a cycle is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The metric is worse.
    Metric,
    /// The gain may be chance.
    Uncertain,
    /// The gain is no chance, and too small to be of use.
    Small,
    /// The loss that users know is higher than the input's.
    Reported,
}

/// Test `after` against `before` on the same samples: the per-sample losses are paired, so what makes a sample hard cancels.
/// A metric that is saturated on a small set cannot show a gain, but it may not fall either.
pub fn paired_test(metric: &Metric, before: &Score, after: &Score) -> Verdict {
    let n = before.per_sample.len().max(1) as f64;
    let differences = || before.per_sample.iter().zip(&after.per_sample).map(|(b, a)| b - a);
    let gain = differences().sum::<f64>() / n;
    let variance = differences().map(|d| (d - gain).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let error = (variance / n).sqrt();
    // Equal differences on every sample have no error: any gain is then certain.
    let t = if error > 0.0 { gain / error } else { gain.signum() * if gain == 0.0 { 0.0 } else { f64::INFINITY } };
    let worthwhile = gain > LEAST_GAIN * before.loss.abs();
    let refusal = if metric.worse(after.metric, before.metric) {
        Some(Refusal::Metric)
    } else if t.is_nan() || t <= CRITICAL {
        Some(Refusal::Uncertain)
    } else if !worthwhile {
        Some(Refusal::Small)
    } else {
        None
    };
    Verdict { gain, t, metric_change: after.metric - before.metric, accepted: refusal.is_none(), refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(per_sample: &[f64], metric: f64) -> Score {
        Score {
            loss: per_sample.iter().sum::<f64>() / per_sample.len() as f64,
            metric,
            per_sample: per_sample.to_vec(),
            ..Score::default()
        }
    }

    #[test]
    fn a_consistent_gain_is_accepted_and_a_noisy_one_is_not() {
        let before = score(&[1.0, 2.0, 3.0, 4.0], 0.5);
        assert!(paired_test(&Metric::Accuracy, &before, &score(&[0.9, 1.9, 2.8, 3.9], 0.5)).accepted);
        assert!(!paired_test(&Metric::Accuracy, &before, &score(&[0.1, 2.5, 3.6, 3.7], 0.5)).accepted);
        assert!(!paired_test(&Metric::Accuracy, &before, &before).accepted);
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let before = score(&[1.0, 2.0, 3.0, 4.0], 0.5);
        let refusal =
            |per_sample: &[f64], metric| paired_test(&Metric::Accuracy, &before, &score(per_sample, metric)).refusal;
        assert_eq!(refusal(&[0.9, 1.9, 2.8, 3.9], 0.49), Some(Refusal::Metric));
        assert_eq!(refusal(&[0.1, 2.5, 3.6, 3.7], 0.5), Some(Refusal::Uncertain));
        assert_eq!(refusal(&[f64::NAN, 1.0, 1.0, 1.0], 0.5), Some(Refusal::Uncertain));
        assert_eq!(refusal(&[1.0 - 1e-6, 2.0 - 2e-6, 3.0 - 1e-6, 4.0 - 1e-6], 0.5), Some(Refusal::Small));
        assert_eq!(refusal(&[0.9, 1.9, 2.8, 3.9], 0.5), None);
    }

    #[test]
    fn a_lower_metric_is_never_accepted() {
        let before = score(&[1.0, 2.0, 3.0, 4.0], 0.5);
        let better_loss = [0.9, 1.9, 2.8, 3.9];
        assert!(!paired_test(&Metric::Accuracy, &before, &score(&better_loss, 0.49)).accepted);
        // Of a metric that is minimised, negative values included, higher is worse.
        let before = score(&[1.0, 2.0, 3.0, 4.0], -3.0);
        assert!(paired_test(&Metric::Loss, &before, &score(&better_loss, -3.5)).accepted);
        assert!(!paired_test(&Metric::Loss, &before, &score(&better_loss, -2.5)).accepted);
    }
}
