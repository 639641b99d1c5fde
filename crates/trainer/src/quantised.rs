//! Quantised operators: arithmetic on integers, which has no gradient.

use dendrite_onnx::{Graph, Node};

use crate::error::Error;

/// Operators of the standard domain that compute with quantised numbers.
const STANDARD: [&str; 5] = ["ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"];
/// Beginnings of the names of those that ONNX Runtime adds.
const MICROSOFT: [&str; 9] = [
    "DynamicQuantize",
    "GatherBlockQuantized",
    "MatMulBnb4",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinear",
    "QMoE",
];
/// Domains of operators for training quantised networks, which runtimes do not have.
const TOOLS: [&str; 3] = ["finn.custom_op.general", "onnx.brevitas", "qonnx.custom_op.general"];

/// The first quantised node of a graph, as messages name it.
pub(crate) fn first(graph: &Graph) -> Option<String> {
    let shown = |node: &Node| {
        let output = node.output(0).map(|v| graph.name_of(v)).unwrap_or_default();
        let name = if node.name.is_empty() { output } else { &node.name };
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}.", node.domain) };
        format!("node '{name}' ({domain}{})", node.op)
    };
    graph.nodes().map(|(_, node)| node).find(|node| is_quantised(node)).map(shown)
}

fn is_quantised(node: &Node) -> bool {
    match node.domain.as_str() {
        "" => STANDARD.contains(&node.op.as_str()),
        "com.microsoft" => MICROSOFT.iter().any(|start| node.op.starts_with(start)),
        domain => TOOLS.contains(&domain),
    }
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
