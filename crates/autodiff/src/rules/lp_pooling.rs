//! Pooling by the p-norm of each window: y = (sum |x|^p)^(1/p), so dx = sign(x) |x|^(p-1) y^(1-p) dy, and 0 where y is 0.

use super::{Ctx, averaging::spread, rules, window::Window};
use crate::{error::Result, expr::V};

rules! { RULES, exact, (c, dy, y);
    "LpPool"(x) => [lp_pool(c, dy, x, y)?];
}

fn lp_pool<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, y: V<'b>) -> Result<V<'b>> {
    let window = Window::of_pooling(c, x)?;
    Ok(slope(c, x) * spread(c, weight(c, dy, y), x, &window)?)
}

fn slope<'b>(c: &Ctx<'b>, x: V<'b>) -> V<'b> {
    match c.int("p", 2) {
        1 => x.sign(),
        2 => x,
        p => x.sign() * x.abs().pow(x.scalar(p as f64 - 1.0)),
    }
}

fn weight<'b>(c: &Ctx<'b>, dy: V<'b>, y: V<'b>) -> V<'b> {
    let p = c.int("p", 2);
    if p == 1 {
        return dy;
    }
    let zero = y.compare_to("Equal", 0.0);
    let safe = zero.choose(y.scalar(1.0), y);
    let power = if p == 2 { safe } else { safe.pow(y.scalar(p as f64 - 1.0)) };
    zero.choose(dy.scalar(0.0), dy / power)
}
