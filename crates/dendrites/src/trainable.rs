//! Which constants of a graph are weights, and which of them train.

use std::collections::BTreeSet;

use dendrite_onnx::{ElementType, Graph, Node, ValueId, batch::reachable};
use globset::Glob;

use crate::{
    error::{Error, Result},
    operands,
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
/// through operators that move elements (a `Reshape` of a weight is trained through, a bias joined of two too), also from
/// within sub-graphs; what those hold themselves is among them once it is brought out ([`crate::hoist`]). Scalars that merely configure a computation (a `Clip` bound, the divisor of attention) are none, nor are
/// masks, embeddings, the stored statistics of a batch normalisation and what a model-local function holds. In order of their
/// names.
pub fn weights(graph: &Graph) -> Vec<ValueId> {
    let active = reachable(graph, &graph.inputs);
    let mut found = BTreeSet::new();
    let mut consider = |node: &Node, position: usize, value: ValueId| {
        for id in operands::stored(graph, value, &active) {
            if graph.constant(id).is_some_and(|tensor| operands::is_weight(node, position, tensor)) {
                found.insert((graph.name_of(id).to_owned(), id));
            }
        }
    };
    for (_, node) in graph.nodes() {
        if !node.outputs.iter().flatten().any(|o| active.contains(o)) {
            continue;
        }
        for (position, input) in node.inputs.iter().enumerate() {
            input.iter().for_each(|v| consider(node, position, *v));
        }
        operands::captured(node, graph).iter().for_each(|(reader, position, v)| consider(reader, *position, *v));
    }
    found.into_iter().map(|(_, id)| id).collect()
}

/// The weights that train under `train`.
pub fn trained(graph: &Graph, sites: &[Site], train: &Train) -> Result<Vec<ValueId>> {
    let all = weights(graph);
    let active = reachable(graph, &graph.inputs);
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
            .flat_map(|id| graph.node(id).inputs.iter().flatten().flat_map(|v| operands::stored(graph, *v, &active)))
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

/// Whether an operator only moves the elements of its first input.
pub(crate) fn moves_elements(node: &Node) -> bool {
    node.domain.is_empty()
        && matches!(node.op.as_str(), "Reshape" | "Transpose" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten")
}
