//! Operators whose results do not depend continuously on any input: integers, conditions, shapes, steps, and draws from a
//! distribution, whose results are 0 or 1 or an index whatever the probabilities.

use super::{Answer, Ctx, Table};
use crate::error::Result;

pub(super) const RULES: Table = &[(
    &[
        "And",
        "ArgMax",
        "ArgMin",
        "Bernoulli",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "BlackmanWindow",
        "Ceil",
        "ConstantOfShape",
        "Equal",
        "EyeLike",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "HammingWindow",
        "HannWindow",
        "Hardmax",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "MelWeightMatrix",
        "Multinomial",
        "NonMaxSuppression",
        "NonZero",
        "Not",
        "OptionalHasElement",
        "Or",
        "RandomNormalLike",
        "RandomUniformLike",
        "Round",
        "SequenceLength",
        "Shape",
        "Sign",
        "Size",
        "Xor",
    ],
    zero,
)];

fn zero<'b>(_: &Ctx<'b>, _: usize) -> Result<Answer<'b>> {
    Ok(Answer::Zero)
}
