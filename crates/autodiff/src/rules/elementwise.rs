//! Arithmetic and functions of one, two or many operands.

use super::{Answer, Ctx, Table, rules};
use crate::{error::Result, expr::V};

rules! { RULES, unreduced, (c, dy, y);
    "Identity"() => [dy];
    "Add"(a, b) => [dy, dy];
    "Sub"(a, b) => [dy, -dy];
    "Mul"(a, b) => [dy * b, dy * a];
    "Div"(a, b) => [dy / b, -(dy * y / b)];
    // a = quotient * b + y with a whole quotient.
    "Mod"(a, b) => [dy, dy * (y - a) / b];
    "Pow"(a, n) => [dy * slope_of_power(a, n), dy * y * a.ln().only(a.compare_to("Greater", 0.0))];
    "Where"(on, a, b) => [Answer::Zero, dy.only(on), on.choose(dy.scalar(0.0), dy)];
    "Expand"(x) => [dy, Answer::Zero];
    "Neg"() => [-dy];
    "Abs"(x) => [dy * x.sign()];
    "Reciprocal"() => [-(dy * y * y)];
    "Sqrt"() => [dy * 0.5 / y];
    "Exp"() => [dy * y];
    "Log"(x) => [dy / x];
    "Erf"(x) => [dy * (-(x * x)).exp() * std::f64::consts::FRAC_2_SQRT_PI];
    "Sin"(x) => [dy * x.cos()];
    "Cos"(x) => [-(dy * x.sin())];
    "Tan"() => [dy * (y * y + 1.0)];
    "Asin"(x) => [dy / (1.0 - x * x).sqrt()];
    "Acos"(x) => [-(dy / (1.0 - x * x).sqrt())];
    "Atan"(x) => [dy / (x * x + 1.0)];
    "Sinh"(x) => [dy * x.cosh()];
    "Cosh"(x) => [dy * x.sinh()];
    "Asinh"(x) => [dy / (x * x + 1.0).sqrt()];
    "Acosh"(x) => [dy / (x * x - 1.0).sqrt()];
    "Atanh"(x) => [dy / (1.0 - x * x)];
    "Cast"(x) => [dy.cast(x.element_type())];
    // A value inside the bounds is its own result.
    "Clip"(x) => [
        dy.times_truth(x.compare("Equal", y)),
        dy.only(x.compare("Less", c.x(1)?).and(y.compare("Equal", c.x(1)?))),
        dy.only(y.compare("Less", raised(c, x))),
    ];
}

/// Operators with any number of operands.
pub(super) const VARIADIC: Table = &[(&["Sum"], sum), (&["Mean"], mean), (&["Max", "Min"], extremum)];

/// The second operand of CastLike gives a type, and no shape.
pub(super) const TYPED: Table = &[(&["CastLike"], cast_like)];

fn cast_like<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    if input > 0 {
        return Ok(Answer::Zero);
    }
    Ok(c.dy(0)?.cast(c.x(0)?.element_type()).into())
}

/// What is left of Clip without its upper bound, which wins where the bounds cross.
fn raised<'b>(c: &Ctx<'b>, x: V<'b>) -> V<'b> {
    c.opt(1).map_or(x, |low| x.binary("Max", low))
}

/// `n * a^(n-1)`
fn slope_of_power<'b>(a: V<'b>, n: V<'b>) -> V<'b> {
    let n = n.cast(a.element_type());
    match n.as_scalar() {
        Some(2.0) => a * 2.0,
        Some(number) => a.pow(a.scalar(number - 1.0)) * number,
        None => n * a.pow(n - 1.0),
    }
}

fn sum<'b>(c: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    Ok(Answer::Unreduced(c.dy(0)?))
}

fn mean<'b>(c: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    Ok(Answer::Unreduced(c.dy(0)? / c.node.inputs.len() as f64))
}

/// The first operand that is extreme gets the whole gradient.
fn extremum<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (dy, y, x) = (c.dy(0)?, c.y(0)?, c.x(input)?);
    let beats = if c.node.is("Max") { "Greater" } else { "Less" };
    let mut taken = x.compare("Equal", y);
    for earlier in 0..input {
        taken = taken.and(x.compare(beats, c.x(earlier)?));
    }
    Ok(Answer::Unreduced(dy.only(taken)))
}
