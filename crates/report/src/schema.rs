//! The files of a run folder, as far as this crate reads them; docs/run-folder.md describes them whole. Fields that are not
//! known are passed over, and numbers that are none (JSON has no infinity) are `null`, so that folders of earlier and later
//! versions can be read.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Metric and loss by name.
pub(crate) type Scores = BTreeMap<String, Option<f64>>;

/// summary.json.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) tool: String,
    pub(crate) seed: u64,
    pub(crate) method: String,
    pub(crate) device: String,
    /// `frozen` or `train`, in models that have a batch normalisation.
    #[serde(default)]
    pub(crate) batch_norm: Option<String>,
    pub(crate) before: Side,
    pub(crate) after: Side,
    /// Models trained for comparison, by name.
    #[serde(default)]
    pub(crate) controls: BTreeMap<String, Side>,
    /// What is to be said of controls, by name.
    #[serde(default)]
    pub(crate) control_notes: BTreeMap<String, String>,
    pub(crate) kept_dendrites: usize,
    pub(crate) parity: Parity,
    pub(crate) phases: Vec<Phase>,
    pub(crate) seconds: f64,
}

/// One model's facts.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Side {
    pub(crate) parameters: Option<u64>,
    #[serde(default)]
    pub(crate) macs: Option<u64>,
    pub(crate) val: Option<Scores>,
    pub(crate) test: Option<Scores>,
}

/// Largest relative differences between the exported file and what was trained.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Parity {
    pub(crate) ort: Option<f64>,
    /// The first with the runtime's optimisations off, and how far they bring the input model from itself: where it is much.
    #[serde(default)]
    pub(crate) ort_unoptimised: Option<f64>,
    #[serde(default)]
    pub(crate) input_optimised: Option<f64>,
    pub(crate) tract: Option<f64>,
    /// Why tract did not run the file.
    #[serde(default)]
    pub(crate) tract_reason: Option<String>,
}

/// A finished phase.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Phase {
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) turn: Turn,
    pub(crate) epochs: usize,
    pub(crate) val_loss: Option<f64>,
    pub(crate) val_metric: Option<f64>,
    pub(crate) kept: bool,
    pub(crate) t: Option<f64>,
    /// Whether the budget ended it before it was done; not told where it did not.
    #[serde(default)]
    pub(crate) cut: bool,
}

/// Cycle and attempt: what an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Turn {
    pub(crate) cycle: usize,
    pub(crate) attempt: usize,
}

/// A line of events.jsonl.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Baseline(Baseline),
    PhaseStarted(PhaseStarted),
    Epoch(Epoch),
    Site(Site),
    Verdict(Verdict),
    Finished {},
    #[serde(other)]
    Other,
}

/// The scores of the input model.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Baseline {
    pub(crate) val_loss: Option<f64>,
    pub(crate) temperature: Option<f64>,
    pub(crate) metric: String,
    pub(crate) val_metric: Option<f64>,
}

/// A phase begins.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PhaseStarted {
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) turn: Turn,
    pub(crate) parameters: u64,
}

/// An epoch of a neuron phase.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Epoch {
    #[serde(flatten)]
    pub(crate) turn: Turn,
    pub(crate) epoch: usize,
    pub(crate) lr: Option<f64>,
    pub(crate) train_loss: Option<f64>,
    #[serde(default)]
    pub(crate) gradient_norm: Option<f64>,
    pub(crate) val_loss: Option<f64>,
    pub(crate) val_metric: Option<f64>,
}

/// A site's candidates were trained and chosen.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Site {
    #[serde(flatten)]
    pub(crate) turn: Turn,
    pub(crate) site: String,
    /// Parameters that the set adds; not told by early versions.
    #[serde(default)]
    pub(crate) parameters: Option<u64>,
    pub(crate) activation: String,
    pub(crate) initial: Option<f64>,
    pub(crate) trained: Option<f64>,
    pub(crate) samples: u64,
}

/// A cycle was tested against the best model so far.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Verdict {
    #[serde(flatten)]
    pub(crate) turn: Turn,
    pub(crate) val_loss: Option<f64>,
    pub(crate) val_metric: Option<f64>,
    pub(crate) t: Option<f64>,
    pub(crate) accepted: bool,
}

/// plan.toml.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Plan {
    pub(crate) connect: String,
    pub(crate) cycles: usize,
    #[serde(rename = "site", default)]
    pub(crate) sites: Vec<PlannedSite>,
}

/// What grows at one site.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PlannedSite {
    pub(crate) name: String,
    pub(crate) dendrites: usize,
}
