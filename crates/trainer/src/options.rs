//! What a user can choose about a run, with the defaults.

use std::time::Duration;

use dendrite_data::{Augment, Preprocess};
use dendrites::Connection;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use crate::choices::{
    Activations, Also, BatchNorm, ClassWeights, Control, LossKind, Method, MetricKind, OptimizerKind, Time,
};

/// Every option of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Options {
    /// How dendrites learn.
    pub method: Method,
    /// Patterns of sites that take dendrites; all if empty.
    pub sites: Vec<String>,
    /// Patterns of sites that do not.
    pub exclude: Vec<String>,
    /// Dendrites a neuron, at most (`neuron` connection); cycles, at most (`layer` connection).
    pub dendrites: usize,
    /// The connection.
    pub connect: Connection,
    /// Dendrites a site and cycle in the `layer` connection: a number, or a fraction of the site's neurons if below 1.
    /// By default what the budget allows, or half the neurons.
    pub width: Option<f64>,
    /// Parameters the grown model may have; no limit by default.
    pub max_parameters: Option<usize>,
    /// Candidates a dendrite.
    pub pool: usize,
    /// Activations of candidates.
    pub activation: Activations,
    /// The loss.
    pub loss: LossKind,
    /// The metric.
    pub metric: MetricKind,
    /// Whether a metric given as a file is better when it is smaller.
    pub minimise: bool,
    /// The class number that marks positions without a target (-100 in PyTorch); none by default.
    pub ignore_index: Option<i64>,
    /// How much each class counts in the cross-entropy: one number a class, or `balanced` for the inverse of its share.
    pub class_weights: ClassWeights,
    /// The output to train; by default the first float output.
    pub output: Option<String>,
    /// Further outputs that train with it, each with a target and a loss of its own.
    pub also: Vec<Also>,
    /// The array of targets.
    pub target: String,
    /// The array of sample weights: how much each sample counts in training.
    pub weight: Option<String>,
    /// Arrays of inputs that are not called like them.
    pub map: Vec<(String, String)>,
    /// The axis that counts samples of inputs and outputs, by name, where it is another than can be told from the model.
    pub batch_axis: Vec<(String, usize)>,
    /// The axis of the output that holds classes, where it is another than can be told; below zero counted from the end.
    pub class_axis: Option<i64>,
    /// The class that stands for none in the connectionist temporal classification; below zero counted from the end.
    pub blank: i64,
    /// Whether a row of every array is a whole input of the model, which has no axis that counts samples.
    pub one_at_a_time: bool,
    /// Epochs of a neuron phase, at most.
    pub epochs: usize,
    /// Epochs of a dendrite phase.
    pub dendrite_epochs: usize,
    /// Samples a step; by default chosen by the number of samples.
    pub batch: Option<usize>,
    /// Samples of a pass: a step's batch is passed in pieces of so many. By default it is passed at once.
    pub micro_batch: Option<usize>,
    /// Whether the backward pass computes activations anew instead of keeping them all from the forward pass.
    pub recompute: bool,
    /// Whether samples are drawn in a new order every epoch.
    pub shuffle: bool,
    /// The learning rate at which a neuron phase starts; searched for by default.
    pub lr: Option<f64>,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// The share of each class target that training spreads evenly over all classes.
    pub label_smoothing: f64,
    /// Weight decay; by default the normalised decay of [`Options::decay_for`].
    pub weight_decay: Option<f64>,
    /// Largest norm of the gradient; no clipping by default.
    pub clip_norm: Option<f64>,
    /// Epochs without improvement before the learning rate drops.
    pub patience: usize,
    /// Attempts at a cycle before growth stops.
    pub tries: usize,
    /// Which weights train: `all`, `sites`, `head`, `dendrites` or a pattern.
    pub train: String,
    /// Which statistics batch normalisation uses in neuron phases; scores are always by the stored ones.
    pub batch_norm: BatchNorm,
    /// Whether a neuron phase without dendrites comes first.
    pub finetune_first: bool,
    /// The seed of everything random.
    pub seed: u64,
    /// Threads; all cores by default.
    pub threads: Option<usize>,
    /// How long training may take; no limit by default. A run under a budget is not repeated to the byte.
    pub budget: Option<Time>,
    /// How long training goes on between two checkpoints; 0 writes one after every step.
    pub checkpoint_every: Time,
    /// What the result is held against, after the run.
    pub controls: Vec<Control>,
    /// Hold every connection at zero: a control, not a way to grow.
    pub sham: bool,
    /// How images become inputs.
    pub preprocess: Preprocess,
    /// Random changes of training data.
    pub augment: Augment,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            method: Method::Hybrid,
            sites: Vec::new(),
            exclude: Vec::new(),
            dendrites: 3,
            connect: Connection::Neuron,
            width: None,
            max_parameters: None,
            pool: 8,
            activation: Activations::Relu,
            loss: LossKind::Auto,
            metric: MetricKind::Auto,
            minimise: false,
            ignore_index: None,
            class_weights: ClassWeights::Equal,
            output: None,
            also: Vec::new(),
            target: "target".to_owned(),
            weight: None,
            map: Vec::new(),
            batch_axis: Vec::new(),
            class_axis: None,
            blank: 0,
            one_at_a_time: false,
            epochs: 200,
            dendrite_epochs: 10,
            batch: None,
            micro_batch: None,
            recompute: false,
            shuffle: true,
            lr: None,
            optimizer: OptimizerKind::AdamW,
            label_smoothing: 0.0,
            weight_decay: None,
            clip_norm: None,
            patience: 10,
            tries: 2,
            train: "all".to_owned(),
            batch_norm: BatchNorm::Frozen,
            finetune_first: true,
            seed: 0,
            threads: None,
            budget: None,
            checkpoint_every: Time(Duration::from_secs(10)),
            controls: Vec::new(),
            sham: false,
            preprocess: Preprocess::default(),
            augment: Augment::default(),
        }
    }
}

impl Options {
    /// Whether every number is one that a run can work with.
    pub fn check(&self) -> Result<()> {
        self.check_train()?;
        let counts = [
            ("epochs", Some(self.epochs)),
            ("pool", Some(self.pool)),
            ("patience", Some(self.patience)),
            ("tries", Some(self.tries)),
            ("batch", self.batch),
            ("micro-batch", self.micro_batch),
            ("threads", self.threads),
        ];
        let above = [("lr", self.lr), ("width", self.width), ("clip-norm", self.clip_norm)];
        let finite = |n: Option<f64>| n.is_none_or(|n| n.is_finite() && n >= 0.0);
        let (name, value, takes) = if let Some((name, _)) = counts.iter().find(|(_, n)| *n == Some(0)) {
            (*name, "0".to_owned(), "a whole number of 1 or more")
        } else if let Some((name, n)) = above.iter().find(|(_, n)| !finite(*n) || *n == Some(0.0)) {
            (*name, n.unwrap_or_default().to_string(), "a number above 0")
        } else if self.budget.is_some_and(|budget| budget.0.is_zero()) {
            ("budget", "0s".to_owned(), "a time above 0")
        } else if let Some(also) = self.also.iter().find(|a| !finite(Some(a.weight)) || a.weight == 0.0) {
            ("also.weight", also.weight.to_string(), "a number above 0")
        } else if !(0.0..1.0).contains(&self.label_smoothing) {
            ("label-smoothing", self.label_smoothing.to_string(), "a number from 0 to below 1")
        } else if !finite(self.weight_decay) {
            ("weight-decay", self.weight_decay.unwrap_or_default().to_string(), "a number of at least 0")
        } else {
            return Ok(());
        };
        Err(Error::Option { reason: format!("{name} is {value}"), hint: format!("{name} takes {takes}") })
    }

    /// `train` selects weights. In a file of options it looks like the place of the training data.
    fn check_train(&self) -> Result<()> {
        let data = ["npz", "npy", "csv", "tsv", "parquet", "safetensors"];
        let extension = std::path::Path::new(&self.train).extension().and_then(|e| e.to_str());
        if !extension.is_some_and(|e| data.contains(&e)) {
            return Ok(());
        }
        Err(Error::Option {
            reason: format!("train is '{}', which names data, and train selects weights", self.train),
            hint:
                "data are given on the command line, as --train DATA; the key train, like --train-weights, takes all, \
                   sites, head, dendrites or a pattern of weight names"
                    .to_owned(),
        })
    }

    /// The batch for `samples` training samples: as asked, else about a hundredth of them within 16 and 128.
    pub fn batch_for(&self, samples: usize) -> usize {
        let chosen = self.batch.unwrap_or_else(|| (samples / 100).next_power_of_two().clamp(16, 128));
        chosen.min(samples.max(1))
    }

    /// Samples of a pass for `samples` training samples: the batch, or a piece of it.
    pub fn pass_for(&self, samples: usize) -> usize {
        self.micro_batch.map_or(usize::MAX, |n| n.max(1)).min(self.batch_for(samples))
    }

    /// Whether a batch is passed in pieces.
    pub fn divides(&self, samples: usize) -> bool {
        self.pass_for(samples) < self.batch_for(samples)
    }

    /// Samples that are scored at once, for `samples` training samples. Scoring one takes a part of the memory of training it, so
    /// where that is to be little, more are scored than trained at once only if batches are divided.
    pub fn scored_for(&self, samples: usize) -> usize {
        let batch = self.batch_for(samples);
        if self.divides(samples) {
            (4 * self.pass_for(samples)).min(batch.max(64))
        } else if self.recompute {
            batch
        } else {
            batch.max(64)
        }
    }

    /// Epochs for which candidates train: none under [`Method::Gd`], which draws dendrites at random.
    pub fn candidate_epochs(&self) -> usize {
        if self.method == Method::Gd { 0 } else { self.dendrite_epochs }
    }

    /// The weight decay for `samples` training samples. By default it grows as steps an epoch get fewer, lambda =
    /// 1.2 sqrt(batch / samples), the normalisation of Loshchilov & Hutter (arXiv:1711.05101, appendix B.1): small data
    /// sets need it and large ones do not. Adam without decoupled decay has none unless asked.
    pub fn decay_for(&self, samples: usize) -> f64 {
        let normalised = match self.optimizer {
            OptimizerKind::AdamW => NORMALISED_DECAY * (self.batch_for(samples) as f64 / samples.max(1) as f64).sqrt(),
            OptimizerKind::Adam | OptimizerKind::Sgd => 0.0,
        };
        self.weight_decay.unwrap_or(normalised)
    }
}

/// The normalised weight decay of AdamW.
const NORMALISED_DECAY: f64 = 1.2;
