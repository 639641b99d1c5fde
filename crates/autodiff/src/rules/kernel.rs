//! The gradient of a convolution's weights.
//!
//! No formulation in standard operators is fast everywhere; one is chosen from the shapes. Time relative to the forward
//! pass on ONNX Runtime 1.31.1, one thread, batch 16 or 32, the least of many runs:
//!
//! | channels, output, kernel | convolution | columns | joined columns | by row | by tap |
//! |---|---|---|---|---|---|
//! | 1-8, 28x28, 5x5 | 2.4 | 1.4 | 1.6 | 1.7 | |
//! | 8-16, 14x14, 5x5 | 1.7 | 1.1 | 1.1 | 1.0 | |
//! | 16-16, 16x16, 3x3 | 3.3 | 1.7 | 2.0 | 1.2 | 1.4 |
//! | 64-64, 28x28, 3x3 | 2.5 | 1.5 | 1.6 | 1.2 | 1.2 |
//!
//! A product for each tap alone took between 0.9 and 1.2 times as long as one for each row and has more nodes, so it is not
//! among them. Columns slice one axis at a time; all taps sliced from the image took 1.2 times as long for 5x5. Products
//! have dy on the right where it is the smaller factor: the right one is rearranged, and the other way round took 1.1 times
//! as long.
//!
//! Two threads, columns still sliced tap by tap (a busy machine, so good to a factor of 1.5):
//!
//! | channels, output, kernel | convolution | columns | joined columns |
//! |---|---|---|---|
//! | 512-512, 7x7, 3x3 | 1.6 | 1.4 | 0.7 |
//! | 64-256, 56x56, 1x1 | 13 | 1.1 | 1.6 |
//! | 320-1280, 7x7, 1x1 | 6.3 | 2.8 | 1.0 |
//! | 3-64, 56x56, 7x7 stride 2 | 1.8 | 3.1 | 3.1 |
//! | 64-64 in 4 groups, 28x28, 3x3 | 15 | 6.6 | |
//!
//! Depthwise, batch 8, one thread, relative to the forward pass; columns take nine or more times the image's memory too:
//!
//! | channels, input, kernel | convolution | columns | rows with rows |
//! |---|---|---|---|
//! | 32, 112x112, 3x3 | 3.5 | 2.5 | 2.8 |
//! | 96, 112x112, 3x3 stride 2 | 2.7 | 4.2 | 3.4 |
//! | 144, 56x56, 3x3 | 2.9 | 2.9 | 2.9 |
//! | 240, 28x28, 5x5 | 4.3 | 5.8 | 1.6 |
//! | 480, 14x14, 3x3 | 4.2 | 4.2 | 1.6 |
//! | 672, 14x14, 5x5 | 2.1 | 3.7 | 1.0 |
//! | 672, 14x14, 5x5 stride 2 | 2.2 | 6.1 | 1.3 |
//! | 1152, 7x7, 5x5 | 1.3 | 5.5 | 1.5 |
//! | 1152, 7x7, 3x3 | 2.1 | 2.9 | 1.3 |
//!
//! Other groups take a product for each row of taps where there are several: columns of 3x3 taps take 18 times the input while
//! they are put side by side, rows 6 times.

use dendrite_onnx::{Dim, Shape};

use super::{
    Ctx,
    convolution::attributes,
    window::{Window, ints},
};
use crate::{
    error::Result,
    expr::{Size, V},
};

/// How the gradient of the weights is computed.
enum Formulation {
    /// A convolution in which batch and channels are exchanged and dy is the kernel.
    Convolution,
    /// What each tap meets side by side, one matrix product for each sample.
    Columns,
    /// The same with all samples in one product.
    JoinedColumns,
    /// A matrix product for each row of taps, those of the row side by side.
    ByRow,
    /// Of each channel, every row of the image times every row of dy, a product for each row of taps. The taps are the sums
    /// along the diagonals: more products than are needed, but no column is copied.
    RowsWithRows,
}

/// The sizes that decide.
struct Sizes {
    /// Spatial sizes of the output.
    steps: Vec<usize>,
    positions: usize,
    taps: usize,
    /// Output channels in all, input channels of one group.
    outputs: usize,
    channels: usize,
    group: usize,
}

impl Sizes {
    /// Whether the window moves over two axes and the rows it moves along are at most `times` as long as it is wide: so many
    /// products would be taken for each that is needed.
    fn wastes_at_most(&self, times: usize, window: &Window) -> bool {
        let [_, steps] = self.steps[..] else { return false };
        row_length(steps, window) <= times * window.kernel[1]
    }
}

/// Elements of a padded row that a window meets in `steps` steps.
fn row_length(steps: usize, window: &Window) -> usize {
    (steps.max(1) - 1) * window.strides[1] + window.extent(1)
}

/// The gradient of a convolution's weights, of the shape of `w`, from the input and the output's gradient.
pub(super) fn weights<'b>(c: &Ctx<'b>, x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, group: usize) -> Result<V<'b>> {
    let [outputs, channels] = c.known_dims(w, 0)?[..2] else { return Err(c.no_rank(w)) };
    let Ok(steps) = c.known_dims(dy, 2) else { return by_convolution(c, x, dy, w, window, group) };
    let positions = steps.iter().product();
    let taps = window.kernel.iter().product();
    let sizes = Sizes { steps, positions, taps, outputs, channels, group };
    match choose(&sizes, window) {
        Formulation::Convolution => by_convolution(c, x, dy, w, window, group),
        Formulation::Columns => Ok(by_columns(x, dy, w, window, &sizes)),
        Formulation::JoinedColumns => Ok(by_joined_columns(x, dy, w, window, &sizes)),
        Formulation::ByRow => Ok(by_row(x, dy, w, window, &sizes)),
        Formulation::RowsWithRows => Ok(rows_with_rows(x, dy, w, window, &sizes)),
    }
}

fn choose(s: &Sizes, window: &Window) -> Formulation {
    let depthwise = s.channels == 1 && s.group > 1;
    let rows: usize = window.kernel.split_last().map_or(1, |(_, others)| others.iter().product());
    let product = s.outputs * s.taps * s.channels;
    let operands = s.positions * (s.outputs + s.taps * s.channels);
    match () {
        () if depthwise && s.group == s.outputs && s.wastes_at_most(12, window) => Formulation::RowsWithRows,
        () if depthwise => Formulation::Convolution,
        () if s.taps > 25 => Formulation::Convolution,
        () if s.group > 1 && rows > 1 => Formulation::ByRow,
        () if s.group > 1 => Formulation::Columns,
        // One product for each sample would be larger than what it is made of.
        () if product > operands => Formulation::JoinedColumns,
        () if rows > 1 && s.channels * s.taps / rows >= 40 && s.positions >= 196 => Formulation::ByRow,
        () => Formulation::Columns,
    }
}

/// Batch and channels exchanged, dy is the kernel that slides over x; strides and dilations change roles.
fn by_convolution<'b>(c: &Ctx<'b>, x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, group: usize) -> Result<V<'b>> {
    let axes = window.kernel.len();
    let exchanged: Vec<usize> = [1, 0].into_iter().chain(2..axes + 2).collect();
    let [outputs, channels] = c.known_dims(w, 0)?[..2] else { return Err(c.no_rank(w)) };
    let across = if group == 1 {
        x.transpose(&exchanged)
    } else {
        // Each group's samples become the input channels of that group.
        let joined: Vec<_> =
            [Size::Is(channels), Size::Rest].into_iter().chain((2..axes + 2).map(|a| Size::Of(x, a))).collect();
        let perm: Vec<usize> = [2, 1, 0].into_iter().chain(3..axes + 3).collect();
        in_groups(x, group, channels).transpose(&perm).reshape(&joined)
    };
    let attributes = attributes(&window.dilations, &window.strides, (&window.begin, &window.end), group);
    let mut exact = true;
    let mut shape = vec![Dim::Known(channels), Dim::Known(outputs)];
    for axis in 0..axes {
        let kernel = match (x.known_dim(axis + 2), dy.known_dim(axis + 2)) {
            (Some(size), Some(steps)) => {
                let covered = (steps.max(1) - 1) * window.strides[axis] + 1;
                let room = size + window.begin[axis] + window.end[axis];
                Dim::Known(room.saturating_sub(covered) / window.dilations[axis] + 1)
            }
            _ => Dim::Unknown,
        };
        exact &= kernel == Dim::Known(window.kernel[axis]);
        shape.push(kernel);
    }
    let inputs = [across, dy.transpose(&exchanged)];
    let mut result = c.b.node("Conv", &inputs, attributes, w.element_type(), Some(Shape(shape)));
    // With strides the forward pass may have left out elements at the end, which look like more taps here.
    if !exact {
        let parts: Vec<_> = (0..axes).map(|a| (a + 2, 0, window.kernel[a] as i64, 1)).collect();
        result = result.slice(&parts);
    }
    Ok(result.transpose(&exchanged))
}

/// The channel axis as (group, channel).
fn in_groups<'b>(x: V<'b>, group: usize, channels: usize) -> V<'b> {
    let spatial = (2..x.rank().unwrap_or(2)).map(|a| Size::Of(x, a));
    let sizes: Vec<_> = [Size::Of(x, 0), Size::Is(group), Size::Is(channels)].into_iter().chain(spatial).collect();
    x.reshape(&sizes)
}

fn padded<'b>(x: V<'b>, window: &Window) -> V<'b> {
    if !window.is_padded() {
        return x;
    }
    x.pad(&[&[0, 0], &ints(&window.begin)[..], &[0, 0], &ints(&window.end)[..]].concat())
}

/// For each tap along the spatial axes `along`, the elements of the padded x that it meets; `first` is the place of the
/// first spatial axis.
fn met_by_taps<'b>(
    x: V<'b>,
    first: usize,
    along: std::ops::Range<usize>,
    window: &Window,
    sizes: &Sizes,
) -> Vec<V<'b>> {
    let met = |tap: usize| {
        let mut rest = tap;
        let mut parts = Vec::new();
        for axis in along.clone().rev() {
            let start = (rest % window.kernel[axis]) * window.dilations[axis];
            rest /= window.kernel[axis];
            let end = start + (sizes.steps[axis].max(1) - 1) * window.strides[axis] + 1;
            if start != 0 || window.strides[axis] != 1 || x.known_dim(first + axis) != Some(end) {
                parts.push((first + axis, start as i64, end as i64, window.strides[axis] as i64));
            }
        }
        parts.reverse();
        if parts.is_empty() { x } else { x.slice(&parts) }
    };
    let taps = window.kernel[along.clone()].iter().product::<usize>();
    (0..taps).map(met).collect()
}

fn side_by_side<'b>(columns: &[V<'b>], axis: usize) -> V<'b> {
    if columns.len() == 1 { columns[0] } else { columns[0].builder().concat(columns, axis) }
}

/// What all taps meet side by side along `axis`, as (tap, channel). One spatial axis after the other, the last first: that
/// is the sum of the kernel's sizes in slices, not their product, and most of them copy whole rows.
fn joined_taps<'b>(x: V<'b>, axis: usize, first: usize, window: &Window, sizes: &Sizes) -> V<'b> {
    let axes = (0..window.kernel.len()).rev();
    axes.fold(x, |x, at| side_by_side(&met_by_taps(x, first, at..at + 1, window, sizes), axis))
}

fn by_columns<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let mut x = padded(x, window);
    let grouped = sizes.group > 1;
    let first = 2 + usize::from(grouped);
    if grouped {
        x = in_groups(x, sizes.group, sizes.channels);
    }
    let columns = joined_taps(x, first - 1, first, window, sizes);
    let matrix = |v: V<'b>, rows: usize| {
        let group = grouped.then_some(Size::Is(sizes.group));
        let all = [Size::Of(x, 0)].into_iter().chain(group).chain([Size::Is(rows), Size::Is(sizes.positions)]);
        v.reshape(&all.collect::<Vec<_>>())
    };
    let rows = matrix(dy, sizes.outputs / sizes.group);
    let columns = matrix(columns, sizes.taps * sizes.channels);
    // The right factor is rearranged before the product: the smaller one.
    let dy_is_smaller = sizes.outputs / sizes.group <= sizes.taps * sizes.channels;
    let [group, outputs, taps, channels] =
        [sizes.group, sizes.outputs / sizes.group, sizes.taps, sizes.channels].map(Size::Is);
    if dy_is_smaller {
        let product = columns.matmul(rows.matrix_transpose(first + 1)).sum(&[0], false);
        return product.reshape(&[group, taps, channels, outputs]).transpose(&[0, 3, 2, 1]).reshape_like(w);
    }
    let product = rows.matmul(columns.matrix_transpose(first + 1)).sum(&[0], false);
    product.reshape(&[group, outputs, taps, channels]).transpose(&[0, 1, 3, 2]).reshape_like(w)
}

fn by_joined_columns<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let exchanged: Vec<usize> = [1, 0].into_iter().chain(2..window.kernel.len() + 2).collect();
    let x = padded(x.transpose(&exchanged), window);
    let columns = joined_taps(x, 0, 2, window, sizes);
    let matrix = |v: V<'b>, rows: usize| v.reshape(&[Size::Is(rows), Size::Rest]);
    let rows = matrix(dy.transpose(&exchanged), sizes.outputs);
    let product = rows.gemm(false, matrix(columns, sizes.taps * sizes.channels), true, 1.0);
    if sizes.taps == 1 || sizes.channels == 1 {
        return product.reshape_like(w);
    }
    let split = [sizes.outputs, sizes.taps, sizes.channels].map(Size::Is);
    product.reshape(&split).transpose(&[0, 2, 1]).reshape_like(w)
}

fn rows_with_rows<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let by_channel = [1, 0, 2, 3];
    let (steps, length) = (sizes.steps[1], row_length(sizes.steps[1], window));
    // Channel, all rows of all samples, row.
    let rows = |v: V<'b>, length: usize| v.reshape(&[Size::Is(sizes.group), Size::Rest, Size::Is(length)]);
    let dy = rows(dy.transpose(&by_channel), steps);
    let mut x = padded(x.transpose(&by_channel), window);
    if x.known_dim(3) != Some(length) {
        x = x.slice(&[(3, 0, length as i64, 1)]);
    }
    let products: Vec<V<'b>> = met_by_taps(x, 2, 0..1, window, sizes)
        .into_iter()
        .map(|v| rows(v, length).matrix_transpose(3).matmul(dy))
        .map(|v| v.reshape(&[sizes.group, 1, length * steps].map(Size::Is)))
        .collect();
    let mut diagonals = vec![0.0; length * steps * window.kernel[1]];
    for step in 0..steps {
        for tap in 0..window.kernel[1] {
            let met = step * window.strides[1] + tap * window.dilations[1];
            diagonals[(met * steps + step) * window.kernel[1] + tap] = 1.0;
        }
    }
    let diagonals = w.builder().floats(w.element_type(), &[length * steps, window.kernel[1]], &diagonals);
    side_by_side(&products, 1).matmul(diagonals).reshape_like(w)
}

fn by_row<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let last = window.kernel.len() - 1;
    let grouped = sizes.group > 1;
    let first = 2 + usize::from(grouped);
    let width = window.kernel[last] * sizes.channels;
    let outputs = sizes.outputs / sizes.group;
    let padded = padded(x, window);
    let within = if grouped { in_groups(padded, sizes.group, sizes.channels) } else { padded };
    let matrix = |v: V<'b>, rows: usize| {
        let group = grouped.then_some(Size::Is(sizes.group));
        let all = [Size::Of(x, 0)].into_iter().chain(group).chain([Size::Is(rows), Size::Is(sizes.positions)]);
        v.reshape(&all.collect::<Vec<_>>())
    };
    let rows = matrix(dy, outputs).matrix_transpose(first + 1);
    let within = side_by_side(&met_by_taps(within, first, last..last + 1, window, sizes), first - 1);
    let met = met_by_taps(within, first, 0..last, window, sizes);
    let products: Vec<V<'b>> = met.into_iter().map(|v| matrix(v, width).matmul(rows)).collect();
    let product = side_by_side(&products, first - 1).sum(&[0], false);
    let split = [sizes.group, sizes.taps, sizes.channels, outputs].map(Size::Is);
    product.reshape(&split).transpose(&[0, 3, 2, 1]).reshape_like(w)
}
