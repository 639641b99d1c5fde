//! One grown site, read off a file.

use dendrite_onnx::{
    Attributes, Graph, Node, ValueId,
    proto::{AttributeProto, NodeProto},
};

use crate::{
    error::Result,
    fragment::{Part, Reading, fragment},
    recognise::{
        GrownSet, GrownSite, Place,
        reader::{Reader, is, split},
    },
    set::{Activation, Connection, DendriteSet, Weights},
    sites::{Application, Site, SiteKind},
};

/// Nodes that may follow a site's operation and belong to it: a bias and a batch normalisation.
const FOLLOWERS: usize = 2;

impl Reader<'_> {
    /// The values of `candidates` by the site whose tensors their dendrites read, which comes first.
    pub(super) fn by_site(&self, candidates: &[String]) -> Vec<(String, Vec<String>)> {
        let mut sites: Vec<(String, Vec<String>)> = Vec::new();
        for name in candidates {
            let Some(owner) = self.owner(name) else { continue };
            match sites.iter_mut().find(|(site, _)| *site == owner) {
                Some((_, applications)) => applications.push(name.clone()),
                None => sites.push((owner, vec![name.clone()])),
            }
        }
        sites.retain(|(site, applications)| applications.contains(site));
        for (site, applications) in &mut sites {
            applications.sort_by_key(|name| name != site);
        }
        sites
    }

    /// The site whose tensors the dendrites at `name` read.
    fn owner(&self, name: &str) -> Option<String> {
        let index = *self.chain(name)?.first()?;
        let roles = [SiteKind::Conv, SiteKind::Gemm, SiteKind::MatMul].map(SiteKind::role);
        let paths = roles.map(|role| format!("{name}/dendrite_{index}/{role}"));
        let (_, node) = paths.iter().find_map(|path| self.producer(path))?;
        let (site, of, role) = split(node.input.get(1)?)?;
        (of == index && role == "weight").then(|| site.to_owned())
    }

    /// The site `name`, applied where its output is one of `applications`, with its dendrites, if that is what the file holds.
    pub(super) fn site(&self, name: &str, applications: &[String]) -> Result<Option<GrownSite>> {
        let Some(found) = self.outline(name, applications) else { return Ok(None) };
        let Outline { graph, site, sets, places } = found;
        let mut weights = Weights::new();
        for (path, _) in sets.iter().flat_map(|set| set.tensors(&site, &sets)) {
            let Some(tensor) = self.tensor(&path)? else { return Ok(None) };
            weights.insert(path, tensor);
        }
        // Sets that do not fit the site's shape are none.
        let Ok(Some(built)) = fragment(&graph, &site, &sets, &weights, Reading::Direct) else { return Ok(None) };
        let Some(nodes) = built.parts.iter().map(|part| self.nodes_of(part)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let all: Vec<usize> = nodes.iter().flatten().copied().collect();
        let private = built.parts.iter().flat_map(Part::values);
        let constants = built.constants.iter().map(|(path, _)| path);
        if !private.chain(constants).all(|value| self.is_read_by(value, &all)) {
            return Ok(None);
        }
        let mut grown: Vec<GrownSet> = sets.iter().map(|set| GrownSet::new(set, &site, &sets)).collect();
        for (part, nodes) in built.parts.iter().zip(nodes) {
            let mut rest = part.nodes.iter().zip(nodes);
            for (position, set) in grown.iter_mut().enumerate() {
                // A part is in order of its sets, each of which ends with its sum.
                let last = position + 1 == sets.len();
                let sum = if last { part.output.clone() } else { set.set.path_at(&part.output, "sum") };
                for (node, index) in rest.by_ref() {
                    set.nodes.push(index);
                    if node.output == sum {
                        set.adds.push(index);
                        break;
                    }
                }
            }
        }
        Ok(Some(GrownSite { name: name.to_owned(), sets: grown, applications: places }))
    }

    /// The file's nodes that are those of a part, in its order.
    fn nodes_of(&self, part: &Part) -> Option<Vec<usize>> {
        let found = part.nodes.iter().map(|expected| {
            let (index, actual) = self.producer(&expected.output)?;
            let same = is(actual, expected.op)
                && actual.output.len() == 1
                && actual.input == expected.inputs
                && same_attributes(&actual.attribute, expected.attributes.as_slice());
            same.then_some(index)
        });
        found.collect()
    }

    /// What the names and tensors of a site speak of.
    fn outline(&self, name: &str, applications: &[String]) -> Option<Outline> {
        let indices = self.chain(name)?;
        let (mut operations, mut places) = (Vec::new(), Vec::new());
        for application in applications {
            if self.chain(application)? != indices {
                return None;
            }
            let main = format!("{application}/main");
            places.push(Place { name: application.clone(), main: self.place_of(&main)? });
            operations.push(self.operation(&main)?);
        }
        let kind = operations.first()?.0;
        if operations.iter().any(|(other, _)| *other != kind) {
            return None;
        }
        let sets: Vec<DendriteSet> = indices.iter().map(|index| self.set(name, *index, kind)).collect::<Option<_>>()?;
        let named = applications.iter().map(String::as_str).zip(operations.iter().map(|(_, node)| *node));
        let (graph, site) = self.describe(name, kind, &named.collect::<Vec<_>>(), &sets)?;
        Some(Outline { graph, site, sets, places })
    }

    /// The indices of the sets at a site's output, first to last, along the sums back to what its own operation computes.
    fn chain(&self, name: &str) -> Option<Vec<usize>> {
        let main = format!("{name}/main");
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
    fn operation(&self, main: &str) -> Option<(SiteKind, &NodeProto)> {
        let mut value = main;
        for _ in 0..=FOLLOWERS {
            let (_, node) = self.producer(value)?;
            if !is(node, node.op_type()) {
                return None;
            }
            if let Some(kind) = SiteKind::of_op(node.op_type()) {
                return Some((kind, node));
            }
            value = match (node.op_type(), node.input.as_slice()) {
                ("BatchNormalization", [value, ..]) => value,
                ("Add", [x, y]) if self.constant_dims(y).is_some() => x,
                ("Add", [x, y]) if self.constant_dims(x).is_some() => y,
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

    /// The site as insertion saw it, in a graph that holds no more than its operations.
    fn describe(
        &self,
        name: &str,
        kind: SiteKind,
        operations: &[(&str, &NodeProto)],
        sets: &[DendriteSet],
    ) -> Option<(Graph, Site)> {
        let first = sets.first()?;
        let (of_set, connection) = (self.dims(&first.path("weight"))?, self.dims(&first.path("connection"))?);
        if of_set.len() < if kind.is_convolution() { 3 } else { 2 } {
            return None;
        }
        let channels = match (first.connection, kind) {
            (Connection::Layer, kind) if !kind.is_convolution() => *connection.get(1)?,
            (Connection::Layer | Connection::Neuron, _) => *connection.first()?,
        };
        let mut graph = Graph::new("", 0);
        let applications: Vec<Application> = operations
            .iter()
            .map(|(output, operation)| described(&mut graph, output, operation))
            .collect::<Option<_>>()?;
        let attributes = &graph.node(applications.first()?.node).attributes;
        let mut site = Site {
            name: name.to_owned(),
            kind,
            weight_shape: of_set,
            bias: self.dims(&first.path("bias")).is_some(),
            channels,
            groups: usize::try_from(attributes.int("group", 1)).unwrap_or(1),
            transposed: kind == SiteKind::Gemm && attributes.int("transB", 0) != 0,
            applications,
        };
        site.weight_shape = site.weight_shape_of(channels);
        for (_, operation) in operations {
            // Weights that are computed, from quantised ones say, have no shape in the file.
            match self.constant_dims(operation.input.get(1)?) {
                Some(dims) if dims.as_ref() != Some(&site.weight_shape) => return None,
                _ => {}
            }
        }
        Some((graph, site))
    }
}

/// A site as its names and tensors speak of it, and where it is applied.
struct Outline {
    graph: Graph,
    site: Site,
    sets: Vec<DendriteSet>,
    places: Vec<Place>,
}

/// An operation of a file as a node of `graph`.
fn described(graph: &mut Graph, output: &str, operation: &NodeProto) -> Option<Application> {
    let mut value = |name: &str| -> ValueId {
        match graph.find(name) {
            Some(value) => value,
            None => graph.add_value(name),
        }
    };
    let (input, weight) = (value(operation.input.first()?), value(operation.input.get(1)?));
    let named = value(output);
    let node = graph.push(Node {
        name: String::new(),
        domain: String::new(),
        op: operation.op_type().to_owned(),
        inputs: vec![Some(input), Some(weight)],
        outputs: vec![Some(named)],
        attributes: Attributes::from(operation.attribute.clone()),
    });
    let (name, node_name) = (output.to_owned(), operation.name().to_owned());
    Some(Application { name, node_name, node, input, weight, output: named })
}

impl GrownSet {
    fn new(set: &DendriteSet, site: &Site, sets: &[DendriteSet]) -> Self {
        GrownSet {
            set: set.clone(),
            parameters: set.parameters(site, sets),
            nodes: Vec::new(),
            constants: set.tensors(site, sets).into_iter().map(|(path, _)| path).collect(),
            adds: Vec::new(),
        }
    }
}

fn same_attributes(a: &[AttributeProto], b: &[AttributeProto]) -> bool {
    a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| x == y))
}
