//! Quantised operators: arithmetic on integers, which has no gradient.

use dendrite_autodiff::is_quantised;
use dendrite_onnx::Graph;

use crate::error::Error;

/// The first quantised node of a graph, as messages name it.
pub(crate) fn first(graph: &Graph) -> Option<String> {
    graph
        .nodes()
        .map(|(_, node)| node)
        .find(|node| is_quantised(&node.domain, &node.op))
        .map(|node| format!("node {}", graph.label(node)))
}

/// The error that a model is quantised.
pub(crate) fn refusal(node: &str, error: &Error) -> Error {
    Error::Option {
        reason: format!("{node} computes with quantised numbers, which cannot be trained: {error}"),
        hint: "grow the float model it was made from and quantise the result; pairs of QuantizeLinear and \
               DequantizeLinear can stay"
            .to_owned(),
    }
}
