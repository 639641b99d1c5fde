//! Activation functions.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::{Answer, Ctx, Table, rules};
use crate::{error::Result, expr::V};

rules! { RULES, exact, (c, dy, y);
    "Relu"() => [dy.times_truth(positive(y))];
    "Sigmoid"() => [dy * (y * (1.0 - y))];
    "Tanh"() => [dy * (1.0 - y * y)];
    "Softplus"(x) => [dy * x.sigmoid()];
    "Softsign"(x) => [dy * (1.0 - y.abs()) * (1.0 - y.abs())];
    "LeakyRelu"(x) => [dy * positive(x).choose(dy.scalar(1.0), dy.scalar(c.float("alpha", 0.01)))];
    "ThresholdedRelu"(x) => [dy.only(x.compare_to("Greater", c.float("alpha", 1.0)))];
    // Below 0, y = scale * (e^x - 1), so its slope is y + scale.
    "Elu"(x) => [dy * positive(x).choose(dy.scalar(1.0), y + c.float("alpha", 1.0))];
    "Selu"(x) => [{
        let (alpha, gamma) = (c.float("alpha", 1.673_263_2), c.float("gamma", 1.050_701));
        dy * positive(x).choose(dy.scalar(gamma), y + alpha * gamma)
    }];
    "Celu"(x) => [dy * positive(x).choose(dy.scalar(1.0), y / c.float("alpha", 1.0) + 1.0)];
    "HardSigmoid"() => [dy.only(inside(y, 0.0, 1.0)) * c.float("alpha", 0.2)];
    "HardSwish"(x) => [
        dy * x.compare_to("GreaterOrEqual", 3.0).choose(
            dy.scalar(1.0),
            (x * (1.0 / 3.0) + 0.5).only(x.compare_to("Greater", -3.0)),
        )
    ];
    "Shrink"(x) => [dy.only(x.abs().compare_to("Greater", c.float("lambd", 0.5)))];
    "Gelu"(x) => [dy * if c.node.attributes.str("approximate", "none") == "tanh" { slope_of_tanh_gelu(x) } else { slope_of_gelu(x) }];
    "Mish"(x) => [{
        let t = x.unary("Softplus").tanh();
        dy * (t + x * (1.0 - t * t) * x.sigmoid())
    }];
    "Softmax"(x) => [{
        let axis = c.axis("axis", -1, c.rank(x)?)?;
        let g = dy * y;
        g - y * g.sum(&[axis], true)
    }];
    "LogSoftmax"(x) => [dy - y.exp() * dy.sum(&[c.axis("axis", -1, c.rank(x)?)?], true)];
    "Dropout"(x) => [dropout(c, x, dy)?, dropout_ratio(c)?, Answer::Zero];
}

/// Activations with a trainable slope, which broadcasts.
pub(super) const PARAMETRIC: Table = &[(&["PRelu"], prelu)];

fn prelu<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (dy, x, slope) = (c.dy(0)?, c.x(0)?, c.x(1)?);
    let on = positive(x);
    Ok(Answer::Unreduced(if input == 0 { on.choose(dy, dy * slope) } else { on.choose(dy.scalar(0.0), dy * x) }))
}

fn positive(x: V<'_>) -> V<'_> {
    x.compare_to("Greater", 0.0)
}

fn inside(x: V<'_>, low: f64, high: f64) -> V<'_> {
    x.compare_to("Greater", low).and(x.compare_to("Less", high))
}

/// y = x * P(x) with the normal distribution's P and density p: P + x * p
fn slope_of_gelu(x: V<'_>) -> V<'_> {
    let distribution = (x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
    let density = (x * x * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
    distribution + x * density
}

/// y = x/2 * (1 + t), t = tanh(k * (x + a * x^3))
fn slope_of_tanh_gelu(x: V<'_>) -> V<'_> {
    let (k, a) = ((2.0 / PI).sqrt(), 0.044715);
    let square = x * x;
    let t = (x * (square * a + 1.0) * k).tanh();
    (t + 1.0) * 0.5 + x * (1.0 - t * t) * (square * (3.0 * a) + 1.0) * (0.5 * k)
}

/// Without training mode the identity; with it, the kept elements are scaled by 1 / (1 - ratio).
/// Without training the ratio changes nothing.
fn dropout_ratio<'b>(c: &Ctx<'b>) -> Result<Answer<'b>> {
    match c.opt(2).map_or(Some(0.0), V::as_scalar) {
        Some(0.0) => Ok(Answer::Zero),
        _ => Err(c.stop("the gradient with respect to the ratio is not implemented", "make the ratio a constant")),
    }
}

fn dropout<'b>(c: &Ctx<'b>, x: V<'b>, dy: V<'b>) -> Result<V<'b>> {
    let training = c.opt(2).map_or(Some(0.0), V::as_scalar);
    let ratio = c.opt(1).map_or(Some(0.5), V::as_scalar);
    match (training, ratio) {
        (Some(0.0), _) => Ok(dy),
        (Some(_), Some(ratio)) if ratio < 1.0 => {
            let kept = c.extra_output(1, dendrite_onnx::ElementType::Bool, x.shape());
            Ok((dy * (1.0 / (1.0 - ratio))).only(kept))
        }
        _ => Err(c.stop("ratio and training mode are not constants", "make them constants of the model")),
    }
}
