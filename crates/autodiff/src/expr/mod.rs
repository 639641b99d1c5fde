//! Expressions over a graph: values with arithmetic, so that a rule reads like its formula.
//!
//! [`Builder`] holds the graph while expressions are built; [`V`] is a value of it that can be copied, added and
//! multiplied. Element types and shapes are recorded as far as they follow from those of the operands. Arithmetic on
//! constants is done here, `x * 1` is `x`, and the same expression is the same node, so rules need not care.

mod arithmetic;
mod builder;
mod layout;
mod products;

use std::cell::RefCell;
use std::collections::HashMap;

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId};

/// What makes two constants the same: type, shape and bytes.
type ConstantKey = (ElementType, Vec<usize>, Vec<u8>);

/// A graph under construction.
pub struct Builder {
    graph: RefCell<Graph>,
    name: RefCell<String>,
    constants: RefCell<HashMap<ConstantKey, ValueId>>,
    nodes: RefCell<HashMap<String, ValueId>>,
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
            _ => self.measured(None),
        }
    }

    /// The size along an axis counted from the front, as an int64 value of shape `[1]`.
    pub fn dim(self, axis: usize) -> V<'b> {
        match self.known_dim(axis) {
            Some(n) => self.b.ints(&[n as i64]),
            None => self.measured(Some(axis)),
        }
    }

    fn measured(self, axis: Option<usize>) -> V<'b> {
        let (attributes, dim) = match axis {
            Some(a) => (Attributes::new().with("start", a as i64).with("end", a as i64 + 1), Dim::Known(1)),
            None => (Attributes::new(), self.rank().map_or(Dim::Unknown, Dim::Known)),
        };
        self.b.node("Shape", &[self], attributes, ElementType::Int64, Some(Shape(vec![dim])))
    }
}

fn without(shape: &Shape, axes: &[usize]) -> Shape {
    Shape(shape.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect())
}
