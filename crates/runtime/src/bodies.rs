//! Types and shapes inside the bodies of control flow.
//!
//! A body is inferred as a graph of its own whose captured values are inputs. The states of a Loop or a Scan are first taken
//! to have the shape of their initial value; a dimension that does not come out of the body as it went in is open.

use dendrite_onnx::{Dim, ElementType, Graph, Node, NodeId, Shape, ValueId, proto::GraphProto};

use crate::{error::Result, shapes::infer_shapes};

/// Record types and shapes in every body of the graph, and in those of bodies. Answers what follows for values of the graph
/// without a shape: a state that leaves an iteration as it went in leaves the Loop so. ONNX's inference does not look.
pub(crate) fn infer_bodies(graph: &mut Graph) -> Result<Vec<(ValueId, Shape)>> {
    let mut found = Vec::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        let bodies: Vec<(String, GraphProto)> =
            node.attributes.as_slice().iter().filter_map(|a| Some((a.name().to_owned(), a.g.clone()?))).collect();
        for (name, proto) in bodies {
            let body = infer_body(graph, id, &proto)?;
            found.extend(states_after(graph, id, &body));
            graph.node_mut(id).attributes.set(&name, body.to_body()?);
        }
    }
    Ok(found)
}

/// The shapes of a Loop's last states, where the graph has none.
fn states_after(graph: &Graph, id: NodeId, body: &Graph) -> Vec<(ValueId, Shape)> {
    let node = graph.node(id);
    if !node.is("Loop") {
        return Vec::new();
    }
    let states = node.outputs.iter().zip(body.inputs.iter().skip(2)).filter_map(|(output, state)| {
        let shape = body.value(*state).shape.clone()?;
        Some(((*output)?, shape))
    });
    states.filter(|(output, _)| graph.value(*output).shape.is_none()).collect()
}

fn infer_body(outer: &Graph, id: NodeId, proto: &GraphProto) -> Result<Graph> {
    let node = outer.node(id);
    let declared = Graph::from_body(proto, outer)?;
    let mut given = given(outer, node, &declared);
    loop {
        let body = infer(outer, proto, &given)?;
        if !open_changing(outer, node, &body, &mut given) {
            return Ok(body);
        }
    }
}

/// What the body's inputs are given: element type and shape.
type Given = Vec<(Option<ElementType>, Option<Shape>)>;

fn given(outer: &Graph, node: &Node, body: &Graph) -> Given {
    if is_of_batch(outer, node) {
        return given_by_batch(outer, node, body);
    }
    let of = |index: usize| node.input(index).map(|v| outer.value(v));
    let scanned = node.attributes.int("num_scan_inputs", 0).max(0) as usize;
    let states = node.inputs.len().saturating_sub(scanned);
    let given = |place: usize| -> (Option<ElementType>, Option<Shape>) {
        match node.op.as_str() {
            "Loop" if place == 0 => (Some(ElementType::Int64), Some(Shape::default())),
            "Loop" if place == 1 => (Some(ElementType::Bool), Some(Shape::default())),
            "Scan" if place >= states => {
                let axis = node.attributes.ints("scan_input_axes").and_then(|a| a.get(place - states)).copied();
                let array = of(place);
                let shape = array.and_then(|v| v.shape.clone()).map(|mut shape| {
                    let axis = axis.unwrap_or(0);
                    let axis = if axis < 0 { axis + shape.rank() as i64 } else { axis } as usize;
                    if axis < shape.rank() {
                        shape.0.remove(axis);
                    }
                    shape
                });
                (array.and_then(|v| v.element_type), shape)
            }
            "Loop" | "Scan" => (of(place).and_then(|v| v.element_type), of(place).and_then(|v| v.shape.clone())),
            _ => (None, None),
        }
    };
    let declared = |(place, id): (usize, &ValueId)| {
        let (value, (element_type, shape)) = (body.value(*id), given(place));
        (value.element_type.or(element_type), shape.or(value.shape.clone()))
    };
    body.inputs.iter().enumerate().map(declared).collect()
}

/// Whether this is a Scan as it was before opset 9: over the sequences of a batch, whose lengths are its first input.
fn is_of_batch(graph: &Graph, node: &Node) -> bool {
    node.is("Scan") && graph.opsets.get("").is_some_and(|opset| *opset < 9)
}

/// What the body of such a Scan is given: states without their samples, elements of sequences.
fn given_by_batch(outer: &Graph, node: &Node, body: &Graph) -> Given {
    let scanned = node.attributes.int("num_scan_inputs", 0).max(0) as usize;
    let states = node.inputs.len().saturating_sub(scanned + 1);
    let given = |(place, id): (usize, &ValueId)| {
        let (value, own) = (node.input(place + 1).map(|v| outer.value(v)), body.value(*id));
        let axes = if place < states { 1 } else { 2 };
        let shape = value.and_then(|v| v.shape.clone()).filter(|shape| shape.rank() >= axes);
        let shape = shape.map(|shape| Shape(shape.0.into_iter().skip(axes).collect()));
        (own.element_type.or(value.and_then(|v| v.element_type)), shape.or(own.shape.clone()))
    };
    body.inputs.iter().enumerate().map(given).collect()
}

fn infer(outer: &Graph, proto: &GraphProto, given: &Given) -> Result<Graph> {
    let mut body = Graph::from_body(proto, outer)?;
    let own = body.inputs.clone();
    for (id, (element_type, shape)) in own.iter().zip(given) {
        body.set_type(*id, *element_type, shape.clone());
    }
    let captured = body.captures();
    body.inputs.extend(&captured);
    for id in body.inputs.clone() {
        name_open_dimensions(&mut body, id);
    }
    let untyped = body.inputs.iter().any(|v| body.value(*v).element_type.is_none());
    if !untyped {
        infer_shapes(&mut body)?;
    }
    body.inputs = own;
    Ok(body)
}

/// Open dimensions of two values are two dimensions.
fn name_open_dimensions(body: &mut Graph, id: ValueId) {
    let value = body.value(id);
    let (element_type, name) = (value.element_type, value.name.clone());
    let Some(mut shape) = value.shape.clone() else { return };
    for (axis, dim) in shape.0.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Unknown) {
        *dim = Dim::Symbol(format!("{name}_{axis}"));
    }
    body.set_type(id, element_type, Some(shape));
}

/// Open the dimensions of states that come out of an iteration in another size than they went in. Whether there were any.
fn open_changing(outer: &Graph, node: &Node, body: &Graph, given: &mut Given) -> bool {
    let (first_in, first_out) = match node.op.as_str() {
        "Loop" => (2, 1),
        "Scan" => (0, 0),
        _ => return false,
    };
    let scanned = node.attributes.int("num_scan_inputs", 0).max(0) as usize;
    let lengths = usize::from(is_of_batch(outer, node));
    let states = node.inputs.len().saturating_sub(scanned + first_in + lengths);
    let mut changed = false;
    for state in 0..states {
        let (Some(before), Some(output)) = (given.get_mut(first_in + state), body.outputs.get(first_out + state))
        else {
            continue;
        };
        let Some(shape) = &mut before.1 else { continue };
        match &body.value(*output).shape {
            Some(after) if after.rank() == shape.rank() => {
                for (dim, after) in shape.0.iter_mut().zip(&after.0) {
                    if dim != after && *dim != Dim::Unknown {
                        *dim = Dim::Unknown;
                        changed = true;
                    }
                }
            }
            _ => {
                before.1 = None;
                changed = true;
            }
        }
    }
    changed
}
