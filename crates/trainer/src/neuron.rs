//! The neuron phase: gradient descent on the main weights and the dendrites' connections (and, unless frozen, the
//! dendrites), as one graph per step.
//!
//! Schedule: the learning rate is searched for once a phase, in short annealed trials from the same start; then
//! training goes on until validation stalls for `patience` epochs, the best weights are reloaded and the rate drops, until it
//! has dropped [`crate::schedule::DROPS`] times.

use std::collections::{BTreeSet, HashSet};

use dendrite_autodiff::{
    gradients, optimizer,
    optimizer::{Algorithm, Optimizer},
};
use dendrite_onnx::{ElementType, Tensor, ValueId};
use dendrite_runtime::{Loop, Session, StateSlot};
use dendrites::{
    Weights,
    fragment::{Reading, stop_value},
    trainable,
};
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::{
    data::Samples,
    error::{Error, Result},
    evaluate::{Evaluator, Score, batch_shape, write_rows},
    metric::Metric,
    network::{Growth, Network},
    objective::Context,
    options::{Method, OptimizerKind, Options},
    random::generator,
    schedule::{Progress, Rules},
};

/// Epochs of a learning-rate trial.
const TRIAL_EPOCHS: usize = 4;
/// Where the orders of trials are counted from, apart from those of epochs.
const TRIAL_ORDER: u64 = 1 << 32;
/// Learning rates tried for Adam and AdamW, from high to low.
const ADAM_RATES: [f64; 5] = [3e-2, 1e-2, 3e-3, 1e-3, 3e-4];
/// Learning rates tried for SGD.
const SGD_RATES: [f64; 5] = [3e-1, 1e-1, 3e-2, 1e-2, 3e-3];

/// The names of the weights that train in a neuron phase: those of the model that `--train` selects, every connection, and
/// the dendrites' own unless the method freezes them.
pub fn trained_names(network: &Network, growth: &Growth, options: &Options) -> Result<Vec<String>> {
    let train: trainable::Train = match options.train.parse() {
        Ok(train) => train,
        Err(never) => match never {},
    };
    let main = trainable::trained(&network.graph, &network.sites, &train)?;
    let mut names: Vec<String> = main.into_iter().map(|v| network.graph.name_of(v).to_owned()).collect();
    for set in &growth.sets {
        let Some(site) = network.site(&set.site) else { continue };
        let own = [set.path("weight"), set.path("bias")];
        let connection = set.path("connection");
        for (name, _) in set.tensors(site, &growth.sets) {
            let frozen = options.method == Method::Pb && own.contains(&name);
            if !frozen && !(options.sham && name == connection) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// One training step as a session, its state on the device.
pub struct Trainer {
    step: Loop,
    /// The names of the weights: the state's first tensors, moments follow.
    names: Vec<String>,
    initial: Vec<Tensor>,
    batch: usize,
    target: String,
    weight: String,
    learning_rate: String,
    count: String,
}

const MEAN: &str = "training/loss";

impl Trainer {
    /// Build the training session of a grown network.
    pub fn new(context: Context, growth: &Growth, names: &[String]) -> Result<Self> {
        let Context { network, objective, samples, options, session } = context;
        let batch = options.batch_for(samples.len());
        let perforated = options.method == Method::Pb;
        let reading = if perforated { Reading::Perforated } else { Reading::Direct };
        let mut graph = network.grown(growth, reading)?;
        let shapes: Vec<(String, Vec<usize>)> =
            samples.fields().iter().map(|(name, array)| (name.clone(), batch_shape(array, batch))).collect();
        Network::bind_shapes(&mut graph, &shapes)?;
        let stops: HashSet<ValueId> = if perforated {
            network.sites.iter().filter_map(|s| graph.find(&stop_value(&s.name))).collect()
        } else {
            HashSet::new()
        };
        let trained: Vec<ValueId> = names.iter().filter_map(|n| graph.find(n)).collect();
        let mut start = Vec::new();
        for id in &trained {
            start.extend(graph.constant_to_input(*id));
        }
        let target = samples.target().ok_or_else(|| samples.error("it holds no target".to_owned(), "say --target"))?;
        let values = objective.attach(&mut graph, network.prediction)?;
        let found = gradients(&mut graph, values.mean, &trained, &stops)?;
        let (mut kept, mut pairs) = (Vec::new(), Vec::new());
        for ((weight, initial), gradient) in trained.into_iter().zip(start).zip(found) {
            match gradient {
                Some(gradient) => {
                    pairs.push((weight, gradient));
                    kept.push((graph.name_of(weight).to_owned(), initial));
                }
                // What the loss does not depend on stays a constant.
                None => {
                    graph.inputs.retain(|v| *v != weight);
                    graph.set_constant(weight, initial);
                }
            }
        }
        if kept.is_empty() {
            return Err(Error::Option {
                reason: "nothing trains: the loss depends on no selected weight".to_owned(),
                hint: "select weights with --train-weights, or another output with --output".to_owned(),
            });
        }
        let attached = optimizer::attach(&mut graph, &optimizer_of(options, samples.len()), &pairs)?;
        let mean = graph.op("Identity", MEAN, &[values.mean], Default::default());
        let mut state = Vec::new();
        for ((name, initial), updated) in kept.iter().zip(&attached.updated) {
            let output = graph.name_of(*updated).to_owned();
            state.push(StateSlot { input: name.clone(), output, initial: initial.clone() });
        }
        for (input, output, shape) in &attached.state {
            let dims = shape.as_known().unwrap_or_default();
            state.push(StateSlot {
                input: graph.name_of(*input).to_owned(),
                output: graph.name_of(*output).to_owned(),
                initial: Tensor::filled(ElementType::Float, &dims, 0.0),
            });
        }
        graph.outputs = vec![mean];
        graph.outputs.extend(&attached.updated);
        graph.outputs.extend(attached.state.iter().map(|(_, output, _)| *output));
        graph.prune();
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let (target_name, weight) = (name(values.target), name(values.weight));
        let (learning_rate, count) = (name(attached.learning_rate), name(attached.step));
        let mut feeds: Vec<(String, ElementType, Vec<usize>)> = samples
            .fields()
            .iter()
            .map(|(name, array)| (name.clone(), array.element_type(), batch_shape(array, batch)))
            .collect();
        feeds.push((target_name.clone(), target.element_type(), batch_shape(target, batch)));
        feeds.push((weight.clone(), ElementType::Float, vec![batch]));
        feeds.push((learning_rate.clone(), ElementType::Float, vec![]));
        feeds.push((count.clone(), ElementType::Float, vec![]));
        let initial = state.iter().map(|s| s.initial.clone()).collect();
        let names = kept.into_iter().map(|(name, _)| name).collect();
        let step = Loop::new(
            Session::from_graph(&graph, session)?,
            state,
            &feeds,
            &[(MEAN.to_owned(), ElementType::Float, vec![])],
        )?;
        Ok(Trainer { step, names, initial, batch, target: target_name, weight, learning_rate, count })
    }

    /// The whole state, weights first.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        Ok(self.step.state()?)
    }

    /// Continue from `state`.
    pub fn set_state(&mut self, state: &[Tensor]) -> Result<()> {
        Ok(self.step.set_state(state)?)
    }

    /// The weights in a state, by name.
    pub fn weights(&self, state: &[Tensor]) -> Weights {
        self.names.iter().cloned().zip(state.iter().cloned()).collect()
    }

    /// The state at the start with other weights: moments zero.
    pub fn fresh_state(&self, weights_from: &[Tensor]) -> Vec<Tensor> {
        let mut state = self.initial.clone();
        let weights = self.names.len().min(weights_from.len());
        state[..weights].clone_from_slice(&weights_from[..weights]);
        state
    }

    /// One pass over `samples` in the order `order`; `steps` counts optimizer steps since its moments were zero. Returns
    /// the mean loss.
    pub fn epoch(&mut self, samples: &Samples, order: &[usize], lr: f64, steps: &mut u64) -> Result<f64> {
        let mut buffer = Vec::new();
        let (mut sum, mut seen) = (0.0, 0usize);
        let mut losses = Vec::new();
        self.step.write_f32(&self.learning_rate, &[lr as f32])?;
        for rows in order.chunks(self.batch) {
            let mut indices = rows.to_vec();
            indices.resize(self.batch, rows[0]);
            for (name, array) in samples.fields() {
                write_rows(&mut self.step, name, array, &indices, &mut buffer)?;
            }
            if let Some(target) = samples.target() {
                write_rows(&mut self.step, &self.target, target, &indices, &mut buffer)?;
            }
            let weights: Vec<f32> = (0..self.batch).map(|i| if i < rows.len() { 1.0 } else { 0.0 }).collect();
            self.step.write_f32(&self.weight, &weights)?;
            *steps += 1;
            self.step.write_f32(&self.count, &[*steps as f32])?;
            self.step.step()?;
            self.step.read_f32(MEAN, &mut losses)?;
            sum += f64::from(losses[0]) * rows.len() as f64;
            seen += rows.len();
        }
        Ok(sum / seen.max(1) as f64)
    }
}

fn optimizer_of(options: &Options, samples: usize) -> Optimizer {
    let weight_decay = options.decay_for(samples);
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let algorithm = match options.optimizer {
        OptimizerKind::AdamW => Algorithm::AdamW { beta1, beta2, epsilon, weight_decay },
        OptimizerKind::Adam => Algorithm::Adam { beta1, beta2, epsilon, weight_decay },
        OptimizerKind::Sgd => Algorithm::Sgd { momentum: 0.9, nesterov: false, weight_decay },
    };
    Optimizer { algorithm, clip_norm: options.clip_norm }
}

/// What an epoch tells the log.
#[derive(Debug, Clone, Serialize)]
pub struct EpochReport {
    /// From 1 within the phase.
    pub epoch: usize,
    /// The learning rate.
    pub lr: f64,
    /// The mean training loss.
    pub train_loss: f64,
    /// The validation loss.
    pub val_loss: f64,
    /// The validation metric.
    pub val_metric: f64,
}

/// A running neuron phase.
pub struct NeuronPhase<'a> {
    trainer: Trainer,
    evaluator: &'a mut Evaluator,
    train: &'a Samples,
    val: &'a Samples,
    options: &'a Options,
    place: [u64; 2],
    rules: Rules,
    /// Where it stands.
    pub progress: Progress,
    /// The state with the best validation loss.
    pub best: Vec<Tensor>,
    /// The score of the best state, once one was taken.
    pub best_score: Option<Score>,
}

impl<'a> NeuronPhase<'a> {
    /// A phase at its start. Its best weights are the best *trained* ones: a drop of the learning rate has to go on from
    /// them, not from where the phase began, or a network near its optimum would never leave it. Weights whose validation
    /// metric is worse than `floor` (the best model's) are taken only while there are none above it: they would not be
    /// accepted.
    pub fn start(
        trainer: Trainer,
        evaluator: &'a mut Evaluator,
        train: &'a Samples,
        val: &'a Samples,
        options: &'a Options,
        place: [u64; 2],
        floor: f64,
    ) -> Result<Self> {
        let best = trainer.state()?;
        let rules = Rules {
            epochs: options.epochs,
            patience: options.patience,
            metric: evaluator.basis().metric.clone(),
            floor,
        };
        let progress = Progress::new(options.lr);
        Ok(NeuronPhase { trainer, evaluator, train, val, options, place, rules, progress, best, best_score: None })
    }

    /// Continue a phase from a checkpoint.
    pub fn resume(&mut self, progress: Progress, state: &[Tensor], best: Vec<Tensor>) -> Result<()> {
        self.trainer.set_state(state)?;
        self.best_score = if progress.epoch > 0 { Some(self.score(&best)?) } else { None };
        self.best = best;
        self.progress = progress;
        Ok(())
    }

    /// The current state, for a checkpoint.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        self.trainer.state()
    }

    /// The best weights so far.
    pub fn best_weights(&self) -> Weights {
        self.trainer.weights(&self.best)
    }

    fn score(&mut self, state: &[Tensor]) -> Result<Score> {
        self.evaluator.set_weights(&self.trainer.weights(state))?;
        self.evaluator.score(self.val)
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        if self.options.shuffle {
            order.shuffle(&mut generator(self.options.seed, &[1, self.place[0], self.place[1], epoch]));
        }
        order
    }

    /// Search the learning rate: from high to low, a short annealed trial each from the start; the first that the next
    /// lower one does not beat wins. Annealing matters: without it, a network near its optimum always looks best at the
    /// lowest rate, since any larger one shakes it first.
    fn search_rate(&mut self) -> Result<f64> {
        let start = self.trainer.fresh_state(&self.best);
        let rates = if self.options.optimizer == OptimizerKind::Sgd { SGD_RATES } else { ADAM_RATES };
        let metric = self.evaluator.basis().metric.clone();
        let mut best: Option<(f64, Score)> = None;
        for rate in rates {
            self.trainer.set_state(&start)?;
            let mut steps = 0;
            for trial in 0..TRIAL_EPOCHS {
                let order = self.order(TRIAL_ORDER + trial as u64);
                let rate = rate * (1.0 - trial as f64 / TRIAL_EPOCHS as f64);
                self.trainer.epoch(self.train, &order, rate, &mut steps)?;
            }
            let state = self.trainer.state()?;
            let score = self.score(&state)?;
            match &best {
                Some((_, found)) if !better(&metric, &score, found) => break,
                _ if score.loss.is_finite() => best = Some((rate, score)),
                _ => {}
            }
        }
        self.trainer.set_state(&start)?;
        Ok(best.map_or(rates[rates.len() - 1], |(rate, _)| rate))
    }

    /// One epoch of training and its validation. `None` once the phase has ended.
    pub fn epoch(&mut self) -> Result<Option<EpochReport>> {
        if self.progress.done {
            return Ok(None);
        }
        let lr = match self.progress.lr {
            Some(lr) => lr,
            None => {
                let lr = self.search_rate()?;
                self.progress.lr = Some(lr);
                lr
            }
        };
        let order = self.order(self.progress.epoch as u64 + 1);
        let train_loss = self.trainer.epoch(self.train, &order, lr, &mut self.progress.steps)?;
        let state = self.trainer.state()?;
        let score = self.score(&state)?;
        let (val_loss, val_metric) = (score.loss, score.metric);
        // A training loss that is no number has spoilt the weights, whatever validation says.
        let judged = if train_loss.is_finite() { val_loss } else { f64::NAN };
        let step = self.progress.record(&self.rules, judged, val_metric);
        if step.take {
            self.best = state;
            self.best_score = Some(score);
        }
        if step.reload {
            let state = self.trainer.fresh_state(&self.best);
            self.trainer.set_state(&state)?;
        }
        Ok(Some(EpochReport { epoch: self.progress.epoch, lr, train_loss, val_loss, val_metric }))
    }
}

/// Whether `a` is the better score: by the metric, and by the loss where the metric is equal.
fn better(metric: &Metric, a: &Score, b: &Score) -> bool {
    metric.worse(b.metric, a.metric) || (a.metric == b.metric && a.loss < b.loss)
}

/// The names of everything that any phase of a run may change in a structure: what an evaluator takes as inputs.
pub fn changeable_names(network: &Network, growth: &Growth, options: &Options) -> Result<Vec<String>> {
    let mut names: BTreeSet<String> = trained_names(network, growth, options)?.into_iter().collect();
    for set in &growth.sets {
        if let Some(site) = network.site(&set.site) {
            names.extend(set.tensors(site, &growth.sets).into_iter().map(|(name, _)| name));
        }
    }
    Ok(names.into_iter().collect())
}
