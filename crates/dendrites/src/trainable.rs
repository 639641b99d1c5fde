//! Which constants of a graph are weights, and which of them train.

use std::collections::BTreeSet;

use dendrite_onnx::{ElementType, Graph, Node, ValueId, batch::reachable};
use globset::Glob;

use crate::{
    error::{Error, Result},
    sites::Site,
};

/// What `--train` selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Train {
    /// Every weight but embeddings.
    All,
    /// The weights and biases of the sites.
    Sites,
    /// Those of the last site.
    Head,
    /// None: dendrites alone.
    Dendrites,
    /// The weights whose names match.
    Glob(String),
}

impl std::str::FromStr for Train {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match s {
            "all" => Train::All,
            "sites" => Train::Sites,
            "head" => Train::Head,
            "dendrites" => Train::Dendrites,
            pattern => Train::Glob(pattern.to_owned()),
        })
    }
}

/// The float32 constants that act as weights: operands of linear operations, biases, scales and shifts, reached directly or
/// through movement operators (a `Reshape` of a weight is trained through). Scalars that merely configure a computation (a
/// `Clip` bound, the divisor of attention) are none, nor are the stored statistics of a batch normalisation. In order of
/// their names.
pub fn weights(graph: &Graph) -> Vec<ValueId> {
    let active = reachable(graph, &graph.inputs);
    let mut found = BTreeSet::new();
    for (_, node) in graph.nodes() {
        if !node.outputs.iter().flatten().any(|o| active.contains(o)) {
            continue;
        }
        for (position, input) in node.inputs.iter().enumerate() {
            for origin in input.map_or_else(Vec::new, |v| origins(graph, node, v)) {
                if is_weight_operand(graph, node, position, origin) {
                    found.insert((graph.name_of(origin).to_owned(), origin));
                }
            }
        }
    }
    found.into_iter().map(|(_, id)| id).collect()
}

/// The weights that train under `train`.
pub fn trained(graph: &Graph, sites: &[Site], train: &Train) -> Result<Vec<ValueId>> {
    let all = weights(graph);
    let of_sites = |sites: &[Site]| -> Vec<ValueId> {
        let mut nodes = BTreeSet::new();
        for application in sites.iter().flat_map(|site| &site.applications) {
            nodes.insert(application.node);
            nodes.extend(graph.value(application.output).producer());
            // Between a convolution and its batch normalisation a bias may stand.
            if let Some(node) = graph.value(application.output).producer() {
                nodes.extend(graph.node(node).inputs.iter().flatten().filter_map(|v| graph.value(*v).producer()));
            }
        }
        let origins: BTreeSet<ValueId> = nodes
            .into_iter()
            .flat_map(|id| graph.node(id).inputs.iter().flatten().flat_map(move |v| origins(graph, graph.node(id), *v)))
            .collect();
        all.iter().copied().filter(|v| origins.contains(v)).collect()
    };
    Ok(match train {
        Train::All => all,
        Train::Sites => of_sites(sites),
        Train::Head => of_sites(sites.last().map(std::slice::from_ref).unwrap_or_default()),
        Train::Dendrites => Vec::new(),
        Train::Glob(pattern) => {
            let glob = Glob::new(pattern)
                .map_err(|e| Error::Pattern { pattern: pattern.clone(), reason: e.to_string() })?
                .compile_matcher();
            let name = |v: &ValueId| graph.name_of(*v);
            let hits: Vec<ValueId> = all.iter().copied().filter(|v| glob.is_match(name(v))).collect();
            if hits.is_empty() {
                let known = all.iter().map(|v| name(v).to_owned()).collect();
                return Err(Error::NoWeight { pattern: pattern.clone(), known });
            }
            hits
        }
    })
}

/// The stored float32 constant behind a value, through operators that only move elements.
pub fn origin(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let mut value = value;
    loop {
        if let Some(tensor) = graph.constant(value) {
            return (tensor.element_type() == ElementType::Float).then_some(value);
        }
        let node = graph.node(graph.value(value).producer()?);
        if !moves_elements(node) {
            return None;
        }
        value = node.input(0)?;
    }
}

/// The stored constants behind an input of a node. A recurrent operator's weights may be put together from several: its own and
/// the connections of its dendrites.
fn origins(graph: &Graph, node: &Node, value: ValueId) -> Vec<ValueId> {
    let joins = ["LSTM", "GRU", "RNN"].iter().any(|op| node.is(op));
    let (mut left, mut seen, mut found) = (vec![value], BTreeSet::new(), Vec::new());
    while let Some(value) = left.pop() {
        let producer = graph.value(value).producer().map(|id| graph.node(id));
        match producer.filter(|node| joins && node.is("Concat")) {
            Some(join) => left.extend(join.inputs.iter().flatten().filter(|v| seen.insert(**v))),
            None => found.extend(origin(graph, value)),
        }
    }
    found
}

/// Whether an operator only moves the elements of its first input.
pub(crate) fn moves_elements(node: &Node) -> bool {
    node.domain.is_empty()
        && matches!(node.op.as_str(), "Reshape" | "Transpose" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten")
}

fn is_weight_operand(graph: &Graph, node: &Node, position: usize, origin: ValueId) -> bool {
    if !node.domain.is_empty() {
        return false;
    }
    match node.op.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" => position == 1 || position == 2,
        "MatMul" => true,
        "BatchNormalization" | "InstanceNormalization" | "LayerNormalization" | "GroupNormalization" => {
            position == 1 || position == 2
        }
        "RMSNormalization" | "PRelu" => position == 1,
        "LSTM" | "GRU" | "RNN" => (1..=3).contains(&position),
        "Add" | "Sub" | "Mul" | "Div" => {
            let len = graph.constant(origin).map_or(0, |t| t.len());
            len > 1 && !(node.op == "Div" && position == 1)
        }
        _ => false,
    }
}
