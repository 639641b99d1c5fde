//! A grown and trained network exports to a file that computes the same, on real models.
//! `DENDRITE_MODELS=FOLDER cargo test -p dendrite-trainer --test export` adds every .onnx file below a folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use dendrite_onnx::{ElementType, Model, Severity, Tensor, check};
use dendrite_runtime::{Optimization, Session, SessionOptions};
use dendrite_trainer::{Growth, Input, Network, Request, Samples, export, feed};
use dendrites::{Activation, Connection, DendriteSet, fragment::Reading, trainable};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 3;

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), files));
    } else if path.extension().is_some_and(|e| e == "onnx") {
        files.push(path.to_owned());
    }
}

fn models() -> Vec<(String, Model)> {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), &mut files);
    assert_eq!(files.len(), 4);
    if let Some(folder) = env::var_os("DENDRITE_MODELS") {
        collect(Path::new(&folder), &mut files);
    }
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), Model::open(path).unwrap())).collect()
}

fn random(rng: &mut impl Rng, shape: &[usize], scale: f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| scale * (2.0 * rng.random::<f32>() - 1.0)).collect();
    Tensor::from_f32(shape, &values)
}

fn samples(network: &Network, rng: &mut impl Rng) -> Samples {
    let scaled = network.graph.nodes().any(|(_, n)| n.op == "Scaler");
    let arrays = network.graph.inputs.iter().map(|id| {
        let value = network.graph.value(*id);
        let mut shape: Vec<usize> = value.shape.as_ref().unwrap().0.iter().map(|d| d.known().unwrap_or(16)).collect();
        shape[0] = ROWS;
        let len = shape.iter().product::<usize>();
        let tensor = match value.element_type.unwrap() {
            // Features of letters lie in 0..15, pixels of digits in 0..255: beyond, softmax would hide every difference.
            ElementType::Float if scaled || shape.ends_with(&[28, 28]) => {
                let top = if scaled { 15.0 } else { 255.0 };
                let values: Vec<f32> = (0..len).map(|_| top * rng.random::<f32>()).collect();
                Tensor::from_f32(&shape, &values)
            }
            ElementType::Float => random(rng, &shape, 1.0),
            _ if value.name.contains("mask") => Tensor::from_i64(&shape, &vec![1; len]),
            _ => Tensor::from_i64(&shape, &(0..len as i64).map(|i| 1000 + i).collect::<Vec<_>>()),
        };
        (value.name.clone(), tensor)
    });
    let inputs = Input::of_graph(&network.graph, &network.graph.inputs);
    Samples::from_arrays("random", arrays.collect(), &Request { inputs, ..Request::default() }).unwrap()
}

/// Every weight of the model a little off, and `count` sets at every site.
fn growth(network: &Network, connection: Connection, count: usize, rng: &mut impl Rng) -> Growth {
    let mut growth = Growth::default();
    for id in trainable::weights(&network.graph) {
        let tensor = network.graph.constant(id).unwrap();
        let values: Vec<f32> =
            tensor.to_f32().unwrap().iter().map(|v| v * (1.0 + 0.02 * (2.0 * rng.random::<f32>() - 1.0))).collect();
        growth.weights.insert(network.graph.name_of(id).to_owned(), Tensor::from_f32(tensor.shape(), &values));
    }
    for index in 0..count {
        growth.sets.extend(network.sites.iter().map(|site| {
            // Recurrent operators take no others.
            let connection = if site.kind.is_recurrent() { Connection::Layer } else { connection };
            DendriteSet {
                site: site.name.clone(),
                index,
                connection,
                activation: [Activation::Relu, Activation::Tanh, Activation::Sigmoid][index % 3],
                width: match connection {
                    Connection::Neuron => site.channels,
                    Connection::Layer => 2usize.next_multiple_of(site.groups),
                },
            }
        }));
    }
    for set in &growth.sets {
        let site = network.site(&set.site).unwrap();
        for (name, shape) in set.tensors(site, &growth.sets) {
            let scale = match name.rsplit('/').next().unwrap() {
                "weight" => 1.0 / (site.fan_in() as f32).sqrt(),
                "connection" => 0.1,
                _ => 0.5,
            };
            growth.weights.insert(name, random(rng, &shape, scale));
        }
    }
    growth
}

#[test]
fn the_exported_file_is_the_trained_network() {
    for (name, model) in models() {
        let network = Network::prepare(&model, None).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let samples = samples(&network, &mut rng);
        let tensors = feed::rows(&samples, &(0..ROWS).collect::<Vec<_>>()).unwrap();
        let feeds: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        for optimization in [Optimization::Off, Optimization::All] {
            let options = SessionOptions { threads: 2, optimization, ..Default::default() };
            for (connection, count) in
                [(Connection::Neuron, 0), (Connection::Neuron, 1), (Connection::Neuron, 3), (Connection::Layer, 2)]
            {
                let growth = growth(&network, connection, count, &mut rng);
                let graph = network.grown(&growth, Reading::Direct).unwrap();
                let outputs = Session::from_graph(&graph, &options).unwrap().run(&feeds).unwrap();
                let predictions = outputs[0].1.to_f32().unwrap();
                assert_eq!(outputs[0].1.shape()[0], ROWS, "{name}: the batch is free");
                let file = export::edit(&model, &network, &growth, None).unwrap().apply().unwrap();
                let mut session = Session::from_bytes(&file, &options).unwrap();
                let shape = &outputs[0].1.shape()[1..];
                let off = export::parity(&mut session, &network, &samples, &predictions, shape).unwrap();
                println!("{name}: {count} {connection:?}, {optimization:?}: {off:e}");
                assert!(off <= 1e-6, "{name}: {count} {connection:?}, {optimization:?}: {off:e}");

                let grown = Model::from_bytes(file).unwrap();
                let errors: Vec<_> = check(&grown).into_iter().filter(|f| f.severity == Severity::Error).collect();
                assert_eq!(errors, [], "{name}");
                assert_eq!((grown.ir_version(), grown.opset("")), (model.ir_version(), model.opset("")), "{name}");
            }
        }
        // What has not changed returns byte for byte.
        let unchanged = Growth { weights: Default::default(), sets: Vec::new() };
        let file = export::edit(&model, &network, &unchanged, None).unwrap().apply().unwrap();
        assert_eq!(file, model.bytes().to_vec(), "{name}");
    }
}
