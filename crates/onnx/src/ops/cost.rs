//! What nodes cost: parameters and multiply-accumulates, from recorded shapes.
//!
//! A symbolic batch counts as one sample. Elementwise operators count no multiply-accumulates, as is the custom.

use std::collections::BTreeSet;

use crate::{Dim, Graph, NodeId, ValueId};

/// The cost of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Elements of the float constants the node reads directly; a tied weight counts at each reader.
    pub parameters: usize,
    /// Multiply-accumulates for one sample; `None` where a shape is not known.
    pub macs: Option<u64>,
}

/// The cost of a node.
pub fn node_cost(graph: &Graph, id: NodeId) -> Cost {
    let node = graph.node(id);
    let parameters = node.inputs.iter().flatten().filter_map(|v| parameter_len(graph, *v)).sum();
    let macs = if node.domain.is_empty() { macs(graph, id) } else { Some(0) };
    Cost { parameters, macs }
}

/// Parameters of a model: elements of its float constants that nodes read, each counted once. Single numbers configure a
/// computation and do not count.
pub fn model_parameters(graph: &Graph) -> usize {
    let read: BTreeSet<ValueId> = graph.nodes().flat_map(|(_, node)| graph.reads(node)).collect();
    read.into_iter().filter_map(|v| parameter_len(graph, v)).sum()
}

/// Multiply-accumulates of a model for one sample; `None` where a shape is not known.
pub fn model_macs(graph: &Graph) -> Option<u64> {
    graph.nodes().map(|(id, _)| node_cost(graph, id).macs).sum()
}

fn parameter_len(graph: &Graph, value: ValueId) -> Option<usize> {
    let tensor = graph.constant(value)?;
    (tensor.element_type().is_float() && tensor.len() > 1).then(|| tensor.len())
}

fn dims(graph: &Graph, value: Option<ValueId>) -> Option<Vec<u64>> {
    let shape = graph.value(value?).shape.as_ref()?;
    shape
        .0
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim {
            Dim::Known(n) => Some(*n as u64),
            // One sample: whatever leads and is not fixed is the batch.
            _ if axis == 0 => Some(1),
            _ => None,
        })
        .collect()
}

fn macs(graph: &Graph, id: NodeId) -> Option<u64> {
    let node = graph.node(id);
    let input = |i: usize| dims(graph, node.input(i));
    let output = || dims(graph, node.output(0));
    let product = |dims: &[u64]| dims.iter().product::<u64>();
    match node.op.as_str() {
        // Every output element sums over the kernel of its group.
        "Conv" => {
            let weight = input(1)?;
            Some(product(&output()?) * product(weight.get(1..)?))
        }
        // Every input element is spread over the kernel of its group.
        "ConvTranspose" => {
            let weight = input(1)?;
            Some(product(&input(0)?) * product(weight.get(1..)?))
        }
        "Gemm" => {
            let a = input(0)?;
            let inner = if node.attributes.int("transA", 0) != 0 { *a.first()? } else { *a.last()? };
            Some(product(&output()?) * inner)
        }
        "MatMul" => Some(product(&output()?) * input(0)?.last()?),
        "Einsum" => einsum_macs(graph, id),
        "LSTM" | "GRU" | "RNN" => {
            let (x, w, r) = (input(0)?, input(1)?, input(2)?);
            let steps_and_batch = product(x.get(..2)?);
            Some(steps_and_batch * (product(&w) + product(&r)))
        }
        _ => Some(0),
    }
}

/// Every combination of subscripts is one multiply-accumulate.
fn einsum_macs(graph: &Graph, id: NodeId) -> Option<u64> {
    let node = graph.node(id);
    let equation: String = node.attributes.str("equation", "").chars().filter(|c| !c.is_whitespace()).collect();
    if equation.contains("...") {
        return None;
    }
    let inputs = equation.split("->").next()?;
    let mut sizes = std::collections::BTreeMap::new();
    for (index, term) in inputs.split(',').enumerate() {
        for (letter, size) in term.chars().zip(dims(graph, node.input(index))?) {
            sizes.insert(letter, size);
        }
    }
    Some(sizes.values().product())
}
