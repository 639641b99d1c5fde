//! Scaled dot-product attention: softmax(scale * Q K^T + mask) V for each head.

use dendrite_onnx::{Attributes, ElementType};

use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// What is between the product of queries and keys and the softmax.
pub(super) struct Scores<'b> {
    pub(super) scale: f64,
    /// softcap * tanh(score / softcap), unless 0.
    pub(super) softcap: f64,
    /// Added to the scores.
    pub(super) bias: Option<V<'b>>,
    /// Which keys a query may see; others have weight 0.
    pub(super) allowed: Option<V<'b>>,
    /// What is added where it may not.
    pub(super) masked: f64,
}

/// What attention computes on the way: [batch, heads, queries, ...] each.
pub(super) struct Attended<'b> {
    pub(super) y: V<'b>,
    pub(super) products: V<'b>,
    pub(super) weights: V<'b>,
}

/// Of queries, keys and values, [batch, heads, sequence, size] each.
pub(super) fn attend<'b>(q: V<'b>, k: V<'b>, v: V<'b>, scores: &Scores<'b>) -> Attended<'b> {
    let products = q.matmul(k.transpose(&[0, 1, 3, 2])) * scores.scale;
    let mut score = products;
    if scores.softcap != 0.0 {
        score = (score / scores.softcap).tanh() * scores.softcap;
    }
    if let Some(bias) = scores.bias {
        score = score + bias;
    }
    if let Some(allowed) = scores.allowed {
        score = score + allowed.choose(q.scalar(0.0), q.scalar(scores.masked));
    }
    let softmax = Attributes::new().with("axis", -1);
    let weights = q.builder().node("Softmax", &[score], softmax, score.element_type(), score.shape());
    Attended { y: weights.matmul(v), products, weights }
}

/// [batch, sequence, heads * size] as [batch, heads, sequence, size].
pub(super) fn to_heads<'b>(c: &Ctx<'b>, v: V<'b>, heads: usize) -> Result<V<'b>> {
    let width = c.known_dims(v, 2)?.first().copied().unwrap_or(0);
    if heads == 0 || width % heads != 0 {
        return Err(c.stop(format!("{width} features in {heads} heads"), "`dendrite check` lists every finding"));
    }
    let sizes = [Size::Of(v, 0), Size::Of(v, 1), Size::Is(heads), Size::Is(width / heads)];
    Ok(v.reshape(&sizes).transpose(&[0, 2, 1, 3]))
}

/// The way back.
pub(super) fn from_heads<'b>(c: &Ctx<'b>, v: V<'b>) -> Result<V<'b>> {
    let rows = v.transpose(&[0, 2, 1, 3]);
    let width = c.known_dims(rows, 2)?.iter().product();
    Ok(rows.reshape(&[Size::Of(rows, 0), Size::Of(rows, 1), Size::Is(width)]))
}

/// The size of one head: the last axis, which must be known.
pub(super) fn head_size(c: &Ctx<'_>, v: V<'_>) -> Result<f64> {
    Ok(c.known_dims(v, 3)?.first().copied().unwrap_or(1) as f64)
}

/// Whether key `j` is at or before query `i`, counted from `past` keys on: [queries, keys].
pub(super) fn causal<'b>(q: V<'b>, k: V<'b>, past: Option<V<'b>>) -> V<'b> {
    let b = q.builder();
    let (mut row, column) = (b.range(q, 2).unsqueeze(&[1]), b.range(k, 2));
    if let Some(past) = past {
        row = row + past.dim(2);
    }
    column.unsqueeze(&[0]).compare("LessOrEqual", row)
}

/// The first so many keys of each sample: [batch, 1, 1, keys].
pub(super) fn first_keys<'b>(k: V<'b>, lengths: V<'b>) -> V<'b> {
    let at = k.builder().range(k, 2).unsqueeze(&[0, 1, 2]);
    at.compare("Less", lengths.cast(ElementType::Int64).unsqueeze(&[1, 2, 3]))
}

/// Past and present joined along the sequence.
pub(super) fn with_past<'b>(past: Option<V<'b>>, v: V<'b>) -> V<'b> {
    past.map_or(v, |past| v.builder().concat(&[past, v], 2))
}

/// Each head of keys or values for as many heads of queries as there are for one.
fn repeated<'b>(c: &Ctx<'b>, v: V<'b>, times: usize) -> Result<V<'b>> {
    if times == 1 {
        return Ok(v);
    }
    let [heads, size] = [1, 3].map(|axis| v.known_dim(axis));
    let (Some(heads), Some(size)) = (heads, size) else { return Err(c.no_rank(v)) };
    let wide = [Size::Of(v, 0), Size::Is(heads), Size::Is(times), Size::Of(v, 2), Size::Is(size)];
    let ones = c.b.filled(v.element_type(), &wide, 1.0);
    let merged = [Size::Of(v, 0), Size::Is(heads * times), Size::Of(v, 2), Size::Is(size)];
    Ok((v.unsqueeze(&[2]) * ones).reshape(&merged))
}

/// The standard operator.
pub(super) fn standard<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let joined = c.rank(c.x(0)?)? == 3;
    let heads = |index: usize, name: &str| -> Result<V<'b>> {
        let v = c.x(index)?;
        if joined { to_heads(c, v, c.int(name, 0).max(0) as usize) } else { Ok(v) }
    };
    let q = heads(0, "q_num_heads")?;
    let past = c.opt(4);
    let (present_k, present_v) =
        (with_past(past, heads(1, "kv_num_heads")?), with_past(c.opt(5), heads(2, "kv_num_heads")?));
    let (Some(many), Some(few)) = (q.known_dim(1), present_k.known_dim(1)) else {
        return Err(c.stop("the number of heads is not known", "fix the model's input sizes, all but the batch"));
    };
    let times = many / few.max(1);
    let (k, v) = (repeated(c, present_k, times)?, repeated(c, present_v, times)?);

    let (mut bias, mut allowed) = (None, None);
    if let Some(mask) = c.opt(3) {
        let (given, keys) = (mask.rank().and_then(|r| mask.known_dim(r - 1)), k.known_dim(2));
        if given.zip(keys).is_some_and(|(a, b)| a != b) {
            return Err(c.stop("a mask for fewer keys than there are", "fill the mask up to the number of keys"));
        }
        if mask.element_type() == ElementType::Bool { allowed = Some(mask) } else { bias = Some(mask) }
    }
    let causal = (c.int("is_causal", 0) != 0).then(|| causal(q, k, past));
    let valid = c.opt(6).map(|lengths| first_keys(k, lengths));
    if causal.is_some() && valid.is_some() {
        return Err(c.stop("is_causal together with nonpad_kv_seqlen", "give the mask as an input"));
    }
    for more in causal.into_iter().chain(valid) {
        allowed = Some(allowed.map_or(more, |mask| mask.and(more)));
    }
    let scale = c.node.attributes.opt_float("scale").map_or(head_size(c, q)?.sqrt().recip(), f64::from);
    let scores = Scores { scale, softcap: c.float("softcap", 0.0), bias, allowed, masked: f64::from(f32::MIN) };
    let Attended { y, products, weights } = attend(q, k, v, &scores);
    let seen = match (c.node.output(3), c.int("qk_matmul_output_mode", 0)) {
        (None, _) => None,
        (_, 0) => Some(products),
        (_, 3) => Some(weights),
        (_, mode) => {
            return Err(c.stop(format!("qk_matmul_output_mode {mode} is not implemented"), "use 0 or 3"));
        }
    };
    Ok(vec![Some(if joined { from_heads(c, y)? } else { y }), Some(present_k), Some(present_v), seen])
}
