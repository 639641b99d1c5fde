//! How much memory a training step will take, told from shapes before anything is trained.

use dendrite_autodiff::footprint;
use dendrite_data::{Request, Samples};
use dendrite_onnx::{Dim, ElementType, Graph, Shape, Tensor};
use serde::Serialize;

use crate::{
    drawn::Parts,
    error::{Error, Result},
    network::{Growth, Network},
    objective::Context,
    options::Options,
    pieces::Passes,
};

/// Copies of the weights and of the optimizer's state that a phase holds: two that take turns in a step, the best so far, and
/// one that is scored or saved.
const COPIES: usize = 4;

/// Bytes that training takes, about. Not in it: the process itself, the data, and what a runtime's kernels need as scratch space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StepMemory {
    /// Weights, those that train with all their copies.
    pub weights: usize,
    /// The optimizer's state with all its copies.
    pub optimizer: usize,
    /// Gradients of the weights; of a batch in pieces, their sums too.
    pub gradients: usize,
    /// Activations and what else a step computes, at its peak.
    pub activations: usize,
    /// All of it.
    pub total: usize,
}

/// The memory of a step of the training that `context` describes, on the network as `growth` has it with the weights `names`.
pub fn step_memory(context: Context, growth: &Growth, names: &[String]) -> Result<StepMemory> {
    let parts = Parts::new(context, growth, names)?;
    let trained: usize = parts.kept.iter().map(|(_, tensor)| tensor.bytes().len()).sum();
    let moments: usize = parts.moments().map(|tensor| tensor.bytes().len()).sum();
    let Parts { passes, graph: update, .. } = parts;
    let passes = passes.map(Passes::into_graph);
    let frozen = |graph: &Graph| -> usize {
        graph.values().filter_map(|(_, value)| value.constant.as_ref()).map(|tensor| tensor.bytes().len()).sum()
    };
    let graphs = || passes.iter().chain([&update]);
    // The optimizer's part comes after the passes, and each session keeps what it once needed.
    let peaks = graphs().map(footprint::peak).sum::<dendrite_autodiff::Result<usize>>()?;
    let sums = if passes.is_some() { 2 * trained } else { 0 };
    let mut memory = StepMemory {
        weights: COPIES * trained + graphs().map(frozen).sum::<usize>(),
        optimizer: COPIES * moments,
        gradients: trained + sums,
        activations: peaks.saturating_sub(trained),
        total: 0,
    };
    memory.total = memory.weights + memory.optimizer + memory.gradients + memory.activations;
    Ok(memory)
}

/// Samples of nothing but zeros that have the shapes a network asks for, to estimate a step of `rows` samples by.
pub fn zeros(network: &Network, options: &Options, rows: usize) -> Result<Samples> {
    let unknown = |name: &str| Error::Option {
        reason: format!("the shape of '{name}' is not known"),
        hint: "give the data with --train".to_owned(),
    };
    let sized = |name: &str, shape: Option<&Shape>| -> Result<Vec<usize>> {
        let dims = &shape.ok_or_else(|| unknown(name))?.0;
        let rest = dims.iter().skip(1).map(Dim::known).collect::<Option<Vec<_>>>().ok_or_else(|| unknown(name))?;
        let first = dims.iter().take(1).map(|_| rows);
        Ok(first.chain(rest).collect())
    };
    let mut arrays = Vec::new();
    let mut request: Request = network.request(&Options { map: Vec::new(), weight: None, ..options.clone() });
    for input in &request.inputs {
        let shape = match input.shape.as_ref().and_then(Shape::as_known) {
            Some(shape) if input.per_batch => shape,
            _ => sized(&input.name, input.shape.as_ref())?,
        };
        arrays.push((input.name.clone(), Tensor::filled(input.element_type, &shape, 0.0)));
    }
    let prediction = network.graph.value(network.prediction).shape.clone();
    let shape = sized(&network.output, prediction.as_ref())?;
    let mut target = "target".to_owned();
    while arrays.iter().any(|(name, _)| *name == target) {
        target.push('_');
    }
    arrays.push((target.clone(), Tensor::filled(ElementType::Float, &shape, 0.0)));
    request.target = Some(target);
    Ok(Samples::from_arrays("zeros", arrays, &request)?.conformed(&prediction.unwrap_or_default())?)
}
