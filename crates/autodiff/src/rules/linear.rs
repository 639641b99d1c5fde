//! Matrix products.

use super::{Answer, Ctx, Table};
use crate::{
    error::Result,
    expr::{Size, V},
};

pub(super) const RULES: Table = &[(&["MatMul"], matmul), (&["Gemm"], gemm)];

/// y = a b: da = dy b^T, db = a^T dy, over all leading axes.
fn matmul<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (a, b, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let (m, n) = (c.rank(a)?, c.rank(b)?);
    match (m, n, input) {
        (1, 1, _) => Ok(Answer::Exact(dy * if input == 0 { b } else { a })),
        (1, _, 0) => row(dy.unsqueeze(&[n - 2]), b, n).map_or_else(|| Err(c.no_rank(dy)), |v| Ok(v.into())),
        // db[.., k, n] = a[k] dy[.., n]
        (1, _, _) => Ok(Answer::Exact(a.unsqueeze(&[1]) * dy.unsqueeze(&[n - 2]))),
        // da[.., m, k] = dy[.., m] b[k]
        (_, 1, 0) => Ok(Answer::Exact(dy.unsqueeze(&[m - 1]) * b)),
        (_, 1, _) => Ok(Answer::Exact((a * dy.unsqueeze(&[m - 1])).sum(&(0..m - 1).collect::<Vec<_>>(), false))),
        (2, 2, 0) => Ok(Answer::Exact(dy.gemm(false, b, true, 1.0))),
        (2, 2, _) => Ok(Answer::Exact(a.gemm(true, dy, false, 1.0))),
        (_, _, 0) => Ok(Answer::Unreduced(dy.matmul(b.matrix_transpose(n)))),
        // A matrix shared by the whole batch: one product instead of one for each sample and a sum.
        (_, 2, _) => Ok(Answer::Exact(rows(a, m, b, 0).gemm(true, rows(dy, m, b, 1), false, 1.0))),
        (_, _, _) => Ok(Answer::Unreduced(a.matrix_transpose(m).matmul(dy))),
    }
}

/// The gradient of a vector that is multiplied from the left with a batch of matrices.
fn row<'b>(dy: V<'b>, b: V<'b>, rank: usize) -> Option<V<'b>> {
    let product = dy.matmul(b.matrix_transpose(rank));
    Some(product.sum(&(0..product.rank()? - 1).collect::<Vec<_>>(), false))
}

/// All leading axes of `v` as one; the last has the size of `w` along `axis`.
fn rows<'b>(v: V<'b>, rank: usize, w: V<'b>, axis: usize) -> V<'b> {
    let last = if v.known_dim(rank - 1).is_some() { Size::Of(v, rank - 1) } else { Size::Of(w, axis) };
    v.reshape(&[Size::Rest, last])
}

/// y = alpha A B + beta C with A, B transposed or not.
fn gemm<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (a, b, dy) = (c.x(0)?, c.x(1)?, c.dy(0)?);
    let alpha = c.node.attributes.float("alpha", 1.0);
    let (ta, tb) = (c.int("transA", 0) != 0, c.int("transB", 0) != 0);
    Ok(match (input, ta, tb) {
        (0, false, _) => dy.gemm(false, b, !tb, alpha).into(),
        (0, true, _) => b.gemm(tb, dy, true, alpha).into(),
        (1, _, false) => a.gemm(!ta, dy, false, alpha).into(),
        (1, _, true) => dy.gemm(true, a, ta, alpha).into(),
        _ => Answer::Unreduced(dy * c.float("beta", 1.0)),
    })
}
