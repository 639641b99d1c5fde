//! Operators that move elements: views, joins, pieces, padding.

use dendrite_onnx::Tensor;

use crate::{
    case::{Array, Case, Input, Table},
    draw::{Draw, said},
};

pub(crate) const OPERATORS: Table = &[
    (&["Reshape"], reshape),
    (&["Flatten"], |r, op| {
        let shape = r.shape(0, 4);
        let axis = r.int(-(shape.len() as i64), shape.len() as i64);
        let axis = if r.once_in(4) && !shape.is_empty() { None } else { Some(axis) };
        Case::of(op).x(r.floats(&shape)).with_some("axis", axis)
    }),
    (&["Squeeze"], |r, op| {
        let shape: Vec<usize> = r.shape(0, 4).into_iter().map(|n| if r.once_in(2) { 1 } else { n }).collect();
        let case = Case::of(op).x(r.floats(&shape));
        if r.once_in(3) {
            return case;
        }
        let ones: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] == 1 && !r.once_in(3)).collect();
        let axes: Vec<i64> = ones.into_iter().map(|axis| r.said(axis, shape.len())).collect();
        case.input(r.given(Tensor::int64s(&axes)))
    }),
    (&["Unsqueeze"], |r, op| {
        let (shape, more) = (r.shape(0, 3), r.size(1, 2));
        let rank = shape.len() + more;
        let axes: Vec<usize> = r.order(rank).into_iter().take(more).collect();
        let axes: Vec<i64> = axes.into_iter().map(|axis| r.said(axis, rank)).collect();
        Case::of(op).x(r.floats(&shape)).input(r.given(Tensor::int64s(&axes)))
    }),
    (&["com.microsoft.ExpandDims"], |r, op| {
        let shape = r.shape(1, 4);
        let axis = r.axis(shape.len() + 1).0;
        Case::of(op).x(r.floats(&shape)).constant(crate::draw::int32s(&[], &[axis]))
    }),
    (&["Transpose"], |r, op| {
        let shape = r.shape(0, 5);
        let order = said(&r.order(shape.len()));
        let order = if r.once_in(4) || shape.is_empty() { None } else { Some(order) };
        Case::of(op).x(r.floats(&shape)).with_some("perm", order)
    }),
    (&["Trilu", "com.microsoft.Trilu"], |r, op| {
        let shape = r.shape(2, 4);
        let case = Case::of(op).x(r.floats(&shape)).with("upper", r.flag());
        if r.once_in(3) {
            return case;
        }
        let diagonal = r.int(-3, 3);
        case.input(r.given(Tensor::from_i64(&[], &[diagonal])))
    }),
    (&["SpaceToDepth"], |r, op| {
        let (block, sizes) = (r.size(1, 2), r.sizes(4, 1, 2));
        let shape = [sizes[0], sizes[1], sizes[2] * block, sizes[3] * block];
        Case::of(op).x(r.floats(&shape)).with("blocksize", block as i64)
    }),
    (&["DepthToSpace"], |r, op| {
        let (block, sizes) = (r.size(1, 2), r.sizes(4, 1, 2));
        let shape = [sizes[0], sizes[1] * block * block, sizes[2], sizes[3] + 1];
        let mode = r.pick(&[None, Some("DCR"), Some("CRD")]);
        Case::of(op).x(r.floats(&shape)).with("blocksize", block as i64).with_some("mode", mode)
    }),
    (&["ReverseSequence"], |r, op| {
        let (mut shape, time) = (r.full(2, 4), r.flag());
        shape[0] += 1;
        let (steps, batch) = (shape[time as usize], shape[1 - time as usize]);
        let lengths = Tensor::int64s(&r.ints(batch, 1, steps as i64));
        let case = Case::of(op).x(r.floats(&shape)).input(r.given(lengths));
        case.with("time_axis", time).with("batch_axis", 1 - time)
    }),
    (&["Tile"], |r, op| {
        let shape = r.shape(0, 3);
        let times = r.ints(shape.len(), 0, 3);
        let times = if r.once_in(6) { times } else { times.into_iter().map(|n| n.max(1)).collect() };
        Case::of(op).x(r.floats(&shape)).constant(Tensor::int64s(&times))
    }),
    (&["Slice"], slice),
    (&["Pad", "com.microsoft.Pad"], pad),
    (&["Concat"], |r, op| {
        let (shape, count) = (r.full(1, 4), r.size(1, 4));
        let (axis, front) = r.axis(shape.len());
        let mut case = Case::of(op).with("axis", axis);
        for _ in 0..count {
            let mut part = shape.clone();
            part[front] = if r.once_in(8) { 0 } else { r.size(1, 2) };
            case = case.x(r.floats(&part));
        }
        case
    }),
    (&["Split"], split),
];

/// The elements in other sizes, one of which may be left open or copied.
fn reshape(r: &mut Draw, op: &str) -> Case {
    let shape = r.shape(0, 4);
    let mut sizes: Vec<i64> = Vec::new();
    let mut rest: usize = shape.iter().product();
    let empty = rest == 0;
    while rest > 1 && sizes.len() < 4 {
        let divisors: Vec<usize> = (1..=rest).filter(|d| rest.is_multiple_of(*d)).collect();
        let size = r.pick(&divisors);
        sizes.push(size as i64);
        rest /= size;
    }
    if rest > 1 {
        sizes.push(rest as i64);
    }
    if r.once_in(3) {
        sizes.insert(r.size(0, sizes.len()), 1);
    }
    let mut case = Case::of(op).x(r.floats(&shape));
    if empty {
        sizes = r.ints(2, 1, 3);
        sizes[r.below(2)] = 0;
        case = case.with("allowzero", 1i64);
    } else if !sizes.is_empty() {
        let place = r.below(sizes.len());
        match r.below(3) {
            0 => sizes[place] = -1,
            1 if shape.get(place).is_some_and(|n| *n as i64 == sizes[place]) => sizes[place] = 0,
            _ => {}
        }
    }
    case.input(r.given(Tensor::int64s(&sizes)))
}

fn slice(r: &mut Draw, op: &str) -> Case {
    let shape = r.shape(1, 4);
    let named = r.once_in(2);
    let stepped = named && r.once_in(2);
    let axes = if named { r.axes(shape.len(), 1) } else { (0..r.size(1, shape.len())).collect() };
    let (mut starts, mut ends, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    for axis in &axes {
        let n = shape[*axis] as i64;
        let step = if stepped { r.pick(&[1, 2, 3, -1, -2]) } else { 1 };
        // Mostly such that something is left, from either end; sometimes anything.
        let (a, b) = (r.int(0, n / 2), r.int(n / 2 + 1, n + 2));
        let (start, end) = if r.once_in(10) { (r.int(-n - 1, n + 1), r.int(-n - 1, n + 1)) } else { (a, b) };
        let (start, end) = if step > 0 { (start, end) } else { (end, if start == 0 { -n - 1 } else { start - 1 }) };
        let from_end = |v: i64, r: &mut Draw| if r.once_in(3) && (0..n).contains(&v) { v - n } else { v };
        starts.push(from_end(start, r));
        ends.push(if end == n + 2 { i64::MAX } else { from_end(end, r) });
        steps.push(step);
    }
    let constant = r.once_in(2);
    let input = |values: &[i64]| {
        let tensor = Tensor::int64s(values);
        if constant { Input::Constant(tensor) } else { Input::Fed(tensor) }
    };
    let mut case = Case::of(op).x(r.floats(&shape)).input(input(&starts)).input(input(&ends));
    if named {
        let axes: Vec<i64> = axes.iter().map(|axis| r.said(*axis, shape.len())).collect();
        case = case.input(input(&axes));
    }
    if stepped { case.input(input(&steps)) } else { case }
}

fn pad(r: &mut Draw, op: &str) -> Case {
    let own = op.starts_with("com");
    let shape = r.full(1, 3);
    let modes: &[&str] =
        if own { &["constant", "constant", "reflect", "edge"] } else { &["constant", "constant", "reflect", "edge", "wrap"] };
    let mode = r.pick(modes);
    let axes = if !own && r.once_in(3) { Some(r.axes(shape.len(), 1)) } else { None };
    let padded = axes.clone().unwrap_or((0..shape.len()).collect());
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for axis in &padded {
        let n = shape[*axis] as i64;
        let (low, high) = match mode {
            "constant" => (if n > 2 { -1 } else { 0 }, 2),
            "edge" => (0, 2),
            _ => (0, (n - 1).min(2)),
        };
        before.push(r.int(low, high));
        after.push(r.int(low, high));
    }
    let pads = Tensor::int64s(&[before, after].concat());
    let mut case = Case::of(op).x(r.floats(&shape)).input(r.given(pads)).with("mode", mode);
    // The value's shape is [1] in ONNX Runtime's own operator.
    let value = Array::new(if own { &[1] } else { &[] }, vec![r.number(-2.0, 2.0)]);
    let valued = mode == "constant" && r.once_in(2);
    case = match axes {
        _ if valued && r.once_in(3) => case.fixed(value),
        _ if valued => case.x(value),
        Some(_) => case.none(),
        None => case,
    };
    match axes {
        Some(axes) => {
            let axes: Vec<i64> = axes.into_iter().map(|axis| r.said(axis, shape.len())).collect();
            let axes = Tensor::int64s(&axes);
            case.input(r.given(axes))
        }
        None => case,
    }
}

fn split(r: &mut Draw, op: &str) -> Case {
    let mut shape = r.full(1, 4);
    let (axis, front) = r.axis(shape.len());
    let count = r.size(1, 3);
    let case = if r.once_in(2) {
        let least = if r.once_in(4) { 0 } else { 1 };
        let sizes = r.sizes(count, least, 3);
        shape[front] = sizes.iter().sum();
        let sizes = Tensor::int64s(&said(&sizes));
        Case::of(op).x(r.floats(&shape)).input(r.given(sizes))
    } else {
        // The last part may be smaller.
        let part = r.size(1, 2);
        shape[front] = part * count - if part > 1 && r.once_in(2) { 1 } else { 0 };
        Case::of(op).x(r.floats(&shape)).with("num_outputs", count as i64)
    };
    let left_out = if count > 1 && r.once_in(3) { vec![r.below(count)] } else { vec![] };
    case.outputs(count).unweighted(&left_out).with("axis", axis)
}
