//! A model of calls of its own functions: the weights it hands to them train. Where dendrites grow outside of functions the file
//! keeps its functions and calls, where they grow inside, what the calls compute stands in their place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::pairs;
use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Shape, Tensor,
    proto::{FunctionProto, NodeProto, OperatorSetIdProto},
};
use dendrite_trainer::{
    DataSet, Network, Options,
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

/// The model after a run with dendrites at `sites`.
fn grown(model: &Model, sites: &[&str], controls: Vec<Control>) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        method: Method::Gd,
        epochs: 20,
        dendrites: 1,
        sites: sites.iter().map(|s| (*s).to_owned()).collect(),
        controls,
        ..Options::default()
    };
    let outcome = common::grown(model, [&data(400, 1), &data(200, 2)], None, &options, &folder.path().join("run"));
    assert!(outcome.improved && outcome.summary.parity.ort < 1e-5);
    assert!(outcome.summary.kept_dendrites > 0);
    Model::open(folder.path().join("run").join("model.onnx")).unwrap()
}

fn calls(model: &Model) -> Vec<NodeProto> {
    model.graph().node.iter().filter(|n| n.domain() == "local").cloned().collect()
}

fn assert_trained(model: &Model, grown: &Model) {
    let tensor = |model: &Model, name: &str| model.tensor(model.initializers()[name]).unwrap();
    for name in ["first.weight", "second.weight", "second.bias", "head.weight"] {
        assert_ne!(tensor(grown, name), tensor(model, name), "{name} did not train");
    }
}

#[test]
fn a_model_that_grows_outside_of_its_functions_keeps_them() {
    let model = model();
    let grown = grown(&model, &["y"], vec![Control::Wider]);
    assert_eq!(grown.proto().functions, model.proto().functions);
    assert_eq!(calls(&grown), calls(&model));
    assert_trained(&model, &grown);
}

#[test]
fn dendrites_grow_in_functions() {
    let model = model();
    let network = Network::prepare(&model, None).unwrap();
    let sites: Vec<&str> = network.sites.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(sites, ["first/sum", "second/sum", "y"]);
    let grown = grown(&model, &["first*", "second*"], Vec::new());
    assert!(grown.proto().functions.is_empty() && calls(&grown).is_empty());
    assert_trained(&model, &grown);
    let found = dendrites::compare(&model, &grown).unwrap();
    let added: Vec<&str> = found.added.iter().map(|growth| growth.site.as_str()).collect();
    assert_eq!(added, ["first/sum", "second/sum"]);
    assert!(found.rest.nodes.is_empty() && found.rest.format.is_empty(), "{:?}", found.rest);
    assert_eq!(found.rest.other.len(), 1);
}

#[test]
fn functions_of_another_opset_are_left_alone() {
    let mut proto = model().proto().clone();
    proto.functions[0].opset_import[0].version = Some(16);
    let model = Model::from_bytes(proto.encode_to_vec()).unwrap();
    let network = Network::prepare(&model, None).unwrap();
    assert_eq!(network.sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["y"]);
    let reasons: Vec<&str> = network.not_sites.iter().map(|n| n.reason.as_str()).collect();
    assert!(reasons.len() == 2 && reasons.iter().all(|r| r.contains("function 'layer'")), "{reasons:?}");
}
