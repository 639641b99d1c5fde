//! The cases that scripts/gradient_references.py wrote.

use std::{collections::BTreeMap, path::Path};

use dendrite_onnx::{Graph, Model, Node, Tensor, ValueId};

/// The files of cases.
pub const FAMILIES: &[&str] = &[
    "activation",
    "attention",
    "contributed",
    "convolution",
    "criterion",
    "elementwise",
    "image",
    "indexing",
    "linear",
    "matrix",
    "movement",
    "normalization",
    "pooling",
    "reduction",
    "resize",
    "sampling",
    "spectral",
];

/// How many random cases of every differentiable operator agree with differences.
pub const RANDOM_CASES: usize = 40;
/// Rounding counts as the identity in these, so their gradients are not those of what they compute: quantization.rs.
pub const STRAIGHT_THROUGH: [&str; 2] = ["QuantizeLinear", "com.microsoft.QuantizeLinear"];

/// An operator with its domain, where that is not the standard one.
pub fn label(node: &Node) -> String {
    if node.domain.is_empty() { node.op.clone() } else { format!("{}.{}", node.domain, node.op) }
}

/// The cases of a family.
pub fn cases(family: &str) -> Vec<Graph> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fixtures/gradients/{family}.cases"));
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut cases = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (model, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        cases.push(Graph::from_model(&Model::from_bytes(model.to_vec()).unwrap()).unwrap());
        rest = tail;
    }
    cases
}

/// What a case holds for a value: its number, weight or gradient.
pub fn stored(graph: &Graph, role: &str, v: ValueId) -> Option<Tensor> {
    graph.constant(graph.find(&format!("{role}/{}", graph.name_of(v)))?).cloned()
}

/// The operators of the cases, each with how many of its cases have a gradient that is not zero everywhere.
pub fn operators() -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for case in FAMILIES.iter().flat_map(|family| cases(family)) {
        let nonzero = |v: &ValueId| {
            stored(&case, "gradient", *v).and_then(|t| t.to_f64()).is_some_and(|g| g.iter().any(|x| *x != 0.0))
        };
        let operator = label(case.nodes().next().unwrap().1);
        *counts.entry(operator).or_insert(0) += usize::from(case.inputs.iter().any(nonzero));
    }
    counts
}
