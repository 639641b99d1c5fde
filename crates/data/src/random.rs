//! Randomness that derives from a seed and a place alone, so that neither threads nor a restart change it.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator for one place: the seed and any numbers that tell the place (epoch, sample, ...).
pub fn generator(seed: u64, place: &[u64]) -> ChaCha8Rng {
    // SplitMix64's finaliser mixes each number in; equal places give equal streams, neighbours unrelated ones.
    let mixed = place.iter().fold(seed, |state, number| {
        mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(number.wrapping_mul(0xbf58_476d_1ce4_e5b9)))
    });
    ChaCha8Rng::seed_from_u64(mixed)
}

/// SplitMix64's finaliser: every bit of the result depends on every bit given.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Two draws from the standard normal distribution (Box-Muller).
pub(crate) fn normals(rng: &mut ChaCha8Rng) -> [f32; 2] {
    let (u, v) = (1.0 - rng.random::<f32>(), rng.random::<f32>());
    let radius = (-2.0 * u.ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * v).sin_cos();
    [radius * cos, radius * sin]
}

/// A draw between `low` and `high`.
pub(crate) fn uniform(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// A draw from the beta distribution with both parameters `alpha`.
pub(crate) fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    let (a, b) = (ln_gamma_variate(rng, alpha), ln_gamma_variate(rng, alpha));
    // In logarithms, since small parameters draw numbers that underflow.
    1.0 / (1.0 + (b - a).exp())
}

/// The logarithm of a draw from the gamma distribution with the given shape (Marsaglia and Tsang).
fn ln_gamma_variate(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let u = 1.0 - rng.random::<f64>();
        return ln_gamma_variate(rng, shape + 1.0) + u.ln() / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let [x, _] = normals(rng).map(f64::from);
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - rng.random::<f64>();
        if v > 0.0 && u.ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
            return (d * v).ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beta_draws_have_the_mean_and_variance_of_the_distribution() {
        for alpha in [0.2, 1.0, 4.0] {
            let mut rng = generator(1, &[]);
            let draws: Vec<f64> = (0..20_000).map(|_| beta(&mut rng, alpha)).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((mean - 0.5).abs() < 0.01, "{mean}");
            assert!((variance - 0.25 / (2.0 * alpha + 1.0)).abs() < 0.01, "{variance}");
        }
    }
}
