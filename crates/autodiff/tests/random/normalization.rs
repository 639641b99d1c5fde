//! Normalisations, with what ONNX Runtime fuses with them.

use crate::{
    case::{Case, Table},
    draw::{Draw, int32s, said},
};

pub(crate) const OPERATORS: Table = &[
    (&["BatchNormalization"], batch),
    (&["LayerNormalization"], |r, op| {
        let (shape, axis, front) = rows(r);
        let [of_scale, of_bias] = [0, 1].map(|_| if r.once_in(4) { r.narrower(&shape[front..]) } else { shape[front..].to_vec() });
        let scale = r.floats(&of_scale);
        let bias = if r.once_in(3) { None } else { Some(r.floats(&of_bias)) };
        let case = Case::of(op).x(r.floats(&shape)).x(scale);
        let case = if bias.is_some() { case.maybe(bias) } else { case };
        case.with_some("axis", axis).with_some("epsilon", epsilon(r))
    }),
    (&["RMSNormalization"], |r, op| {
        let (shape, axis, front) = rows(r);
        let scale = r.floats(&shape[front..]);
        Case::of(op).x(r.floats(&shape)).x(scale).with_some("axis", axis).with_some("epsilon", epsilon(r))
    }),
    (&["SimplifiedLayerNormalization"], |r, op| {
        let (shape, axis, front) = rows(r);
        let scale = r.floats(&shape[front..]);
        Case::of(op).x(r.floats(&shape)).x(scale).with_some("axis", axis).with_some("epsilon", epsilon(r))
    }),
    (&["InstanceNormalization"], |r, op| {
        let mut shape = r.full(3, 5);
        shape[2] += 1;
        let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&shape[1..2])).x(r.floats(&shape[1..2]));
        case.with_some("epsilon", epsilon(r))
    }),
    (&["GroupNormalization"], |r, op| {
        let (groups, each) = (r.size(1, 3), r.size(1, 2));
        let mut shape = r.full(3, 4);
        (shape[0], shape[1], shape[2]) = (r.size(1, 2), groups * each, shape[2] + 1);
        let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&shape[1..2])).x(r.floats(&shape[1..2]));
        let case = case.with("num_groups", groups as i64).with_some("epsilon", epsilon(r));
        // In float32 unless said otherwise.
        if r.once_in(2) { case.single() } else { case.with("stash_type", 11i64) }
    }),
    (&["LpNormalization"], |r, op| {
        let shape = r.full(1, 4);
        let (axis, order) = (r.axis(shape.len()).0, r.pick(&[None, Some(1i64), Some(2)]));
        Case::of(op).x(r.away(&shape, 0.3, 2.0)).with("axis", axis).with_some("p", order)
    }),
    (&["LRN"], |r, op| {
        // Of odd sizes only the sums lie even.
        let (channels, size) = (r.size(1, 5), r.pick(&[1i64, 3, 5]));
        let shape = [r.size(1, 2), channels, r.size(1, 3), r.size(1, 2)];
        let case = Case::of(op).x(r.floats(&shape)).with("size", size).with("alpha", r.float(0.1, 1.5));
        let beta = if r.once_in(3) { None } else { Some(r.float(0.3, 1.5)) };
        let bias = if r.once_in(3) { None } else { Some(r.float(0.5, 2.0)) };
        case.with_some("beta", beta).with_some("bias", bias)
    }),
    (&["MeanVarianceNormalization"], |r, op| {
        let mut shape = r.full(4, 4);
        (shape[0], shape[1]) = (2, 2);
        let axes = if r.once_in(3) { None } else { Some(r.axes(4, 1)) };
        // What is normalised has more than two elements.
        let axes = axes.map(|mut axes| {
            axes.extend((0..4).filter(|a| !axes.contains(a)).take(if axes.len() < 3 { 1 } else { 0 }).collect::<Vec<_>>());
            axes.sort_unstable();
            said(&axes)
        });
        if axes.as_ref().is_some_and(|a| a.iter().map(|a| shape[*a as usize]).product::<usize>() < 3) {
            shape[3] = 3;
            return Case::of(op).x(r.floats(&shape));
        }
        shape[3] += usize::from(axes.is_none());
        Case::of(op).x(r.floats(&shape)).with_some("axes", axes)
    }),
    (&["com.microsoft.SkipLayerNormalization"], |r, op| {
        let (case, width) = skip(r, op);
        let beta = if r.once_in(3) { None } else { Some(r.floats(&[width])) };
        let bias = if r.once_in(2) { None } else { Some(r.floats(&[width])) };
        let case = if beta.is_none() && bias.is_none() { case } else { case.maybe(beta) };
        if bias.is_none() { case } else { case.maybe(bias) }
    }),
    (&["com.microsoft.SkipSimplifiedLayerNormalization"], |r, op| {
        let (case, width) = skip(r, op);
        if r.once_in(2) { case } else { case.x(r.floats(&[width])) }
    }),
    (&["com.microsoft.GatedRMSNorm"], |r, op| {
        let (leading, width) = (r.full(1, 2), r.size(2, 4));
        let heads = r.size(1, 2);
        let shape = [&leading[..], &[width * heads]].concat();
        let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&[width])).x(r.floats(&shape));
        let how = r.pick(&[None, Some("silu"), Some("sigmoid")]);
        case.with_some("activation", how).with_some("epsilon", epsilon(r))
    }),
    (&["com.microsoft.EmbedLayerNormalization"], embedded),
];

fn epsilon(r: &mut Draw) -> Option<f32> {
    r.pick(&[None, Some(1e-3), Some(0.125)])
}

/// A shape, an axis of it as it is said and from the front. What follows the axis has several elements.
fn rows(r: &mut Draw) -> (Vec<usize>, Option<i64>, usize) {
    let mut shape = r.full(1, 4);
    let last = shape.len() - 1;
    shape[last] = r.size(2, 4);
    if r.once_in(3) {
        return (shape, None, last);
    }
    let (axis, front) = r.axis(shape.len());
    (shape, Some(axis), front)
}

fn batch(r: &mut Draw, op: &str) -> Case {
    let mut shape = r.full(2, 4);
    shape[0] += 1;
    let training = r.once_in(4);
    let channel = &shape[1..2];
    let case = Case::of(op).x(r.floats(&shape)).x(r.floats(channel)).x(r.floats(channel));
    let (mean, variance) = (r.floats(channel), r.between(channel, 0.4, 2.0));
    let case = if training || r.once_in(3) { case.fixed(mean).fixed(variance) } else { case.x(mean).x(variance) };
    let case = case.with_some("epsilon", epsilon(r));
    if training { case.with("training_mode", 1i64).outputs(3).unweighted(&[1, 2]) } else { case }
}

/// Two branches and a scale.
fn skip(r: &mut Draw, op: &str) -> (Case, usize) {
    let (batch, steps, width) = (r.size(1, 2), r.size(1, 3), r.size(2, 4));
    let flat = r.once_in(4);
    let shape = if flat { vec![steps, width] } else { vec![batch, steps, width] };
    let branch = match r.below(4) {
        0 if !flat => vec![steps, width],
        1 if !flat => vec![1, steps, width],
        _ => shape.clone(),
    };
    let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&branch)).x(r.floats(&[width]));
    (case.with_some("epsilon", r.pick(&[None, Some(1e-3f32), Some(0.125)])), width)
}

fn embedded(r: &mut Draw, op: &str) -> Case {
    let (batch, steps, width) = (r.size(1, 2), r.size(1, 3), r.size(2, 4));
    let (words, places, kinds) = (r.size(2, 5), steps + r.size(0, 2), 2);
    let at = |r: &mut Draw, count: usize| {
        let values = r.ints(batch * steps, 0, count as i64 - 1);
        let at = int32s(&[batch, steps], &values);
        r.given(at)
    };
    let segmented = r.once_in(2);
    let case = Case::of(op).input(at(r, words));
    let case = if segmented { case.input(at(r, kinds)) } else { case.none() };
    let case = case.x(r.floats(&[words, width])).x(r.floats(&[places, width]));
    let case = case.maybe(if segmented { Some(r.floats(&[kinds, width])) } else { None });
    let case = case.x(r.floats(&[width])).x(r.floats(&[width]));
    let masked = r.once_in(2);
    let mask = r.ints(batch * steps, 0, 1);
    let case = if masked { case.constant(int32s(&[batch, steps], &mask)) } else { case };
    let placed = masked && r.once_in(2);
    let case = if placed { case.input(at(r, places)) } else { case };
    case.outputs(if r.once_in(2) { 2 } else { 3 }).with("epsilon", 1e-3f32)
}

