//! Frees a graph from the batch size its exporter wrote into it.
//!
//! Exporters fix the batch in two places: in the declared shapes, and in the constant target of a `Reshape` of
//! activations. Both are replaced by the symbol; a `Reshape` of weights is left alone. Whoever calls this proves the
//! result on real inputs, since a batch can hide in other constants (an `Expand`, an initial state).

use std::collections::HashSet;

use crate::{Dim, Graph, Tensor, ValueId};

/// The symbol of the freed dimension.
pub const BATCH_SYMBOL: &str = "batch";

/// The batch size that every input in `batched` is fixed to on the axis beside it, if it is fixed and they agree.
pub fn fixed_batch(graph: &Graph, batched: &[(ValueId, usize)]) -> Option<usize> {
    let sizes: HashSet<Option<usize>> =
        batched.iter().map(|(v, axis)| graph.value(*v).shape.as_ref()?.0.get(*axis)?.known()).collect();
    match sizes.into_iter().collect::<Vec<_>>().as_slice() {
        [Some(size)] => Some(*size),
        _ => None,
    }
}

/// Make the axes beside the inputs `batched`, fixed to `size`, dynamic. Shapes recorded on other values are forgotten:
/// infer them again.
pub fn free_batch(graph: &mut Graph, batched: &[(ValueId, usize)], size: usize) {
    let inputs: Vec<ValueId> = batched.iter().map(|(value, _)| *value).collect();
    let active = reachable(graph, &inputs);
    for id in graph.node_ids() {
        let node = graph.node(id);
        if !node.is("Reshape") {
            continue;
        }
        let (Some(data), Some(target)) = (node.input(0), node.input(1)) else { continue };
        let Some(shape) = graph.constant(target).and_then(Tensor::to_i64) else { continue };
        if !active.contains(&data) || shape.first() != Some(&(size as i64)) {
            continue;
        }
        // 0 copies the dimension of the data, which is the batch when the data's first axis is; -1 serves where the
        // data were laid out differently and no other axis is already inferred.
        let first_is_batch =
            graph.value(data).shape.as_ref().and_then(|s| s.dim(0)).is_none_or(|d| *d == Dim::Known(size));
        let mut freed = shape.clone();
        freed[0] = if first_is_batch || shape.contains(&-1) { 0 } else { -1 };
        let name = format!("{}/free_batch", graph.name_of(target));
        let freed = graph.add_constant(&name, Tensor::int64s(&freed));
        graph.set_input(id, 1, Some(freed));
    }
    let inner: Vec<ValueId> =
        graph.values().filter(|(id, v)| v.constant.is_none() && active.contains(id)).map(|(id, _)| id).collect();
    for value in inner {
        let element_type = graph.value(value).element_type;
        let axis = batched.iter().find(|(input, _)| *input == value).map(|(_, axis)| *axis);
        let shape = axis.zip(graph.value(value).shape.clone()).map(|(axis, mut shape)| {
            if let Some(dim) = shape.0.get_mut(axis) {
                *dim = Dim::Symbol(BATCH_SYMBOL.to_owned());
            }
            shape
        });
        graph.set_type(value, element_type, shape);
    }
}

/// Everything that depends on one of `from`, these included.
pub fn reachable(graph: &Graph, from: &[ValueId]) -> HashSet<ValueId> {
    let uses = graph.uses();
    let mut seen: HashSet<ValueId> = from.iter().copied().collect();
    let mut stack = from.to_vec();
    while let Some(value) = stack.pop() {
        for (node, _) in &uses[value.index()] {
            for output in graph.node(*node).outputs.iter().flatten() {
                if seen.insert(*output) {
                    stack.push(*output);
                }
            }
        }
    }
    seen
}
