//! Where a number went wrong: the first value of a step that is not finite though everything it was computed from is.

use dendrite_data::{Batch, Samples};
use dendrite_onnx::{Graph, NodeId, Tensor, ValueId};
use dendrite_runtime::{Optimization, Session, SessionOptions};
use serde::Serialize;

use crate::{error::Result, step::Trainer};

/// The first value of a training step that was not finite.
#[derive(Debug, Clone, Serialize)]
pub struct Anomaly {
    /// The value: one of the model's, `gradient/...` for the gradient of one, `optimizer/...` for an update.
    pub tensor: String,
    /// What it holds: `NaN` or `infinity`.
    pub holds: &'static str,
    /// The node that computes it, by its name, or its operator where it has none; `null` for a weight.
    pub node: Option<String>,
    /// The node's operator.
    pub operator: Option<String>,
}

impl std::fmt::Display for Anomaly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in '{}'", self.holds, self.tensor)?;
        match (&self.node, &self.operator) {
            (Some(node), Some(operator)) => write!(f, ", computed by node '{node}' ({operator})"),
            _ => Ok(()),
        }
    }
}

/// Repeat the last step of `trainer` with every value in sight. `None` if nothing is wrong in this repetition, whose
/// operators are not fused.
pub fn locate(
    trainer: &Trainer,
    samples: &Samples,
    batch: &Batch,
    session: &SessionOptions,
) -> Result<Option<Anomaly>> {
    let runs = trainer.last_runs(samples, batch)?;
    // Masks are made of minus infinity: it is suspected only where nothing else is found.
    for masks_are_wrong in [false, true] {
        let wrong = |tensor: &Tensor| if masks_are_wrong { not_finite(tensor) } else { not_a_mask(tensor) };
        for (graph, feeds) in &runs {
            for (name, tensor) in feeds {
                if let Some(holds) = wrong(tensor) {
                    return Ok(Some(Anomaly { tensor: name.clone(), holds, node: None, operator: None }));
                }
            }
            // A part at a time, so that not every value has to be in memory at once; each part is computed from the start.
            for part in graph.topological_order()?.chunks(PART) {
                if let Some(found) = search(graph, part, feeds, session, &wrong)? {
                    return Ok(Some(found));
                }
            }
        }
    }
    Ok(None)
}

/// Nodes whose values are looked at together.
const PART: usize = 64;

fn search(
    graph: &Graph,
    part: &[NodeId],
    feeds: &[(String, Tensor)],
    session: &SessionOptions,
    wrong: &dyn Fn(&Tensor) -> Option<&'static str>,
) -> Result<Option<Anomaly>> {
    let mut graph = graph.clone();
    let floats = |id: &NodeId| -> Vec<ValueId> {
        let outputs = graph.node(*id).outputs.iter().flatten();
        outputs.copied().filter(|v| graph.value(*v).element_type.is_none_or(|t| t.is_float())).collect()
    };
    let values: Vec<(NodeId, ValueId)> = part.iter().flat_map(|id| floats(id).into_iter().map(|v| (*id, v))).collect();
    graph.outputs = values.iter().map(|(_, value)| *value).collect();
    for (_, value) in &values {
        // Declarations of values in between may be missing or stale; the session knows better.
        graph.set_type(*value, None, None);
    }
    graph.prune();
    let options = SessionOptions { optimization: Optimization::Off, ..session.clone() };
    let mut run = Session::from_graph(&graph, &options)?;
    let taken: Vec<(&str, &Tensor)> = feeds
        .iter()
        .filter(|(name, _)| run.inputs().iter().any(|port| port.name == *name))
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let outputs = run.run(&taken)?;
    for (id, value) in values {
        let name = graph.name_of(value);
        let Some(holds) = outputs.iter().find(|(n, _)| n == name).and_then(|(_, t)| wrong(t)) else { continue };
        let node = graph.node(id);
        let label = if node.name.is_empty() { node.op.clone() } else { node.name.clone() };
        return Ok(Some(Anomaly {
            tensor: name.to_owned(),
            holds,
            node: Some(label),
            operator: Some(node.op.clone()),
        }));
    }
    Ok(None)
}

fn not_finite(tensor: &Tensor) -> Option<&'static str> {
    first(tensor, |v| !v.is_finite())
}

/// As [`not_finite`], minus infinity passed over.
fn not_a_mask(tensor: &Tensor) -> Option<&'static str> {
    first(tensor, |v| v.is_nan() || v == f32::INFINITY)
}

fn first(tensor: &Tensor, wrong: impl Fn(f32) -> bool) -> Option<&'static str> {
    if !tensor.element_type().is_float() {
        return None;
    }
    let found = tensor.to_f32()?.into_iter().find(|v| wrong(*v))?;
    Some(if found.is_nan() { "NaN" } else { "infinity" })
}
