//! Recurrent operators.

use crate::{
    case::{Case, Table},
    draw::{Draw, int32s},
};

pub(crate) const OPERATORS: Table = &[(&["LSTM", "GRU", "RNN"], recurrent)];

fn recurrent(r: &mut Draw, op: &str) -> Case {
    let (gates, activations) = match op {
        "LSTM" => (4, 3),
        "GRU" => (3, 2),
        _ => (1, 1),
    };
    let (steps, batch, features, hidden) = (r.size(1, 4), r.size(1, 3), r.size(1, 3), r.size(1, 2));
    let direction = r.pick(&[None, Some("forward"), Some("reverse"), Some("bidirectional")]);
    let directions = if direction == Some("bidirectional") { 2 } else { 1 };
    let width = gates * hidden;
    let numbers = |shape: &[usize], r: &mut Draw| r.between(shape, -1.0, 1.0);
    let case = Case::of(op)
        .x(numbers(&[steps, batch, features], r))
        .x(numbers(&[directions, width, features], r))
        .x(numbers(&[directions, width, hidden], r));
    let [biased, timed, started, seeing] = [2, 3, 2, 2].map(|n| r.once_in(n));
    let case = case.maybe(if biased { Some(numbers(&[directions, 2 * width], r)) } else { None });
    let lengths = r.ints(batch, 1, steps as i64);
    let case = if timed { case.constant(int32s(&[batch], &lengths)) } else { case.none() };
    let state = [directions, batch, hidden];
    let initial = |case: Case, r: &mut Draw| case.maybe(if started { Some(numbers(&state, r)) } else { None });
    let mut case = initial(case, r);
    if op == "LSTM" {
        case = initial(case, r);
        let peepholes = if seeing { Some(r.between(&[directions, 3 * hidden], -1.0, 1.0)) } else { None };
        case = case.maybe(peepholes);
        if r.once_in(4) {
            case = case.with("input_forget", 1i64);
        }
    }
    if op == "GRU" {
        case = case.with("linear_before_reset", r.flag());
    }
    if r.once_in(4) {
        case = case.with("clip", r.float(0.5, 3.0));
    }
    if r.once_in(3) {
        let names: Vec<&str> =
            (0..activations * directions).map(|_| r.pick(&["Tanh", "Sigmoid", "Softsign", "HardSigmoid", "Affine", "ScaledTanh"])).collect();
        let takes = |name: &str| matches!(name, "HardSigmoid" | "Affine" | "ScaledTanh");
        let count = names.iter().filter(|name| takes(name)).count();
        case.attributes.set_strings("activations", &names);
        if count > 0 {
            let list = |r: &mut Draw, low, high| (0..count).map(|_| r.float(low, high)).collect::<Vec<f32>>();
            let (alpha, beta) = (list(r, 0.1, 0.3), list(r, 0.3, 0.7));
            case.attributes.set("activation_alpha", dendrite_onnx::attributes::AttributeValue::Floats(alpha));
            case.attributes.set("activation_beta", dendrite_onnx::attributes::AttributeValue::Floats(beta));
        }
    }
    let count = if op == "LSTM" { 3 } else { 2 };
    let left_out = if r.once_in(3) { vec![r.below(count)] } else { vec![] };
    case.with_some("direction", direction).with("hidden_size", hidden as i64).outputs(count).unweighted(&left_out)
}
