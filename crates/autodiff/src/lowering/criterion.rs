//! Losses that are operators.

use dendrite_onnx::{Attributes, ElementType};

use super::one;
use crate::{error::Result, expr::V, rules::Ctx};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// Log-probabilities of classes along axis 1 are given.
pub(super) fn negative_log_likelihood<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    one(likelihood(c, c.x(0)?)?)
}

/// Scores are given; the log-probabilities are an output too.
pub(super) fn softmax_cross_entropy<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let x = c.x(0)?;
    let softmax = Attributes::new().with("axis", 1);
    let logarithms = c.b.node("LogSoftmax", &[x], softmax, x.element_type(), x.shape());
    Ok(vec![Some(likelihood(c, logarithms)?), Some(logarithms)])
}

fn likelihood<'b>(c: &Ctx<'b>, x: V<'b>) -> Result<V<'b>> {
    let (target, float) = (c.x(1)?.cast(ElementType::Int64), x.element_type());
    // What is ignored need not be a class.
    let ignored = c.node.attributes.opt_int("ignore_index").map(|index| {
        let index = c.b.scalar(ElementType::Int64, index as f64);
        target.compare("Equal", index)
    });
    let class = ignored.map_or(target, |ignored| ignored.choose(c.b.scalar(ElementType::Int64, 0.0), target));
    let at = class.unsqueeze(&[1]);
    let attributes = Attributes::new().with("axis", 1);
    let picked = c.b.node("GatherElements", &[x, at], attributes, float, at.shape()).squeeze(&[1]);
    let mut weight = match c.opt(2) {
        Some(weights) => weights.gather(class, 0),
        None => c.zeros_like(picked)? + 1.0,
    };
    if let Some(ignored) = ignored {
        weight = ignored.choose(x.scalar(0.0), weight);
    }
    let loss = -(picked * weight);
    let axes: Vec<usize> = (0..c.rank(target)?).collect();
    Ok(match c.node.attributes.str("reduction", "mean") {
        "none" => loss,
        "sum" => loss.sum(&axes, false),
        _ => loss.sum(&axes, false) / weight.sum(&axes, false),
    })
}
