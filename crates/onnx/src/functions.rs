//! Model-local functions, put in the place of their calls.
//!
//! The working copy has no functions: rules of gradients and sites of dendrites speak of operators. Each call becomes the
//! nodes of the function's body, values and nodes named `<call>/<name in the function>`. What came from a function is
//! remembered ([`Graph::function_of`], [`Graph::is_of_function`]), since the user's file keeps the call. Where nodes of a function
//! are to change in the file, [`inlined`] gives the file without functions, its nodes and values named as in the working copy.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use crate::{
    Attributes, Error, Graph, Model, Node, NodeId, Result, ValueId,
    proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto},
    upgrade::upgrade,
};

/// Calls inside of calls; the check of a model finds circles, this ends them where nobody checked.
const DEEPEST: usize = 100;

/// Replace every call of a function of `graph`, those in sub-graphs too, by the function's nodes at opset `target`, and forget
/// the functions. The file's own opset is `from`.
pub(crate) fn inline(graph: &mut Graph, from: Option<i64>, target: i64) -> Result<()> {
    let functions = std::mem::take(&mut graph.functions);
    if functions.is_empty() {
        return Ok(());
    }
    let library = Library { functions: &functions, are_foreign: are_foreign(&functions, from), target: Some(target) };
    library.inline(graph, 0)?;
    library.forget_domains(graph);
    Ok(())
}

/// `model` with every call of a function replaced by the function's nodes, as its own opset has them. The model itself where it
/// has no functions.
pub fn inlined(model: &Model) -> Result<Cow<'_, Model>> {
    if model.proto().functions.is_empty() {
        return Ok(Cow::Borrowed(model));
    }
    let mut graph = Graph::from_model(model)?;
    let functions = std::mem::take(&mut graph.functions);
    if are_foreign(&functions, graph.opsets.get("").copied()) {
        return Err(Error::Unsupported {
            what: "the model has functions of another opset than its own".to_owned(),
            hint: "inline them first (onnx.inliner.inline_local_functions)".to_owned(),
        });
    }
    let library = Library { functions: &functions, are_foreign: false, target: None };
    let calls = library.inline(&mut graph, 0)?;
    let calls: HashMap<&str, &Inlined> = calls.iter().map(|call| (call.output.as_str(), call)).collect();
    library.forget_domains(&mut graph);
    let mut proto = model.proto().clone();
    proto.functions.clear();
    proto.opset_import.retain(|import| graph.opsets.contains_key(standard(import.domain())));
    for (domain, version) in &graph.opsets {
        if !proto.opset_import.iter().any(|import| standard(import.domain()) == domain) {
            proto.opset_import.push(OperatorSetIdProto { domain: Some(domain.clone()), version: Some(*version) });
        }
    }
    let file = proto.graph.get_or_insert_default();
    for mut node in std::mem::take(&mut file.node) {
        let first = node.output.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        if let Some(call) = calls.get(first.as_str())
            && library.called(standard(node.domain()), node.op_type()).is_some()
        {
            file.node.extend(call.constants.iter().filter_map(|value| graph.constant_proto(*value)));
            file.node.extend(call.nodes.iter().map(|id| graph.node_proto(*id)));
            continue;
        }
        let calling = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(|body| library.calls(body));
        let copy = graph.find(&first).and_then(|value| graph.value(value).producer());
        if let Some(id) = copy.filter(|_| calling) {
            node.attribute = graph.node(id).attributes.as_slice().to_vec();
        }
        file.node.push(node);
    }
    model.with_proto(proto).map(Cow::Owned)
}

fn are_foreign(functions: &[FunctionProto], opset: Option<i64>) -> bool {
    let imports = functions.iter().flat_map(|function| &function.opset_import);
    imports.filter(|import| standard(import.domain()).is_empty()).any(|import| Some(import.version()) != opset)
}

struct Library<'a> {
    functions: &'a [FunctionProto],
    /// Whether any is of another opset than the file: then no nodes of theirs can stand in it.
    are_foreign: bool,
    /// The opset that nodes are brought to; `None` leaves them as they are.
    target: Option<i64>,
}

/// What took the place of a call.
struct Inlined {
    /// The call's first output.
    output: String,
    constants: Vec<ValueId>,
    /// The nodes in topological order.
    nodes: Vec<NodeId>,
}

impl Library<'_> {
    /// An import of a domain that only functions were of means nothing any more.
    fn forget_domains(&self, graph: &mut Graph) {
        let of_functions = |domain: &str| self.functions.iter().any(|f| standard(f.domain()) == domain);
        let mut used: HashSet<String> = HashSet::new();
        for (_, node) in graph.nodes() {
            used.insert(node.domain.clone());
            node.attributes.graphs().for_each(|body| domains(body, &mut used));
        }
        graph.opsets.retain(|domain, _| domain.is_empty() || !of_functions(domain) || used.contains(domain));
    }

    /// Replace the calls of `graph`; what took the place of those outside of sub-graphs.
    fn inline(&self, graph: &mut Graph, depth: usize) -> Result<Vec<Inlined>> {
        let mut calls = Vec::new();
        let (mut named, mut again) = (HashSet::new(), HashSet::new());
        for (_, node) in graph.nodes().filter(|(_, node)| self.called(&node.domain, &node.op).is_some()) {
            if !named.insert(node.name.clone()) {
                again.insert(node.name.clone());
            }
        }
        for id in graph.node_ids() {
            self.inline_bodies(graph, id, depth)?;
            if let Some(function) = self.called(&graph.node(id).domain, &graph.node(id).op) {
                let node = graph.node(id);
                if depth == DEEPEST {
                    let reason =
                        format!("calls of functions lie more than {DEEPEST} deep at node {}", graph.label(node));
                    return Err(Error::Graph { graph: graph.name.clone(), reason });
                }
                if function.overload.as_deref().is_some_and(|o| !o.is_empty()) {
                    return Err(Error::Unsupported {
                        what: format!("node {} calls an overload of a function", graph.label(node)),
                        hint: "inline the model's functions first (onnx.inliner.inline_local_functions)".to_owned(),
                    });
                }
                let body = self.body(function, &node.attributes, depth)?;
                // Several calls of one name are told apart by their outputs.
                let named = !again.contains(&graph.node(id).name);
                let call = splice(graph, id, function, &body, named)?;
                call.nodes.iter().for_each(|id| graph.mark_inlined(*id, function.name(), self.are_foreign));
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// The body of `function` for one call: attributes filled in, at the target opset, without calls.
    fn body(&self, function: &FunctionProto, given: &Attributes, depth: usize) -> Result<Graph> {
        let mut function = function.clone();
        let defaults = std::mem::take(&mut function.attribute_proto);
        fill_in(&mut function.node, &|name| {
            given.get(name).or_else(|| defaults.iter().find(|a| a.name() == name)).cloned()
        });
        let mut body = Graph::from_function(&function)?;
        if let Some(target) = self.target {
            upgrade(&mut body, target)?;
        }
        self.inline(&mut body, depth + 1)?;
        Ok(body)
    }

    fn inline_bodies(&self, graph: &mut Graph, id: NodeId, depth: usize) -> Result<()> {
        let attributes = graph.node(id).attributes.as_slice().iter();
        let calling = attributes.filter_map(|a| Some((a.name().to_owned(), a.g.clone().filter(|g| self.calls(g))?)));
        for (name, proto) in calling.collect::<Vec<_>>() {
            let mut body = Graph::from_body(&proto, graph)?;
            self.inline(&mut body, depth)?;
            graph.node_mut(id).attributes.set(&name, body.to_body()?);
        }
        Ok(())
    }

    /// Whether a sub-graph calls a function, itself or in its own sub-graphs.
    fn calls(&self, graph: &GraphProto) -> bool {
        graph.node.iter().any(|node| {
            self.called(standard(node.domain()), node.op_type()).is_some()
                || node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(|g| self.calls(g))
        })
    }

    fn called(&self, domain: &str, op: &str) -> Option<&FunctionProto> {
        self.functions.iter().find(|f| standard(f.domain()) == domain && f.name() == op)
    }
}

/// The domains of a sub-graph's operators, those of its own sub-graphs included.
fn domains(body: &GraphProto, found: &mut HashSet<String>) {
    for node in &body.node {
        found.insert(standard(node.domain()).to_owned());
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|body| domains(body, found));
    }
}

fn standard(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Replace references to the function's attributes, in sub-graphs too. One that has no value is left out.
fn fill_in(nodes: &mut [NodeProto], value: &dyn Fn(&str) -> Option<AttributeProto>) {
    for node in nodes {
        node.attribute = std::mem::take(&mut node.attribute)
            .into_iter()
            .filter_map(|mut attribute| {
                if attribute.ref_attr_name().is_empty() {
                    attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|g| fill_in(&mut g.node, value));
                    return Some(attribute);
                }
                let mut given = value(attribute.ref_attr_name())?;
                given.name = attribute.name;
                Some(given)
            })
            .collect();
    }
}

/// Put `body` in the place of the call `id`, whose name tells it from others if it is `named`.
fn splice(graph: &mut Graph, id: NodeId, function: &FunctionProto, body: &Graph, named: bool) -> Result<Inlined> {
    let call = graph.node(id).clone();
    let prefix = match call.outputs.iter().flatten().next() {
        _ if named && !call.name.is_empty() => call.name.clone(),
        Some(output) => graph.name_of(*output).to_owned(),
        None => function.name().to_owned(),
    };
    graph.remove(id);
    // What each value of the body is in the graph; an optional input that the call leaves out is nothing.
    let mut places: HashMap<ValueId, Option<ValueId>> = HashMap::new();
    for (position, input) in body.inputs.iter().enumerate() {
        places.insert(*input, call.input(position));
    }
    let (mut passed, mut constants) = (Vec::new(), Vec::new());
    for (position, value) in body.outputs.iter().enumerate() {
        let Some(output) = call.output(position) else { continue };
        let computed = body.value(*value).producer().is_some();
        if computed && !places.contains_key(value) {
            places.insert(*value, Some(output));
        } else {
            // An input or a constant that is handed on, or one value as two outputs.
            passed.push((*value, output));
        }
    }
    for (value, facts) in body.values() {
        if places.contains_key(&value) {
            continue;
        }
        let name = format!("{prefix}/{}", facts.name);
        let place = match &facts.constant {
            Some(tensor) => {
                let place = graph.add_constant(&name, tensor.clone());
                graph.mark_of_function(place);
                constants.push(place);
                place
            }
            None => {
                let place = graph.add_value(&name);
                graph.set_type(place, facts.element_type, facts.shape.clone());
                place
            }
        };
        places.insert(value, Some(place));
    }
    let place = |value: &Option<ValueId>| value.and_then(|v| places.get(&v).copied().flatten());
    let names: HashMap<&str, String> = body
        .values()
        .map(|(value, facts)| {
            let name = place(&Some(value)).map(|v| graph.name_of(v).to_owned()).unwrap_or_default();
            (facts.name.as_str(), name)
        })
        .collect();
    let mut nodes = Vec::new();
    for inner in body.topological_order()?.into_iter().map(|id| body.node(id)) {
        nodes.push(Node {
            name: if inner.name.is_empty() { String::new() } else { format!("{prefix}/{}", inner.name) },
            domain: inner.domain.clone(),
            op: inner.op.clone(),
            inputs: inner.inputs.iter().map(place).collect(),
            outputs: inner.outputs.iter().map(place).collect(),
            attributes: renamed(&inner.attributes, &names, &prefix),
        });
    }
    for (value, output) in passed {
        let inputs = vec![place(&Some(value))];
        nodes.push(Node {
            name: format!("{prefix}/{}", body.name_of(value)),
            domain: String::new(),
            op: "Identity".to_owned(),
            inputs,
            outputs: vec![Some(output)],
            attributes: Attributes::new(),
        });
    }
    let nodes = nodes.into_iter().map(|node| graph.push(node)).collect();
    for (domain, version) in &body.opsets {
        graph.opsets.entry(domain.clone()).or_insert(*version);
    }
    let output = call.outputs.iter().flatten().next().map(|output| graph.name_of(*output).to_owned());
    Ok(Inlined { output: output.unwrap_or_default(), constants, nodes })
}

/// Attributes whose sub-graphs read the graph's names in place of the function's. Their own names get the prefix, since a
/// name of a sub-graph must not be one of the graph around it.
fn renamed(attributes: &Attributes, names: &HashMap<&str, String>, prefix: &str) -> Attributes {
    let mut protos = attributes.as_slice().to_vec();
    protos.iter_mut().for_each(|a| a.g.iter_mut().chain(&mut a.graphs).for_each(|g| rename(g, names, prefix)));
    Attributes::from(protos)
}

fn rename(graph: &mut GraphProto, names: &HashMap<&str, String>, prefix: &str) {
    let change = |name: &mut String| {
        if !name.is_empty() {
            *name = names.get(name.as_str()).cloned().unwrap_or_else(|| format!("{prefix}/{name}"));
        }
    };
    let ports = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    ports.flat_map(|info| &mut info.name).for_each(change);
    graph.initializer.iter_mut().flat_map(|tensor| &mut tensor.name).for_each(change);
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(change);
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|g| rename(g, names, prefix));
        }
    }
}
