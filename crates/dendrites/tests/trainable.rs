//! Which constants count as weights, by the forms in which exporters leave them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET,
    proto::{FunctionProto, NodeProto, OperatorSetIdProto},
    upgrade::upgrade,
};
use dendrites::trainable::weights;

fn a() -> Attributes {
    Attributes::new()
}

/// A graph with the input x, batch by 4.
fn graph() -> (Graph, ValueId) {
    let mut graph = Graph::new("weights", 17);
    let shape = Shape(vec![Dim::Symbol("n".to_owned()), Dim::Known(4)]);
    let x = graph.add_input("x", ElementType::Float, shape);
    (graph, x)
}

fn constant(graph: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32 * 0.1 - 0.3).collect();
    graph.add_constant(name, Tensor::from_f32(shape, &values))
}

fn names(graph: &Graph) -> Vec<&str> {
    weights(graph).into_iter().map(|v| graph.name_of(v)).collect()
}

#[test]
fn joined_biases_and_reordered_gates() {
    let (mut graph, x) = graph();
    let [input, recurrent] = ["input_bias", "recurrent_bias"].map(|name| constant(&mut graph, name, &[1, 8]));
    let bias = graph.op("Concat", "bias", &[input, recurrent], a().with("axis", 1));
    let gates = constant(&mut graph, "gates", &[8, 4]);
    let halves = graph.add_node("Split", "half", &[Some(gates)], a().with("axis", 0).with("num_outputs", 2), 2);
    let swapped = graph.op("Concat", "swapped", &[halves[1], halves[0]], a().with("axis", 0));
    let axis = graph.add_constant("axis", Tensor::int64s(&[0]));
    let w = graph.op("Unsqueeze", "w", &[swapped, axis], a());
    let r = constant(&mut graph, "r", &[1, 8, 8]);
    let steps = graph.op("Unsqueeze", "steps", &[x, axis], a());
    let y = graph.op("RNN", "y", &[steps, w, r, bias], a().with("hidden_size", 8));
    graph.outputs = vec![y];
    assert_eq!(names(&graph), ["gates", "input_bias", "r", "recurrent_bias"]);
}

#[test]
fn operands_of_einsum_and_of_fused_operators() {
    let (mut graph, x) = graph();
    let [w, fused, bias] =
        [("w", [4, 4]), ("fused", [4, 4]), ("bias", [1, 4])].map(|(name, shape)| constant(&mut graph, name, &shape));
    let y = graph.op("Einsum", "y", &[x, w], a().with("equation", "bi,io->bo"));
    let y = graph.op("FusedMatMul", "product", &[y, fused], a());
    let y = graph.op("BiasGelu", "gelu", &[y, bias], a());
    for name in ["product", "gelu"] {
        let id = graph.value(graph.find(name).unwrap()).producer().unwrap();
        graph.node_mut(id).domain = "com.microsoft".to_owned();
    }
    graph.outputs = vec![y];
    assert_eq!(names(&graph), ["bias", "fused", "w"]);
}

#[test]
fn weights_that_a_sub_graph_captures() {
    let (mut graph, x) = graph();
    let w = constant(&mut graph, "w", &[4, 4]);
    constant(&mut graph, "scale", &[4]);
    let branch = |op: &str, operand: &str| {
        let mut body = Graph::new("branch", 17);
        let x = body.capture("x", Some(ElementType::Float), None);
        let other = body.capture(operand, Some(ElementType::Float), None);
        let y = body.op(op, &format!("{operand}/y"), &[x, other], a());
        body.set_type(y, Some(ElementType::Float), None);
        body.outputs = vec![y];
        body.to_body().unwrap()
    };
    let flag = graph.add_input("flag", ElementType::Bool, Shape::default());
    let bodies = a().with("then_branch", branch("MatMul", "w")).with("else_branch", branch("Mul", "scale"));
    let y = graph.op("If", "y", &[flag], bodies);
    graph.outputs = vec![y];
    let _ = (x, w);
    assert_eq!(names(&graph), ["scale", "w"]);
}

/// The places of the weights that are brought out of the branch which `fill` makes of a graph that captures x.
fn hoisted(fill: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Vec<String> {
    let (mut graph, _) = graph();
    let flag = graph.add_input("flag", ElementType::Bool, Shape::default());
    let mut body = Graph::new("branch", 17);
    let x = body.capture("x", Some(ElementType::Float), None);
    let inside = fill(&mut body, x);
    let output = body.op("Identity", "inner/out", &[inside], a());
    body.set_type(output, Some(ElementType::Float), None);
    body.outputs = vec![output];
    let branch = body.to_body().unwrap();
    let y = graph.op("If", "y", &[flag], a().with("then_branch", branch.clone()).with("else_branch", branch));
    graph.outputs = vec![y];
    let before: Vec<String> = names(&graph).into_iter().map(str::to_owned).collect();
    assert!(before.is_empty(), "{before:?}");
    dendrites::hoist(&mut graph).unwrap();
    let weights = weights(&graph);
    assert!(weights.iter().all(|v| graph.place_of(*v).unwrap().to_string() == graph.name_of(*v)));
    weights.iter().filter_map(|v| graph.name_of(*v).strip_prefix("y/then_branch/").map(str::to_owned)).collect()
}

#[test]
fn weights_that_a_sub_graph_holds() {
    let found = hoisted(|body, x| {
        let [w, bias] = [("w", &[4, 4][..]), ("bias", &[4])].map(|(name, shape)| constant(body, name, shape));
        let turned = body.op("Transpose", "turned", &[w], a());
        let h = body.op("MatMul", "h", &[x, turned], a());
        body.op("Add", "sum", &[h, bias], a())
    });
    assert_eq!(found, ["bias", "w"]);
    // Held by a branch, read by a branch of it.
    let found = hoisted(|body, _| {
        constant(body, "w", &[4, 4]);
        let flag = body.capture("flag", Some(ElementType::Bool), None);
        let mut inner = Graph::new("inner", 17);
        let [x, w] = ["x", "w"].map(|name| inner.capture(name, Some(ElementType::Float), None));
        let own = constant(&mut inner, "own", &[4]);
        let h = inner.op("MatMul", "deep/h", &[x, w], a());
        inner.outputs = vec![inner.op("Add", "deep", &[h, own], a())];
        let branch = inner.to_body().unwrap();
        body.op("If", "choice", &[flag], a().with("then_branch", branch.clone()).with("else_branch", branch))
    });
    assert_eq!(found, ["choice/else_branch/own", "choice/then_branch/own", "w"]);
    // What a branch hands on as well as reads.
    let found = hoisted(|body, x| {
        let w = constant(body, "w", &[4]);
        body.op("Mul", "h", &[x, w], a());
        w
    });
    assert_eq!(found, ["w"]);
}

#[test]
fn what_a_sub_graph_hands_to_a_function() {
    let (mut graph, _) = graph();
    let node = |op: &str, inputs: [&str; 2], output: &str| NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.map(str::to_owned).to_vec(),
        output: vec![output.to_owned()],
        ..Default::default()
    };
    let constant_node = NodeProto {
        attribute: a().with("value", Tensor::from_f32(&[4], &[2.0; 4])).as_slice().to_vec(),
        input: Vec::new(),
        ..node("Constant", ["", ""], "own")
    };
    graph.functions = vec![FunctionProto {
        name: Some("layer".to_owned()),
        domain: Some("local".to_owned()),
        input: ["x", "w", "bounds"].map(str::to_owned).to_vec(),
        output: vec!["scaled".to_owned()],
        node: vec![
            constant_node,
            node("MatMul", ["x", "w"], "product"),
            node("Max", ["product", "bounds"], "bounded"),
            node("Mul", ["bounded", "own"], "scaled"),
        ],
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        ..Default::default()
    }];
    graph.opsets.insert("local".to_owned(), 1);
    let flag = graph.add_input("flag", ElementType::Bool, Shape::default());
    let mut body = Graph::new("branch", 17);
    let x = body.capture("x", Some(ElementType::Float), None);
    let [w, bounds] = [("w", &[4, 4][..]), ("bounds", &[4])].map(|(name, shape)| constant(&mut body, name, shape));
    let inside = body.op("layer", "inside", &[x, w, bounds], a());
    let call = body.value(inside).producer().unwrap();
    body.node_mut(call).domain = "local".to_owned();
    body.set_type(inside, Some(ElementType::Float), None);
    body.outputs = vec![inside];
    let branch = body.to_body().unwrap();
    let y = graph.op("If", "y", &[flag], a().with("then_branch", branch.clone()).with("else_branch", branch));
    graph.outputs = vec![y];
    dendrites::hoist(&mut graph).unwrap();
    upgrade(&mut graph, WORKING_OPSET).unwrap();
    assert_eq!(names(&graph), ["y/else_branch/w", "y/then_branch/w"]);
}

#[test]
fn what_a_sub_graph_holds_that_is_no_weight() {
    let found = hoisted(|body, x| {
        let statistics: Vec<ValueId> =
            ["scale", "shift", "mean", "deviation"].iter().map(|name| constant(body, name, &[4])).collect();
        let y = body.op("BatchNormalization", "normal", &[&[x], &statistics[..]].concat(), a());
        let half = body.add_constant("half", Tensor::from_f32(&[1], &[0.5]));
        let y = body.op("Mul", "scaled", &[y, half], a());
        let mask = body.add_constant("mask", Tensor::from_f32(&[1, 4], &[0.0, -1e9, f32::NEG_INFINITY, 0.0]));
        let y = body.op("Add", "masked", &[y, mask], a());
        let shape = body.add_constant("shape", Tensor::int64s(&[-1, 4]));
        body.op("Reshape", "flat", &[y, shape], a())
    });
    assert_eq!(found, ["scale", "shift"]);
}

#[test]
fn what_is_no_weight() {
    let (mut graph, x) = graph();
    let table = constant(&mut graph, "embeddings", &[10, 4]);
    let rows = graph.add_input("rows", ElementType::Int64, Shape(vec![Dim::Symbol("n".to_owned())]));
    let y = graph.op("Gather", "embedded", &[table, rows], a());
    let y = graph.op("Add", "sum", &[x, y], a());
    let hidden = [0.0, -1e9, f32::NEG_INFINITY, 0.0];
    let mask = graph.add_constant("mask", Tensor::from_f32(&[1, 4], &hidden));
    let y = graph.op("Add", "masked", &[y, mask], a());
    let half = graph.add_constant("half", Tensor::from_f32(&[1], &[0.5]));
    let y = graph.op("Mul", "scaled", &[y, half], a());
    let deviations = constant(&mut graph, "deviations", &[4]);
    let y = graph.op("Div", "normalised", &[y, deviations], a());
    graph.outputs = vec![y];
    assert!(names(&graph).is_empty(), "{:?}", names(&graph));
}
