//! Gathers and scatters.

use dendrite_onnx::{Attributes, ElementType, Shape};

use super::{Answer, Ctx, movement, rules};
use crate::{
    error::Result,
    expr::{Size, V},
};

rules! { RULES, exact, (c, dy, y);
    "Gather"(x, at) => [gather(c, dy, x, at)?, Answer::Zero];
    "GatherElements"(x, at) => [scatter_elements(c.zeros_like(x)?, at, dy, c.int("axis", 0), "add"), Answer::Zero];
    "GatherND"(x, at) => [gather_nd(c, dy, x, at)?, Answer::Zero];
    "Compress"(x) => [selected(c, dy, x)?, Answer::Zero];
    // Of equal elements the first has the gradient.
    "Unique"(x) => [unique(c, dy, x)?];
    "TopK"(x) => [scatter_elements(c.zeros_like(x)?, c.y(1)?, dy, c.int("axis", -1), "none"), Answer::Zero];
    "MaxUnpool"(x, at) => [gather_elements(dy.flat(), at.flat(), 0).reshape_like(x), Answer::Zero, Answer::Zero];
    // Each value is chosen as often as it occurs: the first off, the second on.
    "OneHot"(at, depth, values) => [Answer::Zero, Answer::Zero, one_hot_values(c, dy, at, depth)?];
}

/// `data` with `updates` put, or added, where `indices` point along `axis`.
pub(super) fn scatter_elements<'b>(data: V<'b>, indices: V<'b>, updates: V<'b>, axis: i64, how: &str) -> V<'b> {
    let mut attributes = Attributes::new().with("axis", axis);
    if how != "none" {
        attributes.set("reduction", how);
    }
    data.builder().node("ScatterElements", &[data, indices, updates], attributes, data.element_type(), data.shape())
}

pub(super) fn gather_elements<'b>(data: V<'b>, indices: V<'b>, axis: i64) -> V<'b> {
    let attributes = Attributes::new().with("axis", axis);
    data.builder().node("GatherElements", &[data, indices], attributes, data.element_type(), indices.shape())
}

fn scatter_nd<'b>(data: V<'b>, indices: V<'b>, updates: V<'b>) -> V<'b> {
    let attributes = Attributes::new().with("reduction", "add");
    data.builder().node("ScatterND", &[data, indices, updates], attributes, data.element_type(), data.shape())
}

/// The gradient of any operator that only picks elements of its first input: the operator applied to the elements'
/// positions says where each element of dy belongs.
pub(super) fn selected<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    selected_as(c, dy, x, ElementType::Int64)
}

/// [`selected`] for an operator that takes positions of type `integers`.
pub(super) fn selected_as<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, integers: ElementType) -> Result<V<'b>> {
    let mut inputs: Vec<Option<V<'b>>> = (0..c.node.inputs.len()).map(|i| c.opt(i)).collect();
    inputs[0] = Some(movement::positions(c, x)?.cast(integers));
    if c.node.is("Pad") && inputs.len() > 2 {
        inputs[2] = None;
    }
    let from = c.again(&inputs, integers, c.y(0)?.shape()).cast(ElementType::Int64).flat();
    Ok(scatter_elements(c.zeros_like(x)?.flat(), from, dy.flat(), 0, "add").reshape_like(x))
}

/// One constant index: zeros around dy. Else dy is added where its slices came from.
fn gather<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, at: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(x)?;
    let axis = c.axis("axis", 0, rank)?;
    if let (Some(index), Some(size)) = (at.as_scalar(), x.known_dim(axis)) {
        let index = if index < 0.0 { index as i64 + size as i64 } else { index as i64 };
        let dy = if at.rank() == Some(0) { dy.unsqueeze(&[axis]) } else { dy };
        let mut pads = vec![0i64; 2 * rank];
        pads[axis] = index;
        pads[rank + axis] = size as i64 - 1 - index;
        if at.rank().is_some_and(|r| r <= 1) && index >= 0 && index < size as i64 {
            return Ok(dy.pad(&pads));
        }
    }
    let places = c.rank(at)?;
    // The gathered axis first, as ScatterND wants it.
    let front: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|a| *a != axis)).collect();
    let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
    let dy_front: Vec<usize> = (axis..axis + places).chain(0..axis).chain(axis + places..places + rank - 1).collect();
    let shape = x.shape().map(|s| front.iter().map(|a| s.0[*a].clone()).collect()).map(Shape);
    let sizes: Vec<Size<'b>> = front.iter().map(|a| Size::Of(x, *a)).collect();
    let zeros = c.b.filled(x.element_type(), &sizes, 0.0);
    let result = scatter_nd(zeros, at.cast(ElementType::Int64).unsqueeze(&[places]), dy.transpose(&dy_front));
    Ok(result.typed(x.element_type(), shape).transpose(&back))
}

fn gather_nd<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, at: V<'b>) -> Result<V<'b>> {
    if c.int("batch_dims", 0) != 0 {
        return selected(c, dy, x);
    }
    Ok(scatter_nd(c.zeros_like(x)?, at, dy))
}

fn one_hot_values<'b>(c: &Ctx<'b>, dy: V<'b>, at: V<'b>, depth: V<'b>) -> Result<V<'b>> {
    let float = dy.element_type();
    let off_on = c.b.floats(float, &[2], &[0.0, 1.0]);
    let on = c.again(&[Some(at), Some(depth), Some(off_on)], float, dy.shape());
    let axes: Vec<usize> = (0..c.rank(dy)?).collect();
    let total = |v: V<'b>| v.sum(&axes, false).reshape(&[Size::Is(1)]);
    let (lit, all) = (total(dy * on), total(dy));
    Ok(c.b.concat(&[all - lit, lit], 0))
}

fn unique<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let first = c.extra_output(1, ElementType::Int64, movement::rank_only(1));
    if c.node.attributes.opt_int("axis").is_some() {
        return gather(c, dy, x, first);
    }
    Ok(scatter_elements(c.zeros_like(x)?.flat(), first, dy, 0, "none").reshape_like(x))
}
