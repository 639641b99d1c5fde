//! Normalisations with what stands before them: a sum of branches, of embeddings, or a gate.

use dendrite_onnx::{Attributes, ElementType};

use super::one;
use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// A normalisation of the last axis by an operator of its own, with the node's epsilon.
fn normalised<'b>(c: &Ctx<'b>, op: &str, x: V<'b>, scale: V<'b>, bias: Option<V<'b>>, epsilon: f64) -> V<'b> {
    let attributes = Attributes::new().with("epsilon", c.float("epsilon", epsilon) as f32);
    let inputs: Vec<V<'b>> = [x, scale].into_iter().chain(bias).collect();
    c.b.node(op, &inputs, attributes, x.element_type(), x.shape())
}

/// The outputs of a normalisation of the sum of two branches and a bias, among them the sum.
fn skip<'b>(c: &Ctx<'b>, op: &str, beta: Option<V<'b>>, bias: Option<V<'b>>) -> Outputs<'b> {
    for output in [1, 2] {
        if c.node.output(output).is_some() {
            return Err(c.stop(
                format!("output {output}, which the runtime does not compute on a CPU"),
                "leave the output without a name",
            ));
        }
    }
    let (x, branch) = (c.x(0)?, c.x(1)?);
    let mut sum = x + branch;
    if let Some(bias) = bias {
        sum = sum + bias;
    }
    Ok(vec![Some(normalised(c, op, sum, c.x(2)?, beta, 1e-12)), None, None, Some(sum)])
}

pub(super) fn skip_layer<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    skip(c, "LayerNormalization", c.opt(3), c.opt(4))
}

pub(super) fn skip_root_mean_square<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    skip(c, "RMSNormalization", None, c.opt(3))
}

/// The name under which RMSNormalization was made before it was standard.
pub(super) fn root_mean_square<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (x, scale) = (c.x(0)?, c.x(1)?);
    let rank = c.rank(x)?;
    let axis = c.front_axis(c.int("axis", -1), rank)?;
    let (axes, epsilon) = ((axis..rank).collect::<Vec<_>>(), c.float("epsilon", 1e-5));
    let attributes = Attributes::new().with("epsilon", epsilon as f32).with("axis", axis as i64);
    let y = c.b.node("RMSNormalization", &[x, scale], attributes, x.element_type(), x.shape());
    let inverse = c.node.output(1).map(|_| ((x * x).mean(&axes, true) + epsilon).sqrt().recip());
    Ok(vec![Some(y), inverse])
}

/// The normalised rows of the scale's length, times the gate.
pub(super) fn gated_root_mean_square<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (x, scale, gate) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let rows = x.reshape(&[Size::Rest, Size::Of(scale, 0)]);
    let y = normalised(c, "RMSNormalization", rows, scale, None, 1e-5).reshape_like(x);
    let open = gate.sigmoid();
    one(y * if c.node.attributes.str("activation", "silu") == "sigmoid" { open } else { gate * open })
}

/// Embeddings of words, positions and segments, summed and normalised.
pub(super) fn embeddings<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (words, table) = (c.x(0)?, c.x(2)?);
    let positions = match c.opt(8) {
        Some(positions) => c.x(3)?.gather(positions, 0),
        None => c.x(3)?.gather(c.b.range(words, 1), 0),
    };
    let mut sum = table.gather(words, 0) + positions;
    if let (Some(segments), Some(table)) = (c.opt(1), c.opt(4)) {
        sum = sum + table.gather(segments, 0);
    }
    // How many words of each sample are not masked.
    let count = |mask: V<'b>| mask.cast(ElementType::Int32).sum(&[1], false);
    let zeros = || c.b.filled(ElementType::Int32, &[Size::Of(words, 0)], 0.0);
    let valid = c.node.output(1).map(|_| c.opt(7).map_or_else(zeros, count));
    Ok(vec![Some(normalised(c, "LayerNormalization", sum, c.x(5)?, c.opt(6), 1e-12)), valid, Some(sum)])
}
