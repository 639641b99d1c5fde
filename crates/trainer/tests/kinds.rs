//! Growth from end to end at every kind of site but those of a linear layer, which tests/growth.rs has: each problem needs a
//! product of inputs that its model, linear in them, cannot have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicBool;

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor, ValueId};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{DataSet, Method, Options, Outcome, Run, grow, options::Activations};
use dendrites::{Connection, recognise};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A model and a function of a row of its input that it shall compute.
struct Problem {
    model: Model,
    /// Shape of a row of x and of the target.
    row: Vec<usize>,
    target: Vec<usize>,
    wanted: fn(&[f32]) -> Vec<f32>,
}

fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect()
}

/// A model of one input of rows `row` and an open batch, whose output is what `build` returns.
fn model(row: &[usize], build: &mut dyn FnMut(&mut Graph, ValueId, &mut ChaCha8Rng) -> ValueId) -> Model {
    let mut graph = Graph::new("kinds", 17);
    let dims = std::iter::once(Dim::Symbol("n".to_owned())).chain(row.iter().map(|d| Dim::Known(*d)));
    let x = graph.add_input("x", ElementType::Float, Shape(dims.collect()));
    let y = build(&mut graph, x, &mut ChaCha8Rng::seed_from_u64(5));
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

fn weight(graph: &mut Graph, rng: &mut ChaCha8Rng, name: &str, shape: &[usize]) -> ValueId {
    let values: Vec<f32> = random(rng, shape.iter().product()).iter().map(|v| 0.3 * v).collect();
    graph.add_constant(name, Tensor::from_f32(shape, &values))
}

impl Problem {
    fn data(&self, rows: usize, seed: u64) -> DataSet {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x = random(&mut rng, rows * self.row.iter().product::<usize>());
        let y: Vec<f32> = x.chunks(self.row.iter().product()).flat_map(self.wanted).collect();
        let shape = |of: &[usize]| -> Vec<usize> { std::iter::once(rows).chain(of.iter().copied()).collect() };
        let arrays = vec![
            ("x".to_owned(), Tensor::from_f32(&shape(&self.row), &x)),
            ("target".to_owned(), Tensor::from_f32(&shape(&self.target), &y)),
        ];
        DataSet::from_arrays("kinds", arrays).unwrap()
    }

    fn grow(&self, method: Method, connect: Connection, sites: &[&str]) -> (Outcome, Model) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let options = Options {
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
            sites: sites.iter().map(|site| (*site).to_owned()).collect(),
            ..Default::default()
        };
        let outcome = grow(&mut Run {
            model: &self.model,
            train: &self.data(512, 1),
            val: &self.data(256, 2),
            test: None,
            options: &options,
            plan: None,
            session: SessionOptions { threads: 1, ..Default::default() },
            folder: &path,
            resume: false,
            interrupt: &AtomicBool::new(false),
            observer: &mut |_| {},
            second_runtime: None,
        });
        (outcome.unwrap(), Model::open(path.join("model.onnx")).unwrap())
    }

    /// Every given way of growing at `sites` brings the loss to `share` of what fine-tuning alone leaves.
    fn solved(&self, ways: &[(Method, Connection)], share: f64, sites: &[&str]) {
        for (method, connect) in ways {
            let what = format!("{} {connect:?}", method.name());
            let (outcome, model) = self.grow(*method, *connect, sites);
            let base = outcome.summary.phases.iter().find(|p| p.kind == "finetune").unwrap().val_loss;
            let after = outcome.summary.after.val.0["loss"];
            println!("{what}: {base:.4} -> {after:.4}, {} parameters", outcome.summary.after.parameters);
            assert!(outcome.improved && outcome.summary.kept_dendrites > 0, "{what}");
            assert!(after < share * base, "{what}: {base} -> {after}");
            assert!(outcome.summary.parity.ort < 1e-5, "{what}: {}", outcome.summary.parity.ort);
            let found: Vec<String> = recognise(&model).unwrap().into_iter().map(|site| site.name).collect();
            assert_eq!(found, sites, "{what}");
        }
    }
}

const ALL: [(Method, Connection); 6] = [
    (Method::Hybrid, Connection::Neuron),
    (Method::Hybrid, Connection::Layer),
    (Method::Gd, Connection::Neuron),
    (Method::Gd, Connection::Layer),
    (Method::Pb, Connection::Neuron),
    (Method::Pb, Connection::Layer),
];

/// Twice as many positions, each the product of two channels of the position below it, with either sign.
#[test]
fn a_transposed_convolution_grows() {
    let row = [2, 4];
    let model = model(&row, &mut |g, x, rng| {
        let (w, b) = (weight(g, rng, "w", &[2, 1, 2]), weight(g, rng, "b", &[1]));
        g.op("ConvTranspose", "y", &[x, w, b], Attributes::new().with("strides", vec![2i64]))
    });
    let wanted = |x: &[f32]| (0..8).map(|i| x[i / 2] * x[4 + i / 2] * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    Problem { model, row: row.to_vec(), target: vec![1, 8], wanted }.solved(&ALL, 0.8, &["y"]);
}

/// Two branches through one matrix, their results multiplied element by element with signs: what each needs is the square of
/// its inputs, so one dendrite serves both.
#[test]
fn a_weight_that_two_operations_share_grows() {
    let row = [2, 3];
    let model = model(&row, &mut |g, x, rng| {
        let w = weight(g, rng, "w", &[3, 2]);
        let sizes = g.add_constant("sizes", Tensor::int64s(&[1, 1]));
        let halves = g.add_node("Split", "half", &[Some(x), Some(sizes)], Attributes::new().with("axis", 1), 2);
        let axis = g.add_constant("axis", Tensor::int64s(&[1]));
        let branches: Vec<ValueId> = halves
            .into_iter()
            .enumerate()
            .map(|(i, half)| {
                let flat = g.op("Squeeze", "flat", &[half, axis], Attributes::new());
                g.op("MatMul", &format!("branch_{i}"), &[flat, w], Attributes::new())
            })
            .collect();
        g.op("Sub", "y", &branches, Attributes::new())
    });
    fn wanted(x: &[f32]) -> Vec<f32> {
        let of = |x: &[f32]| [x[0].abs() + x[1] * x[2], x[1].abs() - x[2].abs()];
        let (a, b) = (of(&x[..3]), of(&x[3..]));
        vec![a[0] - b[0], a[1] - b[1]]
    }
    Problem { model, row: row.to_vec(), target: vec![2], wanted }.solved(&ALL, 0.8, &["branch_0"]);
}

/// What a recurrent operator has summed up after four steps of two numbers each: their products, which its gates, linear in
/// what they read, can tell by dendrites alone.
#[test]
fn recurrent_operators_grow() {
    for (op, gates, direction) in [("RNN", 1, "forward"), ("GRU", 3, "reverse"), ("LSTM", 4, "bidirectional")] {
        let row = [4, 2];
        let directions = if direction == "bidirectional" { 2 } else { 1 };
        let model = model(&row, &mut |g, x, rng| {
            let hidden = 2;
            let t = g.op("Transpose", "steps", &[x], Attributes::new().with("perm", vec![1i64, 0, 2]));
            let w = weight(g, rng, "w", &[directions, gates * hidden, 2]);
            let r = weight(g, rng, "r", &[directions, gates * hidden, hidden]);
            let b = weight(g, rng, "b", &[directions, 2 * gates * hidden]);
            let attributes = Attributes::new().with("hidden_size", hidden as i64).with("direction", direction);
            let outputs = g.add_node(op, "recurrent", &[Some(t), Some(w), Some(r), Some(b)], attributes, 2);
            let perm = g.op("Transpose", "last", &[outputs[1]], Attributes::new().with("perm", vec![1i64, 0, 2]));
            let flat = g.op("Flatten", "flat", &[perm], Attributes::new());
            let (v, c) = (weight(g, rng, "v", &[directions * hidden, 1]), weight(g, rng, "c", &[1]));
            g.op("Gemm", "y", &[flat, v, c], Attributes::new())
        });
        fn wanted(x: &[f32]) -> Vec<f32> {
            vec![x.chunks(2).map(|step| step[0] * step[1]).sum()]
        }
        let ways =
            [(Method::Gd, Connection::Layer), (Method::Hybrid, Connection::Layer), (Method::Pb, Connection::Layer)];
        let problem = Problem { model, row: row.to_vec(), target: vec![1], wanted };
        println!("{op}");
        problem.solved(&ways, 0.8, &["recurrent"]);
    }
}

/// Rows of all samples on one axis, and steps before samples: at the site the first axis is not that of the samples.
#[test]
fn sites_whose_samples_are_not_on_the_first_axis_grow() {
    let row = [3, 2];
    fn wanted(x: &[f32]) -> Vec<f32> {
        vec![x.chunks(2).map(|step| step[0] * step[1]).sum()]
    }
    let parameters = |g: &mut Graph, rng: &mut ChaCha8Rng| (weight(g, rng, "w", &[2, 1]), weight(g, rng, "b", &[1]));
    let flattened = model(&row, &mut |g, x, rng| {
        let (w, b) = parameters(g, rng);
        let [rows, steps] = [("rows", [-1, 2]), ("steps", [-1, 3])].map(|(n, s)| g.add_constant(n, Tensor::int64s(&s)));
        let flat = g.op("Reshape", "flat", &[x, rows], Attributes::new());
        let site = g.op("Gemm", "site", &[flat, w, b], Attributes::new());
        let back = g.op("Reshape", "back", &[site, steps], Attributes::new());
        let axis = g.add_constant("axis", Tensor::int64s(&[1]));
        g.op("ReduceSum", "y", &[back, axis], Attributes::new())
    });
    let turned = model(&row, &mut |g, x, rng| {
        let (w, b) = parameters(g, rng);
        let steps = g.op("Transpose", "steps", &[x], Attributes::new().with("perm", vec![1i64, 0, 2]));
        let product = g.op("MatMul", "product", &[steps, w], Attributes::new());
        let site = g.op("Add", "site", &[product, b], Attributes::new());
        let axis = g.add_constant("axis", Tensor::int64s(&[0]));
        g.op("ReduceSum", "y", &[site, axis], Attributes::new().with("keepdims", 0))
    });
    for model in [flattened, turned] {
        Problem { model, row: row.to_vec(), target: vec![1], wanted }.solved(&ALL, 0.8, &["site"]);
    }
}
