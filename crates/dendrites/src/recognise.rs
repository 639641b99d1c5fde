//! Dendrites in a finished file, found again: the inverse of insertion.
//!
//! Names lead to what may be dendrites, structure decides. The sets that a site's names speak of are read off its tensors, the
//! fragment they would have been inserted as is built anew, and the file must hold exactly that: the same operators, inputs
//! and attributes, beside an operation of the same kind on the same input, and read by nobody else. Whatever is merely named
//! like a dendrite is not recognised.
//!
//! A grown model can be grown again, its dendrites too. So what is recognised is taken away, and what remains looked at anew,
//! until nothing more is found.

use std::collections::{BTreeSet, HashMap, HashSet};

use dendrite_onnx::{
    Attributes, Graph, Model, Node,
    diff::{Diff, View, diff, shapes},
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto},
};

use crate::{
    error::Result,
    fragment::{Reading, fragment},
    set::{Activation, Connection, DendriteSet, Weights},
    sites::{Site, SiteKind},
};

/// Nodes that may follow a site's operation and belong to it: a bias and a batch normalisation.
const FOLLOWERS: usize = 2;

/// A site with the dendrites that stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrownSite {
    /// The site: the name of its output.
    pub name: String,
    /// Its sets in the order in which they are added.
    pub sets: Vec<GrownSet>,
    /// The node whose output the site was before it grew, and which of its outputs.
    main: (usize, usize),
}

/// A dendrite set in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrownSet {
    /// What it is.
    pub set: DendriteSet,
    /// Its parameters.
    pub parameters: usize,
    /// Its nodes, by position.
    nodes: Vec<usize>,
    /// Its tensors.
    constants: Vec<String>,
    /// The node that adds it to the site.
    add: usize,
}

/// Every site of a model that carries dendrites; those that were grown last come first.
pub fn recognise(model: &Model) -> Result<Vec<GrownSite>> {
    let mut file = Reader::new(model);
    let mut grown: Vec<GrownSite> = Vec::new();
    let mut left: Vec<String> = file.candidates();
    loop {
        let mut found = Vec::new();
        let mut rest = Vec::new();
        for name in left {
            match file.site(&name)? {
                Some(site) => found.push(site),
                None => rest.push(name),
            }
        }
        if found.is_empty() {
            return Ok(grown);
        }
        found.iter().for_each(|site| file.take_away(site));
        grown.extend(found);
        left = rest;
    }
}

/// Dendrites at a site that one of two models has and the other does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The site.
    pub site: String,
    /// The sets.
    pub sets: Vec<DendriteSet>,
    /// Their parameters.
    pub parameters: usize,
    /// Whether every connection is zero still, so that nothing that is computed depends on them.
    pub untrained: bool,
}

/// Two models compared, dendrites understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Dendrites that the second model has more, in the order of its nodes.
    pub added: Vec<Growth>,
    /// Dendrites that the first model has more.
    pub removed: Vec<Growth>,
    /// What else differs.
    pub rest: Diff,
    /// Sites to which nodes that are new in the second model belong by name, but not by how they are wired.
    pub suspects: Vec<String>,
}

impl Comparison {
    /// Whether the models are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.rest.is_empty()
    }
}

/// What differs between two models, dendrites taken for what they are.
pub fn compare(a: &Model, b: &Model) -> Result<Comparison> {
    let (before, after) = (recognise(a)?, recognise(b)?);
    let (mut x, mut y) = (View::of(a), View::of(b));
    let removed = take_growth(a, &mut x, &before, &after)?;
    let added = take_growth(b, &mut y, &after, &before)?;
    let rest = diff(&x, &y)?;
    let suspects: BTreeSet<String> = rest
        .nodes
        .iter()
        .filter(|node| node.before.is_none())
        .filter_map(|node| Some(split(&node.output)?.0.to_owned()))
        .collect();
    Ok(Comparison { added, removed, rest, suspects: suspects.into_iter().collect() })
}

/// The dendrites of `own` that `other` has not, taken out of the view.
fn take_growth(model: &Model, view: &mut View, own: &[GrownSite], other: &[GrownSite]) -> Result<Vec<Growth>> {
    let others: HashMap<&str, &[GrownSet]> = other.iter().map(|s| (s.name.as_str(), s.sets.as_slice())).collect();
    let mut growth = Vec::new();
    for site in own {
        let theirs = others.get(site.name.as_str()).copied().unwrap_or_default();
        // Sets that both begin with may have other weights; from the first that is another set on, it is growth.
        let same = site.sets.iter().zip(theirs).take_while(|(a, b)| a.set == b.set).count();
        let more = &site.sets[same..];
        if more.is_empty() {
            continue;
        }
        for set in more {
            set.nodes.iter().for_each(|node| {
                view.hide_node(*node);
            });
            set.constants.iter().for_each(|name| {
                view.hide_constant(name);
            });
        }
        match same.checked_sub(1).and_then(|last| site.sets.get(last)) {
            Some(last) => view.rename_output(last.add, 0, &site.name),
            None => view.rename_output(site.main.0, site.main.1, &site.name),
        };
        let mut untrained = true;
        for set in more {
            untrained &= is_zero(model, &set.set.path("connection"))?;
        }
        let told = Growth {
            site: site.name.clone(),
            sets: more.iter().map(|s| s.set.clone()).collect(),
            parameters: more.iter().map(|s| s.parameters).sum(),
            untrained,
        };
        growth.push((site.main.0, told));
    }
    growth.sort_by_key(|(node, _)| *node);
    Ok(growth.into_iter().map(|(_, told)| told).collect())
}

fn is_zero(model: &Model, name: &str) -> Result<bool> {
    let tensor = model.graph().initializer.iter().find(|t| t.name() == name).map(|t| model.tensor(t)).transpose()?;
    Ok(tensor.and_then(|t| t.to_f32()).is_some_and(|values| values.iter().all(|v| *v == 0.0)))
}

/// The site, the index and the role that a name of the form `<site>/dendrite_<index>/<role>` speaks of.
fn split(name: &str) -> Option<(&str, usize, &str)> {
    let (path, role) = name.rsplit_once('/')?;
    let (site, number) = path.rsplit_once("/dendrite_")?;
    // As the number is written, so that a name and what is read off it are one and the same.
    let index: usize = number.parse().ok().filter(|n: &usize| n.to_string() == number)?;
    (!site.is_empty()).then_some((site, index, role))
}

/// The main graph of a file, some of its nodes taken away.
struct Reader<'a> {
    model: &'a Model,
    nodes: &'a [NodeProto],
    /// The node that computes a value, and as which of its outputs.
    producers: HashMap<String, (usize, usize)>,
    /// The nodes that read a value; those whose sub-graphs do included.
    readers: HashMap<&'a str, Vec<usize>>,
    outputs: HashSet<&'a str>,
    initializers: HashMap<&'a str, &'a TensorProto>,
    /// The dimensions of constants.
    shapes: HashMap<&'a str, &'a [i64]>,
    gone: HashSet<usize>,
}

impl<'a> Reader<'a> {
    fn new(model: &'a Model) -> Self {
        let graph = model.graph();
        let mut producers = HashMap::new();
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for (position, output) in node.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
                producers.insert(output.clone(), (index, position));
            }
            let mut names = Vec::new();
            names.extend(node.input.iter().map(String::as_str));
            node.attribute.iter().for_each(|attribute| mentioned(attribute, &mut names));
            names.into_iter().for_each(|name| readers.entry(name).or_default().push(index));
        }
        Reader {
            model,
            nodes: &graph.node,
            producers,
            readers,
            outputs: graph.output.iter().map(|o| o.name()).collect(),
            initializers: model.initializers(),
            shapes: shapes(model),
            gone: HashSet::new(),
        }
    }

    /// The values that may be the outputs of grown sites: sums whose second operand is named as a contribution to them.
    fn candidates(&self) -> Vec<String> {
        let contributed = |node: &NodeProto| -> Option<String> {
            let (site, _, role) = split(node.input.get(1)?)?;
            let output = node.output.first()?;
            (is(node, "Add") && role == "contribution" && site == output).then(|| output.clone())
        };
        self.nodes.iter().filter_map(contributed).collect()
    }

    fn producer(&self, value: &str) -> Option<(usize, &'a NodeProto)> {
        let (index, _) = *self.producers.get(value)?;
        (!self.gone.contains(&index)).then(|| (index, &self.nodes[index]))
    }

    /// The nodes that read a value and are still there.
    fn readers(&self, value: &str) -> impl Iterator<Item = usize> {
        self.readers.get(value).into_iter().flatten().copied().filter(|index| !self.gone.contains(index))
    }

    /// Whether only these nodes read a value.
    fn is_read_by(&self, value: &str, nodes: &[usize]) -> bool {
        !self.outputs.contains(value) && self.readers(value).all(|reader| nodes.contains(&reader))
    }

    /// Forget the dendrites of a site: what computed its value before does so again.
    fn take_away(&mut self, site: &GrownSite) {
        for set in &site.sets {
            self.gone.extend(&set.nodes);
        }
        self.producers.insert(site.name.clone(), site.main);
        if let Some(own) = self.nodes[site.main.0].output.get(site.main.1) {
            self.producers.remove(own);
        }
    }

    /// The site `name` with its dendrites, if that is what the file holds there.
    fn site(&self, name: &str) -> Result<Option<GrownSite>> {
        let main = format!("{name}/main");
        let Some(indices) = self.chain(name, &main) else { return Ok(None) };
        let Some(&(node, position)) = self.producers.get(&main).filter(|(node, _)| !self.gone.contains(node)) else {
            return Ok(None);
        };
        let Some((kind, operation)) = self.operation(&main) else { return Ok(None) };
        let sets: Option<Vec<DendriteSet>> = indices.iter().map(|index| self.set(name, *index, kind)).collect();
        let Some(sets) = sets else { return Ok(None) };
        let Some((graph, site)) = self.describe(name, kind, operation, &sets) else { return Ok(None) };
        let mut weights = Weights::new();
        for (path, _) in sets.iter().flat_map(|set| set.tensors(&site, &sets)) {
            let Some(proto) = self.initializers.get(path.as_str()) else { return Ok(None) };
            weights.insert(path, self.model.tensor(proto)?);
        }
        // Sets that do not fit the site's shape are none.
        let Ok(Some(built)) = fragment(&graph, &site, &sets, &weights, Reading::Direct) else { return Ok(None) };
        let mut found = Vec::new();
        for expected in &built.nodes {
            let Some((index, actual)) = self.producer(&expected.output) else { return Ok(None) };
            let same = is(actual, expected.op)
                && actual.output.len() == 1
                && actual.input == expected.inputs
                && same_attributes(&actual.attribute, expected.attributes.as_slice());
            if !same {
                return Ok(None);
            }
            found.push(index);
        }
        let private = built.nodes.iter().map(|n| &n.output).filter(|output| *output != name);
        let constants = built.constants.iter().map(|(path, _)| path);
        if !private.chain(constants).chain([&main]).all(|value| self.is_read_by(value, &found)) {
            return Ok(None);
        }
        let mut grown = Vec::new();
        let mut rest = found.into_iter().zip(&built.nodes);
        for (position, set) in sets.iter().enumerate() {
            // The fragment is in order of its sets, each of which ends with its sum.
            let sum = if position + 1 == sets.len() { name.to_owned() } else { set.path("sum") };
            let mut nodes = Vec::new();
            for (index, node) in rest.by_ref() {
                nodes.push(index);
                if node.output == sum {
                    break;
                }
            }
            let Some(add) = nodes.last().copied() else { return Ok(None) };
            let constants = set.tensors(&site, &sets).into_iter().map(|(path, _)| path).collect();
            grown.push(GrownSet { set: set.clone(), parameters: set.parameters(&site, &sets), nodes, constants, add });
        }
        Ok(Some(GrownSite { name: name.to_owned(), sets: grown, main: (node, position) }))
    }

    /// The indices of a site's sets, first to last, along the sums from its output back to `main`.
    fn chain(&self, name: &str, main: &str) -> Option<Vec<usize>> {
        let mut indices = Vec::new();
        let mut value = name.to_owned();
        while value != main {
            let (_, node) = self.producer(&value).filter(|(_, node)| is(node, "Add"))?;
            let [sum, contribution] = node.input.as_slice() else { return None };
            let (site, index, role) = split(contribution)?;
            // Falling indices also end a chain that runs in a circle.
            if site != name || role != "contribution" || indices.last().is_some_and(|last| *last <= index) {
                return None;
            }
            indices.push(index);
            value = sum.clone();
        }
        indices.reverse();
        (!indices.is_empty()).then_some(indices)
    }

    /// The linear operation whose result is `main`, a bias and a batch normalisation passed by.
    fn operation(&self, main: &str) -> Option<(SiteKind, &'a NodeProto)> {
        let mut value = main;
        for _ in 0..=FOLLOWERS {
            let (_, node) = self.producer(value)?;
            if !is(node, node.op_type()) {
                return None;
            }
            let kind = SiteKind::of_op(node.op_type());
            if let Some(kind) = kind {
                return Some((kind, node));
            }
            value = match (node.op_type(), node.input.as_slice()) {
                ("BatchNormalization", [value, ..]) => value,
                ("Add", [x, y]) if self.shapes.contains_key(y.as_str()) => x,
                ("Add", [x, y]) if self.shapes.contains_key(x.as_str()) => y,
                _ => return None,
            };
        }
        None
    }

    /// The set `index` of a site, read off its tensors.
    fn set(&self, site: &str, index: usize, kind: SiteKind) -> Option<DendriteSet> {
        let mut set = DendriteSet {
            site: site.to_owned(),
            index,
            connection: Connection::Neuron,
            activation: Activation::Relu,
            width: 0,
        };
        let (weight, connection) = (self.dims(&set.path("weight"))?, self.dims(&set.path("connection"))?);
        let rank = if kind.is_convolution() { weight.len() } else { 2 };
        // The matrix of a layer connection has an axis more than the scalars of a neuron connection.
        if connection.len() == rank {
            set.connection = Connection::Layer;
        }
        set.width = match (set.connection, kind) {
            (Connection::Layer, kind) if kind.is_convolution() => *connection.get(1)?,
            _ => *connection.first()?,
        };
        let (_, node) = self.producer(&set.path("activation"))?;
        set.activation = Activation::of_op(node.op_type())?;
        (set.width > 0).then_some(set)
    }

    fn dims(&self, name: &str) -> Option<Vec<usize>> {
        self.initializers.get(name)?.dims.iter().map(|d| usize::try_from(*d).ok()).collect()
    }

    /// The site as insertion saw it, in a graph that holds no more than its operation.
    fn describe(
        &self,
        name: &str,
        kind: SiteKind,
        operation: &NodeProto,
        sets: &[DendriteSet],
    ) -> Option<(Graph, Site)> {
        let (read, weight_name) = (operation.input.first()?.as_str(), operation.input.get(1)?.as_str());
        let first = sets.first()?;
        let (of_set, connection) = (self.dims(&first.path("weight"))?, self.dims(&first.path("connection"))?);
        let channels = match (first.connection, kind) {
            (Connection::Layer, kind) if !kind.is_convolution() => *connection.get(1)?,
            (Connection::Layer | Connection::Neuron, _) => *connection.first()?,
        };
        let attributes = Attributes::from(operation.attribute.clone());
        let transposed = kind == SiteKind::Gemm && attributes.int("transB", 0) != 0;
        if of_set.len() < if kind.is_convolution() { 3 } else { 2 } {
            return None;
        }
        let mut graph = Graph::new("", 0);
        let values = [read, weight_name, name].map(|name| match graph.find(name) {
            Some(value) => value,
            None => graph.add_value(name),
        });
        let [input, weight, output] = values;
        let groups = usize::try_from(attributes.int("group", 1)).unwrap_or(1);
        let node = graph.push(Node {
            name: String::new(),
            domain: String::new(),
            op: operation.op_type().to_owned(),
            inputs: vec![Some(input), Some(weight)],
            outputs: vec![Some(output)],
            attributes,
        });
        let mut site = Site {
            name: name.to_owned(),
            node_name: operation.name().to_owned(),
            kind,
            node,
            input,
            weight,
            weight_shape: of_set,
            bias: self.initializers.contains_key(first.path("bias").as_str()),
            output,
            channels,
            groups,
            transposed,
        };
        site.weight_shape = site.weight_shape_of(channels);
        // Weights that are computed, from quantised ones say, have no shape in the file.
        if let Some(dims) = self.shapes.get(weight_name)
            && dims.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>()? != site.weight_shape
        {
            return None;
        }
        Some((graph, site))
    }
}

/// Whether a node is operator `op` of the standard domain.
fn is(node: &NodeProto, op: &str) -> bool {
    matches!(node.domain(), "" | "ai.onnx") && node.op_type() == op
}

fn same_attributes(a: &[AttributeProto], b: &[AttributeProto]) -> bool {
    a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| x == y))
}

/// The names that the sub-graphs of an attribute read; some may be their own.
fn mentioned<'a>(attribute: &'a AttributeProto, names: &mut Vec<&'a str>) {
    fn graph<'a>(graph: &'a GraphProto, names: &mut Vec<&'a str>) {
        names.extend(graph.output.iter().map(|o| o.name()));
        for node in &graph.node {
            names.extend(node.input.iter().map(String::as_str));
            node.attribute.iter().for_each(|attribute| mentioned(attribute, names));
        }
    }
    attribute.g.iter().chain(&attribute.graphs).for_each(|g| graph(g, names));
}
