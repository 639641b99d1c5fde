//! One grown site, read off a file.

use dendrite_onnx::{
    Attributes, Graph, Node,
    proto::{AttributeProto, NodeProto},
};

use crate::{
    error::Result,
    fragment::{EXTENDED_INPUT, EXTENDED_WEIGHT, Joint, Part, Reading, fragment},
    recognise::{
        Before, GrownSet, GrownSite, Place,
        reader::{Reader, is, is_recurrent, split},
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
        let index = *self.chain(name)?.indices.first()?;
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
        // A recurrent operator reads its dendrites itself.
        let all: Vec<usize> = nodes.iter().flatten().copied().chain(places.iter().map(Place::node)).collect();
        let private = built.parts.iter().flat_map(Part::values);
        let constants = built.constants.iter().map(|(path, _)| path);
        if !private.chain(constants).all(|value| self.is_read_by(value, &all)) {
            return Ok(None);
        }
        let mut grown: Vec<GrownSet> = sets.iter().map(|set| GrownSet::new(set, &site, &sets)).collect();
        for (part, nodes) in built.parts.iter().zip(nodes) {
            let mut rest = part.nodes.iter().zip(nodes);
            for (position, set) in grown.iter_mut().enumerate() {
                // A part is in order of its sets, each of which ends with its sum or with the weights that it extends.
                let end = match part.joint {
                    Joint::Features { .. } => set.set.path_at(&part.output, EXTENDED_WEIGHT),
                    Joint::Sum { .. } if position + 1 == sets.len() => part.output.clone(),
                    Joint::Sum { .. } => set.set.path_at(&part.output, "sum"),
                };
                for (node, index) in rest.by_ref() {
                    set.nodes.push(index);
                    if node.output == end {
                        set.adds.extend(matches!(part.joint, Joint::Sum { .. }).then_some(index));
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
        let indices = self.chain(name)?.indices;
        let (mut operations, mut places) = (Vec::new(), Vec::new());
        for application in applications {
            let chain = self.chain(application)?;
            if chain.indices != indices {
                return None;
            }
            operations.push(match &chain.before {
                Before::Output(..) => self.operation(application)?,
                Before::Inputs(node, reads) => self.recurrent(application, *node, reads, *indices.first()?)?,
            });
            places.push(Place { name: application.clone(), before: chain.before });
        }
        let kind = operations.first()?.kind;
        if operations.iter().any(|other| other.kind != kind) {
            return None;
        }
        let sets: Vec<DendriteSet> = indices.iter().map(|index| self.set(name, *index, kind)).collect::<Option<_>>()?;
        let (graph, site) = self.describe(name, kind, &operations, &sets)?;
        Some(Outline { graph, site, sets, places })
    }

    /// The sets at a site's output, along the sums back to what its own operation computes, or along what a recurrent operator
    /// reads back to what it read.
    fn chain(&self, name: &str) -> Option<Chain> {
        let (node, _) = self.producer(name)?;
        if is_recurrent(&self.nodes[node]) { self.features(name, node) } else { self.sums(name) }
    }

    fn sums(&self, name: &str) -> Option<Chain> {
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
        let (node, output) = self.place_of(&main)?;
        Chain::new(indices, Before::Output(node, output))
    }

    fn features(&self, name: &str, recurrent: usize) -> Option<Chain> {
        let mut indices: Vec<usize> = Vec::new();
        let mut weight = self.input(recurrent, 1)?;
        while let Some((_, index, _)) =
            split(weight).filter(|(site, _, role)| *site == name && *role == EXTENDED_WEIGHT)
        {
            if indices.last().is_some_and(|last| *last <= index) {
                return None;
            }
            indices.push(index);
            weight = self.producer(weight)?.1.input.first()?;
        }
        let first = format!("{name}/dendrite_{}/{EXTENDED_INPUT}", indices.last()?);
        let read = self.producer(&first)?.1.input.first()?;
        // The last set is what the operator reads.
        let last = format!("{name}/dendrite_{}/{EXTENDED_INPUT}", indices.first()?);
        if self.input(recurrent, 0)? != last {
            return None;
        }
        Chain::new(indices, Before::Inputs(recurrent, [read.clone(), weight.to_owned()]))
    }

    /// A recurrent operation, of as many directions as its dendrites have connections for.
    fn recurrent<'s>(
        &'s self,
        output: &'s str,
        node: usize,
        reads: &[String; 2],
        index: usize,
    ) -> Option<Operation<'s>> {
        let owner = self.owner(output)?;
        let directions = *self.dims(&format!("{owner}/dendrite_{index}/connection"))?.first()?;
        let kind = SiteKind::Recurrent { directions };
        Some(Operation { kind, output, node: &self.nodes[node], reads: reads.clone() })
    }

    /// The linear operation of a site's application, a bias and a batch normalisation passed by.
    fn operation<'s>(&'s self, output: &'s str) -> Option<Operation<'s>> {
        let main = format!("{output}/main");
        let mut value = main.as_str();
        for _ in 0..=FOLLOWERS {
            let (_, node) = self.producer(value)?;
            if !is(node, node.op_type()) {
                return None;
            }
            if let Some(kind) = SiteKind::of_linear(node.op_type()) {
                let reads = [node.input.first()?.clone(), node.input.get(1)?.clone()];
                return Some(Operation { kind, output, node, reads });
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
        if kind.is_recurrent() {
            (set.connection, set.width) = (Connection::Layer, *connection.get(2)?);
            let (_, node) = self.producer(&set.path("activation"))?;
            set.activation = Activation::of_op(node.op_type())?;
            return (set.width > 0).then_some(set);
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
        operations: &[Operation],
        sets: &[DendriteSet],
    ) -> Option<(Graph, Site)> {
        let first = sets.first()?;
        let (of_set, connection) = (self.dims(&first.path("weight"))?, self.dims(&first.path("connection"))?);
        if of_set.len() < if kind.is_convolution() { 3 } else { 2 } {
            return None;
        }
        let channels = match (first.connection, kind) {
            (_, SiteKind::Recurrent { directions }) => directions.checked_mul(*connection.get(1)?)?,
            (Connection::Layer, kind) if !kind.is_convolution() => *connection.get(1)?,
            (Connection::Layer | Connection::Neuron, _) => *connection.first()?,
        };
        let mut graph = Graph::new("", 0);
        let applications: Vec<Application> =
            operations.iter().map(|operation| operation.in_graph(&mut graph)).collect();
        let attributes = &graph.node(applications.first()?.node).attributes;
        let mut site = Site {
            name: name.to_owned(),
            kind,
            weight_shape: of_set,
            bias: self.dims(&first.path("bias")).is_some(),
            channels,
            groups: usize::try_from(attributes.int("group", 1)).unwrap_or(1),
            transposed: kind == SiteKind::Gemm && attributes.int("transB", 0) != 0,
            first_index: 0,
            applications,
        };
        site.weight_shape = site.weight_shape_of(channels);
        let operand = match (kind, connection.as_slice()) {
            (SiteKind::Recurrent { directions }, [_, gates, _]) => {
                vec![directions, *gates, *site.weight_shape.first()?]
            }
            (SiteKind::Recurrent { .. }, _) => return None,
            _ => site.weight_shape.clone(),
        };
        for operation in operations {
            // Weights that are computed, from quantised ones say, have no shape in the file.
            match self.constant_dims(&operation.reads[1]) {
                Some(dims) if dims.as_ref() != Some(&operand) => return None,
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

/// The sets at an output, first to last, and what was there before them.
struct Chain {
    indices: Vec<usize>,
    before: Before,
}

impl Chain {
    /// Of indices last to first.
    fn new(mut indices: Vec<usize>, before: Before) -> Option<Self> {
        indices.reverse();
        (!indices.is_empty()).then_some(Chain { indices, before })
    }
}

/// An operation of a site.
struct Operation<'s> {
    kind: SiteKind,
    /// The output of the site's application.
    output: &'s str,
    node: &'s NodeProto,
    /// The input and the weights that it reads without dendrites.
    reads: [String; 2],
}

impl Operation<'_> {
    /// As a node of `graph`.
    fn in_graph(&self, graph: &mut Graph) -> Application {
        let mut value = |name: &str| match graph.find(name) {
            Some(value) => value,
            None => graph.add_value(name),
        };
        let (input, weight, output) = (value(&self.reads[0]), value(&self.reads[1]), value(self.output));
        let node = graph.push(Node {
            name: String::new(),
            domain: String::new(),
            op: self.node.op_type().to_owned(),
            inputs: vec![Some(input), Some(weight)],
            outputs: vec![Some(output)],
            attributes: Attributes::from(self.node.attribute.clone()),
        });
        let (name, node_name) = (self.output.to_owned(), self.node.name().to_owned());
        Application { name, node_name, node, input, weight, output }
    }
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
