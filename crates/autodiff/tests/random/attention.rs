//! Attention, and the rotation of positions.

use dendrite_onnx::{ElementType, Tensor};

use crate::{
    case::{Array, Case, Table},
    draw::{Draw, int32s},
};

pub(crate) const OPERATORS: Table = &[
    (&["Attention"], standard),
    (&["RotaryEmbedding"], rotary),
    (&["com.microsoft.RotaryEmbedding"], contributed_rotary),
    (&["com.microsoft.Attention"], projected),
    (&["com.microsoft.MultiHeadAttention"], multi_head),
];

struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value_size: usize,
}

impl Sizes {
    fn new(r: &mut Draw) -> Self {
        Sizes {
            batch: r.size(1, 2),
            heads: r.size(1, 2),
            queries: r.size(1, 3),
            keys: r.size(1, 4),
            size: r.size(1, 3),
            value_size: r.size(1, 3),
        }
    }
}

/// Pairs of queries and keys, where every query sees the first key.
fn pairs(r: &mut Draw, leading: &[usize], queries: usize, keys: usize) -> Tensor {
    let shape = [leading, &[queries, keys]].concat();
    let count: usize = shape.iter().product();
    let bytes: Vec<u8> = (0..count).map(|i| u8::from(i % keys == 0 || r.once_in(2))).collect();
    Tensor::new(ElementType::Bool, shape, bytes).unwrap()
}

fn standard(r: &mut Draw, op: &str) -> Case {
    let mut s = Sizes::new(r);
    let past = if r.once_in(4) { Some(r.size(1, 2)) } else { None };
    if past.is_some() && s.queries == 1 {
        // Of several keys the runtime's mask of floats would let one query see those behind it.
        s.keys = 1;
    }
    let (times, joined) = (r.size(1, 2), r.once_in(3));
    let many = s.heads * times;
    let shape = |heads: usize, steps: usize, size: usize| {
        if joined { vec![s.batch, steps, heads * size] } else { vec![s.batch, heads, steps, size] }
    };
    let case = Case::of(op)
        .x(r.floats(&shape(many, s.queries, s.size)))
        .x(r.floats(&shape(s.heads, s.keys, s.size)))
        .x(r.floats(&shape(s.heads, s.keys, s.value_size)));
    let case = if joined {
        case.with("q_num_heads", many as i64).with("kv_num_heads", s.heads as i64)
    } else {
        case
    };
    let all = s.keys + past.unwrap_or(0);
    let lengths = if past.is_none() && r.once_in(5) { Some(r.ints(s.batch, 1, all as i64)) } else { None };
    let leading = r.pick(&[&[][..], &[1, 1], &[2, 1], &[1, 2]]);
    let leading: Vec<usize> = leading.iter().zip([s.batch, many]).map(|(n, all)| if *n == 1 { 1 } else { all }).collect();
    let masked = r.below(3);
    let case = match masked {
        0 if past.is_some() || lengths.is_some() => case.none(),
        0 => case,
        1 => {
            let mask = pairs(r, &leading, s.queries, all);
            case.input(r.given(mask))
        }
        _ => case.x(r.floats(&[&leading[..], &[s.queries, all]].concat())),
    };
    let case = match past {
        Some(past) => case
            .x(r.floats(&[s.batch, s.heads, past, s.size]))
            .x(r.floats(&[s.batch, s.heads, past, s.value_size])),
        None if lengths.is_some() => case.none().none(),
        None => case,
    };
    let (free, case) = match lengths {
        Some(lengths) => (false, case.constant(Tensor::int64s(&lengths))),
        None => (true, case),
    };
    let case = if free && r.once_in(3) { case.with("is_causal", 1i64) } else { case };
    let case = if r.once_in(3) { case.with("scale", r.float(0.2, 1.2)) } else { case };
    let case = if r.once_in(4) { case.with("softcap", r.float(0.5, 3.0)) } else { case };
    match (past.is_some(), r.below(4)) {
        (true, 0..=2) => case.outputs(3),
        (true, _) => case.outputs(4).with("qk_matmul_output_mode", r.pick(&[0i64, 3])),
        _ => case,
    }
}

fn positions(r: &mut Draw, batch: usize, steps: usize, most: usize) -> Tensor {
    let at = r.ints(batch * steps, 0, most as i64 - 1);
    Tensor::from_i64(&[batch, steps], &at)
}

/// Batch, heads, steps, features of a head, of them turned in pairs.
fn turned(r: &mut Draw) -> [usize; 5] {
    let half = r.size(1, 2);
    let size = 2 * half + if r.once_in(3) { 2 } else { 0 };
    [r.size(1, 2), r.size(1, 2), r.size(1, 3), size, half]
}

fn rotary(r: &mut Draw, op: &str) -> Case {
    let [batch, heads, steps, size, half] = turned(r);
    let joined = r.once_in(2);
    let shape = if joined { vec![batch, steps, heads * size] } else { vec![batch, heads, steps, size] };
    let case = Case::of(op).x(r.floats(&shape));
    let case = if r.once_in(2) {
        case.x(r.floats(&[batch, steps, half])).x(r.floats(&[batch, steps, half]))
    } else {
        let most = steps + r.size(0, 3);
        let at = positions(r, batch, steps, most);
        case.x(r.floats(&[most, half])).x(r.floats(&[most, half])).input(r.given(at))
    };
    let case = if size > 2 * half { case.with("rotary_embedding_dim", 2 * half as i64) } else { case };
    let case = if joined { case.with("num_heads", heads as i64) } else { case };
    case.with("interleaved", r.flag())
}

fn contributed_rotary(r: &mut Draw, op: &str) -> Case {
    let [batch, heads, steps, size, half] = turned(r);
    let partly = size > 2 * half;
    let joined = partly || r.once_in(2);
    let shape = if joined { vec![batch, steps, heads * size] } else { vec![batch, heads, steps, size] };
    let most = steps + r.size(0, 3);
    let at = if r.once_in(2) {
        Tensor::int64s(&[r.int(0, (most - steps) as i64)])
    } else {
        positions(r, batch, steps, most)
    };
    let case = Case::of(op).x(r.floats(&shape)).input(r.given(at));
    let case = case.x(r.floats(&[most, half])).x(r.floats(&[most, half])).with("interleaved", r.flag());
    let case = if partly { case.with("rotary_embedding_dim", 2 * half as i64) } else { case };
    if partly || joined && r.once_in(2) { case.with("num_heads", heads as i64) } else { case }
}

fn projected(r: &mut Draw, op: &str) -> Case {
    let s = Sizes::new(r);
    let features = r.size(1, 3);
    let widths = [s.size, s.size, if r.once_in(3) { s.value_size } else { s.size }].map(|n| n * s.heads);
    let width: usize = widths.iter().sum();
    let uneven = widths[2] != widths[0];
    let past = if !uneven && r.once_in(4) { Some(r.size(1, 2)) } else { None };
    let all = s.queries + past.unwrap_or(0);
    let case = Case::of(op)
        .x(r.floats(&[s.batch, s.queries, features]))
        .x(r.between(&[features, width], -1.0, 1.0))
        .x(r.floats(&[width]))
        .with("num_heads", s.heads as i64);
    let case = if uneven {
        case.with("qkv_hidden_sizes", widths.iter().map(|n| *n as i64).collect::<Vec<_>>())
    } else {
        case
    };
    let added = past.is_none() && r.once_in(3);
    let case = match r.below(4) {
        0 if past.is_some() || added => case.none(),
        0 => case,
        1 => {
            let mask: Vec<i64> = (0..s.batch * all).map(|i| if i % all == 0 { 1 } else { r.flag() }).collect();
            case.constant(int32s(&[s.batch, all], &mask))
        }
        2 => {
            let seen: Vec<i64> =
                (0..s.batch * s.queries * all).map(|i| if i % all == 0 { 1 } else { r.flag() }).collect();
            case.constant(int32s(&[s.batch, s.queries, all], &seen))
        }
        _ => case.constant(int32s(&[s.batch], &r.ints(s.batch, 1, all as i64))),
    };
    let case = match past {
        Some(past) => case.x(r.floats(&[2, s.batch, s.heads, past, s.size])),
        None if added => case.none().x(added_to(r, &s, all)),
        None => case,
    };
    let case = if r.once_in(3) { case.with("unidirectional", 1i64) } else { case };
    let case = if r.once_in(3) { case.with("scale", r.float(0.2, 1.2)) } else { case };
    let case = if r.once_in(3) { case.with("mask_filter_value", -1.5f32) } else { case };
    if past.is_some() { case.outputs(2) } else { case }
}

/// What is added to the scores, perhaps the same for all samples or heads.
fn added_to(r: &mut Draw, s: &Sizes, keys: usize) -> Array {
    let [batch, heads] = [s.batch, s.heads].map(|n| if r.once_in(3) { 1 } else { n });
    r.floats(&[batch, heads, s.queries, keys])
}

fn multi_head(r: &mut Draw, op: &str) -> Case {
    let mut s = Sizes::new(r);
    let (past, in_heads) = (r.once_in(4), r.once_in(4));
    let past = if past && !in_heads { Some(r.size(1, 2)) } else { None };
    if past.is_some() || in_heads {
        s.value_size = s.size;
    }
    if past.is_some() {
        s.keys = s.queries;
    }
    let causal = r.once_in(4);
    if causal {
        s.keys = s.queries;
    }
    let all = s.keys + past.unwrap_or(0);
    let case = Case::of(op).with("num_heads", s.heads as i64);
    let case = case.x(r.floats(&[s.batch, s.queries, s.heads * s.size]));
    let shape = |size: usize| {
        if in_heads { vec![s.batch, s.heads, s.keys, size] } else { vec![s.batch, s.keys, s.heads * size] }
    };
    let case = case.x(r.floats(&shape(s.size))).x(r.floats(&shape(s.value_size)));
    let biased = !in_heads && past.is_none() && r.once_in(3);
    let case = case.maybe(if biased { Some(r.floats(&[s.heads * (2 * s.size + s.value_size)])) } else { None });
    let case = if past.is_none() && !causal && r.once_in(3) {
        let mask: Vec<i64> = (0..s.batch * all).map(|i| if i % all == 0 { 1 } else { r.flag() }).collect();
        case.constant(int32s(&[s.batch, all], &mask))
    } else {
        case.none()
    };
    let case = case.maybe(if r.once_in(3) { Some(added_to(r, &s, all)) } else { None });
    let case = match past {
        Some(past) => case
            .x(r.floats(&[s.batch, s.heads, past, s.size]))
            .x(r.floats(&[s.batch, s.heads, past, s.value_size]))
            .outputs(3),
        None => case,
    };
    let case = if causal { case.with("unidirectional", 1i64) } else { case };
    if r.once_in(3) { case.with("scale", r.float(0.2, 1.2)) } else { case }
}
