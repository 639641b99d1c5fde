//! Nodes, matched by the name of their first output.

use std::collections::{HashMap, HashSet};

use crate::{
    diff::{
        Fact, View, ViewedNode,
        constants::{is_constant, same, without_constants},
        facts::by_name,
    },
    error::Result,
    external::is_external,
    model::{Model, visit_attribute},
    proto::{AttributeProto, NodeProto, TensorProto},
    tensor::ElementType,
};

/// The longest text of an attribute that is told whole.
const LONGEST: usize = 60;

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The operator, with its domain where that is not the standard one.
    pub operator: String,
    /// The name; may be empty.
    pub name: String,
}

/// An input of a node that reads another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputChange {
    /// The position.
    pub index: usize,
    /// The value that was read, if one was.
    pub before: Option<String>,
    /// The value that is read now, if one is.
    pub after: Option<String>,
}

/// A node that is not in both models as it is in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChange {
    /// The name of its first output.
    pub output: String,
    /// What it was, if it was there.
    pub before: Option<NodeFacts>,
    /// What it is now, if it is there.
    pub after: Option<NodeFacts>,
    /// Inputs that changed, where it is in both.
    pub inputs: Vec<InputChange>,
    /// Attributes that changed, where it is in both.
    pub attributes: Vec<Fact>,
    /// Names of the further outputs, where they changed.
    pub outputs: Option<(Vec<String>, Vec<String>)>,
}

pub(super) fn compare(a: &View, b: &View) -> Result<Vec<NodeChange>> {
    let before: Vec<ViewedNode> = a.nodes().filter(|node| !is_constant(node.proto)).collect();
    let after: Vec<ViewedNode> = b.nodes().filter(|node| !is_constant(node.proto)).collect();
    let find = |list: &[ViewedNode]| -> HashMap<String, usize> {
        list.iter().enumerate().map(|(i, node)| (key(node), i)).collect()
    };
    let (old, new) = (find(&before), find(&after));
    let mut seen = HashSet::new();
    let mut changes = Vec::new();
    for node in before.iter().chain(&after) {
        let key = key(node);
        if !seen.insert(key.clone()) {
            continue;
        }
        let (x, y) = (old.get(&key).map(|i| &before[*i]), new.get(&key).map(|i| &after[*i]));
        let mut change = NodeChange {
            output: key,
            before: x.map(|node| facts(node.proto)),
            after: y.map(|node| facts(node.proto)),
            inputs: Vec::new(),
            attributes: Vec::new(),
            outputs: None,
        };
        if let (Some(x), Some(y)) = (x, y) {
            change.inputs = inputs(x, y);
            change.attributes = attributes((a.model(), x.proto), (b.model(), y.proto))?;
            if x.outputs != y.outputs {
                let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
                change.outputs = Some((owned(&x.outputs), owned(&y.outputs)));
            }
        }
        let same = change.inputs.is_empty() && change.attributes.is_empty() && change.outputs.is_none();
        if !same || change.before != change.after {
            changes.push(change);
        }
    }
    Ok(changes)
}

/// What a node is matched by. One without outputs computes nothing, and is known by its name and operator.
fn key(node: &ViewedNode) -> String {
    match node.outputs.iter().find(|o| !o.is_empty()) {
        Some(output) => (*output).to_owned(),
        None => format!("{} {}", node.proto.op_type(), node.proto.name()),
    }
}

fn facts(node: &NodeProto) -> NodeFacts {
    let mut operator = match node.domain() {
        "" | "ai.onnx" => node.op_type().to_owned(),
        domain => format!("{domain}.{}", node.op_type()),
    };
    if !node.overload().is_empty() {
        operator = format!("{operator}:{}", node.overload());
    }
    NodeFacts { operator, name: node.name().to_owned() }
}

fn inputs(a: &ViewedNode, b: &ViewedNode) -> Vec<InputChange> {
    let read =
        |node: &ViewedNode, i: usize| node.inputs.get(i).filter(|name| !name.is_empty()).map(|name| (*name).to_owned());
    (0..a.inputs.len().max(b.inputs.len()))
        .map(|index| InputChange { index, before: read(a, index), after: read(b, index) })
        .filter(|change| change.before != change.after)
        .collect()
}

fn attributes(a: (&Model, &NodeProto), b: (&Model, &NodeProto)) -> Result<Vec<Fact>> {
    let list = |node: &NodeProto| -> Vec<(String, String)> {
        node.attribute.iter().map(|attribute| (attribute.name().to_owned(), text(attribute))).collect()
    };
    let mut facts = by_name(list(a.1), list(b.1));
    // By their outputs the constants in sub-graphs are known, and compared as constants.
    let known = [a.1, b.1].iter().all(|node| node.output.iter().any(|name| !name.is_empty()));
    let rest = |attribute: &AttributeProto| match &attribute.g {
        Some(graph) if known => AttributeProto { g: Some(without_constants(graph)), ..attribute.clone() },
        _ => attribute.clone(),
    };
    // Words do not say all of an attribute: those that read alike may differ still.
    for attribute in &a.1.attribute {
        let Some(other) = b.1.attribute.iter().find(|o| o.name() == attribute.name()) else { continue };
        let told = facts.iter().any(|f| f.name == attribute.name());
        if told || equal((a.0, &rest(attribute)), (b.0, &rest(other)))? {
            continue;
        }
        let (before, after) = (text(attribute), text(other) + " of other contents");
        facts.push(Fact { name: attribute.name().to_owned(), before: Some(before), after: Some(after) });
    }
    Ok(facts)
}

/// Whether two attributes mean the same.
fn equal(a: (&Model, &AttributeProto), b: (&Model, &AttributeProto)) -> Result<bool> {
    if let (Some(x), Some(y)) = (&a.1.t, &b.1.t) {
        return same((a.0, x), (b.0, y));
    }
    if a.1 != b.1 {
        return Ok(false);
    }
    // Equal messages may refer to data beside them that are not.
    let (x, y) = (external(a.1), external(b.1));
    for (x, y) in x.into_iter().zip(y) {
        if !same((a.0, x), (b.0, y))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The tensors of an attribute, those of its sub-graphs included, whose bytes lie outside the file.
fn external(attribute: &AttributeProto) -> Vec<&TensorProto> {
    let mut found = Vec::new();
    visit_attribute(attribute, &mut |tensor| {
        if is_external(tensor) {
            found.push(tensor);
        }
    });
    found
}

/// An attribute in words.
fn text(attribute: &AttributeProto) -> String {
    let tensor = |t: &TensorProto| {
        let element = ElementType::from_code(t.data_type.unwrap_or(0)).map_or("tensor", ElementType::name);
        format!("{element}{:?}", t.dims)
    };
    let mut parts = Vec::new();
    parts.extend(attribute.i.map(|v| v.to_string()));
    parts.extend(attribute.f.map(|v| v.to_string()));
    parts.extend(attribute.s.as_ref().map(|s| format!("'{}'", String::from_utf8_lossy(s))));
    parts.extend(attribute.t.as_ref().map(tensor));
    parts.extend(attribute.g.as_ref().map(|g| format!("a sub-graph of {} nodes", g.node.len())));
    let mut list = |values: Vec<String>| parts.extend((!values.is_empty()).then(|| format!("[{}]", values.join(", "))));
    list(attribute.ints.iter().map(i64::to_string).collect());
    list(attribute.floats.iter().map(f32::to_string).collect());
    list(attribute.strings.iter().map(|s| format!("'{}'", String::from_utf8_lossy(s))).collect());
    list(attribute.tensors.iter().map(tensor).collect());
    list(attribute.graphs.iter().map(|g| format!("a sub-graph of {} nodes", g.node.len())).collect());
    let mut text = if parts.is_empty() { "empty".to_owned() } else { parts.join(" ") };
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}
