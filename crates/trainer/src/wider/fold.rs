//! Values that depend on no input become constants: shapes, pads and reshaped weights that a file computes.

use std::collections::HashSet;

use dendrite_onnx::{Graph, ValueId, batch::reachable};
use dendrite_runtime::{Session, SessionOptions};

use crate::error::Result;

/// Compute them once and store them.
pub(super) fn fold(graph: &mut Graph, session: &SessionOptions) -> Result<()> {
    let active = reachable(graph, &graph.inputs);
    let mut border: Vec<ValueId> = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| node.outputs.iter().flatten().any(|v| active.contains(v))) {
        let computed = |v: &ValueId| !active.contains(v) && graph.value(*v).producer().is_some();
        border.extend(graph.reads(node).into_iter().filter(computed));
    }
    let mut seen = HashSet::new();
    border.retain(|v| seen.insert(*v));
    if border.is_empty() {
        return Ok(());
    }
    let mut part = graph.clone();
    part.inputs.clear();
    part.outputs.clone_from(&border);
    part.prune();
    let found = Session::from_graph(&part, session)?.run(&[])?;
    for (value, (_, tensor)) in border.iter().zip(found) {
        if let Some(producer) = graph.value(*value).producer() {
            graph.remove(producer);
        }
        graph.set_constant(*value, tensor);
    }
    graph.prune();
    Ok(())
}
