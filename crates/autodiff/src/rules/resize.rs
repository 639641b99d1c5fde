//! Resizing. Every mode is linear in the image and separable, so along one axis it is a matrix: what the operator makes of
//! the identity. The gradient multiplies with its transpose.

use dendrite_onnx::{ElementType, Tensor};

use super::{Answer, Ctx, Table};
use crate::{
    error::Result,
    expr::{Size, V},
};

pub(super) const RULES: Table = &[(&["Resize"], resize)];

fn resize<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    if input > 0 {
        return region(c, input);
    }
    let (x, y, mut dy) = (c.x(0)?, c.y(0)?, c.dy(0)?);
    if c.node.attributes.str("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize" {
        return Err(
            c.stop("the gradient of tf_crop_and_resize is not implemented", "freeze what comes before this node")
        );
    }
    let rank = c.rank(x)?;
    let listed: Vec<usize> = match c.node.attributes.ints("axes") {
        Some(axes) => axes.iter().map(|a| c.front_axis(*a, rank)).collect::<Result<_>>()?,
        None => (0..rank).collect(),
    };
    let scales = c.opt(2).filter(|v| v.known_count() != Some(0));
    for (place, axis) in listed.iter().enumerate() {
        let scale = scales.map(|s| scale_at(s, place));
        let same = x.shape().zip(y.shape()).is_some_and(|(a, b)| crate::expr::same(&a.0[*axis], &b.0[*axis]));
        let kept = match scale.map(V::as_scalar) {
            Some(Some(known)) => known == 1.0,
            // A scale of a little more than 1 keeps a size and moves elements; the runtime interpolates along no such axis.
            Some(None) => same && (x.known_dim(*axis).is_none() || *axis < 2 && rank > 2 && !is_nearest(c)),
            None => same,
        };
        if kept {
            continue;
        }
        let (Some(from), Some(to)) = (x.known_dim(*axis), y.known_dim(*axis)) else {
            return Err(
                c.stop("the sizes before and after are not known", "fix the model's input sizes, all but the batch")
            );
        };
        dy = along(dy, rank, *axis, matrix(c, x.element_type(), from, to, scale));
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
/// where the size was rounded.
fn matrix<'b>(c: &Ctx<'b>, float: ElementType, from: usize, to: usize, scale: Option<V<'b>>) -> V<'b> {
    let mut identity = vec![0.0; from * from];
    (0..from).for_each(|i| identity[i * from + i] = 1.0);
    let identity = c.b.floats(float, &[1, 1, from, from], &identity);
    let (scales, sizes) = match scale.map(|s| (s, s.as_scalar())) {
        Some((_, Some(known))) => {
            (Some(c.b.constant(Tensor::from_f32(&[4], &[1.0, 1.0, 1.0, known as f32])).id()), None)
        }
        Some((computed, None)) => {
            let ones = c.b.constant(Tensor::from_f32(&[3], &[1.0; 3]));
            (Some(c.b.concat(&[ones, computed], 0).id()), None)
        }
        None => (None, Some(c.b.ints(&[1, 1, from as i64, to as i64]).id())),
    };
    let mut attributes = c.node.attributes.clone();
    attributes.remove("axes");
    attributes.remove("keep_aspect_ratio_policy");
    let inputs = [Some(identity.id()), None, scales, sizes];
    let inputs = if sizes.is_some() { &inputs[..] } else { &inputs[..3] };
    let shape = dendrite_onnx::Shape::known(&[1, 1, from, to]);
    c.b.node_with_gaps("Resize", inputs, attributes, float, Some(shape)).reshape(&[Size::Is(from), Size::Is(to)])
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
