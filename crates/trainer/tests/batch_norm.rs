//! Batch normalisation that trains by the statistics of the batch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use dendrite_data::{DataSet, Loader};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{
    Event, Growth, Method, Network, Options, Outcome, Run, grow,
    neuron::trained_names,
    objective::{Context, Objective},
    options::{BatchNorm, OptimizerKind},
    step::Trainer,
};
use dendrites::Connection;
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

static NEVER: AtomicBool = AtomicBool::new(false);

fn session() -> SessionOptions {
    SessionOptions { threads: 1, ..Default::default() }
}

fn tensor(model: &Model, name: &str) -> Tensor {
    model.tensor(model.initializers()[name]).unwrap()
}

/// Three steps of the fixture (scripts/gradient_references.py, in double precision): every weight and every statistic.
#[test]
fn steps_agree_with_double_precision() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gradients/batch_norm_steps.onnx");
    let model = Model::open(path).unwrap();
    let network = Network::prepare(&model, None).unwrap();
    let options = Options {
        optimizer: OptimizerKind::Sgd,
        weight_decay: Some(0.0),
        batch: Some(4),
        batch_norm: BatchNorm::Train,
        ..Default::default()
    };
    let arrays = ["x", "target"].map(|name| (name.to_owned(), tensor(&model, &format!("data/{name}"))));
    let data = DataSet::from_arrays("fixture", arrays.into()).unwrap();
    let samples = network.samples(&data, &options).unwrap();
    let objective = Objective::choose(&network, &samples, &options).unwrap();
    let (growth, session) = (Growth::default(), session());
    let context = Context {
        network: &network,
        objective: &objective,
        samples: &samples,
        options: &options,
        session: &session,
        interrupt: &NEVER,
    };
    let names = trained_names(&network, &growth, &options).unwrap();
    let mut trainer = Trainer::new(context, &growth, &names).unwrap();
    let loader = Loader::new(&samples, 4, 0..12, None).unwrap();
    for (step, batch) in loader.enumerate() {
        trainer.step(&samples, &batch.unwrap(), 0.1, step as u64 + 1).unwrap();
    }
    let after = trainer.weights(&trainer.state().unwrap());
    assert_eq!(after.len(), 14, "{:?}", after.keys());
    for (name, found) in &after {
        let expected = tensor(&model, &format!("after/{name}")).to_f64().unwrap();
        let difference = found.to_f64().unwrap().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference < 2e-6, "{name} differs by {difference:.1e}");
        // The batch's mean takes a bias before it away again.
        let moves = name != "b1" && name != "b2";
        assert!(!moves || found != &tensor(&model, name), "{name} has not moved");
    }
}

/// x [n, 2] to a Gemm, a batch normalisation, a Relu and so on, twice; scores of two classes.
fn network(momentum: f32) -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect() };
    let mut graph = Graph::new("normalised", 17);
    let shape = |n: usize| Some(Shape(vec![Dim::Symbol("n".to_owned()), Dim::Known(n)]));
    let mut value = graph.add_input("x", ElementType::Float, shape(2).unwrap());
    let mut width = 2;
    for layer in 1..=3 {
        let (name, out) = (format!("layer{layer}"), if layer == 3 { 2 } else { 8 });
        let w = graph.add_constant(&format!("{name}_w"), Tensor::from_f32(&[width, out], &random(width * out)));
        let b = graph.add_constant(&format!("{name}_b"), Tensor::from_f32(&[out], &random(out)));
        value = graph.op("Gemm", &name, &[value, w, b], Attributes::new());
        graph.set_type(value, Some(ElementType::Float), shape(out));
        width = out;
        if layer < 3 {
            let parts = [("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0)].map(|(role, v)| {
                graph.add_constant(&format!("{name}_{role}"), Tensor::from_f32(&[out], &vec![v; out]))
            });
            let [s, t, m, v] = parts;
            let attributes = Attributes::new().with("momentum", momentum);
            value = graph.op("BatchNormalization", &format!("{name}_n"), &[value, s, t, m, v], attributes);
            graph.set_type(value, Some(ElementType::Float), shape(out));
            value = graph.op("Relu", &format!("{name}_r"), &[value], Attributes::new());
            graph.set_type(value, Some(ElementType::Float), shape(out));
        }
    }
    graph.outputs = vec![value];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

/// Whether two numbers have the same sign, far from zero so that stored statistics of 0 and 1 are wrong.
fn signs(rows: usize, seed: u64) -> DataSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let x: Vec<f32> = (0..2 * rows).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect();
    let y: Vec<i64> = x.chunks(2).map(|p| i64::from(p[0] * p[1] > 0.0)).collect();
    let x: Vec<f32> = x.into_iter().map(|v| 3.0 * v + 2.0).collect();
    let arrays = vec![("x", Tensor::from_f32(&[rows, 2], &x)), ("target", Tensor::from_i64(&[rows], &y))];
    DataSet::from_arrays("signs", arrays.into_iter().map(|(n, t)| (n.to_owned(), t)).collect()).unwrap()
}

fn options() -> Options {
    Options {
        method: Method::Hybrid,
        connect: Connection::Layer,
        dendrites: 1,
        width: Some(4.0),
        pool: 2,
        epochs: 6,
        dendrite_epochs: 2,
        // 300 samples are no whole number of batches.
        batch: Some(32),
        lr: Some(0.01),
        threads: Some(1),
        batch_norm: BatchNorm::Train,
        ..Default::default()
    }
}

fn run(
    model: &Model,
    options: &Options,
    folder: &Path,
    resume: bool,
    observer: &mut dyn FnMut(&Event),
    interrupt: &AtomicBool,
) -> dendrite_trainer::Result<Outcome> {
    let (train, val) = (signs(300, 1), signs(200, 2));
    let (session, plan, test, second_runtime) = (session(), None, None, None);
    let (train, val) = (&train, &val);
    grow(&mut Run {
        model,
        train,
        val,
        test,
        options,
        plan,
        session,
        folder,
        resume,
        interrupt,
        observer,
        second_runtime,
    })
}

#[test]
fn statistics_follow_and_stand_in_the_exported_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = network(0.9);
    for (mode, moves) in [(BatchNorm::Train, true), (BatchNorm::Frozen, false)] {
        let path = folder.path().join(mode.name());
        let options = Options { batch_norm: mode, ..options() };
        let outcome = run(&model, &options, &path, false, &mut |_| {}, &NEVER).unwrap();
        assert!(outcome.improved, "{mode:?}");
        assert_eq!(outcome.summary.batch_norm.as_deref(), Some(mode.name()));
        // The file was scored by what it holds, and so was the model that was kept.
        assert!(outcome.summary.parity.ort < 1e-5, "{mode:?}: {:?}", outcome.summary.parity);
        let grown = Model::open(path.join("model.onnx")).unwrap();
        for name in ["layer1_mean", "layer1_variance", "layer2_mean", "layer2_variance"] {
            assert_eq!(tensor(&grown, name) != tensor(&model, name), moves, "{mode:?}: {name}");
        }
        // The data lie at 2 with a deviation of sqrt(3): the first statistics can be told from the weights.
        if moves {
            let (w, b) = (tensor(&grown, "layer1_w").to_f64().unwrap(), tensor(&grown, "layer1_b").to_f64().unwrap());
            let (mean, variance) = (tensor(&grown, "layer1_mean"), tensor(&grown, "layer1_variance"));
            let (mean, variance) = (mean.to_f64().unwrap(), variance.to_f64().unwrap());
            for c in 0..8 {
                let expected = 2.0 * (w[c] + w[8 + c]) + b[c];
                let deviation = (3.0 * (w[c] * w[c] + w[8 + c] * w[8 + c])).sqrt();
                // Statistics lag behind the weights, and a dendrite stands between; so a third of a deviation.
                assert!((mean[c] - expected).abs() < 0.34 * deviation + 0.1, "{c}: {} {expected}", mean[c]);
                assert!((variance[c].sqrt() / deviation - 1.0).abs() < 0.5, "{c}: {} {deviation}", variance[c].sqrt());
            }
        }
    }
}

#[test]
fn a_run_that_was_stopped_and_resumed_is_the_undisturbed_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = network(0.9);
    let whole = folder.path().join("whole");
    run(&model, &options(), &whole, false, &mut |_| {}, &NEVER).unwrap();
    let expected = fs::read(whole.join("model.onnx")).unwrap();
    // Within an epoch, at its last batch, which is filled up, and between two.
    for stop in [3, 19, 20, 57, 61, 75] {
        let part = folder.path().join(format!("stopped after step {stop}"));
        let (interrupt, mut steps) = (AtomicBool::new(false), 0);
        let mut observer = |event: &Event| {
            if matches!(event, Event::Progress { .. }) {
                steps += 1;
                interrupt.fetch_or(steps == stop, Ordering::Relaxed);
            }
        };
        assert!(run(&model, &options(), &part, false, &mut observer, &interrupt).is_err(), "step {stop}");
        run(&model, &options(), &part, true, &mut |_| {}, &NEVER).unwrap();
        assert_eq!(fs::read(part.join("model.onnx")).unwrap(), expected, "step {stop}");
        let events = |folder: &Path| fs::read_to_string(folder.join("events.jsonl")).unwrap();
        assert_eq!(events(&part), events(&whole), "step {stop}");
    }
}

/// Training begins at the second normalisation: what lies before it is computed once, and its statistics stay.
#[test]
fn a_normalisation_that_trains_does_not_belong_to_the_frozen_part() {
    let folder = tempfile::tempdir().unwrap();
    let model = network(0.9);
    let options = Options { train: "layer2_s*".to_owned(), sites: vec!["layer3".to_owned()], ..options() };
    let mut told = Vec::new();
    let mut observer = |event: &Event| match event {
        Event::FrozenPart { samples } => told.push(("frozen", *samples)),
        Event::BatchNorm { trained, .. } => told.push(("train", *trained)),
        _ => {}
    };
    let path = folder.path().join("run");
    let outcome = run(&model, &options, &path, false, &mut observer, &NEVER).unwrap();
    assert_eq!(told, [("frozen", 500), ("train", 1)]);
    assert!(outcome.improved && outcome.summary.parity.ort < 1e-5, "{:?}", outcome.summary.parity);
    let grown = Model::open(path.join("model.onnx")).unwrap();
    for (name, moves) in
        [("layer1_mean", false), ("layer1_scale", false), ("layer2_mean", true), ("layer2_scale", true)]
    {
        assert_eq!(tensor(&grown, name) != tensor(&model, name), moves, "{name}");
    }
}

/// A momentum of 1 would never move a statistic.
#[test]
fn a_momentum_of_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let mut replaced = Vec::new();
    for momentum in [1.0, 0.9] {
        let model = network(momentum);
        let path = folder.path().join(momentum.to_string());
        let mut observer = |event: &Event| {
            if let Event::BatchNorm { replaced: n, .. } = event {
                replaced.push(*n);
            }
        };
        run(&model, &options(), &path, false, &mut observer, &NEVER).unwrap();
        let grown = Model::open(path.join("model.onnx")).unwrap();
        bytes.push(["layer1_mean", "layer2_variance", "layer3_w"].map(|name| tensor(&grown, name).bytes().to_vec()));
    }
    assert_eq!(replaced, [2, 0]);
    assert_eq!(bytes[0], bytes[1]);
}
