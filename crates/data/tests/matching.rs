//! Arrays are matched to inputs, and what does not match is said before training starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{assert_error, counted, floats, input, request, targets};
use dendrite_data::{Error, Input, Request, Samples};
use dendrite_onnx::{Dim, ElementType, Shape, Tensor};

fn samples(arrays: &[(&str, Tensor)], request: &Request) -> Result<Samples, Error> {
    Samples::from_arrays("memory", arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect(), request)
}

fn labels(values: &[i64]) -> (&'static str, Tensor) {
    ("target", Tensor::int64s(values))
}

#[test]
fn what_is_missing_is_named_with_what_is_there() {
    let arrays = [("features", counted(&[2, 4])), labels(&[0, 1])];
    let mut wanted = request(&[4]);
    wanted.inputs[0].name = "feature".to_owned();
    let e = samples(&arrays, &wanted).unwrap_err();
    assert_error(
        e,
        "memory: no array 'feature' for the model's input 'feature'; it holds features, target",
        "--map feature=features",
    );
    wanted.map = vec![("feature".to_owned(), "features".to_owned())];
    assert_eq!(samples(&arrays, &wanted).unwrap().fields()[0].name, "feature");
    wanted.target = Some("labels".to_owned());
    assert_error(samples(&arrays, &wanted).unwrap_err(), "no array 'labels' for the target", "--target ARRAY");
    wanted.map = vec![("y".to_owned(), "features".to_owned())];
    assert_error(
        samples(&arrays, &wanted).unwrap_err(),
        "--map names 'y', the model's inputs are feature",
        "one of them",
    );
}

#[test]
fn shapes_and_rows_must_fit() {
    let x = counted(&[2, 4]);
    let e = samples(&[("x", x.clone()), labels(&[0, 1])], &request(&[3])).unwrap_err();
    assert_error(e, "array 'x' has shape [2, 4], the model's input 'x' takes [N, 3]", "reshape");
    let e = samples(&[("x", x.clone()), labels(&[0, 1])], &request(&[2, 2])).unwrap_err();
    assert_error(e, "array 'x' has shape [2, 4], the model's input 'x' takes [N, 2, 2]", "reshape");
    let e = samples(&[("x", x.clone()), labels(&[0, 1, 2])], &request(&[4])).unwrap_err();
    assert_error(e, "array 'x' has 2 rows, the others have 3", "one row a sample");
    let e = samples(&[("x", counted(&[0, 4])), labels(&[])], &request(&[4])).unwrap_err();
    assert_error(e, "it holds no sample", "at least one row");
    let column = samples(&[("x", counted(&[3])), labels(&[0, 1, 2])], &request(&[1])).unwrap();
    assert_eq!(column.fields()[0].row_shape, [1]);
}

#[test]
fn numbers_must_be_finite_and_in_range() {
    let x = Tensor::from_f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, f32::NAN, 5.0]);
    let e = samples(&[("x", x), labels(&[0, 1, 2])], &request(&[2])).unwrap_err();
    assert_error(e, "memory: array 'x' holds NaN, infinity", "remove or repair the row");
    let x = Tensor::from_f64(&[2, 1], &[0.0, 1e300]);
    let e = samples(&[("x", x), labels(&[0, 1])], &request(&[1])).unwrap_err();
    assert_error(e, "too large for float32 in row 1", "repair");
    let target = Tensor::from_f32(&[2], &[0.0, f32::INFINITY]);
    let e = samples(&[("x", counted(&[2, 1])), ("target", target)], &request(&[1])).unwrap_err();
    assert_error(e, "array 'target' holds NaN, infinity or a number too large for float32 in row 1", "repair");
    let mut tokens = request(&[1]);
    tokens.inputs = vec![input("x", ElementType::Int32, &[1])];
    let x = Tensor::from_i64(&[2, 1], &[5, 1 << 40]);
    let e = samples(&[("x", x), labels(&[0, 1])], &tokens).unwrap_err();
    assert_error(e, "array 'x' holds a number in row 1 that int32 cannot hold", "range of int32");
    let e = samples(&[("x", counted(&[2, 1])), labels(&[0, 1])], &tokens).unwrap_err();
    assert_error(e, "array 'x' is float32, the model's input 'x' takes int32", "input's type");
}

#[test]
fn an_array_of_exactly_the_declared_shape_feeds_every_batch() {
    let mut wanted = request(&[4]);
    wanted.inputs.push(Input::new("c", ElementType::Float, Some(Shape::known(&[2, 3]))));
    let arrays = [("x", counted(&[5, 4])), ("c", counted(&[2, 3])), labels(&[0, 1, 2, 3, 4])];
    let found = samples(&arrays, &wanted).unwrap();
    assert!(!found.fields()[1].per_sample);
    assert_eq!(found.constant(1), Some(&counted(&[2, 3])));
    assert_eq!(found.constant(0), None);
    assert_eq!(found.fields()[1].batch_shape(7), [2, 3]);
    // Without a target, the arrays that certainly hold one row a sample count.
    let wanted = Request { target: None, ..wanted };
    assert_eq!(samples(&arrays[..2], &wanted).unwrap().len(), 5);
    // Where it has as many rows as there are samples, it is one row a sample.
    let arrays = [("x", counted(&[2, 4])), ("c", counted(&[2, 3]))];
    assert!(samples(&arrays, &wanted).unwrap().fields()[1].per_sample);
    let mut wanted = wanted;
    wanted.inputs[1].per_batch = true;
    assert!(!samples(&arrays, &wanted).unwrap().fields()[1].per_sample);
    wanted.inputs[1].shape = Some(Shape(vec![Dim::Known(9), Dim::Unknown]));
    assert_error(samples(&arrays, &wanted).unwrap_err(), "the model's input 'c' takes [9, ?]", "whole shape");
}

#[test]
fn a_model_of_fixed_batch_takes_any_number_of_rows() {
    let mut wanted = request(&[4]);
    wanted.inputs[0].shape = Some(Shape::known(&[1, 4]));
    let found = samples(&[("x", counted(&[5, 4])), labels(&[0; 5])], &wanted).unwrap();
    assert_eq!((found.len(), found.fields()[0].per_sample), (5, true));
}

#[test]
fn targets_are_int64_or_float32() {
    let x = ("x", counted(&[2, 1]));
    let small = Tensor::new(ElementType::Uint8, vec![2], vec![3u8, 4]).unwrap();
    let found = samples(&[x.clone(), ("target", small)], &request(&[1])).unwrap();
    assert_eq!(found.target().unwrap().element_type, ElementType::Int64);
    assert_eq!(targets(&found), [3, 4]);
    let double = Tensor::from_f64(&[2, 3], &[0.5; 6]);
    let found = samples(&[x, ("target", double)], &request(&[1])).unwrap();
    let field = found.target().unwrap();
    assert_eq!((field.element_type, field.row_shape.as_slice()), (ElementType::Float, [3].as_slice()));
    let mut out = [0; 12];
    found.read_target(&[1], &mut out).unwrap();
    assert_eq!(out[..4], 0.5f32.to_le_bytes());
}

#[test]
fn weights_are_one_number_of_0_or_more_a_sample() {
    let mut wanted = request(&[1]);
    wanted.weight = Some("w".to_owned());
    let with = |w: Tensor| samples(&[("x", counted(&[3, 1])), labels(&[0, 1, 2]), ("w", w)], &wanted);
    let found = with(Tensor::from_f64(&[3, 1], &[1.0, 0.0, 2.5])).unwrap();
    assert_eq!(found.weights().unwrap().unwrap(), [1.0, 0.0, 2.5]);
    let mut out = Vec::new();
    found.read_weights(&[2, 0], &mut out).unwrap();
    assert_eq!(out, [2.5, 1.0]);
    assert_eq!(with(Tensor::int64s(&[1, 2, 3])).unwrap().weights().unwrap().unwrap(), [1.0, 2.0, 3.0]);
    let e = with(Tensor::from_f32(&[3], &[1.0, 1.0, -0.5])).unwrap_err();
    assert_error(e, "array 'w' holds a negative weight in row 2", "0 or more");
    assert_error(with(Tensor::from_f32(&[3], &[0.0; 3])).unwrap_err(), "weighs every sample 0", "above 0");
    assert_error(with(counted(&[3, 2])).unwrap_err(), "one number a sample", "one weight");
    assert_error(with(counted(&[2])).unwrap_err(), "array 'w' has 2 rows, the others have 3", "one row");
}

#[test]
fn samples_select_and_take_other_targets() {
    let all = samples(&[("x", counted(&[4, 2])), labels(&[0, 1, 2, 3])], &request(&[2])).unwrap();
    let some = all.select(&[3, 1]).unwrap();
    assert_eq!((floats(&some, 0), targets(&some)), (vec![6.0, 7.0, 2.0, 3.0], vec![3, 1]));
    let twice = some.select(&[1, 1, 0]).unwrap();
    assert_eq!(targets(&twice), [1, 1, 3]);
    let other = some.with_target(Tensor::from_f32(&[2, 1], &[0.5, 0.25])).unwrap();
    assert_eq!(other.target_tensor().unwrap().to_f32().unwrap(), [0.5, 0.25]);
    let again = other.select(&[1]).unwrap();
    assert_eq!((floats(&again, 0), again.target_tensor().unwrap().to_f32().unwrap()), (vec![2.0, 3.0], vec![0.25]));
    let weighted = some.with_weights(&[2.0, 0.5]).unwrap().select(&[1]).unwrap();
    assert_eq!(weighted.weights().unwrap().unwrap(), [0.5]);
    assert_error(some.with_weights(&[1.0]).unwrap_err(), "1 weights for 2 samples", "one weight");
    assert_error(some.with_weights(&[1.0, -1.0]).unwrap_err(), "the weight of sample 1 is -1", "0 or more");
    assert_error(all.select(&[4]).unwrap_err(), "there are 4 samples, row 4", "from 0");
    assert_error(some.read(0, &[2], &mut [0; 8]).unwrap_err(), "there are 2 samples, row 2", "from 0");
    assert_error(some.read(0, &[1], &mut [0; 7]).unwrap_err(), "do not take 7 bytes", "buffer");
    assert_error(all.with_target(counted(&[3])).unwrap_err(), "there are 4 samples", "one row");
}

#[test]
fn targets_conform_to_the_prediction() {
    let with = |target: Tensor| samples(&[("x", counted(&[2, 2])), ("target", target)], &request(&[2])).unwrap();
    let column = Shape(vec![Dim::Unknown, Dim::Known(1)]);
    let binary = with(Tensor::int64s(&[0, 1])).conformed(&column).unwrap();
    assert_eq!(binary.target_tensor().unwrap(), Tensor::from_f32(&[2, 1], &[0.0, 1.0]));
    let flat = with(Tensor::from_f32(&[2, 1], &[0.0, 1.0])).conformed(&Shape(vec![Dim::Unknown])).unwrap();
    assert_eq!(flat.target_tensor().unwrap(), Tensor::from_f32(&[2], &[0.0, 1.0]));
    let classes = Shape(vec![Dim::Unknown, Dim::Known(3)]);
    let labels = with(Tensor::from_i64(&[2, 1], &[2, 1])).conformed(&classes).unwrap();
    assert_eq!(labels.target_tensor().unwrap(), Tensor::int64s(&[2, 1]));
    let soft = with(counted(&[2, 3])).conformed(&classes).unwrap();
    assert_eq!(soft.target_tensor().unwrap(), counted(&[2, 3]));
}

#[test]
fn targets_in_blocks_are_the_whole_target() {
    let rows = 300_000;
    let labels: Vec<i64> = (0..rows as i64).map(|i| i % 7).collect();
    let arrays = [("x", counted(&[rows, 1])), ("target", Tensor::int64s(&labels))];
    let all = samples(&arrays, &request(&[1])).unwrap();
    let single = all.conformed(&Shape(vec![Dim::Unknown, Dim::Known(1)])).unwrap();
    for samples in [all.clone(), single, all.select(&[5, 3, 3]).unwrap()] {
        let (mut joined, mut blocks) = (Vec::new(), 0);
        for block in samples.target_blocks() {
            let block = block.unwrap();
            assert!(block.bytes().len() <= 1 << 20 && block.shape()[1..] == samples.target().unwrap().row_shape);
            joined.extend(block.bytes().to_vec());
            blocks += 1;
        }
        assert_eq!(joined, samples.target_tensor().unwrap().bytes().to_vec());
        assert_eq!(blocks > 1, samples.len() == rows);
    }
}
