//! Damaged files of every kind are errors or read as something, and never crash the reader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{fs, path::Path};

use common::fixture;
use dendrite_data::{DataSet, Input, Limits, Preprocess, Request};
use dendrite_onnx::ElementType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Open `path` and read every column of it as it is and as an input.
fn exercise(path: &Path) -> bool {
    let preprocess = Preprocess { scale: Some(1.0), ..Preprocess::default() };
    let limits = Limits { arrays: 1 << 16, images: 1 << 16 };
    let Ok(set) = DataSet::open_with(path, &preprocess, limits) else { return false };
    let names: Vec<String> = set.names().map(str::to_owned).collect();
    let mut all = true;
    for name in names {
        let request = Request {
            inputs: vec![Input::new("x", ElementType::Float, None)],
            map: vec![("x".to_owned(), name.clone())],
            target: Some(name),
            ..Request::default()
        };
        all &= set.samples(&request).is_ok_and(|samples| samples.tensor(0).is_ok());
    }
    all
}

fn mutations(name: &str, rounds: u64) {
    let original = fs::read(fixture(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Path::new(name).file_name().unwrap());
    let mut refused = 0;
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(round);
        let mut bytes = original.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = rng.random(),
                2 => bytes[at] ^= 1 << rng.random_range(0..8),
                _ => {
                    let end = (at + rng.random_range(1..9)).min(bytes.len());
                    bytes[at..end].fill(0xff);
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
        refused += u64::from(!exercise(&path));
    }
    assert!(refused > 0, "no mutation of {name} was noticed");
}

#[test]
fn zip_archives() {
    mutations("stored.npz", 300);
    mutations("deflated.npz", 300);
}

#[test]
fn folders_of_npy() {
    let original = fs::read(fixture("folder/x.npy")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for at in 0..128 {
        for value in [0, 0xff, b'9', b'(', b'\''] {
            let mut bytes = original.clone();
            bytes[at] = value;
            fs::write(folder.path().join("x.npy"), &bytes).unwrap();
            exercise(folder.path());
        }
    }
}

#[test]
fn safetensors() {
    mutations("half.safetensors", 500);
}

#[test]
fn parquet() {
    mutations("snappy.parquet", 500);
    mutations("none.parquet", 500);
    mutations("plain.parquet", 500);
}

#[test]
fn tables_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..500 {
        let text: String =
            (0..rng.random_range(1..60)).map(|_| b"a1,;\t\"\n\r. -e"[rng.random_range(0..12)] as char).collect();
        fs::write(&path, text).unwrap();
        exercise(&path);
    }
}

#[test]
fn test_data() {
    use prost::Message;
    let tensor = dendrite_onnx::Tensor::from_f32(&[2, 3], &[1.0; 6]).to_proto("x").encode_to_vec();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(round);
        let mut bytes = tensor.clone();
        let at = rng.random_range(0..bytes.len());
        bytes[at] = rng.random();
        fs::write(folder.path().join("input_0.pb"), &bytes).unwrap();
        exercise(folder.path());
    }
}

#[test]
fn pictures() {
    for name in ["images/ant/0.png", "images/ant/1.jpg", "images/bee/1.gif", "images/bee/2.bmp", "images/bee/3.webp"] {
        let original = fs::read(fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("class").join(Path::new(name).file_name().unwrap());
        fs::create_dir(path.parent().unwrap()).unwrap();
        for round in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(round);
            let mut bytes = original.clone();
            let at = rng.random_range(0..bytes.len().min(200));
            bytes[at] = rng.random();
            if round % 4 == 0 {
                bytes.truncate(rng.random_range(1..bytes.len()));
            }
            fs::write(&path, &bytes).unwrap();
            let request =
                Request { inputs: vec![common::input("x", ElementType::Float, &[3, 8, 8])], ..Request::default() };
            let set = DataSet::open(folder.path(), &request.preprocess);
            let _ = set.and_then(|set| set.samples(&request)?.tensor(0));
        }
    }
}
