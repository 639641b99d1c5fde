//! Dendrites of recurrent operators against loops in double precision: what the grown file computes, what flows back, and the
//! error at the gates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{Random, apart, file, patched, relative, run, run_file, sets, tensors, working};
use dendrite_autodiff::gradients;
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId};
use dendrite_runtime::{Optimization, infer_shapes};
use dendrites::{
    Activation, Connection, DendriteSet, Site, Weights,
    fragment::{Reading, stop_value},
    insert::insert_into_graph,
    probe::neurons,
    sites::select,
};

const STEPS: usize = 4;
const BATCH: usize = 2;
const INPUTS: usize = 3;
const HIDDEN: usize = 2;

struct Case {
    op: &'static str,
    gates: usize,
    direction: &'static str,
    late: bool,
}

const CASES: [Case; 6] = [
    Case { op: "RNN", gates: 1, direction: "forward", late: false },
    Case { op: "RNN", gates: 1, direction: "bidirectional", late: false },
    Case { op: "GRU", gates: 3, direction: "reverse", late: false },
    Case { op: "GRU", gates: 3, direction: "bidirectional", late: true },
    Case { op: "LSTM", gates: 4, direction: "forward", late: false },
    Case { op: "LSTM", gates: 4, direction: "bidirectional", late: false },
];

type Tensors = BTreeMap<String, Vec<f64>>;

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

impl Case {
    fn directions(&self) -> usize {
        if self.direction == "bidirectional" { 2 } else { 1 }
    }

    fn channels(&self) -> usize {
        self.directions() * self.gates * HIDDEN
    }

    /// The operator on x, the sum of its first output's elements, each with its factor, as further output.
    fn model(&self, seed: u64) -> Graph {
        let mut random = Random::new(seed);
        let (d, rows) = (self.directions(), self.gates * HIDDEN);
        let mut graph = Graph::new("recurrent", 17);
        let x = graph.add_input("x", ElementType::Float, Shape::known(&[STEPS, BATCH, INPUTS]));
        let shapes = [("w", vec![d, rows, INPUTS]), ("r", vec![d, rows, HIDDEN]), ("b", vec![d, 2 * rows])];
        let read: Vec<Option<ValueId>> = std::iter::once(Some(x))
            .chain(shapes.map(|(name, shape)| Some(graph.add_constant(name, random.tensor(&shape, 0.8)))))
            .collect();
        let attributes = Attributes::new()
            .with("hidden_size", HIDDEN as i64)
            .with("direction", self.direction)
            .with("linear_before_reset", i64::from(self.late));
        let attributes = if self.op == "GRU" {
            attributes
        } else {
            Attributes::new().with("hidden_size", HIDDEN as i64).with("direction", self.direction)
        };
        let h = graph.add_node(self.op, "h", &read, attributes, 1)[0];
        let factors = random.tensor(&[STEPS, d, BATCH, HIDDEN], 1.0);
        let factors = graph.add_constant("factors", factors);
        let product = graph.op("Mul", "product", &[h, factors], Attributes::new());
        let loss = graph.op("ReduceSum", "loss", &[product], Attributes::new().with("keepdims", 0));
        for value in [h, loss] {
            graph.set_type(value, Some(ElementType::Float), None);
        }
        graph.outputs = vec![h, loss];
        graph
    }

    /// h for x and the tensors of the sets at it; `seen` is what dendrites read, `probe` is added before the gates.
    fn forward(&self, t: &Tensors, sets: &[DendriteSet], x: &[f64], seen: &[f64], probe: Option<&[f64]>) -> Vec<f64> {
        let (dirs, rows, channels) = (self.directions(), self.gates * HIDDEN, self.channels());
        let mut h_all = vec![0.0; STEPS * dirs * BATCH * HIDDEN];
        // What the gates of all directions read at a step of a sample.
        let before = |step: usize, sample: usize| -> Vec<f64> {
            let at = step * BATCH + sample;
            let (x, seen) = (&x[at * INPUTS..][..INPUTS], &seen[at * INPUTS..][..INPUTS]);
            let mut z: Vec<f64> =
                (0..channels).map(|c| (0..INPUTS).map(|i| t["w"][c * INPUTS + i] * x[i]).sum::<f64>()).collect();
            for set in sets {
                let (w, b, v) = (&t[&set.path("weight")], &t[&set.path("bias")], &t[&set.path("connection")]);
                for k in 0..set.width {
                    let a = b[k] + (0..INPUTS).map(|i| seen[i] * w[i * set.width + k]).sum::<f64>();
                    let a = if set.activation == Activation::Tanh { a.tanh() } else { a.max(0.0) };
                    z.iter_mut().enumerate().for_each(|(c, z)| *z += v[c * set.width + k] * a);
                }
            }
            if let Some(probe) = probe {
                z.iter_mut().enumerate().for_each(|(c, z)| *z += probe[at * channels + c]);
            }
            z
        };
        for dir in 0..dirs {
            let backwards = self.direction == "reverse" || dir == 1;
            let r = |row: usize, k: usize| t["r"][(dir * rows + row) * HIDDEN + k];
            let (wb, rb) = t["b"][dir * 2 * rows..][..2 * rows].split_at(rows);
            for sample in 0..BATCH {
                let (mut h, mut c) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
                for turn in 0..STEPS {
                    let step = if backwards { STEPS - 1 - turn } else { turn };
                    let all = before(step, sample);
                    let input: Vec<f64> = (0..rows).map(|row| all[dir * rows + row] + wb[row]).collect();
                    let back = |row: usize, h: &[f64]| (0..HIDDEN).map(|k| r(row, k) * h[k]).sum::<f64>() + rb[row];
                    let sum = |row: usize| input[row] + back(row, &h);
                    let next: Vec<f64> = match self.op {
                        "RNN" => (0..HIDDEN).map(|j| sum(j).tanh()).collect(),
                        "GRU" => {
                            let z: Vec<f64> = (0..HIDDEN).map(|j| sigmoid(sum(j))).collect();
                            let reset: Vec<f64> = (0..HIDDEN).map(|j| sigmoid(sum(HIDDEN + j))).collect();
                            let held: Vec<f64> = (0..HIDDEN).map(|j| reset[j] * h[j]).collect();
                            let candidate = |j: usize| {
                                let row = 2 * HIDDEN + j;
                                let late = if self.late { reset[j] * back(row, &h) } else { back(row, &held) };
                                (input[row] + late).tanh()
                            };
                            (0..HIDDEN).map(|j| (1.0 - z[j]) * candidate(j) + z[j] * h[j]).collect()
                        }
                        _ => {
                            // Gates i, o, f, c.
                            for (j, cell) in c.iter_mut().enumerate() {
                                let (i, f) = (sigmoid(sum(j)), sigmoid(sum(2 * HIDDEN + j)));
                                *cell = f * *cell + i * sum(3 * HIDDEN + j).tanh();
                            }
                            (0..HIDDEN).map(|j| sigmoid(sum(HIDDEN + j)) * c[j].tanh()).collect()
                        }
                    };
                    h = next;
                    h_all[((step * dirs + dir) * BATCH + sample) * HIDDEN..][..HIDDEN].copy_from_slice(&h);
                }
            }
        }
        h_all
    }
}

/// A case with two sets, their connections not zero.
struct Setting {
    graph: Graph,
    sites: Vec<Site>,
    sets: Vec<DendriteSet>,
    weights: Weights,
    x: Tensor,
    tensors: Tensors,
    factors: Vec<f64>,
}

impl Setting {
    fn of(case: &Case) -> Self {
        let (graph, sites) = working(&file(&case.model(1)));
        assert_eq!((sites.len(), sites[0].name.as_str(), sites[0].channels), (1, "h", case.channels()));
        let mut random = Random::new(2);
        let mut sets = sets(&sites, Connection::Layer, 2, Activation::Tanh);
        sets[1].activation = Activation::Relu;
        let weights = tensors(&sites, &sets, &mut random, true);
        let constant = |name: &str| graph.constant(graph.find(name).unwrap()).unwrap().to_f64().unwrap();
        let mut all: Tensors = weights.iter().map(|(name, t)| (name.clone(), t.to_f64().unwrap())).collect();
        all.extend(["w", "r", "b"].map(|name| (name.to_owned(), constant(name))));
        let (factors, x) = (constant("factors"), random.tensor(&[STEPS, BATCH, INPUTS], 1.0));
        Setting { graph, sites, sets, weights, x, tensors: all, factors }
    }

    fn loss(&self, h: &[f64]) -> f64 {
        h.iter().zip(&self.factors).map(|(h, f)| h * f).sum()
    }

    /// Derivatives of the loss that the graph computes with respect to what `wrt` picks in it.
    fn derivatives(&self, reading: Reading, wrt: &dyn Fn(&mut Graph) -> Vec<ValueId>) -> Vec<Vec<f64>> {
        let mut graph = self.graph.clone();
        insert_into_graph(&mut graph, &self.sites, &self.sets, &self.weights, reading).unwrap();
        infer_shapes(&mut graph).unwrap();
        let wrt = wrt(&mut graph);
        let stops: HashSet<ValueId> = graph.find(&stop_value("h")).into_iter().collect();
        let loss = graph.find("loss").unwrap();
        let found = gradients(&mut graph, loss, &wrt, &stops).unwrap();
        graph.outputs = found.into_iter().map(Option::unwrap).collect();
        graph.prune();
        let names: Vec<String> = graph.outputs.iter().map(|v| graph.name_of(*v).to_owned()).collect();
        let results = run(&graph, &[("x".to_owned(), self.x.clone())]);
        names.iter().map(|name| results[name].to_f64().unwrap()).collect()
    }
}

/// Derivatives by central differences of a function in every element of `at`.
fn differences(at: &[f64], f: &dyn Fn(&[f64]) -> f64) -> Vec<f64> {
    let moved = |i: usize, by: f64| {
        let mut values = at.to_vec();
        values[i] += by;
        f(&values)
    };
    (0..at.len()).map(|i| (moved(i, 1e-6) - moved(i, -1e-6)) / 2e-6).collect()
}

#[test]
fn the_file_computes_what_the_formulas_say() {
    for case in CASES {
        let model = file(&case.model(1));
        let s = Setting::of(&case);
        let bytes = patched(&model, &s.graph, &s.sites, &s.sets, &s.weights);
        let x = s.x.to_f64().unwrap();
        let expected = case.forward(&s.tensors, &s.sets, &x, &x, None);
        let without = case.forward(&s.tensors, &[], &x, &x, None);
        assert!(apart(&without, &expected) > 0.05, "{} {}", case.op, case.direction);
        for level in [Optimization::Off, Optimization::All] {
            let feeds = [("x".to_owned(), s.x.clone())];
            let off = apart(&run_file(&bytes, &feeds, level)["h"].to_f64().unwrap(), &expected);
            assert!(off < 2e-6, "{} {} {level:?}: {off:e}", case.op, case.direction);
            let off = apart(&run_file(model.bytes(), &feeds, level)["h"].to_f64().unwrap(), &without);
            assert!(off < 2e-6, "{} {} {level:?}, as it was: {off:e}", case.op, case.direction);
        }
    }
}

#[test]
fn everything_is_differentiated_in_full() {
    for case in CASES {
        let s = Setting::of(&case);
        let x = s.x.to_f64().unwrap();
        let mut names: Vec<String> = s.tensors.keys().cloned().collect();
        names.push("x".to_owned());
        let found = s.derivatives(Reading::Direct, &|graph| names.iter().map(|n| graph.find(n).unwrap()).collect());
        for (name, found) in names.iter().zip(found) {
            let at = s.tensors.get(name).unwrap_or(&x);
            let numeric = differences(at, &|values| {
                let mut tensors = s.tensors.clone();
                let mut input = x.clone();
                match tensors.get_mut(name) {
                    Some(tensor) => *tensor = values.to_vec(),
                    None => input = values.to_vec(),
                }
                s.loss(&case.forward(&tensors, &s.sets, &input, &input, None))
            });
            let off = relative(&found, &numeric);
            assert!(off < 1e-5, "{} {}: {name}: {off:e}", case.op, case.direction);
        }
    }
}

/// What perforated dendrites read is held while x moves.
#[test]
fn perforated_dendrites_send_no_error_back() {
    for case in CASES {
        let s = Setting::of(&case);
        let x = s.x.to_f64().unwrap();
        let of_x = |reading| s.derivatives(reading, &|graph| vec![graph.find("x").unwrap()]).remove(0);
        let (perforated, direct) = (of_x(Reading::Perforated), of_x(Reading::Direct));
        let numeric = differences(&x, &|moved| s.loss(&case.forward(&s.tensors, &s.sets, moved, &x, None)));
        let off = relative(&perforated, &numeric);
        assert!(off < 1e-5, "{} {}: {off:e}", case.op, case.direction);
        assert!(relative(&perforated, &direct) > 0.05, "{} {}", case.op, case.direction);
    }
}

#[test]
fn the_probe_finds_the_error_at_the_gates() {
    for case in CASES {
        let s = Setting::of(&case);
        let x = s.x.to_f64().unwrap();
        let probe = |graph: &mut Graph| vec![neurons(graph, &s.sites[0], &s.sites[0].applications[0]).unwrap()];
        let found = s.derivatives(Reading::Direct, &probe).remove(0);
        let none = vec![0.0; STEPS * BATCH * case.channels()];
        let numeric = differences(&none, &|more| s.loss(&case.forward(&s.tensors, &s.sets, &x, &x, Some(more))));
        let off = relative(&found, &numeric);
        assert!(off < 1e-5, "{} {}: {off:e}", case.op, case.direction);
    }
}

/// A file that has grown grows on: new dendrites read what the first do, and everything that was there trains.
#[test]
fn a_grown_operator_grows_on() {
    let model = file(&CASES[3].model(1));
    let s = Setting::of(&CASES[3]);
    let bytes = patched(&model, &s.graph, &s.sites, &s.sets, &s.weights);
    let (graph, sites) = working(&dendrite_onnx::Model::from_bytes(bytes).unwrap());
    let again = &select(&sites, &["h".to_owned()], &[]).unwrap()[0];
    assert_eq!((again.first_index, again.weight_shape.as_slice()), (2, s.sites[0].weight_shape.as_slice()));
    assert_eq!(graph.name_of(again.applications[0].input), "x");
    let weights: Vec<&str> = dendrites::trainable::weights(&graph).into_iter().map(|v| graph.name_of(v)).collect();
    for name in s.tensors.keys() {
        assert!(weights.contains(&name.as_str()), "{name}: {weights:?}");
    }
}

#[test]
fn the_neuron_connection_is_refused_with_the_reason() {
    let s = Setting::of(&CASES[0]);
    let demand = dendrites::Demand { connect: Connection::Neuron, cycles: 1, width: None, budget: None };
    let error = dendrites::Plan::new(&s.sites, &demand).unwrap_err();
    assert!(error.to_string().contains("it takes layer dendrites"), "{error}");
    assert!(error.hint().unwrap().contains("--connect layer"));
    let planned = vec![dendrites::PlannedSite { name: "h".to_owned(), dendrites: 1 }];
    let plan = dendrites::Plan { connect: Connection::Neuron, cycles: 1, sites: planned };
    assert!(plan.check(&s.sites).unwrap_err().to_string().contains("it takes layer dendrites"));
}
