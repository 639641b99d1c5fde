//! From where on tract can run a graph.

use std::collections::HashSet;

use dendrite_onnx::{Graph, Node, NodeId, ValueId};

/// A node that tract does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The node's name, or its first output's where it has none.
    pub node: String,
    /// Its operator, with the domain in front where it is not the standard one.
    pub op: String,
}

/// What has to come from elsewhere for tract to run a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// The nodes tract lacks.
    pub missing: Vec<Missing>,
    /// Their outputs, which have to be fed. Where one depends on another, both are listed.
    pub fed: Vec<ValueId>,
    /// The outputs of the graph that tract still computes something of.
    pub computed: Vec<ValueId>,
}

/// Where to cut `graph` for tract: nowhere (`fed` is empty) if it has every operator.
pub fn supported_cut(graph: &Graph) -> Cut {
    let register = tract_onnx::onnx().op_register;
    let local: HashSet<(&str, &str)> = graph.functions.iter().map(|f| (f.domain(), f.name())).collect();
    let supported = |node: &Node| {
        matches!(node.domain.as_str(), "" | "ai.onnx.ml" | "com.microsoft")
            && !local.contains(&(node.domain.as_str(), node.op.as_str()))
            && register.0.contains_key(&node.op)
    };
    // Only what the outputs depend on counts.
    let mut live = graph.clone();
    live.prune();
    let mut cut = Cut::default();
    let mut missing: HashSet<NodeId> = HashSet::new();
    for (id, node) in live.nodes().filter(|(_, node)| !supported(node)) {
        missing.insert(id);
        cut.fed.extend(node.outputs.iter().flatten());
        let first = node.outputs.iter().flatten().next();
        let name = match first {
            Some(output) if node.name.is_empty() => live.name_of(*output).to_owned(),
            _ => node.name.clone(),
        };
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}.", node.domain) };
        cut.missing.push(Missing { node: name, op: format!("{domain}{}", node.op) });
    }
    cut.computed = graph
        .outputs
        .iter()
        .copied()
        .filter(|o| live.value(*o).producer().is_some_and(|producer| !missing.contains(&producer)))
        .collect();
    cut
}
