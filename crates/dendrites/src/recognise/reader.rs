//! The main graph of a file as recognition reads it: who computes a value, who reads it, what has been taken away.

use std::collections::{HashMap, HashSet};

use dendrite_onnx::{
    Model, Tensor,
    diff::shapes,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto},
};

use crate::{
    error::Result,
    fragment::EXTENDED_WEIGHT,
    recognise::{Before, GrownSite},
};

/// The site, the index and the role that a name of the form `<site>/dendrite_<index>/<role>` speaks of.
pub(super) fn split(name: &str) -> Option<(&str, usize, &str)> {
    let (path, role) = name.rsplit_once('/')?;
    let (site, number) = path.rsplit_once("/dendrite_")?;
    // As the number is written, so that a name and what is read off it are one and the same.
    let index: usize = number.parse().ok().filter(|n: &usize| n.to_string() == number)?;
    (!site.is_empty()).then_some((site, index, role))
}

/// The main graph of a file, some of its nodes taken away.
pub(super) struct Reader<'a> {
    model: &'a Model,
    pub(super) nodes: &'a [NodeProto],
    /// The node that computes a value, and as which of its outputs.
    producers: HashMap<String, (usize, usize)>,
    /// The nodes that read a value; those whose sub-graphs do included.
    readers: HashMap<&'a str, Vec<usize>>,
    outputs: HashSet<&'a str>,
    initializers: HashMap<&'a str, &'a TensorProto>,
    /// The dimensions of constants.
    shapes: HashMap<&'a str, &'a [i64]>,
    gone: HashSet<usize>,
    /// Inputs of nodes that read another value again, dendrites being taken away.
    restored: HashMap<(usize, usize), &'a str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(model: &'a Model) -> Self {
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
            restored: HashMap::new(),
        }
    }

    /// The values that may be the outputs of grown sites: sums whose second operand is named as a contribution to them, and
    /// what recurrent operators compute whose weights are named as extended ones of it.
    pub(super) fn candidates(&self) -> Vec<String> {
        let contributed = |node: &NodeProto| -> Option<String> {
            let (site, _, role) = split(node.input.get(1)?)?;
            let named = match role {
                "contribution" if is(node, "Add") => node.output.first()? == site,
                EXTENDED_WEIGHT if is_recurrent(node) => node.output.iter().any(|output| output == site),
                _ => false,
            };
            named.then(|| site.to_owned())
        };
        self.nodes.iter().filter_map(contributed).collect()
    }

    /// What input `input` of a node reads.
    pub(super) fn input(&self, node: usize, input: usize) -> Option<&str> {
        let own = || self.nodes.get(node)?.input.get(input).map(String::as_str);
        self.restored.get(&(node, input)).copied().or_else(own)
    }

    pub(super) fn producer(&self, value: &str) -> Option<(usize, &'a NodeProto)> {
        let (index, _) = *self.producers.get(value)?;
        (!self.gone.contains(&index)).then(|| (index, &self.nodes[index]))
    }

    /// The nodes that read a value and are still there.
    fn readers(&self, value: &str) -> impl Iterator<Item = usize> {
        self.readers.get(value).into_iter().flatten().copied().filter(|index| !self.gone.contains(index))
    }

    /// Whether only these nodes read a value.
    pub(super) fn is_read_by(&self, value: &str, nodes: &[usize]) -> bool {
        !self.outputs.contains(value) && self.readers(value).all(|reader| nodes.contains(&reader))
    }

    /// Forget the dendrites of a site: what computed its value before does so again.
    pub(super) fn take_away(&mut self, site: &GrownSite) {
        for set in &site.sets {
            self.gone.extend(&set.nodes);
        }
        for place in &site.applications {
            match &place.before {
                Before::Output(node, output) => {
                    self.producers.insert(place.name.clone(), (*node, *output));
                    if let Some(own) = self.nodes[*node].output.get(*output) {
                        self.producers.remove(own);
                    }
                }
                Before::Inputs(node, names) => {
                    for (input, name) in names.iter().enumerate() {
                        // The dendrites read it, so it has readers.
                        if let Some((name, readers)) = self.readers.get_key_value(name.as_str()) {
                            let (name, mut readers) = (*name, readers.clone());
                            readers.push(*node);
                            self.readers.insert(name, readers);
                            self.restored.insert((*node, input), name);
                        }
                    }
                }
            }
        }
    }

    /// The node that computes a value, and as which of its outputs.
    pub(super) fn place_of(&self, value: &str) -> Option<(usize, usize)> {
        self.producers.get(value).copied().filter(|(node, _)| !self.gone.contains(node))
    }

    /// The tensor of an initializer.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.initializers.get(name).map(|proto| self.model.tensor(proto)).transpose()?)
    }

    /// The dimensions of an initializer.
    pub(super) fn dims(&self, name: &str) -> Option<Vec<usize>> {
        known(&self.initializers.get(name)?.dims)
    }

    /// The dimensions of a constant: an initializer or what a `Constant` node holds. The inner `None` is a malformed one.
    pub(super) fn constant_dims(&self, name: &str) -> Option<Option<Vec<usize>>> {
        self.shapes.get(name).map(|dims| known(dims))
    }
}

fn known(dims: &[i64]) -> Option<Vec<usize>> {
    dims.iter().map(|d| usize::try_from(*d).ok()).collect()
}

/// Whether a node is operator `op` of the standard domain.
pub(super) fn is(node: &NodeProto, op: &str) -> bool {
    matches!(node.domain(), "" | "ai.onnx") && node.op_type() == op
}

/// Whether a node is one of the recurrent operators.
pub(super) fn is_recurrent(node: &NodeProto) -> bool {
    ["LSTM", "GRU", "RNN"].iter().any(|op| is(node, op))
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
