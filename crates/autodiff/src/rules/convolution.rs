//! Convolutions.
//!
//! The gradient of the input is a transposed convolution, or with stride 1 a convolution with the flipped kernel. The
//! former writes a column for each input channel, the latter for each output channel, so the fewer decide: with equal
//! channels (64 at 56x56, 16 at 16x16) the flipped one took 0.5 of the time, with 8 to 16 channels and a 5x5 kernel 1.4 to
//! 2.8. Pointwise it needs no columns at all and took 0.6. The gradient of the weights is in `kernel`.

use dendrite_onnx::{Attributes, Shape};

use super::{
    Answer, Ctx, Table,
    kernel::weights,
    window::{Window, ints},
};
use crate::{
    error::Result,
    expr::{Size, V},
};

pub(super) const RULES: Table = &[(&["Conv"], conv), (&["ConvTranspose"], conv_transpose)];

fn conv<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, w, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    if input == 2 {
        return Ok(bias(c, dy)?.into());
    }
    let window = Window::of(c, c.known_dims(w, 2)?, x)?;
    let group = c.int("group", 1).max(1) as usize;
    Ok(if input == 0 {
        input_gradient(c, dy, w, (x, x.shape()), &window, group)?
    } else {
        weights(c, x, dy, w, &window, group)?
    }
    .into())
}

/// y = ConvTranspose(x, w) is the input gradient of a convolution from y to x.
fn conv_transpose<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (x, w, y, dy) = (c.x(0)?, c.x(1)?, c.y(0)?, c.dy(0)?);
    if input == 2 {
        return Ok(bias(c, dy)?.into());
    }
    let window = transposed_window(c, x, w, y)?;
    let group = c.int("group", 1).max(1) as usize;
    Ok(if input == 0 {
        convolution(dy, w, &window, group, x.shape()).into()
    } else {
        weights(c, dy, x, w, &window, group)?.into()
    })
}

fn bias<'b>(c: &Ctx<'b>, dy: V<'b>) -> Result<V<'b>> {
    let axes: Vec<usize> = (0..c.rank(dy)?).filter(|a| *a != 1).collect();
    Ok(dy.sum(&axes, false))
}

/// The window of a ConvTranspose node, whose padding may follow from the sizes.
fn transposed_window<'b>(c: &Ctx<'b>, x: V<'b>, w: V<'b>, y: V<'b>) -> Result<Window> {
    let kernel = c.known_dims(w, 2)?;
    let automatic = c.node.attributes.str("auto_pad", "NOTSET");
    let explicit = automatic == "NOTSET" && c.node.attributes.ints("output_shape").is_none();
    let mut window = if automatic.starts_with("SAME") {
        Window { begin: vec![0; kernel.len()], end: vec![0; kernel.len()], ..plain_window(c, kernel) }
    } else {
        Window::of(c, kernel, x)?
    };
    if explicit || automatic == "VALID" {
        return Ok(window);
    }
    let (from, to) = (c.known_dims(x, 2)?, c.known_dims(y, 2)?);
    let extra = c.node.attributes.ints("output_padding");
    for axis in 0..from.len() {
        let extra = extra.and_then(|e| e.get(axis)).map_or(0, |n| (*n).max(0) as usize);
        let full = window.strides[axis] * (from[axis].max(1) - 1) + extra + window.extent(axis);
        let total = full.saturating_sub(to[axis]);
        window.begin[axis] = if automatic == "SAME_UPPER" { total / 2 } else { total - total / 2 };
        window.end[axis] = total - window.begin[axis];
    }
    Ok(window)
}

fn plain_window(c: &Ctx<'_>, kernel: Vec<usize>) -> Window {
    let list = |name: &str| -> Vec<usize> {
        let given = c.node.attributes.ints(name).filter(|v| v.len() == kernel.len());
        given.map_or(vec![1; kernel.len()], |v| v.iter().map(|n| (*n).max(1) as usize).collect())
    };
    Window { strides: list("strides"), dilations: list("dilations"), begin: vec![], end: vec![], kernel }
}

pub(super) fn attributes(
    strides: &[usize],
    dilations: &[usize],
    pads: (&[usize], &[usize]),
    group: usize,
) -> Attributes {
    let mut attributes = Attributes::new();
    for (name, values) in [("strides", strides), ("dilations", dilations)] {
        if values.iter().any(|v| *v != 1) {
            attributes.set(name, ints(values));
        }
    }
    if pads.0.iter().chain(pads.1).any(|p| *p != 0) {
        attributes.set("pads", ints(&[pads.0, pads.1].concat()));
    }
    if group != 1 {
        attributes.set("group", group as i64);
    }
    attributes
}

pub(super) fn convolution<'b>(x: V<'b>, w: V<'b>, window: &Window, group: usize, shape: Option<Shape>) -> V<'b> {
    let attributes = attributes(&window.strides, &window.dilations, (&window.begin, &window.end), group);
    x.builder().node("Conv", &[x, w], attributes, x.element_type(), shape)
}

/// The gradient of a convolution's input. Its spatial sizes are those of `x`, its shape is `shape`.
pub(super) fn input_gradient<'b>(
    c: &Ctx<'b>,
    dy: V<'b>,
    w: V<'b>,
    (x, shape): (V<'b>, Option<Shape>),
    window: &Window,
    group: usize,
) -> Result<V<'b>> {
    let axes = window.kernel.len();
    let fits = (0..axes).all(|a| window.begin[a].max(window.end[a]) < window.extent(a));
    if window.strides.iter().all(|s| *s == 1) && fits && prefers_flipped(c, window, group, w) {
        return flipped(c, dy, w, (x, shape), window, group);
    }
    let (mut end, mut extra) = (window.end.clone(), vec![0; axes]);
    let mut cut = Vec::new();
    for axis in 0..axes {
        match (x.known_dim(axis + 2), dy.known_dim(axis + 2)) {
            (Some(size), Some(steps)) => {
                let covered = (steps.max(1) - 1) * window.strides[axis] + window.extent(axis);
                end[axis] = covered.saturating_sub(window.begin[axis] + size);
                extra[axis] = (window.begin[axis] + size).saturating_sub(covered);
            }
            _ if window.strides[axis] > 1 => {
                extra[axis] = window.strides[axis] - 1;
                cut.push(axis + 2);
            }
            _ => {}
        }
    }
    let mut attributes = attributes(&window.strides, &window.dilations, (&window.begin, &end), group);
    if extra.iter().any(|e| *e != 0) {
        attributes.set("output_padding", ints(&extra));
    }
    let full = c.b.node("ConvTranspose", &[dy, w], attributes, x.element_type(), shape.clone());
    if cut.is_empty() {
        return Ok(full);
    }
    let ends: Vec<V<'b>> = cut.iter().map(|a| x.dim(*a)).collect();
    let inputs = [full, c.b.ints(&vec![0; cut.len()]), c.b.concat(&ends, 0), c.b.ints(&ints(&cut))];
    Ok(c.b.node("Slice", &inputs, Attributes::new(), x.element_type(), shape))
}

fn prefers_flipped<'b>(c: &Ctx<'b>, window: &Window, group: usize, w: V<'b>) -> bool {
    let fewer = c.known_dims(w, 0).is_ok_and(|d| d[0] <= d[1]);
    group > 1 || fewer || window.kernel.iter().all(|k| *k == 1)
}

/// The convolution of dy with the kernel flipped in space and its channels exchanged.
fn flipped<'b>(
    c: &Ctx<'b>,
    dy: V<'b>,
    w: V<'b>,
    (x, shape): (V<'b>, Option<Shape>),
    window: &Window,
    group: usize,
) -> Result<V<'b>> {
    let axes = window.kernel.len();
    let turned: Vec<_> = (0..axes).filter(|a| window.kernel[*a] > 1).map(|a| (a + 2, -1, i64::MIN + 1, -1)).collect();
    let kernel = if turned.is_empty() { w } else { w.slice(&turned) };
    let [outputs, inputs] = c.known_dims(w, 0)?[..2] else { return Err(c.no_rank(w)) };
    let spatial = || window.kernel.iter().map(|k| Size::Is(*k));
    let kernel = if group == 1 {
        kernel.transpose(&[1, 0].into_iter().chain(2..axes + 2).collect::<Vec<_>>())
    } else {
        let split: Vec<_> = [group, outputs / group, inputs].map(Size::Is).into_iter().chain(spatial()).collect();
        let joined: Vec<_> = [group * inputs, outputs / group].map(Size::Is).into_iter().chain(spatial()).collect();
        let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..axes + 3).collect();
        if inputs == 1 && outputs == group { kernel } else { kernel.reshape(&split).transpose(&perm).reshape(&joined) }
    };
    let full = |pad: &[usize]| (0..axes).map(|a| window.extent(a) - 1 - pad[a]).collect::<Vec<_>>();
    let mut window = Window { begin: full(&window.begin), end: full(&window.end), ..plain(window) };
    // What the forward pass did not reach at the end is reached by no window of dy either.
    for axis in 0..axes {
        if let (Some(size), Some(steps)) = (x.known_dim(axis + 2), dy.known_dim(axis + 2)) {
            window.end[axis] = (size + window.extent(axis) - 1).saturating_sub(steps + window.begin[axis]);
        }
    }
    Ok(convolution(dy, kernel, &window, group, shape))
}

/// The same kernel and dilations at stride 1.
fn plain(window: &Window) -> Window {
    Window {
        kernel: window.kernel.clone(),
        strides: vec![1; window.kernel.len()],
        dilations: window.dilations.clone(),
        begin: vec![],
        end: vec![],
    }
}
