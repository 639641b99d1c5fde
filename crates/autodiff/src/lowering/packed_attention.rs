//! ONNX Runtime's own attention operators, with projections, packed inputs and masks of several ranks.

use super::attention::{Attended, Scores, attend, causal, first_keys, from_heads, head_size, to_heads, with_past};
use crate::{error::Result, expr::V, rules::Ctx};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// Which keys may be seen, from a mask of lengths [batch], of keys [batch, keys] or of pairs [batch, queries, keys].
fn seen<'b>(c: &Ctx<'b>, mask: V<'b>, k: V<'b>) -> Result<V<'b>> {
    let on = |mask: V<'b>| mask.compare("Greater", c.b.scalar(mask.element_type(), 0.0));
    match c.rank(mask)? {
        1 if crate::expr::same(&dim(mask, 0), &dim(k, 0)) => Ok(first_keys(k, mask)),
        2 => Ok(on(mask).unsqueeze(&[1, 2])),
        3 => Ok(on(mask).unsqueeze(&[1])),
        _ => Err(c.stop(
            "a mask that is neither of lengths, of keys nor of pairs",
            "give the mask with a row of keys for each sample",
        )),
    }
}

fn dim(v: V<'_>, axis: usize) -> dendrite_onnx::Dim {
    v.shape().and_then(|s| s.0.get(axis).cloned()).unwrap_or(dendrite_onnx::Dim::Unknown)
}

/// Attention as the node's attributes say.
fn attended<'b>(
    c: &Ctx<'b>,
    (q, k, v): (V<'b>, V<'b>, V<'b>),
    mask: Option<V<'b>>,
    bias: Option<V<'b>>,
    past: Option<V<'b>>,
) -> Result<Attended<'b>> {
    let filtered = c.float("mask_filter_value", -10000.0);
    let mask = mask.map(|mask| seen(c, mask, k)).transpose()?;
    // The attribute is what the mask adds; later keys have weight 0 whatever it is.
    let added = mask.map(|mask| mask.choose(q.scalar(0.0), q.scalar(filtered)));
    let bias = match (added, bias) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    };
    let allowed = (c.int("unidirectional", 0) != 0).then(|| causal(q, k, past));
    let scale = c.node.attributes.opt_float("scale").map(f64::from).filter(|s| *s != 0.0);
    let scale = scale.unwrap_or(head_size(c, q)?.sqrt().recip());
    let masked = f64::from(f32::MIN);
    Ok(attend(q, k, v, &Scores { scale, softcap: 0.0, bias, allowed, masked }))
}

/// Equal parts or parts of these sizes along the last axis.
fn parts<'b>(v: V<'b>, sizes: [usize; 3]) -> [V<'b>; 3] {
    let axis = v.rank().unwrap_or(1) - 1;
    let mut start = 0;
    sizes.map(|size| {
        let part = v.slice(&[(axis, start, start + size as i64, 1)]);
        start += size as i64;
        part
    })
}

/// The input is projected to queries, keys and values first.
pub(super) fn projected<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    if c.int("do_rotary", 0) != 0 || c.opt(6).is_some() || c.int("past_present_share_buffer", 0) != 0 {
        return Err(c.stop("do_rotary or a shared buffer, which a CPU does not run", "export the model without them"));
    }
    let (x, weights) = (c.x(0)?, c.x(1)?);
    let heads = c.int("num_heads", 1).max(1) as usize;
    let width = c.known_dims(weights, 1)?.first().copied().unwrap_or(0);
    let sizes = match c.node.attributes.ints("qkv_hidden_sizes") {
        Some([q, k, v]) => [*q, *k, *v].map(|n| n.max(0) as usize),
        _ => [width / 3; 3],
    };
    let mut projected = x.matmul(weights);
    if let Some(bias) = c.opt(2) {
        projected = projected + bias;
    }
    let [q, k, v] = parts(projected, sizes);
    let (q, k, v) = (to_heads(c, q, heads)?, to_heads(c, k, heads)?, to_heads(c, v, heads)?);
    // Keys and values of the past, one behind the other.
    let past = c.opt(4).map(|past| [0, 1].map(|i| past.slice(&[(0, i, i + 1, 1)]).squeeze(&[0])));
    let (k, v) = (with_past(past.map(|p| p[0]), k), with_past(past.map(|p| p[1]), v));
    let y = attended(c, (q, k, v), c.opt(3), c.opt(5), past.map(|p| p[0]))?.y;
    let present = c.node.output(1).map(|_| c.b.concat(&[k.unsqueeze(&[0]), v.unsqueeze(&[0])], 0));
    Ok(vec![Some(from_heads(c, y)?), present])
}

/// Queries, keys and values are given, with one bias for the three side by side.
pub(super) fn multi_head<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    if c.opt(8).is_some() || c.opt(9).is_some() {
        return Err(c.stop("a shared buffer of the past", "export the model without it"));
    }
    let heads = c.int("num_heads", 1).max(1) as usize;
    let (query, key, value) = (c.x(0)?, c.opt(1), c.opt(2));
    if c.rank(query)? != 3 {
        return Err(c.stop("packed queries, keys and values, which a CPU does not run", "give them one by one"));
    }
    let width = c.known_dims(query, 2)?.first().copied().unwrap_or(0);
    let (Some(key), Some(value)) = (key, value) else {
        return Err(c.stop("packed keys and values, which a CPU does not run", "give them one by one"));
    };
    let biases = match c.opt(3) {
        Some(bias) => {
            let all = c.known_dims(bias, 0)?.first().copied().unwrap_or(0);
            parts(bias, [width, width, all.saturating_sub(2 * width)]).map(Some)
        }
        None => [None; 3],
    };
    // Keys and values may already be in heads.
    let in_heads = |v: V<'b>, bias: Option<V<'b>>| -> Result<V<'b>> {
        if c.rank(v)? == 4 {
            return Ok(v);
        }
        to_heads(c, bias.map_or(v, |bias| v + bias), heads)
    };
    let q = in_heads(query, biases[0])?;
    let (past_k, past_v) = (c.opt(6), c.opt(7));
    let (k, v) = (with_past(past_k, in_heads(key, biases[1])?), with_past(past_v, in_heads(value, biases[2])?));
    let Attended { y, products, .. } = attended(c, (q, k, v), c.opt(4), c.opt(5), past_k)?;
    Ok(vec![Some(from_heads(c, y)?), Some(k), Some(v), Some(products)])
}
