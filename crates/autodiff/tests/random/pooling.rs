//! Poolings and what undoes them.

use dendrite_onnx::Tensor;

use crate::{
    case::{Case, Table},
    draw::{Draw, said},
};

pub(crate) const OPERATORS: Table = &[
    (&["MaxPool", "AveragePool", "LpPool"], pool),
    (&["GlobalAveragePool", "GlobalMaxPool"], |r, op| {
        let shape = r.full(3, 5);
        Case::of(op).x(r.between(&shape, -3.0, 3.0))
    }),
    (&["GlobalLpPool"], |r, op| {
        let shape = r.full(3, 5);
        let order = r.pick(&[None, Some(1i64), Some(2), Some(3)]);
        Case::of(op).x(r.away(&shape, 0.2, 2.0)).with_some("p", order)
    }),
    (&["MaxUnpool"], |r, op| {
        let (kernel, sizes) = (r.sizes(2, 1, 3), r.sizes(2, 1, 3));
        let leading = r.sizes(2, 1, 2);
        let full = [sizes[0] * kernel[0], sizes[1] * kernel[1]];
        let shape = [leading[0], leading[1], sizes[0], sizes[1]];
        let count = shape.iter().product();
        let places: Vec<i64> = said(&r.order(leading[0] * leading[1] * full[0] * full[1])[..count]);
        let at = Tensor::from_i64(&shape, &places);
        let case = Case::of(op).x(r.floats(&shape)).input(r.given(at));
        let case = case.with("kernel_shape", said(&kernel)).with("strides", said(&kernel));
        if r.once_in(2) {
            return case;
        }
        let output = Tensor::int64s(&said(&[leading[0], leading[1], full[0], full[1]]));
        case.input(r.given(output))
    }),
    (&["MaxRoiPool"], |r, op| {
        let shape = [r.size(1, 2), r.size(1, 2), r.size(2, 5), r.size(2, 5)];
        let (scale, regions) = (r.pick(&[1.0, 0.5]), r.size(1, 3));
        let mut corners = Vec::new();
        for _ in 0..regions {
            // Whole, and of half a pixel at most: rounding is far.
            let from = [r.int(0, shape[3] as i64 - 1), r.int(0, shape[2] as i64 - 1)];
            let to = [from[0] + r.int(0, 3), from[1] + r.int(0, 3)];
            corners.push(r.below(shape[0]) as f64);
            corners.extend([from, to].concat().into_iter().map(|v| v as f64 / scale));
        }
        let pooled = r.sizes(2, 1, 2);
        let regions = crate::case::Array::new(&[regions, 5], corners);
        let case = Case::of(op).x(r.between(&shape, -3.0, 3.0)).fixed(regions).with("pooled_shape", said(&pooled));
        if scale == 1.0 { case } else { case.with("spatial_scale", scale as f32) }
    }),
];

fn pool(r: &mut Draw, op: &str) -> Case {
    let axes = if r.once_in(2) { 2 } else { r.size(1, 3) };
    let kernel = r.sizes(axes, 1, if axes == 3 { 2 } else { 3 });
    let strides = match r.below(3) {
        0 => None,
        1 => Some(kernel.clone()),
        _ => Some(r.sizes(axes, 1, 3)),
    };
    let automatic = r.pick(&[None, None, None, Some("NOTSET"), Some("VALID"), Some("SAME_UPPER"), Some("SAME_LOWER")]);
    let padded = matches!(automatic, None | Some("NOTSET")) && r.once_in(2);
    // Padding could leave a dilated window without an element; and of the sizes of dilated windows that are padded
    // automatically, the runtime's kernels and its shape inference think differently.
    let plain = padded || automatic.is_some_and(|how| how.starts_with("SAME")) || r.once_in(2);
    let dilations = if plain { None } else { Some(r.sizes(axes, 1, 2)) };
    let pads: Vec<usize> =
        kernel.iter().chain(&kernel).map(|k| if padded { r.size(0, (k - 1).min(2)) } else { 0 }).collect();
    let extent = |axis: usize| (kernel[axis] - 1) * dilations.as_ref().map_or(1, |d| d[axis]) + 1;
    let room = if axes == 3 { 1 } else { 3 };
    let sizes: Vec<usize> =
        (0..axes).map(|a| extent(a).saturating_sub(pads[a] + pads[a + axes]).max(1) + r.size(0, room)).collect();
    let leading = r.sizes(2, 1, 2);
    let shape: Vec<usize> = leading.into_iter().chain(sizes).collect();
    let x = if op == "LpPool" { r.away(&shape, 0.2, 2.0) } else { r.between(&shape, -3.0, 3.0) };
    let case = Case::of(op).x(x).with("kernel_shape", said(&kernel)).with_some("auto_pad", automatic);
    let case = case.with_some("strides", strides.map(|s| said(&s))).with_some("dilations", dilations.map(|d| said(&d)));
    let case = if padded { case.with("pads", said(&pads)) } else { case };
    let case = if r.once_in(3) && automatic.is_none() { case.with("ceil_mode", 1i64) } else { case };
    match op {
        "MaxPool" if r.once_in(4) => case.with("storage_order", 1i64),
        "AveragePool" if r.once_in(2) => case.with("count_include_pad", 1i64),
        "LpPool" => case.with("p", r.int(1, 3)),
        _ => case,
    }
}
