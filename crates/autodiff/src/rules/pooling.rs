//! Maximum pooling.
//!
//! Where windows tile two spatial axes, what equals its window's maximum has its gradient, equal elements in equal parts, as
//! for ReduceMax. Elsewhere the forward node is made to say where each maximum came from, and of equal elements the first
//! has the gradient. Saying so makes the forward node 6 to 14 times as slow, and with it the two passes together 3 times
//! (2x2 windows, 28x28 and 56x56, ONNX Runtime 1.31.1).

use dendrite_onnx::{Attributes, ElementType, Tensor};

use super::{Answer, Ctx, Table, indexing, window::Window};
use crate::{error::Result, expr::V};

pub(super) const RULES: Table = &[(&["MaxPool"], max_pool)];

fn max_pool<'b>(c: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    let (x, y, dy) = (c.x(0)?, c.y(0)?, c.dy(0)?);
    let window = Window::of_pooling(c, x);
    if let (Ok(window), ElementType::Float) = (&window, x.element_type())
        && tiles(window, x)
    {
        return Ok(shared(c, x, y, dy, window).into());
    }
    let at = places(c, x, y);
    if let (Ok(window), ElementType::Float) = (&window, x.element_type())
        && window.is_disjoint()
        && fits(c, window, x, y)
    {
        return Ok(unpool(c, dy, at, x, window).into());
    }
    let zeros = c.zeros_like(x)?.flat();
    Ok(indexing::scatter_elements(zeros, at.flat(), dy.flat(), 0, "add").reshape_like(x).into())
}

/// Where each maximum came from, counted along rows. A node that counts along columns stays as it is, beside one that does not.
fn places<'b>(c: &Ctx<'b>, x: V<'b>, y: V<'b>) -> V<'b> {
    if c.int("storage_order", 0) == 0 {
        return c.extra_output(1, ElementType::Int64, y.shape());
    }
    let mut attributes = c.node.attributes.clone();
    attributes.remove("storage_order");
    let outputs = c.b.several("MaxPool", &[Some(x.id())], attributes, 2);
    outputs[0].typed(y.element_type(), y.shape());
    outputs[1].typed(ElementType::Int64, y.shape())
}

/// Whether no window reaches beyond `x`, as unpooling wants it.
fn fits(c: &Ctx<'_>, window: &Window, x: V<'_>, y: V<'_>) -> bool {
    let within = |axis: usize| match (x.known_dim(axis + 2), y.known_dim(axis + 2)) {
        (Some(size), Some(steps)) => (steps.max(1) - 1) * window.strides[axis] + window.kernel[axis] <= size,
        _ => !window.is_padded() && c.int("ceil_mode", 0) == 0,
    };
    (0..window.kernel.len()).all(within)
}

/// Whether every element of `x` is in one window of two spatial axes.
fn tiles(window: &Window, x: V<'_>) -> bool {
    let divides = |axis: usize| x.known_dim(axis + 2).is_some_and(|n| n % window.kernel[axis] == 0);
    window.kernel.len() == 2
        && !window.is_padded()
        && (0..2)
            .all(|axis| window.strides[axis] == window.extent(axis) && window.dilations[axis] == 1 && divides(axis))
}

fn shared<'b>(c: &Ctx<'b>, x: V<'b>, y: V<'b>, dy: V<'b>, window: &Window) -> V<'b> {
    let all: usize = window.kernel.iter().product();
    let scales: Vec<f32> = [1, 1].iter().chain(&window.kernel).map(|k| *k as f32).collect();
    let scales = c.b.constant(Tensor::from_f32(&[4], &scales));
    let spread = |v: V<'b>| {
        let attributes = Attributes::new()
            .with("mode", "nearest")
            .with("coordinate_transformation_mode", "asymmetric")
            .with("nearest_mode", "floor");
        c.b.node_with_gaps("Resize", &[Some(v.id()), None, Some(scales.id())], attributes, v.element_type(), x.shape())
    };
    let hit = x.compare("Equal", spread(y)).cast(x.element_type());
    let kernel = super::window::ints(&window.kernel);
    let attributes = Attributes::new().with("kernel_shape", kernel.clone()).with("strides", kernel);
    let part = c.b.node("AveragePool", &[hit], attributes, x.element_type(), y.shape());
    hit * spread(dy / (part * all as f64))
}

/// No two maxima share an element, so each gradient is put, not added: 4 to 7 times as fast as scattering.
fn unpool<'b>(c: &Ctx<'b>, dy: V<'b>, at: V<'b>, x: V<'b>, window: &Window) -> V<'b> {
    let kernel = super::window::ints(&window.kernel);
    let strides = super::window::ints(&window.strides);
    let attributes = Attributes::new().with("kernel_shape", kernel).with("strides", strides);
    c.b.node("MaxUnpool", &[dy, at, x.shape_of()], attributes, x.element_type(), x.shape())
}
