//! Reductions and matrix products.

use dendrite_onnx::{Attributes, Dim, ElementType, Shape};

use super::{V, broadcast, same, without};

impl<'b> V<'b> {
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

fn matmul_shape(a: &Shape, b: &Shape) -> Option<Shape> {
    let (m, n) = (a.rank().checked_sub(2)?, b.rank().checked_sub(2)?);
    let mut shape = broadcast(&Shape(a.0[..m].to_vec()), &Shape(b.0[..n].to_vec()));
    shape.0.push(a.0[m].clone());
    shape.0.push(b.0[n + 1].clone());
    Some(shape)
}
