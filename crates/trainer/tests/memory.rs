//! What saves memory changes nothing else: a batch in pieces takes the undivided step, and so does one whose activations are
//! computed anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicBool;

use dendrite_data::{Input, Request};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor, ValueId};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{
    Growth, Loader, Network, Options, Samples,
    neuron::trained_names,
    objective::{Context, Objective},
    options::{ClassWeights, OptimizerKind},
    step::Trainer,
};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 26;
const BATCH: usize = 10;
const CLASSES: usize = 3;

struct Net {
    graph: Graph,
    rng: ChaCha8Rng,
}

impl Net {
    fn new(name: &str) -> Self {
        Net { graph: Graph::new(name, 17), rng: ChaCha8Rng::seed_from_u64(5) }
    }

    fn numbers(&mut self, shape: &[usize], low: f32, high: f32) -> Tensor {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| low + (high - low) * self.rng.random::<f32>()).collect();
        Tensor::from_f32(shape, &values)
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let tensor = self.numbers(shape, -0.6, 0.6);
        self.graph.add_constant(name, tensor)
    }

    fn op(&mut self, op: &str, name: &str, inputs: &[ValueId], attributes: Attributes) -> ValueId {
        self.graph.op(op, name, inputs, attributes)
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let dims = std::iter::once(Dim::Symbol("n".to_owned())).chain(shape.iter().map(|n| Dim::Known(*n)));
        self.graph.add_input("x", ElementType::Float, Shape(dims.collect()))
    }

    fn model(mut self, y: ValueId, shape: &[usize]) -> Model {
        let dims = std::iter::once(Dim::Symbol("n".to_owned())).chain(shape.iter().map(|n| Dim::Known(*n)));
        self.graph.set_type(y, Some(ElementType::Float), Some(Shape(dims.collect())));
        self.graph.outputs = vec![y];
        Model::from_bytes(self.graph.to_model().unwrap().encode_to_vec()).unwrap()
    }
}

/// Three layers of a perceptron.
fn dense() -> (Model, Vec<usize>, Vec<usize>) {
    let mut net = Net::new("dense");
    let mut x = net.input(&[6]);
    let sizes = [6, 16, 12, CLASSES];
    for (i, pair) in sizes.windows(2).enumerate() {
        let w = net.weight(&format!("w{i}"), pair);
        let b = net.weight(&format!("b{i}"), &pair[1..]);
        x = net.op("Gemm", &format!("gemm{i}"), &[x, w, b], Attributes::new());
        if i < 2 {
            x = net.op("Tanh", &format!("tanh{i}"), &[x], Attributes::new());
        }
    }
    (net.model(x, &[CLASSES]), vec![6], vec![])
}

/// Convolutions, one depthwise, with batch normalisation and clipping.
fn convolutional() -> (Model, Vec<usize>, Vec<usize>) {
    let mut net = Net::new("convolutional");
    let mut x = net.input(&[2, 8, 8]);
    for (i, (from, to, group)) in [(2, 8, 1), (8, 8, 8), (8, 6, 1)].into_iter().enumerate() {
        let w = net.weight(&format!("w{i}"), &[to, from / group, 3, 3]);
        let attributes = Attributes::new().with("pads", vec![1i64, 1, 1, 1]).with("group", group as i64);
        x = net.op("Conv", &format!("conv{i}"), &[x, w], attributes);
        let scale = net.weight(&format!("scale{i}"), &[to]);
        let shift = net.weight(&format!("shift{i}"), &[to]);
        let mean = net.weight(&format!("mean{i}"), &[to]);
        let variance = net.numbers(&[to], 0.5, 1.5);
        let variance = net.graph.add_constant(&format!("variance{i}"), variance);
        x = net.op("BatchNormalization", &format!("norm{i}"), &[x, scale, shift, mean, variance], Attributes::new());
        let low = net.graph.add_constant(&format!("low{i}"), Tensor::from_f32(&[], &[0.0]));
        let high = net.graph.add_constant(&format!("high{i}"), Tensor::from_f32(&[], &[6.0]));
        x = net.op("Clip", &format!("clip{i}"), &[x, low, high], Attributes::new());
    }
    x = net.op("GlobalAveragePool", "pool", &[x], Attributes::new());
    x = net.op("Flatten", "flat", &[x], Attributes::new());
    let w = net.weight("head", &[6, CLASSES]);
    x = net.op("MatMul", "y", &[x, w], Attributes::new());
    (net.model(x, &[CLASSES]), vec![2, 8, 8], vec![])
}

/// A block of attention and one of a perceptron, with classes at every position.
fn attention() -> (Model, Vec<usize>, Vec<usize>) {
    const WIDTH: usize = 8;
    let mut net = Net::new("attention");
    let x = net.input(&[5, WIDTH]);
    let product = |net: &mut Net, from: ValueId, name: &str, to: usize, width: usize| {
        let w = net.weight(&format!("{name}_w"), &[width, to]);
        net.op("MatMul", name, &[from, w], Attributes::new())
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| product(&mut net, x, name, WIDTH, WIDTH));
    let k = net.op("Transpose", "kt", &[k], Attributes::new().with("perm", vec![0i64, 2, 1]));
    let scores = net.op("MatMul", "scores", &[q, k], Attributes::new());
    let shares = net.op("Softmax", "shares", &[scores], Attributes::new().with("axis", -1i64));
    let mixed = net.op("MatMul", "mixed", &[shares, v], Attributes::new());
    let sum = net.op("Add", "residual", &[x, mixed], Attributes::new());
    let scale = net.weight("norm_scale", &[WIDTH]);
    let shift = net.weight("norm_shift", &[WIDTH]);
    let normal = net.op("LayerNormalization", "norm", &[sum, scale, shift], Attributes::new().with("axis", -1i64));
    let wide = product(&mut net, normal, "wide", 16, WIDTH);
    let bent = net.op("Erf", "erf", &[wide], Attributes::new());
    let narrow = product(&mut net, bent, "narrow", CLASSES, 16);
    let y = net.op("Transpose", "y", &[narrow], Attributes::new().with("perm", vec![0i64, 2, 1]));
    (net.model(y, &[CLASSES, 5]), vec![5, WIDTH], vec![5])
}

fn models() -> [(Model, Vec<usize>, Vec<usize>); 3] {
    [dense(), convolutional(), attention()]
}

/// Random rows with labels, of which some are ignored, and weights.
fn samples(x: &[usize], positions: &[usize]) -> Samples {
    let mut net = Net::new("data");
    let x = net.numbers(&[&[ROWS], x].concat(), -1.0, 1.0);
    let count = ROWS * positions.iter().product::<usize>();
    // More are ignored in the first rows, so that pieces of a batch count differently.
    let label = |i: usize| if i % 7 < 3 && i < count / 3 { -100 } else { (i * i % CLASSES) as i64 };
    let labels: Vec<i64> = (0..count).map(label).collect();
    let weights = net.numbers(&[ROWS], 0.1, 2.0);
    let arrays = vec![
        ("x".to_owned(), x),
        ("target".to_owned(), Tensor::from_i64(&[&[ROWS], positions].concat(), &labels)),
        ("weight".to_owned(), weights),
    ];
    let request = Request {
        inputs: vec![Input::new("x", ElementType::Float, None)],
        target: Some("target".to_owned()),
        weight: Some("weight".to_owned()),
        ..Request::default()
    };
    Samples::from_arrays("random", arrays, &request).unwrap()
}

fn options() -> Options {
    Options {
        batch: Some(BATCH),
        threads: Some(1),
        optimizer: OptimizerKind::Sgd,
        ignore_index: Some(-100),
        class_weights: ClassWeights::Given(vec![1.0, 0.3, 2.5]),
        label_smoothing: 0.1,
        clip_norm: Some(0.5),
        ..Options::default()
    }
}

/// What training some epochs came to: loss and norm of every step, and the state at the end.
struct Trained {
    losses: Vec<f64>,
    norms: Vec<f64>,
    state: Vec<Tensor>,
}

fn train(model: &Model, samples: &Samples, options: &Options, epochs: usize) -> Trained {
    let network = Network::prepare(model, None).unwrap();
    let objective = Objective::choose(&network, samples, options).unwrap();
    let growth = Growth::default();
    let names = trained_names(&network, &growth, options).unwrap();
    let session = SessionOptions { threads: 1, ..Default::default() };
    let never = AtomicBool::new(false);
    let context =
        Context { network: &network, objective: &objective, samples, options, session: &session, interrupt: &never };
    let mut trainer = Trainer::new(context, &growth, &names).unwrap();
    let (mut losses, mut norms, mut steps) = (Vec::new(), Vec::new(), 0);
    for _ in 0..epochs {
        for batch in Loader::new(samples, BATCH, 0..samples.len(), None).unwrap() {
            steps += 1;
            let reading = trainer.step(samples, &batch.unwrap(), 0.05, steps).unwrap();
            losses.push(reading.loss);
            norms.push(reading.gradient_norm);
        }
    }
    Trained { losses, norms, state: trainer.state().unwrap() }
}

/// The largest difference, relative where numbers are above 1.
fn difference(a: &Trained, b: &Trained) -> f64 {
    let far = |a: f64, b: f64| (a - b).abs() / a.abs().max(1.0);
    let numbers = |trained: &Trained| [trained.losses.clone(), trained.norms.clone()].concat();
    let scalars = numbers(a).into_iter().zip(numbers(b)).map(|(a, b)| far(a, b)).fold(0.0, f64::max);
    assert_eq!(a.state.len(), b.state.len());
    let states = a.state.iter().zip(&b.state).map(|(a, b)| {
        let pairs = a.to_f64().unwrap().into_iter().zip(b.to_f64().unwrap());
        pairs.map(|(a, b)| far(a, b)).fold(0.0, f64::max)
    });
    states.fold(scalars, f64::max)
}

#[test]
fn a_batch_in_pieces_takes_the_undivided_step() {
    for (model, x, positions) in models() {
        let samples = samples(&x, &positions);
        let whole = train(&model, &samples, &options(), 3);
        assert!(whole.norms.iter().any(|norm| *norm > 0.5), "the gradient is clipped: {:?}", whole.norms);
        assert!(whole.losses.first() > whole.losses.last());
        for size in [1, 3, 5, 9] {
            let pieces = train(&model, &samples, &Options { micro_batch: Some(size), ..options() }, 3);
            let far = difference(&whole, &pieces);
            assert!(far < 2e-6, "pieces of {size}: {far}");
            let again = train(&model, &samples, &Options { micro_batch: Some(size), ..options() }, 3);
            assert_eq!(pieces.state, again.state);
        }
        // A piece that holds the batch is the batch.
        let large = train(&model, &samples, &Options { micro_batch: Some(BATCH), ..options() }, 3);
        assert_eq!(whole.state, large.state);
    }
}

#[test]
fn pieces_serve_every_optimizer() {
    let (model, x, positions) = dense();
    let samples = samples(&x, &positions);
    for optimizer in [OptimizerKind::Adam, OptimizerKind::AdamW] {
        let options = Options { optimizer, clip_norm: None, ..options() };
        let whole = train(&model, &samples, &options, 2);
        let pieces = train(&model, &samples, &Options { micro_batch: Some(4), ..options }, 2);
        let far = difference(&whole, &pieces);
        assert!(far < 1e-4, "{far}");
    }
}

#[test]
fn recomputation_gives_the_same_losses_and_weights() {
    for (model, x, positions) in models() {
        let samples = samples(&x, &positions);
        let kept = train(&model, &samples, &options(), 3);
        let anew = train(&model, &samples, &Options { recompute: true, ..options() }, 3);
        let far = difference(&kept, &anew);
        assert!(far < 1e-6, "{far}");
        let options = Options { recompute: true, micro_batch: Some(4), ..options() };
        let far = difference(&kept, &train(&model, &samples, &options, 3));
        assert!(far < 2e-6, "in pieces: {far}");
    }
}
