//! Several outputs that train together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path, sync::atomic::AtomicBool};

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor};
use dendrite_runtime::{Session, SessionOptions};
use dendrite_trainer::{
    DataSet, Event, Growth, Network, Options, Preprocess, Run,
    evaluate::Evaluator,
    grow,
    objective::Objective,
    options::{Also, Control, LossKind, MetricKind},
};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Two numbers to a hidden layer, from there one head for a number and one, behind a softmax, for three classes.
fn two_heads() -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut graph = Graph::new("two heads", 17);
    let batch = || Dim::Symbol("n".to_owned());
    let x = graph.add_input("x", ElementType::Float, Shape(vec![batch(), Dim::Known(2)]));
    let mut dense = |graph: &mut Graph, name: &str, from, inputs: usize, outputs: usize| {
        let values: Vec<f32> = (0..inputs * outputs).map(|_| rng.random::<f32>() - 0.5).collect();
        let w = graph.add_constant(&format!("{name}.weight"), Tensor::from_f32(&[inputs, outputs], &values));
        let b = graph.add_constant(&format!("{name}.bias"), Tensor::from_f32(&[outputs], &vec![0.1; outputs]));
        graph.op("Gemm", name, &[from, w, b], Attributes::new())
    };
    let hidden = dense(&mut graph, "hidden", x, 2, 8);
    let hidden = graph.op("Relu", "relu", &[hidden], Attributes::new());
    let size = dense(&mut graph, "size", hidden, 8, 1);
    let logits = dense(&mut graph, "logits", hidden, 8, 3);
    let kind = graph.op("Softmax", "kind", &[logits], Attributes::new());
    for (value, width) in [(size, 1), (kind, 3)] {
        graph.set_type(value, Some(ElementType::Float), Some(Shape(vec![batch(), Dim::Known(width)])));
    }
    graph.outputs = vec![size, kind];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

fn row(rng: &mut ChaCha8Rng) -> ([f32; 2], f32, i64) {
    let [a, b] = [0, 1].map(|_| 2.0 * rng.random::<f32>() - 1.0);
    (
        [a, b],
        a * b,
        if a > b {
            0
        } else if a > -b {
            1
        } else {
            2
        },
    )
}

fn data(rows: usize, seed: u64) -> DataSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows: Vec<_> = (0..rows).map(|_| row(&mut rng)).collect();
    let arrays = vec![
        ("x", Tensor::from_f32(&[rows.len(), 2], &rows.iter().flat_map(|r| r.0).collect::<Vec<_>>())),
        ("target", Tensor::from_f32(&[rows.len()], &rows.iter().map(|r| r.1).collect::<Vec<_>>())),
        ("kinds", Tensor::from_i64(&[rows.len()], &rows.iter().map(|r| r.2).collect::<Vec<_>>())),
    ];
    DataSet::from_arrays("rows", arrays.into_iter().map(|(n, t)| (n.to_owned(), t)).collect()).unwrap()
}

fn kinds(weight: f64) -> Also {
    Also { output: "kind".to_owned(), target: "kinds".to_owned(), loss: LossKind::Auto, weight }
}

fn session() -> SessionOptions {
    SessionOptions { threads: 1, ..Default::default() }
}

fn loss(model: &Model, options: &Options, data: &DataSet) -> f64 {
    let network = Network::of(model, options, data).unwrap();
    let samples = network.samples(data, options).unwrap();
    let objective = Objective::choose(&network, &samples, options).unwrap();
    let mut evaluator =
        Evaluator::new(&network, &Growth::default(), &[], &objective, &samples, 32, &session()).unwrap();
    evaluator.score(&samples).unwrap().loss
}

fn single(output: &str, target: &str) -> Options {
    Options { output: Some(output.to_owned()), target: target.to_owned(), ..Options::default() }
}

#[test]
fn the_loss_is_the_weighted_sum_of_the_outputs_losses() {
    let (model, data) = (two_heads(), data(100, 2));
    let together = Options { also: vec![kinds(0.25)], ..Options::default() };
    let expected =
        loss(&model, &single("size", "target"), &data) + 0.25 * loss(&model, &single("kind", "kinds"), &data);
    let found = loss(&model, &together, &data);
    assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
}

fn grown(options: &Options, train: &DataSet, val: &DataSet, folder: &Path) -> Model {
    let model = two_heads();
    let run = &mut Run {
        model: &model,
        train,
        val,
        test: None,
        options,
        plan: None,
        session: session(),
        folder,
        resume: false,
        interrupt: &AtomicBool::new(false),
        observer: &mut |_| {},
        second_runtime: None,
    };
    let outcome = grow(run).unwrap();
    assert!(outcome.improved && outcome.summary.parity.ort < 1e-5);
    Model::open(folder.join("model.onnx")).unwrap()
}

#[test]
fn both_outputs_learn_where_one_alone_forgets_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (train, val) = (data(512, 3), data(256, 4));
    let alone = Options { epochs: 30, dendrites: 1, lr: Some(0.01), threads: Some(1), ..Options::default() };
    let together = Options { also: vec![kinds(1.0)], ..alone.clone() };
    let losses = |model: &Model| {
        [("size", "target"), ("kind", "kinds")].map(|(output, target)| loss(model, &single(output, target), &val))
    };
    let before = losses(&two_heads());
    let both = losses(&grown(&together, &train, &val, &folder.path().join("both")));
    let one = losses(&grown(&alone, &train, &val, &folder.path().join("one")));
    assert!(both[0] < 0.3 * before[0] && both[1] < 0.5 * before[1], "{before:?} {both:?}");
    assert!(one[0] < 0.3 * before[0] && one[1] > both[1] + 0.3, "{before:?} {one:?} {both:?}");
}

#[test]
fn the_exported_file_has_all_outputs_and_none_of_the_targets() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        also: vec![kinds(1.0)],
        epochs: 2,
        dendrites: 1,
        train: "head".to_owned(),
        threads: Some(1),
        ..Options::default()
    };
    let path = folder.path().join("run");
    grown(&options, &data(256, 5), &data(128, 6), &path);
    let session = Session::from_file(&path.join("model.onnx"), &session()).unwrap();
    let names = |ports: &[dendrite_runtime::Port]| ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(session.inputs()), ["x"]);
    assert_eq!(names(session.outputs()), ["size", "kind"]);
}

#[test]
fn a_frozen_output_counts_in_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (model, train, val) = (two_heads(), data(256, 9), data(128, 10));
    // The first output is that of the last site, so nothing of the other one's branch trains.
    let sizes = Also { output: "size".to_owned(), target: "target".to_owned(), ..kinds(1.0) };
    let options = Options {
        output: Some("kind".to_owned()),
        target: "kinds".to_owned(),
        also: vec![sizes],
        train: "head".to_owned(),
        dendrites: 0,
        epochs: 1,
        threads: Some(1),
        controls: vec![Control::Wider],
        ..Options::default()
    };
    let mut told = Vec::new();
    let mut observer = |event: &Event| told.push(matches!(event, Event::FrozenPart { .. }));
    let run = &mut Run {
        model: &model,
        train: &train,
        val: &val,
        test: None,
        options: &options,
        plan: None,
        session: session(),
        folder: &folder.path().join("run"),
        resume: false,
        interrupt: &AtomicBool::new(false),
        observer: &mut observer,
        second_runtime: None,
    };
    let mut outcome = grow(run).unwrap();
    dendrite_trainer::controls(run, &mut outcome).unwrap();
    assert!(outcome.summary.control_notes["wider"].starts_with("not run: "));
    assert!(told.contains(&true), "the hidden layer is computed once");
    let expected = loss(&model, &options, &val);
    let found = outcome.summary.before.val.0["loss"];
    assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
    assert_eq!(outcome.summary.before.parameters, 24 + 9 + 27);
}

#[test]
fn columns_of_a_table_that_are_targets_are_no_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let rows = (0..64).map(|_| row(&mut rng)).map(|([a, b], size, kind)| format!("{a},{size},{b},{kind}\n"));
    fs::write(&path, format!("a,target,b,kinds\n{}", rows.collect::<String>())).unwrap();
    let table = DataSet::open(&path, &Preprocess::default()).unwrap();
    let options = Options { also: vec![kinds(1.0)], ..Options::default() };
    assert!(loss(&two_heads(), &options, &table) > 0.0);
}

#[test]
fn a_mistake_is_told_before_training() {
    let (model, mut options) = (two_heads(), Options::default());
    let mut told = |also: Also| {
        options.also = vec![also];
        Network::of(&model, &options, &data(50, 8)).unwrap_err().to_string()
    };
    assert!(told(Also { output: "other".to_owned(), ..kinds(1.0) }).contains("no output 'other'"));
    assert!(told(Also { output: "size".to_owned(), ..kinds(1.0) }).contains("is the first output"));
    assert!(told(Also { target: "sorts".to_owned(), ..kinds(1.0) }).contains("'sorts'"));
    assert!(told(Also { loss: LossKind::Mse, ..kinds(1.0) }).contains("integers"));
    let twice = Options { also: vec![kinds(1.0), kinds(0.5)], ..Options::default() };
    let refused = Network::of(&model, &twice, &data(50, 8)).unwrap_err().to_string();
    assert!(refused.contains("'kind', twice"), "{refused}");
    let wrong = DataSet::from_arrays(
        "rows",
        vec![
            ("x".to_owned(), Tensor::from_f32(&[2, 2], &[0.0; 4])),
            ("target".to_owned(), Tensor::from_f32(&[2], &[0.0; 2])),
            ("kinds".to_owned(), Tensor::from_i64(&[2], &[0, 3])),
        ],
    )
    .unwrap();
    let options = Options { also: vec![kinds(1.0)], metric: MetricKind::Loss, ..Options::default() };
    assert!(Network::of(&model, &options, &wrong).unwrap_err().to_string().contains("row 1"));
}
