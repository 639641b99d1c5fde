//! The short-time Fourier transform: frames of the signal, windowed, each transformed.

use dendrite_onnx::{Attributes, Dim, ElementType, Shape};

use super::one;
use crate::{error::Result, expr::V, rules::Ctx};

pub(super) fn short_time_fourier<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    // [batch, samples, 1 or 2]
    let signal = c.x(0)?;
    let scalar = |v: V<'b>| v.cast(ElementType::Int64).reshape(&[]);
    let (step, window) = (scalar(c.x(1)?), c.opt(2));
    let length = match (c.opt(3), window) {
        (Some(length), _) => scalar(length),
        (None, Some(window)) => window.dim(0).squeeze(&[0]),
        (None, None) => return Err(c.stop("neither a window nor a frame length", "give one of them")),
    };
    let int = |n: f64| c.b.scalar(ElementType::Int64, n);
    let range = |inputs: [V<'b>; 3], dim: Dim| {
        c.b.node("Range", &inputs, Attributes::new(), ElementType::Int64, Some(Shape(vec![dim])))
    };
    let constant = |v: V<'b>| v.as_scalar().map(|n| n as usize);
    let steps = match (signal.known_dim(1), constant(length), constant(step)) {
        (Some(samples), Some(length), Some(step)) if length <= samples => {
            Dim::Known((samples - length) / step.max(1) + 1)
        }
        _ => Dim::Unknown,
    };
    let points = constant(length);
    let starts = range([int(0.0), signal.dim(1).squeeze(&[0]) - length + int(1.0), step], steps);
    let within = range([int(0.0), length, int(1.0)], points.map_or(Dim::Unknown, Dim::Known));
    // [batch, frames, points, 1 or 2]
    let mut frames = signal.gather(starts.unsqueeze(&[1]) + within.unsqueeze(&[0]), 1);
    if let Some(window) = window {
        frames = frames * window.unsqueeze(&[1]);
    }
    let one_sided = c.int("onesided", 1) != 0;
    let shape = frames.shape().map(|mut s| {
        s.0[2] = points.map_or(Dim::Unknown, |n| Dim::Known(if one_sided { n / 2 + 1 } else { n }));
        s.0[3] = Dim::Known(2);
        s
    });
    let attributes = Attributes::new().with("onesided", i64::from(one_sided));
    let inputs = [Some(frames.id()), None, Some(int(2.0).id())];
    one(c.b.node_with_gaps("DFT", &inputs, attributes, frames.element_type(), shape))
}
