//! What a run tells while it goes on.

use serde::Serialize;

use crate::{
    accept::Verdict,
    dendrite::SiteReport,
    neuron::{EpochReport, Trouble},
};

/// One event, as it stands in events.jsonl.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The input model was scored.
    Baseline {
        /// Its parameters.
        parameters: usize,
        /// Validation loss.
        val_loss: f64,
        /// What logits are divided by before the loss.
        temperature: f64,
        /// The metric's name.
        metric: String,
        /// Validation metric.
        val_metric: f64,
        /// The loss, as `--loss` names it.
        loss: String,
        /// What of the target decided for it, where anything else could be meant.
        #[serde(skip_serializing_if = "Option::is_none")]
        loss_reason: Option<&'static str>,
        /// The axis of the file's output that holds classes, where there are several to choose from.
        #[serde(skip_serializing_if = "Option::is_none")]
        class_axis: Option<usize>,
        /// Names of the classes in the order of the model's outputs, where the data name them.
        #[serde(skip_serializing_if = "Option::is_none")]
        classes: Option<Vec<String>>,
        /// The accuracy of always answering the most frequent class of the validation data.
        #[serde(skip_serializing_if = "Option::is_none")]
        most_frequent: Option<f64>,
    },
    /// A phase begins.
    PhaseStarted {
        /// `finetune`, `dendrite` or `neuron`.
        kind: String,
        /// The cycle; 0 is the fine-tune.
        cycle: usize,
        /// Attempt within the cycle, from 0.
        attempt: usize,
        /// Parameters of the model in this phase.
        parameters: usize,
        /// Epochs, at most.
        epochs: usize,
    },
    /// An epoch of a neuron phase.
    Epoch {
        /// The cycle.
        cycle: usize,
        /// Attempt within the cycle.
        attempt: usize,
        /// What was measured.
        #[serde(flatten)]
        report: EpochReport,
    },
    /// Validation has so few samples that its test hardly ever finds a gain; not logged.
    FewValidationSamples {
        /// How many.
        samples: usize,
    },
    /// The part of the network that nothing changes is computed over the data, once; not logged.
    FrozenPart {
        /// Samples of training and validation.
        samples: usize,
    },
    /// Batch normalisations use the statistics of the batch, and their stored ones follow; not logged.
    BatchNorm {
        /// Those of the model.
        nodes: usize,
        /// Those that train.
        trained: usize,
        /// Of these, those whose momentum of 1 is replaced by ONNX's default, 0.9.
        replaced: usize,
    },
    /// A control begins, and the events to come are its own; not logged.
    ControlStarted {
        /// Its name.
        control: &'static str,
        /// What is to be said of it.
        note: Option<String>,
    },
    /// A control cannot be run; not logged.
    ControlLeftOut {
        /// Its name.
        control: &'static str,
        /// Why not.
        reason: String,
    },
    /// A step is done; told while it goes on, and not logged.
    Progress {
        /// Steps done in this pass over the data.
        done: usize,
        /// Steps of a pass.
        steps: usize,
    },
    /// Candidates were trained for an epoch; told while it goes on, and not logged.
    Candidates {
        /// Epochs done, over all sets of the phase.
        done: usize,
        /// Epochs of the phase.
        epochs: usize,
    },
    /// The time that `--budget` gives ended a phase before it was done.
    BudgetSpent {
        /// The cycle.
        cycle: usize,
        /// Attempt within the cycle.
        attempt: usize,
        /// The phase: `finetune`, `dendrite` or `neuron`.
        kind: String,
        /// Epochs of the phase that were done.
        epochs: usize,
    },
    /// A step's loss or gradients were not finite.
    Trouble {
        /// The cycle.
        cycle: usize,
        /// Attempt within the cycle.
        attempt: usize,
        /// What was found.
        #[serde(flatten)]
        report: Trouble,
    },
    /// A site's candidates were trained and chosen.
    Site {
        /// The cycle.
        cycle: usize,
        /// Attempt within the cycle.
        attempt: usize,
        /// What was measured.
        #[serde(flatten)]
        report: SiteReport,
    },
    /// A cycle was tested against the best model so far.
    Verdict {
        /// The cycle.
        cycle: usize,
        /// Attempt within the cycle.
        attempt: usize,
        /// Validation metric of the candidate model.
        val_metric: f64,
        /// Validation loss of the candidate model.
        val_loss: f64,
        /// The test.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// The run ended.
    Finished {
        /// Cycles kept.
        kept_cycles: usize,
        /// Parameters of the result.
        parameters: usize,
    },
}
