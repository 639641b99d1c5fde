//! Functions of square matrices.

use dendrite_onnx::{Attributes, Dim, Shape};

use super::{Ctx, rules};
use crate::{
    error::Result,
    expr::{Size, V},
};

rules! { RULES, exact, (c, dy, y);
    "Det"(x) => [determinant(c, dy, x)?];
}

rules! { CONTRIBUTED, exact, (c, dy, y);
    // y = x^-1: dx = -y^T dy y^T
    "Inverse"(x) => [{
        let turned = y.matrix_transpose(c.rank(x)?);
        -turned.matmul(dy).matmul(turned)
    }];
}

/// dx = dy * cofactors. Each is the determinant of what is left without one row and one column, so that singular matrices
/// have gradients too; n^2 determinants of size n - 1.
fn determinant<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let rank = c.rank(x)?;
    let n = c.known_dims(x, rank - 2)?[0];
    let dy = dy.unsqueeze(&[rank - 2, rank - 1]);
    if n <= 1 {
        return Ok(dy.expand_like(x));
    }
    let (rest, int) = (n - 1, |v: usize| v as i64);
    // For each row i and column j, which of the n * n elements are left.
    let others = |i: usize| (0..n).filter(move |k| *k != i);
    let left: Vec<i64> = (0..n * n)
        .flat_map(|at| others(at / n).flat_map(move |row| others(at % n).map(move |column| int(row * n + column))))
        .collect();
    let leading = || (0..rank - 2).map(|axis| Size::Of(x, axis));
    let elements = x.reshape(&leading().chain([Size::Is(n * n)]).collect::<Vec<_>>());
    let attributes = Attributes::new().with("axis", int(rank) - 2);
    let dims = elements.shape().map(|mut s| {
        s.0[rank - 2] = Dim::Known(left.len());
        s
    });
    let minors = c.b.node("Gather", &[elements, c.b.ints(&left)], attributes, x.element_type(), dims);
    let minors = minors.reshape(&leading().chain([n, n, rest, rest].map(Size::Is)).collect::<Vec<_>>());
    let shape = minors.shape().map(|s| Shape(s.0[..rank].to_vec()));
    let cofactors = c.b.node("Det", &[minors], Attributes::new(), x.element_type(), shape);
    let signs: Vec<f64> = (0..n * n).map(|at| if (at / n + at % n) % 2 == 0 { 1.0 } else { -1.0 }).collect();
    Ok(dy * cofactors * c.b.floats(x.element_type(), &[n, n], &signs))
}
