//! What lies between the value the loss takes and the model's output: losses take logits.

use dendrite_onnx::{Attributes, Graph, NodeId, ValueId};

use crate::classes::Classes;

/// The function between the value the loss takes and the model's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// None: the output itself.
    Identity,
    /// The output is a softmax of logits.
    Softmax {
        /// Over which axis of the prediction, whose first are the samples.
        axis: usize,
    },
    /// The output is an elementwise sigmoid.
    Sigmoid,
}

impl Link {
    /// The model's output for the prediction `row` of one sample, of `shape`.
    pub fn apply(self, row: &[f32], shape: &[usize]) -> Vec<f32> {
        match self {
            Link::Identity => row.to_vec(),
            Link::Sigmoid => row.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
            Link::Softmax { axis } => {
                let classes = Classes::of_prediction(shape, axis);
                let mut output = row.to_vec();
                for position in 0..classes.positions(row.len()) {
                    let scores = classes.scores(row, position);
                    let top = scores.clone().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f32 = scores.clone().map(|v| (v - top).exp()).sum();
                    scores
                        .enumerate()
                        .for_each(|(class, v)| output[classes.place(position, class)] = (v - top).exp() / sum);
                }
                output
            }
        }
    }

    /// The model's output for a prediction in a graph.
    pub fn attach(self, graph: &mut Graph, prediction: ValueId) -> ValueId {
        let (op, attributes) = match self {
            Link::Identity => return prediction,
            Link::Sigmoid => ("Sigmoid", Attributes::new()),
            Link::Softmax { axis } => ("Softmax", Attributes::new().with("axis", axis as i64)),
        };
        let (element_type, shape) = (graph.value(prediction).element_type, graph.value(prediction).shape.clone());
        let output = graph.op(op, "link/output", &[prediction], attributes);
        graph.set_type(output, element_type, shape);
        output
    }
}

/// The value before a final softmax, whose axis is that of the file, or sigmoid. A sigmoid may be followed by operators that only move numbers: they come before it
/// as well, and a copy of them does.
pub(crate) fn before_link(graph: &mut Graph, output: ValueId) -> (ValueId, Link) {
    let mut value = output;
    let mut moves: Vec<NodeId> = Vec::new();
    while let Some(id) = graph.value(value).producer() {
        let node = graph.node(id);
        match (node.domain.as_str(), node.op.as_str(), node.input(0)) {
            ("", "Identity", Some(input)) => value = input,
            ("", "Sigmoid", Some(input)) => return (moved(graph, input, &moves), Link::Sigmoid),
            ("", "Softmax", Some(input)) if moves.is_empty() => {
                let Some(rank) = graph.rank(input) else { break };
                let axis = node.attributes.int("axis", -1);
                let axis = if axis < 0 { axis + rank as i64 } else { axis };
                return match usize::try_from(axis) {
                    Ok(axis) if axis < rank => (input, Link::Softmax { axis }),
                    _ => (output, Link::Identity),
                };
            }
            ("", "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten", Some(input)) => {
                moves.push(id);
                value = input;
            }
            _ => break,
        }
    }
    (output, Link::Identity)
}

/// `value` moved as `moves`, the last of them first, move what they read.
fn moved(graph: &mut Graph, value: ValueId, moves: &[NodeId]) -> ValueId {
    moves.iter().rev().fold(value, |value, id| {
        let mut node = graph.node(*id).clone();
        let Some(from) = node.output(0) else { return value };
        let (name, element_type, shape) = {
            let from = graph.value(from);
            (format!("link/{}", from.name), from.element_type, from.shape.clone())
        };
        let to = graph.add_value(&name);
        graph.set_type(to, element_type, shape);
        node.name = name;
        node.inputs[0] = Some(value);
        node.outputs = vec![Some(to)];
        graph.push(node);
        to
    })
}
