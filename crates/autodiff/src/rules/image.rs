//! Maps between images, their columns and grids over them, all linear.

use dendrite_onnx::{Dim, Shape};

use super::{Answer, Ctx, convolution::convolution, rules, window::Window};
use crate::{
    error::Result,
    expr::{Size, V},
};

rules! { RULES, exact, (c, dy, y);
    "AffineGrid"(theta) => [affine_grid(c, dy, theta)?, Answer::Zero];
    "Col2Im"(x) => [columns(c, dy, x)?, Answer::Zero, Answer::Zero];
    // Cut and filled up about the middle: the way back to the input's sizes.
    "CenterCropPad"(x) => [centred(c, dy, x)?, Answer::Zero];
}

/// The grid is base * theta^T, where base has a column for each coordinate and one of ones. Of a transformation that is the
/// identity the operator makes the coordinates.
fn affine_grid<'b>(c: &Ctx<'b>, dy: V<'b>, theta: V<'b>) -> Result<V<'b>> {
    let axes = c.rank(dy)? - 2;
    let float = theta.element_type();
    let identity: Vec<f64> =
        (0..axes * (axes + 1)).map(|at| if at / (axes + 1) == at % (axes + 1) { 1.0 } else { 0.0 }).collect();
    let identity = c.b.floats(float, &[1, axes, axes + 1], &identity).expand_like(theta);
    let coordinates = c.again(&[Some(identity), c.opt(1)], float, dy.shape());
    let points = |v: V<'b>| v.reshape(&[Size::Of(theta, 0), Size::Rest, Size::Is(axes)]);
    let turned = points(dy).transpose(&[0, 2, 1]);
    let linear = turned.matmul(points(coordinates));
    Ok(c.b.concat(&[linear, turned.sum(&[2], true)], 2))
}

/// Each column is what the windows meet of dy: a convolution with one output for each element of the window.
fn columns<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let kernel: Vec<usize> = c.constant_ints(2)?.iter().map(|k| (*k).max(0) as usize).collect();
    let window = Window::of(c, kernel.clone(), dy)?;
    let taps: usize = kernel.iter().product();
    let mut one_each = vec![0.0; taps * taps];
    (0..taps).for_each(|tap| one_each[tap * taps + tap] = 1.0);
    let weights = c.b.floats(x.element_type(), &[&[taps, 1], &kernel[..]].concat(), &one_each);
    let alone = [Size::Rest, Size::Is(1)].into_iter().chain((2..kernel.len() + 2).map(|axis| Size::Of(dy, axis)));
    let images = dy.reshape(&alone.collect::<Vec<_>>());
    let dims = [Dim::Unknown, Dim::Known(taps)].into_iter().chain(vec![Dim::Unknown; kernel.len()]);
    Ok(convolution(images, weights, &window, 1, Some(Shape(dims.collect()))).reshape_like(x))
}

fn centred<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(x)?;
    let sizes = match c.node.attributes.ints("axes") {
        Some(axes) => {
            let axes = axes.iter().map(|a| c.front_axis(*a, rank)).collect::<Result<Vec<_>>>()?;
            c.b.sizes(&axes.iter().map(|a| Size::Of(x, *a)).collect::<Vec<_>>())
        }
        None => x.shape_of(),
    };
    Ok(c.again(&[Some(dy), Some(sizes)], x.element_type(), x.shape()))
}
