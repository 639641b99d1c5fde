//! Test data as ONNX's backend tests lay it out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{fs, path::Path};

use common::{assert_error, counted, floats, input, request};
use dendrite_data::open;
use dendrite_onnx::{ElementType, Tensor};
use prost::Message;

fn write(folder: &Path, set: &str, file: &str, name: &str, tensor: &Tensor) {
    let set = folder.join(set);
    fs::create_dir_all(&set).unwrap();
    fs::write(set.join(file), tensor.to_proto(name).encode_to_vec()).unwrap();
}

#[test]
fn the_rows_of_all_sets_follow_each_other_in_the_order_of_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for (set, rows, value) in [("test_data_set_10", 1, 3.0), ("test_data_set_2", 2, 2.0), ("test_data_set_0", 1, 1.0)] {
        write(folder.path(), set, "input_0.pb", "x", &Tensor::filled(ElementType::Float, &[rows, 2], value));
        write(folder.path(), set, "output_0.pb", "y", &Tensor::filled(ElementType::Float, &[rows, 1], -value));
    }
    let samples = open(folder.path(), &request(&[2])).unwrap();
    assert_eq!((samples.kind(), samples.len()), ("test data", 4));
    assert_eq!(floats(&samples, 0), [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0]);
    assert_eq!(samples.target_tensor().unwrap().to_f32().unwrap(), [-1.0, -2.0, -2.0, -3.0]);
    let mut named = request(&[2]);
    named.target = Some("y".to_owned());
    assert_eq!(open(folder.path(), &named).unwrap().target().unwrap().row_shape, [1]);
    let single = open(folder.path().join("test_data_set_2"), &request(&[2])).unwrap();
    assert_eq!(single.len(), 2);
}

#[test]
fn inputs_without_names_go_by_their_order() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test_data_set_0", "input_0.pb", "", &counted(&[2, 2]));
    write(folder.path(), "test_data_set_0", "input_1.pb", "", &counted(&[2, 3]));
    write(folder.path(), "test_data_set_0", "output_0.pb", "", &Tensor::int64s(&[1, 0]));
    let mut wanted = request(&[2]);
    wanted.inputs.push(input("second", ElementType::Float, &[3]));
    let samples = open(folder.path(), &wanted).unwrap();
    assert_eq!((samples.fields()[0].row_bytes(), samples.fields()[1].row_bytes()), (8, 12));
}

#[test]
fn numbers_without_axes_feed_every_batch() {
    let folder = tempfile::tempdir().unwrap();
    for set in ["test_data_set_0", "test_data_set_1"] {
        write(folder.path(), set, "input_0.pb", "x", &counted(&[2, 2]));
        write(folder.path(), set, "input_1.pb", "rate", &Tensor::scalar(ElementType::Float, 0.5));
        write(folder.path(), set, "output_0.pb", "y", &counted(&[2, 1]));
    }
    let mut wanted = request(&[2]);
    wanted.inputs.push(dendrite_data::Input::new("rate", ElementType::Float, Some(Default::default())));
    let samples = open(folder.path(), &wanted).unwrap();
    assert_eq!((samples.len(), samples.constant(1)), (4, Some(&Tensor::scalar(ElementType::Float, 0.5))));
    write(folder.path(), "test_data_set_1", "input_1.pb", "rate", &Tensor::scalar(ElementType::Float, 0.25));
    assert_error(open(folder.path(), &wanted).unwrap_err(), "input_1.pb: it holds float32[]", "without axes");
}

#[test]
fn sets_that_differ_or_cannot_be_read_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "test_data_set_0", "input_0.pb", "x", &counted(&[1, 2]));
    write(folder.path(), "test_data_set_1", "input_0.pb", "x", &counted(&[1, 3]));
    let e = open(folder.path(), &request(&[2])).unwrap_err();
    assert_error(e, "test_data_set_1/input_0.pb: it holds float32[1, 3], the first set's holds float32[1, 2]", "alike");
    write(folder.path(), "test_data_set_1", "input_0.pb", "x", &counted(&[1, 2]));
    write(folder.path(), "test_data_set_0", "output_0.pb", "y", &counted(&[1]));
    let e = open(folder.path(), &request(&[2])).unwrap_err();
    assert_error(e, "test_data_set_1: output_0.pb is missing", "backend tests");
    fs::write(folder.path().join("test_data_set_1/output_0.pb"), b"\xff\xff").unwrap();
    assert_error(open(folder.path(), &request(&[2])).unwrap_err(), "output_0.pb: no tensor", "numpy_helper");
}
