//! Edits of a model file that leave everything else as it lies.
//!
//! A patch is applied to the bytes: the fields of the model and of its graph are copied one by one, and only those that an
//! operation names are written anew. Unknown fields, the order of fields and unusual encodings stay as they are, which no
//! decoding and encoding could promise. An empty patch yields the input.
//!
//! ```
//! # use dendrite_onnx::{Model, Patch, Tensor};
//! # fn double(model: &Model) -> dendrite_onnx::Result<Vec<u8>> {
//! let mut patch = Patch::new();
//! patch.replace_initializer("scale", Tensor::from_f32(&[1], &[2.0])).set_metadata("doubled", "yes");
//! patch.apply(model)
//! # }
//! ```

mod apply;
mod bodies;
mod storage;

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;

use crate::{
    bodies::Place,
    error::{Error, Result},
    model::Model,
    proto::{NodeProto, ValueInfoProto},
    tensor::Tensor,
};

/// Edits of a model file, collected and then applied at once. Positions are those of the original nodes.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    initializers: BTreeMap<String, Tensor>,
    constants: BTreeMap<String, Tensor>,
    bodies: BTreeMap<Place, Tensor>,
    renamed: BTreeMap<(usize, usize), String>,
    redirected: BTreeMap<(usize, usize), String>,
    replaced: BTreeMap<usize, NodeProto>,
    before: BTreeMap<usize, Vec<NodeProto>>,
    after: BTreeMap<usize, Vec<NodeProto>>,
    added: Vec<(String, Tensor)>,
    value_info: Vec<ValueInfoProto>,
    metadata: BTreeMap<String, String>,
    ir: i64,
    opsets: BTreeMap<String, i64>,
}

/// Bytes that a patch puts into one of the model's external files.
#[derive(Debug, Clone)]
pub(crate) struct ExternalWrite {
    /// The tensor they are of.
    pub(crate) name: String,
    /// The file, relative to the model.
    pub(crate) location: PathBuf,
    /// The first byte.
    pub(crate) offset: u64,
    /// The new bytes.
    pub(crate) bytes: Bytes,
}

impl Patch {
    /// No edit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no edit.
    pub fn is_empty(&self) -> bool {
        !self.is_structural()
            && self.initializers.is_empty()
            && self.constants.is_empty()
            && self.bodies.is_empty()
            && self.value_info.is_empty()
            && self.metadata.is_empty()
            && self.ir == 0
            && self.opsets.is_empty()
    }

    /// Whether nodes or initializers are added, replaced, renamed or read elsewhere.
    fn is_structural(&self) -> bool {
        !(self.renamed.is_empty()
            && self.redirected.is_empty()
            && self.replaced.is_empty()
            && self.before.is_empty()
            && self.after.is_empty()
            && self.added.is_empty())
    }

    /// New contents for an initializer of the main graph, of its element type and shape. They are stored the way the old
    /// ones are: in the same field of the message, or at the same place of the external file.
    pub fn replace_initializer(&mut self, name: &str, tensor: Tensor) -> &mut Self {
        self.initializers.insert(name.to_owned(), tensor);
        self
    }

    /// New contents for the `Constant` node whose output is `output`, of the old element type and shape.
    pub fn replace_constant(&mut self, output: &str, tensor: Tensor) -> &mut Self {
        self.constants.insert(output.to_owned(), tensor);
        self
    }

    /// New contents for a constant inside a sub-graph, an initializer or a `Constant` node there, of the old element type and
    /// shape. They are stored the way the old ones are.
    pub fn replace_in_body(&mut self, place: &Place, tensor: Tensor) -> &mut Self {
        self.bodies.insert(place.clone(), tensor);
        self
    }

    /// A new name for an output of a node. Its readers are not changed: they then read what another node produces
    /// under the old name.
    pub fn rename_node_output(&mut self, node: usize, output: usize, name: &str) -> &mut Self {
        self.renamed.insert((node, output), name.to_owned());
        self
    }

    /// Another value for an input of a node to read.
    pub fn redirect_node_input(&mut self, node: usize, input: usize, name: &str) -> &mut Self {
        self.redirected.insert((node, input), name.to_owned());
        self
    }

    /// Another node in the place of one.
    pub fn replace_node(&mut self, node: usize, with: NodeProto) -> &mut Self {
        self.replaced.insert(node, with);
        self
    }

    /// Nodes right before a node, after those that were put there earlier. The number of nodes as position means the end.
    pub fn insert_nodes_before(&mut self, node: usize, nodes: Vec<NodeProto>) -> &mut Self {
        self.before.entry(node).or_default().extend(nodes);
        self
    }

    /// Nodes right after a node, after those that were put there earlier.
    pub fn insert_nodes_after(&mut self, node: usize, nodes: Vec<NodeProto>) -> &mut Self {
        self.after.entry(node).or_default().extend(nodes);
        self
    }

    /// A new initializer, embedded in the model file. Where the IR asks for it (below 4) it also becomes a graph input.
    pub fn add_initializer(&mut self, name: &str, tensor: Tensor) -> &mut Self {
        self.added.push((name.to_owned(), tensor));
        self
    }

    /// The type of an intermediate value.
    pub fn add_value_info(&mut self, info: ValueInfoProto) -> &mut Self {
        self.value_info.push(info);
        self
    }

    /// Set an entry of the model's metadata; an equal key gets the new value.
    pub fn set_metadata(&mut self, key: &str, value: &str) -> &mut Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Raise the IR version to at least `version`.
    pub fn require_ir(&mut self, version: i64) -> &mut Self {
        self.ir = self.ir.max(version);
        self
    }

    /// Raise the opset of a domain to at least `version`, or import it. This gives existing nodes of the domain the
    /// meaning they have in the newer version.
    pub fn require_opset(&mut self, domain: &str, version: i64) -> &mut Self {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        let entry = self.opsets.entry(domain.to_owned()).or_insert(version);
        *entry = version.max(*entry);
        self
    }

    /// The bytes of the edited model file. A replaced tensor that lies in an external file is an error here, since the
    /// result could not hold it: use [`crate::file::write`].
    pub fn apply(&self, model: &Model) -> Result<Vec<u8>> {
        let (bytes, external) = self.assemble(model)?;
        match external.first() {
            None => Ok(bytes),
            Some(write) => Err(edit(
                format!("tensor '{}' lies in the external file {}", write.name, write.location.display()),
                "write the model and its data files into another folder",
            )),
        }
    }

    /// The bytes of the edited model file and what changes in its external files.
    pub(crate) fn assemble(&self, model: &Model) -> Result<(Vec<u8>, Vec<ExternalWrite>)> {
        if self.is_empty() {
            return Ok((model.bytes().to_vec(), Vec::new()));
        }
        apply::apply(self, model)
    }
}

/// An edit that cannot be made.
fn edit(reason: impl Into<String>, hint: &str) -> Error {
    Error::Edit { reason: reason.into(), hint: hint.to_owned() }
}
