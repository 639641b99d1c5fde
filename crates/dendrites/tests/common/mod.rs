//! What the tests of dendrites share: working copies, random sets, runs, double precision.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::{Path, PathBuf},
};

use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Patch, Shape, Tensor, ValueId, WORKING_OPSET, upgrade::upgrade,
};
use dendrite_runtime::{Optimization, Session, SessionOptions, infer_shapes};
use dendrites::{Activation, Connection, DendriteSet, Site, Weights, find_sites, insert::insert_into_patch};
use prost::Message;

/// Reproducible numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9abc_def1))
    }

    /// In -1..1.
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.next() * scale).collect();
        Tensor::from_f32(shape, &values)
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), files));
    } else if path.extension().is_some_and(|e| e == "onnx") {
        files.push(path.to_owned());
    }
}

/// The models of the repository, and every .onnx file below the folder `DENDRITE_MODELS`.
pub fn models() -> Vec<(String, Model)> {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), &mut files);
    assert_eq!(files.len(), 4);
    if let Some(folder) = env::var_os("DENDRITE_MODELS") {
        collect(Path::new(&folder), &mut files);
    }
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), Model::open(path).unwrap())).collect()
}

/// The working copy of a model and its sites, as a run prepares them.
pub fn working(model: &Model) -> (Graph, Vec<Site>) {
    let mut graph = Graph::from_model(model).unwrap();
    infer_shapes(&mut graph).unwrap();
    upgrade(&mut graph, WORKING_OPSET).unwrap();
    infer_shapes(&mut graph).unwrap();
    let (sites, _) = find_sites(&graph).unwrap();
    (graph, sites)
}

/// A graph as the user's file.
pub fn file(graph: &Graph) -> Model {
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

/// `count` sets at every site.
pub fn sets(sites: &[Site], connection: Connection, count: usize, activation: Activation) -> Vec<DendriteSet> {
    // Recurrent operators take no others.
    let connection_of = move |site: &Site| {
        if site.kind.refuses(connection).is_some() { Connection::Layer } else { connection }
    };
    let widths = move |site: &Site| match connection_of(site) {
        Connection::Neuron => site.channels,
        Connection::Layer => 2usize.next_multiple_of(site.groups),
    };
    (0..count)
        .flat_map(|index| {
            sites.iter().map(move |site| DendriteSet {
                site: site.name.clone(),
                index: site.first_index + index,
                connection: connection_of(site),
                activation,
                width: widths(site),
            })
        })
        .collect()
}

/// Random tensors of the size training gives them; connections zero on request.
pub fn tensors(sites: &[Site], sets: &[DendriteSet], random: &mut Random, connected: bool) -> Weights {
    let mut weights = Weights::new();
    for set in sets {
        let site = sites.iter().find(|s| s.name == set.site).unwrap();
        for (name, shape) in set.tensors(site, sets) {
            let tensor = if name == set.path("weight") {
                random.tensor(&shape, 2.0 / (site.fan_in() as f32).sqrt())
            } else if name == set.path("connection") && !connected {
                Tensor::filled(ElementType::Float, &shape, 0.0)
            } else {
                random.tensor(&shape, 1.0)
            };
            weights.insert(name, tensor);
        }
    }
    weights
}

/// The file with dendrites.
pub fn patched(model: &Model, graph: &Graph, sites: &[Site], sets: &[DendriteSet], weights: &Weights) -> Vec<u8> {
    let mut patch = Patch::new();
    insert_into_patch(&mut patch, model, graph, sites, sets, weights).unwrap();
    patch.apply(model).unwrap()
}

/// Inputs of a realistic range: small non-negative integers, floats as the known models take them.
pub fn inputs(graph: &Graph, random: &mut Random) -> Vec<(String, Tensor)> {
    let size = |axis: usize, dim: &Dim| dim.known().unwrap_or(if axis == 0 { 2 } else { 16 });
    // Features of letters lie in 0..15, pixels of digits in 0..255, the other models' inputs about -1..1.
    let positive = |shape: &[usize]| match shape {
        [.., 28, 28] => Some(255.0),
        _ => graph.nodes().any(|(_, n)| n.op == "Scaler").then_some(15.0),
    };
    graph
        .inputs
        .iter()
        .map(|id| {
            let value = graph.value(*id);
            let shape: Vec<usize> =
                value.shape.as_ref().unwrap().0.iter().enumerate().map(|(i, d)| size(i, d)).collect();
            let len = shape.iter().product::<usize>();
            let tensor = match value.element_type.unwrap() {
                ElementType::Int64 if value.name.contains("mask") => Tensor::from_i64(&shape, &vec![1; len]),
                ElementType::Int64 if value.name.contains("type") => Tensor::from_i64(&shape, &vec![0; len]),
                ElementType::Int64 => {
                    let ids: Vec<i64> = (0..len).map(|_| 1000 + (random.next().abs() * 5000.0) as i64).collect();
                    Tensor::from_i64(&shape, &ids)
                }
                ElementType::Float => match positive(&shape) {
                    Some(top) => {
                        let values: Vec<f32> = (0..len).map(|_| top * random.next().abs()).collect();
                        Tensor::from_f32(&shape, &values)
                    }
                    None => random.tensor(&shape, 1.0),
                },
                other => panic!("{}: {other}", value.name),
            };
            (value.name.clone(), tensor)
        })
        .collect()
}

pub fn session(bytes: &[u8], optimization: Optimization) -> Session {
    let options = SessionOptions { threads: 2, optimization, ..Default::default() };
    Session::from_bytes(bytes, &options).unwrap()
}

/// Run a model file.
pub fn run_file(bytes: &[u8], feeds: &[(String, Tensor)], optimization: Optimization) -> BTreeMap<String, Tensor> {
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    session(bytes, optimization).run(&feeds).unwrap().into_iter().collect()
}

/// Run a graph.
pub fn run(graph: &Graph, feeds: &[(String, Tensor)]) -> BTreeMap<String, Tensor> {
    run_file(&graph.to_model().unwrap().encode_to_vec(), feeds, Optimization::Off)
}

/// |a - b| / max(1, max |b|) at its largest; infinite for different shapes or NaN.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    if a.shape() != b.shape() || a.element_type() != b.element_type() {
        return f64::INFINITY;
    }
    apart(&a.to_f64().unwrap(), &b.to_f64().unwrap())
}

pub fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0, |m, (a, b)| {
        // Equal infinities, as masks hold them, are equal.
        let d = if a == b { 0.0 } else { (a - b).abs() / scale };
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    })
}

/// The graph in double precision: every float32 value and constant becomes float64.
pub fn double(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let values: Vec<(ValueId, Option<Shape>, Option<Tensor>)> = graph
        .values()
        .filter(|(_, v)| v.element_type == Some(ElementType::Float))
        .map(|(id, v)| (id, v.shape.clone(), v.constant.clone()))
        .collect();
    for (id, shape, constant) in values {
        match constant {
            Some(t) => graph.set_constant(id, Tensor::from_f64(t.shape(), &t.to_f64().unwrap())),
            None => graph.set_type(id, Some(ElementType::Double), shape),
        }
    }
    for id in graph.node_ids() {
        let node = graph.node_mut(id);
        if node.op == "Cast" && node.attributes.int("to", 0) == ElementType::Float as i64 {
            node.attributes.set("to", ElementType::Double as i64);
        }
    }
    graph
}

/// A tensor in double precision.
pub fn wide(tensor: &Tensor) -> Tensor {
    Tensor::from_f64(tensor.shape(), &tensor.to_f64().unwrap())
}

/// A loaded graph that is run many times.
pub struct Runner {
    session: Session,
    feeds: HashMap<String, Tensor>,
}

impl Runner {
    pub fn new(graph: &Graph, feeds: &[(String, Tensor)]) -> Self {
        let bytes = graph.to_model().unwrap().encode_to_vec();
        Runner { session: session(&bytes, Optimization::Basic), feeds: feeds.iter().cloned().collect() }
    }

    pub fn feed(&self, name: &str) -> &Tensor {
        &self.feeds[name]
    }

    pub fn run(&mut self) -> HashMap<String, Tensor> {
        let names: Vec<String> = self.session.inputs().iter().map(|p| p.name.clone()).collect();
        let feeds: Vec<(&str, &Tensor)> = names.iter().map(|n| (n.as_str(), &self.feeds[n])).collect();
        self.session.run(&feeds).unwrap().into_iter().collect()
    }

    /// Output `of` by central differences in every element of the float64 feed `name`.
    pub fn finite_differences(&mut self, of: &str, name: &str, step: f64) -> Vec<f64> {
        let original = self.feeds[name].clone();
        let values = original.to_f64().unwrap();
        let mut found = Vec::with_capacity(values.len());
        for i in 0..values.len() {
            let mut at = |delta: f64| {
                let mut moved = values.clone();
                moved[i] += delta;
                self.feeds.insert(name.to_owned(), Tensor::from_f64(original.shape(), &moved));
                self.run()[of].to_f64().unwrap()[0]
            };
            found.push((at(step) - at(-step)) / (2.0 * step));
        }
        self.feeds.insert(name.to_owned(), original);
        found
    }
}

/// max |a - b| / max |b|.
pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(scale > 0.0, "nothing to compare with");
    a.iter().zip(b).fold(0.0, |m, (a, b)| if (a - b).is_nan() { f64::INFINITY } else { m.max((a - b).abs() / scale) })
}

/// A model of one linear operation between an input `x` and an output `y` behind a Tanh.
pub struct Case {
    pub name: &'static str,
    pub graph: Graph,
}

/// One of every kind of site the real models lack or have: (name, opset, input shape, how it is built).
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(7);
    let mut list = Vec::new();
    let mut case = |name: &'static str,
                    opset: i64,
                    shape: &[usize],
                    build: &mut dyn FnMut(&mut Graph, ValueId, &mut Random) -> ValueId| {
        let mut graph = Graph::new(name, opset);
        let x = graph.add_input("x", ElementType::Float, Shape::known(shape));
        let z = build(&mut graph, x, &mut random);
        let y = graph.op("Tanh", "y", &[z], Attributes::new());
        graph.set_type(y, Some(ElementType::Float), None);
        graph.outputs = vec![y];
        list.push(Case { name, graph });
    };
    let none = Attributes::new;
    fn weight(g: &mut Graph, r: &mut Random, name: &str, shape: &[usize]) -> ValueId {
        let tensor = r.tensor(shape, 0.7);
        g.add_constant(name, tensor)
    }
    case("matmul with bias", 13, &[3, 5], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[5, 4]), weight(g, r, "b", &[4]));
        let m = g.op("MatMul", "m", &[x, w], none());
        g.op("Add", "h", &[b, m], none())
    });
    case("matmul of rank 3", 17, &[2, 3, 5], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[5, 4]), weight(g, r, "b", &[4]));
        let m = g.op("MatMul", "m", &[x, w], none());
        g.op("Add", "h", &[m, b], none())
    });
    case("matmul alone", 8, &[3, 5], &mut |g, x, r| {
        let w = weight(g, r, "w", &[5, 4]);
        g.op("MatMul", "h", &[x, w], none())
    });
    case("gemm", 7, &[3, 5], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[5, 4]), weight(g, r, "b", &[4]));
        g.op("Gemm", "h", &[x, w, b], none().with("alpha", 0.5f32).with("beta", 2.0f32))
    });
    case("gemm transposed", 21, &[3, 5], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[4, 5]), weight(g, r, "b", &[4]));
        g.op("Gemm", "h", &[x, w, b], none().with("transB", 1))
    });
    case("gemm without bias", 13, &[3, 5], &mut |g, x, r| {
        let w = weight(g, r, "w", &[4, 5]);
        g.op("Gemm", "h", &[x, w], none().with("transB", 1))
    });
    case("conv1d", 11, &[2, 3, 9], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[4, 3, 3]), weight(g, r, "b", &[4]));
        g.op("Conv", "h", &[x, w, b], none().with("strides", vec![2i64]).with("pads", vec![1i64, 0]))
    });
    case("conv2d same", 9, &[2, 3, 5, 6], &mut |g, x, r| {
        let w = weight(g, r, "w", &[4, 3, 3, 3]);
        g.op("Conv", "h", &[x, w], none().with("auto_pad", "SAME_UPPER").with("kernel_shape", vec![3i64, 3]))
    });
    case("conv2d dilated, bias behind", 13, &[2, 3, 6, 6], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[4, 3, 2, 2]), weight(g, r, "b", &[4, 1, 1]));
        let c = g.op("Conv", "c", &[x, w], none().with("dilations", vec![2i64, 2]));
        g.op("Add", "h", &[c, b], none())
    });
    case("conv3d", 17, &[2, 2, 3, 3, 3], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[4, 2, 2, 2, 2]), weight(g, r, "b", &[4]));
        g.op("Conv", "h", &[x, w, b], none())
    });
    case("grouped conv", 13, &[2, 4, 5, 5], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[6, 2, 3, 3]), weight(g, r, "b", &[6]));
        g.op("Conv", "h", &[x, w, b], none().with("group", 2))
    });
    case("depthwise conv", 17, &[2, 4, 5, 5], &mut |g, x, r| {
        let w = weight(g, r, "w", &[4, 1, 3, 3]);
        g.op("Conv", "h", &[x, w], none().with("group", 4).with("pads", vec![1i64, 1, 1, 1]))
    });
    case("depthwise conv, two a channel", 17, &[2, 3, 6], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[6, 1, 3]), weight(g, r, "b", &[6]));
        g.op("Conv", "h", &[x, w, b], none().with("group", 3))
    });
    case("transposed conv1d", 11, &[2, 4, 5], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[4, 3, 3]), weight(g, r, "b", &[3]));
        let strides = none().with("strides", vec![2i64]).with("pads", vec![1i64, 0]);
        g.op("ConvTranspose", "h", &[x, w, b], strides.with("output_padding", vec![1i64]))
    });
    case("transposed conv2d same", 13, &[2, 3, 4, 5], &mut |g, x, r| {
        let w = weight(g, r, "w", &[3, 4, 3, 3]);
        let attributes = none().with("auto_pad", "SAME_LOWER").with("kernel_shape", vec![3i64, 3]);
        g.op("ConvTranspose", "h", &[x, w], attributes.with("strides", vec![2i64, 2]))
    });
    case("transposed conv2d dilated, bias behind", 9, &[2, 3, 4, 4], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[3, 4, 2, 2]), weight(g, r, "b", &[4, 1, 1]));
        let c = g.op("ConvTranspose", "c", &[x, w], none().with("dilations", vec![2i64, 1]));
        g.op("Add", "h", &[b, c], none())
    });
    case("transposed conv3d of a given shape", 17, &[2, 2, 2, 3, 2], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[2, 4, 2, 2, 2]), weight(g, r, "b", &[4]));
        let attributes = none().with("strides", vec![2i64, 2, 2]).with("output_shape", vec![4i64, 6, 5]);
        g.op("ConvTranspose", "h", &[x, w, b], attributes)
    });
    case("grouped transposed conv", 13, &[2, 4, 3, 4], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[4, 3, 3, 2]), weight(g, r, "b", &[6]));
        g.op("ConvTranspose", "h", &[x, w, b], none().with("group", 2).with("strides", vec![1i64, 2]))
    });
    case("depthwise transposed conv", 21, &[2, 3, 4], &mut |g, x, r| {
        let w = weight(g, r, "w", &[3, 1, 3]);
        g.op("ConvTranspose", "h", &[x, w], none().with("group", 3).with("pads", vec![1i64, 1]))
    });
    case("transposed conv and batch normalisation", 14, &[2, 3, 4, 4], &mut |g, x, r| {
        let (w, b) = (weight(g, r, "w", &[3, 4, 2, 2]), weight(g, r, "b", &[4]));
        let c = g.op("ConvTranspose", "c", &[x, w, b], none().with("strides", vec![2i64, 2]));
        let (scale, shift, mean) = (weight(g, r, "s", &[4]), weight(g, r, "t", &[4]), weight(g, r, "mu", &[4]));
        let variance = g.add_constant("var", Tensor::from_f32(&[4], &[0.5, 1.0, 1.5, 2.0]));
        g.op("BatchNormalization", "h", &[c, scale, shift, mean, variance], none())
    });
    for (name, opset, bias) in
        [("conv and batch normalisation", 8, true), ("conv without bias and normalisation", 17, false)]
    {
        case(name, opset, &[2, 3, 5, 5], &mut |g, x, r| {
            let w = weight(g, r, "w", &[4, 3, 3, 3]);
            let mut inputs = vec![x, w];
            if bias {
                inputs.push(weight(g, r, "b", &[4]));
            }
            let c = g.op("Conv", "c", &inputs, none());
            let (scale, shift, mean) = (weight(g, r, "s", &[4]), weight(g, r, "t", &[4]), weight(g, r, "mu", &[4]));
            let variance = g.add_constant("var", Tensor::from_f32(&[4], &[0.5, 1.0, 1.5, 2.0]));
            g.op("BatchNormalization", "h", &[c, scale, shift, mean, variance], none())
        });
    }
    list
}

/// Models in which operations share weights; with `tied` false the same models with a copy of the weights for each operation.
pub fn tied_cases(tied: bool) -> Vec<Case> {
    let mut random = Random::new(8);
    let mut list = Vec::new();
    let none = Attributes::new;
    /// One weight for all that ask for it by this name, or one for each.
    fn shared(g: &mut Graph, r: &mut Random, tied: bool, name: &str, shape: &[usize]) -> ValueId {
        let first = g.find(name);
        match first {
            Some(found) if tied => found,
            Some(found) => {
                let copy = g.constant(found).unwrap().clone();
                g.add_constant(&format!("{name}_copy"), copy)
            }
            None => {
                let tensor = r.tensor(shape, 0.7);
                g.add_constant(name, tensor)
            }
        }
    }
    let mut case = |name: &'static str, opset: i64, build: &mut dyn FnMut(&mut Graph, &mut Random) -> ValueId| {
        let mut graph = Graph::new(name, opset);
        let z = build(&mut graph, &mut random);
        let y = graph.op("Tanh", "y", &[z], Attributes::new());
        graph.set_type(y, Some(ElementType::Float), None);
        graph.outputs = vec![y];
        list.push(Case { name, graph });
    };
    fn input(g: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
        g.add_input(name, ElementType::Float, Shape::known(shape))
    }
    case("branches with biases of their own", 13, &mut |g, r| {
        let mut branches = Vec::new();
        for name in ["a", "b"] {
            let x = input(g, name, &[3, 5]);
            let w = shared(g, r, tied, "w", &[5, 4]);
            let b = r.tensor(&[4], 0.7);
            let b = g.add_constant(&format!("bias_{name}"), b);
            let m = g.op("MatMul", "m", &[x, w], none());
            let h = g.op("Add", &format!("h_{name}"), &[m, b], none());
            branches.push(g.op("Relu", "r", &[h], none()));
        }
        g.op("Sub", "d", &branches, none())
    });
    case("an unrolled recurrent network", 11, &mut |g, r| {
        let mut state = input(g, "state", &[2, 4]);
        for step in 0..3 {
            let x = input(g, &format!("x{step}"), &[2, 3]);
            let (w, u) = (shared(g, r, tied, "w", &[4, 3]), shared(g, r, tied, "u", &[4, 4]));
            let b = shared(g, r, true, "b", &[4]);
            let from_input = g.op("Gemm", &format!("from_input_{step}"), &[x, w, b], none().with("transB", 1));
            let from_state = g.op("Gemm", &format!("from_state_{step}"), &[state, u], none().with("transB", 1));
            let sum = g.op("Add", "sum", &[from_input, from_state], none());
            state = g.op("Tanh", "state", &[sum], none());
        }
        state
    });
    case("weights transposed at each operation", 17, &mut |g, r| {
        let mut branches = Vec::new();
        for (name, shape) in [("a", vec![2, 5]), ("b", vec![3, 2, 5])] {
            let x = input(g, name, &shape);
            let w = shared(g, r, tied, "w", &[4, 5]);
            let t = g.op("Transpose", "t", &[w], none().with("perm", vec![1i64, 0]));
            branches.push(g.op("MatMul", &format!("h_{name}"), &[x, t], none()));
        }
        g.op("Mul", "product", &branches, none())
    });
    case("a convolution on feature levels", 17, &mut |g, r| {
        let mut levels = Vec::new();
        for (name, size) in [("a", 6), ("b", 4), ("c", 3)] {
            let x = input(g, name, &[2, 4, size, size]);
            let w = shared(g, r, tied, "w", &[6, 2, 3, 3]);
            let b = shared(g, r, true, "bias", &[6]);
            let pads = none().with("pads", vec![1i64, 1, 1, 1]).with("group", 2);
            let c = g.op("Conv", "c", &[x, w, b], pads);
            let mut inputs = vec![c];
            for (role, tensor) in [("s", r.tensor(&[6], 0.7)), ("t", r.tensor(&[6], 0.7)), ("mu", r.tensor(&[6], 0.7))]
            {
                inputs.push(g.add_constant(role, tensor));
            }
            inputs.push(g.add_constant("var", Tensor::from_f32(&[6], &[0.5, 1.0, 1.5, 2.0, 0.7, 1.2])));
            let h = g.op("BatchNormalization", &format!("h_{name}"), &inputs, none());
            levels.push(g.op("GlobalAveragePool", "p", &[h], none()));
        }
        g.op("Sum", "all", &levels, none())
    });
    case("transposed convolutions of other strides", 13, &mut |g, r| {
        let mut branches = Vec::new();
        for (name, stride) in [("a", 1i64), ("b", 2)] {
            let x = input(g, name, &[2, 3, 4]);
            let w = shared(g, r, tied, "w", &[3, 4, 3]);
            let h = g.op("ConvTranspose", &format!("h_{name}"), &[x, w], none().with("strides", vec![stride]));
            branches.push(g.op("GlobalMaxPool", "p", &[h], none()));
        }
        g.op("Sub", "d", &branches, none())
    });
    case("a GRU on two inputs", 14, &mut |g, r| {
        let mut branches = Vec::new();
        for name in ["a", "b"] {
            let x = input(g, name, &[3, 2, 5]);
            let (w, u) = (shared(g, r, tied, "w", &[1, 9, 5]), shared(g, r, true, "u", &[1, 9, 3]));
            let inputs = [Some(x), Some(w), Some(u)];
            let h = g.add_node("GRU", &format!("h_{name}"), &inputs, none().with("hidden_size", 3), 1);
            branches.push(h[0]);
        }
        g.op("Sub", "d", &branches, none())
    });
    list
}

/// Models of recurrent operators: (name, how the operator is made). ONNX Runtime has none of layout 1.
pub fn recurrent_cases() -> Vec<Case> {
    let mut random = Random::new(9);
    let mut list = Vec::new();
    let none = Attributes::new;
    for (name, opset, op, gates, direction, outputs, extras) in [
        ("a plain LSTM", 7, "LSTM", 4, "forward", 1, false),
        ("a bidirectional LSTM with everything", 14, "LSTM", 4, "bidirectional", 3, true),
        ("a backward GRU", 9, "GRU", 3, "reverse", 1, true),
        ("a bidirectional GRU that resets late", 17, "GRU", 3, "bidirectional", 2, true),
        ("an RNN without bias", 22, "RNN", 1, "forward", 1, false),
        ("a bidirectional RNN", 11, "RNN", 1, "bidirectional", 2, true),
    ] {
        let (steps, batch, inputs, hidden) = (4, 3, 5, 3);
        let directions = if direction == "bidirectional" { 2 } else { 1 };
        let mut graph = Graph::new(name, opset);
        let x = graph.add_input("x", ElementType::Float, Shape::known(&[steps, batch, inputs]));
        let mut constant = |graph: &mut Graph, name: &str, shape: &[usize]| {
            let tensor = random.tensor(shape, 0.7);
            Some(graph.add_constant(name, tensor))
        };
        let mut read = vec![Some(x)];
        read.push(constant(&mut graph, "w", &[directions, gates * hidden, inputs]));
        read.push(constant(&mut graph, "r", &[directions, gates * hidden, hidden]));
        if name != "an RNN without bias" {
            read.push(constant(&mut graph, "b", &[directions, 2 * gates * hidden]));
        }
        if extras {
            let lengths = Tensor::new(
                ElementType::Int32,
                vec![batch],
                [4i32, 2, 3].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>(),
            );
            read.push(Some(graph.add_constant("lengths", lengths.unwrap())));
            read.push(constant(&mut graph, "h0", &[directions, batch, hidden]));
            if op == "LSTM" {
                read.push(constant(&mut graph, "c0", &[directions, batch, hidden]));
                read.push(constant(&mut graph, "p", &[directions, 3 * hidden]));
            }
        }
        let mut attributes = none().with("hidden_size", hidden as i64).with("direction", direction);
        if op == "GRU" && opset == 17 {
            attributes = attributes.with("linear_before_reset", 1);
        }
        if extras && op == "LSTM" {
            attributes = attributes.with("clip", 2.5f32);
        }
        let values = graph.add_node(op, "h", &read, attributes, outputs);
        // Every output has a reader.
        let ends: Vec<ValueId> = values
            .iter()
            .map(|v| {
                let sizes = graph.add_constant("sizes", Tensor::int64s(&[1, -1]));
                graph.op("Reshape", "flat", &[*v, sizes], none())
            })
            .collect();
        let y = graph.op("Concat", "y", &ends, none().with("axis", 1));
        graph.set_type(y, Some(ElementType::Float), None);
        graph.outputs = vec![y];
        list.push(Case { name, graph });
    }
    list
}
