//! The training step: one graph with gradients and optimizer as a session, its state on the device. A batch that is passed in
//! pieces takes two, see [`Pieces`].

use std::collections::HashSet;

use dendrite_autodiff::{
    accumulation, gradients,
    loss::LossValues,
    optimizer,
    optimizer::{Algorithm, Optimizer},
    recompute::recompute,
};
use dendrite_data::{Batch, Samples};
use dendrite_onnx::{ElementType, Graph, Shape, Tensor, ValueId, padding::absorb_padding};
use dendrite_runtime::{Loop, Session, StateSlot, fold_integers};
use dendrites::{
    Weights,
    fragment::{Reading, stop_value},
};

use crate::{
    batch_norm::{self, Running},
    error::{Error, Result},
    feed, memory,
    network::Growth,
    objective::Context,
    options::{BatchNorm, Method, OptimizerKind, Options},
    pieces::Pieces,
};

const LOSS: &str = "training/loss";
const NORM: &str = "training/gradient_norm";

/// One training step as a session.
pub struct Trainer {
    /// The whole step, or the optimizer's part of it.
    pass: Loop,
    /// The graph of the session, for finding out where a number went wrong.
    graph: Graph,
    /// The passes that come before the optimizer's part.
    pieces: Option<Pieces>,
    /// The names of the weights, then of the statistics that follow the batches: the state's first tensors, moments follow.
    names: Vec<String>,
    /// The inputs of the state.
    slots: Vec<String>,
    initial: Vec<Tensor>,
    batch: usize,
    target: String,
    weight: String,
    learning_rate: String,
    count: String,
    /// What one step reads, for [`Trainer::last_feeds`].
    lr: f32,
    steps: u64,
}

/// What a step tells.
#[derive(Debug, Clone, Copy)]
pub struct StepReading {
    /// The mean loss of the batch.
    pub loss: f64,
    /// The norm of the gradients.
    pub gradient_norm: f64,
}

/// What a session reads and computes: a graph and the contents of its inputs.
pub(crate) type Repetition<'a> = (&'a Graph, Vec<(String, Tensor)>);

/// The graph of a training step as far as its gradients.
struct Differentiated {
    graph: Graph,
    values: LossValues,
    /// The weights that train, with their values at the start.
    kept: Vec<(String, Tensor)>,
    /// The same weights with their gradients.
    pairs: Vec<(ValueId, ValueId)>,
    /// The statistics that follow the batches.
    running: Vec<Running>,
}

/// Build everything of the first training step but its session, to find out early what stands in its way.
pub(crate) fn rehearse(context: Context, names: &[String]) -> Result<()> {
    differentiate(context, &Growth::default(), names).map(drop)
}

fn differentiate(context: Context, growth: &Growth, names: &[String]) -> Result<Differentiated> {
    let Context { network, objective, samples, options, .. } = context;
    let batch = options.pass_for(samples.len());
    let perforated = options.method == Method::Pb;
    let reading = if perforated { Reading::Perforated } else { Reading::Direct };
    let mut graph = network.grown(growth, reading)?;
    network.bind(&mut graph, &feed::shapes(samples, batch))?;
    fold_integers(&mut graph)?;
    absorb_padding(&mut graph);
    let stops: HashSet<ValueId> = if perforated {
        network.sites.iter().filter_map(|s| graph.find(&stop_value(&s.name))).collect()
    } else {
        HashSet::new()
    };
    let trained: Vec<ValueId> = names.iter().filter_map(|n| graph.find(n)).collect();
    let running =
        if options.batch_norm == BatchNorm::Train { batch_norm::use_batches(&mut graph, names)? } else { Vec::new() };
    let mut start = Vec::new();
    for id in &trained {
        start.extend(graph.constant_to_input(*id));
    }
    let values = objective.attach_training(&mut graph, network.prediction)?;
    let divided = options.divides(samples.len());
    if divided && !running.is_empty() {
        return Err(Error::Option {
            reason: "--batch-norm train takes statistics of a whole batch, --micro-batch passes it in pieces"
                .to_owned(),
            hint: "leave one of the two out".to_owned(),
        });
    }
    if divided && !values.separable {
        let (why, say) = if values.alike {
            ("the loss gives one number for the whole batch", "let the loss give one number for each sample, or")
        } else {
            ("classes are weighed or ignored, and --also adds a loss of which nothing is", "")
        };
        return Err(Error::Option {
            reason: format!("micro-batch: {why}, which cannot be added up from pieces of it"),
            hint: format!("{say} leave --micro-batch out").trim_start().to_owned(),
        });
    }
    let loss = if divided { values.sum } else { values.mean };
    let found = gradients(&mut graph, loss, &trained, &stops)?;
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
    Ok(Differentiated { graph, values, kept, pairs, running })
}

impl Trainer {
    /// Build the training session of a grown network; `names` are the weights that train.
    pub fn new(context: Context, growth: &Growth, names: &[String]) -> Result<Self> {
        let Context { samples, options, session, .. } = context;
        let Differentiated { mut graph, values, kept, pairs, running } = differentiate(context, growth, names)?;
        if options.recompute {
            let loss = if options.divides(samples.len()) { values.sum } else { values.mean };
            recompute(&mut graph, loss, &pairs)?;
        }
        let optimizer = optimizer_of(options, samples.len());
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let (target, weight) = (name(values.target), name(values.weight));
        let mut feeds = feed::inputs(samples, options.pass_for(samples.len()));
        feeds.push(feed::target(samples, &target, options.pass_for(samples.len()))?);
        feeds.push((weight.clone(), ElementType::Float, vec![options.pass_for(samples.len())]));
        let (mut pieces, mut borrowed) = (None, Vec::new());
        let (loss, attached) = if options.divides(samples.len()) {
            let parameters: Vec<(String, Shape)> =
                kept.iter().map(|(name, tensor)| (name.clone(), Shape::known(tensor.shape()))).collect();
            let passes = Pieces::new(graph, &values, &pairs, &feeds, samples, session)?;
            let update = accumulation::update(&optimizer, &parameters, &passes.sums())?;
            borrowed = passes.ports();
            pieces = Some(passes);
            graph = update.graph;
            feeds.clear();
            (update.loss, update.optimizer)
        } else {
            let attached = optimizer::attach(&mut graph, &optimizer, &pairs)?;
            (values.mean, attached)
        };
        let loss = graph.op("Identity", LOSS, &[loss], Default::default());
        let norm = graph.op("Identity", NORM, &[attached.gradient_norm], Default::default());
        let mut state = Vec::new();
        for ((name, initial), updated) in kept.iter().zip(&attached.updated) {
            let output = graph.name_of(*updated).to_owned();
            state.push(StateSlot { input: name.clone(), output, initial: initial.clone() });
        }
        for Running { name, updated, initial } in &running {
            let (input, output) = (name.clone(), graph.name_of(*updated).to_owned());
            state.push(StateSlot { input, output, initial: initial.clone() });
        }
        for (input, output, shape) in &attached.state {
            let dims = shape.as_known().unwrap_or_default();
            state.push(StateSlot {
                input: graph.name_of(*input).to_owned(),
                output: graph.name_of(*output).to_owned(),
                initial: Tensor::filled(ElementType::Float, &dims, 0.0),
            });
        }
        graph.outputs = vec![loss, norm];
        graph.outputs.extend(&attached.updated);
        graph.outputs.extend(running.iter().map(|r| r.updated));
        graph.outputs.extend(attached.state.iter().map(|(_, output, _)| *output));
        graph.prune();
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let (learning_rate, count) = (name(attached.learning_rate), name(attached.step));
        feeds.push((learning_rate.clone(), ElementType::Float, vec![]));
        feeds.push((count.clone(), ElementType::Float, vec![]));
        let (initial, slots) = state.iter().map(|s| (s.initial.clone(), s.input.clone())).unzip();
        let weights = kept.into_iter().map(|(name, _)| name);
        let names = weights.chain(running.into_iter().map(|r| r.name)).collect();
        let scalars = [LOSS, NORM].map(|name| (name.to_owned(), ElementType::Float, vec![]));
        let session = Session::from_graph(&graph, &memory::planned(&graph, session))?;
        let mut pass = Loop::borrowing(session, state, &borrowed, &feeds, &scalars)?;
        if pieces.is_none() {
            feed::write_constants(&mut pass, samples)?;
        }
        let batch = options.batch_for(samples.len());
        Ok(Trainer {
            pass,
            graph,
            pieces,
            names,
            slots,
            initial,
            batch,
            target,
            weight,
            learning_rate,
            count,
            lr: 0.0,
            steps: 0,
        })
    }

    /// Samples a step.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The whole state: weights, statistics of batch normalisations that train, moments.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        Ok(self.pass.state()?)
    }

    /// Continue from `state`.
    pub fn set_state(&mut self, state: &[Tensor]) -> Result<()> {
        Ok(self.pass.set_state(state)?)
    }

    /// The weights and the statistics in a state, by name.
    pub fn weights(&self, state: &[Tensor]) -> Weights {
        self.names.iter().cloned().zip(state.iter().cloned()).collect()
    }

    /// The state at the start with other weights and statistics: moments zero.
    pub fn fresh_state(&self, weights_from: &[Tensor]) -> Vec<Tensor> {
        let mut state = self.initial.clone();
        let weights = self.names.len().min(weights_from.len());
        state[..weights].clone_from_slice(&weights_from[..weights]);
        state
    }

    /// One step on a batch of `samples`; `steps` counts optimizer steps since its moments were zero, this one included.
    pub fn step(&mut self, samples: &Samples, batch: &Batch, lr: f64, steps: u64) -> Result<StepReading> {
        (self.lr, self.steps) = (lr as f32, steps);
        match &mut self.pieces {
            Some(pieces) => {
                pieces.pass(&self.pass, samples, batch)?;
                self.pass.borrow_state(pieces.running())?;
            }
            None => {
                feed::write(&mut self.pass, samples, batch, &self.target)?;
                self.pass.write_f32(&self.weight, &batch.weights)?;
            }
        }
        self.pass.write_f32(&self.learning_rate, &[self.lr])?;
        self.pass.write_f32(&self.count, &[steps as f32])?;
        self.pass.step()?;
        let mut value = Vec::new();
        let mut read = |name: &str| -> Result<f64> {
            self.pass.read_f32(name, &mut value)?;
            Ok(value.first().copied().map_or(f64::NAN, f64::from))
        };
        Ok(StepReading { loss: read(LOSS)?, gradient_norm: read(NORM)? })
    }

    /// The graph of the step; of a batch in pieces, that of a piece.
    pub fn graph(&self) -> &Graph {
        self.pieces.as_ref().map_or(&self.graph, Pieces::graph)
    }

    /// What the last step computed, given its batch, run by run: the graph, the state before it, the batch and the scalars.
    pub(crate) fn last_runs(&self, samples: &Samples, batch: &Batch) -> Result<Vec<Repetition<'_>>> {
        let before: Vec<(String, Tensor)> = self.slots.iter().cloned().zip(self.pass.previous_state()?).collect();
        let scalars = [
            (self.learning_rate.clone(), Tensor::scalar(ElementType::Float, f64::from(self.lr))),
            (self.count.clone(), Tensor::scalar(ElementType::Float, self.steps as f64)),
        ];
        let Some(pieces) = &self.pieces else {
            let mut feeds = before;
            let whole = feed::Part::new(batch, 0..self.batch, self.batch);
            feeds.extend(whole.tensors(samples, &self.target, &self.weight)?);
            feeds.extend(scalars);
            return Ok(vec![(&self.graph, feeds)]);
        };
        let mut runs = pieces.last_runs(&before[..self.names.len()], samples, batch)?;
        let sums = pieces.sums().into_iter().zip(pieces.running().state()?);
        runs.push((&self.graph, before.into_iter().chain(sums).chain(scalars).collect()));
        Ok(runs)
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
