//! What the backward pass computes anew is what the forward pass computed, and it comes late.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{collections::HashSet, fs};

use common::{input, numbers, try_run};
use dendrite_autodiff::{
    expr::Builder,
    footprint, gradients,
    recompute::{Recomputation, recompute},
};
use dendrite_onnx::{Attributes, ElementType, Graph, Model, Shape, Tensor, ValueId, WORKING_OPSET};
use dendrite_runtime::{Session, SessionOptions};

const DEPTH: usize = 24;
const WIDTH: usize = 16;
const ROWS: usize = 64;

/// A deep network, `layer` by layer, and the sum of its squared outputs: graph, loss, weights.
fn deep(layer: impl Fn(&Builder, ValueId, ValueId) -> ValueId) -> (Graph, ValueId, Vec<ValueId>) {
    let mut graph = Graph::new("deep", WORKING_OPSET);
    let mut x = input(&mut graph, "x", &[ROWS, WIDTH]);
    let weights: Vec<ValueId> = (0..DEPTH).map(|i| input(&mut graph, &format!("w{i}"), &[WIDTH, WIDTH])).collect();
    let loss = Builder::scope(&mut graph, "layer", |b| {
        for w in &weights {
            x = layer(b, x, *w);
        }
        (b.value(x) * b.value(x)).sum(&[0, 1], false).id()
    });
    (graph, loss, weights)
}

fn perceptron(b: &Builder, x: ValueId, w: ValueId) -> ValueId {
    b.value(x).matmul(b.value(w)).unary("Tanh").id()
}

/// The graph with its gradients as outputs after the loss, and what recomputation made of it.
fn differentiated(
    (mut graph, loss, weights): (Graph, ValueId, Vec<ValueId>),
    anew: bool,
) -> (Graph, Option<Recomputation>) {
    let found = gradients(&mut graph, loss, &weights, &HashSet::new()).unwrap();
    let pairs: Vec<(ValueId, ValueId)> = weights.iter().copied().zip(found.into_iter().flatten()).collect();
    assert_eq!(pairs.len(), DEPTH);
    let done = anew.then(|| recompute(&mut graph, loss, &pairs).unwrap());
    graph.outputs = pairs.iter().map(|(_, gradient)| *gradient).chain([loss]).collect();
    graph.prune();
    (graph, done)
}

fn feeds(first: f32) -> Vec<(String, Tensor)> {
    let mut x = numbers(ROWS * WIDTH, 1);
    x[0] = first;
    let weight = |i: usize| Tensor::from_f32(&[WIDTH, WIDTH], &numbers(WIDTH * WIDTH, 2 + i as u64));
    let weights = (0..DEPTH).map(|i| (format!("w{i}"), weight(i)));
    std::iter::once(("x".to_owned(), Tensor::from_f32(&[ROWS, WIDTH], &x))).chain(weights).collect()
}

/// The bytes of every output in order: those of gradients may be under other names.
fn results(graph: &Graph, feeds: &[(String, Tensor)]) -> Vec<Vec<u8>> {
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let found = try_run(graph, &feeds).unwrap();
    graph.outputs.iter().map(|v| found[graph.name_of(*v)].bytes().to_vec()).collect()
}

#[test]
fn gradients_are_the_same_to_the_bit_and_memory_is_less() {
    let (kept, _) = differentiated(deep(perceptron), false);
    let (anew, done) = differentiated(deep(perceptron), true);
    let done = done.unwrap();
    assert!(done.segments > 2 && done.nodes > DEPTH, "{done:?}");
    assert!(done.after * 2 < done.before, "{done:?}");
    assert_eq!(done.before, footprint::peak(&kept).unwrap());
    assert_eq!(done.after, footprint::peak(&anew).unwrap());
    // Numbers that are none pass the gates as they are.
    for first in [0.5, f32::INFINITY, f32::NAN] {
        assert_eq!(results(&kept, &feeds(first)), results(&anew, &feeds(first)), "{first}");
    }
}

/// ONNX Runtime neither merges the copies with what they are copied from nor folds the gates away.
#[test]
fn the_runtime_keeps_the_copies() {
    let (graph, done) = differentiated(deep(perceptron), true);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("optimized.onnx");
    Session::from_graph(&graph, &SessionOptions { dump: Some(file.clone()), threads: 1, ..Default::default() })
        .unwrap();
    let optimized = Graph::from_model(&Model::from_bytes(fs::read(file).unwrap()).unwrap()).unwrap();
    let count = |graph: &Graph, op: &str| graph.nodes().filter(|(_, node)| node.op == op).count();
    let copied = count(&graph, "Tanh") - DEPTH;
    assert!(copied >= DEPTH / 2 && copied <= done.unwrap().nodes);
    for op in ["Tanh", "Size", "Max"] {
        assert_eq!(count(&optimized, op), count(&graph, op), "{op}");
    }
    assert!(count(&optimized, "Reshape") >= done.unwrap().segments - 1);
}

/// What would be another number the second time is kept.
#[test]
fn what_is_random_is_not_computed_again() {
    let noisy = |b: &Builder, x: ValueId, w: ValueId| {
        let product = b.value(x).matmul(b.value(w));
        let shape = Some(Shape::known(&[ROWS, WIDTH]));
        let noise = b.node("RandomNormalLike", &[product], Attributes::new(), ElementType::Float, shape);
        (product.unary("Tanh") * noise).id()
    };
    let (graph, done) = differentiated(deep(noisy), true);
    assert!(done.unwrap().nodes > 0);
    assert_eq!(graph.nodes().filter(|(_, node)| node.op == "RandomNormalLike").count(), DEPTH);
}

/// A graph in which nothing is gained stays as it is.
#[test]
fn a_shallow_graph_is_left_alone() {
    let mut graph = Graph::new("shallow", WORKING_OPSET);
    let x = input(&mut graph, "x", &[4, 3]);
    let w = input(&mut graph, "w", &[3, 2]);
    let loss = Builder::scope(&mut graph, "layer", |b| b.value(x).matmul(b.value(w)).sum(&[0, 1], false).id());
    let found = gradients(&mut graph, loss, &[w], &HashSet::new()).unwrap();
    let nodes = graph.node_ids().len();
    let done = recompute(&mut graph, loss, &[(w, found[0].unwrap())]).unwrap();
    assert_eq!((done.segments, done.nodes, done.before), (1, 0, done.after));
    assert_eq!(graph.node_ids().len(), nodes);
}
