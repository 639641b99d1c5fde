//! The training step: one graph with gradients and optimizer as a session, its state on the device. A batch that is passed in
//! pieces takes two, see [`Pieces`].

use std::collections::HashSet;

use dendrite_autodiff::{
    accumulation, gradients,
    loss::LossValues,
    optimizer,
    optimizer::{Algorithm, Optimizer, OptimizerValues},
    recompute::recompute,
};
use dendrite_data::{Batch, Samples};
use dendrite_onnx::{ElementType, Graph, Shape, Tensor, ValueId};
use dendrite_runtime::{Loop, Session, StateSlot};
use dendrites::{
    Weights,
    fragment::{Reading, stop_value},
};

use crate::{
    error::{Error, Result},
    feed, memory,
    network::Growth,
    objective::Context,
    options::{Method, OptimizerKind, Options},
    pieces::{Passes, Pieces},
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
    /// The names of the weights: the state's first tensors, moments follow.
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
    let values = objective.attach_training(&mut graph, network.prediction)?;
    let divided = options.divides(samples.len());
    if divided && !values.separable {
        return Err(Error::Option {
            reason:
                "micro-batch: the loss gives one number for the whole batch, which cannot be added up from pieces of it"
                    .to_owned(),
            hint: "let the loss give one number for each sample, or leave --micro-batch out".to_owned(),
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
    Ok(Differentiated { graph, values, kept, pairs })
}

/// The graphs of a training step.
pub(crate) struct Drawn {
    /// The passes over the pieces of a batch, where it is divided.
    pub(crate) passes: Option<Graph>,
    /// The whole step, or the optimizer's part of it.
    pub(crate) update: Graph,
    /// The weights that train, with their values at the start.
    pub(crate) kept: Vec<(String, Tensor)>,
    /// The optimizer's state at the start.
    pub(crate) state: Vec<Tensor>,
}

/// Everything of a training step but its sessions.
struct Parts {
    passes: Option<Passes>,
    graph: Graph,
    kept: Vec<(String, Tensor)>,
    attached: OptimizerValues,
    target: String,
    weight: String,
}

impl Parts {
    fn new(context: Context, growth: &Growth, names: &[String]) -> Result<Self> {
        let Context { samples, options, .. } = context;
        let Differentiated { mut graph, values, kept, pairs } = differentiate(context, growth, names)?;
        let divided = options.divides(samples.len());
        if options.recompute {
            recompute(&mut graph, if divided { values.sum } else { values.mean }, &pairs)?;
        }
        let optimizer = optimizer_of(options, samples.len());
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let (target, weight) = (name(values.target), name(values.weight));
        let mut passes = None;
        let (loss, attached) = if divided {
            let parameters: Vec<(String, Shape)> =
                kept.iter().map(|(name, tensor)| (name.clone(), Shape::known(tensor.shape()))).collect();
            let of_piece = Passes::new(graph, &values, &pairs)?;
            let update = accumulation::update(&optimizer, &parameters, &of_piece.names())?;
            passes = Some(of_piece);
            graph = update.graph;
            (update.loss, update.optimizer)
        } else {
            let attached = optimizer::attach(&mut graph, &optimizer, &pairs)?;
            (values.mean, attached)
        };
        let loss = graph.op("Identity", LOSS, &[loss], Default::default());
        let norm = graph.op("Identity", NORM, &[attached.gradient_norm], Default::default());
        graph.outputs = vec![loss, norm];
        graph.outputs.extend(&attached.updated);
        graph.outputs.extend(attached.state.iter().map(|(_, output, _)| *output));
        graph.prune();
        Ok(Parts { passes, graph, kept, attached, target, weight })
    }

    /// The optimizer's state at the start.
    fn moments(&self) -> impl Iterator<Item = Tensor> + '_ {
        let zeros = |shape: &Shape| Tensor::filled(ElementType::Float, &shape.as_known().unwrap_or_default(), 0.0);
        self.attached.state.iter().map(move |(_, _, shape)| zeros(shape))
    }
}

/// The graphs of the step that [`Trainer::new`] would build.
pub(crate) fn drawn(context: Context, growth: &Growth, names: &[String]) -> Result<Drawn> {
    let parts = Parts::new(context, growth, names)?;
    let state = parts.moments().collect();
    Ok(Drawn { passes: parts.passes.map(Passes::into_graph), update: parts.graph, kept: parts.kept, state })
}

impl Trainer {
    /// Build the training session of a grown network; `names` are the weights that train.
    pub fn new(context: Context, growth: &Growth, names: &[String]) -> Result<Self> {
        Self::build(context, growth, names).map_err(Error::of_training)
    }

    fn build(context: Context, growth: &Growth, names: &[String]) -> Result<Self> {
        let Context { samples, options, session, .. } = context;
        let parts = Parts::new(context, growth, names)?;
        let mut state = Vec::new();
        for ((name, initial), updated) in parts.kept.iter().zip(&parts.attached.updated) {
            let output = parts.graph.name_of(*updated).to_owned();
            state.push(StateSlot { input: name.clone(), output, initial: initial.clone() });
        }
        for ((input, output, _), initial) in parts.attached.state.iter().zip(parts.moments()) {
            let name = |v: ValueId| parts.graph.name_of(v).to_owned();
            state.push(StateSlot { input: name(*input), output: name(*output), initial });
        }
        let Parts { passes, graph, kept, attached, target, weight } = parts;
        let size = options.pass_for(samples.len());
        let mut feeds = feed::inputs(samples, size);
        feeds.push(feed::target(samples, &target, size)?);
        feeds.push((weight.clone(), ElementType::Float, vec![size]));
        let pieces = match passes {
            Some(passes) => {
                Some(Pieces::new(passes, (&target, &weight), &std::mem::take(&mut feeds), samples, session)?)
            }
            None => None,
        };
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let (learning_rate, count) = (name(attached.learning_rate), name(attached.step));
        feeds.push((learning_rate.clone(), ElementType::Float, vec![]));
        feeds.push((count.clone(), ElementType::Float, vec![]));
        let (initial, slots) = state.iter().map(|s| (s.initial.clone(), s.input.clone())).unzip();
        let names = kept.into_iter().map(|(name, _)| name).collect();
        let scalars = [LOSS, NORM].map(|name| (name.to_owned(), ElementType::Float, vec![]));
        let borrowed = pieces.as_ref().map_or_else(Vec::new, Pieces::ports);
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

    /// The whole state, weights first.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        Ok(self.pass.state()?)
    }

    /// Continue from `state`.
    pub fn set_state(&mut self, state: &[Tensor]) -> Result<()> {
        Ok(self.pass.set_state(state)?)
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

    /// One step on a batch of `samples`; `steps` counts optimizer steps since its moments were zero, this one included.
    pub fn step(&mut self, samples: &Samples, batch: &Batch, lr: f64, steps: u64) -> Result<StepReading> {
        self.run(samples, batch, lr, steps).map_err(Error::of_training)
    }

    fn run(&mut self, samples: &Samples, batch: &Batch, lr: f64, steps: u64) -> Result<StepReading> {
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
