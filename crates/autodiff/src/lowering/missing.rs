//! Operators of the working opset for which the runtime has no kernel there: lowered they can be trained all the same.

use crate::{error::Result, expr::V, rules::Ctx};

/// x * sigmoid(alpha * x)
pub(super) fn swish<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    let x = c.x(0)?;
    Ok(vec![Some(x * (x * c.float("alpha", 1.0)).sigmoid())])
}

/// The p-norm over all spatial axes.
pub(super) fn global_lp_pool<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    let x = c.x(0)?;
    let axes: Vec<usize> = (2..c.rank(x)?).collect();
    let y = match c.int("p", 2) {
        1 => x.reduce("ReduceL1", &axes, true),
        2 => x.reduce("ReduceL2", &axes, true),
        p => x.abs().pow(x.scalar(p as f64)).sum(&axes, true).pow(x.scalar(1.0 / p as f64)),
    };
    Ok(vec![Some(y)])
}
