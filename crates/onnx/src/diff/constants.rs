//! Initializers and `Constant` nodes.

use std::collections::{HashMap, HashSet};

use crate::{
    bodies::{Place, Step},
    diff::{View, ViewedNode, same_folder},
    error::Result,
    external::{is_external, reference},
    graph::constant_node_tensor,
    model::Model,
    proto::{GraphProto, NodeProto, TensorProto},
    tensor::{ElementType, Tensor},
};

/// Elements that are read at once.
const BLOCK: usize = 1 << 16;

/// Where a constant stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// An initializer.
    Initializer,
    /// An initializer that whoever runs the model may replace, since it is an input as well.
    InitializerAndInput,
    /// A `Constant` node.
    Node,
}

/// What a constant is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// Where it stands.
    pub storage: Storage,
    /// The element type; `None` for one that ONNX does not have.
    pub element_type: Option<ElementType>,
    /// The dimensions.
    pub shape: Vec<i64>,
}

/// How the values of a constant changed whose type and shape did not.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Elements that are not the same to the bit; `None` where elements are smaller than a byte.
    pub changed: Option<usize>,
    /// All elements.
    pub elements: usize,
    /// ||b - a|| / ||a||, for floats; `None` where a is zero or either is not finite.
    pub relative: Option<f64>,
}

/// A constant that is not in both models as it is in the other.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantChange {
    /// The name of its value.
    pub name: String,
    /// What it was, if it was there.
    pub before: Option<Constant>,
    /// What it is now, if it is there.
    pub after: Option<Constant>,
    /// What became of the values, where type and shape are the same and the values are not.
    pub values: Option<Values>,
}

impl ConstantChange {
    /// Whether this is a weight, of floats, of which only the values changed.
    pub fn is_weight(&self) -> bool {
        self.values.is_some() && self.before == self.after && self.before.as_ref().is_some_and(is_float)
    }
}

/// A constant of a file, its elements not read yet.
enum Source<'a> {
    Message(&'a TensorProto),
    /// One or a few numbers that an attribute holds.
    Small(Tensor),
}

struct Entry<'a> {
    what: Constant,
    source: Source<'a>,
}

impl Entry<'_> {
    fn tensor(&self, model: &Model) -> Result<Tensor> {
        match &self.source {
            Source::Message(proto) => model.tensor(proto),
            Source::Small(tensor) => Ok(tensor.clone()),
        }
    }
}

/// The dimensions of every initializer of the main graph, and of every tensor that a `Constant` node holds. Elements are not
/// read.
pub fn shapes(model: &Model) -> HashMap<&str, &[i64]> {
    let graph = model.graph();
    let nodes = graph.node.iter().filter(|node| is_constant(node));
    let held = nodes.filter_map(|node| Some((node.output.first()?.as_str(), node.attribute.first()?.t.as_ref()?)));
    let initializers = graph.initializer.iter().map(|tensor| (tensor.name(), tensor));
    held.chain(initializers).map(|(name, tensor)| (name, tensor.dims.as_slice())).collect()
}

/// Whether a node is a `Constant` of a dense tensor; others are compared as nodes.
pub(super) fn is_constant(node: &NodeProto) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
        && node.op_type() == "Constant"
        && node.attribute.first().is_some_and(|a| match a.name() {
            "value" => a.t.is_some(),
            name => matches!(name, "value_float" | "value_floats" | "value_int" | "value_ints"),
        })
}

fn is_float(constant: &Constant) -> bool {
    constant.element_type.is_some_and(ElementType::is_float)
}

/// The constants that differ, and how many of floats both models have with the same shape.
pub(super) fn compare(a: &View, b: &View) -> Result<(Vec<ConstantChange>, usize)> {
    let (before, after) = (entries(a)?, entries(b)?);
    let find = |list: &[(String, Entry)]| -> HashMap<String, usize> {
        list.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect()
    };
    let (old, new) = (find(&before), find(&after));
    let same_files = same_folder(a.model(), b.model());
    let (mut changes, mut weights) = (Vec::new(), 0);
    let mut seen = HashSet::new();
    for (name, _) in before.iter().chain(&after) {
        if !seen.insert(name.as_str()) {
            continue;
        }
        let (x, y) = (old.get(name).map(|i| &before[*i].1), new.get(name).map(|i| &after[*i].1));
        let mut values = None;
        if let (Some(x), Some(y)) = (x, y)
            && (x.what.element_type, &x.what.shape) == (y.what.element_type, &y.what.shape)
        {
            weights += usize::from(is_float(&x.what));
            if !(same_files && same_place(&x.source, &y.source)) {
                values = difference(&x.tensor(a.model())?, &y.tensor(b.model())?);
            }
        }
        let (x, y) = (x.map(|e| e.what.clone()), y.map(|e| e.what.clone()));
        if values.is_some() || x != y {
            changes.push(ConstantChange { name: name.clone(), before: x, after: y, values });
        }
    }
    Ok((changes, weights))
}

fn entries<'a>(view: &View<'a>) -> Result<Vec<(String, Entry<'a>)>> {
    let graph = view.model.graph();
    let inputs: HashSet<&str> = graph.input.iter().map(|i| i.name()).collect();
    // Below IR 4 every initializer had to be an input, which then says nothing.
    let marked = view.model.ir_version() >= 4;
    let mut entries = Vec::new();
    for tensor in graph.initializer.iter().filter(|t| !view.constants.contains(t.name())) {
        let storage =
            if marked && inputs.contains(tensor.name()) { Storage::InitializerAndInput } else { Storage::Initializer };
        entries.push((
            tensor.name().to_owned(),
            Entry { what: message(tensor, storage), source: Source::Message(tensor) },
        ));
    }
    for ViewedNode { proto: node, outputs, .. } in view.nodes().filter(|node| is_constant(node.proto)) {
        let Some(name) = outputs.first() else { continue };
        let Some(entry) = held(view.model, node)? else { continue };
        entries.push(((*name).to_owned(), entry));
    }
    for node in view.nodes().filter(|node| !is_constant(node.proto)) {
        let Some(output) = node.outputs.iter().find(|name| !name.is_empty()) else { continue };
        for attribute in &node.proto.attribute {
            let Some(graph) = &attribute.g else { continue };
            let step = Step { output: (*output).to_owned(), attribute: attribute.name().to_owned() };
            inner(view.model, graph, &[step], &mut entries)?;
        }
    }
    Ok(entries)
}

/// The constants of a sub-graph, called by their places.
fn inner<'a>(
    model: &'a Model,
    graph: &'a GraphProto,
    steps: &[Step],
    entries: &mut Vec<(String, Entry<'a>)>,
) -> Result<()> {
    for tensor in &graph.initializer {
        let entry = Entry { what: message(tensor, Storage::Initializer), source: Source::Message(tensor) };
        entries.push((Place::new(steps, tensor.name()).to_string(), entry));
    }
    for node in &graph.node {
        if !is_constant(node) {
            for (step, graph) in Step::of(node) {
                inner(model, graph, &[steps, &[step]].concat(), entries)?;
            }
            continue;
        }
        if let (Some(name), Some(entry)) = (node.output.first(), held(model, node)?) {
            entries.push((Place::new(steps, name).to_string(), entry));
        }
    }
    Ok(())
}

/// What a `Constant` node holds.
fn held<'a>(model: &Model, node: &'a NodeProto) -> Result<Option<Entry<'a>>> {
    if let Some(tensor) = node.attribute.first().and_then(|a| a.t.as_ref()) {
        return Ok(Some(Entry { what: message(tensor, Storage::Node), source: Source::Message(tensor) }));
    }
    let entry = |tensor: Tensor| {
        let shape = tensor.shape().iter().map(|d| *d as i64).collect();
        let what = Constant { storage: Storage::Node, element_type: Some(tensor.element_type()), shape };
        Entry { what, source: Source::Small(tensor) }
    };
    Ok(constant_node_tensor(node, model)?.map(entry))
}

/// A sub-graph without its constants and those of its own sub-graphs, which are compared as such.
pub(super) fn without_constants(graph: &GraphProto) -> GraphProto {
    let mut rest = GraphProto { initializer: Vec::new(), ..graph.clone() };
    rest.node.retain(|node| !is_constant(node));
    for node in rest.node.iter_mut().filter(|node| node.output.iter().any(|name| !name.is_empty())) {
        let bodies = node.attribute.iter_mut().filter_map(|a| a.g.as_mut());
        bodies.for_each(|body| *body = without_constants(body));
    }
    rest
}

fn message(tensor: &TensorProto, storage: Storage) -> Constant {
    let element_type = ElementType::from_code(tensor.data_type.unwrap_or(0));
    Constant { storage, element_type, shape: tensor.dims.clone() }
}

/// Whether both are the same bytes of the same data file.
fn same_place(a: &Source, b: &Source) -> bool {
    match (a, b) {
        (Source::Message(a), Source::Message(b)) if is_external(a) && is_external(b) => {
            matches!((reference(a), reference(b)), (Ok(a), Ok(b)) if a == b)
        }
        _ => false,
    }
}

/// Whether two tensor messages hold the same, whatever their form.
pub(super) fn same(a: (&Model, &TensorProto), b: (&Model, &TensorProto)) -> Result<bool> {
    let (x, y) = (message(a.1, Storage::Node), message(b.1, Storage::Node));
    Ok(x == y && a.0.tensor(a.1)? == b.0.tensor(b.1)?)
}

/// How two tensors of one type and shape differ, if they do.
fn difference(a: &Tensor, b: &Tensor) -> Option<Values> {
    let elements = a.len();
    if let (Some(a), Some(b)) = (a.strings(), b.strings()) {
        let changed = a.iter().zip(b).filter(|(a, b)| a != b).count();
        return (changed > 0).then_some(Values { changed: Some(changed), elements, relative: None });
    }
    if a.bytes() == b.bytes() {
        return None;
    }
    let width = a.element_type().bits().filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
    let changed =
        width.map(|w| a.bytes().chunks_exact(w).zip(b.bytes().chunks_exact(w)).filter(|(a, b)| a != b).count());
    let relative = width.filter(|_| a.element_type().is_float()).and_then(|w| relative(a, b, w));
    Some(Values { changed, elements, relative })
}

/// ||b - a|| / ||a||.
fn relative(a: &Tensor, b: &Tensor, width: usize) -> Option<f64> {
    let block = |tensor: &Tensor, start: usize| -> Option<Vec<f64>> {
        let bytes = tensor.bytes();
        let end = bytes.len().min(start + BLOCK * width);
        let part = bytes.slice(start..end);
        Tensor::new(tensor.element_type(), vec![part.len() / width], part).ok()?.to_f64()
    };
    let (mut size, mut change) = (0.0, 0.0);
    for start in (0..a.bytes().len()).step_by(BLOCK * width) {
        for (x, y) in block(a, start)?.into_iter().zip(block(b, start)?) {
            size += x * x;
            change += (y - x) * (y - x);
        }
    }
    let relative = (change / size).sqrt();
    relative.is_finite().then_some(relative)
}
