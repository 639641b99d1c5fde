//! Expressions that arrange elements without computing.

use dendrite_onnx::{Attributes, Dim, Shape};

use super::{Size, V, same, without};

impl<'b> V<'b> {
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
        // A computed size of 0 is a size too.
        let computed = unknown > 1 && !sizes.iter().any(|s| matches!(s, Size::Rest));
        let attributes = if empty || computed { Attributes::new().with("allowzero", 1) } else { Attributes::new() };
        self.b.node("Reshape", &[self, target], attributes, self.element_type(), Some(shape))
    }

    /// The elements under the shape of another value.
    pub fn reshape_like(self, like: V<'b>) -> V<'b> {
        match Size::all(like) {
            Some(sizes) if sizes.iter().filter(|s| matches!(s.resolved(), Size::Of(..))).count() <= 1 => {
                self.reshape(&sizes)
            }
            _ => {
                let (target, attributes) = (like.shape_of(), Attributes::new().with("allowzero", 1));
                self.b.node("Reshape", &[self, target], attributes, self.element_type(), like.shape())
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
        if let (Some(a), Some(b)) = (&mine, &other)
            && a.rank() == b.rank()
            && a.0.iter().zip(&b.0).all(|(a, b)| same(a, b))
        {
            return self;
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

    /// The slices along an axis, counted from the front, where `at` points.
    pub fn gather(self, at: V<'b>, axis: usize) -> V<'b> {
        let shape = self.shape().zip(at.shape()).map(|(mut s, at)| {
            s.0.splice(axis..=axis, at.0);
            s
        });
        let attributes = Attributes::new().with("axis", axis as i64);
        self.b.node("Gather", &[self, at], attributes, self.element_type(), shape)
    }
}
