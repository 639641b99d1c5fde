//! Convolutions of one to three axes, with what ONNX Runtime fuses with them.

use crate::{
    case::{Case, Table},
    draw::{Draw, said},
};

pub(crate) const OPERATORS: Table = &[
    (&["Conv"], |r, op| conv(r, op, 3).case),
    (&["com.microsoft.FusedConv"], fused),
    (&["ConvTranspose"], transposed),
    (&["DeformConv"], deformable),
];

struct Convolution {
    case: Case,
    /// The output's shape, where padding is explicit.
    output: Option<Vec<usize>>,
}

/// Sizes of a window.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
}

impl Window {
    fn new(r: &mut Draw, axes: usize) -> Self {
        let kernel = r.sizes(axes, 1, if axes == 3 { 2 } else { 3 });
        let plain = |r: &mut Draw, most: usize| if r.once_in(2) { vec![1; axes] } else { r.sizes(axes, 1, most) };
        Window { strides: plain(r, 3), dilations: plain(r, 2), kernel }
    }

    fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    fn attributes(&self, case: Case) -> Case {
        case.with("strides", said(&self.strides)).with("dilations", said(&self.dilations))
    }
}

fn conv(r: &mut Draw, op: &str, most_axes: usize) -> Convolution {
    let axes = if r.once_in(2) { 2 } else { r.size(1, most_axes) };
    let mut window = Window::new(r, axes);
    // A rule may choose otherwise where a kernel is long, where channels or samples are many. Of many elements some come too
    // near the bend of an activation.
    let long = axes == 1 && op == "Conv" && r.once_in(3);
    if long {
        window = Window { kernel: vec![r.size(26, 60)], strides: vec![1], dilations: vec![1] };
    }
    let group = r.pick(&[1, 1, 2, 3]);
    let most = if axes < 3 && op == "Conv" && r.once_in(4) { 5 } else { 2 };
    let (inputs, outputs) = (r.size(1, most), r.size(1, most));
    // Depthwise more often than by chance.
    let (inputs, outputs) = if group > 1 && r.once_in(2) { (1, 1) } else { (inputs, outputs) };
    let batch = r.size(1, most);
    let automatic = r.pick(&[None, None, None, Some("NOTSET"), Some("VALID"), Some("SAME_UPPER"), Some("SAME_LOWER")]);
    let padded = matches!(automatic, None | Some("NOTSET"));
    if matches!(automatic, Some("SAME_UPPER" | "SAME_LOWER")) {
        // The runtime knows no dilations with it.
        window.dilations.fill(1);
    }
    let pads = if padded && r.once_in(2) { r.sizes(2 * axes, 0, 2) } else { vec![0; 2 * axes] };
    let room = if axes == 3 { 2 } else if long { 60 } else { 3 };
    let sizes: Vec<usize> = (0..axes)
        .map(|axis| window.extent(axis).saturating_sub(pads[axis] + pads[axis + axes]).max(1) + r.size(0, room))
        .collect();
    let steps = (0..axes).map(|a| (sizes[a] + pads[a] + pads[a + axes] - window.extent(a)) / window.strides[a] + 1);
    let output = padded.then(|| [batch, group * outputs].into_iter().chain(steps).collect());
    let shape: Vec<usize> = [batch, group * inputs].into_iter().chain(sizes).collect();
    let weights: Vec<usize> = [group * outputs, inputs].into_iter().chain(window.kernel.iter().copied()).collect();
    let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&weights));
    let case = if r.once_in(2) { case.x(r.floats(&[group * outputs])) } else { case };
    let case = if group == 1 { case } else { case.with("group", group as i64) };
    let case = if padded && pads.iter().any(|p| *p > 0) { case.with("pads", said(&pads)) } else { case };
    let case = if r.once_in(2) { case.with("kernel_shape", said(&window.kernel)) } else { case };
    Convolution { case: window.attributes(case).with_some("auto_pad", automatic), output }
}

fn fused(r: &mut Draw, op: &str) -> Case {
    let Convolution { case, output } = conv(r, op, 2);
    let case = match output {
        // What is added before the activation.
        Some(shape) if r.once_in(2) => {
            let case = if case.inputs.len() == 2 { case.none() } else { case };
            case.x(r.floats(&shape))
        }
        _ => case,
    };
    let name = r.pick(&["Relu", "Tanh", "Tanh", "Sigmoid", "Sigmoid", "HardSwish", "LeakyRelu", "Clip", "HardSigmoid"]);
    let parameters: Option<Vec<f32>> = match name {
        "LeakyRelu" => Some(vec![r.float(0.1, 0.9)]),
        "Clip" => Some(vec![r.float(-3.0, -1.0), r.float(1.0, 3.0)]),
        "HardSigmoid" => Some(vec![r.float(0.02, 0.1), r.float(0.3, 0.7)]),
        _ => None,
    };
    let parameters = parameters.map(dendrite_onnx::attributes::AttributeValue::Floats);
    case.with("activation", name).with_some("activation_params", parameters)
}

fn transposed(r: &mut Draw, op: &str) -> Case {
    let axes = if r.once_in(2) { 2 } else { r.size(1, 3) };
    let window = Window::new(r, axes);
    let group = r.pick(&[1, 1, 2, 3]);
    let (inputs, outputs, batch) = (r.size(1, 2), r.size(1, 2), r.size(1, 2));
    let sizes = r.sizes(axes, 1, if axes == 3 { 2 } else { 3 });
    let full: Vec<usize> = (0..axes).map(|a| (sizes[a] - 1) * window.strides[a] + window.extent(a)).collect();
    let shape: Vec<usize> = [batch, group * inputs].into_iter().chain(sizes.iter().copied()).collect();
    let weights: Vec<usize> = [group * inputs, outputs].into_iter().chain(window.kernel.iter().copied()).collect();
    let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&weights));
    let case = if r.once_in(2) { case.x(r.floats(&[group * outputs])) } else { case };
    let case = window.attributes(if group == 1 { case } else { case.with("group", group as i64) });
    match r.below(6) {
        0 => case.with("auto_pad", r.pick(&["VALID", "SAME_UPPER", "SAME_LOWER"])),
        1 => {
            // No smaller than the input's, which shape inference has no answer to.
            let sizes: Vec<usize> = full.iter().zip(&sizes).map(|(n, least)| r.size((*least).max(n.saturating_sub(2)), *n)).collect();
            case.with("output_shape", said(&sizes))
        }
        2 => case,
        _ => {
            let pads: Vec<usize> = full.iter().chain(&full).map(|n| r.size(0, 2.min((n - 1) / 2))).collect();
            let more: Vec<usize> = (0..axes).map(|a| r.size(0, window.strides[a] - 1)).collect();
            let case = case.with("pads", said(&pads));
            if r.once_in(2) { case } else { case.with("output_padding", said(&more)) }
        }
    }
}

/// Offsets such that nothing is read near the border between two pixels.
fn deformable(r: &mut Draw, op: &str) -> Case {
    let window = Window { kernel: r.sizes(2, 1, 2), strides: r.sizes(2, 1, 2), dilations: r.sizes(2, 1, 2) };
    let (group, offset_group) = (r.size(1, 2), r.size(1, 2));
    let channels = if group == 2 || offset_group == 2 { 2 } else { r.size(1, 2) };
    let outputs = group * r.size(1, 2);
    let pads = r.sizes(4, 0, 1);
    let sizes: Vec<usize> =
        (0..2).map(|a| (window.extent(a) + r.size(0, 2)).saturating_sub(pads[a] + pads[a + 2]).max(2)).collect();
    let steps: Vec<usize> =
        (0..2).map(|a| (sizes[a] + pads[a] + pads[a + 2] - window.extent(a)) / window.strides[a] + 1).collect();
    let batch = r.size(1, 2);
    let taps = window.kernel[0] * window.kernel[1];
    let mut offset = r.floats(&[batch, 2 * offset_group * taps, steps[0], steps[1]]);
    offset.values.iter_mut().for_each(|v| *v = r.int(-2, 1) as f64 + r.number(0.2, 0.8));
    let case = Case::of(op)
        .x(r.floats(&[batch, channels, sizes[0], sizes[1]]))
        .x(r.floats(&[outputs, channels / group, window.kernel[0], window.kernel[1]]))
        .x(offset);
    let [biased, masked] = [r.once_in(2), r.once_in(2)];
    let bias = if biased { Some(r.floats(&[outputs])) } else { None };
    let case = if biased || masked { case.maybe(bias) } else { case };
    let case = if masked {
        case.x(r.between(&[batch, offset_group * taps, steps[0], steps[1]], 0.1, 1.0))
    } else {
        case
    };
    let case = window.attributes(case).with("pads", said(&pads));
    case.with("group", group as i64).with("offset_group", offset_group as i64)
}
