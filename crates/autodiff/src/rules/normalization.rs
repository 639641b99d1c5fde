//! Normalisations.

use dendrite_onnx::{Attributes, ElementType};

use super::{Answer, Ctx, Table};
use crate::{
    error::Result,
    expr::{Size, V},
};

pub(super) const RULES: Table = &[
    (&["BatchNormalization"], batch),
    (&["LayerNormalization"], layer),
    (&["InstanceNormalization"], instance),
    (&["GroupNormalization"], grouped),
    (&["RMSNormalization"], root_mean_square),
    (&["LpNormalization"], lp),
    (&["LRN"], local_response),
    (&["MeanVarianceNormalization"], mean_variance),
];

/// The gradient of z = (x - mean x) / sigma, with mean and sigma over `axes`.
fn standardized<'b>(dz: V<'b>, z: V<'b>, inverse: V<'b>, axes: &[usize]) -> V<'b> {
    inverse * (dz - dz.mean(axes, true) - z * (dz * z).mean(axes, true))
}

/// x with mean 0 and variance 1 over `axes`, and the factor that made it so.
fn standardize<'b>(x: V<'b>, axes: &[usize], epsilon: f64) -> (V<'b>, V<'b>) {
    let centred = x - x.mean(axes, true);
    let inverse = ((centred * centred).mean(axes, true) + epsilon).sqrt().recip();
    (centred * inverse, inverse)
}

/// One number a channel, in a shape that broadcasts against [n, c, ...].
fn by_channel<'b>(v: V<'b>, rank: usize) -> V<'b> {
    v.unsqueeze(&(1..rank.saturating_sub(1).max(1)).collect::<Vec<_>>())
}

fn others(rank: usize) -> Vec<usize> {
    (0..rank).filter(|a| *a != 1).collect()
}

/// With stored statistics an affine map of each channel; in training mode the statistics depend on x.
fn batch<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, scale, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let rank = c.rank(x)?;
    let epsilon = c.float("epsilon", 1e-5);
    let axes = others(rank);
    let channel = |v: V<'b>| by_channel(v, rank);
    if input == 2 {
        return Ok(dy.sum(&axes, false).into());
    }
    if c.int("training_mode", 0) != 0 {
        if (1..3).any(|i| c.opt_dy(i).is_some()) {
            return Err(c.stop("the gradient of running statistics is not implemented", "do not use them in the loss"));
        }
        let (z, inverse) = standardize(x, &axes, epsilon);
        return Ok(match input {
            0 => standardized(dy * channel(scale), z, inverse, &axes).into(),
            1 => (dy * z).sum(&axes, false).into(),
            _ => Answer::Zero,
        });
    }
    let (mean, variance) = (c.x(3)?, c.x(4)?);
    let inverse = (variance + epsilon).sqrt().recip();
    Ok(match input {
        0 => dy * channel(scale * inverse),
        1 => (dy * (x - channel(mean))).sum(&axes, false) * inverse,
        3 => -(dy.sum(&axes, false) * (scale * inverse)),
        _ => (dy * (x - channel(mean))).sum(&axes, false) * (scale * inverse * inverse * inverse * -0.5),
    }
    .into())
}

/// The forward node is made to give its mean and inverse deviation.
fn layer<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, scale, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let rank = c.rank(x)?;
    let axes: Vec<usize> = (c.axis("axis", -1, rank)?..rank).collect();
    if input == 2 {
        return Ok(Answer::Unreduced(dy));
    }
    let statistic = x.shape().map(|mut s| {
        axes.iter().for_each(|a| s.0[*a] = dendrite_onnx::Dim::Known(1));
        s
    });
    let mean = c.extra_output(1, ElementType::Float, statistic.clone()).cast(x.element_type());
    let inverse = c.extra_output(2, ElementType::Float, statistic).cast(x.element_type());
    let z = (x - mean) * inverse;
    if input == 1 {
        return Ok(Answer::Unreduced(dy * z));
    }
    let mut gradient = standardized(dy * scale, z, inverse, &axes);
    // These outputs have gradients where a gradient is differentiated again.
    let count = || -> Result<f64> { Ok(c.known_dims(x, axes[0])?.iter().product::<usize>() as f64) };
    if let Some(d) = c.opt_dy(1) {
        gradient = gradient + d.cast(x.element_type()) / count()?;
    }
    if let Some(d) = c.opt_dy(2) {
        gradient = gradient - z * (d.cast(x.element_type()) * inverse * inverse / count()?);
    }
    Ok(gradient.into())
}

fn instance<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, scale, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let rank = c.rank(x)?;
    let spatial: Vec<usize> = (2..rank).collect();
    if input == 2 {
        return Ok(dy.sum(&others(rank), false).into());
    }
    let (z, inverse) = standardize(x, &spatial, c.float("epsilon", 1e-5));
    Ok(match input {
        0 => standardized(dy * by_channel(scale, rank), z, inverse, &spatial),
        _ => (dy * z).sum(&others(rank), false),
    }
    .into())
}

/// Channels in groups: each group of each sample is standardised, as rows of a matrix.
fn grouped<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, scale, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let rank = c.rank(x)?;
    if input == 2 {
        return Ok(dy.sum(&others(rank), false).into());
    }
    let groups = Size::Is(c.int("num_groups", 1).max(1) as usize);
    let rows = |v: V<'b>| v.reshape(&[Size::Of(x, 0), groups, Size::Rest]);
    let (z, inverse) = standardize(rows(x), &[2], c.float("epsilon", 1e-5));
    Ok(match input {
        0 => standardized(rows(dy * by_channel(scale, rank)), z, inverse, &[2]).reshape_like(x),
        _ => (dy * z.reshape_like(x)).sum(&others(rank), false),
    }
    .into())
}

/// y = scale * z, z = x * r, r = 1 / sqrt(mean x^2 + epsilon)
fn root_mean_square<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, scale, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let rank = c.rank(x)?;
    let axes: Vec<usize> = (c.axis("axis", -1, rank)?..rank).collect();
    let inverse = ((x * x).mean(&axes, true) + c.float("epsilon", 1e-5)).sqrt().recip();
    let z = x * inverse;
    if input == 1 {
        return Ok(Answer::Unreduced(dy * z));
    }
    let dz = dy * scale;
    Ok((inverse * (dz - z * (dz * z).mean(&axes, true))).into())
}

/// y = x / |x| by the norm of order 1 or 2 along an axis.
fn lp<'b>(c: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    let (x, y, dy) = (c.x(0)?, c.y(0)?, c.dy(0)?);
    let axis = [c.axis("axis", -1, c.rank(x)?)?];
    let first_order = c.int("p", 2) == 1;
    let norm = x.reduce(if first_order { "ReduceL1" } else { "ReduceL2" }, &axis, true);
    let along = (dy * y).sum(&axis, true);
    let slope = if first_order { x.sign() } else { y };
    Ok(((dy - slope * along) / norm).into())
}

/// y = x s^-beta, s = bias + alpha * mean of x^2 over `size` channels around. The mean is an average pooling along the channels,
/// its gradient the pooling with the longer side exchanged.
fn local_response<'b>(c: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    let (x, dy) = (c.x(0)?, c.dy(0)?);
    let (alpha, beta) = (c.float("alpha", 1e-4), c.float("beta", 0.75));
    let size = c.int("size", 1).max(1);
    let mean = |v: V<'b>, before: i64| {
        let rows = v.reshape(&[Size::Of(v, 0), Size::Is(1), Size::Of(v, 1), Size::Rest]);
        let attributes = Attributes::new()
            .with("kernel_shape", vec![size, 1])
            .with("pads", vec![before, 0, size - 1 - before, 0])
            .with("count_include_pad", 1);
        c.b.node("AveragePool", &[rows], attributes, v.element_type(), rows.shape()).reshape_like(v)
    };
    let shorter = (size - 1) / 2;
    let s = mean(x * x, shorter) * alpha + c.float("bias", 1.0);
    let scale = s.pow(s.scalar(-beta));
    Ok((dy * scale - x * mean(dy * x * (scale / s), size - 1 - shorter) * (2.0 * alpha * beta)).into())
}

fn mean_variance<'b>(c: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    let (x, y, dy) = (c.x(0)?, c.y(0)?, c.dy(0)?);
    let rank = c.rank(x)?;
    let axes = c.node.attributes.ints("axes").unwrap_or(&[0, 2, 3]);
    let axes = axes.iter().map(|a| c.front_axis(*a, rank)).collect::<Result<Vec<_>>>()?;
    // The operator has no epsilon large enough to count.
    let (_, inverse) = standardize(x, &axes, 0.0);
    Ok(standardized(dy, y, inverse, &axes).into())
}
