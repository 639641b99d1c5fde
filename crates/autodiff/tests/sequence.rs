//! Sequences and optional values are resolved to tensors: same values, and the gradients of the tensors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;

use common::{error, input, numbers, run, weighted_sum, with_gradients};
use dendrite_autodiff::{Error, gradients};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

fn f32s(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

/// The gradient of an input from the weights of the result.
type Expected<'a> = &'a dyn Fn(&[f64]) -> Vec<f64>;

/// Build a graph from two inputs of shape [2, 3]; the value it ends with, of the given shape, is a sum of elements of theirs,
/// so each element of the gradients is one of the weights, or 0. `expected` says which for the two inputs.
fn check(build: impl Fn(&mut Graph, [ValueId; 2]) -> ValueId, shape: &[usize], expected: [Expected<'_>; 2]) {
    let mut graph = Graph::new("sequence", WORKING_OPSET);
    let wrt = [input(&mut graph, "a", &[2, 3]), input(&mut graph, "b", &[2, 3])];
    let y = build(&mut graph, wrt);
    graph.set_type(y, Some(ElementType::Float), Some(Shape::known(shape)));
    graph.outputs.push(y);
    let original = graph.clone();
    let weight = f32s(shape, 3);
    let total = weighted_sum(&mut graph, &[(y, weight.clone())]);
    let names = with_gradients(&mut graph, total, &wrt).unwrap();
    let (a, b) = (f32s(&[2, 3], 1), f32s(&[2, 3], 2));
    let feeds = [("a", &a), ("b", &b)];
    let (ours, theirs) = (run(&graph, &feeds), run(&original, &feeds));
    let y = original.name_of(y);
    assert_eq!(ours[y].to_f32().unwrap(), theirs[y].to_f32().unwrap());
    for (name, expected) in names.iter().zip(expected) {
        let found = name.as_ref().map_or(vec![0.0; 6], |name| ours[name].to_f32().unwrap());
        assert!(error(&found, &expected(&weight.to_f64().unwrap())) < 1e-6);
    }
}

fn construct(graph: &mut Graph, v: &[ValueId]) -> ValueId {
    graph.op("SequenceConstruct", "sequence", v, Attributes::new())
}

fn position(graph: &mut Graph, at: i64) -> ValueId {
    graph.add_constant("position", Tensor::from_i64(&[], &[at]))
}

fn zeros(_: &[f64]) -> Vec<f64> {
    vec![0.0; 6]
}

#[test]
fn elements_of_sequences() {
    for at in [1i64, -1] {
        let build = |graph: &mut Graph, v: [ValueId; 2]| {
            let sequence = construct(graph, &v);
            let at = position(graph, at);
            graph.op("SequenceAt", "y", &[sequence, at], Attributes::new())
        };
        check(build, &[2, 3], [&zeros, &|w| w.to_vec()]);
    }
    // What is inserted and erased on the way.
    let build = |graph: &mut Graph, v: [ValueId; 2]| {
        let sequence = construct(graph, &[v[0]]);
        let first = position(graph, 0);
        let inserted = graph.op("SequenceInsert", "inserted", &[sequence, v[1], first], Attributes::new());
        let erased = graph.op("SequenceErase", "erased", &[inserted], Attributes::new());
        graph.op("SequenceAt", "y", &[erased, first], Attributes::new())
    };
    check(build, &[2, 3], [&zeros, &|w| w.to_vec()]);
}

#[test]
fn sequences_joined() {
    let build = |graph: &mut Graph, v: [ValueId; 2]| {
        let sequence = construct(graph, &v);
        graph.op("ConcatFromSequence", "y", &[sequence], Attributes::new().with("axis", 0i64))
    };
    check(build, &[4, 3], [&|w| w[..6].to_vec(), &|w| w[6..].to_vec()]);
    let build = |graph: &mut Graph, v: [ValueId; 2]| {
        let sequence = construct(graph, &v);
        graph.op("ConcatFromSequence", "y", &[sequence], Attributes::new().with("axis", -1i64).with("new_axis", 1i64))
    };
    let every_other = |w: &[f64], first: usize| w.iter().skip(first).step_by(2).copied().collect::<Vec<_>>();
    check(build, &[2, 3, 2], [&|w| every_other(w, 0), &|w| every_other(w, 1)]);
}

#[test]
fn tensors_split_into_sequences() {
    // The second column alone, as [2, 1] and as [2].
    let column = |w: &[f64]| vec![0.0, w[0], 0.0, 0.0, w[1], 0.0];
    for keep in [1i64, 0] {
        let build = |graph: &mut Graph, v: [ValueId; 2]| {
            let attributes = Attributes::new().with("axis", 1i64).with("keepdims", keep);
            let sequence = graph.op("SplitToSequence", "sequence", &[v[0]], attributes);
            let at = position(graph, 1);
            graph.op("SequenceAt", "y", &[sequence, at], Attributes::new())
        };
        let shape: &[usize] = if keep == 1 { &[2, 1] } else { &[2] };
        check(build, shape, [&column, &zeros]);
    }
    // Parts of two columns, of which the last has one; parts of given sizes.
    for sizes in [Tensor::from_i64(&[], &[2]), Tensor::from_i64(&[2], &[2, 1])] {
        let build = |graph: &mut Graph, v: [ValueId; 2]| {
            let sizes = graph.add_constant("sizes", sizes.clone());
            let sequence =
                graph.op("SplitToSequence", "sequence", &[v[1], sizes], Attributes::new().with("axis", 1i64));
            let at = position(graph, 1);
            graph.op("SequenceAt", "y", &[sequence, at], Attributes::new())
        };
        check(build, &[2, 1], [&zeros, &|w| vec![0.0, 0.0, w[0], 0.0, 0.0, w[1]]]);
    }
}

#[test]
fn optional_values() {
    for wrapped in [true, false] {
        let build = |graph: &mut Graph, v: [ValueId; 2]| {
            let of = if wrapped { graph.op("Optional", "optional", &[v[0]], Attributes::new()) } else { v[0] };
            graph.op("OptionalGetElement", "y", &[of], Attributes::new())
        };
        check(build, &[2, 3], [&|w| w.to_vec(), &zeros]);
    }
}

#[test]
fn a_sequence_from_elsewhere_is_refused() {
    let mut graph = Graph::new("refused", WORKING_OPSET);
    let x = input(&mut graph, "x", &[2, 3]);
    let sequence = graph.op("SequenceMap", "sequence", &[x], Attributes::new());
    let at = position(&mut graph, 0);
    let y = graph.op("SequenceAt", "y", &[sequence, at], Attributes::new());
    graph.set_type(y, Some(ElementType::Float), Some(Shape::known(&[2, 3])));
    let total = weighted_sum(&mut graph, &[(y, f32s(&[2, 3], 1))]);
    let refused = gradients(&mut graph, total, &[x], &HashSet::new()).unwrap_err();
    assert!(
        matches!(refused, Error::Stop { .. }) && refused.to_string().contains("not built from tensors"),
        "{refused}"
    );
}
