//! Dimensions and shapes, symbolic ones included.

use std::fmt;

/// One dimension of a shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number that is known.
    Known(usize),
    /// A name that stands for the same number wherever it occurs.
    Symbol(String),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// The number, if it is known.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// A shape of known rank. An unknown rank is `Option::None` where shapes are stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of known dimensions.
    pub fn known(dims: &[usize]) -> Self {
        Shape(dims.iter().map(|d| Dim::Known(*d)).collect())
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dimensions, if all are known.
    pub fn as_known(&self) -> Option<Vec<usize>> {
        self.0.iter().map(Dim::known).collect()
    }

    /// Dimension `axis`, counted from the end when negative.
    pub fn dim(&self, axis: i64) -> Option<&Dim> {
        let index = if axis < 0 { axis + self.0.len() as i64 } else { axis };
        usize::try_from(index).ok().and_then(|i| self.0.get(i))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}
