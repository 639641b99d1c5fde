//! Activation functions, ONNX Runtime's own among them.

use dendrite_onnx::{Attributes, ElementType, Tensor};

use crate::{
    case::{Case, Input, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[
    (&["Sigmoid", "Tanh", "Softplus", "Softsign", "Mish", "com.microsoft.Gelu"], |r, op| {
        let shape = r.shape(op.starts_with("com").into(), 4);
        Case::of(op).x(r.floats(&shape))
    }),
    (&["Relu"], |r, op| {
        let shape = r.shape(0, 4);
        Case::of(op).x(r.away(&shape, 0.1, 2.0))
    }),
    (&["LeakyRelu", "Elu", "Celu"], |r, op| {
        let shape = r.shape(0, 4);
        Case::of(op).x(r.away(&shape, 0.1, 2.0)).with_some("alpha", maybe(r, 0.1, 1.5))
    }),
    (&["Selu"], |r, op| {
        let shape = r.shape(0, 4);
        let case = Case::of(op).x(r.away(&shape, 0.1, 2.0)).with_some("alpha", maybe(r, 0.1, 2.0));
        case.with_some("gamma", maybe(r, 0.2, 2.0))
    }),
    (&["ThresholdedRelu"], |r, op| {
        let (shape, alpha) = (r.shape(0, 4), maybe(r, 0.1, 1.5));
        let x = r.floats(&shape).avoiding(&[f64::from(alpha.unwrap_or(1.0))], 0.1);
        Case::of(op).x(x).with_some("alpha", alpha)
    }),
    (&["HardSigmoid"], |r, op| {
        let (shape, alpha, beta) = (r.shape(0, 4), maybe(r, 0.2, 1.0), maybe(r, 0.2, 0.8));
        let (a, b) = (f64::from(alpha.unwrap_or(0.2)), f64::from(beta.unwrap_or(0.5)));
        let x = r.between(&shape, -4.0, 4.0).avoiding(&[-b / a, (1.0 - b) / a], 0.1);
        Case::of(op).x(x).with_some("alpha", alpha).with_some("beta", beta)
    }),
    (&["HardSwish"], |r, op| {
        let shape = r.shape(0, 4);
        Case::of(op).x(r.between(&shape, -4.5, 4.5).avoiding(&[-3.0, 3.0], 0.1))
    }),
    (&["Shrink"], |r, op| {
        let (shape, lambd) = (r.shape(0, 4), maybe(r, 0.1, 1.5));
        let limit = f64::from(lambd.unwrap_or(0.5));
        let x = r.floats(&shape).avoiding(&[-limit, limit], 0.1);
        Case::of(op).x(x).with_some("lambd", lambd).with_some("bias", maybe(r, -1.0, 1.0))
    }),
    (&["Gelu"], |r, op| {
        let (shape, how) = (r.shape(0, 4), r.pick(&[None, Some("none"), Some("tanh")]));
        Case::of(op).x(r.floats(&shape)).with_some("approximate", how)
    }),
    (&["Swish"], |r, op| {
        let (shape, alpha) = (r.shape(1, 4), maybe(r, -1.0, 2.0));
        // The same function, of which the runtime has a kernel.
        let own = Attributes::new().with("alpha", alpha.unwrap_or(1.0));
        Case::of(op).x(r.floats(&shape)).with_some("alpha", alpha).stand_in("com.microsoft.QuickGelu", own)
    }),
    (&["Softmax", "LogSoftmax"], |r, op| {
        let mut shape = r.shape(1, 4);
        let (said, front) = r.axis(shape.len());
        let (axis, front) = if r.once_in(4) { (None, shape.len() - 1) } else { (Some(said), front) };
        // One element alone is 1.
        shape[front] += usize::from(shape[front] == 1);
        Case::of(op).x(r.floats(&shape)).with_some("axis", axis)
    }),
    (&["Dropout"], dropout),
    (&["PRelu"], |r, op| {
        let shape = r.shape(0, 4);
        let slopes = r.narrower(&shape);
        Case::of(op).x(r.away(&shape, 0.1, 2.0)).x(r.floats(&slopes))
    }),
    (&["com.microsoft.BiasGelu"], |r, op| {
        let shape = r.full(1, 4);
        Case::of(op).x(r.floats(&shape)).x(r.floats(&shape[shape.len() - 1..]))
    }),
    (&["com.microsoft.FastGelu"], |r, op| {
        let shape = r.full(1, 4);
        let bias = if r.once_in(3) { None } else { Some(r.floats(&shape[shape.len() - 1..])) };
        let case = Case::of(op).x(r.floats(&shape));
        match bias {
            Some(bias) => case.x(bias),
            None => case,
        }
    }),
    (&["com.microsoft.QuickGelu"], |r, op| {
        let shape = r.full(1, 4);
        Case::of(op).x(r.floats(&shape)).with_some("alpha", maybe(r, -1.0, 2.0))
    }),
    (&["com.microsoft.ScaledSiLU"], |r, op| {
        let shape = r.full(1, 4);
        let case = Case::of(op).x(r.floats(&shape));
        if r.once_in(2) { case.x(r.floats(&[])) } else { case.with_some("alpha", maybe(r, -1.0, 2.0)) }
    }),
    (&["com.microsoft.GatedAdd"], |r, op| {
        let shape = r.full(1, 4);
        let gate: Vec<usize> = shape[..shape.len() - 1].iter().copied().chain([1]).collect();
        Case::of(op).x(r.floats(&shape)).x(r.floats(&shape)).x(r.floats(&gate))
    }),
];

/// An attribute, or its default.
fn maybe(r: &mut Draw, low: f64, high: f64) -> Option<f32> {
    if r.once_in(4) { None } else { Some(r.float(low, high)) }
}

/// Without training mode, or with a ratio of 0: what is drawn differs from run to run.
fn dropout(r: &mut Draw, op: &str) -> Case {
    let shape = r.shape(0, 4);
    let case = Case::of(op).x(r.floats(&shape));
    let ratio = |v: f32| Input::Constant(Tensor::from_f32(&[], &[v]));
    let training = |on: f64| Input::Constant(Tensor::scalar(ElementType::Bool, on));
    match r.below(4) {
        0 => case,
        1 => case.input(ratio(r.float(0.0, 0.9))),
        2 => case.input(ratio(r.float(0.0, 0.9))).input(training(0.0)),
        _ => case.input(ratio(0.0)).input(training(1.0)),
    }
}
