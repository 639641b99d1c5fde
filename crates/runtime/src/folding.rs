//! Integers that follow from constants alone: shapes to come, pads, axes, steps.
//!
//! Exporters compute them in the graph, the session folds them when it loads. Who rewrites a graph before that wants to read
//! them too.

use std::collections::HashSet;

use dendrite_onnx::{ElementType, Graph, Node, Shape, Tensor, ValueId};

use crate::{
    error::Result,
    session::{Optimization, Session, SessionOptions},
};

/// Values of more elements than this are data, not shapes.
const LARGE: usize = 64;

/// Replace the integers that nodes read, and that constants and known shapes determine, by constants, and remove what
/// computed them.
///
/// # Errors
///
/// ONNX Runtime must run the nodes that compute them.
pub fn fold_integers(graph: &mut Graph) -> Result<()> {
    fold_known_shapes(graph);
    let frontier = determined(graph)?;
    if frontier.is_empty() {
        return Ok(());
    }
    let mut part = graph.clone();
    part.inputs.clear();
    part.outputs.clone_from(&frontier);
    part.prune();
    let options = SessionOptions { threads: 1, optimization: Optimization::Off, ..Default::default() };
    let mut session = Session::from_graph(&part, &options)?;
    for ((_, tensor), value) in session.run(&[])?.into_iter().zip(frontier) {
        replace(graph, value, tensor);
    }
    graph.prune();
    Ok(())
}

fn replace(graph: &mut Graph, value: ValueId, tensor: Tensor) {
    let name = graph.name_of(value).to_owned();
    let constant = graph.add_constant(&name, tensor);
    graph.replace_uses(value, constant);
}

fn fold_known_shapes(graph: &mut Graph) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        let (true, Some(input), Some(output)) = (node.is("Shape"), node.input(0), node.output(0)) else { continue };
        let Some(dims) = graph.value(input).shape.as_ref().and_then(Shape::as_known) else { continue };
        // As the operator reads its attributes: negative ones count from the end, both are clamped.
        let rank = dims.len() as i64;
        let place = |n: i64| (if n < 0 { n + rank } else { n }).clamp(0, rank) as usize;
        let (start, end) = (place(node.attributes.int("start", 0)), place(node.attributes.int("end", rank)));
        let sizes: Vec<i64> = dims[start..end.max(start)].iter().map(|n| *n as i64).collect();
        replace(graph, output, Tensor::int64s(&sizes));
    }
}

/// The computed integers that constants determine and that nodes read which are not determined themselves.
fn determined(graph: &Graph) -> Result<Vec<ValueId>> {
    let mut known = vec![false; graph.value_count()];
    for (id, value) in graph.values() {
        known[id.index()] = value.constant.is_some();
    }
    let small = |v: &ValueId| {
        let sizes = graph.value(*v).shape.as_ref().and_then(Shape::as_known);
        sizes.is_some_and(|s| s.iter().product::<usize>() <= LARGE)
    };
    let mut folded = HashSet::new();
    for id in graph.topological_order()? {
        let node = graph.node(id);
        let follows = node.inputs.iter().flatten().all(|v| known[v.index()]);
        if follows && repeats(node) && node.outputs.iter().flatten().all(small) {
            node.outputs.iter().flatten().for_each(|v| known[v.index()] = true);
            folded.insert(id);
        }
    }
    let mut frontier = Vec::new();
    for (_, node) in graph.nodes().filter(|(id, _)| !folded.contains(id)) {
        for value in graph.reads(node) {
            let facts = graph.value(value);
            let integer = matches!(facts.element_type, Some(ElementType::Int64 | ElementType::Int32));
            if integer && known[value.index()] && facts.producer().is_some() && !frontier.contains(&value) {
                frontier.push(value);
            }
        }
    }
    Ok(frontier)
}

/// Whether a node gives the same for the same inputs and can stand alone.
fn repeats(node: &Node) -> bool {
    let random = ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"];
    node.domain.is_empty() && node.attributes.graphs().next().is_none() && !random.contains(&node.op.as_str())
}
