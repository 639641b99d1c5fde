//! Batches come in order, padded and weighted, and the same whatever makes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{assert_error, counted, input, request};
use dendrite_data::{Augment, DataSet, Extent, Flip, Limits, Loader, Preprocess, Request, Samples};
use dendrite_onnx::{ElementType, Tensor};

fn samples(rows: usize, row: &[usize]) -> Samples {
    let labels: Vec<i64> = (0..rows as i64).collect();
    let shape = [&[rows], row].concat();
    let arrays = vec![("x".to_owned(), counted(&shape)), ("target".to_owned(), Tensor::int64s(&labels))];
    Samples::from_arrays("memory", arrays, &request(row)).unwrap()
}

/// Samples that lie in a file, so that a thread reads them.
fn in_a_file() -> Samples {
    let limits = Limits { arrays: 0, images: 0 };
    let set = DataSet::open_with(common::fixture("stored.npz"), &Preprocess::default(), limits).unwrap();
    set.samples(&request(&[4])).unwrap()
}

#[test]
fn samples_and_loaders_go_between_threads() {
    fn check<T: Send>() {}
    fn share<T: Send + Sync>() {}
    share::<Samples>();
    share::<DataSet>();
    check::<Loader>();
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn the_last_batch_is_filled_up_with_its_first_row() {
    for samples in [samples(6, &[4]), in_a_file()] {
        let batches: Vec<_> =
            Loader::new(&samples, 4, vec![5, 0, 1, 2, 3, 4], None).unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.len(), 2);
        assert_eq!((batches[0].rows.as_slice(), batches[0].count), ([5, 0, 1, 2].as_slice(), 4));
        assert_eq!((batches[1].rows.as_slice(), batches[1].count), ([3, 4, 3, 3].as_slice(), 2));
        assert_eq!(batches[1].weights, [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(floats(&batches[1].fields[0])[..8], [12., 13., 14., 15., 16., 17., 18., 19.]);
        assert_eq!(floats(&batches[1].fields[0])[12..], [12., 13., 14., 15.]);
        assert_eq!(batches[0].target.len(), 32);
    }
}

#[test]
fn weights_of_the_data_set_go_with_the_rows() {
    let arrays = vec![
        ("x".to_owned(), counted(&[3, 1])),
        ("target".to_owned(), Tensor::int64s(&[0, 1, 2])),
        ("w".to_owned(), Tensor::from_f32(&[3], &[1.0, 2.0, 3.0])),
    ];
    let request = Request { weight: Some("w".to_owned()), ..request(&[1]) };
    let samples = Samples::from_arrays("memory", arrays, &request).unwrap();
    let batch = Loader::new(&samples, 4, vec![2, 0], None).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.weights, [3.0, 1.0, 0.0, 0.0]);
}

#[test]
fn dropping_a_loader_midway_ends_its_thread() {
    let samples = in_a_file();
    for taken in 0..3 {
        let mut loader = Loader::new(&samples, 1, (0..6).cycle().take(1000).collect::<Vec<_>>(), None).unwrap();
        for _ in 0..taken {
            loader.next().unwrap().unwrap();
        }
        assert_eq!(loader.remaining(), 1000 - taken);
        drop(loader);
    }
}

#[test]
fn errors_come_through_and_end_the_pass() {
    for samples in [samples(6, &[4]), in_a_file()] {
        let mut loader = Loader::new(&samples, 2, vec![0, 1, 99, 2, 3, 4], None).unwrap();
        assert!(loader.next().unwrap().is_ok());
        assert_error(loader.next().unwrap().unwrap_err(), "there are 6 samples, row 99 was asked for", "from 0");
        assert!(loader.next().is_none());
    }
    assert_error(Loader::new(&in_a_file(), 0, vec![0], None).unwrap_err(), "no sample", "1 or more");
}

fn augmented(samples: &Samples, augment: &Augment, batch: usize, epoch: u64) -> Vec<Vec<f32>> {
    let order = 0..samples.len();
    let width = samples.fields()[0].row_bytes() / 4;
    let loader = Loader::new(samples, batch, order, Some((augment, 7, epoch))).unwrap();
    loader
        .flat_map(|batch| {
            let batch = batch.unwrap();
            floats(&batch.fields[0]).chunks(width).take(batch.count).map(<[f32]>::to_vec).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn augmentation_depends_on_seed_epoch_and_sample_alone() {
    let samples = samples(10, &[1, 4, 4]);
    let augment = Augment {
        flip: Some(Flip::Both),
        shift: Some(Extent::Pixels(1)),
        noise: Some(0.1),
        gain: Some([0.5, 2.0]),
        time_shift: Some(2),
        ..Augment::default()
    };
    let one = augmented(&samples, &augment, 3, 0);
    assert_eq!(one, augmented(&samples, &augment, 7, 0));
    assert_ne!(one, augmented(&samples, &augment, 3, 1));
    let clean = Augment::default();
    assert_eq!(augmented(&samples, &clean, 3, 0)[9], floats(samples.select(&[9]).unwrap().tensor(0).unwrap().bytes()));
}

#[test]
fn mix_blends_inputs_and_targets_by_the_same_share() {
    let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
    let arrays =
        vec![("x".to_owned(), Tensor::from_f32(&[8, 1], &x)), ("target".to_owned(), Tensor::from_f32(&[8, 1], &x))];
    let samples = Samples::from_arrays("memory", arrays, &request(&[1])).unwrap();
    let augment = Augment { mix: Some(1.0), ..Augment::default() };
    let batch = Loader::new(&samples, 8, 0..8, Some((&augment, 1, 0))).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.fields[0], batch.target);
    assert_ne!(floats(&batch.target), x);
    assert!(floats(&batch.target).iter().all(|v| (0.0..=7.0).contains(v)));
}

#[test]
fn impossible_augmentation_is_refused() {
    let check = |augment: Augment, samples: &Samples| augment.check(samples).unwrap_err();
    let flat = samples(4, &[4]);
    assert_error(
        check(Augment { mix: Some(0.2), ..Default::default() }, &flat),
        "augment.mix needs float targets",
        "one-hot",
    );
    assert_error(
        check(Augment { flip: Some(Flip::Horizontal), ..Default::default() }, &flat),
        "input 'x' with rows of shape [4] holds no images",
        "augment.inputs",
    );
    let named = Augment { inputs: Some(vec!["y".to_owned()]), noise: Some(1.0), ..Default::default() };
    assert_error(check(named, &flat), "augment.inputs names 'y', the model's inputs are x", "inputs of the model");
    let range = Augment { gain: Some([2.0, 1.0]), ..Default::default() };
    assert_error(check(range, &flat), "augment.gain", "[low, high]");
    let mut tokens = request(&[4]);
    tokens.inputs = vec![input("x", ElementType::Int64, &[4])];
    let arrays = vec![
        ("x".to_owned(), Tensor::from_i64(&[1, 4], &[1; 4])),
        ("target".to_owned(), Tensor::from_f32(&[1], &[1.0])),
    ];
    let tokens = Samples::from_arrays("memory", arrays, &tokens).unwrap();
    assert_error(check(Augment { mix: Some(0.2), ..Default::default() }, &tokens), "cannot blend input 'x'", "float32");
    let noise = Augment { noise: Some(1.0), ..Default::default() };
    assert!(noise.check(&tokens).is_ok());
}

#[test]
fn the_table_of_a_configuration_is_read() {
    let augment: Augment = toml::from_str(
        "flip = \"horizontal\"\nshift = 0.1\nfill = \"edge\"\nnoise-snr-db = [0, 20]\ngain = [0.5, 2]\ntime-shift = 3",
    )
    .unwrap();
    assert_eq!(augment.shift, Some(Extent::Fraction(0.1)));
    assert_eq!(augment.noise_snr_db, Some([0.0, 20.0]));
    assert_eq!(toml::from_str::<Augment>("shift = 4").unwrap().shift, Some(Extent::Pixels(4)));
    assert!(toml::from_str::<Augment>("flop = 1").is_err());
    assert!(toml::from_str::<Augment>("").unwrap().is_off());
    let written = toml::to_string(&augment).unwrap();
    assert_eq!(toml::from_str::<Augment>(&written).unwrap(), augment);
}

#[test]
fn the_last_batch_is_filled_up_with_the_samples_given() {
    let batches: Vec<_> = Loader::filled(&samples(6, &[4]), 4, vec![5, 0, 1, 2, 3, 4], vec![5, 0, 1], None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(batches[0].rows, [5, 0, 1, 2]);
    assert_eq!((batches[1].rows.as_slice(), batches[1].count), ([3, 4, 5, 0].as_slice(), 2));
    assert_eq!(batches[1].weights[2..], [0.0, 0.0]);
}
