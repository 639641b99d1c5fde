//! What tests of runs share.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)] // each test file uses its part

use std::{path::Path, sync::atomic::AtomicBool};

use dendrite_onnx::{Model, Tensor};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{DataSet, Options, Outcome, Run, grow};
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

/// A run on one thread from training, validation and perhaps test data.
pub fn grown(model: &Model, data: [&DataSet; 2], test: Option<&DataSet>, options: &Options, folder: &Path) -> Outcome {
    let [train, val] = data;
    grow(&mut Run {
        model,
        train,
        val,
        test,
        options,
        plan: None,
        session: SessionOptions { threads: 1, ..Default::default() },
        folder,
        resume: false,
        interrupt: &AtomicBool::new(false),
        observer: &mut |_| {},
        second_runtime: None,
    })
    .unwrap()
}

/// Reproducible numbers in -1..1.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect()
}
