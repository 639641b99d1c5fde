//! What the tests share.
#![allow(dead_code)] // each test file is a crate of its own and uses a part

use std::path::PathBuf;

use dendrite_data::{Error, Input, Request, Samples};
use dendrite_onnx::{Dim, ElementType, Shape, Tensor};

/// A file under `fixtures/data`, which `scripts/data_fixtures.py` writes.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data").join(name)
}

/// An input whose first axis is symbolic.
pub(crate) fn input(name: &str, element_type: ElementType, row: &[usize]) -> Input {
    let dims = [Dim::Symbol("N".to_owned())].into_iter().chain(row.iter().map(|d| Dim::Known(*d)));
    Input::new(name, element_type, Some(Shape(dims.collect())))
}

/// A float32 input `x` with rows of this shape, and the target `target`.
pub(crate) fn request(row: &[usize]) -> Request {
    Request {
        inputs: vec![input("x", ElementType::Float, row)],
        target: Some("target".to_owned()),
        ..Request::default()
    }
}

/// [`request`] for another array and no target.
pub(crate) fn only(array: &str, element_type: ElementType, row: &[usize]) -> Request {
    Request {
        inputs: vec![input("x", element_type, row)],
        map: vec![("x".to_owned(), array.to_owned())],
        ..Request::default()
    }
}

pub(crate) fn floats(samples: &Samples, field: usize) -> Vec<f32> {
    samples.tensor(field).unwrap().to_f32().unwrap()
}

pub(crate) fn targets(samples: &Samples) -> Vec<i64> {
    samples.target_tensor().unwrap().to_i64().unwrap()
}

/// 0, 1, 2, ... as float32.
pub(crate) fn counted(shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
    Tensor::from_f32(shape, &values)
}

/// The error's text and its hint must hold these.
pub(crate) fn assert_error(error: Error, text: &str, hint: &str) {
    let (found, remedy) = (error.to_string(), error.hint().unwrap_or_default().to_owned());
    assert!(found.contains(text), "'{found}' lacks '{text}'");
    assert!(remedy.contains(hint), "hint '{remedy}' lacks '{hint}'");
}
