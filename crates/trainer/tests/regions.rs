//! Models of an older opset with operators that ONNX Runtime has no kernel of at the working opset: the working copy runs,
//! trains and grows, the file keeps its opset and its nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::numbers;
use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Shape, Tensor, ValueId,
    proto::{ModelProto, NodeProto},
};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{DataSet, Network, Options, network::parameters, options::Method, wider::widen};
use dendrites::trainable;
use prost::Message;

const OPSET: i64 = 16;
const CHANNELS: usize = 3;

fn a() -> Attributes {
    Attributes::new()
}

fn random(graph: &mut Graph, name: &str, shape: &[usize], seed: u64) -> ValueId {
    graph.add_constant(name, Tensor::from_f32(shape, &numbers(shape.iter().product(), seed)))
}

/// A convolution of x [batch, 2, 6, 6], what `pool` makes of its channels, and a linear layer of `features` numbers.
fn model(batch: Dim, features: usize, pool: impl FnOnce(&mut Graph, ValueId, ValueId) -> ValueId) -> Model {
    let mut graph = Graph::new("regions", OPSET);
    let known = |dims: [usize; 3]| dims.map(Dim::Known);
    let shape = Shape([batch.clone()].into_iter().chain(known([2, 6, 6])).collect());
    let x = graph.add_input("x", ElementType::Float, shape);
    let w = random(&mut graph, "conv.weight", &[CHANNELS, 2, 3, 3], 1);
    let b = random(&mut graph, "conv.bias", &[CHANNELS], 2);
    let h = graph.op("Conv", "conv", &[x, w, b], a().with("pads", vec![1, 1, 1, 1]));
    let h = graph.op("Relu", "positive", &[h], a());
    let h = pool(&mut graph, x, h);
    let h = graph.op("Flatten", "flat", &[h], a());
    let w = random(&mut graph, "head.weight", &[features, 1], 3);
    let b = random(&mut graph, "head.bias", &[1], 4);
    let y = graph.op("Gemm", "y", &[h, w, b], a());
    graph.set_type(y, Some(ElementType::Float), Some(Shape(vec![batch, Dim::Known(1)])));
    graph.outputs = vec![y];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

/// The numbers of all samples [n], and one region for each of them [n, 4].
fn regions(graph: &mut Graph, x: ValueId) -> (ValueId, ValueId) {
    let count = graph.op("Shape", "count", &[x], a().with("end", 1));
    let [zero, one] = [0, 1].map(|n| graph.add_constant("number", Tensor::from_i64(&[], &[n])));
    let axis = graph.add_constant("axis", Tensor::int64s(&[0]));
    let limit = graph.op("Squeeze", "limit", &[count, axis], a());
    let samples = graph.op("Range", "samples", &[zero, limit, one], a());
    let four = graph.add_constant("four", Tensor::int64s(&[4]));
    let shape = graph.op("Concat", "regions_shape", &[count, four], a().with("axis", 0));
    let region = graph.add_constant("region", Tensor::from_f32(&[1, 4], &[0.5, 1.0, 5.0, 4.5]));
    (samples, graph.op("Expand", "regions", &[region, shape], a()))
}

fn aligned(batch: Dim, ratio: i64) -> Model {
    model(batch, 4 * CHANNELS, |graph, x, h| {
        let (samples, regions) = regions(graph, x);
        let attributes = a().with("output_height", 2).with("output_width", 2).with("sampling_ratio", ratio);
        graph.op("RoiAlign", "pooled", &[h, regions, samples], attributes)
    })
}

fn max_pooled(batch: Dim) -> Model {
    model(batch, 4 * CHANNELS, |graph, x, h| {
        let (samples, regions) = regions(graph, x);
        let samples = graph.op("Cast", "samples_as_floats", &[samples], a().with("to", ElementType::Float as i64));
        let axis = graph.add_constant("column", Tensor::int64s(&[1]));
        let column = graph.op("Unsqueeze", "samples_column", &[samples, axis], a());
        let rows = graph.op("Concat", "rows", &[column, regions], a().with("axis", 1));
        graph.op("MaxRoiPool", "pooled", &[h, rows], a().with("pooled_shape", vec![2, 2]))
    })
}

fn normed(batch: Dim) -> Model {
    model(batch, CHANNELS, |graph, _, h| graph.op("GlobalLpPool", "pooled", &[h], a().with("p", 2)))
}

/// Images, and a number that depends on where they are bright.
fn data(count: usize, seed: u64) -> DataSet {
    let x = numbers(count * 72, seed);
    let target = |image: &[f32]| {
        let bright = |v: &[f32]| v.iter().map(|v| v.max(0.0)).sum::<f32>() / v.len() as f32;
        (6.0 * (bright(&image[..36]) - bright(&image[36..]))).abs() + 1.0
    };
    let targets: Vec<f32> = x.chunks(72).map(target).collect();
    let arrays = vec![
        ("x".to_owned(), Tensor::from_f32(&[count, 2, 6, 6], &x)),
        ("target".to_owned(), Tensor::from_f32(&[count], &targets)),
    ];
    DataSet::from_arrays("images", arrays).unwrap()
}

/// The nodes of a file without those that dendrites are made of.
fn own_nodes(proto: &ModelProto, original: &ModelProto) -> Vec<NodeProto> {
    let names = |proto: &ModelProto| -> Vec<String> {
        proto.graph.as_ref().unwrap().node.iter().map(|n| n.name().to_owned()).collect()
    };
    let known = names(original);
    proto.graph.as_ref().unwrap().node.iter().filter(|n| known.iter().any(|name| name == n.name())).cloned().collect()
}

fn grows(model: &Model, op: &str) {
    let network = Network::prepare(model, None).unwrap();
    assert!(network.graph.nodes().all(|(_, n)| n.op != op), "{op} is still there");
    let sites: Vec<&str> = network.sites.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(sites, ["conv", "y"]);
    let weights = trainable::weights(&network.graph);
    let names: Vec<&str> = weights.iter().map(|v| network.graph.name_of(*v)).collect();
    assert_eq!(names, ["conv.bias", "conv.weight", "head.bias", "head.weight"]);
    assert_eq!(network.parameters, parameters(model).unwrap());

    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        method: Method::Gd,
        epochs: 12,
        dendrites: 1,
        lr: Some(0.02),
        // The cycle with dendrites alone is held against the input.
        finetune_first: false,
        ..Options::default()
    };
    let outcome =
        common::grown(model, [&data(200, 1), &data(100, 2)], Some(&data(50, 3)), &options, &folder.path().join("run"));
    let (before, after) = (&outcome.summary.before, &outcome.summary.after);
    println!("{op}: {:?} to {:?}, off by {:e}", before.val, after.val, outcome.summary.parity.ort);
    assert!(outcome.improved && after.val.0["loss"] < 0.8 * before.val.0["loss"]);
    assert!(outcome.summary.kept_dendrites > 0 && after.parameters > before.parameters);
    assert!(outcome.summary.parity.ort <= 1e-5, "{:e}", outcome.summary.parity.ort);
    // The wider control sees through a norm of channels; of what reads pixels it says that it does not.
    match widen(model, None, after.parameters, 0, &SessionOptions::default()).unwrap() {
        Ok(wider) => assert!(op == "GlobalLpPool" && wider.parameters > before.parameters, "{wider:?}"),
        Err(reason) => assert!(op != "GlobalLpPool" && reason.contains("'conv'"), "{reason}"),
    }

    // The file's own nodes, but for outputs that dendrites are added to, at the file's own opset.
    let grown = Model::open(folder.path().join("run").join("model.onnx")).unwrap();
    assert_eq!(grown.opset(""), Some(OPSET));
    let (kept, old) = (own_nodes(grown.proto(), model.proto()), own_nodes(model.proto(), model.proto()));
    let described = |nodes: &[NodeProto]| -> Vec<(String, Vec<String>, usize)> {
        nodes.iter().map(|n| (n.op_type().to_owned(), n.input.clone(), n.attribute.len())).collect()
    };
    assert_eq!(described(&kept), described(&old));
    assert!(kept.iter().any(|n| n.op_type() == op));
}

fn batch() -> Dim {
    Dim::Symbol("n".to_owned())
}

#[test]
fn a_model_that_aligns_regions_grows() {
    grows(&aligned(batch(), 2), "RoiAlign");
}

#[test]
fn a_model_that_reads_each_region_at_points_of_its_own_grows() {
    grows(&aligned(batch(), 0), "RoiAlign");
}

#[test]
fn a_model_that_pools_regions_grows() {
    grows(&max_pooled(batch()), "MaxRoiPool");
}

#[test]
fn a_model_with_a_global_norm_grows() {
    grows(&normed(batch()), "GlobalLpPool");
}

#[test]
fn a_fixed_batch_is_freed() {
    for (model, op) in [(aligned(Dim::Known(4), 2), "RoiAlign"), (normed(Dim::Known(4)), "GlobalLpPool")] {
        let network = Network::prepare(&model, None).unwrap();
        assert_eq!(network.fixed_batch, Some(4));
        grows(&model, op);
    }
}
