//! The graph under construction: constants, nodes, joins.

use std::cell::{Ref, RefCell, RefMut};

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, NodeId, Shape, Tensor, ValueId};

use super::{Builder, Size, V, arithmetic::folded};

impl Builder {
    /// Take the graph for the time of building. New values are named after `name`.
    pub fn new(graph: Graph, name: &str) -> Self {
        Builder {
            graph: RefCell::new(graph),
            name: RefCell::new(name.to_owned()),
            constants: RefCell::default(),
            nodes: RefCell::default(),
        }
    }

    /// Give the graph back.
    pub fn finish(self) -> Graph {
        self.graph.into_inner()
    }

    /// Remove those nodes added since there were `old` node ids whose results nobody reads and `keep` does not hold.
    pub(crate) fn remove_unread(&self, old: usize, keep: &[ValueId]) {
        let mut graph = self.graph_mut();
        let mut readers = vec![0usize; graph.value_count()];
        keep.iter().chain(&graph.outputs).for_each(|v| readers[v.index()] += 1);
        for (_, node) in graph.nodes() {
            graph.reads(node).iter().for_each(|v| readers[v.index()] += 1);
        }
        let new: Vec<NodeId> = graph.node_ids().into_iter().filter(|id| id.index() >= old).collect();
        // A new node only reads older ones, so one pass from the end finds whole chains.
        for id in new.into_iter().rev() {
            if graph.node(id).outputs.iter().flatten().all(|v| readers[v.index()] == 0) {
                for v in graph.remove(id).into_iter().flat_map(|n| n.inputs).flatten() {
                    readers[v.index()] -= 1;
                }
            }
        }
    }

    /// Run `build` on a graph, whatever comes of it.
    pub fn scope<R>(graph: &mut Graph, name: &str, build: impl FnOnce(&Builder) -> R) -> R {
        let builder = Builder::new(std::mem::take(graph), name);
        let result = build(&builder);
        *graph = builder.finish();
        result
    }

    /// Name values after this from here on.
    pub fn rename(&self, name: &str) {
        *self.name.borrow_mut() = name.to_owned();
    }

    /// The graph. The borrow must end before the next expression is built.
    pub fn graph(&self) -> Ref<'_, Graph> {
        self.graph.borrow()
    }

    pub(crate) fn graph_mut(&self) -> RefMut<'_, Graph> {
        self.graph.borrow_mut()
    }

    /// An existing value as an expression.
    pub fn value(&self, id: ValueId) -> V<'_> {
        V { b: self, id }
    }

    /// A constant; equal small ones are shared.
    pub fn constant(&self, tensor: Tensor) -> V<'_> {
        // Named after the scope: in a body, a name of the graph around it would hide what that stands for.
        let name = format!("{}/constant", self.name.borrow());
        if tensor.len() > 64 {
            return self.value(self.graph_mut().add_constant(&name, tensor));
        }
        let key = (tensor.element_type(), tensor.shape().to_vec(), tensor.bytes().to_vec());
        let known = self.constants.borrow().get(&key).copied();
        let id = known.unwrap_or_else(|| self.graph_mut().add_constant(&name, tensor));
        self.constants.borrow_mut().insert(key, id);
        self.value(id)
    }

    /// A rank-0 constant.
    pub fn scalar(&self, element_type: ElementType, value: f64) -> V<'_> {
        self.constant(Tensor::scalar(element_type, value))
    }

    /// A constant of floats.
    pub fn floats(&self, element_type: ElementType, shape: &[usize], values: &[f64]) -> V<'_> {
        match folded(element_type, shape, values) {
            Some(tensor) => self.constant(tensor),
            None => self.constant(Tensor::from_f64(shape, values)).cast(element_type),
        }
    }

    /// A one-dimensional int64 constant: axes, pads, a shape.
    pub fn ints(&self, values: &[i64]) -> V<'_> {
        self.constant(Tensor::int64s(values))
    }

    /// A node with one output of the given type.
    pub fn node<'b>(
        &'b self,
        op: &str,
        inputs: &[V<'b>],
        attributes: Attributes,
        element_type: ElementType,
        shape: Option<Shape>,
    ) -> V<'b> {
        let inputs: Vec<_> = inputs.iter().map(|v| Some(v.id)).collect();
        self.node_with_gaps(op, &inputs, attributes, element_type, shape)
    }

    /// A node with one output, some of whose optional inputs are left out.
    pub fn node_with_gaps(
        &self,
        op: &str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
        element_type: ElementType,
        shape: Option<Shape>,
    ) -> V<'_> {
        let key = format!("{op} {inputs:?} {:?}", attributes.as_slice());
        if let Some(same) = self.nodes.borrow().get(&key) {
            return self.value(*same);
        }
        let name = format!("{}/{op}", self.name.borrow());
        let mut graph = self.graph_mut();
        let id = graph.add_node(op, &name, inputs, attributes, 1)[0];
        graph.set_type(id, Some(element_type), shape);
        drop(graph);
        self.nodes.borrow_mut().insert(key, id);
        self.value(id)
    }

    /// The outputs of a node that has several, of which nothing is known yet.
    pub(crate) fn several(
        &self,
        op: &str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
        outputs: usize,
    ) -> Vec<V<'_>> {
        let name = format!("{}/{op}", self.name.borrow());
        let values = self.graph_mut().add_node(op, &name, inputs, attributes, outputs);
        values.into_iter().map(|id| self.value(id)).collect()
    }

    /// A new float32 input of the graph.
    pub fn input(&self, name: &str, shape: &Shape) -> V<'_> {
        let id = self.graph_mut().add_input(name, ElementType::Float, shape.clone());
        self.value(id)
    }

    /// The parts of these sizes along the first axis.
    pub fn split<'b>(&'b self, v: V<'b>, sizes: &[usize]) -> Vec<V<'b>> {
        let lengths: Vec<i64> = sizes.iter().map(|n| *n as i64).collect();
        let inputs = [Some(v.id), Some(self.ints(&lengths).id)];
        let (element_type, shape) = (v.element_type(), v.shape());
        let name = format!("{}/Split", self.name.borrow());
        let pieces = self.graph_mut().add_node("Split", &name, &inputs, Attributes::new(), sizes.len());
        let part = |size: &usize| {
            shape.clone().map(|mut s| {
                if let Some(first) = s.0.first_mut() {
                    *first = Dim::Known(*size);
                }
                s
            })
        };
        pieces.into_iter().zip(sizes).map(|(id, n)| self.value(id).typed(element_type, part(n))).collect()
    }

    /// Output `index` of a node, which is made to have it.
    pub fn output(&self, node: NodeId, index: usize, element_type: ElementType, shape: Option<Shape>) -> V<'_> {
        let mut graph = self.graph_mut();
        let id = match graph.node(node).output(index) {
            Some(id) => id,
            None => {
                let name = format!("{}/output_{index}", self.name.borrow());
                let id = graph.add_value(&name);
                let outputs = &mut graph.node_mut(node).outputs;
                if outputs.len() <= index {
                    outputs.resize(index + 1, None);
                }
                graph.set_output(node, index, id);
                id
            }
        };
        if graph.value(id).shape.is_none() {
            graph.set_type(id, Some(element_type), shape);
        }
        drop(graph);
        self.value(id)
    }

    /// A one-dimensional int64 value of the given sizes; constant as far as they are known.
    pub fn sizes<'b>(&'b self, sizes: &[Size<'b>]) -> V<'b> {
        let mut parts: Vec<V<'b>> = Vec::new();
        let mut known: Vec<i64> = Vec::new();
        for size in sizes {
            match size.resolved() {
                Size::Is(n) => known.push(n as i64),
                Size::Rest => known.push(-1),
                Size::Of(v, axis) => {
                    if !known.is_empty() {
                        parts.push(self.ints(&std::mem::take(&mut known)));
                    }
                    parts.push(v.dim(axis));
                }
            }
        }
        if !known.is_empty() || parts.is_empty() {
            parts.push(self.ints(&known));
        }
        if parts.len() == 1 { parts[0] } else { self.concat(&parts, 0) }
    }

    /// 0, 1, 2, ... up to the size of a value along an axis counted from the front: int64.
    pub fn range<'b>(&'b self, v: V<'b>, axis: usize) -> V<'b> {
        let int = |n: f64| self.scalar(ElementType::Int64, n);
        let dims = Shape(vec![v.shape().and_then(|s| s.0.get(axis).cloned()).unwrap_or(Dim::Unknown)]);
        let inputs = [int(0.0), v.dim(axis).squeeze(&[0]), int(1.0)];
        self.node("Range", &inputs, Attributes::new(), ElementType::Int64, Some(dims))
    }

    /// The values joined along an axis counted from the front.
    pub fn concat<'b>(&'b self, parts: &[V<'b>], axis: usize) -> V<'b> {
        let shape = parts.iter().map(|p| p.shape()).collect::<Option<Vec<_>>>().and_then(|shapes| {
            let mut shape = shapes.first()?.clone();
            let total = shapes.iter().map(|s| s.0.get(axis)?.known()).sum::<Option<usize>>();
            *shape.0.get_mut(axis)? = total.map_or(Dim::Unknown, Dim::Known);
            Some(shape)
        });
        let element_type = parts.first().map_or(ElementType::Float, |p| p.element_type());
        self.node("Concat", parts, Attributes::new().with("axis", axis as i64), element_type, shape)
    }

    /// The sum of at least one value of one shape.
    pub fn sum<'b>(&'b self, parts: &[V<'b>]) -> Option<V<'b>> {
        Some(match parts {
            [] => return None,
            [one] => *one,
            [a, b] => *a + *b,
            [first, ..] => self.node("Sum", parts, Attributes::new(), first.element_type(), first.shape()),
        })
    }

    /// A tensor of the given sizes filled with `value`.
    pub fn filled<'b>(&'b self, element_type: ElementType, sizes: &[Size<'b>], value: f64) -> V<'b> {
        let shape = Shape(sizes.iter().map(Size::describe).collect());
        match shape.as_known() {
            Some(dims) if dims.iter().product::<usize>() <= 64 => {
                self.constant(Tensor::filled(element_type, &dims, value))
            }
            _ => {
                let attributes = Attributes::new().with("value", Tensor::filled(element_type, &[1], value));
                self.node("ConstantOfShape", &[self.sizes(sizes)], attributes, element_type, Some(shape))
            }
        }
    }
}
