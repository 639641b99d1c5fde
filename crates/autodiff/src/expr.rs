//! Expressions over a graph: values with arithmetic, so that a rule reads like its formula.
//!
//! [`Builder`] holds the graph while expressions are built; [`V`] is a value of it that can be copied, added and
//! multiplied. Element types and shapes are recorded as far as they follow from those of the operands. Arithmetic on
//! constants is done here, and `x * 1` is `x`, so rules need not care.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::HashMap;

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, NodeId, Shape, Tensor, ValueId};

/// Constants of more elements than this are left to the runtime's own folding.
const FOLD_LIMIT: usize = 1 << 16;

/// A graph under construction.
pub struct Builder {
    graph: RefCell<Graph>,
    name: RefCell<String>,
    constants: RefCell<HashMap<(ElementType, Vec<usize>, Vec<u8>), ValueId>>,
    shapes: RefCell<HashMap<(ValueId, Option<usize>), ValueId>>,
}

/// A value of the graph that a [`Builder`] holds.
#[derive(Clone, Copy)]
pub struct V<'b> {
    b: &'b Builder,
    id: ValueId,
}

/// One dimension of a shape to be built: a number, or that of a value's axis.
#[derive(Clone, Copy)]
pub enum Size<'b> {
    /// The number.
    Is(usize),
    /// The size of the value along the axis (from the front).
    Of(V<'b>, usize),
    /// Whatever is left; at most once, and only where a reshape is meant.
    Rest,
}

impl Builder {
    /// Take the graph for the time of building. New values are named after `name`.
    pub fn new(graph: Graph, name: &str) -> Self {
        Builder {
            graph: RefCell::new(graph),
            name: RefCell::new(name.to_owned()),
            constants: RefCell::default(),
            shapes: RefCell::default(),
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

    fn graph_mut(&self) -> RefMut<'_, Graph> {
        self.graph.borrow_mut()
    }

    /// An existing value as an expression.
    pub fn value(&self, id: ValueId) -> V<'_> {
        V { b: self, id }
    }

    /// A constant; equal small ones are shared.
    pub fn constant(&self, tensor: Tensor) -> V<'_> {
        if tensor.len() > 64 {
            let name = format!("{}/constant", self.name.borrow());
            return self.value(self.graph_mut().add_constant(&name, tensor));
        }
        let key = (tensor.element_type(), tensor.shape().to_vec(), tensor.bytes().to_vec());
        let known = self.constants.borrow().get(&key).copied();
        let id = known.unwrap_or_else(|| self.graph_mut().add_constant("gradient/constant", tensor));
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
        let name = format!("{}/{op}", self.name.borrow());
        let mut graph = self.graph_mut();
        let id = graph.add_node(op, &name, inputs, attributes, 1)[0];
        graph.set_type(id, Some(element_type), shape);
        drop(graph);
        self.value(id)
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

impl<'b> Size<'b> {
    /// The sizes of a value of known rank.
    pub fn all(v: V<'b>) -> Option<Vec<Size<'b>>> {
        Some((0..v.rank()?).map(|axis| Size::Of(v, axis)).collect())
    }

    fn resolved(self) -> Size<'b> {
        match self {
            Size::Of(v, axis) => match v.shape().as_ref().and_then(|s| s.0.get(axis)?.known()) {
                Some(n) => Size::Is(n),
                None => self,
            },
            is => is,
        }
    }

    fn describe(&self) -> Dim {
        match *self {
            Size::Is(n) => Dim::Known(n),
            Size::Rest => Dim::Unknown,
            Size::Of(v, axis) => v.shape().and_then(|s| s.0.get(axis).cloned()).unwrap_or(Dim::Unknown),
        }
    }
}

/// Whether two dimensions are certainly equal.
pub fn same(a: &Dim, b: &Dim) -> bool {
    a == b && *a != Dim::Unknown
}

/// The shape of an elementwise operation on operands of two shapes.
pub fn broadcast(a: &Shape, b: &Shape) -> Shape {
    let rank = a.rank().max(b.rank());
    let one = Dim::Known(1);
    let dim = |s: &Shape, axis: usize| match (axis + s.rank()).checked_sub(rank) {
        Some(i) => s.0.get(i).cloned().unwrap_or(one.clone()),
        None => one.clone(),
    };
    let both = (0..rank).map(|axis| match (dim(a, axis), dim(b, axis)) {
        (x, y) if x == y => x,
        (Dim::Known(1), d) | (d, Dim::Known(1)) => d,
        (Dim::Known(n), _) | (_, Dim::Known(n)) => Dim::Known(n),
        _ => Dim::Unknown,
    });
    Shape(both.collect())
}

impl<'b> V<'b> {
    /// The value's id in the graph.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// The same value, of which more is known.
    pub fn typed(self, element_type: ElementType, shape: Option<Shape>) -> V<'b> {
        self.b.graph_mut().set_type(self.id, Some(element_type), shape);
        self
    }

    /// The builder.
    pub fn builder(self) -> &'b Builder {
        self.b
    }

    /// The element type; float32 where none was recorded.
    pub fn element_type(self) -> ElementType {
        self.b.graph().value(self.id).element_type.unwrap_or(ElementType::Float)
    }

    /// The shape, if its rank is known.
    pub fn shape(self) -> Option<Shape> {
        self.b.graph().value(self.id).shape.clone()
    }

    /// The rank, if known.
    pub fn rank(self) -> Option<usize> {
        self.b.graph().rank(self.id)
    }

    /// The contents, if constant.
    pub fn tensor(self) -> Option<Tensor> {
        self.b.graph().constant(self.id).cloned()
    }

    /// The contents of an integer constant.
    pub fn as_ints(self) -> Option<Vec<i64>> {
        self.tensor()?.to_i64()
    }

    /// The number a constant of rank 0, or of one element in all, holds.
    pub fn as_scalar(self) -> Option<f64> {
        let tensor = self.tensor()?;
        if tensor.len() == 1 { tensor.to_f64()?.first().copied() } else { None }
    }

    /// The size along an axis counted from the front, if known.
    pub fn known_dim(self, axis: usize) -> Option<usize> {
        self.shape()?.0.get(axis)?.known()
    }

    /// The shape as a one-dimensional int64 value.
    pub fn shape_of(self) -> V<'b> {
        match Size::all(self) {
            Some(sizes) if sizes.iter().all(|s| matches!(s.resolved(), Size::Is(_))) => self.b.sizes(&sizes),
            _ => self.cached_shape(None),
        }
    }

    /// The size along an axis counted from the front, as an int64 value of shape [1].
    pub fn dim(self, axis: usize) -> V<'b> {
        match self.known_dim(axis) {
            Some(n) => self.b.ints(&[n as i64]),
            None => self.cached_shape(Some(axis)),
        }
    }

    fn cached_shape(self, axis: Option<usize>) -> V<'b> {
        if let Some(id) = self.b.shapes.borrow().get(&(self.id, axis)) {
            return self.b.value(*id);
        }
        let (attributes, dim) = match axis {
            Some(a) => (Attributes::new().with("start", a as i64).with("end", a as i64 + 1), Dim::Known(1)),
            None => (Attributes::new(), self.rank().map_or(Dim::Unknown, Dim::Known)),
        };
        let v = self.b.node("Shape", &[self], attributes, ElementType::Int64, Some(Shape(vec![dim])));
        self.b.shapes.borrow_mut().insert((self.id, axis), v.id);
        v
    }

    // ---- elementwise --------------------------------------------------------------------------------------------

    /// An operator on one operand that keeps type and shape.
    pub fn unary(self, op: &str) -> V<'b> {
        if let Some(folded) = self.fold_unary(op) {
            return folded;
        }
        self.b.node(op, &[self], Attributes::new(), self.element_type(), self.shape())
    }

    fn fold_unary(self, op: &str) -> Option<V<'b>> {
        let f: fn(f64) -> f64 = match op {
            "Neg" => |x| -x,
            "Sqrt" => f64::sqrt,
            "Exp" => f64::exp,
            "Log" => f64::ln,
            "Reciprocal" => f64::recip,
            _ => return None,
        };
        let tensor = self.tensor().filter(|t| t.len() <= FOLD_LIMIT)?;
        let values: Vec<f64> = tensor.to_f64()?.into_iter().map(f).collect();
        Some(self.b.constant(folded(tensor.element_type(), tensor.shape(), &values)?))
    }

    /// An arithmetic operator on two operands, broadcasting.
    pub fn binary(self, op: &str, other: V<'b>) -> V<'b> {
        if let Some(simple) = self.simplified(op, other) {
            return simple;
        }
        self.b.node(op, &[self, other], Attributes::new(), self.element_type(), self.broadcast_shape(other))
    }

    fn broadcast_shape(self, other: V<'b>) -> Option<Shape> {
        Some(broadcast(&self.shape()?, &other.shape()?))
    }

    /// `x * 1`, `x / 1`, `x + 0`, `x - 0` without a node, and arithmetic on constants.
    fn simplified(self, op: &str, other: V<'b>) -> Option<V<'b>> {
        let (neutral, commutes) = match op {
            "Mul" => (1.0, true),
            "Div" => (1.0, false),
            "Add" => (0.0, true),
            "Sub" => (0.0, false),
            _ => return None,
        };
        // A constant of higher rank would raise the rank of the result.
        let no_higher = |c: V<'b>, x: V<'b>| c.rank() == Some(0) || x.rank().is_some_and(|r| c.rank() <= Some(r));
        let is_neutral = |c: V<'b>, x: V<'b>| c.as_scalar() == Some(neutral) && no_higher(c, x);
        if is_neutral(other, self) {
            return Some(self);
        }
        if commutes && is_neutral(self, other) {
            return Some(other);
        }
        for (wide, other_side) in [(self, other), (other, self)] {
            if let Some(narrow) = wide.before_expand(other_side) {
                let (a, b) = if wide.id == self.id { (narrow, other) } else { (self, narrow) };
                return Some(b.b.node(op, &[a, b], Attributes::new(), self.element_type(), other_side.shape()));
            }
        }
        let (a, b) = (self.tensor()?, other.tensor()?);
        if !a.element_type().is_float() || a.len().max(b.len()) > FOLD_LIMIT {
            return None;
        }
        let f: fn(f64, f64) -> f64 = match op {
            "Mul" => |x, y| x * y,
            "Div" => |x, y| x / y,
            "Add" => |x, y| x + y,
            _ => |x, y| x - y,
        };
        let (x, y) = (a.to_f64()?, b.to_f64()?);
        let (shape, values): (_, Vec<f64>) = if a.shape() == b.shape() {
            (a.shape(), x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect())
        } else if b.shape().is_empty() {
            (a.shape(), x.iter().map(|x| f(*x, y[0])).collect())
        } else if a.shape().is_empty() {
            (b.shape(), y.iter().map(|y| f(x[0], *y)).collect())
        } else {
            return None;
        };
        Some(self.b.constant(folded(a.element_type(), shape, &values)?))
    }

    /// What was expanded to this value, if it broadcasts against `other` to the same shape by itself.
    fn before_expand(self, other: V<'b>) -> Option<V<'b>> {
        let (mine, theirs) = (self.shape()?, other.shape()?);
        let graph = self.b.graph();
        let node = graph.node(graph.value(self.id).producer()?);
        let equal = mine.rank() == theirs.rank() && mine.0.iter().zip(&theirs.0).all(|(a, b)| same(a, b));
        (node.is("Expand") && equal).then_some(self.b.value(node.input(0)?))
    }

    /// A constant of this value's element type.
    pub fn scalar(self, value: f64) -> V<'b> {
        self.b.scalar(self.element_type(), value)
    }

    /// A comparison, broadcasting.
    pub fn compare(self, op: &str, other: V<'b>) -> V<'b> {
        self.b.node(op, &[self, other], Attributes::new(), ElementType::Bool, self.broadcast_shape(other))
    }

    /// A comparison with a number.
    pub fn compare_to(self, op: &str, number: f64) -> V<'b> {
        self.compare(op, self.scalar(number))
    }

    /// Both of two conditions.
    pub fn and(self, other: V<'b>) -> V<'b> {
        self.compare("And", other)
    }

    /// `yes` where this is true, else `no`.
    pub fn choose(self, yes: V<'b>, no: V<'b>) -> V<'b> {
        let shape = self.broadcast_shape(yes).and_then(|s| Some(broadcast(&s, &no.shape()?)));
        self.b.node("Where", &[self, yes, no], Attributes::new(), yes.element_type(), shape)
    }

    /// This value where `condition` is true, else 0.
    pub fn only(self, condition: V<'b>) -> V<'b> {
        condition.choose(self, self.scalar(0.0))
    }

    /// This value as another element type.
    pub fn cast(self, to: ElementType) -> V<'b> {
        if self.element_type() == to {
            return self;
        }
        self.b.node("Cast", &[self], Attributes::new().with("to", to as i64), to, self.shape())
    }

    /// This value raised to a power.
    pub fn pow(self, exponent: V<'b>) -> V<'b> {
        self.b.node("Pow", &[self, exponent], Attributes::new(), self.element_type(), self.broadcast_shape(exponent))
    }

    // ---- shapes -------------------------------------------------------------------------------------------------

    /// The elements in row-major order under new sizes.
    pub fn reshape(self, sizes: &[Size<'b>]) -> V<'b> {
        let sizes: Vec<Size<'b>> = sizes.iter().map(|s| s.resolved()).collect();
        let mut shape = Shape(sizes.iter().map(Size::describe).collect());
        if let (Some(from), Some(rest)) = (self.known_count(), sizes.iter().position(|s| matches!(s, Size::Rest))) {
            let others: Option<usize> =
                shape.0.iter().enumerate().filter(|(i, _)| *i != rest).map(|(_, d)| d.known()).product();
            shape.0[rest] = others.and_then(|n| from.checked_div(n)).map_or(Dim::Unknown, Dim::Known);
        }
        if self.shape().is_some_and(|s| s.rank() == shape.rank() && s.0.iter().zip(&shape.0).all(|(a, b)| same(a, b))) {
            return self;
        }
        let unknown = sizes.iter().filter(|s| !matches!(s, Size::Is(_))).count();
        let empty = sizes.iter().any(|s| matches!(s, Size::Is(0)));
        let target = if unknown <= 1 && !empty {
            let dims: Vec<i64> = sizes.iter().map(|s| if let Size::Is(n) = s { *n as i64 } else { -1 }).collect();
            self.b.ints(&dims)
        } else {
            self.b.sizes(&sizes)
        };
        let attributes = if empty { Attributes::new().with("allowzero", 1) } else { Attributes::new() };
        self.b.node("Reshape", &[self, target], attributes, self.element_type(), Some(shape))
    }

    /// The elements under the shape of another value.
    pub fn reshape_like(self, like: V<'b>) -> V<'b> {
        match Size::all(like) {
            Some(sizes) if sizes.iter().filter(|s| matches!(s.resolved(), Size::Of(..))).count() <= 1 => {
                self.reshape(&sizes)
            }
            _ => {
                let target = like.shape_of();
                self.b.node("Reshape", &[self, target], Attributes::new(), self.element_type(), like.shape())
            }
        }
    }

    /// All elements in one dimension.
    pub fn flat(self) -> V<'b> {
        if self.rank() == Some(1) { self } else { self.reshape(&[Size::Rest]) }
    }

    /// The number of elements, if known.
    pub fn known_count(self) -> Option<usize> {
        Some(self.shape()?.as_known()?.iter().product())
    }

    /// Axis `i` of the result is axis `perm[i]` of this.
    pub fn transpose(self, perm: &[usize]) -> V<'b> {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return self;
        }
        let shape = self.shape().and_then(|s| perm.iter().map(|p| s.0.get(*p).cloned()).collect::<Option<_>>());
        let perm: Vec<i64> = perm.iter().map(|p| *p as i64).collect();
        self.b.node("Transpose", &[self], Attributes::new().with("perm", perm), self.element_type(), shape.map(Shape))
    }

    /// The last two axes exchanged.
    pub fn matrix_transpose(self, rank: usize) -> V<'b> {
        let mut perm: Vec<usize> = (0..rank).collect();
        if rank >= 2 {
            perm.swap(rank - 1, rank - 2);
        }
        self.transpose(&perm)
    }

    /// Axes of size 1 inserted at these places of the result, counted from the front in ascending order.
    pub fn unsqueeze(self, axes: &[usize]) -> V<'b> {
        if axes.is_empty() {
            return self;
        }
        let shape = self.shape().map(|mut s| {
            axes.iter().for_each(|a| s.0.insert((*a).min(s.0.len()), Dim::Known(1)));
            s
        });
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        self.b.node("Unsqueeze", &[self, self.b.ints(&axes)], Attributes::new(), self.element_type(), shape)
    }

    /// These axes, of size 1 and counted from the front, removed.
    pub fn squeeze(self, axes: &[usize]) -> V<'b> {
        if axes.is_empty() {
            return self;
        }
        let shape = self.shape().map(|s| without(&s, axes));
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        self.b.node("Squeeze", &[self, self.b.ints(&axes)], Attributes::new(), self.element_type(), shape)
    }

    /// Broadcast to the shape of another value.
    pub fn expand_like(self, like: V<'b>) -> V<'b> {
        let (mine, other) = (self.shape(), like.shape());
        if let (Some(a), Some(b)) = (&mine, &other) {
            if a.rank() == b.rank() && a.0.iter().zip(&b.0).all(|(a, b)| same(a, b)) {
                return self;
            }
        }
        self.b.node("Expand", &[self, like.shape_of()], Attributes::new(), self.element_type(), other)
    }

    /// Elements `start..end` in steps along some axes, given as (axis, start, end, step).
    pub fn slice(self, parts: &[(usize, i64, i64, i64)]) -> V<'b> {
        let shape = self.shape().map(|mut s| {
            for (axis, start, end, step) in parts {
                let length = |n: usize| {
                    let n = n as i64;
                    let at = |p: i64, low: i64, high: i64| (if p < 0 { p + n } else { p }).clamp(low, high);
                    let count = if *step > 0 {
                        (at(*end, 0, n) - at(*start, 0, n) + step - 1) / step
                    } else {
                        let end = if *end < -n { -1 } else { at(*end, -1, n - 1) };
                        (at(*start, 0, n - 1) - end - step - 1) / -step
                    };
                    Dim::Known(count.max(0) as usize)
                };
                if let Some(dim) = s.0.get_mut(*axis) {
                    *dim = dim.known().map_or(Dim::Unknown, length);
                }
            }
            s
        });
        let column = |f: fn(&(usize, i64, i64, i64)) -> i64| self.b.ints(&parts.iter().map(f).collect::<Vec<_>>());
        let inputs = [self, column(|p| p.1), column(|p| p.2), column(|p| p.0 as i64), column(|p| p.3)];
        self.b.node("Slice", &inputs, Attributes::new(), self.element_type(), shape)
    }

    /// Zeros put around, or elements cut off where negative: begins of all axes, then ends.
    pub fn pad(self, pads: &[i64]) -> V<'b> {
        if pads.iter().all(|p| *p == 0) {
            return self;
        }
        let rank = pads.len() / 2;
        let shape = self.shape().map(|s| {
            let dims = s.0.iter().enumerate().map(|(i, d)| match (pads[i] + pads[i + rank], d) {
                (0, d) => d.clone(),
                (p, Dim::Known(n)) => Dim::Known((*n as i64 + p).max(0) as usize),
                _ => Dim::Unknown,
            });
            Shape(dims.collect())
        });
        self.b.node("Pad", &[self, self.b.ints(pads)], Attributes::new(), self.element_type(), shape)
    }

    // ---- reductions and products --------------------------------------------------------------------------------

    /// A reduction over axes counted from the front; none means no axis.
    pub fn reduce(self, op: &str, axes: &[usize], keep: bool) -> V<'b> {
        if axes.is_empty() {
            return self;
        }
        let shape = self.shape().map(|mut s| {
            if !keep {
                return without(&s, axes);
            }
            axes.iter().for_each(|a| {
                if let Some(d) = s.0.get_mut(*a) {
                    *d = Dim::Known(1);
                }
            });
            s
        });
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        let attributes = Attributes::new().with("keepdims", i64::from(keep));
        self.b.node(op, &[self, self.b.ints(&axes)], attributes, self.element_type(), shape)
    }

    /// The sum over axes counted from the front.
    pub fn sum(self, axes: &[usize], keep: bool) -> V<'b> {
        self.reduce("ReduceSum", axes, keep)
    }

    /// The mean over axes counted from the front.
    pub fn mean(self, axes: &[usize], keep: bool) -> V<'b> {
        self.reduce("ReduceMean", axes, keep)
    }

    /// The matrix product, broadcasting leading axes.
    pub fn matmul(self, other: V<'b>) -> V<'b> {
        let shape = self.shape().zip(other.shape()).and_then(|(a, b)| matmul_shape(&a, &b));
        self.b.node("MatMul", &[self, other], Attributes::new(), self.element_type(), shape)
    }

    /// `alpha * op(self) * op(other)` of matrices, each transposed or not.
    pub fn gemm(self, transposed: bool, other: V<'b>, other_transposed: bool, alpha: f32) -> V<'b> {
        let side = |v: V<'b>, first: bool| v.shape().and_then(|s| s.0.get(usize::from(!first)).cloned());
        let shape = side(self, !transposed).zip(side(other, other_transposed)).map(|(m, n)| Shape(vec![m, n]));
        let mut attributes = Attributes::new();
        for (name, on) in [("transA", transposed), ("transB", other_transposed)] {
            if on {
                attributes.set(name, 1);
            }
        }
        if alpha != 1.0 {
            attributes.set("alpha", alpha);
        }
        self.b.node("Gemm", &[self, other], attributes, self.element_type(), shape)
    }

    /// The sum over whatever axes broadcasting added to reach this from the shape of `like`. `None` if a rank is
    /// unknown.
    ///
    /// Axes that are certainly equal are left alone and those of size 1 in `like` are summed; if for some axis neither
    /// is known, the axes are found when the graph runs.
    pub fn sum_to(self, like: V<'b>) -> Option<V<'b>> {
        let (from, to) = (self.shape()?, like.shape()?);
        let leading = from.rank().checked_sub(to.rank())?;
        let mut axes: Vec<usize> = (0..leading).collect();
        let mut open = false;
        for (i, target) in to.0.iter().enumerate() {
            let source = &from.0[leading + i];
            match target {
                Dim::Known(1) if *source != Dim::Known(1) => axes.push(leading + i),
                Dim::Known(_) => {}
                target => open |= !same(source, target),
            }
        }
        let interior = axes.len() > leading;
        let summed = if interior {
            let front: Vec<usize> = (0..leading).collect();
            self.sum(&axes, true).squeeze(&front)
        } else {
            self.sum(&axes, false)
        };
        if !open {
            return Some(summed);
        }
        let ones = like.shape_of().compare("Equal", self.b.scalar(ElementType::Int64, 1.0));
        let unknown = |dims: usize| Some(Shape(vec![Dim::Unknown; dims]));
        let axes = self.b.node("NonZero", &[ones], Attributes::new(), ElementType::Int64, unknown(2)).flat();
        let attributes = Attributes::new().with("keepdims", 1).with("noop_with_empty_axes", 1);
        Some(self.b.node("ReduceSum", &[summed, axes], attributes, self.element_type(), Some(to)))
    }
}

fn folded(element_type: ElementType, shape: &[usize], values: &[f64]) -> Option<Tensor> {
    match element_type {
        ElementType::Double => Some(Tensor::from_f64(shape, values)),
        ElementType::Float => Some(Tensor::from_f32(shape, &values.iter().map(|v| *v as f32).collect::<Vec<_>>())),
        _ => None,
    }
}

fn without(shape: &Shape, axes: &[usize]) -> Shape {
    Shape(shape.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect())
}

fn matmul_shape(a: &Shape, b: &Shape) -> Option<Shape> {
    let (m, n) = (a.rank().checked_sub(2)?, b.rank().checked_sub(2)?);
    let mut shape = broadcast(&Shape(a.0[..m].to_vec()), &Shape(b.0[..n].to_vec()));
    shape.0.push(a.0[m].clone());
    shape.0.push(b.0[n + 1].clone());
    Some(shape)
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident $op:literal;)*) => {
        $(impl<'b> std::ops::$trait for V<'b> {
            type Output = V<'b>;
            fn $method(self, other: V<'b>) -> V<'b> {
                self.binary($op, other)
            }
        }
        impl<'b> std::ops::$trait<f64> for V<'b> {
            type Output = V<'b>;
            fn $method(self, other: f64) -> V<'b> {
                self.binary($op, self.scalar(other))
            }
        }
        impl<'b> std::ops::$trait<V<'b>> for f64 {
            type Output = V<'b>;
            fn $method(self, other: V<'b>) -> V<'b> {
                other.scalar(self).binary($op, other)
            }
        })*
    };
}

arithmetic! {
    Add add "Add";
    Sub sub "Sub";
    Mul mul "Mul";
    Div div "Div";
}

impl<'b> std::ops::Neg for V<'b> {
    type Output = V<'b>;
    fn neg(self) -> V<'b> {
        self.unary("Neg")
    }
}

macro_rules! functions {
    ($($name:ident $op:literal $formula:literal;)*) => {
        impl<'b> V<'b> {
            $(#[doc = $formula] pub fn $name(self) -> V<'b> { self.unary($op) })*
        }
    };
}

functions! {
    exp "Exp" "e to this power.";
    ln "Log" "The natural logarithm.";
    sqrt "Sqrt" "The square root.";
    sign "Sign" "-1, 0 or 1.";
    abs "Abs" "The absolute value.";
    recip "Reciprocal" "The reciprocal.";
    erf "Erf" "The error function.";
    tanh "Tanh" "The hyperbolic tangent.";
    sigmoid "Sigmoid" "The logistic function.";
    sin "Sin" "The sine.";
    cos "Cos" "The cosine.";
    sinh "Sinh" "The hyperbolic sine.";
    cosh "Cosh" "The hyperbolic cosine.";
}
