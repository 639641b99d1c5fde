//! What differs between two model files: format, inputs and outputs, constants, nodes.
//!
//! Values are compared by name, nodes by the name of their first output, since node names may be empty. The order of nodes
//! carries no meaning and is not compared. Weights are read only where type and shape agree and both could differ, a block at
//! a time.

mod constants;
mod facts;
mod nodes;

use std::collections::{HashMap, HashSet};

use crate::{error::Result, model::Model, proto::NodeProto};

pub use constants::{Constant, ConstantChange, Storage, Values, shapes};
pub use nodes::{InputChange, NodeChange, NodeFacts};

/// A model as it is compared: the whole of it, or without some of its parts and with other names for inputs and outputs of nodes.
/// What was added to a model is so taken away before the rest is compared.
#[derive(Debug, Clone)]
pub struct View<'a> {
    model: &'a Model,
    nodes: HashSet<usize>,
    constants: HashSet<String>,
    renamed: HashMap<(usize, usize), String>,
    redirected: HashMap<(usize, usize), String>,
}

/// A node as it is compared.
#[derive(Debug, Clone)]
struct ViewedNode<'m, 'v> {
    proto: &'m NodeProto,
    inputs: Vec<&'v str>,
    outputs: Vec<&'v str>,
}

impl<'a> View<'a> {
    /// The whole model.
    pub fn of(model: &'a Model) -> Self {
        View {
            model,
            nodes: HashSet::new(),
            constants: HashSet::new(),
            renamed: HashMap::new(),
            redirected: HashMap::new(),
        }
    }

    /// Leave out a node of the main graph, by its position.
    pub fn hide_node(&mut self, node: usize) -> &mut Self {
        self.nodes.insert(node);
        self
    }

    /// Leave out an initializer of the main graph.
    pub fn hide_constant(&mut self, name: &str) -> &mut Self {
        self.constants.insert(name.to_owned());
        self
    }

    /// Call output `output` of a node by another name.
    pub fn rename_output(&mut self, node: usize, output: usize, name: &str) -> &mut Self {
        self.renamed.insert((node, output), name.to_owned());
        self
    }

    /// Let input `input` of a node read another value.
    pub fn redirect_input(&mut self, node: usize, input: usize, name: &str) -> &mut Self {
        self.redirected.insert((node, input), name.to_owned());
        self
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// The nodes that are compared.
    fn nodes(&self) -> impl Iterator<Item = ViewedNode<'a, '_>> {
        let nodes = self.model.graph().node.iter().enumerate().filter(|(i, _)| !self.nodes.contains(i));
        nodes.map(|(i, proto)| ViewedNode {
            proto,
            inputs: named(&proto.input, &self.redirected, i),
            outputs: named(&proto.output, &self.renamed, i),
        })
    }
}

/// The names of a node's inputs or outputs, where `others` has none for them.
fn named<'v>(own: &'v [String], others: &'v HashMap<(usize, usize), String>, node: usize) -> Vec<&'v str> {
    own.iter().enumerate().map(|(k, name)| others.get(&(node, k)).unwrap_or(name).as_str()).collect()
}

/// Something that has a name and, in words, a value in one or both models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// What it was, if it was there.
    pub before: Option<String>,
    /// What it is now, if it is there.
    pub after: Option<String>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diff {
    /// IR version, opsets, producer, version and names.
    pub format: Vec<Fact>,
    /// Entries of the metadata, of the model and of its graph.
    pub metadata: Vec<Fact>,
    /// Inputs with their types, those that have an initializer excepted.
    pub inputs: Vec<Fact>,
    /// Outputs with their types.
    pub outputs: Vec<Fact>,
    /// Initializers and `Constant` nodes, those in sub-graphs under their [places](crate::bodies::Place).
    pub constants: Vec<ConstantChange>,
    /// Constants of floats that both models have with the same shape: of these some may have other values.
    pub weights: usize,
    /// Nodes.
    pub nodes: Vec<NodeChange>,
    /// Functions, declared types, and what else a file holds.
    pub other: Vec<Fact>,
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.format.is_empty()
            && self.metadata.is_empty()
            && self.inputs.is_empty()
            && self.outputs.is_empty()
            && self.constants.is_empty()
            && self.nodes.is_empty()
            && self.other.is_empty()
    }

    /// The constants of floats whose values alone changed.
    pub fn changed_weights(&self) -> impl Iterator<Item = &ConstantChange> {
        self.constants.iter().filter(|c| c.is_weight())
    }
}

/// What differs between two models.
pub fn diff(a: &View, b: &View) -> Result<Diff> {
    let (constants, weights) = constants::compare(a, b)?;
    Ok(Diff {
        format: facts::format(a.model, b.model),
        metadata: facts::metadata(a.model, b.model),
        inputs: facts::inputs(a.model, b.model),
        outputs: facts::outputs(a.model, b.model),
        constants,
        weights,
        nodes: nodes::compare(a, b)?,
        other: facts::other(a.model, b.model),
    })
}

/// Whether two models are the same to the byte, the data beside them included. `false` may also mean that telling needs
/// [`diff`]: where they lie in different folders and refer to data there.
pub fn identical(a: &Model, b: &Model) -> bool {
    let place = |model: &Model| model.path()?.canonicalize().ok();
    if matches!((place(a), place(b)), (Some(a), Some(b)) if a == b && a.is_file()) {
        return true;
    }
    if a.bytes() != b.bytes() {
        return false;
    }
    let mut external = false;
    a.visit_tensors(&mut |tensor| external |= crate::external::is_external(tensor));
    !external || same_folder(a, b)
}

/// Whether external data of both models lie in the same files.
fn same_folder(a: &Model, b: &Model) -> bool {
    let folder = |model: &Model| {
        let folder = model.folder()?;
        if folder.as_os_str().is_empty() { std::path::Path::new(".") } else { folder }.canonicalize().ok()
    };
    matches!((folder(a), folder(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests;
