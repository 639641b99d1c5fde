//! Quantisation: what is differentiated straight through and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;

use common::{error, input, numbers, run, weighted_sum, with_gradients};
use dendrite_autodiff::{Error, gradients};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

/// A node whose result is float32 of the given shape.
fn op(graph: &mut Graph, op: &str, inputs: &[ValueId], attributes: Attributes, shape: &[Dim]) -> ValueId {
    let v = graph.op(op, op, inputs, attributes);
    graph.set_type(v, Some(ElementType::Float), Some(Shape(shape.to_vec())));
    v
}

fn known(dims: &[usize]) -> Vec<Dim> {
    Shape::known(dims).0
}

fn f32s(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

/// A value that is quantised and dequantised, moved in between: straight through where it was not cut off.
#[test]
fn quantised_values_are_differentiated_straight_through() {
    straight_through("");
    straight_through("com.microsoft");
}

fn straight_through(domain: &str) {
    let mut graph = Graph::new("quantised", WORKING_OPSET);
    let (x, scale) = (input(&mut graph, "x", &[2, 3]), input(&mut graph, "scale", &[]));
    let zero = graph.add_constant("zero", Tensor::scalar(ElementType::Int8, 3.0));
    let q = graph.op("QuantizeLinear", "q", &[x, scale, zero], Attributes::new());
    graph.set_type(q, Some(ElementType::Int8), Some(Shape::known(&[2, 3])));
    let turned = graph.op("Transpose", "turned", &[q], Attributes::new());
    graph.set_type(turned, Some(ElementType::Int8), Some(Shape::known(&[3, 2])));
    let y = op(&mut graph, "DequantizeLinear", &[turned, scale, zero], Attributes::new(), &known(&[3, 2]));
    for v in [q, y] {
        let producer = graph.value(v).producer().unwrap();
        graph.node_mut(producer).domain = domain.to_owned();
    }
    graph.opsets.insert("com.microsoft".to_owned(), 1);
    let weight = Tensor::from_f32(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let total = weighted_sum(&mut graph, &[(y, weight)]);
    let names = with_gradients(&mut graph, total, &[x, scale]).unwrap();
    // With scale 1/8 the numbers from (-128 - 3) / 8 to (127 - 3) / 8 are kept.
    let at = [-16.5f32, -16.3, 0.2, 15.55, 15.6, 1.0];
    let results = run(&graph, &[("x", &Tensor::from_f32(&[2, 3], &at)), ("scale", &Tensor::from_f32(&[], &[0.125]))]);
    let inside = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0];
    let weights = [1.0, 3.0, 5.0, 2.0, 4.0, 6.0];
    let expected: Vec<f64> = inside.iter().zip(weights).map(|(i, w)| i * w).collect();
    assert!(error(&results[names[0].as_ref().unwrap()].to_f32().unwrap(), &expected) < 1e-6);
    // The learned step size: round(x / s) - x / s inside, the end of the range outside.
    let of_scale = |x: f64| {
        let number = (x / 0.125).round_ties_even();
        if (-131.0..=124.0).contains(&number) { number - x / 0.125 } else { number.clamp(-131.0, 124.0) }
    };
    let expected: f64 = at.iter().zip(weights).map(|(x, w)| w * of_scale(f64::from(*x))).sum();
    assert!(error(&results[names[1].as_ref().unwrap()].to_f32().unwrap(), &[expected]) < 1e-6);
}

/// One scale for each channel, of constant weights and of a value.
#[test]
fn scales_of_channels_have_gradients() {
    let mut graph = Graph::new("channels", WORKING_OPSET);
    let (x, scale) = (input(&mut graph, "x", &[2, 3]), input(&mut graph, "scale", &[3]));
    let bytes: Vec<u8> = [-5i8, 7, 100, -128, 0, 2].iter().map(|n| *n as u8).collect();
    let weights = graph.add_constant("weights", Tensor::new(ElementType::Int8, vec![2, 3], bytes).unwrap());
    let w = op(&mut graph, "DequantizeLinear", &[weights, scale], Attributes::new(), &known(&[2, 3]));
    let y = op(&mut graph, "Mul", &[w, x], Attributes::new(), &known(&[2, 3]));
    let total = weighted_sum(&mut graph, &[(y, Tensor::from_f32(&[2, 3], &[1.0; 6]))]);
    let name = with_gradients(&mut graph, total, &[scale]).unwrap()[0].clone().unwrap();
    let x = Tensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 0.5, -1.0, 4.0]);
    let results = run(&graph, &[("x", &x), ("scale", &Tensor::from_f32(&[3], &[0.1, 0.2, 0.3]))]);
    assert_eq!(results[&name].to_f32().unwrap(), vec![-69.0, 14.0, 308.0]);
}

#[test]
fn operators_on_quantised_numbers_are_refused() {
    for (domain, name) in
        [("", "QLinearConv"), ("", "MatMulInteger"), ("com.microsoft", "MatMulNBits"), ("qonnx", "Quant")]
    {
        let mut graph = Graph::new("refused", WORKING_OPSET);
        let x = input(&mut graph, "x", &[2, 2]);
        let y = op(&mut graph, name, &[x], Attributes::new(), &known(&[2, 2]));
        let producer = graph.value(y).producer().unwrap();
        graph.node_mut(producer).domain = domain.to_owned();
        let total = weighted_sum(&mut graph, &[(y, f32s(&[2, 2], 1))]);
        let refused = gradients(&mut graph, total, &[x], &HashSet::new()).unwrap_err();
        assert!(
            matches!(refused, Error::Stop { .. }) && refused.to_string().contains("quantised numbers"),
            "{refused}"
        );
        assert!(refused.hint().unwrap().contains("train the float model"));
    }
}
