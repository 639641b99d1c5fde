//! Fourier transforms.

use dendrite_onnx::Tensor;

use crate::{
    case::{Case, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[(&["DFT"], transform), (&["STFT"], frames)];

fn transform(r: &mut Draw, op: &str) -> Case {
    let mut shape = r.full(2, 4);
    let rank = shape.len();
    let (inverse, parts) = (r.flag(), r.size(1, 2));
    shape[rank - 1] = parts;
    shape[rank - 2] = r.size(1, 6);
    let one_sided = if inverse == 0 && parts == 1 { r.flag() } else { 0 };
    let case = Case::of(op).x(r.floats(&shape)).with("inverse", inverse).with("onesided", one_sided);
    let (longer, placed) = (r.once_in(2), r.once_in(2));
    let length = r.int(1, 8);
    let axis = r.below(rank - 1);
    let axis = if placed { axis } else { rank - 2 };
    let length = Tensor::from_i64(&[], &[length]);
    let case = match (longer, placed) {
        (false, false) => case,
        (false, true) => case.none(),
        (true, _) => case.input(r.given(length)),
    };
    if placed { case.constant(Tensor::from_i64(&[], &[r.said(axis, rank)])) } else { case }
}

fn frames(r: &mut Draw, op: &str) -> Case {
    let (batch, points, count, step) = (r.size(1, 2), r.size(1, 5), r.size(1, 3), r.size(1, 3));
    let samples = points + (count - 1) * step + r.size(0, step - 1);
    let one_sided = r.flag();
    let int = |n: usize| Tensor::from_i64(&[], &[n as i64]);
    let parts = if one_sided == 0 && r.once_in(3) { 2 } else { 1 };
    let case = Case::of(op).x(r.floats(&[batch, samples, parts])).constant(int(step)).with("onesided", one_sided);
    match r.below(3) {
        0 => case.x(r.between(&[points], 0.2, 1.0)),
        1 => case.x(r.between(&[points], 0.2, 1.0)).constant(int(points)),
        _ => case.none().constant(int(points)),
    }
}
