//! The training step: one graph with gradients and optimizer as a session, its state on the device. A batch that is passed in
//! pieces takes two, see [`Pieces`].

use dendrite_data::{Batch, Samples};
use dendrite_onnx::{ElementType, Graph, Tensor, ValueId};
use dendrite_runtime::{Loop, Session, StateSlot};
use dendrites::Weights;

use crate::{
    batch_norm::Running,
    drawn::{LOSS, NORM, Parts},
    error::{Error, Result},
    feed, memory,
    network::Growth,
    objective::Context,
    pieces::Pieces,
};

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
    /// What one step reads, for [`Trainer::last_runs`].
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
        for Running { name, updated, initial } in &parts.running {
            let (input, output) = (name.clone(), parts.graph.name_of(*updated).to_owned());
            state.push(StateSlot { input, output, initial: initial.clone() });
        }
        for ((input, output, _), initial) in parts.attached.state.iter().zip(parts.moments()) {
            let name = |v: ValueId| parts.graph.name_of(v).to_owned();
            state.push(StateSlot { input: name(*input), output: name(*output), initial });
        }
        let Parts { passes, graph, kept, running, attached, target, weight } = parts;
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
        let weights = kept.into_iter().map(|(name, _)| name);
        let names = weights.chain(running.into_iter().map(|r| r.name)).collect();
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
