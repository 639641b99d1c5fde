//! Writes into a cache of past keys or values.

use super::{Answer, Ctx, indexing::gather_elements, rules};
use crate::{error::Result, expr::V};

rules! { RULES, exact, (c, dy, y);
    "TensorScatter"(past, update) => [
        c.again(&[Some(dy), Some(c.zeros_like(update)?), c.opt(2)], past.element_type(), past.shape()),
        written(c, dy, update)?,
        Answer::Zero,
    ];
}

/// The elements of dy where the update was written.
fn written<'b>(c: &Ctx<'b>, dy: V<'b>, update: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(update)?;
    let axis = c.axis("axis", -2, rank)?;
    let mut at = c.b.range(update, axis).unsqueeze(&(0..rank).filter(|a| *a != axis).collect::<Vec<_>>());
    if let Some(start) = c.opt(2) {
        at = at + start.unsqueeze(&(1..rank).collect::<Vec<_>>());
    }
    if c.node.attributes.str("mode", "linear") == "circular" {
        at = at.binary("Mod", dy.dim(axis));
    }
    Ok(gather_elements(dy, at.expand_like(update), axis as i64))
}
