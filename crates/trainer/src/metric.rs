//! Metrics: what a score is reported and accepted by.

use dendrite_onnx::Tensor;
use serde::{Deserialize, Serialize};

/// A metric of predictions against targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Share of samples whose largest score is the target class (of soft targets: their largest entry).
    Accuracy,
    /// Mean absolute error.
    Mae,
    /// Root of the mean squared error.
    Rmse,
    /// The mean loss.
    Loss,
}

impl Metric {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::Mae => "mae",
            Metric::Rmse => "rmse",
            Metric::Loss => "loss",
        }
    }

    /// Whether larger is better.
    pub fn maximise(self) -> bool {
        self == Metric::Accuracy
    }

    /// Whether `a` is worse than `b`.
    pub fn worse(self, a: f64, b: f64) -> bool {
        if self.maximise() { a < b } else { a > b }
    }

    /// The value over samples whose predictions are the rows of `predictions` (rows x width).
    pub fn value(self, predictions: &[f32], width: usize, target: &Tensor, losses: &[f64]) -> f64 {
        let rows = losses.len().max(1) as f64;
        match self {
            Metric::Loss => losses.iter().sum::<f64>() / rows,
            Metric::Accuracy => {
                let classes = target_classes(target, width);
                let hits = predictions
                    .chunks_exact(width.max(1))
                    .zip(classes)
                    .filter(|(row, class)| argmax(row) == *class)
                    .count();
                hits as f64 / rows
            }
            Metric::Mae | Metric::Rmse => {
                let target = target.to_f32().unwrap_or_default();
                let errors = predictions.iter().zip(&target).map(|(p, t)| f64::from(p - t));
                let count = predictions.len().max(1) as f64;
                if self == Metric::Mae {
                    errors.map(f64::abs).sum::<f64>() / count
                } else {
                    (errors.map(|e| e * e).sum::<f64>() / count).sqrt()
                }
            }
        }
    }
}

/// The class of every sample: integers as they are, soft targets by their largest entry.
fn target_classes(target: &Tensor, width: usize) -> Vec<usize> {
    match target.to_i64().filter(|_| !target.element_type().is_float()) {
        Some(classes) => classes.iter().map(|c| usize::try_from(*c).unwrap_or(usize::MAX)).collect(),
        None => target.to_f32().unwrap_or_default().chunks_exact(width.max(1)).map(argmax).collect(),
    }
}

/// The position of the largest element, the first of equals.
fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] {
            best = i;
        }
    }
    best
}
