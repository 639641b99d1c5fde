//! A small model, and an independent reader.
#![allow(dead_code)] // each test file uses its part

use dendrite_onnx::{
    Attributes, ElementType, Shape, Tensor,
    graph::tensor_type,
    proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto},
};
use onnx_protobuf::Message as _;
use prost::Message as _;

/// What `onnx-protobuf`, which shares no code with the product, reads.
pub(crate) fn reread(bytes: &[u8]) -> onnx_protobuf::ModelProto {
    onnx_protobuf::ModelProto::parse_from_bytes(bytes).unwrap()
}

/// A tensor of one value.
pub(crate) fn float(shape: &[usize], value: f64) -> Tensor {
    Tensor::filled(ElementType::Float, shape, value)
}

/// A node of the standard domain with one output.
pub(crate) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(format!("{op}_{output}")),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

/// A float32 value of a known shape.
pub(crate) fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let r#type = Some(tensor_type(ElementType::Float, Some(&Shape::known(shape))));
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..Default::default() }
}

/// `h = x w; y = h + k` with an initializer `w` [2, 2] of ones and a Constant `k` [1].
pub(crate) fn sample() -> ModelProto {
    let mut constant = node("Constant", &[], "k");
    constant.attribute = Attributes::new().with("value", float(&[1], 0.5)).as_slice().to_vec();
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("test".to_owned()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        metadata_props: vec![StringStringEntryProto { key: Some("origin".into()), value: Some("here".into()) }],
        graph: Some(GraphProto {
            name: Some("g".to_owned()),
            node: vec![node("MatMul", &["x", "w"], "h"), constant, node("Add", &["h", "k"], "y")],
            initializer: vec![float(&[2, 2], 1.0).to_proto("w")],
            input: vec![value("x", &[1, 2])],
            output: vec![value("y", &[1, 2])],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The model's bytes with a field no version of ONNX has, in the model, its graph, its first node and its initializer,
/// and with fields in an unusual order.
pub(crate) fn with_unknown_fields(model: &ModelProto) -> Vec<u8> {
    const UNKNOWN: &[u8] = b"\x92\x3f\x04\x01\x02\x03\x04"; // field 1010
    let put = |out: &mut Vec<u8>, number: u8, message: &[u8]| {
        out.push(number << 3 | 2);
        prost::encoding::encode_varint(message.len() as u64, out);
        out.extend_from_slice(message);
    };
    let mut graph = model.graph.clone().unwrap();
    let mut node = graph.node.remove(0).encode_to_vec();
    node.extend_from_slice(UNKNOWN);
    let mut tensor = UNKNOWN.to_vec();
    tensor.extend(graph.initializer.remove(0).encode_to_vec());
    let mut inner = UNKNOWN.to_vec();
    put(&mut inner, 5, &tensor);
    put(&mut inner, 1, &node);
    inner.extend(graph.encode_to_vec());
    let mut out = Vec::new();
    put(&mut out, 7, &inner);
    out.extend_from_slice(UNKNOWN);
    out.extend(ModelProto { graph: None, ..model.clone() }.encode_to_vec());
    out
}
