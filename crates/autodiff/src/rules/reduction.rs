//! Reductions over axes.

use dendrite_onnx::{Attributes, ElementType};

use super::{Answer, Ctx, movement::positions, rules};
use crate::{error::Result, expr::V};

rules! { RULES, exact, (c, dy, y);
    "ReduceSum"(x) => [c.kept(dy)?.expand_like(x), Answer::Zero];
    "ReduceMean"(x) => [(c.kept(dy)? / c.reduced_count(x, y)?).expand_like(x), Answer::Zero];
    "ReduceMax" | "ReduceMin"(x) => [shared(c, x, c.kept(y)?, c.kept(dy)?)?, Answer::Zero];
    "ReduceProd"(x) => [c.kept(dy)? * others_product(c, x)?, Answer::Zero];
    "ReduceL1"(x) => [c.kept(dy)? * x.sign(), Answer::Zero];
    "ReduceL2"(x) => [x * quotient(c.kept(dy)?, c.kept(y)?), Answer::Zero];
    "ReduceSumSquare"(x) => [c.kept(dy)? * 2.0 * x, Answer::Zero];
    "ReduceLogSum"(x) => [(c.kept(dy)? / c.kept(y)?.exp()).expand_like(x), Answer::Zero];
    "ReduceLogSumExp"(x) => [c.kept(dy)? * (x - c.kept(y)?).exp(), Answer::Zero];
    // Element i is start + i * delta.
    "Range"(start, limit, delta) => [
        dy.sum(&[0], false).reshape_like(start),
        Answer::Zero,
        (dy * positions(c, dy)?.cast(dy.element_type())).sum(&[0], false).reshape_like(delta),
    ];
    "GlobalMaxPool"(x) => [shared_over(x, y, dy, &(2..c.rank(x)?).collect::<Vec<_>>())];
}

/// Which axes a node reduces.
enum Axes<'b> {
    Known(Vec<usize>),
    Computed(V<'b>),
}

impl<'b> Ctx<'b> {
    fn reduced_axes(&self, x: V<'b>) -> Result<Axes<'b>> {
        let rank = self.rank(x)?;
        let noop = self.int("noop_with_empty_axes", 0) != 0;
        let listed = match self.opt(1) {
            None => Vec::new(),
            Some(axes) => match axes.as_ints() {
                Some(axes) => axes,
                None => return Ok(Axes::Computed(axes)),
            },
        };
        if listed.is_empty() {
            return Ok(Axes::Known(if noop { Vec::new() } else { (0..rank).collect() }));
        }
        let mut axes = listed.iter().map(|a| self.front_axis(*a, rank)).collect::<Result<Vec<_>>>()?;
        axes.sort_unstable();
        Ok(Axes::Known(axes))
    }

    /// A value of the result's shape with the reduced axes put back as size 1, so that it broadcasts against the input.
    fn kept(&self, v: V<'b>) -> Result<V<'b>> {
        if self.int("keepdims", 1) != 0 {
            return Ok(v);
        }
        let x = self.x(0)?;
        Ok(match self.reduced_axes(x)? {
            // A single number broadcasts as it is.
            Axes::Known(axes) if axes.len() == self.rank(x)? => v,
            Axes::Known(axes) => v.unsqueeze(&axes),
            Axes::Computed(axes) => {
                let ones = x.shape().map(|s| dendrite_onnx::Shape(vec![dendrite_onnx::Dim::Unknown; s.rank()]));
                self.b.node("Unsqueeze", &[v, axes], Attributes::new(), v.element_type(), ones)
            }
        })
    }

    /// How many elements of `x` go into one of `y`, as a float.
    fn reduced_count(&self, x: V<'b>, y: V<'b>) -> Result<V<'b>> {
        if let Axes::Known(axes) = self.reduced_axes(x)?
            && let Some(count) = axes.iter().map(|a| x.known_dim(*a)).product::<Option<usize>>()
        {
            return Ok(x.scalar(count as f64));
        }
        let size = |v: V<'b>| {
            let rank0 = Some(dendrite_onnx::Shape::default());
            self.b.node("Size", &[v], Attributes::new(), ElementType::Int64, rank0).cast(x.element_type())
        };
        Ok(size(x) / size(y))
    }
}

/// Elements that equal the extremum share its gradient evenly.
fn shared<'b>(c: &Ctx<'b>, x: V<'b>, y: V<'b>, dy: V<'b>) -> Result<V<'b>> {
    match c.reduced_axes(x)? {
        Axes::Known(axes) => Ok(shared_over(x, y, dy, &axes)),
        Axes::Computed(_) => {
            Err(c.stop("the axes are not constant", "simplify the model so that the axes become a constant"))
        }
    }
}

fn shared_over<'b>(x: V<'b>, y: V<'b>, dy: V<'b>, axes: &[usize]) -> V<'b> {
    let hit = x.compare("Equal", y).cast(x.element_type());
    hit * (dy / hit.sum(axes, true))
}

/// The product of all other elements, exact where some are zero.
fn others_product<'b>(c: &Ctx<'b>, x: V<'b>) -> Result<V<'b>> {
    let Axes::Known(axes) = c.reduced_axes(x)? else {
        return Err(c.stop("the axes are not constant", "simplify the model so that the axes become a constant"));
    };
    let zero = x.compare_to("Equal", 0.0);
    let nonzero = zero.choose(x.scalar(1.0), x);
    let product = nonzero.reduce("ReduceProd", &axes, true);
    let zeros = zero.cast(x.element_type()).sum(&axes, true);
    let at_zero = product.only(zeros.compare_to("Equal", 1.0));
    let elsewhere = (product / nonzero).only(zeros.compare_to("Equal", 0.0));
    Ok(zero.choose(at_zero, elsewhere))
}

/// a / b, and 0 where b is 0.
fn quotient<'b>(a: V<'b>, b: V<'b>) -> V<'b> {
    let zero = b.compare_to("Equal", 0.0);
    zero.choose(a.scalar(0.0), a / zero.choose(b.scalar(1.0), b))
}
