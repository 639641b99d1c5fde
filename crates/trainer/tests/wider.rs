//! Models with wider hidden layers compute what they did, at the size that was asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, NodeId, Shape, Tensor, ValueId, ops::cost::model_parameters,
};
use dendrite_runtime::{Session, SessionOptions, infer_shapes};
use dendrite_trainer::{
    export::relative_difference,
    wider::{Wider, widen},
};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn session() -> SessionOptions {
    SessionOptions { threads: 1, ..Default::default() }
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect()
}

/// The one output of a model for random inputs; `rows` where the batch is open.
fn output(model: &Model, name: &str, rows: usize) -> Vec<f32> {
    let graph = Graph::from_model(model).unwrap();
    let feeds: Vec<(String, Tensor)> = graph
        .inputs
        .iter()
        .map(|v| {
            let shape = graph.value(*v).shape.clone().unwrap();
            let dims: Vec<usize> = shape.0.iter().map(|d| d.known().unwrap_or(rows)).collect();
            (graph.name_of(*v).to_owned(), Tensor::from_f32(&dims, &numbers(dims.iter().product(), 3)))
        })
        .collect();
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let found = Session::from_bytes(model.bytes(), &session()).unwrap().run(&feeds).unwrap();
    found.iter().find(|(n, _)| n == name).unwrap().1.to_f32().unwrap()
}

/// Widen to `factor` times the parameters; the function must stay.
fn widened(model: &Model, name: &str, factor: f64) -> Wider {
    let graph = Graph::from_model(model).unwrap();
    let before = model_parameters(&graph);
    let wanted = (before as f64 * factor) as usize;
    let wider = widen(model, Some(name), wanted, 0, &session()).unwrap().unwrap_or_else(|reason| panic!("{reason}"));
    let (old, new) = (output(model, name, 5), output(&wider.model, name, 5));
    let difference = relative_difference(&new, &old);
    assert!(difference < 1e-5, "it computes something else, {difference:.1e} off");
    assert_eq!(model_parameters(&Graph::from_model(&wider.model).unwrap()), wider.parameters);
    assert!(
        wider.parameters.abs_diff(wanted) as f64 <= 0.05 * (wanted - before) as f64,
        "{} {wanted}",
        wider.parameters
    );
    wider
}

fn repository(name: &str) -> Model {
    Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)).unwrap()
}

#[test]
fn real_models_keep_their_function_at_twice_their_size() {
    let layers = |wider: &Wider| -> Vec<String> { wider.layers.iter().map(|(name, ..)| name.clone()).collect() };
    let letters = widened(&repository("letters.onnx"), "probabilities", 4.0);
    assert_eq!((letters.layers[0].1, letters.layers[0].2), (16, 66));
    assert_eq!(letters.others.len(), 1);
    // Fixed batch, a bias of its own node, weights that are reshaped.
    let digits = widened(&repository("mnist8.onnx"), "Plus214_Output_0", 2.0);
    assert_eq!(layers(&digits), ["Convolution28_Output_0", "Convolution110_Output_0"]);
    let vowels = widened(&repository("jv_cnn4.onnx"), "y", 2.0);
    assert_eq!(vowels.layers.len(), 3);
}

/// Builds a network node by node, shapes inferred.
struct Builder {
    graph: Graph,
    count: u64,
}

impl Builder {
    fn new(row: &[usize]) -> (Self, ValueId) {
        let mut graph = Graph::new("network", 21);
        let dims = std::iter::once(Dim::Symbol("n".to_owned())).chain(row.iter().map(|d| Dim::Known(*d)));
        let x = graph.add_input("x", ElementType::Float, Shape(dims.collect()));
        (Builder { graph, count: 0 }, x)
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.count += 1;
        let values = numbers(shape.iter().product(), 100 + self.count);
        self.graph.add_constant(&format!("weight_{}", self.count), Tensor::from_f32(shape, &values))
    }

    fn op(&mut self, op: &str, inputs: &[ValueId], attributes: Attributes) -> ValueId {
        self.count += 1;
        let output = self.graph.op(op, &format!("{op}_{}", self.count), inputs, attributes);
        self.graph.set_type(output, Some(ElementType::Float), None);
        output
    }

    fn plain(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        self.op(op, inputs, Attributes::new())
    }

    fn normalised(&mut self, x: ValueId, channels: usize) -> ValueId {
        let (s, t, m) = (self.weight(&[channels]), self.weight(&[channels]), self.weight(&[channels]));
        let v = self.graph.add_constant("variance", Tensor::from_f32(&[channels], &vec![0.7; channels]));
        self.plain("BatchNormalization", &[x, s, t, m, v])
    }

    fn model(mut self, output: ValueId) -> Model {
        self.graph.outputs = vec![output];
        infer_shapes(&mut self.graph).unwrap();
        Model::from_bytes(self.graph.to_model().unwrap().encode_to_vec()).unwrap()
    }
}

fn name_of(model: &Model) -> String {
    model.proto().graph.as_ref().unwrap().output[0].name().to_owned()
}

fn group(n: i64) -> Attributes {
    Attributes::new().with("group", n)
}

/// Normalised, depthwise, gated by its own sigmoid, transposed before it is flattened: each has its own way to grow.
#[test]
fn what_lies_between_two_layers_grows_with_them() {
    let (mut b, x) = Builder::new(&[3, 6, 6]);
    let (w, bias) = (b.weight(&[4, 3, 3, 3]), b.weight(&[4]));
    let c = b.plain("Conv", &[x, w, bias]);
    let c = b.normalised(c, 4);
    let gate = b.plain("Sigmoid", &[c]);
    let c = b.plain("Mul", &[c, gate]);
    let (w, bias) = (b.weight(&[4, 1, 2, 2]), b.weight(&[4]));
    let c = b.op("Conv", &[c, w, bias], group(4));
    let slope = b.weight(&[4, 1, 1]);
    let c = b.plain("PRelu", &[c, slope]);
    let c = b.op("Transpose", &[c], Attributes::new().with("perm", vec![0i64, 2, 3, 1]));
    let c = b.plain("Flatten", &[c]);
    let w = b.weight(&[7, 36]);
    let bias = b.weight(&[7]);
    let h = b.op("Gemm", &[c, w, bias], Attributes::new().with("transB", 1i64));
    let h = b.plain("Tanh", &[h]);
    let w = b.weight(&[7, 2]);
    let y = b.plain("MatMul", &[h, w]);
    let model = b.model(y);
    let wider = widened(&model, &name_of(&model), 3.0);
    assert_eq!(wider.layers.len(), 2, "{:?}", wider.others);
    let graph = Graph::from_model(&wider.model).unwrap();
    let convolutions: Vec<(NodeId, i64)> =
        graph.nodes().filter(|(_, n)| n.is("Conv")).map(|(id, n)| (id, n.attributes.int("group", 1))).collect();
    let (_, before, after) = wider.layers[0];
    assert_eq!((before, convolutions[1].1), (4, after as i64));
}

/// Where the units of a layer meet others, or belong to a group, it says so and changes nothing.
#[test]
fn what_cannot_be_widened_is_named_with_its_reason() {
    let reason = |model: &Model| match widen(model, None, 10_000, 0, &session()).unwrap() {
        Ok(wider) => panic!("{:?}", wider.layers),
        Err(reason) => reason,
    };
    let (mut b, x) = Builder::new(&[4]);
    let w = b.weight(&[4, 4]);
    let h = b.plain("MatMul", &[x, w]);
    let sum = b.plain("Add", &[h, x]);
    let w = b.weight(&[4, 2]);
    let y = b.plain("MatMul", &[sum, w]);
    let residual = reason(&b.model(y));
    assert!(residual.contains("'MatMul_2': its output meets another one at 'Add_3' (Add)"), "{residual}");
    assert!(residual.contains("its units are the model's output"), "{residual}");

    let (mut b, x) = Builder::new(&[4, 5]);
    let w = b.weight(&[4, 2, 2]);
    let c = b.op("Conv", &[x, w], group(2));
    let w = b.weight(&[2, 4, 2]);
    let y = b.plain("Conv", &[c, w]);
    let grouped = reason(&b.model(y));
    assert!(grouped.contains("it is a grouped convolution"), "{grouped}");

    let small = repository("letters.onnx");
    let parameters = model_parameters(&Graph::from_model(&small).unwrap());
    for (wanted, why) in [(parameters, "no more parameters"), (parameters + 20, "less than one unit")] {
        let reason = widen(&small, Some("probabilities"), wanted, 0, &session()).unwrap().err().unwrap();
        assert!(reason.contains(why), "{reason}");
    }
}
