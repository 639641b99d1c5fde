//! A batch in pieces: one pass for each, which add up the gradients that the optimizer then takes one step with.

use std::ops::Range;

use dendrite_autodiff::{
    accumulation::{self, RunningSum},
    loss::LossValues,
};
use dendrite_data::{Batch, Samples};
use dendrite_onnx::{ElementType, Graph, Shape, Tensor, ValueId};
use dendrite_runtime::{Loop, Session, SessionOptions, StateSlot};

use crate::{
    error::Result,
    feed::{self, Part, Port},
    memory,
    step::Repetition,
};

/// The graph of the pass over a piece.
pub(crate) struct Passes {
    graph: Graph,
    sums: Vec<RunningSum>,
    /// The names of the weights.
    weights: Vec<String>,
}

impl Passes {
    /// Add running sums to `graph`, which holds the gradients of [`LossValues::sum`] as pairs (parameter, gradient).
    pub(crate) fn new(mut graph: Graph, values: &LossValues, pairs: &[(ValueId, ValueId)]) -> Result<Self> {
        let sums = accumulation::attach(&mut graph, values, pairs)?;
        graph.outputs = sums.iter().map(|sum| sum.output).collect();
        graph.prune();
        let weights = pairs.iter().map(|(param, _)| graph.name_of(*param).to_owned()).collect();
        Ok(Passes { graph, sums, weights })
    }

    /// The names of the running sums.
    pub(crate) fn names(&self) -> Vec<String> {
        self.sums.iter().map(|sum| self.graph.name_of(sum.input).to_owned()).collect()
    }

    pub(crate) fn into_graph(self) -> Graph {
        self.graph
    }

    /// The weights as the pass borrows them. Their sums come last.
    fn ports(&self) -> Vec<Port> {
        let own = self.sums.iter().skip(self.sums.len() - self.weights.len());
        let shapes = own.map(|sum| sum.shape.as_known().unwrap_or_default());
        self.weights.iter().cloned().zip(shapes).map(|(name, shape)| (name, ElementType::Float, shape)).collect()
    }
}

/// The passes over the pieces of a batch. Weights are read from the loop that updates them, running sums are this one's state:
/// they mean something within a step only, and belong to no checkpoint.
pub(crate) struct Pieces {
    pass: Loop,
    graph: Graph,
    sums: Vec<RunningSum>,
    /// Samples of a piece.
    size: usize,
    target: String,
    weight: String,
}

impl Pieces {
    /// Build the session. `feeds` are the inputs, target and weights of a piece, the latter two under the names given.
    pub(crate) fn new(
        passes: Passes,
        (target, weight): (&str, &str),
        feeds: &[Port],
        samples: &Samples,
        session: &SessionOptions,
    ) -> Result<Self> {
        let weights = passes.ports();
        let Passes { graph, sums, .. } = passes;
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let state = sums.iter().map(|sum| StateSlot {
            input: name(sum.input),
            output: name(sum.output),
            initial: zeros(&sum.shape),
        });
        let loaded = Session::from_graph(&graph, &memory::planned(&graph, session))?;
        let mut pass = Loop::borrowing(loaded, state.collect(), &weights, feeds, &[])?;
        feed::write_constants(&mut pass, samples)?;
        let size = feeds.iter().find(|(name, ..)| name == weight).and_then(|(_, _, shape)| shape.first().copied());
        let (target, weight) = (target.to_owned(), weight.to_owned());
        Ok(Pieces { pass, graph, sums, size: size.unwrap_or(1), target, weight })
    }

    /// The graph of a piece.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The loop whose state are the running sums.
    pub(crate) fn running(&self) -> &Loop {
        &self.pass
    }

    /// The names of the running sums.
    pub(crate) fn sums(&self) -> Vec<String> {
        self.sums.iter().map(|sum| self.graph.name_of(sum.input).to_owned()).collect()
    }

    /// The running sums as another loop borrows them.
    pub(crate) fn ports(&self) -> Vec<Port> {
        let shapes = self.sums.iter().map(|sum| sum.shape.as_known().unwrap_or_default());
        self.sums().into_iter().zip(shapes).map(|(name, shape)| (name, ElementType::Float, shape)).collect()
    }

    /// Add up the sums of a batch, with the weights that are the state of `weights`.
    pub(crate) fn pass(&mut self, weights: &Loop, samples: &Samples, batch: &Batch) -> Result<()> {
        self.pass.reset()?;
        self.pass.borrow_state(weights)?;
        for rows in parts(batch, self.size) {
            Part::new(batch, rows, self.size).write(&mut self.pass, samples, &self.target, &self.weight)?;
            self.pass.step()?;
        }
        Ok(())
    }

    /// What the passes over a batch read: the weights as given, each a piece, and the sums before it. Those before any but the
    /// last are gone, and zeros stand for them.
    pub(crate) fn last_runs(
        &self,
        weights: &[(String, Tensor)],
        samples: &Samples,
        batch: &Batch,
    ) -> Result<Vec<Repetition<'_>>> {
        let last = parts(batch, self.size).len().saturating_sub(1);
        let zeros: Vec<Tensor> = self.sums.iter().map(|sum| zeros(&sum.shape)).collect();
        let mut runs = Vec::new();
        for (index, rows) in parts(batch, self.size).into_iter().enumerate() {
            let sums = if index == last { self.pass.previous_state()? } else { zeros.clone() };
            let mut feeds = weights.to_vec();
            feeds.extend(self.sums().into_iter().zip(sums));
            feeds.extend(Part::new(batch, rows, self.size).tensors(samples, &self.target, &self.weight)?);
            runs.push((&self.graph, feeds));
        }
        Ok(runs)
    }
}

fn zeros(shape: &Shape) -> Tensor {
    Tensor::filled(ElementType::Float, &shape.as_known().unwrap_or_default(), 0.0)
}

/// The rows of a batch that are no filling, in pieces.
fn parts(batch: &Batch, size: usize) -> Vec<Range<usize>> {
    (0..batch.count).step_by(size.max(1)).map(|first| first..batch.rows.len().min(first + size)).collect()
}
