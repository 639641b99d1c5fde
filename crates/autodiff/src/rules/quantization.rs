//! Quantisation.
//!
//! A value that is quantised and dequantised is differentiated straight through: rounding counts as the identity, so the
//! gradient is dy where the value lies inside the range of the integers and 0 where it was cut off. With the same rule the
//! scale has the gradient of a learned step size. In between, integers have gradients, which are floats: the derivative by
//! the number that the integer stands for. Operators that compute on integers are refused.

use dendrite_onnx::ElementType;

use super::{Answer, Ctx, Table};
use crate::{error::Result, expr::V};

pub(super) const RULES: Table = &[(&["QuantizeLinear"], quantize), (&["DequantizeLinear"], dequantize)];

/// Operators, and beginnings of operators' names, whose arithmetic is on integers or on packed weights.
const REFUSED: &[&str] = &[
    "ConvInteger",
    "DynamicQuantize",
    "GatherBlockQuantized",
    "MatMulBnb4",
    "MatMulFpQ4",
    "MatMulInteger",
    "MatMulNBits",
    "NhwcMaxPool",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QLinear",
    "QMoE",
    "QOrdered",
];

/// Whether an operator computes on quantised numbers, or is one of the tools that train quantised networks.
pub fn is_quantised(domain: &str, op: &str) -> bool {
    let tool = matches!(op, "Quant" | "BipolarQuant" | "Trunc" | "IntQuant" | "FloatQuant");
    match domain {
        "" | "com.microsoft" => REFUSED.iter().any(|name| op.starts_with(name)),
        _ => tool,
    }
}

/// Why an operator without a rule never has one, where it is one that computes on quantised numbers.
pub(crate) fn refusal(domain: &str, op: &str) -> Option<&'static str> {
    is_quantised(domain, op)
        .then_some("it computes on quantised numbers, in which nothing can be learned by small steps")
}

/// What to do about a refusal.
pub(crate) const REMEDY: &str =
    "train the float model and quantise the result, or exclude the parameters before this node (`--train-weights`)";

/// A scale or zero point in a shape that broadcasts against `x`.
fn by_axis<'b>(c: &Ctx<'b>, v: V<'b>, x: V<'b>) -> Result<V<'b>> {
    if c.int("block_size", 0) != 0 {
        return Err(c.stop("the gradient of blocked quantisation is not implemented", "quantise by tensor or axis"));
    }
    if c.rank(v)? == 0 || v.known_dim(0) == Some(1) {
        return Ok(v);
    }
    let rank = c.rank(x)?;
    let axis = c.axis("axis", 1, rank)?;
    Ok(v.unsqueeze(&(0..rank).filter(|a| *a != axis).collect::<Vec<_>>()))
}

/// The sum of what belongs to each scale.
fn to_scale<'b>(c: &Ctx<'b>, v: V<'b>, x: V<'b>, scale: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(x)?;
    if c.rank(scale)? == 0 || scale.known_dim(0) == Some(1) {
        return Ok(v.sum(&(0..rank).collect::<Vec<_>>(), false).reshape_like(scale));
    }
    let axis = c.axis("axis", 1, rank)?;
    Ok(v.sum(&(0..rank).filter(|a| *a != axis).collect::<Vec<_>>(), false))
}

/// q = round(x / scale) + zero, cut off at the ends of its type. The gradient of q is a float.
fn quantize<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, scale, y) = (c.x(0)?, c.x(1)?, c.y(0)?);
    let Some(dy) = c.opt_dy(0) else { return Ok(Answer::Zero) };
    let (low, high) = match y.element_type() {
        ElementType::Int8 => (-128.0, 127.0),
        ElementType::Uint8 => (0.0, 255.0),
        ElementType::Int16 => (-32768.0, 32767.0),
        ElementType::Uint16 => (0.0, 65535.0),
        ElementType::Int4 => (-8.0, 7.0),
        ElementType::Uint4 => (0.0, 15.0),
        other => return Err(c.stop(format!("the gradient of quantising to {other:?} is not implemented"), REMEDY)),
    };
    if input > 1 {
        return Ok(Answer::Zero);
    }
    let step = by_axis(c, scale, x)?;
    let mut rounded = (x / step).unary("Round");
    if let Some(zero) = c.opt(2) {
        rounded = rounded + by_axis(c, zero.cast(x.element_type()), x)?;
    }
    let inside = rounded.compare_to("GreaterOrEqual", low).and(rounded.compare_to("LessOrEqual", high));
    let gradient = (dy / step).only(inside);
    Ok(if input == 0 { gradient } else { to_scale(c, -(gradient * x / step), x, scale)? }.into())
}

/// y = (q - zero) * scale
fn dequantize<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (q, scale, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let step = by_axis(c, scale, q)?;
    if input == 0 {
        return Ok((dy * step).into());
    }
    let mut number = q.cast(dy.element_type());
    if let Some(zero) = c.opt(2) {
        number = number - by_axis(c, zero.cast(dy.element_type()), q)?;
    }
    Ok(if input == 1 { to_scale(c, dy * number, q, scale)?.into() } else { Answer::Zero })
}
