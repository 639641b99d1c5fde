//! How many nodes the gradients of well-known architectures take.
//!
//! `size.txt` holds the operators of each; `UPDATE_SIZES=1 cargo test -p dendrite-autodiff --test size` writes it anew. What
//! grows there is to be looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use common::weighted_sum;
use dendrite_autodiff::gradients;
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};
use dendrite_runtime::infer_shapes;

/// A network whose weights are inputs of the graph.
struct Network {
    graph: Graph,
    weights: Vec<ValueId>,
}

fn a() -> Attributes {
    Attributes::new()
}

impl Network {
    fn new(name: &str, input: &[usize]) -> (Self, ValueId) {
        let mut graph = Graph::new(name, WORKING_OPSET);
        let x = graph.add_input("x", ElementType::Float, Shape::known(input));
        (Network { graph, weights: Vec::new() }, x)
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("weight_{}", self.weights.len());
        let weight = self.graph.add_input(&name, ElementType::Float, Shape::known(shape));
        self.weights.push(weight);
        weight
    }

    fn op(&mut self, op: &str, inputs: &[ValueId], attributes: Attributes) -> ValueId {
        self.graph.op(op, op, inputs, attributes)
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_constant("ints", Tensor::int64s(values))
    }

    /// A convolution and its batch normalisation, as exported for inference.
    fn conv(&mut self, x: ValueId, [from, to]: [usize; 2], kernel: usize, stride: i64, groups: usize) -> ValueId {
        let w = self.weight(&[to, from / groups, kernel, kernel]);
        let pad = (kernel / 2) as i64;
        let attributes = a()
            .with("kernel_shape", vec![kernel as i64; 2])
            .with("strides", vec![stride; 2])
            .with("pads", vec![pad; 4])
            .with("group", groups as i64);
        let y = self.op("Conv", &[x, w], attributes);
        let (scale, shift) = (self.weight(&[to]), self.weight(&[to]));
        let statistics =
            ["mean", "variance"].map(|n| self.graph.add_constant(n, Tensor::from_f32(&[to], &vec![1.0; to])));
        self.op("BatchNormalization", &[y, scale, shift, statistics[0], statistics[1]], a())
    }

    fn linear(&mut self, x: ValueId, from: usize, to: usize) -> ValueId {
        let (w, b) = (self.weight(&[from, to]), self.weight(&[to]));
        let y = self.op("MatMul", &[x, w], a());
        self.op("Add", &[y, b], a())
    }

    fn layer_norm(&mut self, x: ValueId, width: usize) -> ValueId {
        let (scale, shift) = (self.weight(&[width]), self.weight(&[width]));
        self.op("LayerNormalization", &[x, scale, shift], a().with("axis", -1))
    }

    /// Counts of the operators of the network, and of those that its gradients add.
    fn count(mut self, output: ValueId) -> [BTreeMap<String, usize>; 2] {
        infer_shapes(&mut self.graph).unwrap();
        let shape = self.graph.value(output).shape.clone().unwrap().as_known().unwrap();
        let seed = Tensor::filled(ElementType::Float, &shape, 1.0);
        let loss = weighted_sum(&mut self.graph, &[(output, seed)]);
        let forward = operators(&self.graph);
        let found = gradients(&mut self.graph, loss, &self.weights, &HashSet::new()).unwrap();
        // Some are one value: two shifts that are added to one sum have the same gradient.
        let wanted: BTreeSet<ValueId> = found.into_iter().map(Option::unwrap).collect();
        self.graph.outputs = [loss].into_iter().chain(wanted).collect();
        let whole = operators(&self.graph);
        self.graph.prune();
        assert_eq!(operators(&self.graph), whole, "nodes that nothing needs");
        let before = |op: &str| forward.get(op).copied().unwrap_or(0);
        let added = whole.into_iter().map(|(op, n)| (n - before(&op), op)).filter(|(n, _)| *n > 0);
        let added = added.map(|(n, op)| (op, n)).collect();
        [forward, added]
    }
}

fn operators(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, node) in graph.nodes() {
        *counts.entry(node.op.clone()).or_insert(0) += 1;
    }
    counts
}

/// ResNet-18 on 8 images of 224 x 224.
fn resnet_18() -> [BTreeMap<String, usize>; 2] {
    let (mut net, x) = Network::new("resnet", &[8, 3, 224, 224]);
    let x = net.conv(x, [3, 64], 7, 2, 1);
    let x = net.op("Relu", &[x], a());
    let window = a().with("kernel_shape", vec![3i64; 2]).with("strides", vec![2i64; 2]).with("pads", vec![1i64; 4]);
    let mut x = net.op("MaxPool", &[x], window);
    let mut channels = 64;
    for (to, stride) in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)] {
        let y = net.conv(x, [channels, to], 3, stride, 1);
        let y = net.op("Relu", &[y], a());
        let y = net.conv(y, [to, to], 3, 1, 1);
        let shortcut = if channels == to { x } else { net.conv(x, [channels, to], 1, stride, 1) };
        let sum = net.op("Add", &[y, shortcut], a());
        x = net.op("Relu", &[sum], a());
        channels = to;
    }
    let x = net.op("GlobalAveragePool", &[x], a());
    let x = net.op("Flatten", &[x], a());
    let (w, b) = (net.weight(&[1000, 512]), net.weight(&[1000]));
    let y = net.op("Gemm", &[x, w, b], a().with("transB", 1));
    net.count(y)
}

/// MobileNetV2 on 8 images of 224 x 224.
fn mobilenet_v2() -> [BTreeMap<String, usize>; 2] {
    let (mut net, x) = Network::new("mobilenet", &[8, 3, 224, 224]);
    let bounds = [0.0, 6.0].map(|v| net.graph.add_constant("bound", Tensor::from_f32(&[], &[v])));
    let relu6 = |net: &mut Network, x: ValueId| net.op("Clip", &[x, bounds[0], bounds[1]], a());
    let x = net.conv(x, [3, 32], 3, 2, 1);
    let mut x = relu6(&mut net, x);
    let mut channels = 32;
    let blocks =
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    for (expansion, to, repeats, first) in blocks {
        for repeat in 0..repeats {
            let (wide, stride) = (channels * expansion, if repeat == 0 { first } else { 1 });
            let mut y = x;
            if expansion > 1 {
                y = net.conv(y, [channels, wide], 1, 1, 1);
                y = relu6(&mut net, y);
            }
            y = net.conv(y, [wide, wide], 3, stride, wide);
            y = relu6(&mut net, y);
            y = net.conv(y, [wide, to], 1, 1, 1);
            x = if stride == 1 && channels == to { net.op("Add", &[x, y], a()) } else { y };
            channels = to;
        }
    }
    let x = net.conv(x, [channels, 1280], 1, 1, 1);
    let x = relu6(&mut net, x);
    let x = net.op("GlobalAveragePool", &[x], a());
    let x = net.op("Flatten", &[x], a());
    let (w, b) = (net.weight(&[1000, 1280]), net.weight(&[1000]));
    let y = net.op("Gemm", &[x, w, b], a().with("transB", 1));
    net.count(y)
}

/// A layer of BERT base on 8 sequences of 128 tokens, exported with opset 20.
fn bert_layer() -> [BTreeMap<String, usize>; 2] {
    let (batch, length, width, heads) = (8, 128, 768, 12);
    let (mut net, input) = Network::new("bert", &[batch, length, width]);
    // The layer's input is trained too, as it is where there are layers before it.
    net.weights.push(input);
    let x = net.op("Identity", &[input], a());
    let split = net.ints(&[0, 0, heads, (width as i64) / heads]);
    let joined = net.ints(&[0, 0, width as i64]);
    let root = net.graph.add_constant("root", Tensor::from_f32(&[], &[8.0]));
    let mask = net.graph.add_input("mask", ElementType::Float, Shape::known(&[batch, 1, 1, length]));
    let head = |net: &mut Network, order: [i64; 4]| {
        let v = net.linear(x, width, width);
        let v = net.op("Reshape", &[v, split], a());
        net.op("Transpose", &[v], a().with("perm", order.to_vec()))
    };
    let query = head(&mut net, [0, 2, 1, 3]);
    let key = head(&mut net, [0, 2, 3, 1]);
    let value = head(&mut net, [0, 2, 1, 3]);
    let scores = net.op("MatMul", &[query, key], a());
    let scores = net.op("Div", &[scores, root], a());
    let scores = net.op("Add", &[scores, mask], a());
    let shares = net.op("Softmax", &[scores], a().with("axis", -1));
    let mixed = net.op("MatMul", &[shares, value], a());
    let mixed = net.op("Transpose", &[mixed], a().with("perm", vec![0i64, 2, 1, 3]));
    let mixed = net.op("Reshape", &[mixed, joined], a());
    let mixed = net.linear(mixed, width, width);
    let sum = net.op("Add", &[mixed, x], a());
    let middle = net.layer_norm(sum, width);
    let wide = net.linear(middle, width, 4 * width);
    let wide = net.op("Gelu", &[wide], a());
    let narrow = net.linear(wide, 4 * width, width);
    let sum = net.op("Add", &[narrow, middle], a());
    let y = net.layer_norm(sum, width);
    net.count(y)
}

#[test]
fn gradients_take_no_more_nodes_than_they_did() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/size.txt");
    let mut text = String::new();
    for (name, [forward, backward]) in
        [("ResNet-18", resnet_18()), ("MobileNetV2", mobilenet_v2()), ("BERT layer", bert_layer())]
    {
        let total = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
        let _ = writeln!(text, "{name}: {} nodes, {} more for gradients", total(&forward), total(&backward));
        for (op, count) in &backward {
            let _ = writeln!(text, "    {op} {count}");
        }
    }
    if std::env::var_os("UPDATE_SIZES").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap());
}
