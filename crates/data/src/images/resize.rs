//! Resizing as PIL does it, to the bit: separable filters whose support grows with the reduction, in fixed point, rounded to
//! 8 bits between the two passes.

use std::ops::Range;

use super::decode::Picture;
use crate::preprocess::Filter;

/// Bits behind the point: 32, less 8 of a pixel and 2 that sums of cubic weights may need.
const PRECISION: u32 = 22;

/// Resize `picture` to `height` x `width` and keep the window of `rows` and `columns` of that.
pub(crate) fn resize(
    picture: &Picture,
    [height, width]: [usize; 2],
    rows: Range<usize>,
    columns: Range<usize>,
    filter: Filter,
) -> Picture {
    if filter == Filter::Nearest {
        return nearest(picture, [height, width], rows, columns);
    }
    let across = weights(picture.width, width, columns.clone(), filter);
    let down = weights(picture.height, height, rows.clone(), filter);
    // Only the rows that the second pass reads go through the first.
    let first = down.iter().map(|w| w.start).min().unwrap_or(0);
    let last = down.iter().map(|w| w.start + w.values.len()).max().unwrap_or(0);
    let channels = picture.channels;
    let line = picture.width * channels;
    let narrow = across.len() * channels;
    let mut between = vec![0u8; (last - first) * narrow];
    let lines = picture.pixels.chunks_exact(line.max(1)).skip(first);
    for (source, out) in lines.zip(between.chunks_exact_mut(narrow.max(1))) {
        for (weight, out) in across.iter().zip(out.chunks_exact_mut(channels)) {
            for (channel, out) in out.iter_mut().enumerate() {
                let taps = source.iter().skip(weight.start * channels + channel).step_by(channels);
                *out = clipped(taps.zip(&weight.values).map(|(p, w)| i32::from(*p) * w).sum());
            }
        }
    }
    let mut pixels = vec![0u8; down.len() * narrow];
    let mut sums = vec![0i32; narrow];
    for (weight, out) in down.iter().zip(pixels.chunks_exact_mut(narrow.max(1))) {
        sums.fill(0);
        let lines = between.chunks_exact(narrow.max(1)).skip(weight.start - first);
        for (source, w) in lines.zip(&weight.values) {
            for (sum, p) in sums.iter_mut().zip(source) {
                *sum += i32::from(*p) * w;
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = clipped(*sum);
        }
    }
    Picture { height: rows.len(), width: columns.len(), channels, pixels }
}

fn clipped(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// The weights of the source pixels that make one pixel, from source pixel `start` on.
struct Weights {
    start: usize,
    values: Vec<i32>,
}

fn weights(from: usize, to: usize, window: Range<usize>, filter: Filter) -> Vec<Weights> {
    let scale = from as f64 / to as f64;
    // When a side shrinks, the filter widens, so that every source pixel counts.
    let stretch = scale.max(1.0);
    let support = stretch * if filter == Filter::Bicubic { 2.0 } else { 1.0 };
    let one = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5).max(0.0) as usize).min(from);
        let raw: Vec<f64> = (start..end).map(|x| kernel(filter, (x as f64 - centre + 0.5) / stretch)).collect();
        let total: f64 = raw.iter().sum();
        let unit = f64::from(1 << PRECISION);
        let values = raw.iter().map(|w| (w / total * unit).round() as i32).collect();
        Weights { start, values }
    };
    window.map(one).collect()
}

fn kernel(filter: Filter, x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    match filter {
        Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        Filter::Bilinear if x < 1.0 => 1.0 - x,
        _ => 0.0,
    }
}

fn nearest(picture: &Picture, [height, width]: [usize; 2], rows: Range<usize>, columns: Range<usize>) -> Picture {
    let channels = picture.channels;
    let place = |index: usize, from: usize, to: usize| {
        (((index as f64 + 0.5) * (from as f64 / to as f64)) as usize).min(from.saturating_sub(1))
    };
    let mut pixels = Vec::with_capacity(rows.len() * columns.len() * channels);
    for y in rows.clone() {
        let line = place(y, picture.height, height) * picture.width;
        for x in columns.clone() {
            let at = (line + place(x, picture.width, width)) * channels;
            pixels.extend(picture.pixels.iter().skip(at).take(channels));
        }
    }
    Picture { height: rows.len(), width: columns.len(), channels, pixels }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(pixels: &[u8]) -> Picture {
        Picture { height: 1, width: pixels.len(), channels: 1, pixels: pixels.to_vec() }
    }

    #[test]
    fn halving_averages_with_a_wide_triangle() {
        // PIL: Image.fromarray(...).resize((2, 1), BILINEAR)
        let out = resize(&row(&[0, 0, 255, 255]), [1, 2], 0..1, 0..2, Filter::Bilinear);
        assert_eq!(out.pixels, [36, 219]);
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = row(&[1, 2, 3, 250]);
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(resize(&picture, [1, 4], 0..1, 0..4, filter), picture);
        }
    }

    #[test]
    fn a_window_is_the_part_of_the_whole() {
        let picture = Picture { height: 3, width: 3, channels: 1, pixels: (0..9).map(|v| v * 20).collect() };
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic] {
            let whole = resize(&picture, [6, 6], 0..6, 0..6, filter);
            let part = resize(&picture, [6, 6], 2..4, 1..3, filter);
            let expected: Vec<u8> = [13, 14, 19, 20].iter().map(|i| whole.pixels[*i]).collect();
            assert_eq!(part.pixels, expected);
        }
    }
}
