//! What tests of runs share.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // each test file uses its part

use dendrite_onnx::Tensor;
use dendrite_trainer::DataSet;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows of two numbers between -1 and 1, `x`, and one that follows from them, `target`.
pub fn pairs(rows: usize, seed: u64, target: fn(&[f32; 2]) -> f32) -> DataSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let points: Vec<[f32; 2]> = (0..rows).map(|_| [0, 1].map(|_| 2.0 * rng.random::<f32>() - 1.0)).collect();
    let targets: Vec<f32> = points.iter().map(target).collect();
    let arrays = vec![
        ("x".to_owned(), Tensor::from_f32(&[rows, 2], &points.concat())),
        ("target".to_owned(), Tensor::from_f32(&[rows], &targets)),
    ];
    DataSet::from_arrays("rows", arrays).unwrap()
}

/// Reproducible numbers in -1..1.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect()
}
