//! Recomputation of activations: the backward pass computes anew what it reads of the forward pass, segment by segment, from
//! few values that are kept.
//!
//! The forward pass is cut into segments at places where few bytes cross. What crosses is kept; what the backward pass reads from
//! within a segment is computed again by copies of the segment's nodes, once the gradient has come back to its end. The last
//! segment is not computed again, since the backward pass begins there.
//!
//! Two things could undo this in a runtime: its common subexpression elimination, for which a copy is the same expression, and
//! its order of nodes, in which copies might come early. So the copies read what was kept through a gate: a Reshape to the
//! shape it has, where that shape is computed as a constant plus the largest `Size` of the gradients that have to be there
//! first, less what that is known to be. The sum cannot be folded, the result is exact whatever the gradients hold, and nothing
//! is copied: a Reshape shares the buffer of what it reads, and a Size does not read the tensor's contents.

mod copy;
mod cut;

use dendrite_onnx::{Graph, NodeId, ValueId};

use crate::{error::Result, footprint};

pub use cut::MOST_SEGMENTS;

/// What came of [`recompute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recomputation {
    /// Segments of the forward pass; 1 if nothing is computed again.
    pub segments: usize,
    /// Nodes that are computed again.
    pub nodes: usize,
    /// The estimated peak of all computed values before, in bytes.
    pub before: usize,
    /// The same afterwards.
    pub after: usize,
}

/// The forward pass of a differentiated graph.
struct Forward {
    /// Its nodes in order.
    nodes: Vec<NodeId>,
    /// The place of each node (by index) in `nodes`; `None` for all others.
    place: Vec<Option<usize>>,
    /// Whether each value (by index) stays as it is for a whole step: constants, weights, and what is computed of them alone.
    fixed: Vec<bool>,
}

impl Forward {
    fn of(graph: &Graph, loss: ValueId, params: &[(ValueId, ValueId)]) -> Result<Self> {
        let order = graph.topological_order()?;
        let mut needed = vec![false; graph.value_count()];
        needed[loss.index()] = true;
        for id in order.iter().rev() {
            let node = graph.node(*id);
            if node.outputs.iter().flatten().any(|v| needed[v.index()]) {
                graph.reads(node).iter().for_each(|v| needed[v.index()] = true);
            }
        }
        let is_forward = |id: &NodeId| graph.node(*id).outputs.iter().flatten().any(|v| needed[v.index()]);
        let nodes: Vec<NodeId> = order.iter().copied().filter(is_forward).collect();
        let mut place = vec![None; order.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
        nodes.iter().enumerate().for_each(|(i, id)| place[id.index()] = Some(i));
        let mut fixed: Vec<bool> = graph.values().map(|(_, value)| value.constant.is_some()).collect();
        params.iter().for_each(|(param, _)| fixed[param.index()] = true);
        for id in &order {
            let node = graph.node(*id);
            if graph.reads(node).iter().all(|v| fixed[v.index()]) && copy::can_repeat(node) {
                node.outputs.iter().flatten().for_each(|v| fixed[v.index()] = true);
            }
        }
        Ok(Forward { nodes, place, fixed })
    }

    /// The place of the node that computes a value in the forward pass.
    fn producer(&self, graph: &Graph, value: ValueId) -> Option<usize> {
        self.place.get(graph.value(value).producer()?.index()).copied().flatten()
    }

    fn holds(&self, node: NodeId) -> bool {
        self.place.get(node.index()).copied().flatten().is_some()
    }
}

/// Let the backward pass of a differentiated graph compute anew what it reads of the forward pass, so that fewer values are
/// alive at the same time. `loss` was differentiated; `params` are the weights with their gradients. Shapes must be recorded:
/// what reads values of unknown shapes is kept as it is.
///
/// Of several numbers of segments that of the lowest estimated peak is taken, none if none is lower.
pub fn recompute(graph: &mut Graph, loss: ValueId, params: &[(ValueId, ValueId)]) -> Result<Recomputation> {
    let measured = |graph: &Graph| {
        let mut alone = graph.clone();
        alone.outputs = params.iter().map(|(_, gradient)| *gradient).chain([loss]).collect();
        alone.prune();
        footprint::peak(&alone)
    };
    let before = measured(graph)?;
    let mut best = Recomputation { segments: 1, nodes: 0, before, after: before };
    let mut chosen = None;
    let forward = Forward::of(graph, loss, params)?;
    for cuts in cut::choices(graph, &forward) {
        let mut trial = graph.clone();
        let nodes = copy::copy_segments(&mut trial, &forward, &cuts, params)?;
        let after = measured(&trial)?;
        if after < best.after {
            best = Recomputation { segments: cuts.len() + 1, nodes, before, after };
            chosen = Some(trial);
        }
    }
    if let Some(trial) = chosen {
        *graph = trial;
    }
    Ok(best)
}
