//! Reductions over axes, cumulative ones, sequences of numbers.

use dendrite_onnx::Tensor;

use crate::{
    case::{Array, Case, Input, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[
    (&["ReduceSum", "ReduceL2", "ReduceSumSquare"], |r, op| {
        let shape = if op == "ReduceL2" { r.full(0, 4) } else { r.shape(0, 4) };
        let x = r.away(&shape, 0.2, 2.0);
        over(r, Case::of(op).x(x), &shape, true)
    }),
    (&["ReduceMean", "ReduceLogSumExp"], |r, op| {
        let shape = r.full(0, 4);
        let x = r.floats(&shape);
        over(r, Case::of(op).x(x), &shape, true)
    }),
    (&["ReduceL1"], |r, op| {
        let shape = r.shape(0, 4);
        let x = r.away(&shape, 0.1, 2.0);
        over(r, Case::of(op).x(x), &shape, true)
    }),
    (&["ReduceLogSum"], |r, op| {
        let shape = r.full(0, 4);
        let x = r.between(&shape, 0.4, 2.0);
        over(r, Case::of(op).x(x), &shape, true)
    }),
    (&["ReduceMax", "ReduceMin"], |r, op| {
        let shape = r.full(0, 4);
        let x = r.between(&shape, -3.0, 3.0);
        over(r, Case::of(op).x(x), &shape, false)
    }),
    (&["ReduceProd"], |r, op| {
        let shape = r.shape(0, 4);
        let mut x = r.away(&shape, 0.6, 1.5);
        zeros(r, &mut x);
        over(r, Case::of(op).x(x), &shape, false)
    }),
    (&["CumSum"], |r, op| {
        let shape = r.shape(1, 4);
        let x = r.floats(&shape);
        along(r, Case::of(op).x(x), shape.len())
    }),
    (&["CumProd"], |r, op| {
        let shape = r.shape(1, 4);
        let mut x = r.away(&shape, 0.6, 1.5);
        zeros(r, &mut x);
        along(r, Case::of(op).x(x), shape.len())
    }),
    (&["Range"], |r, op| {
        let (start, count) = (r.number(-2.0, 2.0), r.size(1, 6));
        let delta = r.number(0.5, 1.0) * if r.once_in(2) { -1.0 } else { 1.0 };
        let limit = crate::draw::exact(start + delta * (count as f64 - 0.5));
        let number = |v: f64| Array::new(&[], vec![v]);
        let limit = if r.once_in(2) { Input::Fixed(number(limit)) } else { Input::Trained(number(limit)) };
        Case::of(op).x(number(start)).input(limit).x(number(delta))
    }),
];

/// Some elements become 0, where a product is as smooth as elsewhere.
fn zeros(r: &mut Draw, x: &mut Array) {
    if r.once_in(2) {
        x.values.iter_mut().for_each(|v| *v *= if r.once_in(4) { 0.0 } else { 1.0 });
    }
}

/// With axes or without, of which nothing need be known where they are `open`.
fn over(r: &mut Draw, case: Case, shape: &[usize], open: bool) -> Case {
    if shape.contains(&0) {
        // Of an empty tensor the runtime keeps reduced axes that it should not.
        let axes: Vec<i64> = (0..shape.len()).filter(|a| shape[*a] > 0 && r.once_in(2)).map(|a| a as i64).collect();
        let case = case.with("noop_with_empty_axes", 1i64);
        return case.constant(Tensor::int64s(&axes));
    }
    let case = if r.once_in(4) { case } else { case.with("keepdims", r.flag()) };
    let (noop, rank) = (r.once_in(4), shape.len());
    let case = if noop { case.with("noop_with_empty_axes", 1i64) } else { case };
    if r.once_in(4) {
        return case;
    }
    let axes: Vec<i64> = r.axes(rank, 0).into_iter().map(|axis| r.said(axis, rank)).collect();
    let axes = Tensor::int64s(&axes);
    let axes = if open { r.given(axes) } else { Input::Constant(axes) };
    case.input(axes)
}

fn along(r: &mut Draw, case: Case, rank: usize) -> Case {
    let (axis, ends) = (r.axis(rank).0, [r.flag(), r.flag()]);
    let axis = r.integers(&[], &[axis]);
    case.input(r.given(axis)).with("exclusive", ends[0]).with("reverse", ends[1])
}
