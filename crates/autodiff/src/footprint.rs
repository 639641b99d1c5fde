//! How much memory a graph's computed values take at once, from their shapes.
//!
//! The order of nodes and the sharing of buffers are those of ONNX Runtime's sequential executor as far as they show: it visits
//! the graph depth first from its last results, lets views share the buffer of what they view, and lets an elementwise operator
//! write where its operand lay if nobody reads that any more. What a runtime fuses, rearranges or needs as scratch space is not
//! seen.

use dendrite_onnx::{Graph, Node, NodeId, Shape, ValueId};

use crate::error::Result;

/// The most bytes of computed values that are alive at the same time. Inputs, constants and the graph's outputs are not among
/// them: they have places of their own. Values of unknown shape count nothing.
pub fn peak(graph: &Graph) -> Result<usize> {
    let order = execution_order(graph)?;
    let mut pool = Pool::new(graph);
    for id in &order {
        for v in graph.reads(graph.node(*id)) {
            pool.readers[v.index()] += 1;
        }
    }
    graph.outputs.iter().for_each(|v| pool.place(*v));
    order.iter().for_each(|id| pool.run(graph.node(*id)));
    Ok(pool.peak)
}

/// Bytes of a value, if its type and shape are known.
pub fn bytes_of(graph: &Graph, value: ValueId) -> Option<usize> {
    let value = graph.value(value);
    let elements = value.shape.as_ref().and_then(Shape::as_known)?;
    value.element_type?.byte_len(elements.iter().product())
}

/// The buffers of values. Several values may share one.
struct Pool<'g> {
    graph: &'g Graph,
    /// Reads of each value that are still to come.
    readers: Vec<usize>,
    /// The value whose buffer each value lies in.
    owner: Vec<ValueId>,
    /// Bytes of the buffers that values own, and how many values lie in each.
    size: Vec<usize>,
    tenants: Vec<usize>,
    live: usize,
    peak: usize,
}

impl<'g> Pool<'g> {
    fn new(graph: &'g Graph) -> Self {
        let count = graph.value_count();
        Pool {
            graph,
            readers: vec![0; count],
            owner: graph.values().map(|(id, _)| id).collect(),
            size: vec![0; count],
            tenants: vec![0; count],
            live: 0,
            peak: 0,
        }
    }

    /// Give a value a place of its own that is none of the pool's.
    fn place(&mut self, value: ValueId) {
        self.tenants[value.index()] = usize::MAX / 2;
    }

    fn run(&mut self, node: &Node) {
        let shared = self.shared(node);
        for (index, output) in node.outputs.iter().enumerate() {
            let Some(output) = *output else { continue };
            if self.tenants[output.index()] > 0 {
                continue;
            }
            match shared.filter(|_| index == 0) {
                Some(owner) => {
                    self.owner[output.index()] = owner;
                    self.tenants[owner.index()] += 1;
                }
                None => {
                    let bytes = bytes_of(self.graph, output).unwrap_or(0);
                    self.size[output.index()] = bytes;
                    self.tenants[output.index()] = 1;
                    self.live += bytes;
                }
            }
        }
        self.peak = self.peak.max(self.live);
        for input in self.graph.reads(node) {
            self.readers[input.index()] = self.readers[input.index()].saturating_sub(1);
            if self.readers[input.index()] == 0 {
                self.leave(input);
            }
        }
        for output in node.outputs.iter().flatten().filter(|v| self.readers[v.index()] == 0).collect::<Vec<_>>() {
            self.leave(*output);
        }
    }

    /// A value is read no more.
    fn leave(&mut self, value: ValueId) {
        let owner = self.owner[value.index()].index();
        if self.tenants[owner] == 0 {
            return;
        }
        self.tenants[owner] -= 1;
        if self.tenants[owner] == 0 {
            self.live -= self.size[owner];
        }
    }

    /// The buffer in which the first output of a node may lie.
    fn shared(&self, node: &Node) -> Option<ValueId> {
        let first = node.input(0)?;
        if is_view(node) {
            return Some(self.owner[first.index()]);
        }
        if !is_elementwise(node) {
            return None;
        }
        let needed = bytes_of(self.graph, node.output(0)?)?;
        let fits = |v: &ValueId| {
            let owner = self.owner[v.index()];
            self.readers[v.index()] == 1
                && self.tenants[owner.index()] == 1
                && self.size[owner.index()] == needed
                && needed > 0
        };
        node.inputs.iter().flatten().find(|v| fits(v)).map(|v| self.owner[v.index()])
    }
}

/// Whether a node's output is its first input under another shape.
fn is_view(node: &Node) -> bool {
    node.domain.is_empty() && matches!(node.op.as_str(), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity")
}

/// Whether a node may write its output over an input.
fn is_elementwise(node: &Node) -> bool {
    const OPERATORS: [&str; 29] = [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Sum",
        "Min",
        "Max",
        "Neg",
        "Abs",
        "Sqrt",
        "Exp",
        "Log",
        "Tanh",
        "Sigmoid",
        "Relu",
        "Clip",
        "Erf",
        "Softplus",
        "Reciprocal",
        "LeakyRelu",
        "Elu",
        "Selu",
        "HardSigmoid",
        "HardSwish",
        "Not",
        "Softmax",
        "LogSoftmax",
        "Floor",
        "Ceil",
    ];
    node.domain.is_empty() && OPERATORS.contains(&node.op.as_str())
}

/// The order in which ONNX Runtime visits the nodes: depth first from the last node that nobody reads, of several inputs the one
/// computed by the latest node first.
fn execution_order(graph: &Graph) -> Result<Vec<NodeId>> {
    let order = graph.topological_order()?;
    let mut place = vec![0usize; order.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
    order.iter().enumerate().for_each(|(i, id)| place[id.index()] = i);
    let mut read = vec![false; graph.value_count()];
    order.iter().for_each(|id| graph.reads(graph.node(*id)).iter().for_each(|v| read[v.index()] = true));
    let is_leaf = |id: &NodeId| graph.node(*id).outputs.iter().flatten().all(|v| !read[v.index()]);
    let mut stack: Vec<(NodeId, bool)> = order.iter().filter(|id| is_leaf(id)).map(|id| (*id, false)).collect();
    let mut seen = vec![false; place.len()];
    let mut visited = Vec::with_capacity(order.len());
    while let Some((id, leave)) = stack.pop() {
        if leave {
            visited.push(id);
            continue;
        }
        if std::mem::replace(&mut seen[id.index()], true) {
            continue;
        }
        stack.push((id, true));
        let mut producers: Vec<NodeId> =
            graph.reads(graph.node(id)).into_iter().filter_map(|v| graph.value(v).producer()).collect();
        producers.sort_unstable_by_key(|p| place[p.index()]);
        stack.extend(producers.into_iter().filter(|p| !seen[p.index()]).map(|p| (p, false)));
    }
    Ok(visited)
}
