//! LSTM, GRU and RNN: lowered they compute what the runtime's own operators do, and their gradients are those of these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{numbers, run, weighted_sum, with_gradients};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

const TIME: usize = 5;
const BATCH: usize = 3;
const FEATURES: usize = 4;
const HIDDEN: usize = 2;

/// Half a step of the central difference along a random direction.
const STEP: f32 = 2e-3;

#[derive(Clone)]
struct Case {
    op: &'static str,
    direction: &'static str,
    /// The optional inputs that are given: bias, lengths, initial h, initial c, peepholes.
    bias: bool,
    lengths: Option<[i32; BATCH]>,
    initial: bool,
    peepholes: bool,
    attributes: Attributes,
    /// Whether time and batch are known when the gradient is built.
    dynamic: bool,
}

impl Case {
    fn new(op: &'static str) -> Self {
        Case {
            op,
            direction: "forward",
            bias: true,
            lengths: None,
            initial: false,
            peepholes: false,
            attributes: Attributes::new(),
            dynamic: false,
        }
    }

    fn gates(&self) -> usize {
        match self.op {
            "LSTM" => 4,
            "GRU" => 3,
            _ => 1,
        }
    }

    fn directions(&self) -> usize {
        if self.direction == "bidirectional" { 2 } else { 1 }
    }

    fn graph(&self) -> (Graph, Vec<(String, Vec<usize>)>) {
        let (gates, d) = (self.gates() * HIDDEN, self.directions());
        let mut graph = Graph::new("case", WORKING_OPSET);
        let mut floats: Vec<(String, Vec<usize>)> = Vec::new();
        let mut inputs: Vec<Option<ValueId>> = Vec::new();
        let mut float = |graph: &mut Graph, name: &str, shape: Vec<usize>, open: &[usize], given: bool| {
            if !given {
                return None;
            }
            let dims = shape.iter().enumerate().map(|(axis, n)| {
                if self.dynamic && open.contains(&axis) { Dim::Symbol(format!("d{axis}")) } else { Dim::Known(*n) }
            });
            let id = graph.add_input(name, ElementType::Float, Shape(dims.collect()));
            floats.push((name.to_owned(), shape));
            Some(id)
        };
        inputs.push(float(&mut graph, "x", vec![TIME, BATCH, FEATURES], &[0, 1], true));
        inputs.push(float(&mut graph, "w", vec![d, gates, FEATURES], &[], true));
        inputs.push(float(&mut graph, "r", vec![d, gates, HIDDEN], &[], true));
        inputs.push(float(&mut graph, "b", vec![d, 2 * gates], &[], self.bias));
        inputs.push(self.lengths.map(|lengths| {
            let bytes: Vec<u8> = lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
            graph.add_constant("lengths", Tensor::new(ElementType::Int32, vec![BATCH], bytes).unwrap())
        }));
        let state = vec![d, BATCH, HIDDEN];
        inputs.push(float(&mut graph, "h", state.clone(), &[], self.initial));
        if self.op == "LSTM" {
            inputs.push(float(&mut graph, "c", state.clone(), &[], self.initial));
            inputs.push(float(&mut graph, "p", vec![d, 3 * HIDDEN], &[], self.peepholes));
        }
        let mut attributes = self.attributes.clone().with("hidden_size", HIDDEN as i64);
        attributes.set("direction", self.direction);
        let outputs = graph.add_node(self.op, "y", &inputs, attributes, if self.op == "LSTM" { 3 } else { 2 });
        for (place, output) in outputs.iter().enumerate() {
            let shape = if place == 0 { vec![TIME, d, BATCH, HIDDEN] } else { state.clone() };
            graph.set_type(*output, Some(ElementType::Float), Some(Shape::known(&shape)));
        }
        graph.outputs = outputs;
        (graph, floats)
    }

    /// The derivative along a random direction, from the gradients and from differences of the runtime's operator; and the
    /// largest difference between the outputs of the two.
    fn check(&self) {
        let (mut graph, floats) = self.graph();
        let weights: Vec<(ValueId, Tensor)> = graph
            .outputs
            .iter()
            .enumerate()
            .map(|(i, y)| {
                let shape = graph.value(*y).shape.as_ref().unwrap().as_known().unwrap();
                (*y, Tensor::from_f32(&shape, &numbers(shape.iter().product(), 50 + i as u64)))
            })
            .collect();
        let loss = weighted_sum(&mut graph, &weights);
        graph.outputs.push(loss);
        let original = graph.clone();
        let wrt: Vec<ValueId> = floats.iter().map(|(name, _)| graph.find(name).unwrap()).collect();
        let names = with_gradients(&mut graph, loss, &wrt).unwrap();
        assert!(graph.nodes().all(|(_, node)| node.op != self.op));
        let at: Vec<Vec<f32>> =
            floats.iter().enumerate().map(|(i, (_, s))| numbers(s.iter().product(), i as u64 + 1)).collect();
        let along: Vec<Vec<f32>> =
            floats.iter().enumerate().map(|(i, (_, s))| numbers(s.iter().product(), i as u64 + 90)).collect();
        let moved = |graph: &Graph, by: f32, only: Option<usize>| {
            let tensors: Vec<Tensor> = (0..floats.len())
                .map(|i| {
                    let by = if only.is_none_or(|o| o == i) { by } else { 0.0 };
                    let values: Vec<f32> = at[i].iter().zip(&along[i]).map(|(a, d)| a + by * d).collect();
                    Tensor::from_f32(&floats[i].1, &values)
                })
                .collect();
            let feeds: Vec<(&str, &Tensor)> = floats.iter().map(|(n, _)| n.as_str()).zip(&tensors).collect();
            run(graph, &feeds)
        };
        let (ours, theirs) = (moved(&graph, 0.0, None), moved(&original, 0.0, None));
        for (name, theirs) in &theirs {
            let pairs = ours[name].to_f32().unwrap().into_iter().zip(theirs.to_f32().unwrap());
            let worst = pairs.fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst < 2e-6, "{name} differs by {worst:.1e}");
        }
        let loss = original.name_of(loss);
        for (i, name) in names.iter().enumerate() {
            let gradient = ours[name.as_ref().unwrap()].to_f32().unwrap();
            assert_eq!(ours[name.as_ref().unwrap()].shape(), floats[i].1.as_slice());
            let found: f32 = gradient.iter().zip(&along[i]).map(|(g, d)| g * d).sum();
            let side = |by: f32| moved(&original, by, Some(i))[loss].to_f32().unwrap()[0];
            let expected = (side(STEP) - side(-STEP)) / (2.0 * STEP);
            let size: f32 = gradient.iter().zip(&along[i]).map(|(g, d)| (g * d).abs()).sum();
            assert!(gradient.iter().any(|g| g.abs() > 1e-4), "the gradient of {} is zero", floats[i].0);
            assert!((found - expected).abs() < 2e-3 * size.max(1.0), "{}: {found} and {expected}", floats[i].0);
        }
    }
}

fn directions() -> [&'static str; 3] {
    ["forward", "reverse", "bidirectional"]
}

#[test]
fn all_directions_with_and_without_lengths() {
    for op in ["LSTM", "GRU", "RNN"] {
        for direction in directions() {
            for lengths in [None, Some([5, 2, 3])] {
                for dynamic in [false, true] {
                    Case { direction, lengths, dynamic, initial: dynamic, ..Case::new(op) }.check();
                }
            }
        }
    }
}

#[test]
fn an_lstm_with_everything() {
    for direction in directions() {
        let plain = Case { direction, initial: true, peepholes: true, ..Case::new("LSTM") };
        plain.check();
        Case { attributes: Attributes::new().with("clip", 0.4f32), ..plain.clone() }.check();
        Case { attributes: Attributes::new().with("input_forget", 1i64), bias: false, ..plain }.check();
    }
}

#[test]
fn a_gru_in_both_forms() {
    for linear_before_reset in [0i64, 1] {
        let attributes = Attributes::new().with("linear_before_reset", linear_before_reset);
        for direction in directions() {
            for bias in [false, true] {
                Case { direction, bias, initial: true, attributes: attributes.clone(), ..Case::new("GRU") }.check();
            }
        }
    }
}

#[test]
fn other_activations() {
    let activations = |names: &[&str], alpha: &[f32], beta: &[f32]| {
        let mut attributes = Attributes::new();
        attributes.set_strings("activations", names);
        attributes.set("activation_alpha", alpha.to_vec());
        attributes.set("activation_beta", beta.to_vec());
        attributes
    };
    for (names, alpha, beta) in [
        (["Softsign", "HardSigmoid"], vec![0.3], vec![0.4]),
        (["LeakyRelu", "Elu"], vec![0.2, 0.7], vec![]),
        (["ScaledTanh", "Affine"], vec![0.9, 0.8], vec![1.1, 0.1]),
    ] {
        let attributes = activations(&names, &alpha, &beta);
        Case { direction: "bidirectional", attributes, ..Case::new("RNN") }.check();
    }
    let attributes = activations(&["HardSigmoid", "Tanh", "Softsign"], &[0.25], &[0.45]);
    Case { attributes, ..Case::new("LSTM") }.check();
}
