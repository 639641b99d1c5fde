//! Rotary position embeddings: pairs of features turned by an angle that depends on the position.

use dendrite_onnx::ElementType;

use super::{
    attention::{from_heads, to_heads},
    one,
};
use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// The standard operator: the caches are gathered at the positions, or are already.
pub(super) fn standard<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (cosine, sine) = (c.x(1)?, c.x(2)?);
    let at = |cache: V<'b>| c.opt(3).map_or(cache, |positions| cache.gather(positions, 0));
    rotate(c, at(cosine), at(sine))
}

/// ONNX Runtime's own: one position for all says where the sequences begin.
pub(super) fn contributed<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    if c.int("is_packed_batching", 0) != 0 || c.float("scale", 1.0) != 1.0 {
        return Err(c.stop("a packed batch or a scale, which a CPU does not run", "export the model without it"));
    }
    let (x, positions) = (c.x(0)?, c.x(1)?.cast(ElementType::Int64));
    let positions = match c.rank(positions)? {
        1 => {
            let sequence = if c.rank(x)? == 4 { 2 } else { 1 };
            positions.unsqueeze(&[1]) + c.b.range(x, sequence).unsqueeze(&[0])
        }
        _ => positions,
    };
    rotate(c, c.x(2)?.gather(positions, 0), c.x(3)?.gather(positions, 0))
}

/// [batch, sequence, half] of cosines and sines.
fn rotate<'b>(c: &Ctx<'b>, cosine: V<'b>, sine: V<'b>) -> Outputs<'b> {
    let x = c.x(0)?;
    let joined = c.rank(x)? == 3;
    let half = c.known_dims(cosine, 2)?.first().copied().unwrap_or(0);
    let heads = match (joined, c.int("num_heads", 0)) {
        (true, 0) => c.known_dims(x, 2)?.first().copied().unwrap_or(0) / (2 * half).max(1),
        (_, heads) => heads.max(0) as usize,
    };
    let v = if joined { to_heads(c, x, heads)? } else { x };
    let size = c.known_dims(v, 3)?.first().copied().unwrap_or(0);
    let (half, size) = (half as i64, size as i64);
    let (cosine, sine) = (cosine.unsqueeze(&[1]), sine.unsqueeze(&[1]));
    let part = |from: i64, to: i64, step: i64| v.slice(&[(3, from, to, step)]);
    let interleaved = c.int("interleaved", 0) != 0;
    let (a, b) = if interleaved {
        (part(0, 2 * half, 2), part(1, 2 * half, 2))
    } else {
        (part(0, half, 1), part(half, 2 * half, 1))
    };
    let (real, imaginary) = (a * cosine - b * sine, a * sine + b * cosine);
    let turned = if interleaved {
        let pairs = c.b.concat(&[real.unsqueeze(&[4]), imaginary.unsqueeze(&[4])], 4);
        let sizes = [Size::Of(v, 0), Size::Of(v, 1), Size::Of(v, 2), Size::Is(2 * half as usize)];
        pairs.reshape(&sizes)
    } else {
        c.b.concat(&[real, imaginary], 3)
    };
    // What is beyond the rotated features stays.
    let y = if size > 2 * half { c.b.concat(&[turned, part(2 * half, size, 1)], 3) } else { turned };
    one(if joined { from_heads(c, y)? } else { y })
}
