//! Constants that lie inside sub-graphs: where they are in the file, and how they are brought out of the working copy's.
//!
//! A sub-graph reads what the graph around it defines. So a constant of a body may as well be one of the main graph, and is
//! then seen and trained like any other there ([`Graph::hoist`]). The file keeps it where it is: a [`Place`] says where.

use std::fmt;

use crate::{
    error::{Error, Result},
    external::is_external,
    graph::{Graph, Node, ValueId, constant_tensor},
    model::Model,
    proto::{AttributeProto, GraphProto, NodeProto},
    tensor::Tensor,
};

/// A step from a graph into a sub-graph of one of its nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// The first output of the node, by which it is known.
    pub output: String,
    /// The attribute that holds the sub-graph.
    pub attribute: String,
}

/// Where a constant of a sub-graph lies in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The way from the main graph, one step or more.
    pub steps: Vec<Step>,
    /// The initializer, or the output of the `Constant` node.
    pub name: String,
}

impl Place {
    /// The place of `name` in the sub-graphs that `steps` lead through.
    pub fn new(steps: &[Step], name: &str) -> Self {
        Place { steps: steps.to_vec(), name: name.to_owned() }
    }
}

/// Where it lies as a path: the outputs and attributes passed, then the name.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| write!(f, "{}/{}/", step.output, step.attribute))?;
        f.write_str(&self.name)
    }
}

impl Step {
    /// The steps into the sub-graphs of a node, each with the sub-graph. Lists of graphs, which no operator has, are left out.
    pub(crate) fn of(node: &NodeProto) -> impl Iterator<Item = (Step, &GraphProto)> {
        let output = first(&node.output);
        let attributes = node.attribute.iter().filter(move |_| output.is_some());
        attributes.filter_map(move |a| {
            Some((Step { output: output?.to_owned(), attribute: a.name().to_owned() }, a.g.as_ref()?))
        })
    }
}

/// What a node is known by: its first output that has a name.
fn first(outputs: &[String]) -> Option<&str> {
    outputs.iter().map(String::as_str).find(|name| !name.is_empty())
}

/// The steps into the sub-graphs of a node of `graph`, each with the sub-graph.
pub fn steps<'a>(graph: &Graph, node: &'a Node) -> Vec<(Step, &'a GraphProto)> {
    let Some(output) = node.outputs.iter().flatten().next() else { return Vec::new() };
    let step = |a: &'a AttributeProto| {
        let step = Step { output: graph.name_of(*output).to_owned(), attribute: a.name().to_owned() };
        Some((step, a.g.as_ref()?))
    };
    node.attributes.as_slice().iter().filter_map(step).collect()
}

impl Graph {
    /// Make the constant at `place` one of this graph, named after its place, which the sub-graph captures. It is remembered
    /// where it was ([`Graph::place_of`]).
    pub fn hoist(&mut self, place: &Place) -> Result<ValueId> {
        let name = self.name.clone();
        let missing = || Error::Graph { graph: name.clone(), reason: format!("there is no constant at '{place}'") };
        let (first, rest) = place.steps.split_first().ok_or_else(missing)?;
        let producer = self.find(&first.output).and_then(|v| self.value(v).producer()).ok_or_else(missing)?;
        let body = self.node_mut(producer).attributes.get_mut(&first.attribute).and_then(|a| a.g.as_mut());
        let body =
            rest.iter().try_fold(body.ok_or_else(missing)?, |graph, step| within(graph, step).ok_or_else(missing))?;
        let tensor = take(body, &place.name)?.ok_or_else(missing)?;
        let id = self.add_constant(&place.to_string(), tensor);
        let new = self.name_of(id).to_owned();
        self.remember_place(id, place.clone());
        // The borrow ended with the tensor taken.
        let attribute = self.node_mut(producer).attributes.get_mut(&first.attribute).and_then(|a| a.g.as_mut());
        if let Some(body) = attribute.and_then(|body| rest.iter().try_fold(body, within)) {
            read_instead(body, &place.name, &new);
        }
        Ok(id)
    }

    /// Put the contents of external tensors into the sub-graphs, which are read without the file's folder.
    pub(crate) fn embed_external(&mut self, model: &Model) -> Result<()> {
        for id in self.node_ids() {
            if self.node(id).attributes.graphs().any(refers) {
                let node = self.node_mut(id);
                node.attributes.graphs_mut().try_for_each(|graph| embed(graph, model))?;
            }
        }
        Ok(())
    }
}

/// The sub-graph that a step leads to.
fn within<'a>(graph: &'a mut GraphProto, step: &Step) -> Option<&'a mut GraphProto> {
    let node = graph.node.iter_mut().find(|n| first(&n.output) == Some(&step.output))?;
    node.attribute.iter_mut().find(|a| a.name() == step.attribute)?.g.as_mut()
}

/// Take a constant out of a sub-graph.
fn take(graph: &mut GraphProto, name: &str) -> Result<Option<Tensor>> {
    graph.value_info.retain(|info| info.name() != name);
    // In IR 3 every initializer was an input too, one that is never given.
    graph.input.retain(|info| info.name() != name);
    if let Some(index) = graph.initializer.iter().position(|t| t.name() == name) {
        return Tensor::from_proto(&graph.initializer.remove(index)).map(Some);
    }
    let constant = |n: &NodeProto| {
        n.op_type() == "Constant" && matches!(n.domain(), "" | "ai.onnx") && n.output.first().is_some_and(|o| o == name)
    };
    match graph.node.iter().position(constant) {
        Some(index) => constant_tensor(&graph.node.remove(index), &Tensor::from_proto),
        None => Ok(None),
    }
}

/// Let everything in a sub-graph that reads `old`, which nothing in it defines any more, read `new` of a graph around it.
fn read_instead(graph: &mut GraphProto, old: &str, new: &str) {
    rename(&mut graph.node, old, new);
    // An output of a sub-graph is computed there.
    if graph.output.iter().any(|o| o.name() == old) {
        graph.node.push(NodeProto {
            op_type: Some("Identity".to_owned()),
            input: vec![new.to_owned()],
            output: vec![old.to_owned()],
            ..Default::default()
        });
    }
}

fn rename(nodes: &mut [NodeProto], old: &str, new: &str) {
    for node in nodes {
        node.input.iter_mut().filter(|name| *name == old).for_each(|name| new.clone_into(name));
        for attribute in &mut node.attribute {
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                // What a sub-graph defines itself hides what lies around it.
                let defined = graph.input.iter().any(|i| i.name() == old)
                    || graph.initializer.iter().any(|t| t.name() == old)
                    || graph.node.iter().any(|n| n.output.iter().any(|o| o == old));
                if !defined {
                    read_instead(graph, old, new);
                }
            }
        }
    }
}

/// Whether a graph holds tensors whose bytes lie outside the file.
fn refers(graph: &GraphProto) -> bool {
    let inner = |attribute: &AttributeProto| {
        attribute.t.iter().chain(&attribute.tensors).any(is_external)
            || attribute.g.iter().chain(&attribute.graphs).any(refers)
    };
    graph.initializer.iter().any(is_external) || graph.node.iter().flat_map(|n| &n.attribute).any(inner)
}

fn embed(graph: &mut GraphProto, model: &Model) -> Result<()> {
    let attributes = graph.node.iter_mut().flat_map(|n| &mut n.attribute);
    let mut tensors: Vec<_> = graph.initializer.iter_mut().collect();
    let mut inner = Vec::new();
    for attribute in attributes {
        tensors.extend(attribute.t.iter_mut().chain(&mut attribute.tensors));
        inner.extend(attribute.g.iter_mut().chain(&mut attribute.graphs));
    }
    for tensor in tensors.into_iter().filter(|t| is_external(t)) {
        *tensor = model.tensor(tensor)?.to_proto(tensor.name());
    }
    inner.into_iter().try_for_each(|graph| embed(graph, model))
}
