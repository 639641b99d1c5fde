//! Operations that share weights are one site, and its dendrites are shared as the weights are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{
    Random, Runner, double, file, inputs, patched, relative, run_file, sets, tensors, tied_cases, wide, working,
};
use dendrite_autodiff::optimizer::{Algorithm, Optimizer};
use dendrite_onnx::{Attributes, ElementType, Graph, Model, Shape, Tensor};
use dendrite_runtime::Optimization;
use dendrites::{
    Activation, Connection, DendriteSet, Site, Weights,
    candidates::{Pool, Purpose, SiteBatch, WEIGHT, candidate_graph, error_name, input_name, statistics},
    find_sites,
};

/// What the tied model computes with dendrites, the model computes in which every operation has copies of weights and dendrites.
#[test]
fn shared_dendrites_compute_what_copies_do() {
    for (case, copies) in tied_cases(true).into_iter().zip(tied_cases(false)) {
        let (model, untied) = (file(&case.graph), file(&copies.graph));
        let ((graph, sites), (untied_graph, untied_sites)) = (working(&model), working(&untied));
        let applications: usize = sites.iter().map(|s| s.applications.len()).sum();
        assert!(sites.iter().all(|s| s.applications.len() > 1), "{}", case.name);
        assert_eq!(untied_sites.len(), applications, "{}", case.name);
        let mut random = Random::new(1);
        let feeds = inputs(&graph, &mut random);
        let base = run_file(model.bytes(), &feeds, Optimization::Off);
        assert_eq!(base, run_file(untied.bytes(), &feeds, Optimization::Off), "{}", case.name);
        for connection in [Connection::Neuron, Connection::Layer] {
            let added = sets(&sites, connection, 2, Activation::Tanh);
            let weights = tensors(&sites, &added, &mut random, true);
            let (mut copied_sets, mut copied) = (Vec::new(), Weights::new());
            for set in &added {
                let site = sites.iter().find(|s| s.name == set.site).unwrap();
                for application in &site.applications {
                    let own = DendriteSet { site: application.name.clone(), ..set.clone() };
                    let names = set.tensors(site, &added).into_iter().map(|(name, _)| name);
                    copied.extend(names.map(|name| {
                        let role = name.rsplit('/').next().unwrap();
                        (own.path(role), weights[&name].clone())
                    }));
                    copied_sets.push(own);
                }
            }
            let shared = patched(&model, &graph, &sites, &added, &weights);
            let separate = patched(&untied, &untied_graph, &untied_sites, &copied_sets, &copied);
            let found = run_file(&shared, &feeds, Optimization::Off);
            assert_eq!(found, run_file(&separate, &feeds, Optimization::Off), "{} {connection:?}", case.name);
            assert_ne!(found, base, "{} {connection:?}", case.name);
        }
    }
}

/// A pool at the first site of a case, with two sets already there.
struct Setting {
    graph: Graph,
    site: Site,
    sets: Vec<DendriteSet>,
    weights: Weights,
    pool: Pool,
    parameters: Weights,
    batches: Vec<SiteBatch>,
    data: Vec<(Tensor, Tensor)>,
}

fn setting(graph: &Graph, connection: Connection) -> Setting {
    let (graph, mut sites) = working(&file(graph));
    let site = sites.remove(0);
    let list = std::slice::from_ref(&site);
    let mut random = Random::new(2);
    let mut existing = sets(list, connection, 3, Activation::Tanh);
    let pool = Pool { set: existing.pop().unwrap(), groups: vec![(Activation::Sigmoid, 1), (Activation::Tanh, 2)] };
    let weights = tensors(list, &existing, &mut random, true);
    let named = pool.tensors(&site, &existing);
    let parameters = named.into_iter().map(|(name, shape)| (name, random.tensor(&shape, 0.6))).collect();
    let shape = |v| graph.value(v).shape.as_ref().and_then(|s| s.as_known()).unwrap();
    let batches: Vec<SiteBatch> = site
        .applications
        .iter()
        .map(|a| SiteBatch { input: shape(a.input), error: shape(a.output) })
        .map(|mut batch| {
            (batch.input[0], batch.error[0]) = (4, 4);
            batch
        })
        .collect();
    let data = batches.iter().map(|b| (random.tensor(&b.input, 1.0), random.tensor(&b.error, 1.0))).collect();
    Setting { graph, site, sets: existing, weights, pool, parameters, batches, data }
}

impl Setting {
    fn feeds(&self) -> Vec<(String, Tensor)> {
        let mut feeds: Vec<(String, Tensor)> = self.parameters.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
        for (i, (x, e)) in self.data.iter().enumerate() {
            feeds.extend([(input_name(i), x.clone()), (error_name(i), e.clone())]);
        }
        feeds.push((WEIGHT.to_owned(), Tensor::from_f32(&[4], &[1.0, 1.0, 0.0, 1.0])));
        feeds
    }

    fn sums(&self) -> BTreeMap<String, Vec<f64>> {
        let built = candidate_graph(
            &self.graph,
            &self.site,
            &self.pool,
            &self.sets,
            &self.weights,
            &self.batches,
            &Purpose::Score,
        );
        let found = common::run(&built.unwrap().graph, &self.feeds());
        found.into_iter().map(|(name, tensor)| (name, tensor.to_f64().unwrap())).collect()
    }
}

/// Sums over all applications are the sums of each of them, added up.
#[test]
fn all_applications_count() {
    // What a recurrent operator's output is, its errors are not.
    for case in tied_cases(true).into_iter().filter(|case| !case.name.contains("GRU")) {
        for connection in [Connection::Neuron, Connection::Layer] {
            let s = setting(&case.graph, connection);
            let mut added: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for (i, application) in s.site.applications.iter().enumerate() {
                let site = Site { applications: vec![application.clone()], ..s.site.clone() };
                let one = Setting {
                    graph: s.graph.clone(),
                    site,
                    sets: s.sets.clone(),
                    weights: s.weights.clone(),
                    pool: s.pool.clone(),
                    parameters: s.parameters.clone(),
                    batches: vec![s.batches[i].clone()],
                    data: vec![s.data[i].clone()],
                };
                for (name, values) in one.sums() {
                    let sum = added.entry(name).or_insert_with(|| vec![0.0; values.len()]);
                    sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
                }
            }
            for (name, sum) in s.sums() {
                let off = relative(&sum, &added[&name]);
                assert!(off < 1e-5, "{} {connection:?}: {name}: {off:e}", case.name);
            }
            assert!(added[statistics::COUNT][0] > 0.0);
        }
    }
}

/// The objective over all applications, and its gradients, in double precision.
#[test]
fn gradients_over_applications_agree_with_finite_differences() {
    let linear =
        ["branches with biases of their own", "an unrolled recurrent network", "weights transposed at each operation"];
    for case in tied_cases(true).into_iter().filter(|case| linear.contains(&case.name)) {
        for connection in [Connection::Neuron, Connection::Layer] {
            let s = setting(&case.graph, connection);
            let algorithm = Algorithm::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
            let optimizer = Optimizer { algorithm, clip_norm: None };
            let purpose = Purpose::Train(&optimizer);
            let built = candidate_graph(&s.graph, &s.site, &s.pool, &s.sets, &s.weights, &s.batches, &purpose).unwrap();
            let values = built.optimizer.as_ref().unwrap();
            let mut feeds: Vec<(String, Tensor)> = s.feeds().into_iter().map(|(n, t)| (n, wide(&t))).collect();
            for id in [values.learning_rate, values.step] {
                feeds.push((built.graph.name_of(id).to_owned(), Tensor::scalar(ElementType::Double, 1.0)));
            }
            let graph = double(&built.graph);
            let objective = graph.name_of(graph.outputs[0]).to_owned();
            let mut runner = Runner::new(&graph, &feeds);
            let results: HashMap<String, Tensor> = runner.run();
            assert_eq!(built.parameters.len(), s.parameters.len());
            for (parameter, updated) in built.parameters.iter().zip(&values.updated) {
                let (name, updated) = (graph.name_of(*parameter), graph.name_of(*updated));
                let before = runner.feed(name).to_f64().unwrap();
                let gradient: Vec<f64> =
                    before.iter().zip(results[updated].to_f64().unwrap()).map(|(p, q)| p - q).collect();
                let numeric = runner.finite_differences(&objective, name, 1e-5);
                let off = relative(&gradient, &numeric);
                assert!(off < 1e-6, "{} {connection:?}: {name}: {off:e}", case.name);
            }
        }
    }
}

/// Two operations on one weight, each reading it in its own way; why they are no sites.
fn reasons(build: &dyn Fn(&mut Graph) -> [dendrite_onnx::ValueId; 2]) -> Vec<String> {
    let mut graph = Graph::new("misfits", 17);
    let values = build(&mut graph);
    for value in values {
        graph.set_type(value, Some(ElementType::Float), None);
    }
    graph.outputs = values.to_vec();
    let (graph, sites) = working(&Model::from_bytes(file(&graph).bytes().to_vec()).unwrap());
    assert!(sites.is_empty(), "{sites:?}");
    find_sites(&graph).unwrap().1.into_iter().map(|other| other.reason).collect()
}

#[test]
fn weights_that_are_read_in_different_ways_take_none() {
    let input = |g: &mut Graph, name: &str, shape: &[usize]| g.add_input(name, ElementType::Float, Shape::known(shape));
    let weight = |g: &mut Graph, shape: &[usize]| g.add_constant("w", Random::new(3).tensor(shape, 1.0));
    let none = Attributes::new;
    let kinds = reasons(&|g| {
        let (a, b) = (input(g, "a", &[1, 4, 5]), input(g, "b", &[1, 4, 5]));
        let w = weight(g, &[4, 4, 3]);
        [g.op("Conv", "p", &[a, w], none()), g.op("ConvTranspose", "q", &[b, w], none())]
    });
    assert_eq!(kinds, ["its weights are shared by 2 operations of different kinds"; 2]);
    let directions = reasons(&|g| {
        let a = input(g, "a", &[2, 4]);
        let w = weight(g, &[4, 4]);
        let p = g.op("Gemm", "p", &[a, w], none());
        [p, g.op("Gemm", "q", &[p, w], none().with("transB", 1))]
    });
    assert_eq!(directions, ["its weights are shared by 2 operations that read them in different forms"; 2]);
    let views = reasons(&|g| {
        let a = input(g, "a", &[2, 4]);
        let w = weight(g, &[4, 4]);
        let t = g.op("Transpose", "t", &[w], none());
        let p = g.op("MatMul", "p", &[a, w], none());
        [p, g.op("MatMul", "q", &[p, t], none())]
    });
    assert_eq!(views, ["its weights are shared by 2 operations that read them in different forms"; 2]);
}

/// An embedding that is the output layer's weight too takes dendrites there alone.
#[test]
fn an_embedding_is_no_application() {
    let mut graph = Graph::new("language model", 17);
    let ids = graph.add_input("ids", ElementType::Int64, Shape::known(&[2, 3]));
    let w = graph.add_constant("w", Random::new(4).tensor(&[7, 4], 1.0));
    let e = graph.op("Gather", "e", &[w, ids], Attributes::new());
    let t = graph.op("Transpose", "t", &[w], Attributes::new().with("perm", vec![1i64, 0]));
    let y = graph.op("MatMul", "y", &[e, t], Attributes::new());
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    let (_, sites) = working(&file(&graph));
    assert_eq!(sites.len(), 1);
    assert_eq!((sites[0].name.as_str(), sites[0].applications.len()), ("y", 1));
}

/// Dendrites of operations some of which add a bias have one, and add nothing at first all the same.
#[test]
fn one_bias_is_a_bias_of_all() {
    let mut graph = Graph::new("one bias", 17);
    let mut random = Random::new(5);
    let (w, b) =
        (graph.add_constant("w", random.tensor(&[4, 4], 1.0)), graph.add_constant("b", random.tensor(&[4], 1.0)));
    let x = graph.add_input("x", ElementType::Float, Shape::known(&[3, 4]));
    let h = graph.op("Gemm", "h", &[x, w], Attributes::new());
    let y = graph.op("Gemm", "y", &[h, w, b], Attributes::new());
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    let model = file(&graph);
    let (graph, sites) = working(&model);
    assert_eq!((sites.len(), sites[0].applications.len(), sites[0].bias), (1, 2, true));
    let feeds = inputs(&graph, &mut random);
    let before = run_file(model.bytes(), &feeds, Optimization::Off);
    for connection in [Connection::Neuron, Connection::Layer] {
        let added = sets(&sites, connection, 1, Activation::Relu);
        let weights = tensors(&sites, &added, &mut random, false);
        assert!(weights.contains_key(&added[0].path("bias")));
        let grown = patched(&model, &graph, &sites, &added, &weights);
        assert_eq!(run_file(&grown, &feeds, Optimization::Off), before, "{connection:?}");
    }
}
