//! Shape inference on the models that ship with the repository.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor};
use dendrite_runtime::{fold_integers, infer_shapes};

/// Every .onnx file below a folder.
fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

fn shape(graph: &Graph, name: &str) -> String {
    graph.value(graph.find(name).unwrap()).shape.as_ref().unwrap().to_string()
}

/// The files under `models/`, and those under the folder that `DENDRITE_MODELS` names.
#[test]
fn every_float_value_of_every_model_has_a_rank_and_keeps_its_batch() {
    let mut files = Vec::new();
    models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), &mut files);
    if let Some(more) = std::env::var_os("DENDRITE_MODELS") {
        models(Path::new(&more), &mut files);
    }
    for file in files {
        let start = std::time::Instant::now();
        let mut graph = Graph::from_model(&Model::open(&file).unwrap()).unwrap();
        infer_shapes(&mut graph).unwrap();
        let time = start.elapsed();
        let first = graph.value(graph.inputs[0]).shape.clone().unwrap().0[0].clone();
        let (mut total, mut batched) = (0, 0);
        for (_, value) in graph.values().filter(|(_, v)| v.producer().is_some()) {
            assert!(value.element_type.is_some(), "{file:?}: {}", value.name);
            let shape = value.shape.as_ref().unwrap_or_else(|| panic!("{file:?}: {}", value.name));
            let open = shape.0.contains(&Dim::Unknown);
            assert!(!open || !value.element_type.unwrap().is_float(), "{file:?}: {} {shape}", value.name);
            total += 1;
            batched += usize::from(shape.0.contains(&first));
        }
        println!("{file:?}: {total} values, {batched} with {first}, {time:?}");
        for output in &graph.outputs {
            let name = graph.name_of(*output);
            assert_eq!(graph.value(*output).shape.as_ref().unwrap().0[0], first, "{file:?}: {name}");
        }
    }
}

/// x [?, 4] -> Reshape to a target that is computed from x's shape, and a constant one.
fn computed_reshape() -> Graph {
    let mut graph = Graph::new("g", 17);
    let x = graph.add_input("x", ElementType::Float, Shape(vec![Dim::Unknown, Dim::Known(4)]));
    let size = graph.op("Shape", "size", &[x], Attributes::new());
    let zero = graph.add_constant("zero", Tensor::int64s(&[0]));
    let rows = graph.op("Gather", "rows", &[size, zero], Attributes::new().with("axis", 0));
    let halves = graph.add_constant("halves", Tensor::int64s(&[2, 2]));
    let twice = graph.op("Add", "twice", &[halves, zero], Attributes::new());
    let target = graph.op("Concat", "target", &[rows, twice], Attributes::new().with("axis", 0));
    let y = graph.op("Reshape", "y", &[x, target], Attributes::new());
    let minus = graph.add_constant("minus", Tensor::int64s(&[-1]));
    let flat = graph.op("Reshape", "flat", &[y, minus], Attributes::new());
    let sum = graph.op("ReduceSum", "sum", &[y], Attributes::new().with("keepdims", 0));
    graph.outputs = vec![y, flat, sum];
    graph
}

#[test]
fn computed_shapes_are_found_by_probing() {
    let mut graph = computed_reshape();
    infer_shapes(&mut graph).unwrap();
    assert_eq!(shape(&graph, "x"), "[batch, 4]");
    assert_eq!(shape(&graph, "y"), "[batch, 2, 2]");
    assert_eq!(shape(&graph, "flat"), "[?]");
    assert_eq!(shape(&graph, "sum"), "[]");
    assert_eq!(shape(&graph, "target"), "[3]");
    assert_eq!(graph.value(graph.find("target").unwrap()).element_type, Some(ElementType::Int64));
}

#[test]
fn symbols_keep_their_names_and_new_ones_do_not_clash() {
    let mut graph = Graph::new("g", 17);
    let f = ElementType::Float;
    let a =
        graph.add_input("a", f, Shape(vec![Dim::Symbol("batch".into()), Dim::Symbol("time".into()), Dim::Known(8)]));
    let b = graph.add_input("b", f, Shape(vec![Dim::Unknown, Dim::Known(8), Dim::Known(3)]));
    let y = graph.op("MatMul", "y", &[a, b], Attributes::new());
    graph.outputs = vec![y];
    infer_shapes(&mut graph).unwrap();
    assert_eq!(shape(&graph, "a"), "[batch, time, 8]");
    assert_eq!(shape(&graph, "b"), "[b_0, 8, 3]");
}

#[test]
fn weights_are_not_needed_where_inference_suffices() {
    let mut graph = Graph::new("g", 17);
    let x = graph.add_input(
        "x",
        ElementType::Float,
        Shape(vec![Dim::Symbol("N".into()), Dim::Known(3), Dim::Known(16), Dim::Known(16)]),
    );
    let w = graph.add_constant("w", Tensor::filled(ElementType::Float, &[8, 3, 3, 3], 0.5));
    let y = graph.op("Conv", "y", &[x, w], Attributes::new().with("strides", vec![2, 2]));
    graph.outputs = vec![y];
    infer_shapes(&mut graph).unwrap();
    assert_eq!(shape(&graph, "y"), "[N, 8, 7, 7]");
    assert_eq!(shape(&graph, "w"), "[8, 3, 3, 3]");
    assert!(graph.constant(w).is_some());
}

#[test]
fn integers_that_follow_from_constants_become_constants() {
    let mut graph = computed_reshape();
    infer_shapes(&mut graph).unwrap();
    fold_integers(&mut graph).unwrap();
    let operators = |graph: &Graph| graph.nodes().map(|(_, n)| n.op.clone()).collect::<Vec<_>>();
    // The batch is still open, so what depends on it is computed.
    assert_eq!(operators(&graph), ["Shape", "Gather", "Concat", "Reshape", "Reshape", "ReduceSum"]);
    let x = graph.inputs[0];
    graph.set_type(x, Some(ElementType::Float), Some(Shape::known(&[3, 4])));
    infer_shapes(&mut graph).unwrap();
    fold_integers(&mut graph).unwrap();
    assert_eq!(operators(&graph), ["Reshape", "Reshape", "ReduceSum"]);
    let target = graph.nodes().find(|(_, n)| n.is("Reshape")).and_then(|(_, n)| n.input(1)).unwrap();
    assert_eq!(graph.constant(target).unwrap().to_i64().unwrap(), [3, 2, 2]);
}

/// A probe run gives inputs made-up contents: what follows from them is no fact.
#[test]
fn shapes_that_the_contents_of_an_input_decide_stay_open() {
    let mut graph = Graph::new("g", 18);
    let x = graph.add_input("x", ElementType::Float, Shape::known(&[3, 2, 4]));
    let axes = graph.add_input("axes", ElementType::Int64, Shape::known(&[1]));
    let sum = graph.op("ReduceSum", "sum", &[x, axes], Attributes::new());
    let twice = graph.op("Add", "twice", &[axes, axes], Attributes::new());
    let pads = graph.op("Concat", "pads", &[twice, twice, twice, twice, axes, axes], Attributes::new().with("axis", 0));
    let padded = graph.op("Pad", "padded", &[x, pads], Attributes::new());
    let after = graph.op("Relu", "after", &[padded], Attributes::new());
    // Of indices only the shape matters.
    let picked = graph.op("Gather", "picked", &[x, axes], Attributes::new());
    graph.outputs = vec![sum, after, picked];
    infer_shapes(&mut graph).unwrap();
    let known = |name: &str| graph.value(graph.find(name).unwrap()).shape.as_ref().and_then(Shape::as_known);
    assert_eq!(known("sum"), None);
    assert_eq!(known("padded"), None);
    assert_eq!(known("after"), None);
    assert_eq!(known("picked"), Some(vec![1, 2, 4]));
}

#[test]
fn a_state_that_keeps_its_shape_leaves_a_loop_with_it() {
    // s' = s [n, 4] as it is, and r' = [r, r]: the shape of one is that of its beginning, of the other its rank.
    let mut graph = Graph::new("g", 17);
    let s = graph.add_input("s", ElementType::Float, Shape(vec![Dim::Symbol("n".to_owned()), Dim::Known(4)]));
    let count = graph.add_input("count", ElementType::Int64, Shape::default());
    let mut body = Graph::new("body", 17);
    body.add_input("number", ElementType::Int64, Shape::default());
    let go_on = body.add_input("go_on", ElementType::Bool, Shape::default());
    let states = ["kept", "doubled"].map(|name| {
        let id = body.add_input(name, ElementType::Float, Shape::default());
        body.set_type(id, Some(ElementType::Float), None);
        id
    });
    let go_on = body.op("Identity", "goes_on", &[go_on], Attributes::new());
    let kept = body.op("Tanh", "kept_too", &[states[0]], Attributes::new());
    let doubled = body.op("Concat", "twice", &[states[1], states[1]], Attributes::new().with("axis", 1));
    body.outputs = vec![go_on, kept, doubled];
    let attributes = Attributes::new().with("body", body.to_body().unwrap());
    let last = graph.add_node("Loop", "last", &[Some(count), None, Some(s), Some(s)], attributes, 2);
    let w = graph.add_constant("w", Tensor::filled(ElementType::Float, &[4, 3], 1.0));
    let y = graph.op("MatMul", "y", &[last[0], w], Attributes::new());
    let z = graph.op("Abs", "z", &[last[1]], Attributes::new());
    graph.outputs = vec![y, z];
    infer_shapes(&mut graph).unwrap();
    assert_eq!([shape(&graph, "last"), shape(&graph, "y")], ["[n, 4]", "[n, 3]"]);
    assert_eq!(graph.value(z).shape, Some(Shape(vec![Dim::Symbol("n".to_owned()), Dim::Unknown])));
}
