//! Growth on problems that a linear model cannot solve: dendrites reduce the loss, the sham does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{
    DataSet, Event, Growth, Method, Network, Options, Outcome, Run, Samples,
    dendrite::dendrite_phase,
    evaluate::{Evaluator, Score},
    grow,
    neuron::{Advance, NeuronPhase, Setting, changeable_names, trained_names},
    objective::{Context, Objective},
    options::Activations,
    step::Trainer,
};
use dendrites::{Connection, Demand, Plan};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One Gemm from two numbers.
fn linear(outputs: usize) -> Model {
    let mut graph = Graph::new("linear", 17);
    let batch = Dim::Symbol("n".to_owned());
    let x = graph.add_input("x", ElementType::Float, Shape(vec![batch.clone(), Dim::Known(2)]));
    let values: Vec<f32> = (0..2 * outputs).map(|i| 0.1 * (i as f32 + 1.0)).collect();
    let w = graph.add_constant("w", Tensor::from_f32(&[2, outputs], &values));
    let b = graph.add_constant("b", Tensor::from_f32(&[outputs], &vec![0.05; outputs]));
    let y = graph.op("Gemm", "y", &[x, w, b], Attributes::new());
    graph.set_type(y, Some(ElementType::Float), Some(Shape(vec![batch, Dim::Known(outputs)])));
    graph.outputs = vec![y];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

/// x0 * x1 over the square.
fn product(rows: usize, seed: u64) -> DataSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let x: Vec<f32> = (0..2 * rows).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect();
    let y: Vec<f32> = x.chunks(2).map(|p| p[0] * p[1]).collect();
    let arrays = vec![("x", Tensor::from_f32(&[rows, 2], &x)), ("target", Tensor::from_f32(&[rows, 1], &y))];
    DataSet::from_arrays("product", arrays.into_iter().map(|(n, t)| (n.to_owned(), t)).collect()).unwrap()
}

/// Two spirals of three quarters of a turn.
fn spirals(rows: usize, seed: u64) -> DataSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for i in 0..rows {
        let class = (i % 2) as i64;
        let radius = 0.2 + 0.8 * rng.random::<f32>();
        let angle = radius * 1.5 * std::f32::consts::PI + class as f32 * std::f32::consts::PI;
        x.extend([radius * angle.cos(), radius * angle.sin()]);
        y.push(class);
    }
    let arrays = vec![("x", Tensor::from_f32(&[rows, 2], &x)), ("target", Tensor::from_i64(&[rows], &y))];
    DataSet::from_arrays("spirals", arrays.into_iter().map(|(n, t)| (n.to_owned(), t)).collect()).unwrap()
}

static NEVER: AtomicBool = AtomicBool::new(false);

struct Problem {
    name: &'static str,
    model: Model,
    train: DataSet,
    val: DataSet,
}

fn problems() -> [Problem; 2] {
    [
        Problem { name: "product", model: linear(1), train: product(512, 1), val: product(256, 2) },
        Problem { name: "spirals", model: linear(2), train: spirals(512, 3), val: spirals(256, 4) },
    ]
}

fn session() -> SessionOptions {
    SessionOptions { threads: 1, ..Default::default() }
}

fn options(method: Method, connect: Connection) -> Options {
    Options {
        method,
        connect,
        dendrites: if connect == Connection::Neuron { 3 } else { 1 },
        width: (connect == Connection::Layer).then_some(12.0),
        pool: 4,
        epochs: 40,
        dendrite_epochs: 10,
        patience: 5,
        activation: Activations::Relu,
        threads: Some(1),
        ..Default::default()
    }
}

fn try_run(
    problem: &Problem,
    options: &Options,
    folder: &Path,
    resume: bool,
    observer: &mut dyn FnMut(&Event),
    interrupt: &AtomicBool,
) -> dendrite_trainer::Result<Outcome> {
    grow(&mut Run {
        model: &problem.model,
        train: &problem.train,
        val: &problem.val,
        test: None,
        options,
        plan: None,
        session: session(),
        folder,
        resume,
        interrupt,
        observer,
        second_runtime: None,
    })
}

fn run(problem: &Problem, options: &Options, folder: &Path) -> Outcome {
    try_run(problem, options, folder, false, &mut |_| {}, &AtomicBool::new(false)).unwrap()
}

/// The parts of a run, for what a whole run does not show.
struct Parts {
    network: Network,
    objective: Objective,
    train: Samples,
    val: Samples,
}

impl Parts {
    fn of(problem: &Problem, options: &Options) -> Self {
        let network = Network::prepare(&problem.model, None).unwrap();
        let samples = |data: &DataSet| network.samples(data, options).unwrap();
        let (train, val) = (samples(&problem.train), samples(&problem.val));
        let objective = Objective::choose(&network, &train, options).unwrap();
        Parts { network, objective, train, val }
    }

    fn context<'a>(&'a self, options: &'a Options, session: &'a SessionOptions) -> Context<'a> {
        let (network, objective, samples) = (&self.network, &self.objective, &self.train);
        Context { network, objective, samples, options, session, interrupt: &NEVER }
    }

    fn evaluator(&self, growth: &Growth, options: &Options) -> Evaluator {
        let names = changeable_names(&self.network, growth, options).unwrap();
        Evaluator::new(&self.network, growth, &names, &self.objective, &self.val, 64, &session()).unwrap()
    }

    fn score(&self, growth: &Growth, options: &Options) -> Score {
        self.evaluator(growth, options).score(&self.val).unwrap()
    }

    /// The network with the sets of one cycle.
    fn grown(&self, growth: &Growth, options: &Options) -> Growth {
        let width = options.width.or(Some(options.dendrites as f64));
        let demand = Demand { connect: options.connect, cycles: 1, width, budget: None };
        let plan = Plan::new(&self.network.sites, &demand).unwrap();
        let new = plan.next_cycle(&self.network.sites, &growth.sets).unwrap();
        let place = [1, 0];
        let (sets, weights, reports) =
            dendrite_phase(self.context(options, &session()), growth, &new, place, &mut |_, _| false).unwrap().unwrap();
        for report in &reports {
            assert!(
                report.trained >= report.initial && report.trained <= 1.0 + 1e-6
                    || options.connect == Connection::Layer
            );
        }
        let mut grown = growth.clone();
        grown.sets.extend(sets);
        grown.weights.extend(weights);
        grown
    }

    /// Train `names` until the phase ends; the best validation loss.
    fn trained(&self, growth: &Growth, names: &[String], options: &Options) -> f64 {
        let mut evaluator = self.evaluator(growth, options);
        let session = session();
        let trainer = Trainer::new(self.context(options, &session), growth, names).unwrap();
        let Score { metric: floor, loss: ceiling, .. } = self.score(growth, options);
        let (train, val, trial) = (&self.train, &self.val, self.train.len());
        let interrupt = &AtomicBool::new(false);
        let place = [1, 0];
        let (augment, session) = (None, &session);
        let setting = Setting { train, val, options, augment, session, place, floor, ceiling, trial, interrupt };
        let mut phase = NeuronPhase::start(trainer, &mut evaluator, setting).unwrap();
        while !matches!(phase.advance(&mut |_, _| false).unwrap(), Advance::Ended) {}
        phase.best_score.unwrap().loss
    }
}

fn finetuned(outcome: &Outcome) -> f64 {
    outcome.summary.phases.iter().find(|p| p.kind == "finetune").unwrap().val_loss
}

#[test]
fn dendrites_solve_what_a_linear_model_cannot() {
    let folder = tempfile::tempdir().unwrap();
    for problem in problems() {
        for connect in [Connection::Neuron, Connection::Layer] {
            for method in [Method::Hybrid, Method::Gd, Method::Pb] {
                let what = format!("{}-{connect:?}-{}", problem.name, method.name());
                let outcome = run(&problem, &options(method, connect), &folder.path().join(&what));
                let base = finetuned(&outcome);
                let after = outcome.summary.after.val.0["loss"];
                println!("{what}: {base:.4} -> {after:.4}, {} parameters", outcome.summary.after.parameters);
                assert!(outcome.improved, "{what}");
                assert!(outcome.summary.kept_dendrites > 0, "{what}");
                assert!(after < 0.8 * base, "{what}: {base} -> {after}");
                assert!(outcome.summary.parity.ort < 1e-6, "{what}");
            }
        }
    }
}

/// The same dendrites and the same budget with the connection held at 0: the network is as linear as before.
#[test]
fn the_sham_does_not() {
    for problem in problems() {
        for connect in [Connection::Neuron, Connection::Layer] {
            let options = options(Method::Gd, connect);
            let parts = Parts::of(&problem, &options);
            let base = Growth::default();
            let alone = parts.trained(&base, &trained_names(&parts.network, &base, &options).unwrap(), &options);
            let growth = parts.grown(&base, &options);
            let names = trained_names(&parts.network, &growth, &options).unwrap();
            let without: Vec<String> = names.iter().filter(|n| !n.ends_with("/connection")).cloned().collect();
            assert!(without.len() < names.len() && without.len() > 2);
            let sham = parts.trained(&growth, &without, &options);
            let real = parts.trained(&growth, &names, &options);
            println!("{} {connect:?}: alone {alone:.4}, sham {sham:.4}, real {real:.4}", problem.name);
            assert!((sham - alone).abs() < 0.01 * alone, "{} {connect:?}: {alone} {sham}", problem.name);
            assert!(real < 0.8 * sham, "{} {connect:?}: {sham} {real}", problem.name);
        }
    }
}

#[test]
fn validation_is_exactly_constant_across_a_dendrite_phase() {
    for problem in problems() {
        for connect in [Connection::Neuron, Connection::Layer] {
            let options = options(Method::Pb, connect);
            let parts = Parts::of(&problem, &options);
            let mut growth = Growth::default();
            for _ in 0..2 {
                let before = parts.score(&growth, &options);
                growth = parts.grown(&growth, &options);
                let after = parts.score(&growth, &options);
                assert_eq!(before.per_sample, after.per_sample, "{} {connect:?}", problem.name);
                assert_eq!(before.predictions, after.predictions, "{} {connect:?}", problem.name);
            }
        }
    }
}

/// Candidates that correlate must not owe it to rounding: |rho| is at most 1 for saturated units too.
#[test]
fn correlations_are_at_most_one() {
    for problem in problems() {
        for activation in [Activations::Sigmoid, Activations::Tanh, Activations::Mixed] {
            let options = Options { activation, dendrite_epochs: 30, ..options(Method::Pb, Connection::Neuron) };
            let parts = Parts::of(&problem, &options);
            let growth = parts.grown(&Growth::default(), &options);
            for (name, tensor) in &growth.weights {
                assert!(tensor.to_f32().unwrap().iter().all(|v| v.is_finite()), "{name}");
            }
        }
    }
}

#[test]
fn a_run_that_was_stopped_and_resumed_is_the_undisturbed_run() {
    let folder = tempfile::tempdir().unwrap();
    let [problem, _] = problems();
    let options = Options { epochs: 12, dendrite_epochs: 3, ..options(Method::Pb, Connection::Neuron) };
    let whole = folder.path().join("whole");
    run(&problem, &options, &whole);
    let expected = fs::read(whole.join("model.onnx")).unwrap();
    let events = |folder: &Path| fs::read_to_string(folder.join("events.jsonl")).unwrap();
    for stop in [1, 5, 14, 25] {
        let part = folder.path().join(format!("stopped after {stop}"));
        let interrupt = AtomicBool::new(false);
        let mut epochs = 0;
        let mut observer = |event: &Event| {
            if matches!(event, Event::Epoch { .. }) {
                epochs += 1;
                if epochs == stop {
                    interrupt.store(true, Ordering::Relaxed);
                }
            }
        };
        let stopped = try_run(&problem, &options, &part, false, &mut observer, &interrupt);
        assert!(stopped.is_err(), "stopped after {stop}");
        try_run(&problem, &options, &part, true, &mut |_| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::read(part.join("model.onnx")).unwrap(), expected, "stopped after {stop}");
        assert_eq!(events(&part), events(&whole), "stopped after {stop}");
    }
}

/// New dendrites see net inputs of a deviation of 1 to 2 and a mean within one deviation of zero, also where the data lie
/// far from zero.
#[test]
fn new_dendrites_start_in_the_range_of_their_activation() {
    for shift in [0.0f32, 10.0, 100.0, 1000.0] {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let rows = 512;
        let x: Vec<f32> = (0..2 * rows).map(|_| shift + 2.0 * rng.random::<f32>() - 1.0).collect();
        let y: Vec<f32> = x.chunks(2).map(|p| (p[0] - shift) * (p[1] - shift)).collect();
        let data = || {
            let arrays = vec![
                ("x".to_owned(), Tensor::from_f32(&[rows, 2], &x)),
                ("target".to_owned(), Tensor::from_f32(&[rows, 1], &y)),
            ];
            DataSet::from_arrays("shifted", arrays).unwrap()
        };
        let problem = Problem { name: "shifted", model: linear(1), train: data(), val: data() };
        let options = options(Method::Gd, Connection::Layer);
        let growth = Parts::of(&problem, &options).grown(&Growth::default(), &options);
        let set = &growth.sets[0];
        let values = |role: &str| growth.weights[&set.path(role)].to_f64().unwrap();
        let (w, b) = (values("weight"), values("bias"));
        for k in 0..set.width {
            let z: Vec<f64> =
                x.chunks(2).map(|p| f64::from(p[0]) * w[k] + f64::from(p[1]) * w[set.width + k] + b[k]).collect();
            let mean = z.iter().sum::<f64>() / rows as f64;
            let deviation = (z.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / rows as f64).sqrt();
            assert!((0.95..2.1).contains(&deviation), "shift {shift}: deviation {deviation}");
            assert!(mean.abs() < 1.05 * deviation, "shift {shift}: mean {mean}, deviation {deviation}");
        }
    }
}

/// What cannot be improved comes back byte for byte.
#[test]
fn without_a_gain_the_result_is_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let rows = 64;
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let x: Vec<f32> = (0..2 * rows).map(|_| rng.random::<f32>()).collect();
    // The model's own outputs: nothing is left to learn.
    let y: Vec<f32> = x.chunks(2).map(|p| 0.1 * p[0] + 0.2 * p[1] + 0.05).collect();
    let data = |rows: usize| {
        let arrays = vec![
            ("x".to_owned(), Tensor::from_f32(&[rows, 2], &x[..2 * rows])),
            ("target".to_owned(), Tensor::from_f32(&[rows, 1], &y[..rows])),
        ];
        DataSet::from_arrays("solved", arrays).unwrap()
    };
    // The very samples that train are refused as validation.
    let problem = Problem { name: "solved", model: linear(1), train: data(rows), val: data(rows - 1) };
    let options = Options { epochs: 5, dendrite_epochs: 2, tries: 1, ..options(Method::Hybrid, Connection::Neuron) };
    let outcome = run(&problem, &options, &folder.path().join("run"));
    assert!(!outcome.improved);
    assert_eq!(fs::read(folder.path().join("run/model.onnx")).unwrap(), problem.model.bytes().to_vec());
}

/// A pause within an epoch is no other than one between epochs, whether batches are divided or not.
#[test]
fn a_run_that_was_stopped_within_an_epoch_is_the_undisturbed_run() {
    stop_and_go_on(None, &[1, 5, 31, 32, 33, 200]);
    stop_and_go_on(Some(5), &[5, 33]);
}

fn stop_and_go_on(micro_batch: Option<usize>, stops: &[usize]) {
    let folder = tempfile::tempdir().unwrap();
    let [problem, _] = problems();
    let options = Options {
        epochs: 4,
        dendrite_epochs: 2,
        lr: Some(0.01),
        micro_batch,
        ..options(Method::Hybrid, Connection::Layer)
    };
    let whole = folder.path().join("whole");
    run(&problem, &options, &whole);
    let expected = fs::read(whole.join("model.onnx")).unwrap();
    let text = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for stop in stops {
        let part = folder.path().join(format!("stopped after step {stop}"));
        let interrupt = AtomicBool::new(false);
        let mut steps = 0;
        let mut observer = |event: &Event| {
            if matches!(event, Event::Progress { .. }) {
                steps += 1;
                interrupt.fetch_or(steps == *stop, Ordering::Relaxed);
            }
        };
        assert!(try_run(&problem, &options, &part, false, &mut observer, &interrupt).is_err(), "step {stop}");
        try_run(&problem, &options, &part, true, &mut |_| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::read(part.join("model.onnx")).unwrap(), expected, "step {stop}");
        for name in ["events.jsonl", "metrics.csv"] {
            assert_eq!(text(&part, name), text(&whole, name), "step {stop}");
        }
    }
}

/// A rate that throws the weights out of the numbers: the step is caught, the value named, and the run falls back.
#[test]
fn a_number_that_is_none_is_caught_in_its_step() {
    catch_a_number(None);
    catch_a_number(Some(5));
}

fn catch_a_number(micro_batch: Option<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let [_, problem] = problems();
    let options =
        Options { lr: Some(1e38), epochs: 20, dendrites: 0, micro_batch, ..options(Method::Gd, Connection::Layer) };
    let mut troubles = Vec::new();
    let mut observer = |event: &Event| {
        if let Event::Trouble { report, .. } = event {
            troubles.push(report.clone());
        }
    };
    let outcome =
        try_run(&problem, &options, &folder.path().join("run"), false, &mut observer, &AtomicBool::new(false)).unwrap();
    assert!(!troubles.is_empty());
    let anomaly = troubles[0].anomaly.as_ref().expect("the value is found");
    assert!(!anomaly.tensor.is_empty() && (anomaly.node.is_some() || anomaly.tensor == "w" || anomaly.tensor == "b"));
    assert!(troubles[0].next_lr.is_some_and(|lr| lr < 1e38));
    assert!(outcome.summary.after.val.0["loss"] <= outcome.summary.before.val.0["loss"]);
}

/// What lies before the first trained weight is computed once; the result is the whole network all the same.
#[test]
fn the_part_that_stays_as_it_is_is_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = Graph::new("two layers", 17);
    let shape = |n: usize| Some(Shape(vec![Dim::Symbol("n".to_owned()), Dim::Known(n)]));
    let x = graph.add_input("x", ElementType::Float, shape(2).unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect() };
    let mut layer = |graph: &mut Graph, from, name: &str, n: usize, m: usize| {
        let w = graph.add_constant(&format!("{name}_w"), Tensor::from_f32(&[n, m], &random(n * m)));
        let b = graph.add_constant(&format!("{name}_b"), Tensor::from_f32(&[m], &random(m)));
        let y = graph.op("Gemm", name, &[from, w, b], Attributes::new());
        graph.set_type(y, Some(ElementType::Float), shape(m));
        y
    };
    let hidden = layer(&mut graph, x, "hidden", 2, 24);
    let relu = graph.op("Relu", "relu", &[hidden], Attributes::new());
    graph.set_type(relu, Some(ElementType::Float), shape(24));
    let y = layer(&mut graph, relu, "y", 24, 2);
    graph.outputs = vec![y];
    let model = Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap();
    let problem = Problem { name: "spirals", model, train: spirals(512, 3), val: spirals(256, 4) };
    let options = Options { train: "head".to_owned(), ..options(Method::Hybrid, Connection::Layer) };
    let mut computed = 0;
    let mut observer = |event: &Event| {
        if let Event::FrozenPart { samples } = event {
            computed = *samples;
        }
    };
    let path = folder.path().join("run");
    let outcome = try_run(&problem, &options, &path, false, &mut observer, &AtomicBool::new(false)).unwrap();
    assert_eq!(computed, 512 + 256);
    assert!(outcome.improved && outcome.summary.parity.ort < 1e-5, "{:?}", outcome.summary.parity);
    let grown = Model::open(path.join("model.onnx")).unwrap();
    let bytes = |model: &Model, name: &str| model.tensor(model.initializers()[name]).unwrap().bytes().to_vec();
    assert_eq!(bytes(&grown, "hidden_w"), bytes(&problem.model, "hidden_w"));
    assert_ne!(bytes(&grown, "y_w"), bytes(&problem.model, "y_w"));
}
