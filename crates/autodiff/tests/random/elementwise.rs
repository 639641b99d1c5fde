//! Arithmetic and functions of one, two or many operands.

use dendrite_onnx::{ElementType, Tensor};

use crate::{
    case::{Array, Case, Input, Table},
    draw::{Draw, said},
};

pub(crate) const OPERATORS: Table = &[
    (&["Add", "Sub", "Mul"], |r, op| {
        let shapes = r.together(2);
        Case::of(op).x(r.floats(&shapes[0])).x(r.floats(&shapes[1]))
    }),
    (&["Div"], |r, op| {
        let shapes = r.together(2);
        Case::of(op).x(r.floats(&shapes[0])).x(r.away(&shapes[1], 0.5, 2.0))
    }),
    (&["Mod"], remainder),
    (&["Pow"], power),
    (&["Where"], |r, op| {
        let shapes = r.together(3);
        let condition = r.truths(&shapes[0]);
        Case::of(op).input(r.given(condition)).x(r.floats(&shapes[1])).x(r.floats(&shapes[2]))
    }),
    (&["Expand"], |r, op| {
        let target = r.shape(0, 4);
        let shape = r.narrower(&target);
        // A target of 1 leaves the size as it is.
        let target: Vec<usize> = target.into_iter().map(|n| if n > 1 && r.once_in(4) { 1 } else { n }).collect();
        // Of as many sizes as there are axes, those in front may be left out that change nothing.
        let ones = target.iter().take_while(|n| **n == 1).count();
        let from = if shape.len() == target.len() { r.size(0, ones) } else { 0 };
        let sizes = Tensor::int64s(&said(&target[from..]));
        Case::of(op).x(r.floats(&shape)).input(r.given(sizes))
    }),
    (&["Identity", "Neg", "Exp", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh", "Erf"], |r, op| {
        let shape = r.shape(0, 4);
        Case::of(op).x(r.floats(&shape))
    }),
    (&["Abs", "Reciprocal"], |r, op| {
        let shape = r.shape(0, 4);
        Case::of(op).x(r.away(&shape, 0.4, 2.5))
    }),
    (&["Tan"], |r, op| in_range(r, op, -1.2, 1.2)),
    (&["Asin", "Acos", "Atanh"], |r, op| in_range(r, op, -0.85, 0.85)),
    (&["Acosh"], |r, op| in_range(r, op, 1.4, 3.0)),
    (&["Sqrt", "Log"], |r, op| in_range(r, op, 0.4, 3.0)),
    (&["Cast"], |r, op| {
        let shape = r.shape(0, 4);
        let to = r.pick(&[ElementType::Float, ElementType::Double]);
        Case::of(op).x(r.floats(&shape)).with("to", to as i64).gives(to)
    }),
    (&["CastLike"], |r, op| {
        let (shape, other) = (r.shape(0, 4), r.full(0, 2));
        let to = r.pick(&[ElementType::Float, ElementType::Double]);
        Case::of(op).x(r.floats(&shape)).input(r.given(Tensor::filled(to, &other, 0.5))).gives(to)
    }),
    (&["Clip"], clip),
    (&["Sum", "Mean"], |r, op| {
        let count = r.size(1, 4);
        let shapes = r.together(count);
        let arrays: Vec<Array> = shapes.iter().map(|s| r.floats(s)).collect();
        Case::of(op).xs(arrays)
    }),
    (&["Max", "Min"], |r, op| {
        let count = r.size(1, 3);
        let mut shapes = r.together(count);
        while shapes.iter().map(|s| s.iter().product::<usize>()).sum::<usize>() > 70 {
            shapes.pop();
        }
        Case::of(op).xs(r.apart(&shapes, -3.0, 3.0))
    }),
];

fn in_range(r: &mut Draw, op: &str, low: f64, high: f64) -> Case {
    let shape = r.shape(0, 4);
    Case::of(op).x(r.between(&shape, low, high))
}

/// Whole parts and fractions of the divisor: no quotient is near a whole number.
fn remainder(r: &mut Draw, op: &str) -> Case {
    let shape = r.shape(0, 4);
    let narrow = r.narrower(&shape);
    let divisor = r.away(&narrow, 0.6, 1.4);
    let at = divisor.broadcast(&shape);
    let dividend = at.iter().map(|b| {
        let quotient = r.int(0, 2) as f64 + r.number(0.2, 0.8);
        crate::draw::exact(b.abs() * if r.once_in(2) { quotient } else { -quotient })
    });
    let dividend = Array::new(&shape, dividend.collect());
    Case::of(op).x(dividend).x(divisor).with("fmod", 1i64)
}

fn power(r: &mut Draw, op: &str) -> Case {
    let shapes = r.together(2);
    match r.below(4) {
        0 => {
            let exponent = r.pick(&[0.0, 1.0, 2.0, 3.0, -1.0, -2.0]);
            Case::of(op).x(r.away(&shapes[0], 0.4, 2.0)).fixed(Array::new(&[], vec![exponent]))
        }
        1 => {
            let count = shapes[1].iter().product();
            let exponents = r.ints(count, -1, 3);
            let exponents = Tensor::from_i64(&shapes[1], &exponents);
            Case::of(op).x(r.away(&shapes[0], 0.4, 2.0)).input(r.given(exponents))
        }
        2 => Case::of(op).x(r.between(&shapes[0], 0.4, 2.0)).fixed(r.floats(&shapes[1])),
        _ => Case::of(op).x(r.between(&shapes[0], 0.4, 2.0)).x(r.floats(&shapes[1])),
    }
}

fn clip(r: &mut Draw, op: &str) -> Case {
    let shape = r.shape(0, 4);
    let (mut low, mut high) = (r.number(-1.5, -0.2), r.number(0.2, 1.5));
    if r.once_in(5) {
        // Where the bounds cross, the upper one wins.
        std::mem::swap(&mut low, &mut high);
    }
    let x = r.floats(&shape).avoiding(&[low, high], 0.1);
    let bound = |v: f64, r: &mut Draw| {
        let bound = Array::new(&[], vec![v]);
        match r.below(4) {
            0 => Input::Missing,
            1 => Input::Fixed(bound),
            _ => Input::Trained(bound),
        }
    };
    let bounds = [bound(low, r), bound(high, r)];
    bounds.into_iter().fold(Case::of(op).x(x), Case::input)
}
