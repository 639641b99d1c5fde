//! `Scan` of opset 8, which went over the sequences of a batch: since opset 9 a Scan over samples of a Scan over a sequence.
//!
//! Every input and output had a first axis of samples, and sequences a second one of steps. Lengths, where given, end each
//! sequence on its own; what a shorter one has no outputs for is zero.

use super::unsupported;
use crate::{
    Attributes, ElementType, Graph, Node, NodeId, Result, Shape, Tensor, ValueId,
    proto::{GraphProto, ValueInfoProto, type_proto},
};

/// Rewrite the node as a Scan over its samples.
pub(super) fn over_samples(graph: &mut Graph, id: NodeId) -> Result<()> {
    let node = graph.node(id).clone();
    let body = node.attributes.get("body").and_then(|a| a.g.clone());
    let body = body.ok_or_else(|| unsupported(&node, "it has no body"))?;
    let inputs: Option<Vec<ValueId>> = node.inputs.iter().skip(1).copied().collect();
    let inputs = inputs.ok_or_else(|| unsupported(&node, "a state or a sequence is left out"))?;
    let sequences = usize::try_from(node.attributes.int("num_scan_inputs", 0)).unwrap_or(0);
    let states = inputs.len().checked_sub(sequences).filter(|states| sequences > 0 && body.output.len() >= *states);
    let states = states.ok_or_else(|| unsupported(&node, "its inputs do not fit its body"))?;

    let lengths = node.input(0);
    let sample = of_sample(graph, &node, body, &inputs[..states], &inputs[states..])?;
    let inputs: Vec<Option<ValueId>> = inputs.into_iter().chain(lengths).map(Some).collect();
    let attributes = Attributes::new().with("num_scan_inputs", inputs.len() as i64).with("body", sample);
    let node = graph.node_mut(id);
    node.inputs = inputs;
    node.attributes = attributes;
    Ok(())
}

/// What is computed for one sample: a Scan of `body` over its sequences as long as they are.
fn of_sample(
    graph: &Graph,
    node: &Node,
    body: GraphProto,
    states: &[ValueId],
    sequences: &[ValueId],
) -> Result<GraphProto> {
    // A name of a sub-graph may be none of a graph around it.
    let name = node.outputs.iter().flatten().next().map(|v| graph.name_of(*v)).unwrap_or_default();
    let own = |role: &str| format!("{name}/sample/{role}");
    let mut sample = Graph::new(&own("body"), graph.opsets.get("").copied().unwrap_or_default());
    let mut input = |value: ValueId, role: &str| {
        let facts = graph.value(value);
        let shape = facts.shape.clone().filter(|s| s.rank() > 0).map(|s| Shape(s.0.into_iter().skip(1).collect()));
        let inner = sample.add_input(&own(role), ElementType::Float, Shape::default());
        sample.set_type(inner, facts.element_type, shape);
        inner
    };
    let mut inputs: Vec<ValueId> = states.iter().map(|v| input(*v, "state")).collect();
    let mut arrays: Vec<ValueId> = sequences.iter().map(|v| input(*v, "sequence")).collect();
    let length = node.input(0).map(|lengths| input(lengths, "length"));
    let rest = length.map(|length| shorten(&mut sample, &own, length, &mut arrays));
    inputs.extend(arrays);

    let types: Vec<Option<ElementType>> = body.output.iter().map(element_type).collect();
    let attributes = Attributes::new().with("num_scan_inputs", sequences.len() as i64).with("body", body);
    let attributes = match node.attributes.ints("directions") {
        Some(directions) => attributes.with("scan_input_directions", directions),
        None => attributes,
    };
    let inputs: Vec<Option<ValueId>> = inputs.into_iter().map(Some).collect();
    let mut outputs = sample.add_node("Scan", &own("steps"), &inputs, attributes, types.len());
    if let Some(rest) = rest {
        for output in outputs.iter_mut().skip(states.len()) {
            let [none, first] = ["none", "first"].map(|role| sample.add_constant(&own(role), Tensor::int64s(&[0])));
            let pads = sample.op("Concat", &own("pads"), &[none, rest], Attributes::new().with("axis", 0));
            let padded = [Some(*output), Some(pads), None, Some(first)];
            *output = sample.add_node("Pad", &own("padded"), &padded, Attributes::new(), 1)[0];
        }
    }
    outputs.iter().zip(types).for_each(|(output, element_type)| sample.set_type(*output, element_type, None));
    sample.outputs = outputs;
    sample.to_body()
}

/// Let sequences end after so many steps. The number of steps that they then lack, `[1]`.
fn shorten(sample: &mut Graph, own: &dyn Fn(&str) -> String, length: ValueId, sequences: &mut [ValueId]) -> ValueId {
    let [axis, start] = ["axis", "start"].map(|role| sample.add_constant(&own(role), Tensor::int64s(&[0])));
    let end = sample.op("Unsqueeze", &own("end"), &[length, axis], Attributes::new());
    let of_first = Attributes::new().with("start", 0).with("end", 1);
    let longest = sample.op("Shape", &own("longest"), &sequences[..1], of_first);
    for sequence in sequences.iter_mut() {
        *sequence = sample.op("Slice", &own("steps_of"), &[*sequence, start, end, axis], Attributes::new());
    }
    sample.op("Sub", &own("rest"), &[longest, end], Attributes::new())
}

fn element_type(info: &ValueInfoProto) -> Option<ElementType> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => ElementType::from_code(tensor.elem_type()),
        _ => None,
    }
}
