//! Resizing. Every mode is linear in the image and separable, so along one axis it is a matrix: what the operator makes of
//! the identity. The gradient multiplies with its transpose.

use dendrite_onnx::{ElementType, Tensor};

use super::{Answer, Ctx, Table, indexing};
use crate::{
    error::Result,
    expr::{Size, V},
};

pub(super) const RULES: Table = &[(&["Resize"], resize)];

fn resize<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let crops = c.node.attributes.str("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize";
    if input > 0 {
        return region(c, input);
    }
    let (x, y, mut dy) = (c.x(0)?, c.y(0)?, c.dy(0)?);
    let rank = c.rank(x)?;
    let listed: Vec<usize> = match c.node.attributes.ints("axes") {
        Some(axes) => axes.iter().map(|a| c.front_axis(*a, rank)).collect::<Result<_>>()?,
        None => (0..rank).collect(),
    };
    let scales = c.opt(2).filter(|v| v.known_count() != Some(0));
    let policy = c.node.attributes.str("keep_aspect_ratio_policy", "stretch");
    if is_nearest(c) && policy != "stretch" && scales.is_none() && !crops {
        // The scale depends on all sizes, which may be computed; which elements are copied, the operator says itself.
        return Ok(indexing::selected_as(c, dy, x, ElementType::Int32)?.into());
    }
    let whole = x.shape().zip(y.shape());
    if whole.is_some_and(|(a, b)| a.rank() == b.rank() && a.0.iter().zip(&b.0).all(|(a, b)| crate::expr::same(a, b))) {
        // The runtime copies where no size changes, whatever scales and region say.
        return Ok(dy.into());
    }
    let crop = if crops { Some(c.constant_floats(1)?) } else { None };
    for (place, axis) in listed.iter().enumerate() {
        let scale = scales.map(|s| scale_at(s, place));
        let same = x.shape().zip(y.shape()).is_some_and(|(a, b)| crate::expr::same(&a.0[*axis], &b.0[*axis]));
        let bounds = crop.as_ref().map(|r| (r.get(place), r.get(listed.len() + place)));
        let bounds = bounds.and_then(|(start, end)| start.copied().zip(end.copied()));
        let whole = bounds.is_none_or(|b| b == (0.0, 1.0));
        let kept = match scale.map(V::as_scalar) {
            Some(Some(known)) => known == 1.0,
            // A scale of a little more than 1 keeps a size and moves elements; the runtime interpolates along no such axis.
            Some(None) => same && (x.known_dim(*axis).is_none() || *axis < 2 && rank > 2 && !is_nearest(c)),
            None => same,
        };
        if whole && kept {
            continue;
        }
        let (Some(from), Some(to)) = (x.known_dim(*axis), y.known_dim(*axis)) else {
            return Err(
                c.stop("the sizes before and after are not known", "fix the model's input sizes, all but the batch")
            );
        };
        if scale.is_none() {
            kept_aspect(c, x, &listed, *axis, to)?;
        }
        dy = along(dy, rank, *axis, matrix(c, x.element_type(), (from, to), scale, bounds));
    }
    Ok(dy.into())
}

/// Region and scales say where the output's elements lie in the image.
fn region<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let transformation = c.node.attributes.str("coordinate_transformation_mode", "half_pixel");
    let moves = match input {
        1 => transformation == "tf_crop_and_resize",
        2 => transformation != "align_corners",
        _ => false,
    };
    if !moves || is_nearest(c) {
        return Ok(Answer::Zero);
    }
    Err(c.stop("the gradient with respect to the region or the scales is not implemented", "make them constants"))
}

fn is_nearest(c: &Ctx<'_>) -> bool {
    c.node.attributes.str("mode", "nearest") == "nearest"
}

/// One of the scales, as a vector of one number.
fn scale_at<'b>(scales: V<'b>, place: usize) -> V<'b> {
    match scales.tensor().and_then(|t| t.to_f32()).and_then(|s| s.get(place).copied()) {
        Some(known) => scales.builder().constant(Tensor::from_f32(&[1], &[known])),
        None => scales.slice(&[(0, place as i64, place as i64 + 1, 1)]),
    }
}

/// The identity resized along its last axis: row i is what element i contributes to. The scale is not what the sizes say
/// where the size was rounded. A second axis is doubled, since the runtime copies where no size changes.
fn matrix<'b>(
    c: &Ctx<'b>,
    float: ElementType,
    (from, to): (usize, usize),
    scale: Option<V<'b>>,
    crop: Option<(f32, f32)>,
) -> V<'b> {
    let mut identity = vec![0.0; from * from];
    (0..from).for_each(|i| identity[i * from + i] = 1.0);
    let identity = c.b.floats(float, &[from, 1, 1, from], &identity);
    let (scales, sizes) = match scale.map(|s| (s, s.as_scalar())) {
        Some((_, Some(known))) => {
            (Some(c.b.constant(Tensor::from_f32(&[4], &[1.0, 1.0, 2.0, known as f32])).id()), None)
        }
        Some((computed, None)) => {
            let others = c.b.constant(Tensor::from_f32(&[3], &[1.0, 1.0, 2.0]));
            (Some(c.b.concat(&[others, computed], 0).id()), None)
        }
        None => (None, Some(c.b.ints(&[from as i64, 1, 2, to as i64]).id())),
    };
    let mut attributes = c.node.attributes.clone();
    attributes.remove("axes");
    attributes.remove("keep_aspect_ratio_policy");
    // What is extrapolated depends on no element.
    attributes.remove("extrapolation_value");
    let crop =
        crop.map(|(start, end)| c.b.constant(Tensor::from_f32(&[8], &[0.0, 0.0, 0.0, start, 1.0, 1.0, 1.0, end])).id());
    let inputs = [Some(identity.id()), crop, scales, sizes];
    let inputs = if sizes.is_some() { &inputs[..] } else { &inputs[..3] };
    let shape = dendrite_onnx::Shape::known(&[from, 1, 2, to]);
    let twice = c.b.node_with_gaps("Resize", inputs, attributes, float, Some(shape));
    twice.slice(&[(2, 0, 1, 1)]).reshape(&[Size::Is(from), Size::Is(to)])
}

/// With a policy on the aspect ratio all axes have one scale, which is the ratio of an axis's sizes only where that needed no
/// rounding.
fn kept_aspect<'b>(c: &Ctx<'b>, x: V<'b>, axes: &[usize], axis: usize, to: usize) -> Result<()> {
    let policy = c.node.attributes.str("keep_aspect_ratio_policy", "stretch");
    if policy == "stretch" {
        return Ok(());
    }
    let sizes = c.constant_ints(3)?;
    let known = axes.iter().map(|a| x.known_dim(*a)).collect::<Option<Vec<_>>>();
    let pairs = known.iter().flatten().zip(&sizes).map(|(from, to)| (*to as u64, *from as u64));
    let smaller = |a: &(u64, u64), b: &(u64, u64)| (a.0 * b.1).cmp(&(b.0 * a.1));
    let ratio = if policy == "not_larger" { pairs.min_by(smaller) } else { pairs.max_by(smaller) };
    match (ratio, x.known_dim(axis)) {
        (Some((above, below)), Some(from)) if above * from as u64 == below * to as u64 => Ok(()),
        _ => Err(c.stop(
            format!("sizes were rounded to keep the aspect ratio ({policy})"),
            "give the sizes of the result, or scales",
        )),
    }
}

/// The product of a matrix with one axis of dy.
fn along<'b>(dy: V<'b>, rank: usize, axis: usize, matrix: V<'b>) -> V<'b> {
    if axis + 2 == rank {
        return matrix.matmul(dy);
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 1);
    dy.transpose(&perm).matmul(matrix.transpose(&[1, 0])).transpose(&perm)
}
