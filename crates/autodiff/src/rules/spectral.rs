//! Fourier transforms. The adjoint of a transform is the one in the other direction, but for a factor.

use dendrite_onnx::{Attributes, Dim, ElementType};

use super::{Ctx, movement::rank_only, rules};
use crate::{error::Result, expr::V};

rules! { RULES, exact, (c, dy, y);
    "DFT"(x) => [fourier(c, dy, x)?, super::Answer::Zero, super::Answer::Zero];
}

fn fourier<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(x)?;
    let axis = match c.opt(2) {
        Some(_) => c.front_axis(c.constant_ints(2)?.first().copied().unwrap_or(-2), rank)?,
        None => rank.saturating_sub(2),
    };
    let (inverse, one_sided) = (c.int("inverse", 0) != 0, c.int("onesided", 0) != 0);
    if inverse && one_sided {
        return Err(c.stop(
            "the gradient of an inverse one-sided transform is not implemented",
            "use the two-sided transform and keep its real part",
        ));
    }
    // Points the transform takes: the input is cut or filled up with zeros.
    let length = c.opt(1).map_or_else(|| x.dim(axis).squeeze(&[0]), |n| n.cast(ElementType::Int64));
    let attributes = Attributes::new().with("inverse", i64::from(!inverse));
    let inputs = [Some(dy.id()), Some(length.id()), Some(c.b.scalar(ElementType::Int64, axis as f64).id())];
    let shape = dy.shape().map(|mut s| {
        s.0[axis] = length.as_scalar().map_or(Dim::Unknown, |n| Dim::Known(n as usize));
        s
    });
    let full = c.b.node_with_gaps("DFT", &inputs, attributes, x.element_type(), shape);
    let count = length.cast(x.element_type());
    let scaled = if inverse { full / count } else { full * count };
    // Of a real input only the real part.
    let taken = match x.known_dim(rank - 1) {
        Some(2) => scaled,
        Some(parts) => scaled.slice(&[(rank - 1, 0, parts as i64, 1)]),
        None => {
            let inputs = [scaled, c.b.ints(&[0]), x.dim(rank - 1), c.b.ints(&[rank as i64 - 1])];
            c.b.node("Slice", &inputs, Attributes::new(), x.element_type(), rank_only(rank))
        }
    };
    if c.opt(1).is_none() {
        return Ok(taken.typed(x.element_type(), x.shape()));
    }
    // Elements beyond the length had no part; zeros that were put behind have no place.
    let missing = x.dim(axis) - length.unsqueeze(&[0]);
    let (before, after) = (vec![0; rank + axis], vec![0; rank - axis - 1]);
    let pads = c.b.concat(&[c.b.ints(&before), missing, c.b.ints(&after)], 0);
    Ok(c.b.node("Pad", &[taken, pads], Attributes::new(), x.element_type(), x.shape()))
}
