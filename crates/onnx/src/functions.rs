//! Model-local functions, put in the place of their calls.
//!
//! The working copy has no functions: rules of gradients and sites of dendrites speak of operators. Each call becomes the
//! nodes of the function's body, values and nodes named `<call>/<name in the function>`. What came from a function is
//! remembered ([`Graph::function_of`], [`Graph::is_of_function`]), since the user's file keeps the call.

use std::collections::HashMap;

use crate::{
    Attributes, Error, Graph, Node, NodeId, Result, ValueId,
    proto::{AttributeProto, FunctionProto, GraphProto, NodeProto},
    upgrade::upgrade,
};

/// Calls inside of calls; the check of a model finds circles, this ends them where nobody checked.
const DEEPEST: usize = 100;

/// Replace every call of a function of `graph`, those in sub-graphs too, by the function's nodes at opset `target`, and forget
/// the functions.
pub(crate) fn inline(graph: &mut Graph, target: i64) -> Result<()> {
    let functions = std::mem::take(&mut graph.functions);
    if functions.is_empty() {
        return Ok(());
    }
    let library = Library { functions: &functions, target };
    library.inline(graph, 0)?;
    // An import of a domain that only functions were of means nothing any more.
    let of_functions = |domain: &str| functions.iter().any(|f| standard(f.domain()) == domain);
    let used: Vec<String> = graph.nodes().map(|(_, n)| n.domain.clone()).collect();
    graph.opsets.retain(|domain, _| domain.is_empty() || !of_functions(domain) || used.contains(domain));
    Ok(())
}

struct Library<'a> {
    functions: &'a [FunctionProto],
    target: i64,
}

impl Library<'_> {
    fn inline(&self, graph: &mut Graph, depth: usize) -> Result<()> {
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
                splice(graph, id, function, &body)?;
            }
        }
        Ok(())
    }

    /// The body of `function` for one call: attributes filled in, at the target opset, without calls.
    fn body(&self, function: &FunctionProto, given: &Attributes, depth: usize) -> Result<Graph> {
        let mut function = function.clone();
        let defaults = std::mem::take(&mut function.attribute_proto);
        fill_in(&mut function.node, &|name| {
            given.get(name).or_else(|| defaults.iter().find(|a| a.name() == name)).cloned()
        });
        let mut body = Graph::from_function(&function)?;
        upgrade(&mut body, self.target)?;
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

/// Put `body` in the place of the call `id`.
fn splice(graph: &mut Graph, id: NodeId, function: &FunctionProto, body: &Graph) -> Result<()> {
    let call = graph.node(id).clone();
    let prefix = match call.outputs.iter().flatten().next() {
        _ if !call.name.is_empty() => call.name.clone(),
        Some(output) => graph.name_of(*output).to_owned(),
        None => function.name().to_owned(),
    };
    graph.remove(id);
    // What each value of the body is in the graph; an optional input that the call leaves out is nothing.
    let mut places: HashMap<ValueId, Option<ValueId>> = HashMap::new();
    for (position, input) in body.inputs.iter().enumerate() {
        places.insert(*input, call.input(position));
    }
    let mut passed = Vec::new();
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
    for node in nodes {
        let id = graph.push(node);
        graph.mark_inlined(id, function.name());
    }
    for (domain, version) in &body.opsets {
        graph.opsets.entry(domain.clone()).or_insert(*version);
    }
    Ok(())
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
