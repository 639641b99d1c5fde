//! Random changes of one row.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Augment, Fill, Flip};
use crate::random::{normals, uniform};

/// How the pixels of an image lie in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// Channels first.
    pub(super) planar: bool,
}

impl Grid {
    fn place(&self, channel: usize, y: usize, x: usize) -> usize {
        if self.planar {
            (channel * self.height + y) * self.width + x
        } else {
            (y * self.width + x) * self.channels + channel
        }
    }
}

/// Change `values` by what `augment` asks. The draws depend on `augment` and `rng` alone.
pub(super) fn change(augment: &Augment, grid: Option<&Grid>, last: usize, values: &mut Vec<f32>, rng: &mut ChaCha8Rng) {
    if let Some(most) = augment.time_shift.filter(|most| *most > 0) {
        roll(values, last, signed(rng, most));
    }
    if let Some(grid) = grid {
        let coin = |rng: &mut ChaCha8Rng| rng.random::<bool>();
        let (mirror_x, mirror_y) = match augment.flip {
            None => (false, false),
            Some(Flip::Horizontal) => (coin(rng), false),
            Some(Flip::Vertical) => (false, coin(rng)),
            Some(Flip::Both) => (coin(rng), coin(rng)),
        };
        let shift = augment
            .shift
            .map_or((0, 0), |extent| (signed(rng, extent.of(grid.height)), signed(rng, extent.of(grid.width))));
        if mirror_x || mirror_y || shift != (0, 0) {
            *values = moved(values, grid, (mirror_y, mirror_x), shift, augment.fill);
        }
    }
    if let Some([low, high]) = augment.gain {
        let gain = uniform(rng, low, high) as f32;
        values.iter_mut().for_each(|v| *v *= gain);
    }
    if let Some(deviation) = augment.noise.filter(|d| *d > 0.0) {
        add_noise(values, deviation as f32, rng);
    }
    if let Some([low, high]) = augment.noise_snr_db {
        let power = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len().max(1) as f64;
        let ratio = 10f64.powf(uniform(rng, low, high) / 10.0);
        add_noise(values, (power / ratio).sqrt() as f32, rng);
    }
}

/// A whole number from -most to most.
fn signed(rng: &mut ChaCha8Rng, most: usize) -> isize {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    rng.random_range(-most..=most) as isize
}

/// Roll each run of `len` elements by `by` places to the right.
fn roll(values: &mut [f32], len: usize, by: isize) {
    for run in values.chunks_exact_mut(len.max(1)) {
        let places = by.rem_euclid(run.len() as isize) as usize;
        run.rotate_right(places);
    }
}

/// The image mirrored, then shifted down and right.
fn moved(
    values: &[f32],
    grid: &Grid,
    (mirror_y, mirror_x): (bool, bool),
    (down, right): (isize, isize),
    fill: Fill,
) -> Vec<f32> {
    let source = |to: usize, by: isize, side: usize, mirror: bool| {
        let from = to as isize - by;
        let inside = (0..side as isize).contains(&from);
        let from = match (inside, fill) {
            (false, Fill::Zero) => return None,
            _ => from.clamp(0, side as isize - 1) as usize,
        };
        Some(if mirror { side - 1 - from } else { from })
    };
    let mut out = vec![0.0; values.len()];
    for y in 0..grid.height {
        let Some(from_y) = source(y, down, grid.height, mirror_y) else { continue };
        for x in 0..grid.width {
            let Some(from_x) = source(x, right, grid.width, mirror_x) else { continue };
            for channel in 0..grid.channels {
                let value = values.get(grid.place(channel, from_y, from_x));
                if let (Some(slot), Some(value)) = (out.get_mut(grid.place(channel, y, x)), value) {
                    *slot = *value;
                }
            }
        }
    }
    out
}

fn add_noise(values: &mut [f32], deviation: f32, rng: &mut ChaCha8Rng) {
    for pair in values.chunks_mut(2) {
        for (value, noise) in pair.iter_mut().zip(normals(rng)) {
            *value += deviation * noise;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PLANAR: Grid = Grid { height: 2, width: 3, channels: 1, planar: true };

    #[test]
    fn images_mirror_and_shift() {
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let still = (0, 0);
        assert_eq!(moved(&image, &PLANAR, (false, true), still, Fill::Zero), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        assert_eq!(moved(&image, &PLANAR, (true, false), still, Fill::Zero), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
        let up = (false, false);
        assert_eq!(moved(&image, &PLANAR, up, (1, -1), Fill::Zero), [0.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
        assert_eq!(moved(&image, &PLANAR, up, (1, -1), Fill::Edge), [2.0, 3.0, 3.0, 2.0, 3.0, 3.0]);
        let channels_last = Grid { height: 1, width: 2, channels: 2, planar: false };
        assert_eq!(moved(&image[..4], &channels_last, (false, true), still, Fill::Zero), [3.0, 4.0, 1.0, 2.0]);
    }

    #[test]
    fn rolling_goes_around_within_the_last_axis() {
        let mut values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        roll(&mut values, 3, 1);
        assert_eq!(values, [3.0, 1.0, 2.0, 6.0, 4.0, 5.0]);
        roll(&mut values, 3, -4);
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn noise_has_the_asked_ratio_of_signal_to_noise() {
        let augment = Augment { noise_snr_db: Some([20.0, 20.0]), ..Augment::default() };
        let clean: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.1).sin() * 3.0).collect();
        let mut noisy = clean.clone();
        change(&augment, None, clean.len(), &mut noisy, &mut crate::random::generator(3, &[]));
        let power = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>();
        let signal = power(&mut clean.iter().copied());
        let noise = power(&mut clean.iter().zip(&noisy).map(|(a, b)| a - b));
        assert!((10.0 * (signal / noise).log10() - 20.0).abs() < 0.2);
    }
}
