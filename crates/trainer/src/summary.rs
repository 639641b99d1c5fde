//! summary.json: the facts of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{checkpoint::PhaseSummary, evaluate::Score, metric::Metric};

/// The facts of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The version of this form.
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The seed.
    pub seed: u64,
    /// The method.
    pub method: String,
    /// Where the run was computed.
    pub device: String,
    /// Which statistics batch normalisation trained by, `frozen` (the stored ones) or `train`; not there in a model without
    /// any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_norm: Option<String>,
    /// The input model.
    pub before: Side,
    /// The result.
    pub after: Side,
    /// Dendrites a neuron that were kept (`layer`: dendrites at the site that has most).
    pub kept_dendrites: usize,
    /// What the result is held against, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub controls: BTreeMap<String, Side>,
    /// What is to be said of a control, by name: which layers were widened, or why it was not run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub control_notes: BTreeMap<String, String>,
    /// How far the exported file is from the evaluation session.
    pub parity: Parity,
    /// The phases in order.
    pub phases: Vec<PhaseSummary>,
    /// Wall time, resumed parts included.
    pub seconds: f64,
}

impl Summary {
    /// Whether the result beats the input on validation.
    pub fn improved(&self) -> bool {
        improved(&self.phases)
    }
}

/// Whether any of `phases` was kept, and with it a model that beats the input.
pub fn improved(phases: &[PhaseSummary]) -> bool {
    phases.iter().any(|p| p.kept)
}

/// One model's facts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Side {
    /// Parameters.
    pub parameters: usize,
    /// Multiply-accumulates of one sample; `null` where a shape is unknown.
    pub macs: Option<u64>,
    /// Scores on validation.
    pub val: Scores,
    /// Scores on the test data, if there are any.
    pub test: Option<Scores>,
}

/// Metric and loss by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(#[serde(deserialize_with = "scores")] pub BTreeMap<String, f64>);

impl Scores {
    /// The scores to report; `loss` as users know it, whatever trained.
    pub fn new(metric: &Metric, score: &Score, loss: f64) -> Self {
        let value = if metric.is_loss() { loss } else { score.metric };
        Scores(BTreeMap::from([("loss".to_owned(), loss), (metric.name(), value)]))
    }

    /// The metric that is not the loss, where there is one.
    pub fn headline(&self) -> Option<(&str, f64)> {
        self.0.iter().find(|(name, _)| *name != "loss").or(self.0.iter().next()).map(|(n, v)| (n.as_str(), *v))
    }
}

/// The relative difference up to which two ways of computing the same count as equal.
pub const TOLERANCE: f64 = 1e-5;

/// Largest relative differences between the exported file and the evaluation session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parity {
    /// In ONNX Runtime.
    #[serde(deserialize_with = "number")]
    pub ort: f64,
    /// The same with ONNX Runtime's optimisations off, where with them it is more than [`TOLERANCE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ort_unoptimised: Option<f64>,
    /// How far the optimisations bring the input model from itself; only then, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_optimised: Option<f64>,
    /// In tract; `null` if it did not run the file.
    pub tract: Option<f64>,
    /// Why tract did not run the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tract_reason: Option<String>,
}

/// A number. JSON has no infinity and no NaN: they are written as `null`, and read as NaN.
pub(crate) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Two numbers, if they are there.
pub(crate) fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(f64, f64)>, D::Error> {
    let found = Option::<(Option<f64>, Option<f64>)>::deserialize(from)?;
    Ok(found.map(|(a, b)| (a.unwrap_or(f64::NAN), b.unwrap_or(f64::NAN))))
}

/// Numbers by name.
fn scores<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let found = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(found.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_as_they_were_and_those_json_does_not_have_as_nan() -> Result<(), serde_json::Error> {
        // The second is read with another last bit by a parser that does not care.
        for value in [0.1, 1.0 / 71.0, f64::INFINITY, f64::NAN, f64::MIN_POSITIVE] {
            let written = Scores(BTreeMap::from([("loss".to_owned(), value)]));
            let read: Scores = serde_json::from_str(&serde_json::to_string(&written)?)?;
            let expected = if value.is_finite() { value } else { f64::NAN };
            assert_eq!(read.0["loss"].to_bits(), expected.to_bits());
        }
        Ok(())
    }
}
