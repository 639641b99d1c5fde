//! Brings a working copy to a later opset.
//!
//! Only operators whose meaning or signature changed between opset 7 and [`crate::WORKING_OPSET`] are listed; every other
//! node is valid as it stands. No step changes a constant that the file stores: what was an attribute becomes a *new*
//! constant, so trained values always return under their own names.

mod scan;

use crate::{
    Attributes, Error, Graph, Node, NodeId, Result, Tensor, ValueId, functions::inline, proto::GraphProto,
    tensor::ElementType,
};

/// The oldest opset that is read.
pub const OLDEST_OPSET: i64 = 7;

/// Upgrade every node of the standard domain to `target`, and put model-local functions in the place of their calls. Ranks
/// recorded on values give simpler graphs; without them the result is right as well.
pub fn upgrade(graph: &mut Graph, target: i64) -> Result<()> {
    let from = graph.opsets.get("").copied();
    if let Some(from) = from {
        upgrade_standard(graph, from, target)?;
    }
    graph.opsets.insert(String::new(), target);
    inline(graph, from, target)
}

fn upgrade_standard(graph: &mut Graph, from: i64, target: i64) -> Result<()> {
    if !(OLDEST_OPSET..=target).contains(&from) {
        return Err(Error::Unsupported {
            what: format!("opset {from} is outside {OLDEST_OPSET} to {target}"),
            hint: "convert the model to a supported opset first".to_owned(),
        });
    }
    upgrade_nodes(graph, from)
}

fn upgrade_nodes(graph: &mut Graph, from: i64) -> Result<()> {
    for id in graph.node_ids() {
        upgrade_bodies(graph, id, from)?;
        if graph.node(id).domain.is_empty() {
            upgrade_node(graph, id, from)?;
        }
    }
    Ok(())
}

/// Upgrade the sub-graphs of a node in which something changed; the others stay as the file has them.
fn upgrade_bodies(graph: &mut Graph, id: NodeId, from: i64) -> Result<()> {
    let attributes = graph.node(id).attributes.as_slice().iter();
    let changed = attributes.filter_map(|a| Some((a.name().to_owned(), a.g.clone().filter(|g| is_changed(g, from))?)));
    for (name, proto) in changed.collect::<Vec<_>>() {
        let mut body = Graph::from_body(&proto, graph)?;
        upgrade_nodes(&mut body, from)?;
        graph.node_mut(id).attributes.set(&name, body.to_body()?);
    }
    Ok(())
}

/// The last opset in which `op` had a form that [`upgrade_node`] rewrites.
fn rewritten_until(op: &str) -> i64 {
    match op {
        "Scan" => 8,
        "Slice" | "TopK" | "Resize" | "Upsample" => 10,
        "Pad" | "Clip" | "Scatter" => 10,
        "Dropout" => 11,
        "Squeeze" | "Unsqueeze" | "ReduceSum" | "Softmax" | "LogSoftmax" | "Hardmax" => 12,
        "BatchNormalization" => 13,
        "RoiAlign" => 15,
        "Split" => 17,
        "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" | "ReduceLogSum"
        | "ReduceLogSumExp" | "ReduceSumSquare" => 17,
        "GridSample" | "DFT" => 19,
        "GroupNormalization" => 20,
        "Swish" => i64::MAX,
        _ => 0,
    }
}

fn is_changed(graph: &GraphProto, from: i64) -> bool {
    graph.node.iter().any(|node| {
        let here = node.domain().is_empty() && from <= rewritten_until(node.op_type());
        here || node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(|g| is_changed(g, from))
    })
}

fn unsupported(node: &Node, reason: &str) -> Error {
    Error::Unsupported {
        what: format!("node '{}' ({}) cannot be brought to the working opset: {reason}", node.name, node.op),
        hint: "convert the model to a newer opset first, or report the model".to_owned(),
    }
}

fn upgrade_node(graph: &mut Graph, id: NodeId, from: i64) -> Result<()> {
    let op = graph.node(id).op.clone();
    if from > rewritten_until(&op) {
        return Ok(());
    }
    match op.as_str() {
        "Squeeze" | "Unsqueeze" => ints_to_input(graph, id, "axes", 1),
        "ReduceSum" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => ints_to_input(graph, id, "axes", 1),
        "Split" => {
            ints_to_input(graph, id, "split", 1);
            let node = graph.node_mut(id);
            if node.input(1).is_none() {
                let outputs = node.outputs.len() as i64;
                node.attributes.set("num_outputs", outputs);
            }
        }
        "Softmax" | "LogSoftmax" | "Hardmax" => flatten_softmax(graph, id),
        "Pad" => {
            ints_to_input(graph, id, "pads", 1);
            ints_to_input(graph, id, "paddings", 1);
            float_to_input(graph, id, "value", 2);
        }
        "Clip" => {
            float_to_input(graph, id, "min", 1);
            float_to_input(graph, id, "max", 2);
        }
        "Slice" => {
            if from < 10 {
                ints_to_input(graph, id, "starts", 1);
                ints_to_input(graph, id, "ends", 2);
                ints_to_input(graph, id, "axes", 3);
            }
        }
        "TopK" => {
            if let Some(k) = graph.node_mut(id).attributes.remove("k") {
                let k = constant(graph, id, "k", Tensor::int64s(&[k.i()]));
                graph.set_input(id, 1, Some(k));
            }
        }
        "Upsample" | "Resize" => resize(graph, id)?,
        "RoiAlign" => {
            // Without the half-pixel shift, which later became the default.
            graph.node_mut(id).attributes.set("coordinate_transformation_mode", "output_half_pixel");
        }
        "GroupNormalization" => group_normalization(graph, id),
        "Scatter" => graph.node_mut(id).op = "ScatterElements".to_owned(),
        "Dropout" => {
            // Exported graphs are inference graphs: the ratio has no effect without a training flag.
            float_to_input(graph, id, "ratio", 1);
            graph.node_mut(id).attributes.remove("is_test");
        }
        "BatchNormalization" => {
            if graph.node_mut(id).attributes.remove("spatial").is_some_and(|a| a.i() == 0) {
                return Err(unsupported(graph.node(id), "spatial = 0 has no later form"));
            }
            graph.node_mut(id).outputs.truncate(1);
        }
        "GridSample" => {
            let mode = graph.node(id).attributes.str("mode", "bilinear").to_owned();
            let renamed = match mode.as_str() {
                "bilinear" => "linear",
                "bicubic" => "cubic",
                other => other,
            };
            graph.node_mut(id).attributes.set("mode", renamed);
        }
        "DFT" => {
            let axis = graph.node_mut(id).attributes.remove("axis").map_or(1, |a| a.i());
            let axis = constant(graph, id, "axis", Tensor::from_i64(&[], &[axis]));
            graph.set_input(id, 2, Some(axis));
        }
        "Scan" => scan::over_samples(graph, id)?,
        "Swish" => swish(graph, id),
        _ => return Err(unsupported(graph.node(id), "its form before this opset is not known")),
    }
    Ok(())
}

fn constant(graph: &mut Graph, id: NodeId, role: &str, tensor: Tensor) -> ValueId {
    let base = graph.node(id).output(0).map(|v| graph.name_of(v).to_owned()).unwrap_or_default();
    graph.add_constant(&format!("{base}/{role}"), tensor)
}

fn ints_to_input(graph: &mut Graph, id: NodeId, attribute: &str, index: usize) {
    if let Some(proto) = graph.node_mut(id).attributes.remove(attribute) {
        let value = constant(graph, id, attribute, Tensor::int64s(&proto.ints));
        graph.set_input(id, index, Some(value));
    }
}

fn float_to_input(graph: &mut Graph, id: NodeId, attribute: &str, index: usize) {
    if let Some(proto) = graph.node_mut(id).attributes.remove(attribute) {
        // The scalar has the type of the data it is combined with.
        let data_type = graph.node(id).input(0).and_then(|v| graph.value(v).element_type);
        let scalar = Tensor::scalar(data_type.unwrap_or(ElementType::Float), proto.f().into());
        let value = constant(graph, id, attribute, scalar);
        graph.set_input(id, index, Some(value));
    }
}

/// Before opset 13 the softmax family worked on a matrix: all axes from `axis` on as one.
fn flatten_softmax(graph: &mut Graph, id: NodeId) {
    let axis = graph.node(id).attributes.int("axis", 1);
    let (Some(input), Some(output)) = (graph.node(id).input(0), graph.node(id).output(0)) else { return };
    let rank = graph.rank(input).map(|r| r as i64);
    if rank.is_some_and(|r| axis == r - 1 || axis == -1) {
        graph.node_mut(id).attributes.set("axis", -1);
        return;
    }
    let name = graph.name_of(output).to_owned();
    let shape = graph.op("Shape", &format!("{name}/shape"), &[input], Attributes::new());
    let flat = graph.op("Flatten", &format!("{name}/flat"), &[input], Attributes::new().with("axis", axis));
    let inner = graph.add_value(&format!("{name}/matrix"));
    graph.node_mut(id).attributes.set("axis", -1);
    graph.set_input(id, 0, Some(flat));
    graph.set_output(id, 0, inner);
    graph.push(Node {
        name: format!("{name}/restore"),
        domain: String::new(),
        op: "Reshape".to_owned(),
        inputs: vec![Some(inner), Some(shape)],
        outputs: vec![Some(output)],
        attributes: Attributes::new(),
    });
}

/// `Upsample`, and `Resize` of opset 10. The standard did not say which pixel is the nearest; ONNX Runtime takes
/// `floor(x / scale)` upwards and `ceil(x / scale)` downwards.
fn resize(graph: &mut Graph, id: NodeId) -> Result<()> {
    if let Some(scales) = graph.node_mut(id).attributes.remove("scales") {
        let value = constant(graph, id, "scales", Tensor::from_f32(&[scales.floats.len()], &scales.floats));
        graph.set_input(id, 1, Some(value));
    }
    let scales = graph.node(id).input(1);
    let known = scales.and_then(|v| graph.constant(v)).and_then(Tensor::to_f32).unwrap_or_default();
    let (down, up) = (known.iter().any(|s| *s < 1.0), known.iter().any(|s| *s > 1.0));
    let nearest = graph.node(id).attributes.str("mode", "nearest") == "nearest";
    if nearest && down && up {
        return Err(unsupported(graph.node(id), "it enlarges one axis and shrinks another"));
    }
    let node = graph.node_mut(id);
    node.op = "Resize".to_owned();
    if node.attributes.str("mode", "nearest") == "bilinear" {
        node.attributes.set("mode", "linear");
    }
    node.attributes.set("coordinate_transformation_mode", "asymmetric");
    node.attributes.set("nearest_mode", if down { "ceil" } else { "floor" });
    graph.set_input(id, 1, None);
    graph.set_input(id, 2, scales);
    Ok(())
}

/// Before opset 21 scale and bias held one number a group, since then one a channel.
fn group_normalization(graph: &mut Graph, id: NodeId) {
    let groups = graph.node(id).attributes.int("num_groups", 1);
    let (Some(input), Some(output)) = (graph.node(id).input(0), graph.node(id).output(0)) else { return };
    let name = graph.name_of(output).to_owned();
    let own = |role: &str| format!("{name}/{role}");
    let count = graph.add_constant(&own("groups"), Tensor::int64s(&[groups]));
    let column = graph.add_constant(&own("column"), Tensor::int64s(&[groups, 1]));
    let flat = graph.add_constant(&own("flat"), Tensor::int64s(&[-1]));
    let range = Attributes::new().with("start", 1).with("end", 2);
    let channels = graph.op("Shape", &own("channels"), &[input], range);
    let each = graph.op("Div", &own("channels_each"), &[channels, count], Attributes::new());
    let wide = graph.op("Concat", &own("groups_by_channels"), &[count, each], Attributes::new().with("axis", 0));
    for (index, role) in [(1, "scale"), (2, "bias")] {
        let Some(value) = graph.node(id).input(index) else { continue };
        let value = graph.op("Reshape", &own(role), &[value, column], Attributes::new());
        let value = graph.op("Expand", &own(role), &[value, wide], Attributes::new());
        let value = graph.op("Reshape", &own(role), &[value, flat], Attributes::new());
        graph.set_input(id, index, Some(value));
    }
}

/// `Swish` is standard from opset 24 but has no kernel in ONNX Runtime 1.31.1 after it: x * sigmoid(alpha x).
fn swish(graph: &mut Graph, id: NodeId) {
    let alpha = graph.node_mut(id).attributes.remove("alpha").map_or(1.0, |a| a.f());
    let (Some(input), Some(output)) = (graph.node(id).input(0), graph.node(id).output(0)) else { return };
    let name = graph.name_of(output).to_owned();
    let mut inner = input;
    if alpha != 1.0 {
        let data_type = graph.value(input).element_type.unwrap_or(ElementType::Float);
        let alpha = constant(graph, id, "alpha", Tensor::scalar(data_type, alpha.into()));
        inner = graph.op("Mul", &format!("{name}/scaled"), &[input, alpha], Attributes::new());
    }
    let gate = graph.op("Sigmoid", &format!("{name}/gate"), &[inner], Attributes::new());
    let node = graph.node_mut(id);
    node.op = "Mul".to_owned();
    node.inputs = vec![Some(input), Some(gate)];
}
