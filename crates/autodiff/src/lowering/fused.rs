//! Operators that ONNX Runtime makes by fusing others: products with an activation, and forms of Gelu.

use dendrite_onnx::{Attributes, Shape};

use super::one;
use crate::{error::Result, expr::V, rules::Ctx};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

fn apply<'b>(op: &str, x: V<'b>, attributes: Attributes) -> V<'b> {
    x.builder().node(op, &[x], attributes, x.element_type(), x.shape())
}

fn tanh_gelu(x: V<'_>) -> V<'_> {
    apply("Gelu", x, Attributes::new().with("approximate", "tanh"))
}

pub(super) fn gelu<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    one(c.x(0)?.unary("Gelu"))
}

pub(super) fn bias_gelu<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    one((c.x(0)? + c.x(1)?).unary("Gelu"))
}

pub(super) fn fast_gelu<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let x = c.x(0)?;
    one(tanh_gelu(c.opt(1).map_or(x, |bias| x + bias)))
}

/// x * sigmoid(alpha * x)
pub(super) fn quick_gelu<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let x = c.x(0)?;
    one(x * (x * c.float("alpha", 1.702)).sigmoid())
}

/// z * sigmoid(z), z = scale * x
pub(super) fn scaled_silu<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let x = c.x(0)?;
    let z = x * c.opt(1).unwrap_or(x.scalar(c.float("alpha", 1.0)));
    one(z * z.sigmoid())
}

pub(super) fn gated_add<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    one(c.x(0)? + c.x(1)? * c.x(2)?)
}

/// alpha * A B, where `transBatch` takes the rows to stand before the batch and `trans` exchanges the last two axes.
pub(super) fn matmul<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let operand = |index: usize, side: &str| -> Result<V<'b>> {
        let x = c.x(index)?;
        let rank = c.rank(x)?;
        let mut perm: Vec<usize> = (0..rank).collect();
        if c.int(&format!("transBatch{side}"), 0) != 0 && rank > 2 {
            perm[..rank - 1].rotate_left(1);
        }
        if c.int(&format!("trans{side}"), 0) != 0 && rank >= 2 {
            perm.swap(rank - 1, rank - 2);
        }
        Ok(x.transpose(&perm))
    };
    let (a, b) = (operand(0, "A")?, operand(1, "B")?);
    let product = if c.rank(a)? < 2 || c.rank(b)? < 2 {
        c.b.node("MatMul", &[a, b], Attributes::new(), a.element_type(), c.y(0)?.shape())
    } else {
        a.matmul(b)
    };
    one(product * c.float("alpha", 1.0))
}

/// This node under the name of the standard operator, without what it is fused with.
fn plain<'b>(c: &Ctx<'b>, op: &str, inputs: &[Option<V<'b>>], shape: Option<Shape>) -> Result<V<'b>> {
    let mut attributes = c.node.attributes.clone();
    for name in ["activation", "activation_params", "activation_alpha", "activation_beta", "activation_gamma"] {
        attributes.remove(name);
    }
    let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let inputs: Vec<_> = inputs[..given].iter().map(|v| v.map(V::id)).collect();
    Ok(c.b.node_with_gaps(op, &inputs, attributes, c.x(0)?.element_type(), shape))
}

fn activated<'b>(c: &Ctx<'b>, x: V<'b>, parameters: &[Option<f64>]) -> Outputs<'b> {
    let name = c.node.attributes.str("activation", "");
    let parameter = |index: usize| parameters.get(index).copied().flatten();
    let mut attributes = Attributes::new();
    match name {
        "" => return one(x),
        "Clip" => {
            let bound = |index: usize, default: f64| x.scalar(parameter(index).unwrap_or(default));
            let inputs = [x, bound(0, f64::from(f32::MIN)), bound(1, f64::from(f32::MAX))];
            return one(c.b.node("Clip", &inputs, attributes, x.element_type(), x.shape()));
        }
        "Relu" | "Tanh" | "Sigmoid" | "Softplus" | "Softsign" | "HardSwish" => {}
        "LeakyRelu" | "Elu" | "HardSigmoid" | "ThresholdedRelu" => {
            for (index, name) in ["alpha", "beta"].into_iter().enumerate() {
                if let Some(value) =
                    parameter(index).filter(|_| index == 0 || c.node.attributes.str("activation", "") == "HardSigmoid")
                {
                    attributes.set(name, value as f32);
                }
            }
        }
        other => return Err(c.stop(format!("activation '{other}'"), "`dendrite check` lists every finding")),
    }
    one(apply(name, x, attributes))
}

pub(super) fn gemm<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let y = plain(c, "Gemm", &[c.opt(0), c.opt(1), c.opt(2)], c.y(0)?.shape())?;
    let given = |name: &str| c.node.attributes.opt_float(name).map(f64::from);
    activated(c, y, &[given("activation_alpha"), given("activation_beta")])
}

/// The fourth input is added before the activation.
pub(super) fn conv<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let y = plain(c, "Conv", &[c.opt(0), c.opt(1), c.opt(2)], c.y(0)?.shape())?;
    let y = c.opt(3).map_or(y, |z| y + z);
    let parameters = c.node.attributes.floats("activation_params").unwrap_or_default();
    activated(c, y, &parameters.iter().map(|v| Some(f64::from(*v))).collect::<Vec<_>>())
}
