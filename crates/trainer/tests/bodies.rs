//! Weights that lie inside the sub-graphs of Scan, Loop and If: they train, and return to where the file has them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use common::numbers;
use dendrite_autodiff::{expr::Builder, gradients};
use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Shape, Tensor,
    bodies::Place,
    diff::{View, diff},
    graph::tensor_type,
    ops::cost::model_parameters,
    proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
        tensor_proto::DataLocation,
    },
};
use dendrite_runtime::{Session, SessionOptions};
use dendrite_trainer::{DataSet, Growth, Network, Options, Outcome, export, options::Method};
use dendrites::{fragment::Reading, trainable};
use prost::Message;

const STEPS: usize = 4;
const FEATURES: usize = 2;
const HIDDEN: usize = 5;

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Attributes) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        op_type: Some(op.to_owned()),
        input: names(inputs),
        output: names(outputs),
        attribute: attributes.as_slice().to_vec(),
        ..Default::default()
    }
}

fn plain(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    node(op, inputs, &[output], Attributes::new())
}

/// A `Constant` node whose contents are given by an attribute.
fn constant(output: &str, attributes: Attributes) -> NodeProto {
    node("Constant", &[], &[output], attributes)
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

fn value(name: &str, element_type: ElementType, dims: &[Dim]) -> ValueInfoProto {
    let r#type = Some(tensor_type(element_type, Some(&Shape(dims.to_vec()))));
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..Default::default() }
}

fn batch() -> Dim {
    Dim::Symbol("n".to_owned())
}

fn rows(name: &str, width: usize) -> ValueInfoProto {
    value(name, ElementType::Float, &[batch(), Dim::Known(width)])
}

/// A body whose initializers are `tensors`.
fn body(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    tensors: &[(&str, Tensor)],
) -> GraphProto {
    GraphProto {
        name: Some("body".to_owned()),
        node: nodes,
        input: inputs,
        output: outputs,
        initializer: tensors.iter().map(|(name, tensor)| tensor.to_proto(name)).collect(),
        ..Default::default()
    }
}

/// `nodes` make `features` [n, HIDDEN] of x [n, STEPS, FEATURES]; a linear head follows.
fn model(mut nodes: Vec<NodeProto>, tensors: &[(&str, Tensor)]) -> ModelProto {
    nodes.push(plain("Gemm", &["features", "head", "bias"], "y"));
    let x = value("x", ElementType::Float, &[batch(), Dim::Known(STEPS), Dim::Known(FEATURES)]);
    let mut graph = body(nodes, vec![x], vec![rows("y", 1)], tensors);
    for (name, tensor) in [("head", random(&[HIDDEN, 1], 91)), ("bias", random(&[1], 92))] {
        graph.initializer.push(tensor.to_proto(name));
    }
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// [`model`] at opset 8, where a Scan went over a batch: h' = tanh(v W + h R + b) for every sample, backwards, over as many
/// steps as `lengths` say.
fn of_a_batch() -> ModelProto {
    let vector = |name: &str, size: usize| value(name, ElementType::Float, &[Dim::Known(size)]);
    let step = vec![
        constant("R", Attributes::new().with("value", random(&[HIDDEN, HIDDEN], 31))),
        plain("MatMul", &["v", "W"], "input"),
        plain("MatMul", &["h", "R"], "recurrent"),
        plain("Add", &["input", "recurrent"], "sum"),
        plain("Add", &["sum", "b"], "biased"),
        plain("Tanh", &["biased"], "next"),
        plain("Identity", &["next"], "out"),
    ];
    let tensors = [("W", random(&[FEATURES, HIDDEN], 30)), ("b", random(&[HIDDEN], 32))];
    let inputs = vec![vector("h", HIDDEN), vector("v", FEATURES)];
    let step = body(step, inputs, vec![vector("next", HIDDEN), vector("out", HIDDEN)], &tensors);
    let attributes = Attributes::new().with("body", step).with("num_scan_inputs", 1).with("directions", vec![1]);
    let mut nodes = start();
    nodes.push(node("Scan", &["lengths", "state", "x"], &["last", "all"], attributes));
    nodes.push(node("ReduceSum", &["all"], &["total"], Attributes::new().with("axes", vec![1]).with("keepdims", 0)));
    nodes.push(plain("Add", &["last", "total"], "features"));
    let mut proto = model(nodes, &[("start", random(&[FEATURES, HIDDEN], 4))]);
    proto.opset_import[0].version = Some(8);
    proto.ir_version = Some(3);
    let graph = proto.graph.as_mut().unwrap();
    graph.input.push(value("lengths", ElementType::Int64, &[batch()]));
    // In IR 3 initializers are inputs too, in bodies as well.
    let scan = graph.node.iter_mut().find(|n| n.op_type() == "Scan").unwrap();
    let inside = scan.attribute.iter_mut().find_map(|a| a.g.as_mut()).unwrap();
    inputs_of_initializers(inside);
    inputs_of_initializers(graph);
    proto
}

fn inputs_of_initializers(graph: &mut GraphProto) {
    for tensor in &graph.initializer {
        let dims: Vec<Dim> = tensor.dims.iter().map(|n| Dim::Known(*n as usize)).collect();
        graph.input.push(value(tensor.name(), ElementType::Float, &dims));
    }
}

/// The lengths of some sequences, each of at least one step.
fn lengths(count: usize) -> Tensor {
    Tensor::int64s(&(0..count).map(|row| (row * 7 % STEPS) as i64 + 1).collect::<Vec<_>>())
}

/// The mean over time, and what a recurrence begins with.
fn start() -> Vec<NodeProto> {
    let mean = node("ReduceMean", &["x"], &["mean"], Attributes::new().with("axes", vec![1]).with("keepdims", 0));
    vec![mean, plain("MatMul", &["mean", "start"], "state")]
}

/// h' = PRelu(v W + h R + b) / 2, its weights in every form in which a body may hold a tensor. The bias keeps away from the kink.
fn scanned() -> ModelProto {
    let bias: Vec<f32> = numbers(HIDDEN, 3).iter().map(|v| v - 4.0).collect();
    let step = vec![
        constant("R", Attributes::new().with("value", random(&[HIDDEN, HIDDEN], 2))),
        constant("b", Attributes::new().with("value_floats", bias)),
        constant("slope", Attributes::new().with("value_float", 0.25f32)),
        constant("half", Attributes::new().with("value_float", 0.5f32)),
        constant("sizes", Attributes::new().with("value_ints", vec![-1, HIDDEN as i64])),
        plain("MatMul", &["v", "W"], "input"),
        plain("MatMul", &["h", "R"], "recurrent"),
        plain("Add", &["input", "recurrent"], "sum"),
        plain("Add", &["sum", "b"], "biased"),
        plain("PRelu", &["biased", "slope"], "active"),
        plain("Mul", &["active", "half"], "scaled"),
        plain("Reshape", &["scaled", "sizes"], "next"),
        plain("Identity", &["next"], "out"),
    ];
    let step = body(
        step,
        vec![rows("h", HIDDEN), rows("v", FEATURES)],
        vec![rows("next", HIDDEN), rows("out", HIDDEN)],
        &[("W", random(&[FEATURES, HIDDEN], 1))],
    );
    let attributes = Attributes::new().with("body", step).with("num_scan_inputs", 1).with("scan_input_axes", vec![1]);
    let mut nodes = start();
    nodes.push(node("Scan", &["state", "x"], &["features", "all"], attributes));
    model(nodes, &[("start", random(&[FEATURES, HIDDEN], 4))])
}

/// Three times s' = tanh(s w + b), times a scale in the last iteration and plus a shift before it: bodies within a body.
fn looped() -> ModelProto {
    let shifted = body(
        vec![plain("Add", &["t", "shift"], "then")],
        vec![],
        vec![rows("then", HIDDEN)],
        &[("shift", random(&[HIDDEN], 12))],
    );
    let scaled = vec![
        constant("scale", Attributes::new().with("value", random(&[HIDDEN], 13))),
        plain("Mul", &["t", "scale"], "else"),
    ];
    let scaled = body(scaled, vec![], vec![rows("else", HIDDEN)], &[]);
    let step = vec![
        constant("last", Attributes::new().with("value_int", 2)),
        plain("MatMul", &["s", "w"], "product"),
        plain("Add", &["product", "b"], "sum"),
        plain("Tanh", &["sum"], "t"),
        plain("Less", &["number", "last"], "early"),
        node("If", &["early"], &["next"], Attributes::new().with("then_branch", shifted).with("else_branch", scaled)),
        plain("Identity", &["go_on"], "go_on_too"),
    ];
    let step = body(
        step,
        vec![value("number", ElementType::Int64, &[]), value("go_on", ElementType::Bool, &[]), rows("s", HIDDEN)],
        vec![value("go_on_too", ElementType::Bool, &[]), rows("next", HIDDEN)],
        &[("w", random(&[HIDDEN, HIDDEN], 10)), ("b", random(&[HIDDEN], 11))],
    );
    let mut nodes = start();
    nodes.push(constant("count", Attributes::new().with("value_int", 3)));
    nodes.push(node("Loop", &["count", "", "state"], &["features"], Attributes::new().with("body", step)));
    model(nodes, &[("start", random(&[FEATURES, HIDDEN], 4))])
}

/// One of two branches that call their weights alike; the other is never taken.
fn branched() -> ModelProto {
    let branch = |output: &str, op: &str, seed: u64| {
        let nodes =
            vec![plain("MatMul", &["mean", "w"], &format!("{output}/p")), plain(op, &[&format!("{output}/p")], output)];
        body(nodes, vec![], vec![rows(output, HIDDEN)], &[("w", random(&[FEATURES, HIDDEN], seed))])
    };
    let mut nodes = start();
    nodes.pop();
    nodes.extend([
        node("ReduceMax", &["x"], &["largest"], Attributes::new().with("keepdims", 0)),
        constant("bound", Attributes::new().with("value_float", 100.0f32)),
        plain("Less", &["largest", "bound"], "small"),
        node(
            "If",
            &["small"],
            &["features"],
            Attributes::new()
                .with("then_branch", branch("tanh", "Tanh", 20))
                .with("else_branch", branch("sine", "Sin", 21)),
        ),
    ]);
    model(nodes, &[])
}

fn opened(proto: &ModelProto) -> Model {
    Model::from_bytes(proto.encode_to_vec()).unwrap()
}

/// Sequences, and a number that depends on their order.
fn data(count: usize, seed: u64) -> DataSet {
    let x = numbers(count * STEPS * FEATURES, seed);
    let target =
        |row: &[f32]| row.chunks(FEATURES).enumerate().map(|(t, v)| v[0] * (t as f32 - 1.0) + v[1].abs()).sum();
    let targets: Vec<f32> = x.chunks(STEPS * FEATURES).map(target).collect();
    let arrays = vec![
        ("x".to_owned(), Tensor::from_f32(&[count, STEPS, FEATURES], &x)),
        ("target".to_owned(), Tensor::from_f32(&[count], &targets)),
    ];
    DataSet::from_arrays("rows", arrays.into_iter().chain([("lengths".to_owned(), lengths(count))]).collect()).unwrap()
}

fn trained(model: &Model, folder: &Path, train: &str) -> Outcome {
    let options = Options {
        method: Method::Gd,
        epochs: 8,
        dendrites: 0,
        lr: Some(0.02),
        // It would change the weights of a branch that is never taken.
        weight_decay: Some(0.0),
        train: train.to_owned(),
        ..Options::default()
    };
    common::grown(model, [&data(200, 1), &data(100, 2)], None, &options, folder)
}

/// The constants that were brought out of the bodies, by their places.
fn inner(model: &Model) -> BTreeMap<Place, Tensor> {
    let mut graph = Graph::from_model(model).unwrap();
    dendrites::hoist(&mut graph).unwrap();
    let constants = graph.values().filter_map(|(id, v)| Some((graph.place_of(id)?.clone(), v.constant.clone()?)));
    constants.collect()
}

fn names(model: &Model) -> Vec<String> {
    inner(model).keys().map(Place::to_string).collect()
}

/// The output of a file for some rows.
fn predictions(file: &[u8], rows: usize) -> Vec<f32> {
    let (x, lengths) = (random(&[rows, STEPS, FEATURES], 5), lengths(rows));
    let mut session = Session::from_bytes(file, &SessionOptions { threads: 1, ..Default::default() }).unwrap();
    let read = session.inputs().len();
    session.run(&[("x", &x), ("lengths", &lengths)][..read]).unwrap()[0].1.to_f32().unwrap()
}

/// Train a model, whose inner weights those of `changing` are, and hold the result against it.
fn trains(proto: &ModelProto, changing: &[&str]) {
    let model = opened(proto);
    let folder = tempfile::tempdir().unwrap();
    let outcome = trained(&model, &folder.path().join("run"), "all");
    let loss = |side: &dendrite_trainer::summary::Side| side.val.0["loss"];
    let (before, after) = (loss(&outcome.summary.before), loss(&outcome.summary.after));
    println!("loss {before} to {after}, off by {:e}", outcome.summary.parity.ort);
    assert!(outcome.improved && after < 0.7 * before, "{before} to {after}");
    assert!(outcome.summary.parity.ort <= 1e-6, "{:e}", outcome.summary.parity.ort);

    let grown = Model::open(folder.path().join("run").join("model.onnx")).unwrap();
    let (old, new) = (inner(&model), inner(&grown));
    assert!(old.keys().eq(new.keys()));
    let differing: Vec<String> = old.iter().filter(|(k, v)| new[k] != **v).map(|(k, _)| k.to_string()).collect();
    assert_eq!(differing, changing);

    // A diff knows them, and nothing of the nodes.
    let told = diff(&View::of(&model), &View::of(&grown)).unwrap();
    assert!(told.nodes.is_empty() && told.other.is_empty(), "{told:?}");
    let weights: Vec<&str> = told.changed_weights().map(|c| c.name.as_str()).collect();
    assert!(changing.iter().all(|name| weights.contains(name)), "{weights:?}");

    // With the old numbers and without metadata it is the old file, byte for byte.
    let mut restored = dendrite_onnx::Patch::new();
    for (place, tensor) in &old {
        restored.replace_in_body(place, tensor.clone());
    }
    for tensor in &model.graph().initializer {
        restored.replace_initializer(tensor.name(), model.tensor(tensor).unwrap());
    }
    let restored = restored.apply(&grown).unwrap();
    let mut restored = ModelProto::decode(&restored[..]).unwrap();
    restored.metadata_props.clear();
    assert_eq!(restored.encode_to_vec(), model.bytes().to_vec());
}

#[test]
fn weights_in_a_scan_train() {
    let proto = scanned();
    let model = opened(&proto);
    let places = ["features/body/R", "features/body/W", "features/body/b", "features/body/slope"];
    assert_eq!(names(&model), places);
    trains(&proto, &places);
}

#[test]
fn weights_in_a_loop_and_in_the_branches_inside_it_train() {
    let proto = looped();
    let places = [
        "features/body/next/else_branch/scale",
        "features/body/next/then_branch/shift",
        "features/body/b",
        "features/body/w",
    ];
    let mut sorted = places.to_vec();
    sorted.sort_by_key(|p| (p.matches('/').count(), *p));
    let mut found = names(&opened(&proto));
    found.sort_by_key(|p| (p.matches('/').count(), p.clone()));
    assert_eq!(found, sorted);
    trains(&proto, &names(&opened(&proto)).iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_branch_that_is_taken_trains() {
    let proto = branched();
    assert_eq!(names(&opened(&proto)), ["features/else_branch/w", "features/then_branch/w"]);
    trains(&proto, &["features/then_branch/w"]);
}

#[test]
fn a_scan_over_a_batch_trains() {
    let proto = of_a_batch();
    let places = ["last/body/R", "last/body/W", "last/body/b"];
    assert_eq!(names(&opened(&proto)), places);
    trains(&proto, &places);
}

#[test]
fn a_pattern_chooses_among_them() {
    let model = opened(&scanned());
    let folder = tempfile::tempdir().unwrap();
    trained(&model, &folder.path().join("run"), "features/body/[RW]");
    let grown = Model::open(folder.path().join("run").join("model.onnx")).unwrap();
    let told = diff(&View::of(&model), &View::of(&grown)).unwrap();
    let changed: Vec<&str> = told.changed_weights().map(|c| c.name.as_str()).collect();
    assert_eq!(changed, ["features/body/W", "features/body/R"]);
}

#[test]
fn parameters_count_wherever_they_lie() {
    let head = HIDDEN + 1;
    let start = FEATURES * HIDDEN;
    let expected = [
        (scanned(), head + start + FEATURES * HIDDEN + HIDDEN * HIDDEN + HIDDEN),
        (looped(), head + start + HIDDEN * HIDDEN + 3 * HIDDEN),
        (branched(), head + 2 * FEATURES * HIDDEN),
        (of_a_batch(), head + start + FEATURES * HIDDEN + HIDDEN * HIDDEN + HIDDEN),
    ];
    for (proto, count) in expected {
        let model = opened(&proto);
        assert_eq!(model_parameters(&Graph::from_model(&model).unwrap()), count, "as in the file");
        assert_eq!(Network::prepare(&model, None).unwrap().parameters, count, "as it trains");
    }
}

#[test]
fn gradients_agree_with_differences() {
    for proto in [scanned(), looped(), branched(), of_a_batch()] {
        let network = Network::prepare(&opened(&proto), None).unwrap();
        let rows = 6;
        let mut graph = network.graph.clone();
        let weights = trainable::weights(&graph);
        let values: Vec<(String, Tensor)> =
            weights.iter().map(|v| (graph.name_of(*v).to_owned(), graph.constant_to_input(*v).unwrap())).collect();
        assert!(weights.iter().any(|v| graph.place_of(*v).is_some()));
        let (x, factors) = (random(&[rows, STEPS, FEATURES], 6), random(&[rows, 1], 7));
        let (lengths, takes_lengths) = (lengths(rows), graph.find("lengths").is_some());
        let y = network.prediction;
        let loss =
            Builder::scope(&mut graph, "loss", |b| (b.value(y) * b.constant(factors.clone())).sum(&[0, 1], false).id());
        let found = gradients(&mut graph, loss, &weights, &HashSet::new()).unwrap();
        graph.outputs = vec![y];
        for gradient in found.iter().flatten() {
            let output = graph.op("Identity", "gradient/output", &[*gradient], Attributes::new());
            graph.set_type(output, Some(ElementType::Float), None);
            graph.outputs.push(output);
        }
        let options = SessionOptions { threads: 1, ..Default::default() };
        let mut session = Session::from_graph(&graph, &options).unwrap();
        let mut run = |values: &[(String, Tensor)]| {
            let mut feeds: Vec<(&str, &Tensor)> = values.iter().map(|(n, t)| (n.as_str(), t)).collect();
            feeds.push(("x", &x));
            if takes_lengths {
                feeds.push(("lengths", &lengths));
            }
            session.run(&feeds).unwrap()
        };
        let computed = run(&values);
        let mut gradients = computed[1..].iter().map(|(_, tensor)| tensor.to_f32().unwrap());
        let factors = factors.to_f32().unwrap();
        for (index, has) in found.iter().enumerate() {
            let name = values[index].0.clone();
            // The branch that is not taken has a gradient too: zeros.
            let gradient = if has.is_some() { gradients.next().unwrap() } else { vec![0.0; values[index].1.len()] };
            let direction = numbers(gradient.len(), 40 + index as u64);
            let mut moved = |by: f32| -> f64 {
                let mut values = values.clone();
                let shifted: Vec<f32> =
                    values[index].1.to_f32().unwrap().iter().zip(&direction).map(|(v, d)| v + by * d).collect();
                values[index].1 = Tensor::from_f32(values[index].1.shape(), &shifted);
                let y = run(&values)[0].1.to_f32().unwrap();
                y.iter().zip(&factors).map(|(y, f)| f64::from(*y) * f64::from(*f)).sum()
            };
            let step = 2e-3;
            let difference = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let off = (difference - expected).abs() / expected.abs().max(1.0);
            println!("{name}: {expected} by the rule, {difference} by differences");
            assert!(off < 1e-3, "{name}: {expected} by the rule, {difference} by differences");
            assert!(expected != 0.0 || name.contains("else_branch/w"), "{name} has no gradient");
        }
    }
}

#[test]
fn what_has_not_changed_returns_byte_for_byte() {
    for proto in [scanned(), looped(), branched(), of_a_batch()] {
        let model = opened(&proto);
        let network = Network::prepare(&model, None).unwrap();
        let file = |growth: &Growth| export::edit(&model, &network, growth, None).unwrap().apply().unwrap();
        assert_eq!(file(&Growth::default()), model.bytes().to_vec());
        let mut same = Growth::default();
        for id in trainable::weights(&network.graph) {
            let tensor = network.graph.constant(id).unwrap().clone();
            same.weights.insert(network.graph.name_of(id).to_owned(), tensor);
        }
        assert_eq!(file(&same), model.bytes().to_vec());
        // Numbers put in by hand are those that the file computes with.
        for (name, tensor) in &mut same.weights {
            let moved: Vec<f32> = tensor.to_f32().unwrap().iter().map(|v| v * 1.5 + 0.1).collect();
            *tensor = Tensor::from_f32(tensor.shape(), &moved);
            assert!(network.graph.find(name).is_some());
        }
        let grown = network.grown(&same, Reading::Direct).unwrap();
        let grown = grown.to_model().unwrap().encode_to_vec();
        let (a, b) = (predictions(&file(&same), 7), predictions(&grown, 7));
        assert!(export::relative_difference(&a, &b) <= 1e-6);
        assert!(export::relative_difference(&a, &predictions(model.bytes(), 7)) > 1e-2);
    }
}

#[test]
fn external_data_of_a_sub_graph_trains_too() {
    let mut proto = scanned();
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let mut outside = |tensor: &mut TensorProto| {
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        let raw = tensor.raw_data.take().unwrap();
        tensor.data_location = Some(DataLocation::External as i32);
        tensor.external_data = vec![
            entry("location", "weights.bin".to_owned()),
            entry("offset", bytes.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        bytes.extend_from_slice(&raw);
    };
    let scan = proto.graph.as_mut().unwrap().node.iter_mut().find(|n| n.op_type() == "Scan").unwrap();
    let inside = scan.attribute.iter_mut().find_map(|a| a.g.as_mut()).unwrap();
    outside(&mut inside.initializer[0]);
    outside(inside.node[0].attribute[0].t.as_mut().unwrap());
    std::fs::write(folder.path().join("weights.bin"), &bytes).unwrap();
    std::fs::write(folder.path().join("model.onnx"), proto.encode_to_vec()).unwrap();
    let model = Model::open(folder.path().join("model.onnx")).unwrap();
    assert_eq!(inner(&model), inner(&opened(&scanned())));

    let run = folder.path().join("run");
    let outcome = trained(&model, &run, "all");
    assert!(outcome.improved && outcome.summary.parity.ort <= 1e-6, "{:?}", outcome.summary.parity);
    let grown = Model::open(run.join("model.onnx")).unwrap();
    let changed = std::fs::read(run.join("weights.bin")).unwrap();
    assert!(changed.len() == bytes.len() && changed != bytes);
    let (old, new) = (inner(&model), inner(&grown));
    assert!(old.iter().all(|(place, tensor)| new[place] != *tensor));
    // The same model with everything in its file trains to the same numbers.
    let embedded = tempfile::tempdir().unwrap();
    trained(&opened(&scanned()), &embedded.path().join("run"), "all");
    assert_eq!(new, inner(&Model::open(embedded.path().join("run").join("model.onnx")).unwrap()));
}
