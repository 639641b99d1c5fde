//! The paired test by which a cycle is kept.

use serde::Serialize;

use crate::{evaluate::Score, metric::Metric};

/// One-sided 5 % point of the normal distribution.
const CRITICAL: f64 = 1.645;

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
    let accepted = worthwhile && t > CRITICAL && !metric.worse(after.metric, before.metric);
    Verdict { gain, t, metric_change: after.metric - before.metric, accepted }
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
