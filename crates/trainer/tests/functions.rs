//! A model of calls of its own functions: the weights it hands to them train, dendrites grow outside of them, and the file
//! keeps its functions and calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::atomic::AtomicBool;

use common::pairs;
use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Shape, Tensor,
    proto::{FunctionProto, NodeProto, OperatorSetIdProto},
};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{
    DataSet, Network, Options, Run, grow,
    options::{Control, Method},
};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HIDDEN: usize = 8;

/// layer(x, w, b) = Relu(x w + b) times two, the two a constant of the function; called twice. The head is a plain Gemm.
fn model() -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut graph = Graph::new("layers", 17);
    let batch = || Dim::Symbol("n".to_owned());
    let mut value = graph.add_input("x", ElementType::Float, Shape(vec![batch(), Dim::Known(2)]));
    let mut random = |graph: &mut Graph, name: &str, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() - 0.5).collect();
        graph.add_constant(name, Tensor::from_f32(shape, &values))
    };
    for (name, inputs) in [("first", 2), ("second", HIDDEN)] {
        let w = random(&mut graph, &format!("{name}.weight"), &[inputs, HIDDEN]);
        let b = random(&mut graph, &format!("{name}.bias"), &[HIDDEN]);
        value = graph.op("layer", name, &[value, w, b], Attributes::new());
        let id = graph.value(value).producer().unwrap();
        graph.node_mut(id).domain = "local".to_owned();
    }
    let w = random(&mut graph, "head.weight", &[HIDDEN, 1]);
    let b = random(&mut graph, "head.bias", &[1]);
    let y = graph.op("Gemm", "y", &[value, w, b], Attributes::new());
    graph.set_type(y, Some(ElementType::Float), Some(Shape(vec![batch(), Dim::Known(1)])));
    graph.outputs = vec![y];
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|n| (*n).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    };
    let constant = NodeProto {
        attribute: Attributes::new().with("value", Tensor::from_f32(&[HIDDEN], &[2.0; HIDDEN])).as_slice().to_vec(),
        ..node("Constant", &[], "two")
    };
    graph.functions = vec![FunctionProto {
        name: Some("layer".to_owned()),
        domain: Some("local".to_owned()),
        input: ["x", "w", "b"].map(str::to_owned).to_vec(),
        output: vec!["scaled".to_owned()],
        node: vec![
            node("MatMul", &["x", "w"], "product"),
            node("Add", &["product", "b"], "sum"),
            node("Relu", &["sum"], "positive"),
            constant,
            node("Mul", &["positive", "two"], "scaled"),
        ],
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        ..Default::default()
    }];
    graph.opsets.insert("local".to_owned(), 1);
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

fn data(rows: usize, seed: u64) -> DataSet {
    pairs(rows, seed, |[a, b]| a * b)
}

#[test]
fn a_model_of_functions_grows_and_keeps_them() {
    let model = model();
    let network = Network::prepare(&model, None).unwrap();
    assert_eq!(network.sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["y"]);
    let reasons: Vec<&str> = network.not_sites.iter().map(|n| n.reason.as_str()).collect();
    assert!(reasons.len() == 2 && reasons.iter().all(|r| r.contains("function 'layer'")), "{reasons:?}");

    let folder = tempfile::tempdir().unwrap();
    let options =
        Options { method: Method::Gd, epochs: 20, dendrites: 1, controls: vec![Control::Wider], ..Options::default() };
    let run = &mut Run {
        model: &model,
        train: &data(400, 1),
        val: &data(200, 2),
        test: None,
        options: &options,
        plan: None,
        session: SessionOptions { threads: 1, ..Default::default() },
        folder: &folder.path().join("run"),
        resume: false,
        interrupt: &AtomicBool::new(false),
        observer: &mut |_| {},
        second_runtime: None,
    };
    let outcome = grow(run).unwrap();
    assert!(outcome.improved && outcome.summary.parity.ort < 1e-5);

    let grown = Model::open(folder.path().join("run").join("model.onnx")).unwrap();
    assert_eq!(grown.proto().functions, model.proto().functions);
    let calls = |model: &Model| -> Vec<NodeProto> {
        model.graph().node.iter().filter(|n| n.domain() == "local").cloned().collect()
    };
    assert_eq!(calls(&grown), calls(&model));
    let tensor = |model: &Model, name: &str| model.tensor(model.initializers()[name]).unwrap();
    for name in ["first.weight", "second.weight", "second.bias", "head.weight"] {
        assert_ne!(tensor(&grown, name), tensor(&model, name), "{name} did not train");
    }
}
