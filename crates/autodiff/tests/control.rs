//! Scan, Loop and If against the same computation written out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;

use common::{error, input, numbers, run, weighted_sum, with_gradients};
use dendrite_autodiff::expr::{Builder, V};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

const STEPS: usize = 4;
const SIZE: usize = 3;

fn f32s(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

/// s' = tanh(s w + x), y = s' * x.
fn cell<'b>(s: V<'b>, x: V<'b>, w: V<'b>) -> (V<'b>, V<'b>) {
    let next = (s.matmul(w) + x).unary("Tanh");
    (next, next * x)
}

/// How the recurrence walks over its array.
#[derive(Clone, Copy)]
struct Walk {
    axis: usize,
    backwards: bool,
}

fn inputs(graph: &mut Graph, walk: Walk, steps: Option<usize>) -> [ValueId; 3] {
    let mut shape = vec![Dim::Known(2), Dim::Known(SIZE)];
    shape.insert(walk.axis, steps.map_or(Dim::Symbol("t".to_owned()), Dim::Known));
    let x = graph.add_input("x", ElementType::Float, Shape(shape));
    [x, input(graph, "s", &[2, SIZE]), input(graph, "w", &[SIZE, SIZE])]
}

fn array_shape(walk: Walk) -> Vec<usize> {
    let mut shape = vec![2, SIZE];
    shape.insert(walk.axis, STEPS);
    shape
}

/// The last state and the outputs of all steps, by a Scan.
fn scanned(walk: Walk, steps: Option<usize>) -> Graph {
    let mut graph = Graph::new("scanned", WORKING_OPSET);
    let [x, s, w] = inputs(&mut graph, walk, steps);
    let mut body = Graph::new("body", WORKING_OPSET);
    let inner_s = input(&mut body, "inner_s", &[2, SIZE]);
    let inner_x = input(&mut body, "inner_x", &[2, SIZE]);
    let inner_w = body.capture("w", Some(ElementType::Float), Some(Shape::known(&[SIZE, SIZE])));
    body.outputs = Builder::scope(&mut body, "step", |b| {
        let (next, y) = cell(b.value(inner_s), b.value(inner_x), b.value(inner_w));
        vec![next.id(), y.id()]
    });
    let direction = vec![i64::from(walk.backwards)];
    let attributes = Attributes::new()
        .with("body", body.to_body().unwrap())
        .with("num_scan_inputs", 1i64)
        .with("scan_input_axes", vec![walk.axis as i64])
        .with("scan_input_directions", direction.clone())
        .with("scan_output_axes", vec![walk.axis as i64 - 3])
        .with("scan_output_directions", direction);
    let outputs = graph.add_node("Scan", "scan", &[Some(s), Some(x)], attributes, 2);
    graph.set_type(outputs[0], Some(ElementType::Float), Some(Shape::known(&[2, SIZE])));
    let shape = graph.value(x).shape.clone();
    graph.set_type(outputs[1], Some(ElementType::Float), shape);
    let _ = w;
    graph.outputs = outputs;
    graph
}

/// The same, step by step.
fn unrolled(walk: Walk) -> Graph {
    let mut graph = Graph::new("unrolled", WORKING_OPSET);
    let [x, s, w] = inputs(&mut graph, walk, Some(STEPS));
    graph.outputs = Builder::scope(&mut graph, "steps", |b| {
        let (x, w) = (b.value(x), b.value(w));
        let mut state = b.value(s);
        let mut ys = Vec::new();
        let order: Vec<usize> = if walk.backwards { (0..STEPS).rev().collect() } else { (0..STEPS).collect() };
        for t in order {
            let at = x.slice(&[(walk.axis, t as i64, t as i64 + 1, 1)]).squeeze(&[walk.axis]);
            let (next, y) = cell(state, at, w);
            state = next;
            ys.push(y.unsqueeze(&[walk.axis]));
        }
        if walk.backwards {
            ys.reverse();
        }
        vec![state.id(), b.concat(&ys, walk.axis).id()]
    });
    graph
}

/// Loss and gradients with respect to all inputs.
fn derivatives(mut graph: Graph, shapes: &[(&str, Vec<usize>)], outputs: &[Vec<usize>]) -> HashMap<String, Vec<f32>> {
    let weights: Vec<(ValueId, Tensor)> =
        graph.outputs.iter().zip(outputs).enumerate().map(|(i, (y, shape))| (*y, f32s(shape, 20 + i as u64))).collect();
    let loss = weighted_sum(&mut graph, &weights);
    graph.outputs = vec![loss];
    let wrt: Vec<ValueId> = shapes.iter().map(|(name, _)| graph.find(name).unwrap()).collect();
    let names = with_gradients(&mut graph, loss, &wrt).unwrap();
    let values: Vec<(&str, Tensor)> =
        shapes.iter().enumerate().map(|(i, (name, shape))| (*name, f32s(shape, i as u64 + 1))).collect();
    let feeds: Vec<(&str, &Tensor)> = values.iter().map(|(n, t)| (*n, t)).collect();
    let results = run(&graph, &feeds);
    let mut found = HashMap::new();
    for ((name, shape), gradient) in shapes.iter().zip(names) {
        let tensor = &results[&gradient.unwrap()];
        assert_eq!(tensor.shape(), shape.as_slice(), "{name}");
        found.insert((*name).to_owned(), tensor.to_f32().unwrap());
    }
    found
}

fn agree(a: &HashMap<String, Vec<f32>>, b: &HashMap<String, Vec<f32>>) {
    for (name, expected) in b {
        let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
        assert!(expected.iter().any(|v| v.abs() > 1e-3), "{name} is zero");
        let worst = error(&a[name], &expected);
        assert!(worst < 1e-5, "{name} differs by {worst:.1e}");
    }
}

#[test]
fn a_scan_has_the_gradients_of_its_steps() {
    for axis in 0..3 {
        for backwards in [false, true] {
            let walk = Walk { axis, backwards };
            let shapes = [("x", array_shape(walk)), ("s", vec![2, SIZE]), ("w", vec![SIZE, SIZE])];
            let outputs = [vec![2, SIZE], array_shape(walk)];
            let expected = derivatives(unrolled(walk), &shapes, &outputs);
            for steps in [Some(STEPS), None] {
                agree(&derivatives(scanned(walk, steps), &shapes, &outputs), &expected);
            }
        }
    }
}

/// s' = s + sin(s w) as often as `count` says, and every s'.
fn looped() -> Graph {
    let mut graph = Graph::new("looped", WORKING_OPSET);
    let s = input(&mut graph, "s", &[2, SIZE]);
    input(&mut graph, "w", &[SIZE, SIZE]);
    let count = graph.add_constant("count", Tensor::from_i64(&[], &[STEPS as i64]));
    let mut body = Graph::new("body", WORKING_OPSET);
    body.add_input("number", ElementType::Int64, Shape::known(&[]));
    let go_on = body.add_input("go_on", ElementType::Bool, Shape::known(&[]));
    let inner_s = input(&mut body, "inner_s", &[2, SIZE]);
    let inner_w = body.capture("w", Some(ElementType::Float), Some(Shape::known(&[SIZE, SIZE])));
    let still = body.op("Identity", "still", &[go_on], Attributes::new());
    body.set_type(still, Some(ElementType::Bool), Some(Shape::known(&[])));
    let number = body.find("number").unwrap();
    body.outputs = Builder::scope(&mut body, "step", |b| {
        let s = b.value(inner_s);
        let next = s + s.matmul(b.value(inner_w)).unary("Sin");
        let y = next * b.value(number).cast(ElementType::Float);
        vec![still, next.id(), y.id()]
    });
    let attributes = Attributes::new().with("body", body.to_body().unwrap());
    let outputs = graph.add_node("Loop", "loop", &[Some(count), None, Some(s)], attributes, 2);
    for (output, shape) in outputs.iter().zip([vec![2, SIZE], vec![STEPS, 2, SIZE]]) {
        graph.set_type(*output, Some(ElementType::Float), Some(Shape::known(&shape)));
    }
    graph.outputs = outputs;
    graph
}

fn looped_by_hand() -> Graph {
    let mut graph = Graph::new("by hand", WORKING_OPSET);
    let (s, w) = (input(&mut graph, "s", &[2, SIZE]), input(&mut graph, "w", &[SIZE, SIZE]));
    graph.outputs = Builder::scope(&mut graph, "steps", |b| {
        let (mut s, w) = (b.value(s), b.value(w));
        let mut ys = Vec::new();
        for number in 0..STEPS {
            s = s + s.matmul(w).unary("Sin");
            ys.push((s * s.scalar(number as f64)).unsqueeze(&[0]));
        }
        vec![s.id(), b.concat(&ys, 0).id()]
    });
    graph
}

#[test]
fn a_loop_has_the_gradients_of_its_iterations() {
    let shapes = [("s", vec![2, SIZE]), ("w", vec![SIZE, SIZE])];
    let outputs = [vec![2, SIZE], vec![STEPS, 2, SIZE]];
    agree(&derivatives(looped(), &shapes, &outputs), &derivatives(looped_by_hand(), &shapes, &outputs));
}

/// x * w where the sum of x is positive, else exp(x).
fn branched() -> Graph {
    let mut graph = Graph::new("branched", WORKING_OPSET);
    let x = input(&mut graph, "x", &[4]);
    input(&mut graph, "w", &[4]);
    let positive =
        Builder::scope(&mut graph, "condition", |b| b.value(x).sum(&[0], false).compare_to("Greater", 0.0).id());
    let shape = Some(Shape::known(&[4]));
    let branch = |name: &str, build: &dyn for<'b> Fn(V<'b>, V<'b>) -> V<'b>| {
        let mut body = Graph::new(name, WORKING_OPSET);
        let [x, w] = ["x", "w"].map(|v| body.capture(v, Some(ElementType::Float), shape.clone()));
        body.outputs = Builder::scope(&mut body, name, |b| vec![build(b.value(x), b.value(w)).id()]);
        body.to_body().unwrap()
    };
    let attributes = Attributes::new()
        .with("then_branch", branch("product", &|x, w| x * w))
        .with("else_branch", branch("growth", &|x, _| x.unary("Exp")));
    let y = graph.op("If", "y", &[positive], attributes);
    graph.set_type(y, Some(ElementType::Float), shape);
    graph.outputs = vec![y];
    graph
}

#[test]
fn an_if_has_the_gradient_of_the_branch_that_was_taken() {
    let mut graph = branched();
    let weight = f32s(&[4], 5);
    let y = graph.outputs[0];
    let loss = weighted_sum(&mut graph, &[(y, weight.clone())]);
    graph.outputs = vec![loss];
    let wrt = ["x", "w"].map(|name| graph.find(name).unwrap());
    let names: Vec<String> = with_gradients(&mut graph, loss, &wrt).unwrap().into_iter().flatten().collect();
    let (w, weight) = (f32s(&[4], 6), weight.to_f32().unwrap());
    for sign in [1.0f32, -1.0] {
        let x: Vec<f32> = [0.5, 1.5, 0.25, 0.75].map(|v| v * sign).to_vec();
        let results = run(&graph, &[("x", &Tensor::from_f32(&[4], &x)), ("w", &w)]);
        let [dx, dw] = [0, 1].map(|i| results[&names[i]].to_f32().unwrap());
        for i in 0..4 {
            let w = w.to_f32().unwrap()[i];
            let expected = if sign > 0.0 { [weight[i] * w, weight[i] * x[i]] } else { [weight[i] * x[i].exp(), 0.0] };
            assert!((dx[i] - expected[0]).abs() < 1e-6 && (dw[i] - expected[1]).abs() < 1e-6);
        }
    }
}

/// The gradient of a number made of the gradients: second derivatives.
fn second(mut graph: Graph, walk: Walk) -> Vec<f32> {
    let y = graph.outputs[1];
    let loss = weighted_sum(&mut graph, &[(y, f32s(&array_shape(walk), 9))]);
    let wrt = ["x", "s", "w"].map(|name| graph.find(name).unwrap());
    graph.outputs = vec![loss];
    let first = dendrite_autodiff::gradients(&mut graph, loss, &wrt, &Default::default()).unwrap();
    let of: Vec<(ValueId, Tensor)> = first
        .into_iter()
        .zip([array_shape(walk), vec![2, SIZE], vec![SIZE, SIZE]])
        .enumerate()
        .map(|(i, (v, shape))| (v.unwrap(), f32s(&shape, 30 + i as u64)))
        .collect();
    let loss = weighted_sum(&mut graph, &of);
    let name = with_gradients(&mut graph, loss, &wrt[2..]).unwrap()[0].clone().unwrap();
    let shapes = [("x", array_shape(walk)), ("s", vec![2, SIZE]), ("w", vec![SIZE, SIZE])];
    let values: Vec<_> = shapes.iter().enumerate().map(|(i, (n, s))| (*n, f32s(s, i as u64 + 1))).collect();
    let feeds: Vec<(&str, &Tensor)> = values.iter().map(|(n, t)| (*n, t)).collect();
    run(&graph, &feeds)[&name].to_f32().unwrap()
}

#[test]
fn a_scan_can_be_differentiated_twice() {
    let walk = Walk { axis: 1, backwards: true };
    let expected: Vec<f64> = second(unrolled(walk), walk).into_iter().map(f64::from).collect();
    assert!(expected.iter().any(|v| v.abs() > 1e-3));
    let worst = error(&second(scanned(walk, Some(STEPS)), walk), &expected);
    assert!(worst < 1e-5, "differs by {worst:.1e}");
}
