//! Checkpoints: everything that decides how a run goes on, in one file that is replaced atomically.
//!
//! Tensors are stored as safetensors, the rest as JSON in the file's metadata. Random numbers derive from the seed and the
//! place in the run, so no generator's state is needed; a run resumed from any checkpoint ends in the same bytes as the
//! undisturbed one (on the CPU).

use std::{collections::HashMap, fs, path::Path};

use dendrite_onnx::{ElementType, Tensor, file::write_bytes};
use dendrites::DendriteSet;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    accept::Verdict,
    error::{Error, Result},
    network::Growth,
    origin::Origin,
    schedule::{Progress, Turn},
    summary,
};

/// Where a run stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Position {
    /// The cycle and the attempt.
    pub turn: Turn,
    /// Sets of the growth under trial; the first `kept_sets` belong to the best model.
    pub sets: Vec<DendriteSet>,
    /// Sets of the best model.
    pub best_sets: Vec<DendriteSet>,
    /// The neuron phase under way.
    pub neuron: Option<Progress>,
    /// What the run has told so far, for the summary.
    pub phases: Vec<PhaseSummary>,
    /// Bytes of each log that this checkpoint stands for; what lies beyond is cut off on resume.
    pub log_lengths: Vec<(String, u64)>,
    /// Seconds spent.
    pub seconds: f64,
}

/// One finished phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// `finetune`, `dendrite` or `neuron`.
    pub kind: String,
    /// The cycle.
    pub cycle: usize,
    /// The attempt.
    pub attempt: usize,
    /// Epochs.
    pub epochs: usize,
    /// Validation loss of the phase's best weights.
    #[serde(deserialize_with = "summary::number")]
    pub val_loss: f64,
    /// Validation metric of the phase's best weights.
    #[serde(deserialize_with = "summary::number")]
    pub val_metric: f64,
    /// Whether the model at the phase's end became the best one.
    pub kept: bool,
    /// The gain in standard errors, where a test was made.
    pub t: Option<f64>,
    /// Whether the budget ended it before it was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl PhaseSummary {
    /// Record what the test said.
    pub fn judged(mut self, verdict: &Verdict) -> Self {
        self.kept = verdict.accepted;
        self.t = Some(verdict.t).filter(|t| t.is_finite());
        self
    }
}

/// A checkpoint in memory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What the run was started with.
    pub origin: Origin,
    /// The place.
    pub position: Position,
    /// Weights of the best model.
    pub best: Growth,
    /// Weights under trial at the start of the neuron phase.
    pub trial: Growth,
    /// State of the neuron phase, and its best state.
    pub state: Vec<Tensor>,
    /// The phase's best state.
    pub phase_best: Vec<Tensor>,
}

/// SHA-256 as hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const STATE: &str = "state";
const ORIGIN: &str = "origin";

impl Checkpoint {
    /// Write to `path`, replacing what is there.
    pub fn write(&self, path: &Path) -> Result<()> {
        let fail = |e: String| Error::Checkpoint {
            path: path.to_owned(),
            reason: format!("the checkpoint could not be written: {e}"),
            hint: "report this".to_owned(),
        };
        let mut tensors: Vec<(String, &Tensor)> = Vec::new();
        for (group, growth) in [("best", &self.best), ("trial", &self.trial)] {
            tensors.extend(growth.weights.iter().map(|(name, t)| (format!("{group}/{name}"), t)));
        }
        for (group, state) in [("state", &self.state), ("phase_best", &self.phase_best)] {
            tensors.extend(state.iter().enumerate().map(|(i, t)| (format!("{group}/{i}"), t)));
        }
        let views = tensors
            .iter()
            .map(|(name, t)| {
                let view = TensorView::new(Dtype::F32, t.shape().to_vec(), t.bytes());
                view.map(|v| (name.as_str(), v)).map_err(|e| fail(e.to_string()))
            })
            .collect::<Result<Vec<_>>>()?;
        let position = serde_json::to_string(&self.position).map_err(|e| fail(e.to_string()))?;
        let origin = serde_json::to_string(&self.origin).map_err(|e| fail(e.to_string()))?;
        let metadata = HashMap::from([(STATE.to_owned(), position), (ORIGIN.to_owned(), origin)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(e.to_string()))?;
        Ok(write_bytes(path, &bytes)?)
    }

    /// Read `path` and verify that it belongs to `origin`.
    pub fn read(path: &Path, origin: &Origin) -> Result<Self> {
        let fail =
            |reason: String, hint: &str| Error::Checkpoint { path: path.to_owned(), reason, hint: hint.to_owned() };
        let damaged = |e: String| fail(format!("damaged checkpoint: {e}"), "start the run anew in another folder");
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
        let written: Origin = serde_json::from_str(entry(ORIGIN)).map_err(|e| damaged(e.to_string()))?;
        if let Some(difference) = written.difference(origin) {
            return Err(fail(
                difference,
                "resume with the arguments of the interrupted run (its config.toml has the options), or start anew in another folder",
            ));
        }
        let position: Position = serde_json::from_str(entry(STATE)).map_err(|e| damaged(e.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let mut best = Growth { sets: position.best_sets.clone(), ..Default::default() };
        let mut trial = Growth { sets: position.sets.clone(), ..Default::default() };
        let (mut state, mut phase_best) = (Vec::new(), Vec::new());
        for (name, view) in file.iter() {
            let tensor = Tensor::new(ElementType::Float, view.shape().to_vec(), view.data().to_vec())
                .map_err(|e| damaged(e.to_string()))?;
            match name.split_once('/') {
                Some(("best", rest)) => drop(best.weights.insert(rest.to_owned(), tensor)),
                Some(("trial", rest)) => drop(trial.weights.insert(rest.to_owned(), tensor)),
                Some(("state", rest)) => state.push((rest.to_owned(), tensor)),
                Some(("phase_best", rest)) => phase_best.push((rest.to_owned(), tensor)),
                _ => return Err(damaged(format!("unknown tensor '{name}'"))),
            }
        }
        Ok(Checkpoint {
            origin: written,
            position,
            best,
            trial,
            state: in_order(state),
            phase_best: in_order(phase_best),
        })
    }
}

fn in_order(mut numbered: Vec<(String, Tensor)>) -> Vec<Tensor> {
    numbered.sort_by_key(|(number, _)| number.parse::<usize>().unwrap_or(usize::MAX));
    numbered.into_iter().map(|(_, tensor)| tensor).collect()
}
