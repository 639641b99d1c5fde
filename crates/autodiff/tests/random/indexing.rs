//! Gathers, scatters, selections.

use dendrite_onnx::Tensor;

use crate::{
    case::{Case, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[
    (&["Gather"], |r, op| {
        let shape = r.full(1, 3);
        let (axis, front) = r.axis(shape.len());
        let places = if r.once_in(2) { vec![] } else { r.shape(1, 2) };
        let at = r.places(&places, shape[front]);
        let at = r.integers(&places, &at);
        Case::of(op).x(r.floats(&shape)).input(r.given(at)).with("axis", axis)
    }),
    (&["GatherElements"], |r, op| {
        let shape = r.full(1, 3);
        let (axis, front) = r.axis(shape.len());
        let mut places: Vec<usize> = shape.iter().map(|n| r.size(1, *n)).collect();
        places[front] = if r.once_in(12) { 0 } else { r.size(1, 5) };
        let at = r.places(&places, shape[front]);
        let at = r.integers(&places, &at);
        Case::of(op).x(r.floats(&shape)).input(r.given(at)).with("axis", axis)
    }),
    (&["GatherND", "com.microsoft.GatherND"], |r, op| {
        let shape = r.full(1, 4);
        let batch = if op == "GatherND" { r.size(0, 1.min(shape.len() - 1)) } else { 0 };
        let depth = r.size(1, shape.len() - batch);
        let count = r.size(1, 4);
        let places: Vec<usize> = shape[..batch].iter().copied().chain([count, depth]).collect();
        let tuples: usize = places[..places.len() - 1].iter().product();
        let at: Vec<i64> = (0..tuples * depth)
            .map(|i| {
                let n = shape[batch + i % depth] as i64;
                r.int(if op == "GatherND" { -n } else { 0 }, n - 1)
            })
            .collect();
        let at = Tensor::from_i64(&places, &at);
        let case = Case::of(op).x(r.floats(&shape)).input(r.given(at));
        if batch == 0 { case } else { case.with("batch_dims", batch as i64) }
    }),
    (&["Compress"], |r, op| {
        let shape = r.full(1, 3);
        let axis = if r.once_in(3) { None } else { Some(r.axis(shape.len())) };
        let most = axis.map_or(shape.iter().product(), |(_, front)| shape[front]);
        let length = r.size(1, most);
        let kept = r.truths(&[length]);
        Case::of(op).x(r.floats(&shape)).input(r.given(kept)).with_some("axis", axis.map(|(said, _)| said))
    }),
    (&["Unique"], |r, op| {
        let shape = r.full(1, 3);
        let axis = if r.once_in(2) { None } else { Some(r.axis(shape.len()).0) };
        Case::of(op).x(r.between(&shape, -3.0, 3.0)).with_some("axis", axis).with("sorted", r.flag())
    }),
    (&["TopK"], |r, op| {
        let shape = r.full(1, 3);
        let (axis, front) = r.axis(shape.len());
        let count = if r.once_in(12) { 0 } else { r.size(1, shape[front]) };
        let count = Tensor::int64s(&[count as i64]);
        let case = Case::of(op).x(r.between(&shape, -3.0, 3.0)).input(r.given(count)).outputs(2);
        case.with("axis", axis).with("largest", r.flag())
    }),
    (&["OneHot"], |r, op| {
        let (places, depth) = (r.full(1, 2), r.size(1, 4));
        let at = r.places(&places, depth + 1);
        let at = Tensor::from_i64(&places, &at);
        let axis = r.axis(places.len() + 1).0;
        let depth = Tensor::from_i64(&[], &[depth as i64]);
        let case = Case::of(op).input(r.given(at)).input(r.given(depth)).x(r.floats(&[2]));
        if r.once_in(3) { case } else { case.with("axis", axis) }
    }),
    (&["ScatterElements"], scatter_elements),
    (&["ScatterND"], scatter_nd),
    (&["TensorScatter"], |r, op| {
        // Batch, perhaps heads, sequence, size.
        let rank = r.size(3, 4);
        let mut past = r.sizes(rank, 1, 3);
        let axis = past.len() - 2;
        let length = r.size(1, 3);
        past[axis] = length + r.size(0, 2);
        let mut update = past.clone();
        update[axis] = length;
        let circular = r.once_in(2);
        let most = if circular { past[axis] - 1 } else { past[axis] - length };
        let starts = Tensor::int64s(&r.ints(past[0], 0, most as i64));
        let case = Case::of(op).x(r.floats(&past)).x(r.floats(&update));
        let case = if r.once_in(4) { case } else { case.input(r.given(starts)) };
        let case = if circular { case.with("mode", "circular") } else { case };
        if r.once_in(2) { case } else { case.with("axis", r.said(axis, past.len())) }
    }),
];

fn reduction(r: &mut Draw, case: Case) -> (Case, &'static str) {
    let how = r.pick(&["none", "add", "mul", "max", "min"]);
    (if how == "none" && r.once_in(2) { case } else { case.with("reduction", how) }, how)
}

/// What is put in has no place twice; what is added may.
fn scatter_elements(r: &mut Draw, op: &str) -> Case {
    let shape = r.full(1, 3);
    let (axis, front) = r.axis(shape.len());
    let (case, how) = reduction(r, Case::of(op).with("axis", axis));
    let mut places: Vec<usize> = shape.iter().map(|n| r.size(1, *n)).collect();
    if how != "none" {
        places[front] = r.size(1, 4);
    }
    let lines: usize = places.iter().product::<usize>() / places[front];
    let inner: usize = places[front + 1..].iter().product();
    let mut at = vec![0; lines * places[front]];
    for line in 0..lines {
        let unique = r.order(shape[front]);
        for k in 0..places[front] {
            let place = if how == "none" { unique[k] } else { r.below(shape[front]) };
            at[(line / inner * places[front] + k) * inner + line % inner] = r.said(place, shape[front]);
        }
    }
    let arrays = r.apart(&[shape, places.clone()], 0.3, 3.0);
    let [data, updates] = arrays.try_into().unwrap();
    let at = r.integers(&places, &at);
    case.x(data).input(r.given(at)).x(updates)
}

fn scatter_nd(r: &mut Draw, op: &str) -> Case {
    let shape = r.full(1, 3);
    let (case, how) = reduction(r, Case::of(op));
    let depth = r.size(1, shape.len());
    let tuples: usize = shape[..depth].iter().product();
    let count = r.size(1, if how == "none" { tuples.min(4) } else { 4 });
    let mut at = Vec::new();
    for unique in r.order(tuples).into_iter().cycle().take(count) {
        let mut flat = if how == "none" { unique } else { r.below(tuples) };
        let mut tuple = Vec::new();
        for axis in (0..depth).rev() {
            tuple.push(r.said(flat % shape[axis], shape[axis]));
            flat /= shape[axis];
        }
        at.extend(tuple.into_iter().rev());
    }
    let updates: Vec<usize> = [count].into_iter().chain(shape[depth..].iter().copied()).collect();
    let arrays = r.apart(&[shape, updates], 0.3, 3.0);
    let [data, updates] = arrays.try_into().unwrap();
    let at = Tensor::from_i64(&[count, depth], &at);
    case.x(data).input(r.given(at)).x(updates)
}
