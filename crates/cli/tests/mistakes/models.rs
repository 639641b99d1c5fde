//! Mistakes about the model.

use dendrite_onnx::{
    Attributes, ElementType, Tensor,
    graph::tensor_type,
    proto::{NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto},
};
use prost::Message;

use crate::{
    Mistake,
    make::{edited, fixed, graph, layers, model, network, node, npz, value, weights, x},
    mistake,
};

/// Growth on the usual files.
pub(crate) const GROW: &str = "grow model.onnx --train train.npz --val val.npz -o run";

fn hostile(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../fixtures/hostile/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

pub(crate) fn mistakes() -> Vec<Mistake> {
    let mut all = files();
    all.extend(contents());
    all.extend(unfit());
    all
}

/// What is no model at all.
fn files() -> Vec<Mistake> {
    let is = |what: &str, bytes: &[u8]| mistake(what, "inspect model.onnx").with("model.onnx", bytes);
    vec![
        mistake("the model is not there", "inspect nowhere.onnx"),
        mistake("a misspelt model of growth", "grow modle.onnx --train train.npz --val val.npz -o run"),
        mistake("the model is a folder", "inspect folder").with("folder/notes.txt", "notes"),
        mistake("the model's path goes through a file", "inspect model.onnx/model.onnx"),
        is("the file is empty", b""),
        is("the file is text", b"This is not a model.\n"),
        is("the download was cut off", &network()[..network().len() - 40]),
        is("a Git LFS pointer", &hostile("lfs-pointer.onnx")),
        is("a zip archive", b"PK\x03\x04\x14\0\0\0\0\0"),
        mistake("a PyTorch checkpoint", "inspect model.pt")
            .with("model.pt", b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl"),
        mistake("an old PyTorch checkpoint, a pickle", "inspect model.pt")
            .with("model.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
        mistake("a TFLite model", "inspect model.tflite").with("model.tflite", b"\x1c\0\0\0TFL3\x14\0 \0\x04\0\x08\0"),
        mistake("a Keras file", "inspect model.h5").with("model.h5", b"\x89HDF\r\n\x1a\n\0\0\0\0"),
        mistake("the data in place of the model", "inspect train.npz"),
        is("a web page, since the download needed a login", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"),
        is("a model for ONNX Runtime's mobile build", b"\x28\0\0\0ORTM\0\0\0\0"),
    ]
}

/// Models that are damaged or wrong.
fn contents() -> Vec<Mistake> {
    let grown = |what: &str, bytes: Vec<u8>| mistake(what, GROW).with("model.onnx", bytes);
    let checked = |what: &str, bytes: Vec<u8>| mistake(what, "check model.onnx").with("model.onnx", bytes).finding();
    vec![
        grown("external data that was not copied along", hostile("external-missing.onnx")),
        grown("external data outside the model's folder", hostile("external-traversal.onnx")),
        grown("external data that is too short", hostile("external-past-end.onnx")).with("data.bin", vec![0; 24]),
        checked("external data missing, in check", hostile("external-missing.onnx")),
        grown("nodes in a circle", hostile("cycle.onnx")),
        checked("nodes in a circle, in check", hostile("cycle.onnx")),
        grown("a node that reads what nobody computes", hostile("dangling-input.onnx")),
        checked("a node that reads what nobody computes, in check", hostile("dangling-input.onnx")),
        grown("an opset of the future", edited(|m| m.opset_import[0].version = Some(99))),
        grown("an IR version of the future", edited(|m| m.ir_version = Some(99))),
        mistake("an opset before 7", "plan model.onnx")
            .with("model.onnx", edited(|m| m.opset_import[0].version = Some(6))),
        checked("shapes that do not fit, in check", graph(|g| g.initializer[0] = weights(&[3, 5]).to_proto("w1"))),
        grown("shapes that do not fit", graph(|g| g.initializer[0] = weights(&[3, 5]).to_proto("w1"))),
        grown("an operator that does not exist", graph(|g| g.node[1].op_type = Some("Rellu".to_owned()))),
    ]
}

/// Models that are right, and unfit for what is asked.
fn unfit() -> Vec<Mistake> {
    let grown = |what: &str, bytes: Vec<u8>| mistake(what, GROW).with("model.onnx", bytes);
    let none = Attributes::new;
    let foreign = edited(|m| {
        m.opset_import.push(import("com.example", 1));
        let graph = m.graph.as_mut().unwrap();
        graph.node[1] =
            NodeProto { domain: Some("com.example".to_owned()), ..node("Swish", &["h"], &["r"], Attributes::new()) };
    });
    let no_gradient = edited(|m| {
        m.opset_import.push(import("ai.onnx.ml", 1));
        let normalizer = node("Normalizer", &["h"], &["r"], none());
        m.graph.as_mut().unwrap().node[1] = NodeProto { domain: Some("ai.onnx.ml".to_owned()), ..normalizer };
    });
    let brevitas = edited(|m| {
        m.opset_import.push(import("onnx.brevitas", 1));
        let quant = node("Quant", &["h"], &["r"], none());
        m.graph.as_mut().unwrap().node[1] = NodeProto { domain: Some("onnx.brevitas".to_owned()), ..quant };
    });
    let classes_only = graph(|g| {
        g.node.push(node("ArgMax", &["y"], &["label"], Attributes::new().with("axis", 1i64).with("keepdims", 0i64)));
        g.output = vec![value("label", ElementType::Int64, &[])];
    });
    let zipmap = edited(|m| {
        m.opset_import.push(import("ai.onnx.ml", 1));
        let graph = m.graph.as_mut().unwrap();
        let names = Attributes::new().with("classlabels_int64s", vec![0i64, 1, 2]);
        graph.node.push(NodeProto {
            domain: Some("ai.onnx.ml".to_owned()),
            ..node("ZipMap", &["y"], &["probabilities"], names)
        });
        let map = type_proto::Map {
            key_type: Some(ElementType::Int64 as i32),
            value_type: Some(Box::new(tensor_type(ElementType::Float, None))),
        };
        let map = TypeProto { value: Some(type_proto::Value::MapType(Box::new(map))), ..Default::default() };
        let sequence = type_proto::Sequence { elem_type: Some(Box::new(map)) };
        let list = TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(sequence))), ..Default::default() };
        graph.output =
            vec![ValueInfoProto { name: Some("probabilities".to_owned()), r#type: Some(list), ..Default::default() }];
    });
    let no_site = model(
        vec![value("x", ElementType::Float, &[4])],
        vec![node("Mul", &["x", "w"], &["y"], none())],
        &[("w", weights(&[4]))],
        vec![value("y", ElementType::Float, &[4])],
    );
    let one_batch = graph(|g| {
        // The batch is summed over, so that it cannot be another.
        g.input = vec![fixed("x", &[2, 4])];
        g.node.push(node("MatMul", &["mix", "y"], &["z"], Attributes::new()));
        g.initializer.push(weights(&[2, 2]).to_proto("mix"));
        g.output = vec![fixed("z", &[2, 3])];
    });
    let quantised = model(
        vec![value("x", ElementType::Float, &[4])],
        vec![
            node("DynamicQuantizeLinear", &["x"], &["q", "scale", "zero"], none()),
            node("MatMulInteger", &["q", "w", "zero"], &["i"], none()),
            node("Cast", &["i"], &["f"], Attributes::new().with("to", 1i64)),
            node("Mul", &["f", "scale"], &["y"], none()),
        ],
        &[("w", Tensor::new(ElementType::Int8, vec![4, 3], vec![1u8; 12]).unwrap())],
        vec![value("y", ElementType::Float, &[3])],
    );
    let of_type = |element_type: ElementType| {
        let mut model = layers();
        let graph = model.graph.as_mut().unwrap();
        graph.input = vec![value("x", element_type, &[4])];
        graph.output = vec![value("y", element_type, &[3])];
        for (name, shape) in [("w1", vec![4, 5]), ("b1", vec![5]), ("w2", vec![5, 3]), ("b2", vec![3])] {
            let tensor = Tensor::filled(element_type, &shape, 0.25).to_proto(name);
            let at = graph.initializer.iter().position(|t| t.name() == name).unwrap();
            graph.initializer[at] = tensor;
        }
        model.encode_to_vec()
    };
    vec![
        grown("an operator of a foreign domain", foreign),
        grown("an operator without a gradient", no_gradient),
        grown("a model for quantised training", brevitas),
        grown("no float output", classes_only),
        grown("a ZipMap output", zipmap),
        mistake("an output that the model lacks", &format!("{GROW} --output logits")),
        mistake("an output that is no float", &format!("{GROW} --output label")).with(
            "model.onnx",
            graph(|g| {
                g.node.push(node(
                    "ArgMax",
                    &["y"],
                    &["label"],
                    Attributes::new().with("axis", 1i64).with("keepdims", 0i64),
                ));
                g.output.push(value("label", ElementType::Int64, &[]));
            }),
        ),
        grown("a model without a place for dendrites", no_site.encode_to_vec())
            .with("train.npz", npz(&[("x", x(40)), ("target", x(40))]))
            .with("val.npz", npz(&[("x", x(20)), ("target", x(20))])),
        grown("a batch that is fixed and cannot be freed", one_batch),
        grown("a quantised model", quantised.encode_to_vec()),
        grown("a model in half precision", of_type(ElementType::Float16)),
        grown("a model in double precision", of_type(ElementType::Double)),
    ]
}
