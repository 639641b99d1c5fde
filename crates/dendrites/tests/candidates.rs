//! Candidate graphs: the objective and its gradients against finite differences, statistics against two passes, dead units.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/reference.rs"]
#[allow(dead_code, unreachable_pub)]
mod reference;

use std::collections::HashMap;

use common::{Case, Random, Runner, apart, cases, double, file, relative, run, sets, tensors, wide, working};
use dendrite_autodiff::optimizer::{Algorithm, Optimizer};
use dendrite_onnx::{ElementType, Graph, Tensor};
use dendrites::{
    Activation, Connection, DendriteSet, Site, Weights,
    candidates::{
        CandidateGraph, Pool, Purpose, SiteBatch, WEIGHT, candidate_graph, error_name, input_name, statistics,
    },
    units::UnitLayout,
};
use reference::{Moments, knows, rows_of, units};

/// What candidates are built from.
struct Setting {
    name: &'static str,
    graph: Graph,
    site: Site,
    sets: Vec<DendriteSet>,
    weights: Weights,
    pool: Pool,
    parameters: Weights,
    /// Shape of x and of E.
    shapes: SiteBatch,
}

fn setting(case: &Case, connection: Connection, groups: Vec<(Activation, usize)>, seed: u64) -> Setting {
    let (graph, mut sites) = working(&file(&case.graph));
    let site = sites.remove(0);
    let mut random = Random::new(seed);
    let list = std::slice::from_ref(&site);
    // Two sets are there already in the cascading form.
    let mut all = sets(list, connection, 3, Activation::Tanh);
    let last = all.pop().unwrap();
    let existing = all;
    let weights = tensors(list, &existing, &mut random, true);
    let width = if connection == Connection::Layer { 2 * site.groups.max(1) } else { last.width };
    let pool = Pool { set: DendriteSet { width, ..last }, groups };
    let parameters: Weights = pool
        .tensors(&site, &existing)
        .into_iter()
        .map(|(name, shape)| {
            let scale = if name == pool.set.path("weight") { 2.0 / (site.fan_in() as f32).sqrt() } else { 0.5 };
            (name, random.tensor(&shape, scale))
        })
        .collect();
    let shape = |v| graph.value(v).shape.as_ref().and_then(|s| s.as_known()).unwrap();
    let with_batch = |mut s: Vec<usize>| {
        s[0] = 6;
        s
    };
    let first = &site.applications[0];
    let shapes = SiteBatch { input: with_batch(shape(first.input)), error: with_batch(shape(first.output)) };
    Setting { name: case.name, graph, site, sets: existing, weights, pool, parameters, shapes }
}

impl Setting {
    fn build(&self, purpose: &Purpose) -> CandidateGraph {
        let s = self;
        candidate_graph(&s.graph, &s.site, &s.pool, &s.sets, &s.weights, std::slice::from_ref(&s.shapes), purpose)
            .unwrap()
    }

    /// A batch; samples of weight 0 hold numbers that must not matter.
    fn batch(&self, random: &mut Random, weights: &[f32]) -> (Tensor, Tensor, Tensor) {
        (
            random.tensor(&self.shapes.input, 1.0),
            random.tensor(&self.shapes.error, 1.0),
            Tensor::from_f32(&[weights.len()], weights),
        )
    }

    fn moments(&self, parameters: &Weights, x: &Tensor, e: &Tensor, w: &Tensor) -> Moments {
        let (_, a) = units(&self.graph, &self.site, &self.pool, &self.sets, &self.weights, parameters, x);
        Moments::of(&a, &rows_of(&self.site, e), &w.to_f64().unwrap())
    }
}

const FLOOR: f64 = 1e-6;
const DESCENT: Algorithm = Algorithm::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };

fn pools() -> Vec<Vec<(Activation, usize)>> {
    vec![
        vec![(Activation::Tanh, 2)],
        vec![(Activation::Relu, 2), (Activation::Sigmoid, 1)],
        vec![(Activation::Relu, 1), (Activation::Tanh, 1), (Activation::Sigmoid, 2)],
    ]
}

/// With plain descent and rate 1 a step is p - g.
fn step_feeds(s: &Setting, graph: &CandidateGraph, x: &Tensor, e: &Tensor, w: &Tensor) -> Vec<(String, Tensor)> {
    let mut feeds: Vec<(String, Tensor)> =
        vec![(input_name(0), x.clone()), (error_name(0), e.clone()), (WEIGHT.to_owned(), w.clone())];
    feeds.extend(s.parameters.iter().map(|(n, t)| (n.clone(), t.clone())));
    let optimizer = graph.optimizer.as_ref().unwrap();
    let one = Tensor::scalar(ElementType::Float, 1.0);
    for id in [optimizer.learning_rate, optimizer.step] {
        feeds.push((graph.graph.name_of(id).to_owned(), one.clone()));
    }
    feeds
}

fn gradients_of(
    graph: &CandidateGraph,
    feeds: &[(String, Tensor)],
    results: &HashMap<String, Tensor>,
) -> HashMap<String, Vec<f64>> {
    let start: HashMap<&str, &Tensor> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    graph
        .parameters
        .iter()
        .zip(&graph.optimizer.as_ref().unwrap().updated)
        .map(|(parameter, updated)| {
            let name = graph.graph.name_of(*parameter);
            let (old, new) = (start[name].to_f64().unwrap(), results[graph.graph.name_of(*updated)].to_f64().unwrap());
            (name.to_owned(), old.iter().zip(&new).map(|(p, q)| p - q).collect())
        })
        .collect()
}

#[test]
fn gradients_agree_with_finite_differences_in_double_precision() {
    let mut worst = 0.0f64;
    let names = ["matmul with bias", "matmul of rank 3", "gemm", "gemm transposed", "gemm without bias"];
    for case in cases().iter().filter(|c| names.contains(&c.name)) {
        for connection in [Connection::Neuron, Connection::Layer] {
            for (i, groups) in pools().into_iter().enumerate() {
                let s = setting(case, connection, groups, 11 + i as u64);
                let graph = s.build(&Purpose::Train(&Optimizer { algorithm: DESCENT, clip_norm: None }));
                let (x, e, w) = s.batch(&mut Random::new(12 + i as u64), &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
                let feeds: Vec<(String, Tensor)> =
                    step_feeds(&s, &graph, &x, &e, &w).into_iter().map(|(n, t)| (n, wide(&t))).collect();
                let precise = double(&graph.graph);
                let objective = precise.name_of(precise.outputs[0]).to_owned();
                let mut runner = Runner::new(&precise, &feeds);
                let results = runner.run();

                let expected = s.moments(&s.parameters, &x, &e, &w).objective(connection, FLOOR);
                let found = results[&objective].to_f64().unwrap()[0];
                assert!((found - expected).abs() < 1e-6 * expected.abs(), "{}: {found} {expected}", s.name);
                assert!(expected < -0.1);

                let gradients = gradients_of(&graph, &feeds, &results);
                assert_eq!(gradients.len(), s.parameters.len(), "{}", s.name);
                for (name, gradient) in gradients {
                    let numeric = runner.finite_differences(&objective, &name, 1e-5);
                    let off = relative(&gradient, &numeric);
                    worst = worst.max(off);
                    assert!(off < 1e-6, "{} {connection:?} {i}: {name}: {off:e}", s.name);
                }
            }
        }
    }
    println!("worst relative difference {worst:e}");
}

/// ONNX Runtime convolves in single precision only: there the graph is compared with differences of the reference.
#[test]
fn gradients_of_convolutions_agree_with_the_reference() {
    let mut worst = 0.0f64;
    for case in cases().iter().filter(|c| c.name.contains("conv") && knows(c.name)) {
        for connection in [Connection::Neuron, Connection::Layer] {
            let s = setting(case, connection, vec![(Activation::Tanh, 2), (Activation::Sigmoid, 1)], 21);
            let graph = s.build(&Purpose::Train(&Optimizer { algorithm: DESCENT, clip_norm: None }));
            let (x, e, w) = s.batch(&mut Random::new(22), &[1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
            let feeds = step_feeds(&s, &graph, &x, &e, &w);
            let results: HashMap<String, Tensor> = run(&graph.graph, &feeds).into_iter().collect();
            let found = results[graph.graph.name_of(graph.graph.outputs[0])].to_f64().unwrap()[0];
            let expected = s.moments(&s.parameters, &x, &e, &w).objective(connection, FLOOR);
            assert!((found - expected).abs() < 1e-5 * expected.abs(), "{} {connection:?}: {found} {expected}", s.name);
            for (name, gradient) in gradients_of(&graph, &feeds, &results) {
                let start = wide(&s.parameters[&name]);
                let values = start.to_f64().unwrap();
                // Every seventh element is enough: the sums behind them are the same.
                let sampled: Vec<usize> = (0..values.len()).step_by(7).collect();
                let numeric: Vec<f64> = sampled
                    .iter()
                    .map(|i| {
                        let at = |delta: f64| {
                            let mut moved = values.clone();
                            moved[*i] += delta;
                            let mut parameters = s.parameters.clone();
                            parameters.insert(name.clone(), Tensor::from_f64(start.shape(), &moved));
                            s.moments(&parameters, &x, &e, &w).objective(connection, FLOOR)
                        };
                        (at(1e-5) - at(-1e-5)) / 2e-5
                    })
                    .collect();
                let found: Vec<f64> = sampled.iter().map(|i| gradient[*i]).collect();
                let off = relative(&found, &numeric);
                worst = worst.max(off);
                assert!(off < 3e-5, "{} {connection:?}: {name}: {off:e}", s.name);
            }
        }
    }
    println!("worst relative difference {worst:e}");
}

#[test]
fn accumulated_statistics_are_those_of_two_passes() {
    let mut worst = 0.0f64;
    for case in cases().iter().filter(|c| knows(c.name)) {
        for connection in [Connection::Neuron, Connection::Layer] {
            for (i, groups) in pools().into_iter().enumerate() {
                let s = setting(case, connection, groups, 31 + i as u64);
                let graph = s.build(&Purpose::Score).graph;
                let mut random = Random::new(32);
                // Three batches, the last one padded with samples that are like no other.
                let masks = [[1.0; 6], [1.0; 6], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]];
                let (mut xs, mut es, mut ws) = (Vec::new(), Vec::new(), Vec::new());
                let mut sums: HashMap<String, Vec<f64>> = HashMap::new();
                for mask in masks {
                    let (x, e, w) = s.batch(&mut random, &mask);
                    let mut feeds = vec![(input_name(0), x.clone()), (error_name(0), e.clone())];
                    feeds.push((WEIGHT.to_owned(), w.clone()));
                    feeds.extend(s.parameters.iter().map(|(n, t)| (n.clone(), t.clone())));
                    for (name, tensor) in run(&graph, &feeds) {
                        let values = tensor.to_f64().unwrap();
                        let sum = sums.entry(name).or_insert_with(|| vec![0.0; values.len()]);
                        sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
                    }
                    xs.extend(x.to_f32().unwrap());
                    es.extend(e.to_f32().unwrap());
                    ws.extend(mask);
                }
                let tall = |shape: &[usize], values: &[f32]| {
                    let mut shape = shape.to_vec();
                    shape[0] = 18;
                    Tensor::from_f32(&shape, values)
                };
                let (x, e) = (tall(&s.shapes.input, &xs), tall(&s.shapes.error, &es));
                let m = s.moments(&s.parameters, &x, &e, &Tensor::from_f32(&[18], &ws));

                let n = sums[statistics::COUNT][0];
                assert_eq!(n, m.count, "{}", s.name);
                let channels = s.site.channels;
                let mean = |name: &str| -> Vec<f64> { sums[name].iter().map(|v| v / n).collect() };
                let (a, aa, e, ee, ae) = (
                    mean(statistics::A),
                    mean(statistics::AA),
                    mean(statistics::E),
                    mean(statistics::EE),
                    mean(statistics::AE),
                );
                let var = |square: &[f64], mean: &[f64]| -> Vec<f64> {
                    square.iter().zip(mean).map(|(s, m)| s - m * m).collect()
                };
                let (var_a, var_e) = (var(&aa, &a), var(&ee, &e));
                let mut off = apart(&a, &m.mean_a).max(apart(&e, &m.mean_e));
                off = off.max(apart(&var_a, &m.var_a)).max(apart(&var_e, &m.var_e));
                for k in 0..s.pool.units() {
                    match connection {
                        Connection::Neuron => {
                            let c = k % channels;
                            let rho = (ae[k] - a[k] * e[c]) / (var_a[k] * var_e[c]).sqrt();
                            off = off.max((rho - m.rho(k, 0.0)).abs());
                        }
                        Connection::Layer => {
                            for c in 0..channels {
                                off = off.max((ae[k * channels + c] - a[k] * e[c] - m.cov[k * channels + c]).abs());
                            }
                        }
                    }
                }
                worst = worst.max(off);
                assert!(off < 3e-6, "{} {connection:?} {i}: {off:e}", s.name);
            }
        }
    }
    println!("largest difference {worst:e}");
}

/// A dead unit, a constant error and a saturated unit train on without NaN; the dead one has no correlation.
#[test]
fn dead_units_and_constant_errors_do_no_harm() {
    for case in cases().iter().filter(|c| ["gemm", "conv1d", "grouped conv", "transposed conv1d"].contains(&c.name)) {
        for connection in [Connection::Neuron, Connection::Layer] {
            let s = setting(case, connection, vec![(Activation::Relu, 2), (Activation::Sigmoid, 1)], 41);
            let algorithm = Algorithm::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
            let graph = s.build(&Purpose::Train(&Optimizer { algorithm, clip_norm: None }));
            let (x, e, w) = s.batch(&mut Random::new(42), &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
            // Neuron 1 has no error at all.
            let (channels, positions) = match s.site.kind {
                kind if kind.is_convolution() => (e.shape()[1], e.shape()[2..].iter().product::<usize>()),
                _ => (s.site.channels, 1),
            };
            let quiet: Vec<f32> = e
                .to_f32()
                .unwrap()
                .iter()
                .enumerate()
                .map(|(i, v)| if i / positions % channels == 1 { 0.0 } else { *v })
                .collect();
            let e = Tensor::from_f32(e.shape(), &quiet);
            let mut s = s;
            let bias = s.pool.set.path("bias");
            let mut values = s.parameters[&bias].to_f32().unwrap();
            values[0] = -1e3; // dead
            let last = values.len() - 1;
            values[last] = 1e3; // saturated
            s.parameters.insert(bias.clone(), Tensor::from_f32(&[values.len()], &values));

            let mut feeds = step_feeds(&s, &graph, &x, &e, &w);
            let optimizer = graph.optimizer.as_ref().unwrap();
            let name = |v| graph.graph.name_of(v).to_owned();
            for (input, _, shape) in &optimizer.state {
                let shape = shape.as_known().unwrap();
                feeds.push((name(*input), Tensor::filled(ElementType::Float, &shape, 0.0)));
            }
            let mut pairs: Vec<(String, String)> =
                graph.parameters.iter().zip(&optimizer.updated).map(|(p, u)| (name(*p), name(*u))).collect();
            pairs.extend(optimizer.state.iter().map(|(i, o, _)| (name(*i), name(*o))));
            for step in 1..=5 {
                let count = name(optimizer.step);
                feeds
                    .iter_mut()
                    .filter(|(n, _)| *n == count)
                    .for_each(|(_, t)| *t = Tensor::scalar(ElementType::Float, step.into()));
                let results = run(&graph.graph, &feeds);
                for (name, tensor) in &results {
                    assert!(
                        tensor.to_f32().unwrap().iter().all(|v| v.is_finite()),
                        "{}: {name} in step {step}",
                        s.name
                    );
                }
                for (input, output) in &pairs {
                    let next = results[output].clone();
                    feeds.iter_mut().filter(|(n, _)| n == input).for_each(|(_, t)| *t = next.clone());
                }
            }
            let trained = feeds.iter().find(|(n, _)| *n == bias).unwrap().1.to_f32().unwrap();
            assert_eq!((trained[0], trained[last]), (-1e3, 1e3), "{}: nothing pulls at them", s.name);

            let parameters: Weights = s
                .parameters
                .keys()
                .map(|n| (n.clone(), feeds.iter().find(|(f, _)| f == n).unwrap().1.clone()))
                .collect();
            let mut feeds = vec![(input_name(0), x), (error_name(0), e), (WEIGHT.to_owned(), w)];
            feeds.extend(parameters);
            let sums = run(&s.build(&Purpose::Score).graph, &feeds);
            assert_eq!(sums[statistics::A].to_f64().unwrap()[0], 0.0);
            assert_eq!(sums[statistics::AA].to_f64().unwrap()[0], 0.0);
            assert_eq!(sums[statistics::AE].to_f64().unwrap()[0], 0.0);
            assert_eq!(sums[statistics::EE].to_f64().unwrap()[1], 0.0);
        }
    }
}

/// The layout of a pool's weights says which of them are a unit's own: without these the unit falls silent, no other one does.
#[test]
fn units_have_the_weights_that_their_layout_says() {
    for case in cases().iter().filter(|c| !c.name.contains("normalisation")) {
        for connection in [Connection::Neuron, Connection::Layer] {
            let mut s = setting(case, connection, vec![(Activation::Relu, 2), (Activation::Tanh, 1)], 51);
            // No unit reads another one.
            s.sets.clear();
            let weight = s.pool.set.path("weight");
            s.parameters.retain(|name, _| *name == weight || *name == s.pool.set.path("bias"));
            for (name, tensor) in &mut s.parameters {
                if *name != weight {
                    *tensor = Tensor::filled(ElementType::Float, tensor.shape(), 0.0);
                }
            }
            let graph = s.build(&Purpose::Score).graph;
            let (x, e, w) = s.batch(&mut Random::new(52), &[1.0; 6]);
            let layout = UnitLayout::of_weight(&s.site, &s.pool.set, s.pool.size());
            let values = s.parameters[&weight].to_f32().unwrap();
            assert_eq!(layout.len(), values.len(), "{}", s.name);
            let run_with = |values: &[f32]| -> Vec<f64> {
                let changed = Tensor::from_f32(s.parameters[&weight].shape(), values);
                let mut feeds =
                    vec![(input_name(0), x.clone()), (error_name(0), e.clone()), (WEIGHT.to_owned(), w.clone())];
                feeds.extend(s.parameters.iter().map(|(n, t)| (n.clone(), t.clone())));
                feeds.iter_mut().filter(|(n, _)| *n == weight).for_each(|(_, t)| *t = changed.clone());
                run(&graph, &feeds)[statistics::ZZ].to_f64().unwrap()
            };
            let all = run_with(&values);
            for unit in 0..s.pool.units() {
                let without: Vec<f32> =
                    values.iter().enumerate().map(|(i, v)| if layout.unit(i) == unit { 0.0 } else { *v }).collect();
                let left = run_with(&without);
                for (k, (left, all)) in left.iter().zip(&all).enumerate() {
                    assert!(*all > 0.0, "{}", s.name);
                    let expected = if k == unit { 0.0 } else { *all };
                    assert!(
                        (left - expected).abs() <= 1e-5 * all,
                        "{} {connection:?}: {unit} {k}: {left} {all}",
                        s.name
                    );
                }
            }

            // One candidate a dendrite, taken out of the pool, is the unit that it was there.
            let width = s.pool.set.width;
            let chosen: Vec<usize> = (0..width).map(|k| (k + 1) % s.pool.size() * width + k).collect();
            let one = UnitLayout::of_weight(&s.site, &s.pool.set, 1);
            let taken: Vec<f32> =
                (0..one.len()).map(|i| values[layout.counterpart(chosen[one.unit(i)], &one, i)]).collect();
            let single = Setting { pool: Pool { groups: vec![(Activation::Relu, 1)], ..s.pool.clone() }, ..s };
            let graph = single.build(&Purpose::Score).graph;
            let mut feeds = vec![(input_name(0), x), (error_name(0), e), (WEIGHT.to_owned(), w)];
            for (name, shape) in single.pool.tensors(&single.site, &[]) {
                let of_weight = name == weight;
                let zeros = || Tensor::filled(ElementType::Float, &shape, 0.0);
                feeds.push((name, if of_weight { Tensor::from_f32(&shape, &taken) } else { zeros() }));
            }
            let alone = run(&graph, &feeds)[statistics::ZZ].to_f64().unwrap();
            for (k, unit) in chosen.into_iter().enumerate() {
                assert!((alone[k] - all[unit]).abs() <= 1e-5 * all[unit], "{} {connection:?}: {k}", single.name);
            }
        }
    }
}
