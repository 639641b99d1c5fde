//! The gradient of a convolution's weights.
//!
//! No formulation in standard operators is fast everywhere; one is chosen from the shapes. The textbook's is a convolution
//! of x with dy as the kernel, which few kernels of the runtime are made for. Time relative to the forward pass on ONNX
//! Runtime 1.31.1, one thread, the least of many runs, with the number of nodes:
//!
//! | batch, channels, input, kernel | convolution | samples inside | by rows |
//! |---|---|---|---|
//! | 32, 1-8, 28x28, 5x5 | 2.3 (4) | 2.6 (5) | 2.0 (8) |
//! | 32, 8-16, 14x14, 5x5 | 1.7 (4) | 1.0 (5) | 1.7 (8) |
//! | 16, 16-16, 16x16, 3x3 | 3.1 (4) | 1.8 (5) | 1.8 (8) |
//! | 16, 64-64, 28x28, 3x3 | 2.3 (4) | 1.3 (5) | 1.3 (8) |
//! | 8, 32-64, 56x56, 3x3 | 2.5 (4) | 1.7 (5) | 1.2 (8) |
//! | 4, 24-24, 40x40, 3x3 | 3.1 (4) | 3.7 (5) | 1.5 (8) |
//! | 1, 32-32, 28x28, 3x3 | 2.7 (4) | 8.6 (5) | 1.4 (8) |
//! | 32, 16-32, 32x32, 3x3 stride 2 | 2.4 (5) | 1.2 (5) | 1.5 (8) |
//! | 16, 256-256, 14x14, 3x3 | 1.8 (4) | 1.1 (5) | 1.4 (8) |
//! | 16, 512-512, 7x7, 3x3 | 1.5 (4) | 1.1 (5) | 1.5 (8) |
//! | 16, 3-64, 112x112, 7x7 stride 2 | 1.5 (5) | 1.4 (5) | 1.1 (8) |
//! | 16, 64-64 in 4 groups, 28x28, 3x3 | 3.2 (6) | 2.3 (7) | 1.6 (9) |
//!
//! Slicing what each tap meets from the image, as most write it, took 0.8 to 1.3 times as long as the faster of the two and
//! 17 to 29 nodes. In samples inside, blocks of one element of all samples are copied, in by rows blocks of a row of the
//! output: twice the first against the second decides.
//!
//! Pointwise, one product for each sample, or all samples in one product:
//!
//! | batch, channels, input | convolution | products | joined |
//! |---|---|---|---|
//! | 16, 64-256, 56x56 | 7.4 (4) | 1.0 (6) | 1.4 (6) |
//! | 16, 320-1280, 7x7 | 2.2 (4) | 2.1 (6) | 0.9 (6) |
//!
//! Depthwise, batch 8:
//!
//! | channels, input, kernel | convolution | samples inside | rows with rows |
//! |---|---|---|---|
//! | 32, 112x112, 3x3 | 6.6 (6) | 5.5 (6) | 6.2 (11) |
//! | 96, 112x112, 3x3 stride 2 | 3.2 (7) | 5.0 (6) | 4.0 (12) |
//! | 144, 56x56, 3x3 | 6.4 (6) | 4.2 (6) | 4.1 (11) |
//! | 240, 28x28, 5x5 | 3.2 (6) | 5.0 (6) | 1.9 (11) |
//! | 480, 14x14, 3x3 | 3.9 (6) | 3.8 (6) | 1.7 (11) |
//! | 672, 14x14, 5x5 | 2.3 (6) | 4.2 (6) | 1.3 (11) |
//! | 672, 14x14, 5x5 stride 2 | 1.6 (7) | 2.6 (6) | 1.1 (12) |
//! | 1152, 7x7, 5x5 | 1.3 (6) | 2.3 (6) | 0.8 (11) |
//! | 1152, 7x7, 3x3 | 2.0 (6) | 2.2 (6) | 1.2 (11) |

use dendrite_onnx::{Attributes, Dim, Shape, Tensor};

use super::{
    Ctx,
    convolution::attributes,
    window::{Window, ints},
};
use crate::{
    error::Result,
    expr::{Size, V},
};

/// Columns of what the taps meet are at most so many times as large as the padded image.
const COLUMNS: usize = 25;
/// Rows of the image that are copied for each row of taps are at most so many times as many as the image has.
const COPIED_ROWS: usize = 8;
/// A row of taps is at most so long where one-hot kernels, which hold its square for each channel, tell what it meets.
const LONGEST_ROW: usize = 25;

/// How the gradient of the weights is computed.
enum Formulation {
    /// A convolution in which batch and channels are exchanged and dy is the kernel.
    Convolution,
    /// Of a pointwise convolution, one matrix product for each sample.
    Products,
    /// Of a pointwise convolution, one matrix product.
    JoinedProducts,
    /// What each tap meets, gathered with the samples innermost; one matrix product.
    SamplesInside,
    /// What the taps of a row meet, by a convolution with one-hot kernels; for every row of taps its rows, gathered; one
    /// matrix product for each sample.
    ByRows,
    /// Of each channel, every row of the image times every row of dy, for every row of taps. The taps are the sums along
    /// the diagonals: more products than are needed, but only rows are copied.
    RowsWithRows,
}

/// The sizes that decide.
struct Sizes {
    batch: Option<usize>,
    /// Spatial sizes of the padded input.
    image: Option<Vec<usize>>,
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

    /// Whether the rows that meet all rows of taps are few.
    fn copies_few_rows(&self, window: &Window) -> bool {
        match &self.image {
            Some(image) => window.kernel[0] * self.steps[0] <= COPIED_ROWS * image[0],
            None => window.kernel[0] <= COPIED_ROWS,
        }
    }

    /// Whether columns would be much larger than the image.
    fn columns_are_large(&self) -> bool {
        match &self.image {
            Some(image) => self.taps * self.positions > COLUMNS * image.iter().product::<usize>(),
            None => self.taps > COLUMNS,
        }
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
    let image = (0..steps.len()).map(|a| Some(x.known_dim(a + 2)? + window.begin[a] + window.end[a])).collect();
    let positions = steps.iter().product();
    let taps = window.kernel.iter().product();
    let sizes = Sizes { batch: x.known_dim(0), image, steps, positions, taps, outputs, channels, group };
    Ok(match choose(&sizes, window) {
        Formulation::Convolution => by_convolution(c, x, dy, w, window, group)?,
        Formulation::Products => products(x, dy, w, window, &sizes),
        Formulation::JoinedProducts => joined_products(x, dy, w, window, &sizes),
        Formulation::SamplesInside => samples_inside(x, dy, w, window, &sizes),
        Formulation::ByRows => by_rows(x, dy, w, window, &sizes),
        Formulation::RowsWithRows => rows_with_rows(x, dy, w, window, &sizes),
    })
}

fn choose(s: &Sizes, window: &Window) -> Formulation {
    let depthwise = s.channels == 1 && s.group > 1;
    let product = s.outputs * s.taps * s.channels;
    let operands = s.positions * (s.outputs + s.taps * s.channels);
    let row = s.steps.last().copied().unwrap_or(1);
    let many_samples = s.channels >= 4 && s.batch.is_some_and(|batch| 2 * batch >= row);
    let known = s.image.is_some();
    let joined = known && (product > operands || many_samples);
    let long = window.kernel.last().is_some_and(|taps| *taps > LONGEST_ROW);
    let rows_fit = s.wastes_at_most(20, window) && s.copies_few_rows(window);
    match () {
        () if depthwise && s.group == s.outputs && rows_fit => Formulation::RowsWithRows,
        () if depthwise || s.columns_are_large() => Formulation::Convolution,
        // One product for each sample would be larger than what it is made of.
        () if s.taps == 1 && s.group == 1 && product > operands => Formulation::JoinedProducts,
        () if s.taps == 1 => Formulation::Products,
        // Columns of volumes are larger than those of images, and so is the list of what the taps meet.
        () if s.steps.len() > 2 && joined && s.taps <= COLUMNS => Formulation::SamplesInside,
        () if s.steps.len() > 2 => Formulation::Convolution,
        () if long && known => Formulation::SamplesInside,
        () if long => Formulation::Convolution,
        () if s.group == 1 && joined => Formulation::SamplesInside,
        () => Formulation::ByRows,
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

/// Of a pointwise convolution, the elements of x that it meets.
fn met_by_points<'b>(x: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let x = padded(x, window);
    let parts = (0..sizes.steps.len()).filter(|a| window.strides[*a] > 1).map(|axis| {
        let end = (sizes.steps[axis].max(1) - 1) * window.strides[axis] + 1;
        (axis + 2, 0, end as i64, window.strides[axis] as i64)
    });
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() { x } else { x.slice(&parts) }
}

/// (sample, [group,] rows, position).
fn matrices<'b>(v: V<'b>, rows: usize, sizes: &Sizes) -> V<'b> {
    let group = (sizes.group > 1).then_some(Size::Is(sizes.group));
    let all = [Size::Of(v, 0)].into_iter().chain(group).chain([Size::Is(rows), Size::Is(sizes.positions)]);
    v.reshape(&all.collect::<Vec<_>>())
}

fn products<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let rank = 3 + usize::from(sizes.group > 1);
    let outputs = sizes.outputs / sizes.group;
    let x = matrices(met_by_points(x, window, sizes), sizes.channels, sizes);
    let dy = matrices(dy, outputs, sizes);
    // The right factor is rearranged before the product: the smaller one.
    let product = if outputs <= sizes.channels {
        x.matmul(dy.matrix_transpose(rank)).sum(&[0], false).matrix_transpose(rank - 1)
    } else {
        dy.matmul(x.matrix_transpose(rank)).sum(&[0], false)
    };
    product.reshape_like(w)
}

fn joined_products<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let exchanged: Vec<usize> = [1, 0].into_iter().chain(2..window.kernel.len() + 2).collect();
    let matrix = |v: V<'b>, rows: usize| v.transpose(&exchanged).reshape(&[Size::Is(rows), Size::Rest]);
    let x = matrix(met_by_points(x, window, sizes), sizes.channels);
    matrix(dy, sizes.outputs).gemm(false, x, true, 1.0).reshape_like(w)
}

/// Where along an axis each tap meets the padded image in each step.
fn met(axis: usize, window: &Window, sizes: &Sizes) -> Vec<Vec<usize>> {
    let steps = 0..sizes.steps[axis];
    let of_tap = |tap: usize| steps.clone().map(|s| s * window.strides[axis] + tap * window.dilations[axis]).collect();
    (0..window.kernel[axis]).map(of_tap).collect()
}

/// For every tap along an axis, the slices of the padded x that it meets there: (.., tap, step, ..). `at` is the axis in x.
fn gathered<'b>(x: V<'b>, at: usize, axis: usize, window: &Window, sizes: &Sizes) -> V<'b> {
    if window.kernel[axis] == 1 && window.strides[axis] == 1 {
        return x;
    }
    let places: Vec<i64> = met(axis, window, sizes).into_iter().flatten().map(|p| p as i64).collect();
    x.gather(x.builder().constant(Tensor::from_i64(&[window.kernel[axis], sizes.steps[axis]], &places)), at)
}

/// Letters of `count` axes from `first` on.
fn letters(first: char, count: usize) -> String {
    (first..).take(count).collect()
}

fn einsum<'b>(operands: &[V<'b>], equation: &str, shape: &[usize]) -> V<'b> {
    let (first, shape) = (operands[0], Shape(shape.iter().map(|n| Dim::Known(*n)).collect()));
    let attributes = Attributes::new().with("equation", equation);
    first.builder().node("Einsum", operands, attributes, first.element_type(), Some(shape))
}

fn samples_inside<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let axes = window.kernel.len();
    let image = sizes.image.clone().unwrap_or_default();
    let grouped = sizes.group > 1;
    let group = grouped.then_some(sizes.group);
    // ([group,] channel, place, sample)
    let last: Vec<usize> = (1..axes + 2).chain([0]).collect();
    // An axis of size 1 has no letter: the runtime would move it behind the others, and copy all columns for that.
    let channels = (sizes.channels > 1).then_some(sizes.channels);
    let turned: Vec<usize> = (0..axes).filter(|axis| window.kernel[*axis] > 1).collect();
    let kernel: Vec<usize> = turned.iter().map(|axis| window.kernel[*axis]).collect();
    let places = [Size::Is(image.iter().product()), Size::Of(x, 0)];
    let places: Vec<_> = group.into_iter().chain(channels).map(Size::Is).chain(places).collect();
    let x = padded(x, window).transpose(&last).reshape(&places);
    // (taps.., steps..), the taps along axes of more than one
    let met: Vec<Vec<Vec<usize>>> = (0..axes).map(|axis| met(axis, window, sizes)).collect();
    let mut index = vec![0; 1];
    // One axis after the other, the taps' before the steps'.
    for (axis, of_axis) in met.iter().enumerate() {
        let taps = window.kernel[..axis].iter().product::<usize>();
        let steps = sizes.steps[..axis].iter().product::<usize>();
        let mut longer = Vec::with_capacity(index.len() * of_axis.len() * sizes.steps[axis]);
        for before in 0..taps {
            for of_tap in of_axis {
                for place in index.get(before * steps..(before + 1) * steps).unwrap_or_default() {
                    longer.extend(of_tap.iter().map(|step| place * image[axis] as i64 + *step as i64));
                }
            }
        }
        index = longer;
    }
    let index = Tensor::from_i64(&[&kernel[..], &sizes.steps].concat(), &index);
    let columns = x.gather(x.builder().constant(index), group.into_iter().chain(channels).count());
    let outputs = sizes.outputs / sizes.group;
    let dy = if grouped {
        let steps = sizes.steps.iter().map(|n| Size::Is(*n));
        let all = [Size::Of(dy, 0), Size::Is(sizes.group), Size::Is(outputs)].into_iter().chain(steps);
        dy.reshape(&all.collect::<Vec<_>>())
    } else {
        dy
    };
    let (g, c) = (if grouped { "G" } else { "" }, if channels.is_some() { "C" } else { "" });
    let (taps, steps) = (letters('a', kernel.len()), letters('p', axes));
    let equation = format!("{g}{c}{taps}{steps}N,N{g}O{steps}->{g}O{c}{taps}");
    let shape: Vec<usize> = group.into_iter().chain([outputs]).chain(channels).chain(kernel).collect();
    einsum(&[columns, dy], &equation, &shape).reshape_like(w)
}

/// What the taps of a row meet along the last axis, beside its channel: (sample, channel and tap, padded rows.., step).
fn met_in_rows<'b>(x: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let last = window.kernel.len() - 1;
    let (taps, channels) = (window.kernel[last], sizes.group * sizes.channels);
    if taps == 1 && window.strides[last] == 1 {
        return padded(x, window);
    }
    let along = |values: &[usize]| [&vec![1; last][..], &[values[last]]].concat();
    let attributes =
        attributes(&along(&window.strides), &along(&window.dilations), (&window.begin, &window.end), channels);
    let identity: Vec<f64> = (0..taps * taps).map(|i| f64::from(u8::from(i % (taps + 1) == 0))).collect();
    let kernel = [&[channels * taps, 1][..], &along(&window.kernel)].concat();
    let kernel = x.builder().floats(x.element_type(), &kernel, &identity.repeat(channels));
    let rows =
        (0..last).map(|a| x.known_dim(a + 2).map_or(Dim::Unknown, |n| Dim::Known(n + window.begin[a] + window.end[a])));
    let batch = x.shape().and_then(|s| s.0.first().cloned()).unwrap_or(Dim::Unknown);
    let shape = [batch, Dim::Known(channels * taps)].into_iter().chain(rows).chain([Dim::Known(sizes.steps[last])]);
    let shape = Some(Shape(shape.collect()));
    x.builder().node("Conv", &[x, kernel], attributes, x.element_type(), shape)
}

fn by_rows<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    let (axes, grouped) = (window.kernel.len(), sizes.group > 1);
    let outputs = sizes.outputs / sizes.group;
    let mut columns = met_in_rows(x, window, sizes);
    if axes == 2 {
        columns = gathered(columns, 2, 0, window, sizes);
    }
    let columns = matrices(columns, sizes.channels * sizes.taps, sizes);
    let product = columns.matmul(matrices(dy, outputs, sizes).matrix_transpose(3 + usize::from(grouped)));
    // ([group,] channel, tap within its row, row of taps, output) of each sample; taps lie the other way round.
    let taps: Vec<usize> = window.kernel.iter().rev().copied().collect();
    let group = grouped.then_some(sizes.group);
    let within: Vec<usize> = group.into_iter().chain([sizes.channels]).chain(taps).chain([outputs]).collect();
    let split: Vec<_> = [Size::Of(x, 0)].into_iter().chain(within.iter().map(|n| Size::Is(*n))).collect();
    let (g, taps) = (if grouped { "G" } else { "" }, letters('a', axes));
    let turned: String = taps.chars().rev().collect();
    let shape: Vec<usize> = group.into_iter().chain([outputs, sizes.channels]).chain(window.kernel.clone()).collect();
    let equation = format!("N{g}C{turned}O->{g}OC{taps}");
    einsum(&[product.reshape(&split)], &equation, &shape).reshape_like(w)
}

fn rows_with_rows<'b>(x: V<'b>, dy: V<'b>, w: V<'b>, window: &Window, sizes: &Sizes) -> V<'b> {
    // (channel, row, sample, column): the rows of a channel lie together.
    let by_channel = [1, 2, 0, 3];
    let (steps, length, [taps_down, taps]) =
        (sizes.steps[1], row_length(sizes.steps[1], window), [window.kernel[0], window.kernel[1]]);
    let mut x = padded(x, window);
    if x.known_dim(3) != Some(length) {
        x = x.slice(&[(3, 0, length as i64, 1)]);
    }
    let rows = |v: V<'b>, taps: usize, length: usize| {
        v.reshape(&[Size::Is(sizes.group), Size::Is(taps), Size::Rest, Size::Is(length)])
    };
    let x = rows(gathered(x.transpose(&by_channel), 1, 0, window, sizes), taps_down, length);
    let dy = rows(dy.transpose(&by_channel), 1, steps).matrix_transpose(4);
    let products = dy.matmul(x).reshape(&[sizes.group, taps_down, steps * length].map(Size::Is));
    let mut diagonals = vec![0.0; steps * length * taps];
    for step in 0..steps {
        for tap in 0..taps {
            let met = step * window.strides[1] + tap * window.dilations[1];
            diagonals[(step * length + met) * taps + tap] = 1.0;
        }
    }
    let diagonals = w.builder().floats(w.element_type(), &[steps * length, taps], &diagonals);
    products.matmul(diagonals).reshape_like(w)
}
