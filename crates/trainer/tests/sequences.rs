//! A model that reads sequences learns by the connectionist temporal classification, whose targets say what stands there and not
//! where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor};
use dendrite_trainer::{
    DataSet, Network, Options, Outcome,
    objective::Objective,
    options::{LossKind, MetricKind},
    summary::Side,
};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STEPS: usize = 10;
const FEATURES: usize = 4;
const CLASSES: usize = 4;
const LENGTH: usize = 4;

/// Two layers over each step, outputs `[steps, n, classes]` as recurrent readers have them, or samples first; as scores or as
/// probabilities behind an operator that hides the softmax.
fn model(time_first: bool, probabilities: bool) -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut graph = Graph::new("reader", 17);
    let known = |n: usize| Dim::Known(n);
    let batch = || Dim::Symbol("n".to_owned());
    let x = graph.add_input("x", ElementType::Float, Shape(vec![batch(), known(STEPS), known(FEATURES)]));
    let mut weight = |graph: &mut Graph, name: &str, shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| rng.random::<f32>() - 0.5).collect();
        graph.add_constant(name, Tensor::from_f32(&shape, &values))
    };
    let w1 = weight(&mut graph, "w1", [FEATURES, 6]);
    let w2 = weight(&mut graph, "w2", [6, CLASSES]);
    let hidden = graph.op("MatMul", "hidden", &[x, w1], Attributes::new());
    let hidden = graph.op("Relu", "relu", &[hidden], Attributes::new());
    let mut y = graph.op("MatMul", "scores", &[hidden, w2], Attributes::new());
    if time_first {
        y = graph.op("Transpose", "turned", &[y], Attributes::new().with("perm", &[1i64, 0, 2][..]));
    }
    if probabilities {
        y = graph.op("Softmax", "softmax", &[y], Attributes::new().with("axis", 2i64));
        let one = graph.add_constant("one", Tensor::from_f32(&[1], &[1.0]));
        y = graph.op("Mul", "y", &[y, one], Attributes::new());
    }
    let dims =
        if time_first { [known(STEPS), batch(), known(CLASSES)] } else { [batch(), known(STEPS), known(CLASSES)] };
    graph.set_type(y, Some(ElementType::Float), Some(Shape(dims.to_vec())));
    graph.outputs = vec![y];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

/// Up to four classes, each of which lasts one or two steps, nothing between or around them now and then; a step is a noisy pattern
/// of its class.
fn data(rows: usize, seed: u64) -> DataSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut x, mut target) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let (mut steps, mut label): (Vec<usize>, Vec<i64>) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(1..=LENGTH) {
            let class = rng.random_range(1..CLASSES);
            if label.last() == Some(&(class as i64)) || rng.random::<f32>() < 0.2 {
                steps.push(0);
            }
            steps.extend(vec![class; rng.random_range(1..=2)]);
            label.push(class as i64);
            if steps.len() > STEPS - 3 {
                break;
            }
        }
        steps.resize(STEPS, 0);
        label.resize(LENGTH, -1);
        for class in steps {
            let noise = [0; FEATURES].map(|_| 0.3 * (rng.random::<f32>() - 0.5));
            x.extend((0..FEATURES).map(|f| noise[f] + f32::from(u8::from(f == class || f == (class * 2) % FEATURES))));
        }
        target.extend(label);
    }
    let arrays =
        [("x", Tensor::from_f32(&[rows, STEPS, FEATURES], &x)), ("target", Tensor::from_i64(&[rows, LENGTH], &target))];
    DataSet::from_arrays("rows", arrays.into_iter().map(|(n, t)| (n.to_owned(), t)).collect()).unwrap()
}

fn options() -> Options {
    Options { loss: LossKind::Ctc, epochs: 25, dendrites: 1, lr: Some(0.01), threads: Some(1), ..Options::default() }
}

fn run(model: &Model, options: &Options) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    common::grown(model, [&data(400, 2), &data(200, 3)], None, options, &folder.path().join("run"))
}

#[test]
fn sequences_are_learned_without_being_told_where_they_stand() {
    let outcome = run(&model(true, false), &options());
    let accuracy = |side: &Side| side.val.0["accuracy"];
    let (before, after) = (accuracy(&outcome.summary.before), accuracy(&outcome.summary.after));
    assert!(before < 0.3 && after > 0.9, "{before} {after}");
    assert!(outcome.summary.parity.ort < 1e-5);
    let same = run(&model(false, false), &options());
    assert!((accuracy(&same.summary.after) - after).abs() < 0.05);
}

/// Read as logits, probabilities would hardly tell one class from another.
#[test]
fn probabilities_train_as_what_they_are_and_errors_are_counted() {
    let options = Options { metric: MetricKind::Cer, ..options() };
    let summary = run(&model(false, true), &options).summary;
    let (before, after) = (summary.before.val.0["cer"], summary.after.val.0["cer"]);
    assert!(before > 0.5 && after < 0.1, "{before} {after}");
}

#[test]
fn rows_that_are_no_sequences_are_named() {
    let model = model(false, false);
    let network = Network::prepare(&model, None).unwrap();
    let refused = |row: [i64; LENGTH], options: &Options| {
        let labels = [[1, 2, -1, -1], row].concat();
        let x = Tensor::from_f32(&[2, STEPS, FEATURES], &[0.0; 2 * STEPS * FEATURES]);
        let arrays = vec![("x".to_owned(), x), ("target".to_owned(), Tensor::from_i64(&[2, LENGTH], &labels))];
        let samples = network.samples(&DataSet::from_arrays("rows", arrays).unwrap(), options).unwrap();
        Objective::choose(&network, &samples, options).map_or_else(|e| e.to_string(), |_| String::new())
    };
    assert_eq!(refused([3, 3, 1, 1], &options()), "");
    assert!(refused([1, -1, 2, -1], &options()).contains("row 1 has 2 behind the padding -1"));
    assert!(refused([1, 0, 2, -1], &options()).contains("row 1 has the class 0, which is the blank"));
    assert!(refused([1, 4, 2, -1], &options()).contains("row 1 has 4, the model has classes 0 to 3"));
    let last = Options { blank: -1, ..options() };
    assert_eq!(refused([0, 1, 2, -1], &last), "");
    assert!(refused([0, 3, 2, -1], &last).contains("row 1 has the class 3, which is the blank"));
    assert!(refused([1, 2, -1, -1], &Options { blank: 4, ..options() }).contains("--blank 4: the model has 4 classes"));
}
