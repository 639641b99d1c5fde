//! Constants of sub-graphs written anew: the messages on the way to them are walked as the model's own are, and everything
//! beside the way is copied.

use super::{
    apply::{ATTRIBUTE, INITIALIZER, NODE, Walk, is_constant, same_kind, slices},
    edit,
    storage::all_fields,
};
use crate::{
    bodies::{Place, Step},
    error::Result,
    graph::constant_node_tensor,
    model::Model,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto},
    tensor::Tensor,
    wire::put_bytes_field,
};

/// The sub-graph's field of AttributeProto.
const SUB_GRAPH: u32 = 6;

/// A new tensor with what is left of the way to its place.
#[derive(Clone, Copy)]
pub(super) struct Edit<'p> {
    steps: &'p [Step],
    name: &'p str,
    tensor: &'p Tensor,
}

/// The edits that change something, each checked to fit what lies at its place.
pub(super) fn changing<'p>(
    edits: impl Iterator<Item = (&'p Place, &'p Tensor)>,
    model: &Model,
) -> Result<Vec<Edit<'p>>> {
    let mut changing = Vec::new();
    for (place, tensor) in edits {
        let old = stored(place, model)?;
        same_kind(&place.to_string(), &old, tensor)?;
        if old != *tensor {
            changing.push(Edit { steps: &place.steps, name: &place.name, tensor });
        }
    }
    Ok(changing)
}

/// What lies at a place.
fn stored(place: &Place, model: &Model) -> Result<Tensor> {
    let hint = "inspect the model for its names";
    let missing = || edit(format!("there is no constant '{place}'"), hint);
    let mut graph = model.graph();
    for step in &place.steps {
        let mut found = graph.node.iter().flat_map(Step::of).filter(|(own, _)| own == step);
        graph = found.next().ok_or_else(missing)?.1;
    }
    let initializers = graph.initializer.iter().filter(|t| t.name() == place.name).map(|t| model.tensor(t).map(Some));
    let nodes = graph.node.iter().filter(|n| is_constant(n) && n.output.first() == Some(&place.name));
    let mut found = initializers.chain(nodes.map(|n| constant_node_tensor(n, model)));
    match (found.next().transpose()?.flatten(), found.next()) {
        (Some(tensor), None) if !place.steps.is_empty() => Ok(tensor),
        (Some(_), Some(_)) => Err(edit(format!("constant '{place}' exists more than once"), "check the model")),
        _ => Err(missing()),
    }
}

/// The edits that lie in the sub-graphs of a node.
pub(super) fn inside<'p>(edits: &[Edit<'p>], node: &NodeProto) -> Vec<Edit<'p>> {
    let output = node.output.iter().find(|name| !name.is_empty());
    let of_node = |edit: &&Edit| edit.steps.first().is_some_and(|step| Some(&step.output) == output);
    edits.iter().filter(of_node).copied().collect()
}

impl<'p> Walk<'p> {
    /// A node with edits inside its sub-graphs.
    fn outer_node(&mut self, bytes: &[u8], node: &NodeProto, edits: &[Edit<'p>]) -> Result<Vec<u8>> {
        let (mut out, mut attribute) = (Vec::with_capacity(bytes.len()), 0);
        for field in all_fields(bytes)? {
            let (inner, whole) = slices(bytes, &field);
            let mut edited = None;
            if field.number == ATTRIBUTE {
                edited = self.outer_attribute(inner, node.attribute.get(attribute), edits)?;
                attribute += 1;
            }
            match edited {
                Some(edited) => put_bytes_field(&mut out, ATTRIBUTE, &edited),
                None => out.extend_from_slice(whole),
            }
        }
        Ok(out)
    }

    /// An attribute with edits inside its sub-graph; `None` where it has none.
    pub(super) fn outer_attribute(
        &mut self,
        bytes: &[u8],
        attribute: Option<&AttributeProto>,
        edits: &[Edit<'p>],
    ) -> Result<Option<Vec<u8>>> {
        let Some((attribute, graph)) = attribute.and_then(|a| Some((a, a.g.as_ref()?))) else { return Ok(None) };
        let further = |edit: &Edit<'p>| match edit.steps.split_first() {
            Some((step, steps)) if step.attribute == attribute.name() => Some(Edit { steps, ..*edit }),
            _ => None,
        };
        let edits: Vec<Edit<'p>> = edits.iter().filter_map(further).collect();
        if edits.is_empty() {
            return Ok(None);
        }
        // A message in pieces is one: what it repeats is counted over all of them.
        let (mut out, mut node, mut initializer) = (Vec::with_capacity(bytes.len()), 0, 0);
        for field in all_fields(bytes)? {
            let (inner, whole) = slices(bytes, &field);
            if field.number == SUB_GRAPH {
                let edited = self.body(inner, graph, (&mut node, &mut initializer), &edits)?;
                put_bytes_field(&mut out, SUB_GRAPH, &edited);
            } else {
                out.extend_from_slice(whole);
            }
        }
        Ok(Some(out))
    }

    /// A piece of a sub-graph, of which so many nodes and initializers came before.
    fn body(
        &mut self,
        bytes: &[u8],
        graph: &GraphProto,
        (node, initializer): (&mut usize, &mut usize),
        edits: &[Edit<'p>],
    ) -> Result<Vec<u8>> {
        let here = |name: &str| edits.iter().find(|e| e.steps.is_empty() && e.name == name).map(|e| e.tensor);
        let mut out = Vec::with_capacity(bytes.len());
        for field in all_fields(bytes)? {
            let (inner, whole) = slices(bytes, &field);
            match field.number {
                INITIALIZER => {
                    let old = graph.initializer.get(*initializer);
                    *initializer += 1;
                    match old.and_then(|old: &TensorProto| Some((old, here(old.name())?))) {
                        Some((old, new)) => self.tensor_field(INITIALIZER, old, new, (inner, whole), &mut out)?,
                        None => out.extend_from_slice(whole),
                    }
                }
                NODE => {
                    let old = graph.node.get(*node);
                    *node += 1;
                    let constant = old.filter(|n| is_constant(n)).and_then(|n| Some((n, here(n.output.first()?)?)));
                    let deeper = old.map(|n| inside(edits, n)).unwrap_or_default();
                    match (constant, old) {
                        (Some((old, new)), _) => {
                            put_bytes_field(&mut out, NODE, &self.constant_node(inner, old, new)?);
                        }
                        (None, Some(old)) if !deeper.is_empty() => {
                            put_bytes_field(&mut out, NODE, &self.outer_node(inner, old, &deeper)?);
                        }
                        _ => out.extend_from_slice(whole),
                    }
                }
                _ => out.extend_from_slice(whole),
            }
        }
        Ok(out)
    }

    /// A `Constant` node with other contents.
    fn constant_node(&mut self, bytes: &[u8], old: &NodeProto, new: &Tensor) -> Result<Vec<u8>> {
        let mut constant = self.embedded(old, Some(new))?;
        let mut out = Vec::with_capacity(bytes.len());
        for field in all_fields(bytes)? {
            let (inner, whole) = slices(bytes, &field);
            match constant.filter(|_| field.number == ATTRIBUTE) {
                Some(new) => {
                    put_bytes_field(&mut out, ATTRIBUTE, &Self::contents(inner, old, new)?);
                    constant = None; // a Constant has one attribute; others are copied
                }
                None => out.extend_from_slice(whole),
            }
        }
        Ok(out)
    }
}
