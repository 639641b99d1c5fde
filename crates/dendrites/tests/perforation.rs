//! Perforated dendrites are invisible to the error that flows back; direct ones are not. In double precision.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;

use common::{Random, Runner, double, file, relative, sets, tensors, wide, working};
use dendrite_autodiff::{
    gradients,
    loss::{self, Loss},
};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId};
use dendrites::{
    Activation, Connection, Site,
    fragment::{Reading, stop_value},
    insert::insert_into_graph,
};

const X: [usize; 2] = [6, 5];

/// Two layers with a ReLU between them.
fn network() -> (Graph, Vec<Site>) {
    let mut random = Random::new(71);
    let mut graph = Graph::new("two layers", 17);
    let x = graph.add_input("x", ElementType::Float, Shape::known(&X));
    let (w1, b1) = (random.tensor(&[5, 4], 0.7), random.tensor(&[4], 0.7));
    let (w2, b2) = (random.tensor(&[3, 4], 0.7), random.tensor(&[3], 0.7));
    let [w1, b1] = [("w1", w1), ("b1", b1)].map(|(n, t)| graph.add_constant(n, t));
    let [w2, b2] = [("w2", w2), ("b2", b2)].map(|(n, t)| graph.add_constant(n, t));
    let m = graph.op("MatMul", "m", &[x, w1], Attributes::new());
    let h = graph.op("Add", "h", &[m, b1], Attributes::new());
    let r = graph.op("Relu", "r", &[h], Attributes::new());
    let y = graph.op("Gemm", "y", &[r, w2, b2], Attributes::new().with("transB", 1));
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    working(&file(&graph))
}

struct Setting {
    graph: Graph,
    loss: String,
    /// Name of each variable with the name of its gradient.
    gradients: Vec<(String, String)>,
    feeds: Vec<(String, Tensor)>,
    stops: Vec<String>,
}

/// The grown network with its loss and the gradients of input, weights and dendrites' tensors.
fn build(connection: Connection, reading: Reading) -> Setting {
    let (mut graph, sites) = network();
    assert_eq!(sites.len(), 2);
    let mut random = Random::new(72);
    let added = sets(&sites, connection, 2, Activation::Tanh);
    let weights = tensors(&sites, &added, &mut random, true);
    insert_into_graph(&mut graph, &sites, &added, &weights, reading).unwrap();
    dendrite_runtime::infer_shapes(&mut graph).unwrap();
    let mut names: Vec<String> = ["w1", "b1", "w2", "b2"].map(str::to_owned).to_vec();
    names.extend(weights.keys().cloned());
    let mut feeds = vec![("x".to_owned(), wide(&random.tensor(&X, 1.0)))];
    for name in &names {
        let id = graph.find(name).unwrap();
        feeds.push((name.clone(), wide(&graph.constant_to_input(id).unwrap())));
    }
    names.insert(0, "x".to_owned());
    let y = graph.find("y").unwrap();
    let values = loss::attach(&mut graph, y, &Loss::Mse).unwrap();
    feeds.push((graph.name_of(values.target).to_owned(), wide(&random.tensor(&[6, 3], 1.0))));
    feeds.push((graph.name_of(values.weight).to_owned(), Tensor::filled(ElementType::Double, &[6], 1.0)));
    let stops: Vec<String> = sites.iter().map(|s| stop_value(&s.name)).collect();
    let stopped: HashSet<ValueId> = match reading {
        Reading::Perforated => stops.iter().map(|n| graph.find(n).unwrap()).collect(),
        Reading::Direct => HashSet::new(),
    };
    let wrt: Vec<ValueId> = names.iter().map(|n| graph.find(n).unwrap()).collect();
    let found = gradients(&mut graph, values.mean, &wrt, &stopped).unwrap();
    graph.outputs = vec![values.mean];
    let gradients = names
        .into_iter()
        .zip(found)
        .map(|(name, gradient)| {
            let out = graph.op("Identity", "gradient", &[gradient.unwrap()], Attributes::new());
            graph.set_type(out, Some(ElementType::Float), None);
            graph.outputs.push(out);
            (name, graph.name_of(out).to_owned())
        })
        .collect();
    Setting { loss: graph.name_of(values.mean).to_owned(), graph: double(&graph), gradients, feeds, stops }
}

#[test]
fn direct_dendrites_are_differentiated_in_full() {
    for connection in [Connection::Neuron, Connection::Layer] {
        let s = build(connection, Reading::Direct);
        let mut runner = Runner::new(&s.graph, &s.feeds);
        let results = runner.run();
        for (name, gradient) in &s.gradients {
            let numeric = runner.finite_differences(&s.loss, name, 1e-6);
            let off = relative(&results[gradient].to_f64().unwrap(), &numeric);
            assert!(off < 1e-6, "{connection:?}: {name}: {off:e}");
        }
    }
}

/// What a dendrite reads is held while the input moves: then the differences are those of the main path alone.
#[test]
fn perforated_dendrites_send_no_error_back() {
    for connection in [Connection::Neuron, Connection::Layer] {
        let s = build(connection, Reading::Perforated);
        let results = Runner::new(&s.graph, &s.feeds).run();
        // The same graph with the dendrites' inputs as feeds of their own.
        let mut observed = s.graph.clone();
        observed.outputs.extend(s.stops.iter().map(|n| s.graph.find(n).unwrap()).collect::<Vec<_>>());
        let inputs = Runner::new(&observed, &s.feeds).run();
        let mut held = s.graph.clone();
        let mut feeds = s.feeds.clone();
        held.outputs.truncate(1);
        for name in &s.stops {
            let id = held.find(name).unwrap();
            let identity = held.value(id).producer().unwrap();
            held.remove(identity);
            held.inputs.push(id);
            held.set_type(id, Some(ElementType::Double), Some(Shape::known(inputs[name].shape())));
            feeds.push((name.clone(), inputs[name].clone()));
        }
        held.prune();
        let mut runner = Runner::new(&held, &feeds);
        for (name, gradient) in &s.gradients {
            let numeric = runner.finite_differences(&s.loss, name, 1e-6);
            let found = results[gradient].to_f64().unwrap();
            let off = relative(&found, &numeric);
            assert!(off < 1e-6, "{connection:?}: {name}: {off:e}");
        }
        // And these differ from full differentiation, or the test would show nothing.
        let direct = build(connection, Reading::Direct);
        let full = Runner::new(&direct.graph, &direct.feeds).run();
        let x = |s: &Setting| s.gradients[0].1.clone();
        let off = relative(&results[&x(&s)].to_f64().unwrap(), &full[&x(&direct)].to_f64().unwrap());
        assert!(off > 0.1, "{connection:?}: {off}");
        // The forward pass does not know of perforation.
        assert_eq!(results[&s.loss].to_f64(), full[&direct.loss].to_f64());
    }
}
