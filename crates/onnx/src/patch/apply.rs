//! Applying a patch: the wire walk over model and graph.
//!
//! A message field may occur several times in a protobuf message and is then merged. The walk honours that for the graph:
//! nodes and initializers are counted over all its pieces, and what is new goes into the last one.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;

use super::{
    ExternalWrite, Patch,
    bodies::{self, Edit},
    edit,
    storage::{all_fields, attribute_with_contents, with_contents},
};
use crate::{
    error::Result,
    external,
    graph::{constant_node_tensor, tensor_type},
    model::{MAX_MESSAGE, Model},
    proto::{NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto},
    shape::Shape,
    tensor::Tensor,
    wire::{Field, put_bytes_field, put_varint_field},
};

// Field numbers of ModelProto.
const IR_VERSION: u32 = 1;
const GRAPH: u32 = 7;
const OPSET_IMPORT: u32 = 8;
const METADATA: u32 = 14;
// Field numbers of GraphProto.
pub(super) const NODE: u32 = 1;
pub(super) const INITIALIZER: u32 = 5;
const INPUT: u32 = 11;
const VALUE_INFO: u32 = 13;
// Field numbers of NodeProto.
const NODE_INPUT: u32 = 1;
const OUTPUT: u32 = 2;
pub(super) const ATTRIBUTE: u32 = 5;

pub(super) fn apply(patch: &Patch, model: &Model) -> Result<(Vec<u8>, Vec<ExternalWrite>)> {
    verify(patch, model)?;
    let bodies = bodies::changing(patch.bodies.iter(), model)?;
    let mut walk = Walk { patch, model, bodies, node: 0, initializer: 0, external: Vec::new() };
    let bytes = walk.model()?;
    if bytes.len() as u64 > MAX_MESSAGE {
        return Err(edit(
            format!("the result takes {} bytes, more than the 2 GiB of a protobuf message", bytes.len()),
            "move large weights into external data first (onnx.save with save_as_external_data)",
        ));
    }
    no_overlap(model, &walk.external)?;
    Ok((bytes, walk.external))
}

/// Everything the patch names exists, fits, and is unique.
fn verify(patch: &Patch, model: &Model) -> Result<()> {
    let graph = model.graph();
    let mut initializers: HashMap<&str, (usize, &TensorProto)> = HashMap::new();
    for tensor in graph.initializer.iter().filter(|_| !patch.initializers.is_empty()) {
        initializers.entry(tensor.name()).or_insert((0, tensor)).0 += 1;
    }
    for (name, tensor) in &patch.initializers {
        match initializers.get(name.as_str()) {
            Some((1, old)) => same_kind(name, &model.tensor(old)?, tensor)?,
            Some(_) => return Err(edit(format!("initializer '{name}' exists more than once"), "check the model")),
            None => return Err(edit(format!("there is no initializer '{name}'"), "inspect the model for its names")),
        }
    }
    let constants: HashMap<&str, &NodeProto> = graph
        .node
        .iter()
        .filter(|n| is_constant(n) && !patch.constants.is_empty())
        .filter_map(|n| Some((n.output.first()?.as_str(), n)))
        .collect();
    for (name, tensor) in &patch.constants {
        match constants.get(name.as_str()).map(|node| constant_node_tensor(node, model)).transpose()?.flatten() {
            Some(old) => same_kind(name, &old, tensor)?,
            None => return Err(edit(format!("no Constant node gives '{name}'"), "inspect the model for its names")),
        }
    }
    let nodes = graph.node.len();
    let positions = patch.replaced.keys().chain(patch.after.keys()).chain(patch.renamed.keys().map(|(node, _)| node));
    let positions = positions.chain(patch.redirected.keys().map(|(node, _)| node));
    if let Some(beyond) = positions.copied().find(|p| *p >= nodes).or(patch.before.keys().copied().find(|p| *p > nodes))
    {
        return Err(edit(format!("there is no node {beyond}: the graph has {nodes}"), "count nodes from 0"));
    }
    if patch.is_structural() { unique_names(patch, model) } else { Ok(()) }
}

pub(super) fn same_kind(name: &str, old: &Tensor, new: &Tensor) -> Result<()> {
    if old.element_type() == new.element_type() && old.shape() == new.shape() {
        return Ok(());
    }
    Err(edit(
        format!(
            "'{name}' is {}{:?}, its replacement {}{:?}",
            old.element_type(),
            old.shape(),
            new.element_type(),
            new.shape()
        ),
        "a replacement keeps element type and shape",
    ))
}

pub(super) fn is_constant(node: &NodeProto) -> bool {
    node.op_type() == "Constant" && matches!(node.domain(), "" | "ai.onnx")
}

/// After the patch no two things define one value.
fn unique_names(patch: &Patch, model: &Model) -> Result<()> {
    let graph = model.graph();
    let mut seen: HashSet<&str> = HashSet::new();
    let initializers: HashSet<&str> =
        graph.initializer.iter().map(|t| t.name()).chain(patch.added.iter().map(|(n, _)| n.as_str())).collect();
    let inputs = graph.input.iter().map(|i| i.name()).filter(|n| !initializers.contains(n));
    let stored = graph.initializer.iter().map(|t| t.name()).chain(patch.added.iter().map(|(n, _)| n.as_str()));
    let kept = graph.node.iter().enumerate().flat_map(|(i, node)| {
        let node = patch.replaced.get(&i).unwrap_or(node);
        node.output.iter().enumerate().map(move |(k, name)| patch.renamed.get(&(i, k)).unwrap_or(name).as_str())
    });
    let new = patch.before.values().chain(patch.after.values()).flatten();
    let new = new.flat_map(|node| node.output.iter().map(String::as_str));
    for name in inputs.chain(stored).chain(kept).chain(new).filter(|n| !n.is_empty()) {
        if !seen.insert(name) {
            return Err(edit(format!("value '{name}' would be defined twice"), "choose a name the graph does not use"));
        }
    }
    Ok(())
}

/// Bytes of an external file that change belong to one tensor alone.
fn no_overlap(model: &Model, writes: &[ExternalWrite]) -> Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut others = Vec::new();
    let mut failed = None;
    model.visit_tensors(&mut |tensor| {
        if external::is_external(tensor) {
            match external::reference(tensor).and_then(|r| Ok((r, model.tensor(tensor)?.bytes().len() as u64))) {
                Ok((r, length)) => others.push((tensor.name(), r.location, r.offset, r.offset + length)),
                Err(error) => failed = Some(error),
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    for write in writes {
        let (from, to) = (write.offset, write.offset + write.bytes.len() as u64);
        let mut hits = others.iter().filter(|(_, location, a, b)| *location == write.location && *a < to && from < *b);
        if let (Some(_), Some(_)) = (hits.next(), hits.next()) {
            return Err(edit(
                format!("the bytes of '{}' in {} are shared with another tensor", write.name, write.location.display()),
                "save the model again so that every tensor has bytes of its own",
            ));
        }
    }
    Ok(())
}

pub(super) struct Walk<'p> {
    patch: &'p Patch,
    model: &'p Model,
    /// New contents inside of sub-graphs.
    bodies: Vec<Edit<'p>>,
    /// The node, counted over all pieces of the graph, that comes next.
    node: usize,
    initializer: usize,
    external: Vec<ExternalWrite>,
}

/// New fields and the position among the old ones that they go before.
type Additions = Vec<(usize, Vec<u8>)>;

impl<'p> Walk<'p> {
    fn model(&mut self) -> Result<Vec<u8>> {
        let patch = self.patch;
        let bytes = self.model.bytes().clone();
        let fields = all_fields(&bytes)?;
        let mut additions = Additions::new();
        self.missing_imports(&fields, &mut additions);
        let known: HashSet<&str> = self.model.proto().metadata_props.iter().map(|e| e.key()).collect();
        for (key, value) in patch.metadata.iter().filter(|(k, _)| !known.contains(k.as_str())) {
            additions.push((position(&fields, METADATA), entry(key, value)));
        }
        let last_graph = fields.iter().rposition(|f| f.number == GRAPH);
        let mut seen: HashMap<u32, usize> = HashMap::new();
        let mut out = Vec::with_capacity(bytes.len() + 1024);
        for (i, field) in fields.iter().enumerate() {
            additions.iter().filter(|(at, _)| *at == i).for_each(|(_, new)| out.extend_from_slice(new));
            let index = seen.entry(field.number).or_default();
            let (value, whole) = slices(&bytes, field);
            match field.number {
                GRAPH => {
                    let graph = self.graph(value, Some(i) == last_graph)?;
                    put_bytes_field(&mut out, GRAPH, &graph);
                }
                IR_VERSION if patch.ir > self.model.ir_version() => {
                    put_varint_field(&mut out, IR_VERSION, patch.ir as u64);
                }
                OPSET_IMPORT => match self.raised_import(*index) {
                    Some(new) => out.extend(new),
                    None => out.extend_from_slice(whole),
                },
                METADATA => {
                    let old = self.model.proto().metadata_props.get(*index);
                    let new = old.and_then(|e| Some((e, patch.metadata.get(e.key())?)));
                    match new.filter(|(old, new)| old.value() != new.as_str()) {
                        Some((old, new)) => out.extend(entry(old.key(), new)),
                        None => out.extend_from_slice(whole),
                    }
                }
                _ => out.extend_from_slice(whole),
            }
            *index += 1;
        }
        additions.iter().filter(|(at, _)| *at == fields.len()).for_each(|(_, new)| out.extend_from_slice(new));
        Ok(out)
    }

    /// An IR version or opset imports that the file does not have yet.
    fn missing_imports(&self, fields: &[Field], additions: &mut Additions) {
        if self.patch.ir > 0 && self.model.proto().ir_version.is_none() {
            let mut new = Vec::new();
            put_varint_field(&mut new, IR_VERSION, self.patch.ir as u64);
            additions.push((0, new));
        }
        for (domain, version) in &self.patch.opsets {
            if self.model.opset(domain).is_none() {
                additions.push((position(fields, OPSET_IMPORT), import(domain, *version)));
            }
        }
    }

    /// Import `index` of the file, if the patch raises it.
    fn raised_import(&self, index: usize) -> Option<Vec<u8>> {
        let old = self.model.proto().opset_import.get(index)?;
        let domain = if old.domain() == "ai.onnx" { "" } else { old.domain() };
        let version = *self.patch.opsets.get(domain)?;
        (version > old.version()).then(|| import(old.domain(), version))
    }

    fn graph(&mut self, bytes: &[u8], last: bool) -> Result<Vec<u8>> {
        let fields = all_fields(bytes)?;
        let additions = if last { self.graph_additions(&fields) } else { Additions::new() };
        let mut out = Vec::with_capacity(bytes.len() + additions.iter().map(|(_, new)| new.len()).sum::<usize>());
        for (i, field) in fields.iter().enumerate() {
            additions.iter().filter(|(at, _)| *at == i).for_each(|(_, new)| out.extend_from_slice(new));
            let (value, whole) = slices(bytes, field);
            match field.number {
                NODE => self.node(value, whole, &mut out)?,
                INITIALIZER => self.initializer(value, whole, &mut out)?,
                _ => out.extend_from_slice(whole),
            }
        }
        additions.iter().filter(|(at, _)| *at == fields.len()).for_each(|(_, new)| out.extend_from_slice(new));
        Ok(out)
    }

    fn graph_additions(&self, fields: &[Field]) -> Additions {
        let patch = self.patch;
        let mut additions = Additions::new();
        let mut add = |number: u32, message: Vec<u8>| {
            let mut new = Vec::with_capacity(message.len() + 8);
            put_bytes_field(&mut new, number, &message);
            additions.push((position(fields, number), new));
        };
        for node in patch.before.get(&self.model.graph().node.len()).into_iter().flatten() {
            add(NODE, node.encode_to_vec());
        }
        let also_inputs = self.model.ir_version().max(patch.ir) < 4;
        for (name, tensor) in &patch.added {
            add(INITIALIZER, tensor.to_proto(name).encode_to_vec());
            if also_inputs {
                let shape = Shape::known(tensor.shape());
                let r#type = Some(tensor_type(tensor.element_type(), Some(&shape)));
                add(INPUT, ValueInfoProto { name: Some(name.clone()), r#type, ..Default::default() }.encode_to_vec());
            }
        }
        for info in &patch.value_info {
            add(VALUE_INFO, info.encode_to_vec());
        }
        additions
    }

    fn node(&mut self, value: &[u8], whole: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let patch = self.patch;
        let index = self.node;
        self.node += 1;
        let put = |nodes: Option<&Vec<NodeProto>>, out: &mut Vec<u8>| {
            nodes.into_iter().flatten().for_each(|n| put_bytes_field(out, NODE, &n.encode_to_vec()));
        };
        put(patch.before.get(&index), out);
        let old = self.model.graph().node.get(index);
        let inside = old.map(|n| bodies::inside(&self.bodies, n)).unwrap_or_default();
        let names = of_node(&patch.renamed, index).chain(of_node(&patch.redirected, index)).next().is_some();
        let edited = names || !inside.is_empty();
        let constant = old.filter(|n| is_constant(n)).and_then(|n| patch.constants.get(n.output.first()?));
        match (patch.replaced.get(&index), constant) {
            (Some(_), constant) if constant.is_some() || !inside.is_empty() => {
                return Err(edit(format!("node {index} is replaced, and so are its contents"), "replace one of them"));
            }
            (Some(new), _) => {
                let mut new = new.clone();
                for (k, name) in of_node(&patch.renamed, index) {
                    let count = new.output.len();
                    *new.output.get_mut(k).ok_or_else(|| none(index, "output", k, count))? = name.clone();
                }
                for (k, name) in of_node(&patch.redirected, index) {
                    let count = new.input.len();
                    *new.input.get_mut(k).ok_or_else(|| none(index, "input", k, count))? = name.clone();
                }
                put_bytes_field(out, NODE, &new.encode_to_vec());
            }
            (None, None) if !edited => out.extend_from_slice(whole),
            (None, constant) => put_bytes_field(out, NODE, &self.edited_node(index, value, constant, &inside)?),
        }
        put(patch.after.get(&index), out);
        Ok(())
    }

    /// A node with other names of outputs and inputs and, for a `Constant`, other contents; `inside` are the edits of its
    /// sub-graphs.
    fn edited_node(
        &mut self,
        index: usize,
        value: &[u8],
        constant: Option<&Tensor>,
        inside: &[Edit<'p>],
    ) -> Result<Vec<u8>> {
        let old = self.model.graph().node.get(index);
        let mut constant = match old {
            Some(old) => self.embedded(old, constant)?,
            None => None,
        };
        let mut attribute = 0;
        let mut renames: Vec<(usize, &String)> = of_node(&self.patch.renamed, index).collect();
        let mut redirects: Vec<(usize, &String)> = of_node(&self.patch.redirected, index).collect();
        let (mut out, mut outputs, mut inputs) = (Vec::with_capacity(value.len()), 0, 0);
        // The new name of the next one of a repeated field, where it has one.
        let next = |names: &mut Vec<(usize, &'p String)>, count: &mut usize| -> Option<&'p String> {
            *count += 1;
            names.iter().position(|(k, _)| *k + 1 == *count).map(|at| names.swap_remove(at).1)
        };
        for field in all_fields(value)? {
            let (inner, whole) = slices(value, &field);
            let name = match field.number {
                OUTPUT => next(&mut renames, &mut outputs),
                NODE_INPUT => next(&mut redirects, &mut inputs),
                _ => None,
            };
            let mut contents = None;
            if field.number == ATTRIBUTE {
                contents = match (constant.take(), old) {
                    // A Constant has one attribute; others are copied.
                    (Some(new), Some(old)) => Some(Self::contents(inner, old, new)?),
                    _ => self.outer_attribute(inner, old.and_then(|n| n.attribute.get(attribute)), inside)?,
                };
                attribute += 1;
            }
            match (field.number, name, contents) {
                (number, Some(name), _) => put_bytes_field(&mut out, number, name.as_bytes()),
                (number, _, Some(contents)) => put_bytes_field(&mut out, number, &contents),
                _ => out.extend_from_slice(whole),
            }
        }
        match (renames.first(), redirects.first()) {
            (Some((k, _)), _) => Err(none(index, "output", *k, outputs)),
            (_, Some((k, _))) => Err(none(index, "input", *k, inputs)),
            (None, None) => Ok(out),
        }
    }

    fn initializer(&mut self, value: &[u8], whole: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let old = self.model.graph().initializer.get(self.initializer);
        self.initializer += 1;
        let new = old.and_then(|old| Some((old, self.patch.initializers.get(old.name())?)));
        match new {
            Some((old, new)) if self.model.tensor(old)? != *new => {
                self.tensor_field(INITIALIZER, old, new, (value, whole), out)?;
            }
            _ => out.extend_from_slice(whole),
        }
        Ok(())
    }

    /// The field of a tensor message with other contents.
    pub(super) fn tensor_field(
        &mut self,
        number: u32,
        old: &TensorProto,
        new: &Tensor,
        (value, whole): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if external::is_external(old) {
            self.write_external(old, new)?;
            out.extend_from_slice(whole);
        } else {
            put_bytes_field(out, number, &with_contents(value, new)?);
        }
        Ok(())
    }

    /// What of `new`, contents of the `Constant` node `old`, is to be written into its message: nothing where it holds the
    /// same, or refers to an external file.
    pub(super) fn embedded<'t>(&mut self, old: &NodeProto, new: Option<&'t Tensor>) -> Result<Option<&'t Tensor>> {
        let Some(new) = new else { return Ok(None) };
        if constant_node_tensor(old, self.model)?.as_ref() == Some(new) {
            return Ok(None);
        }
        let stored = old.attribute.first().and_then(|a| a.t.as_ref()).filter(|t| external::is_external(t));
        match stored {
            Some(tensor) => self.write_external(tensor, new).map(|()| None),
            None => Ok(Some(new)),
        }
    }

    /// The attribute of the `Constant` node `old` with other contents.
    pub(super) fn contents(attribute: &[u8], old: &NodeProto, new: &Tensor) -> Result<Vec<u8>> {
        let name = old.attribute.first().map(|a| a.name()).unwrap_or_default();
        attribute_with_contents(attribute, name, new)
    }

    fn write_external(&mut self, old: &TensorProto, new: &Tensor) -> Result<()> {
        let reference = external::reference(old)?;
        self.external.push(ExternalWrite {
            name: old.name().to_owned(),
            location: reference.location,
            offset: reference.offset,
            bytes: new.bytes().clone(),
        });
        Ok(())
    }
}

fn none(node: usize, what: &str, position: usize, count: usize) -> crate::error::Error {
    edit(format!("node {node} has no {what} {position}: it has {count}"), &format!("count {what}s from 0"))
}

/// The names that a map has for positions of one node.
fn of_node(names: &BTreeMap<(usize, usize), String>, node: usize) -> impl Iterator<Item = (usize, &String)> {
    names.range((node, 0)..=(node, usize::MAX)).map(|((_, position), name)| (*position, name))
}

pub(super) fn slices<'a>(bytes: &'a [u8], field: &Field) -> (&'a [u8], &'a [u8]) {
    let slice = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
    (slice(&field.value), slice(&field.whole))
}

/// Where new fields of this number go: after those there are, else where the order of numbers has them.
fn position(fields: &[Field], number: u32) -> usize {
    let same = fields.iter().rposition(|f| f.number == number);
    same.or_else(|| fields.iter().rposition(|f| f.number < number)).map_or(0, |i| i + 1)
}

fn entry(key: &str, value: &str) -> Vec<u8> {
    let message = StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) };
    let mut out = Vec::new();
    put_bytes_field(&mut out, METADATA, &message.encode_to_vec());
    out
}

fn import(domain: &str, version: i64) -> Vec<u8> {
    let message = OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    let mut out = Vec::new();
    put_bytes_field(&mut out, OPSET_IMPORT, &message.encode_to_vec());
    out
}
