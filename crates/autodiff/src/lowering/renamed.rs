//! Operators of ONNX Runtime's domain that are standard ones under another name.

use super::one;
use crate::{error::Result, expr::V, rules::Ctx};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// The standard operator of the same name, inputs and attributes.
pub(super) fn standard<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (y, node) = (c.y(0)?, &c.node);
    one(c.b.node_with_gaps(&node.op, &node.inputs, node.attributes.clone(), y.element_type(), y.shape()))
}

/// Unsqueeze, of one axis.
pub(super) fn expand_dims<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (x, axis) = (c.x(0)?, c.x(1)?);
    let Some(axis) = axis.as_ints().and_then(|v| v.first().copied()) else {
        return Err(c.stop("the axis is not constant", "make it a constant of the model"));
    };
    one(x.unsqueeze(&[c.front_axis(axis, c.rank(x)? + 1)?]))
}

/// The distances, or their squares, of every row of one matrix from every row of another.
pub(super) fn distances<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let differences = c.x(0)?.unsqueeze(&[1]) - c.x(1)?.unsqueeze(&[0]);
    let squared = c.node.attributes.str("metric", "sqeuclidean") == "sqeuclidean";
    one(differences.reduce(if squared { "ReduceSumSquare" } else { "ReduceL2" }, &[2], false))
}
