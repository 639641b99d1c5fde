//! Which constants count as weights, by the forms in which exporters leave them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId};
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
