//! The working copy: a graph of typed ids that can be analysed and rewritten.
//!
//! Invariants: value names are unique and never change; every value has at most one producer; initializers and the outputs
//! of `Constant` nodes are both constants of their value, under the name they have in the file; node order carries no
//! meaning ([`Graph::topological_order`] gives one).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    attributes::Attributes,
    bodies::Place,
    error::{Error, Result},
    model::Model,
    proto::{
        FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    shape::{Dim, Shape},
    tensor::{ElementType, Tensor},
};

/// Captured integers of up to this many elements are shapes and axes, which who reads a body wants to know.
const SMALL: usize = 64;

/// A value (an edge) of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// A node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl ValueId {
    /// The position of the value's facts in tables indexed by value.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// The position of the node's facts in tables indexed by node.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is known of a value.
#[derive(Debug, Clone, Default)]
pub struct Value {
    /// The name, unique in the graph.
    pub name: String,
    /// The element type, once known. `None` for sequences, maps and optionals too.
    pub element_type: Option<ElementType>,
    /// The shape, once its rank is known.
    pub shape: Option<Shape>,
    /// The contents, for an initializer or the output of a `Constant` node.
    pub constant: Option<Tensor>,
    producer: Option<NodeId>,
    /// The declared type where it is not a tensor's.
    other_type: Option<TypeProto>,
}

impl Value {
    /// The node that computes the value; `None` for inputs and constants.
    pub fn producer(&self) -> Option<NodeId> {
        self.producer
    }
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Node {
    /// The name; may be empty.
    pub name: String,
    /// The operator's domain; empty for ai.onnx.
    pub domain: String,
    /// The operator.
    pub op: String,
    /// The inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// The outputs; `None` where an optional one is left out.
    pub outputs: Vec<Option<ValueId>>,
    /// The attributes.
    pub attributes: Attributes,
}

impl Node {
    /// Input `index`, if present.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, if present.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// Whether this is operator `op` of the standard domain.
    pub fn is(&self, op: &str) -> bool {
        self.domain.is_empty() && self.op == op
    }
}

/// A graph under one set of opsets.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    /// Opset version by domain; the standard domain is the empty string.
    pub opsets: BTreeMap<String, i64>,
    /// The inputs, initializers excepted.
    pub inputs: Vec<ValueId>,
    /// The outputs.
    pub outputs: Vec<ValueId>,
    /// Model-local functions, as in the file. [`crate::upgrade::upgrade`] puts them in the place of their calls.
    pub functions: Vec<FunctionProto>,
    values: Vec<Value>,
    nodes: Vec<Option<Node>>,
    by_name: HashMap<String, ValueId>,
    fresh: usize,
    /// Nodes that stood in a function, and its name.
    inlined: HashMap<NodeId, String>,
    /// Constants that a function held.
    of_functions: HashSet<ValueId>,
    /// Nodes that can only stand in a function.
    foreign: HashSet<NodeId>,
    /// Constants that came with an expression in the place of an operator.
    made: HashSet<ValueId>,
    /// Constants that a sub-graph held, and where.
    places: HashMap<ValueId, Place>,
}

impl Graph {
    /// An empty graph at `opset` of the standard domain.
    pub fn new(name: &str, opset: i64) -> Self {
        Graph { name: name.to_owned(), opsets: BTreeMap::from([(String::new(), opset)]), ..Default::default() }
    }

    /// The working copy of a model's main graph, its constants resolved (external data included).
    pub fn from_model(model: &Model) -> Result<Self> {
        let proto = model.proto();
        let Some(source) = &proto.graph else {
            return Err(Error::Graph { graph: String::new(), reason: "the model has no graph".to_owned() });
        };
        let mut graph =
            Graph { name: source.name().to_owned(), functions: proto.functions.clone(), ..Default::default() };
        for opset in &proto.opset_import {
            graph.opsets.insert(standard_domain(opset.domain()).to_owned(), opset.version());
        }
        graph.read(source, &|tensor| model.tensor(tensor))?;
        graph.embed_external(model)?;
        Ok(graph)
    }

    /// The sub-graph of a node of `outer` as a graph of its own. What it captures are values that nothing computes; what
    /// `outer` knows of them is known here, and small integers are constants here too.
    pub fn from_body(body: &GraphProto, outer: &Graph) -> Result<Self> {
        let mut graph = Graph { name: body.name().to_owned(), opsets: outer.opsets.clone(), ..Default::default() };
        graph.read(body, &Tensor::from_proto)?;
        // What only a sub-graph of the body captures passes through the body.
        let mut passing = Vec::new();
        graph.nodes().flat_map(|(_, n)| n.attributes.graphs()).for_each(|sub| free_names(sub, &mut passing));
        for name in &passing {
            graph.named(name);
        }
        for id in graph.captures() {
            let Some(known) = outer.find(graph.name_of(id)).map(|v| outer.value(v)) else { continue };
            graph.set_type(id, known.element_type, known.shape.clone());
            let integers = known.constant.as_ref().filter(|t| !t.element_type().is_float() && t.len() <= SMALL);
            if let Some(tensor) = integers {
                let constant = graph.add_constant(&format!("{}/captured", known.name), tensor.clone());
                graph.replace_uses(id, constant);
            }
        }
        Ok(graph)
    }

    /// The body of a function as a graph of its own: values of which nothing is known go in, and its own opsets hold.
    pub(crate) fn from_function(function: &FunctionProto) -> Result<Self> {
        let mut graph = Graph { name: function.name().to_owned(), ..Default::default() };
        for opset in &function.opset_import {
            graph.opsets.insert(standard_domain(opset.domain()).to_owned(), opset.version());
        }
        let port = |name: &String| ValueInfoProto { name: Some(name.clone()), ..Default::default() };
        let body = GraphProto {
            node: function.node.clone(),
            input: function.input.iter().map(port).collect(),
            output: function.output.iter().map(port).collect(),
            ..Default::default()
        };
        graph.read(&body, &Tensor::from_proto)?;
        Ok(graph)
    }

    /// The values that are neither inputs nor constants nor computed here.
    pub fn captures(&self) -> Vec<ValueId> {
        let uses = self.uses();
        let free = |id: &ValueId, value: &Value| {
            value.producer.is_none() && value.constant.is_none() && !self.inputs.contains(id)
        };
        let read = |id: &ValueId| !uses[id.index()].is_empty() || self.outputs.contains(id);
        self.values().filter(|(id, value)| free(id, value) && read(id)).map(|(id, _)| id).collect()
    }

    /// A value of a graph around this one, under its name there.
    pub fn capture(&mut self, name: &str, element_type: Option<ElementType>, shape: Option<Shape>) -> ValueId {
        let id = self.named(name);
        self.set_type(id, element_type, shape);
        id
    }

    fn read(&mut self, source: &GraphProto, resolve: &dyn Fn(&TensorProto) -> Result<Tensor>) -> Result<()> {
        if let Some(sparse) = source.sparse_initializer.first() {
            return Err(Error::Unsupported {
                what: format!(
                    "sparse initializer '{}' is not supported",
                    sparse.values.as_ref().map(|v| v.name()).unwrap_or_default()
                ),
                hint: "store the tensor densely".to_owned(),
            });
        }
        for tensor in &source.initializer {
            let id = self.named(tensor.name());
            self.set_constant(id, resolve(tensor)?);
        }
        for info in &source.input {
            let id = self.named(info.name());
            if self.value(id).constant.is_none() {
                self.inputs.push(id);
            }
            self.declare(id, info);
        }
        for info in source.value_info.iter().chain(&source.output) {
            let id = self.named(info.name());
            self.declare(id, info);
        }
        for node in &source.node {
            self.read_node(node, resolve)?;
        }
        for info in &source.output {
            let id = self.named(info.name());
            self.outputs.push(id);
        }
        Ok(())
    }

    fn read_node(&mut self, node: &NodeProto, resolve: &dyn Fn(&TensorProto) -> Result<Tensor>) -> Result<()> {
        let domain = standard_domain(node.domain());
        if domain.is_empty()
            && node.op_type() == "Constant"
            && let (Some(name), Some(tensor)) = (node.output.first(), constant_tensor(node, resolve)?)
        {
            let id = self.named(name);
            self.set_constant(id, tensor);
            return Ok(());
        }
        let ids = |graph: &mut Self, names: &[String]| -> Vec<Option<ValueId>> {
            names.iter().map(|n| (!n.is_empty()).then(|| graph.named(n))).collect()
        };
        let inputs = ids(self, &node.input);
        let outputs = ids(self, &node.output);
        if let Some(name) = outputs.iter().flatten().find(|o| self.value(**o).producer.is_some()) {
            return Err(Error::Graph {
                graph: self.name.clone(),
                reason: format!("value '{}' is produced twice", self.value(*name).name),
            });
        }
        self.push(Node {
            name: node.name().to_owned(),
            domain: domain.to_owned(),
            op: node.op_type().to_owned(),
            inputs,
            outputs,
            attributes: Attributes::from(node.attribute.clone()),
        });
        Ok(())
    }

    fn declare(&mut self, id: ValueId, info: &ValueInfoProto) {
        let value = &mut self.values[id.index()];
        match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            // A constant is what it holds, whatever is declared.
            Some(type_proto::Value::TensorType(_)) if value.constant.is_some() => {}
            Some(type_proto::Value::TensorType(tensor)) => {
                value.element_type = ElementType::from_code(tensor.elem_type());
                value.shape = tensor.shape.as_ref().map(read_shape);
            }
            Some(_) => value.other_type = info.r#type.clone(),
            None => {}
        }
    }

    // ---- values -------------------------------------------------------------------------------------------------

    /// The value's facts.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// All values, in order of their ids.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// The number of value ids, for tables indexed by value.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// The name of a value.
    pub fn name_of(&self, id: ValueId) -> &str {
        &self.value(id).name
    }

    /// The contents of a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// The rank of a value, once known.
    pub fn rank(&self, id: ValueId) -> Option<usize> {
        self.value(id).shape.as_ref().map(Shape::rank)
    }

    /// Record what a value is.
    pub fn set_type(&mut self, id: ValueId, element_type: Option<ElementType>, shape: Option<Shape>) {
        let value = &mut self.values[id.index()];
        value.element_type = element_type;
        value.shape = shape;
    }

    /// Make a value constant, or replace its contents.
    pub fn set_constant(&mut self, id: ValueId, tensor: Tensor) {
        self.set_type(id, Some(tensor.element_type()), Some(Shape::known(tensor.shape())));
        self.values[id.index()].constant = Some(tensor);
    }

    /// Make a constant an input of the graph: a weight that is to be trained.
    pub fn constant_to_input(&mut self, id: ValueId) -> Option<Tensor> {
        let tensor = self.values[id.index()].constant.take()?;
        self.inputs.push(id);
        Some(tensor)
    }

    /// Take the contents of a constant away: its value is to be computed instead.
    pub fn take_constant(&mut self, id: ValueId) -> Option<Tensor> {
        self.values[id.index()].constant.take()
    }

    /// A new value under `name`, or under a numbered variation of it where it is taken.
    pub fn add_value(&mut self, name: &str) -> ValueId {
        let mut unique = name.to_owned();
        while self.by_name.contains_key(&unique) {
            self.fresh += 1;
            unique = format!("{name}_{}", self.fresh);
        }
        self.named(&unique)
    }

    /// A new constant.
    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.add_value(name);
        self.set_constant(id, tensor);
        id
    }

    /// A new graph input.
    pub fn add_input(&mut self, name: &str, element_type: ElementType, shape: Shape) -> ValueId {
        let id = self.add_value(name);
        self.set_type(id, Some(element_type), Some(shape));
        self.inputs.push(id);
        id
    }

    fn named(&mut self, name: &str) -> ValueId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name: name.to_owned(), ..Default::default() });
        self.by_name.insert(name.to_owned(), id);
        id
    }

    // ---- nodes --------------------------------------------------------------------------------------------------

    /// The node, which must not have been removed.
    pub fn node(&self, id: NodeId) -> &Node {
        match &self.nodes[id.index()] {
            Some(node) => node,
            None => unreachable!("node {} was removed", id.0),
        }
    }

    /// The node, for changing its operator or attributes. Use [`Graph::set_input`] for its inputs.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        match &mut self.nodes[id.index()] {
            Some(node) => node,
            None => unreachable!("node {} was removed", id.0),
        }
    }

    /// All nodes, in order of their ids (the file's order for those that came from it).
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(i, n)| Some((NodeId(i as u32), n.as_ref()?)))
    }

    /// The ids of all nodes.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.nodes().map(|(id, _)| id).collect()
    }

    /// Add a node whose outputs are existing values without a producer.
    pub fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        for output in node.outputs.iter().flatten() {
            self.values[output.index()].producer = Some(id);
        }
        self.nodes.push(Some(node));
        id
    }

    /// Add a node of the standard domain with `outputs` new values named after `name`, and return them.
    pub fn add_node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
        outputs: usize,
    ) -> Vec<ValueId> {
        let values: Vec<ValueId> = (0..outputs).map(|_| self.add_value(name)).collect();
        self.push(Node {
            name: values.first().map(|v| self.name_of(*v).to_owned()).unwrap_or_default(),
            domain: String::new(),
            op: op.to_owned(),
            inputs: inputs.to_vec(),
            outputs: values.iter().copied().map(Some).collect(),
            attributes,
        });
        values
    }

    /// Add a node of the standard domain with one output.
    pub fn op(&mut self, op: &str, name: &str, inputs: &[ValueId], attributes: Attributes) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.add_node(op, name, &inputs, attributes, 1)[0]
    }

    /// Let input `index` of a node read another value.
    pub fn set_input(&mut self, id: NodeId, index: usize, value: Option<ValueId>) {
        let node = self.node_mut(id);
        if node.inputs.len() <= index {
            node.inputs.resize(index + 1, None);
        }
        node.inputs[index] = value;
    }

    /// Let output `index` of a node write another value, which must have no producer yet.
    pub fn set_output(&mut self, id: NodeId, index: usize, value: ValueId) {
        if let Some(old) = self.node(id).output(index) {
            self.values[old.index()].producer = None;
        }
        self.node_mut(id).outputs[index] = Some(value);
        self.values[value.index()].producer = Some(id);
    }

    /// Remove a node; its outputs stay as values without a producer.
    pub fn remove(&mut self, id: NodeId) -> Option<Node> {
        let node = self.nodes[id.index()].take()?;
        for output in node.outputs.iter().flatten() {
            self.values[output.index()].producer = None;
        }
        Some(node)
    }

    /// Let every reader of `from`, the graph's outputs included, read `to` instead.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        for input in self.nodes.iter_mut().flatten().flat_map(|n| n.inputs.iter_mut()) {
            if *input == Some(from) {
                *input = Some(to);
            }
        }
        for output in self.outputs.iter_mut().filter(|o| **o == from) {
            *output = to;
        }
    }

    /// A node as messages name it: its name, or its first output where it has none, and its operator.
    pub fn label(&self, node: &Node) -> String {
        let output = || node.outputs.iter().flatten().next().map(|v| self.name_of(*v)).unwrap_or_default();
        let name = if node.name.is_empty() { output() } else { &node.name };
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}.", node.domain) };
        format!("'{name}' ({domain}{})", node.op)
    }

    /// The name of the model-local function in which a node stands in the user's file.
    pub fn function_of(&self, id: NodeId) -> Option<&str> {
        self.inlined.get(&id).map(String::as_str)
    }

    /// Whether a constant is held by a model-local function: no tensor of the user's file that could be replaced.
    pub fn is_of_function(&self, id: ValueId) -> bool {
        self.of_functions.contains(&id)
    }

    /// Whether a node stands in a function and can stand nowhere else in the user's file, since its functions are of another
    /// opset than the model.
    pub fn is_foreign(&self, id: NodeId) -> bool {
        self.foreign.contains(&id)
    }

    /// Whether a constant came with an expression that was put in the place of an operator: no tensor of the user's file, and no
    /// parameter of the model.
    pub fn is_made(&self, id: ValueId) -> bool {
        self.made.contains(&id)
    }

    /// Remember that a constant came with such an expression.
    pub fn mark_made(&mut self, id: ValueId) {
        self.made.insert(id);
    }

    /// Where a constant lies in the user's file that a sub-graph holds there ([`Graph::hoist`]).
    pub fn place_of(&self, id: ValueId) -> Option<&Place> {
        self.places.get(&id)
    }

    pub(crate) fn remember_place(&mut self, id: ValueId, place: Place) {
        self.places.insert(id, place);
    }

    pub(crate) fn mark_inlined(&mut self, id: NodeId, function: &str, foreign: bool) {
        self.inlined.insert(id, function.to_owned());
        if foreign {
            self.foreign.insert(id);
        }
    }

    pub(crate) fn mark_of_function(&mut self, id: ValueId) {
        self.of_functions.insert(id);
    }

    /// The values a node reads: its inputs and what its sub-graphs capture from this graph.
    pub fn reads(&self, node: &Node) -> Vec<ValueId> {
        let mut reads: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        for sub in node.attributes.graphs() {
            let mut free = Vec::new();
            free_names(sub, &mut free);
            reads.extend(free.iter().filter_map(|name| self.find(name)));
        }
        reads
    }

    /// For every value, the nodes that read it with the position of the input (captures of sub-graphs count as
    /// `usize::MAX`). Indexed by [`ValueId::index`].
    pub fn uses(&self) -> Vec<Vec<(NodeId, usize)>> {
        let mut uses = vec![Vec::new(); self.values.len()];
        for (id, node) in self.nodes() {
            for (i, input) in node.inputs.iter().enumerate() {
                if let Some(v) = input {
                    uses[v.index()].push((id, i));
                }
            }
            if node.attributes.graphs().next().is_some() {
                for v in self.reads(node).into_iter().skip(node.inputs.iter().flatten().count()) {
                    uses[v.index()].push((id, usize::MAX));
                }
            }
        }
        uses
    }

    /// The nodes in an order in which every value is computed before it is read; of several, the one closest to the
    /// order of ids. A cycle is an error that names a node on it.
    pub fn topological_order(&self) -> Result<Vec<NodeId>> {
        let mut missing = vec![0usize; self.nodes.len()];
        let mut readers: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        for (id, node) in self.nodes() {
            let producers: HashSet<NodeId> =
                self.reads(node).into_iter().filter_map(|v| self.value(v).producer).collect();
            missing[id.index()] = producers.len();
            for producer in producers {
                readers.entry(producer).or_default().push(id);
            }
        }
        let mut ready: std::collections::BTreeSet<NodeId> =
            self.nodes().map(|(id, _)| id).filter(|id| missing[id.index()] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(id) = ready.pop_first() {
            order.push(id);
            for reader in readers.remove(&id).unwrap_or_default() {
                missing[reader.index()] -= 1;
                if missing[reader.index()] == 0 {
                    ready.insert(reader);
                }
            }
        }
        match self.nodes().find(|(id, _)| missing[id.index()] > 0) {
            Some((_, node)) => Err(Error::Graph {
                graph: self.name.clone(),
                reason: format!("node '{}' ({}) depends on its own output", node.name, node.op),
            }),
            None => Ok(order),
        }
    }

    /// Remove every node from which no output of the graph can be reached.
    pub fn prune(&mut self) {
        let mut live = vec![false; self.nodes.len()];
        let mut stack: Vec<ValueId> = self.outputs.clone();
        while let Some(value) = stack.pop() {
            if let Some(producer) = self.value(value).producer
                && !std::mem::replace(&mut live[producer.index()], true)
            {
                stack.extend(self.reads(self.node(producer)));
            }
        }
        for id in self.node_ids() {
            if !live[id.index()] {
                self.remove(id);
            }
        }
    }

    // ---- export -------------------------------------------------------------------------------------------------

    /// The graph as a model of IR version 10, for a runtime. Constants that nothing reads are left out; values carry the
    /// types recorded for inputs and outputs, none in between (the runtime infers them).
    pub fn to_model(&self) -> Result<ModelProto> {
        Ok(ModelProto {
            ir_version: Some(10),
            producer_name: Some("onnx-dendrite".to_owned()),
            opset_import: self
                .opsets
                .iter()
                .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain.clone()), version: Some(*version) })
                .collect(),
            graph: Some(self.to_proto()?),
            functions: self.functions.clone(),
            ..Default::default()
        })
    }

    /// The graph as the body of a node. Every type that is known is written down, for whoever reads the body again.
    pub fn to_body(&self) -> Result<GraphProto> {
        let mut proto = self.to_proto()?;
        let known = |v: &Value| v.producer.is_some() && v.element_type.is_some();
        proto.value_info = self.values().filter(|(_, v)| known(v)).map(|(id, _)| self.info(id)).collect();
        Ok(proto)
    }

    fn to_proto(&self) -> Result<GraphProto> {
        let order = self.topological_order()?;
        let mut used: HashSet<ValueId> = self.outputs.iter().copied().collect();
        for (_, node) in self.nodes() {
            used.extend(self.reads(node));
        }
        Ok(GraphProto {
            name: Some(if self.name.is_empty() { "graph".to_owned() } else { self.name.clone() }),
            node: order.into_iter().map(|id| self.node_proto(id)).collect(),
            initializer: self
                .values()
                .filter(|(id, _)| used.contains(id))
                .filter_map(|(_, v)| Some(v.constant.as_ref()?.to_proto(&v.name)))
                .collect(),
            input: self.inputs.iter().map(|v| self.info(*v)).collect(),
            output: self.outputs.iter().map(|v| self.info(*v)).collect(),
            ..Default::default()
        })
    }

    /// A node as a file has it.
    pub(crate) fn node_proto(&self, id: NodeId) -> NodeProto {
        let node = self.node(id);
        let names = |ids: &[Option<ValueId>]| -> Vec<String> {
            ids.iter().map(|v| v.map(|v| self.name_of(v).to_owned()).unwrap_or_default()).collect()
        };
        NodeProto {
            name: Some(node.name.clone()),
            domain: (!node.domain.is_empty()).then(|| node.domain.clone()),
            op_type: Some(node.op.clone()),
            input: names(&node.inputs),
            output: names(&node.outputs),
            attribute: node.attributes.as_slice().to_vec(),
            ..Default::default()
        }
    }

    /// A constant as a `Constant` node.
    pub(crate) fn constant_proto(&self, id: ValueId) -> Option<NodeProto> {
        let name = self.name_of(id).to_owned();
        Some(NodeProto {
            name: Some(name.clone()),
            op_type: Some("Constant".to_owned()),
            output: vec![name],
            attribute: Attributes::new().with("value", self.constant(id)?.clone()).as_slice().to_vec(),
            ..Default::default()
        })
    }

    fn info(&self, id: ValueId) -> ValueInfoProto {
        let value = self.value(id);
        let r#type = value.other_type.clone().or_else(|| Some(tensor_type(value.element_type?, value.shape.as_ref())));
        ValueInfoProto { name: Some(value.name.clone()), r#type, ..Default::default() }
    }
}

/// The message of a tensor type. A dimension of which nothing is known is written without a value.
pub fn tensor_type(element_type: ElementType, shape: Option<&Shape>) -> TypeProto {
    let dimension = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Known(n) => Some(dimension::Value::DimValue(*n as i64)),
            Dim::Symbol(s) => Some(dimension::Value::DimParam(s.clone())),
            Dim::Unknown => None,
        },
        ..Default::default()
    };
    TypeProto {
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(element_type as i32),
            shape: shape.map(|s| TensorShapeProto { dim: s.0.iter().map(dimension).collect() }),
        })),
        ..Default::default()
    }
}

/// A shape message. Negative and empty dimensions read as unknown.
pub fn read_shape(proto: &TensorShapeProto) -> Shape {
    Shape(
        proto
            .dim
            .iter()
            .map(|d| match &d.value {
                Some(dimension::Value::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
                Some(dimension::Value::DimParam(s)) if !s.is_empty() => Dim::Symbol(s.clone()),
                _ => Dim::Unknown,
            })
            .collect(),
    )
}

/// The standard domain has two spellings.
fn standard_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// What a `Constant` node holds; `None` for a sparse tensor.
pub fn constant_node_tensor(node: &NodeProto, model: &Model) -> Result<Option<Tensor>> {
    constant_tensor(node, &|tensor| model.tensor(tensor))
}

/// What a `Constant` node holds, its tensor read by `resolve`; `None` for a sparse tensor.
pub(crate) fn constant_tensor(
    node: &NodeProto,
    resolve: &dyn Fn(&TensorProto) -> Result<Tensor>,
) -> Result<Option<Tensor>> {
    let Some(attribute) = node.attribute.first() else { return Ok(None) };
    Ok(match attribute.name() {
        "value" => attribute.t.as_ref().map(resolve).transpose()?,
        "value_float" => Some(Tensor::from_f32(&[], &[attribute.f()])),
        "value_floats" => Some(Tensor::from_f32(&[attribute.floats.len()], &attribute.floats)),
        "value_int" => Some(Tensor::from_i64(&[], &[attribute.i()])),
        "value_ints" => Some(Tensor::int64s(&attribute.ints)),
        _ => None,
    })
}

/// The names a sub-graph reads but does not define, in order of appearance.
fn free_names(graph: &GraphProto, free: &mut Vec<String>) {
    let mut defined: HashSet<&str> = graph.input.iter().map(|i| i.name()).collect();
    defined.extend(graph.initializer.iter().map(|t| t.name()));
    for node in &graph.node {
        let mut inner = Vec::new();
        for sub in node.attribute.iter().flat_map(|a| a.g.iter().chain(a.graphs.iter())) {
            free_names(sub, &mut inner);
        }
        for name in node.input.iter().filter(|n| !n.is_empty()).chain(&inner) {
            if !defined.contains(name.as_str()) && !free.contains(name) {
                free.push(name.clone());
            }
        }
        defined.extend(node.output.iter().map(String::as_str));
    }
    for output in &graph.output {
        let name = output.name();
        if !defined.contains(name) && !free.iter().any(|f| f == name) {
            free.push(name.to_owned());
        }
    }
}
