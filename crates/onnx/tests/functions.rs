//! A working copy whose functions were put in the place of their calls computes what the runtime computes with the calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use dendrite_onnx::{
    Graph, Model, Severity, Tensor, WORKING_OPSET,
    functions::inlined,
    proto::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
        attribute_proto::AttributeType,
    },
    tensor::ElementType,
    upgrade::upgrade,
};
use dendrite_runtime::{Optimization, Session, SessionOptions};
use prost::Message;

const DOMAIN: &str = "local";

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        op_type: Some(op.to_owned()),
        input: names(inputs),
        output: names(outputs),
        attribute: attributes,
        ..Default::default()
    }
}

fn call(function: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: Some(DOMAIN.to_owned()), ..node(function, inputs, outputs, attributes) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..Default::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// An attribute of a node that is one of the function's.
fn reference(name: &str, of: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(of.to_owned()), ..attribute(name, kind) }
}

fn graph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(value), ..attribute(name, AttributeType::Graph) }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

fn function(name: &str, version: i64, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some(DOMAIN.to_owned()),
        input: inputs.iter().map(|n| (*n).to_owned()).collect(),
        output: outputs.iter().map(|n| (*n).to_owned()).collect(),
        node: nodes,
        opset_import: vec![opset("", version), opset(DOMAIN, 1)],
        ..Default::default()
    }
}

fn port(name: &str, element_type: ElementType, shape: &[usize]) -> ValueInfoProto {
    let shape = dendrite_onnx::Shape::known(shape);
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(dendrite_onnx::graph::tensor_type(element_type, Some(&shape))),
        ..Default::default()
    }
}

/// A model of calls at opset 17: x is 2 x 3.
fn model(nodes: Vec<NodeProto>, outputs: &[&str], functions: Vec<FunctionProto>) -> Model {
    let untyped = |name: &&str| ValueInfoProto {
        name: Some((*name).to_owned()),
        r#type: Some(dendrite_onnx::graph::tensor_type(ElementType::Float, None)),
        ..Default::default()
    };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17), opset(DOMAIN, 1)],
        graph: Some(GraphProto {
            name: Some("calls".to_owned()),
            node: nodes,
            initializer: vec![Tensor::from_f32(&[3], &[0.5, -1.5, 2.0]).to_proto("bias")],
            input: vec![port("x", ElementType::Float, &[2, 3]), port("flag", ElementType::Bool, &[])],
            output: outputs.iter().map(untyped).collect(),
            ..Default::default()
        }),
        functions,
        ..Default::default()
    };
    Model::from_bytes(proto.encode_to_vec()).unwrap()
}

fn run(bytes: &[u8], flag: bool) -> BTreeMap<String, Tensor> {
    let options = SessionOptions { threads: 1, optimization: Optimization::Off, ..Default::default() };
    let mut session = Session::from_bytes(bytes, &options).unwrap();
    let x = Tensor::from_f32(&[2, 3], &[1.0, -2.0, 3.0, -4.0, 5.0, 0.25]);
    let flag = Tensor::new(ElementType::Bool, vec![], vec![u8::from(flag)]).unwrap();
    let feeds = [("x", &x), ("flag", &flag)];
    let given: Vec<(&str, &Tensor)> =
        feeds.into_iter().filter(|(name, _)| session.inputs().iter().any(|p| p.name == *name)).collect();
    session.run(&given).unwrap().into_iter().collect()
}

/// Upgrade, and hold what the result computes against what the model's own calls compute; the same of the file without calls.
fn check(model: &Model) -> Graph {
    let mut graph = Graph::from_model(model).unwrap();
    upgrade(&mut graph, WORKING_OPSET).unwrap();
    assert!(graph.functions.is_empty());
    assert!(graph.nodes().all(|(_, n)| n.domain != DOMAIN), "a call is left");
    assert!(!graph.opsets.contains_key(DOMAIN));
    for flag in [true, false] {
        let (before, after) = (run(model.bytes(), flag), run(&graph.to_model().unwrap().encode_to_vec(), flag));
        assert_eq!(before, after);
    }
    let file = inlined(model).unwrap();
    assert!(file.proto().functions.is_empty() && file.opset(DOMAIN).is_none());
    let outputs: Vec<&String> = file.graph().node.iter().flat_map(|n| &n.output).collect();
    for (_, node) in graph.nodes() {
        let names = node.outputs.iter().flatten().map(|v| graph.name_of(*v).to_owned());
        names.into_iter().for_each(|name| assert!(outputs.contains(&&name), "the file has no '{name}'"));
    }
    let errors: Vec<_> = dendrite_onnx::check(&file).into_iter().filter(|f| f.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    for flag in [true, false] {
        assert_eq!(run(model.bytes(), flag), run(file.bytes(), flag));
    }
    graph
}

/// leaky(x, scale): LeakyRelu with the call's slope, or the default one.
fn leaky(version: i64) -> FunctionProto {
    let slope = reference("alpha", "slope", AttributeType::Float);
    let mut function = function("leaky", version, &["x"], &["y"], vec![node("LeakyRelu", &["x"], &["y"], vec![slope])]);
    function.attribute_proto = vec![float("slope", 0.5)];
    function
}

#[test]
fn attributes_of_the_call_and_their_defaults() {
    let nodes = vec![
        call("leaky", &["x"], &["given"], vec![float("slope", 0.25)]),
        call("leaky", &["x"], &["default"], vec![]),
    ];
    let graph = check(&model(nodes, &["given", "default"], vec![leaky(17)]));
    let named: Vec<Option<&str>> = graph.nodes().map(|(id, _)| graph.function_of(id)).collect();
    assert_eq!(named, [Some("leaky"), Some("leaky")]);
}

#[test]
fn a_call_in_a_call() {
    let outer = function(
        "outer",
        17,
        &["a", "b"],
        &["sum"],
        vec![
            call("leaky", &["a"], &["y"], vec![reference("slope", "steepness", AttributeType::Float)]),
            node("Add", &["y", "b"], &["sum"], vec![]),
        ],
    );
    let outer = FunctionProto { attribute: vec!["steepness".to_owned()], ..outer };
    let nodes = vec![
        call("outer", &["x", "bias"], &["y"], vec![float("steepness", 0.1)]),
        call("outer", &["y", "bias"], &["z"], vec![float("steepness", 0.2)]),
    ];
    let graph = check(&model(nodes, &["z"], vec![leaky(17), outer]));
    assert!(graph.nodes().all(|(id, _)| graph.function_of(id) == Some("outer")));
}

/// Each function is at the opset it says, whatever the model's is. ONNX Runtime takes it for the model's, so a model of the
/// same nodes at that opset is the witness.
#[test]
fn a_function_at_an_older_opset() {
    let axis = AttributeProto { i: Some(2), ..attribute("axis", AttributeType::Int) };
    let nodes = vec![
        node("Unsqueeze", &["x"], &["wide"], vec![ints("axes", &[0, 3])]),
        node("Softmax", &["wide"], &["soft"], vec![axis]),
        node("Squeeze", &["soft"], &["y"], vec![ints("axes", &[0, 3])]),
    ];
    let squeezed = function("squeezed", 11, &["x"], &["y"], nodes.clone());
    let calling = model(vec![call("squeezed", &["x"], &["y"], vec![])], &["y"], vec![squeezed]);
    let mut graph = Graph::from_model(&calling).unwrap();
    upgrade(&mut graph, WORKING_OPSET).unwrap();

    let mut plain = model(nodes, &["y"], vec![]).proto().clone();
    plain.opset_import = vec![opset("", 11)];
    let (before, after) = (run(&plain.encode_to_vec(), true), run(&graph.to_model().unwrap().encode_to_vec(), true));
    assert_eq!(before, after);
    assert!(graph.nodes().all(|(id, _)| graph.is_foreign(id)) && inlined(&calling).is_err());
}

#[test]
fn what_is_handed_on_and_what_is_left_out() {
    let several = function(
        "several",
        17,
        &["x", "low", "high"],
        &["clipped", "same", "twice", "constant"],
        vec![
            node("Clip", &["x", "low", "high"], &["clipped"], vec![]),
            node("Identity", &["clipped"], &["twice"], vec![]),
            node("Identity", &["x"], &["same"], vec![]),
            node(
                "Constant",
                &[],
                &["constant"],
                vec![AttributeProto { floats: vec![1.0, 2.0], ..attribute("value_floats", AttributeType::Floats) }],
            ),
        ],
    );
    let nodes = vec![
        node("Constant", &[], &["one"], vec![float("value_float", 1.0)]),
        call("several", &["x", "", "one"], &["a", "b", "", "d"], vec![]),
    ];
    let graph = check(&model(nodes, &["a", "b", "d"], vec![several]));
    let held: Vec<&str> =
        graph.values().filter(|(id, _)| graph.is_of_function(*id)).map(|(_, v)| v.name.as_str()).collect();
    assert_eq!(held, ["a/constant"], "the model's own constant is none of a function");
}

/// A sub-graph reads the function's values, calls a function itself, and has names that other sub-graphs have too.
#[test]
fn sub_graphs() {
    let branch = |nodes: Vec<NodeProto>| GraphProto {
        name: Some("branch".to_owned()),
        node: nodes,
        output: vec![port("result", ElementType::Float, &[2, 3])],
        ..Default::default()
    };
    let choose = |x: &str, flag: &str, y: &str| {
        let then = branch(vec![
            call("leaky", &[x], &["inner"], vec![]),
            node("Mul", &["inner", "inner"], &["result"], vec![]),
        ]);
        let otherwise =
            branch(vec![node("Neg", &[x], &["inner"], vec![]), node("Exp", &["inner"], &["result"], vec![])]);
        node("If", &[flag], &[y], vec![graph("then_branch", then), graph("else_branch", otherwise)])
    };
    let chosen = function(
        "chosen",
        17,
        &["v", "on"],
        &["w"],
        vec![node("Abs", &["v"], &["size"], vec![]), choose("size", "on", "w")],
    );
    let nodes = vec![
        call("chosen", &["x", "flag"], &["first"], vec![]),
        call("chosen", &["first", "flag"], &["second"], vec![]),
        choose("second", "flag", "third"),
    ];
    check(&model(nodes, &["third"], vec![leaky(17), chosen]));
}
