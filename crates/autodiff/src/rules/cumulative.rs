//! Sums and products of all elements up to each.

use super::{Answer, Ctx, rules};
use crate::expr::V;

rules! { RULES, exact, (c, dy, y);
    "CumSum"(x) => [backwards(c, dy), Answer::Zero];
    "CumProd"(x) => [cumulative_product(c, dy, x, y), Answer::Zero];
}

/// A cumulative sum backwards is one from the other end.
fn backwards<'b>(c: &Ctx<'b>, dy: V<'b>) -> V<'b> {
    let attributes = c.node.attributes.clone().with("reverse", 1 - c.int("reverse", 0));
    c.b.node_with_gaps("CumSum", &[Some(dy.id()), c.node.input(1)], attributes, dy.element_type(), dy.shape())
}

/// Each element's share in a product is the product divided by it. Of several zeros on the way only the first has a
/// gradient: with it left out, the product ends at the second.
fn cumulative_product<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, y: V<'b>) -> V<'b> {
    let zero = x.compare_to("Equal", 0.0);
    let one = x.scalar(1.0);
    let mut attributes = c.node.attributes.clone();
    attributes.remove("exclusive");
    let inputs = [Some(zero.cast(x.element_type()).id()), c.node.input(1)];
    let zeros = c.b.node_with_gaps("CumSum", &inputs, attributes, x.element_type(), x.shape());
    let first = zero.and(zeros.compare_to("Equal", 1.0));
    let without = c.again(&[Some(first.choose(one, x)), c.opt(1)], x.element_type(), x.shape());
    let at_zero = backwards(c, dy * without).only(first);
    zero.choose(at_zero, backwards(c, dy * y) / zero.choose(one, x))
}
