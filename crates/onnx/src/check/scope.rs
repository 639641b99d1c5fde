//! Names: each value is defined once, before it is read, in the graph or one around it.

use std::collections::{HashMap, HashSet};

use super::{Checker, Imports, circular, domain, imports};
use crate::proto::{FunctionProto, GraphProto, NodeProto, SparseTensorProto, ValueInfoProto};

/// One graph on the way from the main graph to the node that is looked at.
struct Level<'a> {
    place: String,
    /// What can be read here by now.
    defined: HashSet<&'a str>,
    /// The node that writes each value.
    producers: HashMap<&'a str, usize>,
    /// The node that is looked at, which may hold the next level; past the last one, the graph itself.
    node: usize,
    /// For each node, what it and the graphs in it read of this graph's nodes.
    reads: Vec<HashSet<usize>>,
    /// What is read too early: the place and the value.
    early: Vec<(String, &'a str)>,
}

struct Scope<'c, 'a> {
    checker: &'c mut Checker<'a>,
    imports: &'c Imports,
    levels: Vec<Level<'a>>,
    in_function: bool,
}

/// Check the model's graph and those in it.
pub(super) fn main_graph(checker: &mut Checker<'_>, imports: &Imports) {
    let graph = checker.model.graph();
    let place = format!("graph '{}'", graph.name());
    if graph.name().is_empty() {
        checker.warn(&place, "the graph has no name", "some readers ask for one");
    }
    if graph.output.is_empty() {
        checker.error(&place, "the graph has no outputs", "");
    }
    Scope { checker, imports, levels: Vec::new(), in_function: false }.graph(graph, place);
}

/// Check the body of a model-local function.
pub(super) fn function<'a>(checker: &mut Checker<'a>, function: &'a FunctionProto, place: &str) {
    let imports = imports(&function.opset_import);
    let mut scope = Scope { checker, imports: &imports, levels: Vec::new(), in_function: true };
    scope.enter(place.to_owned(), &function.node);
    for name in &function.input {
        scope.define(name, &format!("{place}, input '{name}'"));
    }
    scope.nodes(&function.node);
    for name in &function.output {
        scope.read(name, &format!("{place}, output '{name}'"));
    }
    scope.leave(&function.node);
}

impl<'a> Scope<'_, 'a> {
    fn graph(&mut self, graph: &'a GraphProto, place: String) {
        let outermost = self.levels.is_empty();
        self.enter(place.clone(), &graph.node);
        let mut inputs = HashSet::new();
        for (i, input) in graph.input.iter().enumerate() {
            let at = value_place(&place, "input", i, input.name());
            if self.named(input.name(), &at) && !inputs.insert(input.name()) {
                self.checker.error(&at, "the graph has another input of this name", "");
            } else {
                self.define(input.name(), &at);
            }
            self.checker.declared(input, &at, outermost);
        }
        self.initializers(graph, &place, &inputs, outermost);
        self.nodes(&graph.node);
        let mut outputs = HashSet::new();
        for (i, output) in graph.output.iter().enumerate() {
            let at = value_place(&place, "output", i, output.name());
            if self.named(output.name(), &at) {
                self.read(output.name(), &at);
                if !outputs.insert(output.name()) {
                    self.checker.warn(&at, "the graph has another output of this name", "");
                }
            }
            self.checker.declared(output, &at, outermost);
        }
        self.value_info(&graph.value_info, &place);
        self.leave(&graph.node);
    }

    fn initializers(&mut self, graph: &'a GraphProto, place: &str, inputs: &HashSet<&str>, outermost: bool) {
        let mut seen = HashSet::new();
        let all_inputs = outermost && (1..4).contains(&self.checker.model.ir_version());
        let sparse_name = |s: &'a SparseTensorProto| s.values.as_ref().map(|v| v.name()).unwrap_or_default();
        for (i, tensor) in graph.initializer.iter().enumerate() {
            let at = value_place(place, "initializer", i, tensor.name());
            self.initializer(tensor.name(), &at, inputs, &mut seen);
            if all_inputs && !inputs.contains(tensor.name()) {
                let hint = "list it as an input, or raise the IR version to 4";
                self.checker.error(&at, "below IR version 4 an initializer must also be an input", hint);
            }
            self.checker.tensor(tensor, &at);
        }
        for (i, sparse) in graph.sparse_initializer.iter().enumerate() {
            let at = value_place(place, "sparse initializer", i, sparse_name(sparse));
            self.initializer(sparse_name(sparse), &at, inputs, &mut seen);
            self.sparse(sparse, &at);
        }
    }

    fn initializer(&mut self, name: &'a str, at: &str, inputs: &HashSet<&str>, seen: &mut HashSet<&'a str>) {
        if !self.named(name, at) {
            return;
        }
        if !seen.insert(name) {
            self.checker.error(at, "the graph has another initializer of this name", "");
        } else if !inputs.contains(name) {
            self.define(name, at);
        }
    }

    fn sparse(&mut self, sparse: &SparseTensorProto, at: &str) {
        for (part, what) in [(&sparse.values, "values"), (&sparse.indices, "indices")] {
            match part {
                Some(tensor) => self.checker.tensor(tensor, &format!("{at}, {what}")),
                None => self.checker.error(at, format!("it has no {what}"), ""),
            }
        }
        if sparse.dims.iter().any(|d| *d < 0) {
            self.checker.error(at, "it has a negative dimension", "");
        }
    }

    fn nodes(&mut self, nodes: &'a [NodeProto]) {
        let mut names = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            if let Some(level) = self.levels.last_mut() {
                level.node = i;
            }
            let place = self.node_place(i, node);
            if node.op_type().is_empty() {
                self.checker.error(&place, "it has no operator", "");
            }
            if !self.imports.contains_key(domain(node.domain())) {
                let name = if domain(node.domain()).is_empty() { "ai.onnx" } else { node.domain() };
                let message = format!("its domain '{name}' is not imported");
                self.checker.error(&place, message, "add the domain to the opset imports");
            }
            if !node.name().is_empty() && names.insert(node.name(), i).is_some() {
                self.checker.warn(&place, "the graph has another node of this name", "");
            }
            for name in node.input.iter().filter(|n| !n.is_empty()) {
                self.read(name, &place);
            }
            self.attributes(node, &place);
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                self.define(name, &place);
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.node = nodes.len(); // what follows reads for the graph, not for a node
        }
    }

    fn attributes(&mut self, node: &'a NodeProto, place: &str) {
        let mut names = HashSet::new();
        for attribute in &node.attribute {
            let at = format!("{place}, attribute '{}'", attribute.name());
            if !names.insert(attribute.name()) {
                self.checker.error(&at, "the node has another attribute of this name", "");
            }
            self.checker.attribute(attribute, &at, self.in_function);
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                self.checker.tensor(tensor, &at);
            }
            for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
                self.sparse(sparse, &at);
            }
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                self.graph(graph, format!("{at}, graph '{}'", graph.name()));
            }
        }
    }

    fn value_info(&mut self, infos: &'a [ValueInfoProto], place: &str) {
        let mut seen = HashSet::new();
        for (i, info) in infos.iter().enumerate() {
            let at = value_place(place, "value", i, info.name());
            if self.named(info.name(), &at) && !seen.insert(info.name()) {
                self.checker.warn(&at, "its type is declared more than once", "");
            }
            self.checker.declared(info, &at, false);
        }
    }

    fn named(&mut self, name: &str, at: &str) -> bool {
        if name.is_empty() {
            self.checker.error(at, "it has no name", "");
        }
        !name.is_empty()
    }

    fn enter(&mut self, place: String, nodes: &'a [NodeProto]) {
        let mut producers = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                producers.entry(name.as_str()).or_insert(i);
            }
        }
        let reads = vec![HashSet::new(); nodes.len()];
        self.levels.push(Level { place, defined: HashSet::new(), producers, node: 0, reads, early: Vec::new() });
    }

    /// A value comes into being.
    fn define(&mut self, name: &'a str, at: &str) {
        let Some((level, around)) = self.levels.split_last_mut() else { return };
        if !level.defined.insert(name) {
            let message = format!("value '{name}' is defined more than once");
            self.checker.error(at, message, "every value has one origin: rename one of them and its readers");
        } else if around.iter().any(|l| l.defined.contains(name)) {
            let message = format!("value '{name}' hides one of a graph around it");
            self.checker.warn(at, message, "some readers ask for names that are unique in the whole model");
        }
    }

    /// A value is read, in this graph or one around it.
    fn read(&mut self, name: &'a str, at: &str) {
        for level in self.levels.iter_mut().rev() {
            let producer = level.producers.get(name).copied();
            let defined = level.defined.contains(name);
            if let (Some(producer), Some(reads)) = (producer, level.reads.get_mut(level.node)) {
                reads.insert(producer);
            }
            if !defined && producer.is_some() {
                level.early.push((at.to_owned(), name));
            }
            if defined || producer.is_some() {
                return;
            }
        }
        let message = format!("value '{name}' is defined nowhere");
        self.checker.error(at, message, "the model was cut or a name is misspelt; export it again");
    }

    /// The graph is done: values read too early are on a circle, or out of order.
    fn leave(&mut self, nodes: &'a [NodeProto]) {
        let Some(level) = self.levels.pop() else { return };
        if level.early.is_empty() {
            return;
        }
        let mut readers = vec![Vec::new(); nodes.len()];
        let mut waits = Vec::with_capacity(nodes.len());
        for (i, reads) in level.reads.iter().enumerate() {
            waits.push(reads.len());
            for read in reads {
                if let Some(list) = readers.get_mut(*read) {
                    list.push(i);
                }
            }
        }
        let circle = circular(&mut waits, &readers);
        if circle.is_empty() {
            for (place, name) in level.early {
                let message = format!("value '{name}' is read before it is computed");
                self.checker.error(
                    &place,
                    message,
                    "nodes must be listed in the order of computation; export the model again",
                );
            }
            return;
        }
        let on_it: Vec<String> = circle.iter().take(4).filter_map(|i| Some(label(*i, nodes.get(*i)?))).collect();
        let more = if circle.len() > 4 { format!(" and {} more", circle.len() - 4) } else { String::new() };
        let message = format!("nodes depend on their own output: {}{more}", on_it.join(", "));
        self.checker.error(&level.place, message, "a graph has no cycles; use Loop or Scan for repetition");
    }

    fn node_place(&self, index: usize, node: &NodeProto) -> String {
        let graph = self.levels.last().map(|l| l.place.as_str()).unwrap_or_default();
        format!("{graph}, {}", label(index, node))
    }
}

fn label(index: usize, node: &NodeProto) -> String {
    match node.name() {
        "" => format!("node {index} ({})", node.op_type()),
        name => format!("node {index} '{name}' ({})", node.op_type()),
    }
}

fn value_place(graph: &str, what: &str, index: usize, name: &str) -> String {
    if name.is_empty() { format!("{graph}, {what} {index}") } else { format!("{graph}, {what} '{name}'") }
}
