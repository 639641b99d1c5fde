//! The neuron phase: gradient descent on the main weights and the dendrites' connections (and, unless frozen, the
//! dendrites), as one graph per step.
//!
//! Schedule: the learning rate is searched for once a phase, in short annealed trials from the same start; then
//! training goes on until validation stalls for `patience` epochs, the best weights are reloaded and the rate drops, until it
//! has dropped [`crate::schedule::DROPS`] times.

use std::{collections::BTreeSet, sync::atomic::AtomicBool};

use dendrite_data::{Augment, Batch, Loader, Order, Samples};
use dendrite_onnx::Tensor;
use dendrite_runtime::SessionOptions;
use dendrites::{Weights, trainable};
use serde::Serialize;

use crate::{
    anomaly::{Anomaly, locate},
    batch_norm,
    error::{Error, Result},
    evaluate::{Evaluator, Score},
    network::{Growth, Network},
    options::{BatchNorm, Method, OptimizerKind, Options},
    random::generator,
    schedule::{Cursor, Progress, Rules, Step},
    step::Trainer,
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
            let held = options.sham && name == connection;
            if !(frozen || held) {
                names.push(name);
            }
        }
    }
    Ok(names)
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
    /// The mean norm of a step's gradients.
    pub gradient_norm: f64,
    /// The validation loss.
    pub val_loss: f64,
    /// The validation metric.
    pub val_metric: f64,
}

/// A step whose loss or gradients were not finite.
#[derive(Debug, Clone, Serialize)]
pub struct Trouble {
    /// The epoch, from 1 within the phase.
    pub epoch: usize,
    /// The step within it, from 1.
    pub step: usize,
    /// The learning rate.
    pub lr: f64,
    /// The learning rate training goes on with, from the last good weights; `null` where the phase ends.
    pub next_lr: Option<f64>,
    /// The value that went wrong first, where it could be found.
    pub anomaly: Option<Anomaly>,
}

/// What [`NeuronPhase::advance`] came to.
#[derive(Debug)]
pub enum Advance {
    /// An epoch is over and was scored.
    Epoch(EpochReport),
    /// A step went wrong; the phase has fallen back to its best weights and a lower rate, or ended.
    Trouble(Trouble),
    /// It paused within an epoch, as it was asked to, or before the first one, the learning rate being found.
    Paused,
    /// The phase has ended.
    Ended,
}

/// What a phase asks between two steps, given the steps done in this epoch and the steps of an epoch: whether it shall pause.
pub type Pause<'p> = dyn FnMut(usize, usize) -> bool + 'p;

/// What a phase works with.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// Data that train.
    pub train: &'a Samples,
    /// Data that decide.
    pub val: &'a Samples,
    /// The options.
    pub options: &'a Options,
    /// Random changes of training data.
    pub augment: Option<&'a Augment>,
    /// How sessions are built.
    pub session: &'a SessionOptions,
    /// Cycle and attempt.
    pub place: [u64; 2],
    /// The best model's validation metric: weights that are worse are taken only while there are none above it, since they
    /// would not be accepted.
    pub floor: f64,
    /// The best model's validation loss: a rate whose trial ends above it is taken only where all do.
    pub ceiling: f64,
    /// Samples that a learning-rate trial sees, at most.
    pub trial: usize,
    /// Set when scoring is to stop.
    pub interrupt: &'a AtomicBool,
}

/// How one pass over the training data went.
enum Pass {
    Done,
    Paused,
    Failed(Box<Batch>),
}

/// A running neuron phase.
pub struct NeuronPhase<'a> {
    trainer: Trainer,
    evaluator: &'a mut Evaluator,
    setting: Setting<'a>,
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
    /// them, not from where the phase began, or a network near its optimum would never leave it.
    pub fn start(trainer: Trainer, evaluator: &'a mut Evaluator, setting: Setting<'a>) -> Result<Self> {
        let Setting { options, floor, ceiling, .. } = setting;
        let best = trainer.state()?;
        let metric = evaluator.basis().metric.clone();
        let rules = Rules { epochs: options.epochs, patience: options.patience, metric, floor, ceiling };
        let progress = Progress::new(options.lr);
        Ok(NeuronPhase { trainer, evaluator, setting, rules, progress, best, best_score: None })
    }

    /// Continue a phase from a checkpoint.
    pub fn resume(&mut self, progress: Progress, state: &[Tensor], best: Vec<Tensor>) -> Result<()> {
        self.trainer.set_state(state)?;
        self.best_score = if progress.best.is_some() { Some(self.score(&best)?) } else { None };
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
        self.evaluator.score_unless(self.setting.val, self.setting.interrupt)
    }

    /// The order of an epoch, and the number by which its random changes of data are drawn.
    fn order(&self, epoch: u64) -> (Order, u64) {
        let Setting { train, options, place: [cycle, attempt], .. } = self.setting;
        let order = if options.shuffle {
            Order::shuffled(train.len(), &mut generator(options.seed, &[1, cycle, attempt, epoch]))
        } else {
            Order::from(0..train.len())
        };
        (order, (cycle << 48) | (attempt << 40) | epoch)
    }

    /// Go on with a pass over `order` from where `cursor` stands.
    fn pass(
        &mut self,
        (order, number): (Order, u64),
        lr: f64,
        cursor: &mut Cursor,
        steps: &mut u64,
        pause: &mut Pause,
    ) -> Result<Pass> {
        let Setting { train, options, augment, .. } = self.setting;
        let size = self.trainer.batch();
        let total = order.len().div_ceil(size);
        let first: Vec<usize> = order.iter().take(size).collect();
        let order = order.after(cursor.batches * size);
        let augment = augment.map(|augment| (augment, options.seed, number));
        // The statistics of the last batch are taken of other samples too, those that came first in this pass.
        let filling = if options.batch_norm == BatchNorm::Train { first } else { vec![] };
        for batch in Loader::filled(train, size, order, filling, augment)? {
            let batch = batch?;
            let reading = self.trainer.step(train, &batch, lr, *steps + 1)?;
            if !(reading.loss.is_finite() && reading.gradient_norm.is_finite()) {
                return Ok(Pass::Failed(Box::new(batch)));
            }
            *steps += 1;
            let weight: f64 = batch.weights.iter().map(|w| f64::from(*w)).sum();
            cursor.batches += 1;
            cursor.loss += reading.loss * weight;
            cursor.norm += reading.gradient_norm;
            cursor.weight += weight;
            if pause(cursor.batches, total) && cursor.batches < total {
                return Ok(Pass::Paused);
            }
        }
        Ok(Pass::Done)
    }

    /// Search the learning rate: from high to low, a short annealed trial each from the start; the first that the next
    /// lower one does not beat wins ([`Rules::more_promising`]). Annealing matters: without it, a network near its optimum always looks best at the
    /// lowest rate, since any larger one shakes it first.
    fn search_rate(&mut self, pause: &mut Pause) -> Result<Option<f64>> {
        let start = self.trainer.fresh_state(&self.best);
        let rates: &[f64] = if self.setting.options.optimizer == OptimizerKind::Sgd { &SGD_RATES } else { &ADAM_RATES };
        let mut best: Option<(f64, Score)> = None;
        'rates: for rate in rates {
            self.trainer.set_state(&start)?;
            let mut steps = 0;
            for trial in 0..TRIAL_EPOCHS {
                let (order, number) = self.order(TRIAL_ORDER + trial as u64);
                let order = order.first(self.setting.trial);
                let rate = rate * (1.0 - trial as f64 / TRIAL_EPOCHS as f64);
                match self.pass((order, number), rate, &mut Cursor::default(), &mut steps, pause)? {
                    Pass::Done => {}
                    Pass::Paused => return Ok(None),
                    // A rate that leads out of the numbers is too high.
                    Pass::Failed(_) => continue 'rates,
                }
            }
            let state = self.trainer.state()?;
            let score = match self.score(&state) {
                Err(Error::Interrupted) => return Ok(None),
                scored => scored?,
            };
            match &best {
                Some((_, found))
                    if !self.rules.more_promising((score.loss, score.metric), (found.loss, found.metric)) =>
                {
                    break;
                }
                _ if score.loss.is_finite() => best = Some((*rate, score)),
                _ => {}
            }
        }
        self.trainer.set_state(&start)?;
        Ok(Some(best.map_or(rates[rates.len() - 1], |(rate, _)| rate)))
    }

    /// Train on until an epoch is over, `pause` asks for a pause, the learning rate is found, or the phase ends. A pause
    /// within the search for a learning rate begins it anew.
    pub fn advance(&mut self, pause: &mut Pause) -> Result<Advance> {
        if self.progress.done {
            return Ok(Advance::Ended);
        }
        let lr = match self.progress.lr {
            Some(lr) => lr,
            None => {
                self.progress.lr = self.search_rate(pause)?;
                if self.progress.lr.is_none() {
                    let start = self.trainer.fresh_state(&self.best);
                    self.trainer.set_state(&start)?;
                }
                return Ok(Advance::Paused);
            }
        };
        let order = self.order(self.progress.epoch as u64 + 1);
        let (mut cursor, mut steps) = (std::mem::take(&mut self.progress.cursor), self.progress.steps);
        let passed = self.pass(order, lr, &mut cursor, &mut steps, pause)?;
        self.progress.steps = steps;
        let total = cursor.weight.max(f64::MIN_POSITIVE);
        match passed {
            Pass::Paused => {
                self.progress.cursor = cursor;
                Ok(Advance::Paused)
            }
            Pass::Failed(batch) => {
                let anomaly = locate(&self.trainer, self.setting.train, &batch, self.setting.session)?;
                let step = self.progress.record(&self.rules, f64::NAN, f64::NAN);
                self.settle(step, None)?;
                Ok(Advance::Trouble(Trouble {
                    epoch: self.progress.epoch,
                    step: cursor.batches + 1,
                    lr,
                    next_lr: self.progress.lr.filter(|_| !self.progress.done),
                    anomaly,
                }))
            }
            Pass::Done => {
                let state = self.trainer.state()?;
                let score = match self.score(&state) {
                    // All steps are done: what goes on from here has only to score.
                    Err(Error::Interrupted) => {
                        self.progress.cursor = cursor;
                        return Ok(Advance::Paused);
                    }
                    scored => scored?,
                };
                let report = EpochReport {
                    epoch: self.progress.epoch + 1,
                    lr,
                    train_loss: cursor.loss / total,
                    gradient_norm: cursor.norm / cursor.batches.max(1) as f64,
                    val_loss: score.loss,
                    val_metric: score.metric,
                };
                let step = self.progress.record(&self.rules, score.loss, score.metric);
                self.settle(step, Some((state, score)))?;
                Ok(Advance::Epoch(report))
            }
        }
    }

    /// Do what the schedule says after an epoch.
    fn settle(&mut self, step: Step, reached: Option<(Vec<Tensor>, Score)>) -> Result<()> {
        if let Some((state, score)) = reached.filter(|_| step.take) {
            self.best = state;
            self.best_score = Some(score);
        }
        if step.reload {
            let state = self.trainer.fresh_state(&self.best);
            self.trainer.set_state(&state)?;
        }
        Ok(())
    }
}

/// The names of everything that any phase of a run may change in a structure: what an evaluator takes as inputs.
pub fn changeable_names(network: &Network, growth: &Growth, options: &Options) -> Result<Vec<String>> {
    let trained = trained_names(network, growth, options)?;
    let statistics = batch_norm::changing(&network.graph, &trained, options)?;
    let mut names: BTreeSet<String> = trained.into_iter().chain(statistics).collect();
    for set in &growth.sets {
        if let Some(site) = network.site(&set.site) {
            names.extend(set.tensors(site, &growth.sets).into_iter().map(|(name, _)| name));
        }
    }
    Ok(names.into_iter().collect())
}
