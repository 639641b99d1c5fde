//! Randomness that derives from the seed and a place in the run alone, so that a resumed run repeats it.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator for one place in a run: the seed and any numbers that tell the place (cycle, try, phase, epoch, ...).
pub fn generator(seed: u64, place: &[u64]) -> ChaCha8Rng {
    // SplitMix64's finaliser mixes each number in; equal places give equal streams, neighbours unrelated ones.
    let mixed = place.iter().fold(seed, |state, number| {
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(number.wrapping_mul(0xbf58_476d_1ce4_e5b9));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    ChaCha8Rng::seed_from_u64(mixed)
}
