//! Dequantisation, whose scale is trained.

use dendrite_onnx::{ElementType, Tensor};

use crate::{
    case::{Case, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[(&["DequantizeLinear", "com.microsoft.DequantizeLinear"], dequantize)];

fn dequantize(r: &mut Draw, op: &str) -> Case {
    let shape = r.full(1, 4);
    let kind = r.pick(&[ElementType::Int8, ElementType::Uint8, ElementType::Int16, ElementType::Uint16]);
    let width = kind.bits().unwrap_or(8) / 8;
    let bytes =
        |r: &mut Draw, count: usize, most: usize| (0..count * width).map(|_| r.below(most) as u8).collect::<Vec<_>>();
    let numbers = bytes(r, shape.iter().product(), 256);
    let numbers = Tensor::new(kind, shape.clone(), numbers).unwrap();
    let (axis, front) = r.axis(shape.len());
    let by_axis = r.once_in(2);
    let scales: &[usize] = if by_axis { &shape[front..=front] } else { &[] };
    let case = Case::of(op).input(r.given(numbers)).x(r.between(scales, 0.1, 1.0));
    let zeros = bytes(r, scales.iter().product(), 10);
    let zeros = Tensor::new(kind, scales.to_vec(), zeros).unwrap();
    let case = if r.once_in(3) { case } else { case.constant(zeros) };
    if by_axis { case.with("axis", axis) } else { case }
}
