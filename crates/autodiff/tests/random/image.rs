//! Images resized, cut, put together and read between their pixels.

use dendrite_onnx::Tensor;

use crate::{
    case::{Array, Case, Table},
    draw::{Draw, exact, said},
};

pub(crate) const OPERATORS: Table = &[
    (&["Resize"], resize),
    (&["AffineGrid"], |r, op| {
        let axes = r.size(2, 3);
        let (batch, channels) = (r.size(1, 3), r.size(1, 3));
        let sizes: Vec<usize> = [batch, channels].into_iter().chain(r.sizes(axes, 2, 4)).collect();
        let size = Tensor::int64s(&said(&sizes));
        let case = Case::of(op).x(r.floats(&[batch, axes, axes + 1])).input(r.given(size));
        case.with("align_corners", r.flag())
    }),
    (&["CenterCropPad"], |r, op| {
        let shape = r.full(1, 4);
        let axes = if r.once_in(2) { None } else { Some(r.axes(shape.len(), 1)) };
        let count = axes.as_ref().map_or(shape.len(), Vec::len);
        let sizes = Tensor::int64s(&r.ints(count, 1, 6));
        let said = axes.map(|axes| axes.into_iter().map(|a| r.said(a, shape.len())).collect::<Vec<_>>());
        Case::of(op).x(r.floats(&shape)).input(r.given(sizes)).with_some("axes", said)
    }),
    (&["Col2Im"], |r, op| {
        let axes = r.size(1, 3);
        let kernel = r.sizes(axes, 1, 2);
        // The runtime puts dilated columns of other than two axes elsewhere than the definition does.
        let (strides, dilations) = (r.sizes(axes, 1, 2), r.sizes(axes, 1, if axes == 2 { 2 } else { 1 }));
        let pads = r.sizes(2 * axes, 0, 1);
        let extent = |a: usize| (kernel[a] - 1) * dilations[a] + 1;
        let image: Vec<usize> = (0..axes)
            .map(|a| extent(a).saturating_sub(pads[a] + pads[a + axes]).max(1) + r.size(0, 2))
            .collect();
        let steps: usize =
            (0..axes).map(|a| (image[a] + pads[a] + pads[a + axes] - extent(a)) / strides[a] + 1).product();
        let (batch, channels) = (r.size(1, 2), r.size(1, 2));
        let shape = [batch, channels * kernel.iter().product::<usize>(), steps];
        let sizes = Tensor::int64s(&said(&image));
        let case = Case::of(op).x(r.floats(&shape)).input(r.given(sizes)).constant(Tensor::int64s(&said(&kernel)));
        case.with("strides", said(&strides)).with("dilations", said(&dilations)).with("pads", said(&pads))
    }),
    (&["GridSample", "com.microsoft.GridSample"], grid_sample),
    (&["RoiAlign"], |r, op| {
        let shape = [r.size(1, 2), r.size(1, 2), r.size(2, 5), r.size(2, 5)];
        let (count, scale) = (r.size(1, 3), r.pick(&[1.0, 0.5]));
        let mut corners = Vec::new();
        for _ in 0..count {
            let from = [r.number(-1.0, shape[3] as f64 - 1.0), r.number(-1.0, shape[2] as f64 - 1.0)];
            let to = [from[0] + r.number(1.2, 4.0), from[1] + r.number(1.2, 4.0)];
            corners.extend([from, to].concat().into_iter().map(|v| exact(v / scale)));
        }
        let samples = r.ints(count, 0, shape[0] as i64 - 1);
        let case = Case::of(op).x(r.between(&shape, -3.0, 3.0)).x(Array::new(&[count, 4], corners));
        let case = case.constant(Tensor::int64s(&samples)).with("sampling_ratio", r.int(1, 2));
        let case = case.with("output_height", r.int(1, 2)).with("output_width", r.int(1, 3));
        let case = case.with_some("mode", r.pick(&[None, Some("avg"), Some("max")]));
        let how = r.pick(&[None, Some("half_pixel"), Some("output_half_pixel")]);
        let case = case.with_some("coordinate_transformation_mode", how);
        if scale == 1.0 { case } else { case.with("spatial_scale", scale as f32) }
    }),
];

fn resize(r: &mut Draw, op: &str) -> Case {
    let mode = r.pick(&["nearest", "linear", "cubic"]);
    let axes = if mode == "cubic" || r.once_in(2) { 2 } else { r.size(1, 3) };
    let bare = axes == 2 && mode != "cubic" && r.once_in(6);
    let (leading, spatial) = (r.sizes(if bare { 0 } else { 2 }, 1, 2), r.sizes(axes, 2, if axes == 3 { 3 } else { 4 }));
    let shape = [&leading[..], &spatial].concat();
    let transformation = r.pick(&[
        None,
        Some("half_pixel"),
        Some("half_pixel_symmetric"),
        Some("pytorch_half_pixel"),
        Some("align_corners"),
        Some("asymmetric"),
        Some("tf_crop_and_resize"),
    ]);
    let crops = transformation == Some("tf_crop_and_resize");
    // Of the spatial axes alone, or of all.
    let alone = !bare && r.once_in(2);
    let skipped = if alone { 0 } else { leading.len() };
    let mut case = Case::of(op).x(r.floats(&shape)).with("mode", mode);
    case = case.with_some("coordinate_transformation_mode", transformation);
    if alone {
        case = case.with("axes", (2..2 + axes as i64).collect::<Vec<_>>());
    }
    case = if crops {
        let starts = (0..skipped).map(|_| 0.0).chain((0..axes).map(|_| r.float(-0.2, 0.4))).collect::<Vec<_>>();
        let ends = (0..skipped).map(|_| 1.0).chain((0..axes).map(|_| r.float(0.6, 1.2))).collect::<Vec<_>>();
        let region = [starts, ends].concat();
        case.constant(Tensor::from_f32(&[region.len()], &region)).with("extrapolation_value", r.float(-1.0, 1.0))
    } else {
        case.none()
    };
    if r.once_in(2) {
        let own = (0..axes).map(|_| r.pick(&[0.5f32, 0.75, 1.0, 1.3, 1.5, 2.0, 3.0]));
        let scales: Vec<f32> = std::iter::repeat_n(1.0, skipped).chain(own).collect();
        case = case.constant(Tensor::from_f32(&[scales.len()], &scales));
    } else {
        let own = r.ints(axes, 1, 7);
        let sizes: Vec<i64> = leading[..skipped].iter().map(|n| *n as i64).chain(own).collect();
        case = case.none().constant(Tensor::int64s(&sizes));
    }
    if !crops && !bare && mode != "nearest" && axes == 2 && r.once_in(4) {
        return case.with("antialias", 1i64);
    }
    if alone && !crops && matches!(case.inputs.last(), Some(crate::case::Input::Constant(t)) if t.to_i64().is_some()) {
        case = case.with_some("keep_aspect_ratio_policy", r.pick(&[None, Some("stretch"), Some("not_larger"), Some("not_smaller")]));
    }
    match mode {
        "nearest" => {
            let rounding = [None, Some("round_prefer_floor"), Some("round_prefer_ceil"), Some("floor"), Some("ceil")];
            case.with_some("nearest_mode", r.pick(&rounding))
        }
        "cubic" => {
            let case = case.with_some("cubic_coeff_a", r.pick(&[None, Some(-0.5f32)]));
            if r.once_in(3) { case.with("exclude_outside", 1i64) } else { case }
        }
        _ => case,
    }
}

/// No point is near a pixel, near the middle of two, or near the border.
fn grid_sample(r: &mut Draw, op: &str) -> Case {
    let own = op.starts_with("com");
    let axes = if own || !r.once_in(3) { 2 } else { 3 };
    let names = if own { ["nearest", "bilinear", "bicubic"] } else { ["nearest", "linear", "cubic"] };
    let mode = if axes == 3 { r.pick(&names[..2]) } else { r.pick(&names) };
    let aligned = r.flag();
    let (leading, spatial) = (r.sizes(2, 1, 2), r.sizes(axes, 2, 4));
    let steps = r.sizes(axes, 1, 2);
    let points = leading[0] * steps.iter().product::<usize>();
    let mut grid = Vec::new();
    for _ in 0..points {
        for n in spatial.iter().rev() {
            let pixel = r.int(-2, *n as i64) as f64 + if r.once_in(2) { r.number(0.12, 0.4) } else { r.number(0.6, 0.88) };
            let n = *n as f64;
            grid.push(exact(if aligned == 1 { 2.0 * pixel / (n - 1.0) - 1.0 } else { (2.0 * pixel + 1.0) / n - 1.0 }));
        }
    }
    let grid = Array::new(&[&leading[..1], &steps, &[axes]].concat(), grid);
    let case = Case::of(op).x(r.floats(&[&leading[..], &spatial].concat())).x(grid);
    let padding = r.pick(&[None, Some("zeros"), Some("border"), Some("reflection")]);
    case.with("mode", mode).with_some("padding_mode", padding).with("align_corners", aligned)
}
