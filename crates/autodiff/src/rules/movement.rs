//! Operators that move elements without computing: views, joins, pieces.

use dendrite_onnx::{Attributes, Dim, ElementType, Shape};

use super::{Answer, Ctx, Table, indexing, rules};
use crate::{
    error::Result,
    expr::{Size, V},
};

rules! { RULES, exact, (c, dy, y);
    "Reshape" | "Squeeze" | "Unsqueeze"(x) => [dy.reshape_like(x), Answer::Zero];
    "Flatten"(x) => [dy.reshape_like(x)];
    "Transpose"(x) => [dy.transpose(&inverse(&permutation(c, x)?))];
    "Trilu"(x) => [c.again(&[Some(dy), c.opt(1)], x.element_type(), x.shape()), Answer::Zero];
    "SpaceToDepth"(x) => [moved(c, "DepthToSpace", dy, x)];
    "DepthToSpace"(x) => [depth_to_space(c, dy, x)?];
    // Turning round twice changes nothing.
    "ReverseSequence"(x) => [c.again(&[Some(dy), c.opt(1)], x.element_type(), x.shape()), Answer::Zero];
    "Tile"(x) => [tile(c, dy, x)?, Answer::Zero];
    "Slice"(x) => [slice(c, dy, x)?, Answer::Zero, Answer::Zero, Answer::Zero, Answer::Zero];
    "Pad"(x) => [pad(c, dy, x)?, Answer::Zero, pad_value(c, dy, x)?, Answer::Zero];
}

pub(super) const FUNCTIONS: Table = &[(&["Concat"], concat), (&["Split"], split)];

fn permutation(c: &Ctx<'_>, x: V<'_>) -> Result<Vec<usize>> {
    match c.node.attributes.ints("perm") {
        Some(perm) => perm.iter().map(|p| c.front_axis(*p, perm.len())).collect(),
        None => Ok((0..c.rank(x)?).rev().collect()),
    }
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, p)| inverse[*p] = i);
    inverse
}

fn moved<'b>(c: &Ctx<'b>, op: &str, dy: V<'b>, x: V<'b>) -> V<'b> {
    let attributes = Attributes::new().with("blocksize", c.int("blocksize", 1));
    c.b.node(op, &[dy], attributes, x.element_type(), x.shape())
}

/// In the order depth-column-row, `SpaceToDepth`; else the axes [n, c, h, block, w, block] moved back.
fn depth_to_space<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    if c.node.attributes.str("mode", "DCR") == "DCR" {
        return Ok(moved(c, "SpaceToDepth", dy, x));
    }
    let block = c.int("blocksize", 1).max(1) as usize;
    let [depth, height, width] = c.known_dims(x, 1)?[..] else { return Err(c.no_rank(x)) };
    let sizes = [depth / (block * block), height, block, width, block];
    let sizes: Vec<Size<'b>> = std::iter::once(Size::Of(x, 0)).chain(sizes.map(Size::Is)).collect();
    Ok(dy.reshape(&sizes).transpose(&[0, 1, 3, 5, 2, 4]).reshape_like(x))
}

/// The repetitions as axes of their own, summed.
fn tile<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let repeats = c.constant_ints(1)?;
    let interleaved: Vec<Size<'b>> =
        repeats.iter().enumerate().flat_map(|(axis, n)| [Size::Is((*n).max(0) as usize), Size::Of(x, axis)]).collect();
    Ok(dy.reshape(&interleaved).sum(&(0..repeats.len()).map(|i| 2 * i).collect::<Vec<_>>(), false))
}

/// Each operand's part of dy.
fn concat<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (dy, x) = (c.dy(0)?, c.x(input)?);
    let rank = c.rank(x)?;
    let axis = c.axis("axis", 0, rank)?;
    let before: Vec<V<'b>> = (0..input).map(|i| c.x(i)).collect::<Result<_>>()?;
    let known: Option<usize> = before.iter().map(|v| v.known_dim(axis)).sum();
    if let (Some(start), Some(length)) = (known, x.known_dim(axis)) {
        return Ok(dy.slice(&[(axis, start as i64, (start + length) as i64, 1)]).into());
    }
    let start = before.iter().fold(c.b.ints(&[0]), |sum, v| sum + v.dim(axis));
    let end = start + x.dim(axis);
    let inputs = [dy, start, end, c.b.ints(&[axis as i64])];
    Ok(c.b.node("Slice", &inputs, Attributes::new(), x.element_type(), x.shape()).into())
}

/// The parts' gradients joined.
fn split<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    if input > 0 {
        return Ok(Answer::Zero);
    }
    let axis = c.axis("axis", 0, c.rank(c.x(0)?)?)?;
    let parts: Vec<V<'b>> = (0..c.node.outputs.len()).map(|i| c.dy(i)).collect::<Result<_>>()?;
    Ok(c.b.concat(&parts, axis).into())
}

/// Zeros put back where elements were left out; with steps, dy put where its elements came from.
fn slice<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(x)?;
    let starts = c.x(1)?.as_ints();
    let axes = match c.opt(3) {
        Some(axes) => axes.as_ints(),
        None => starts.as_ref().map(|s| (0..s.len() as i64).collect()),
    };
    let ones = c.opt(4).is_none_or(|steps| steps.as_ints().is_some_and(|s| s.iter().all(|s| *s == 1)));
    let (Some(starts), Some(axes), true) = (starts, axes, ones) else {
        return indexing::selected(c, dy, x);
    };
    let mut before = vec![0i64; rank];
    let mut after = vec![c.b.ints(&[0]); rank];
    for (start, axis) in starts.iter().zip(&axes) {
        let axis = c.front_axis(*axis, rank)?;
        let Some(length) = dy.known_dim(axis).or(c.y(0)?.known_dim(axis)) else {
            return indexing::selected(c, dy, x);
        };
        before[axis] = match (x.known_dim(axis), *start) {
            (Some(n), s) => (if s < 0 { s + n as i64 } else { s }).clamp(0, n as i64),
            (None, s) if s >= 0 => s,
            _ => return indexing::selected(c, dy, x),
        };
        after[axis] = match x.known_dim(axis) {
            Some(n) => c.b.ints(&[n as i64 - before[axis] - length as i64]),
            None => x.dim(axis) - c.b.ints(&[before[axis] + length as i64]),
        };
    }
    if let Some(after) = after.iter().map(|v| v.as_scalar().map(|n| n as i64)).collect::<Option<Vec<_>>>() {
        return Ok(dy.pad(&[before, after].concat()));
    }
    let pads = c.b.concat(&[vec![c.b.ints(&before)], after].concat(), 0);
    Ok(c.b.node("Pad", &[dy, pads], Attributes::new(), x.element_type(), x.shape()))
}

/// Constant padding is undone by padding with the opposite sign; other modes copy elements of x.
fn pad<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    if c.node.attributes.str("mode", "constant") != "constant" {
        return indexing::selected(c, dy, x);
    }
    cropped(c, dy, x)
}

fn cropped<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let pads = c.x(1)?;
    let opposite = match pads.as_ints() {
        Some(pads) => c.b.ints(&pads.iter().map(|p| -p).collect::<Vec<_>>()),
        None => pads.unary("Neg"),
    };
    let inputs = [Some(dy.id()), Some(opposite.id()), None, c.node.input(3)];
    let inputs = if c.node.input(3).is_some() { &inputs[..] } else { &inputs[..2] };
    Ok(c.b.node_with_gaps("Pad", inputs, Attributes::new(), x.element_type(), x.shape()))
}

/// The padding's value gets what does not come from x.
fn pad_value<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let total = |v: V<'b>| c.rank(v).map(|rank| v.sum(&(0..rank).collect::<Vec<_>>(), false));
    Ok((total(dy)? - total(cropped(c, dy, x)?)?).reshape_like(c.x(2)?))
}

/// A shape of which only the rank is known.
pub(super) fn rank_only(rank: usize) -> Option<Shape> {
    Some(Shape(vec![Dim::Unknown; rank]))
}

/// 0, 1, 2, ... in the shape of `x`: the position of each of its elements.
pub(super) fn positions<'b>(c: &Ctx<'b>, x: V<'b>) -> Result<V<'b>> {
    let int = |n| c.b.scalar(ElementType::Int64, n);
    let count = match x.shape().and_then(|s| s.as_known()) {
        Some(dims) => int(dims.iter().product::<usize>() as f64),
        None => c.b.node("Size", &[x], Attributes::new(), ElementType::Int64, rank_only(0)),
    };
    let range = c.b.node("Range", &[int(0.0), count, int(1.0)], Attributes::new(), ElementType::Int64, rank_only(1));
    c.rank(x)?;
    Ok(range.reshape_like(x))
}
