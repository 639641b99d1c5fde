//! Images read at the points of a grid.

use super::{
    one,
    sampling::{Image, combinations, interpolated, linear_taps},
};
use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

/// The bounds of the coordinates along one axis, at which they are mirrored.
struct Bounds<'b> {
    low: V<'b>,
    high: V<'b>,
}

impl<'b> Bounds<'b> {
    /// The coordinate mirrored at the bounds as often as it takes.
    fn reflected(&self, v: V<'b>) -> V<'b> {
        let twice = (self.high - self.low) * 2.0;
        let from_low = v - self.low;
        let within = from_low - twice * (from_low / twice).unary("Floor");
        self.low + within.binary("Min", twice - within)
    }
}

pub(super) fn grid_sample<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    let (x, grid) = (c.x(0)?, c.x(1)?);
    let image = Image::new(c, x)?;
    let axes = image.axes();
    let aligned = c.int("align_corners", 0) != 0;
    let padding = c.node.attributes.str("padding_mode", "zeros");
    let mode = c.node.attributes.str("mode", "linear");
    // The grid's last coordinate belongs to the first spatial axis.
    let points = grid.reshape(&[Size::Of(grid, 0), Size::Rest, Size::Is(axes)]);
    let mut coordinates: Vec<V<'b>> = (0..axes)
        .map(|axis| {
            let place = (axes - 1 - axis) as i64;
            let v = (points.slice(&[(2, place, place + 1, 1)]).squeeze(&[2]) + 1.0) * 0.5;
            if aligned { v * image.last(axis) } else { v * image.size(axis) - 0.5 }
        })
        .collect();
    let bounds: Vec<Bounds<'b>> = (0..axes)
        .map(|axis| {
            let margin = if aligned { 0.0 } else { 0.5 };
            Bounds { low: x.scalar(-margin), high: image.last(axis) + margin }
        })
        .collect();
    if mode == "nearest" {
        coordinates.iter_mut().for_each(|v| *v = v.unary("Round"));
    }
    if padding == "reflection" {
        coordinates.iter_mut().zip(&bounds).for_each(|(v, bounds)| *v = bounds.reflected(*v));
    }
    let taps: Vec<Vec<(V<'b>, V<'b>)>> = coordinates
        .into_iter()
        .map(|v| match mode {
            "nearest" => vec![(v, x.scalar(1.0))],
            "cubic" | "bicubic" => cubic_taps(v),
            _ => linear_taps(v),
        })
        .collect();
    let samples = image.samples();
    let values = if padding == "zeros" {
        interpolated(&image, samples, &taps)
    } else {
        let parts: Vec<V<'b>> = combinations(&taps)
            .into_iter()
            .filter_map(|(mut position, weights)| {
                if padding == "reflection" {
                    position.iter_mut().zip(&bounds).for_each(|(v, bounds)| *v = bounds.reflected(*v));
                }
                let weight = weights.into_iter().reduce(|a, b| a * b)?;
                let weight = if weight.rank() == Some(0) { weight } else { weight.unsqueeze(&[2]) };
                Some(image.at(samples, &position) * weight)
            })
            .collect();
        c.b.sum(&parts)
    };
    let Some(values) = values else { return Err(c.no_rank(x)) };
    let sizes = (0..=axes).map(|axis| Size::Of(grid, axis)).chain([Size::Of(x, 1)]).collect::<Vec<_>>();
    let channels_first: Vec<usize> = [0, axes + 1].into_iter().chain(1..=axes).collect();
    one(values.reshape(&sizes).transpose(&channels_first))
}

/// Four neighbours by the cubic kernel with a = -0.75.
fn cubic_taps<'b>(coordinate: V<'b>) -> Vec<(V<'b>, V<'b>)> {
    let a = -0.75;
    let low = coordinate.unary("Floor");
    let t = coordinate - low;
    let near = |d: V<'b>| ((d * (a + 2.0)) - (a + 3.0)) * d * d + 1.0;
    let far = |d: V<'b>| ((d * a - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    vec![(low - 1.0, far(t + 1.0)), (low, near(t)), (low + 1.0, near(1.0 - t)), (low + 2.0, far(2.0 - t))]
}
