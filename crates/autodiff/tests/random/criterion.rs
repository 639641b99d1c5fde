//! Losses that are operators.

use crate::{
    case::{Case, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table =
    &[(&["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"], likelihood)];

fn likelihood(r: &mut Draw, op: &str) -> Case {
    let classes = r.size(1, 4) + 1;
    let rank = r.size(0, 2);
    let (batch, spatial) = (r.size(1, 3), r.sizes(rank, 1, 2));
    let scores: Vec<usize> = [batch, classes].into_iter().chain(spatial.iter().copied()).collect();
    let places: Vec<usize> = [batch].into_iter().chain(spatial).collect();
    let mut target = r.ints(places.iter().product(), 0, classes as i64 - 1);
    let ignored = r.pick(&[None, None, Some(0i64), Some(-100)]);
    if ignored == Some(-100) {
        target.iter_mut().for_each(|t| *t = if r.once_in(4) { -100 } else { *t });
    }
    // Something is left.
    target[0] = 1;
    let target = r.integers(&places, &target);
    let case = Case::of(op).x(r.floats(&scores)).input(r.given(target));
    let case = if r.once_in(2) { case.x(r.between(&[classes], 0.3, 1.5)) } else { case };
    let case = case.with_some("reduction", r.pick(&[None, Some("none"), Some("sum"), Some("mean")]));
    let case = case.with_some("ignore_index", ignored);
    if op.starts_with("Soft") && r.once_in(2) { case.outputs(2) } else { case }
}
