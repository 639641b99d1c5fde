//! If: the gradient takes the branch that was taken.

use dendrite_onnx::{Attributes, ValueId};

use super::body::Body;
use crate::{error::Result, expr::V, rules::Ctx};

const BRANCHES: [&str; 2] = ["then_branch", "else_branch"];

/// An If on the same condition whose branches compute the gradients of what either captures.
pub(super) fn differentiate<'b>(ctx: &Ctx<'b>, wanted: &dyn Fn(ValueId) -> bool) -> Result<Vec<(ValueId, V<'b>)>> {
    let mut bodies = Vec::new();
    let mut outside: Vec<ValueId> = Vec::new();
    for name in BRANCHES {
        let proto = ctx.node.attributes.get(name).and_then(|a| a.g.clone());
        let body = Body::copy(ctx, &proto.ok_or_else(|| ctx.malformed(0))?)?;
        for (value, _) in body.captured(ctx, wanted) {
            if !outside.contains(&value) {
                outside.push(value);
            }
        }
        bodies.push((name, body));
    }
    if outside.is_empty() {
        return Ok(Vec::new());
    }
    let mut attributes = Attributes::new();
    for (name, mut body) in bodies {
        let capture = |body: &mut Body, v: V<'b>| {
            let outer = ctx.b.graph();
            body.graph.capture(outer.name_of(v.id()), Some(v.element_type()), v.shape())
        };
        let outputs = body.graph.outputs.clone();
        let mut seeds = Vec::new();
        for (output, gradient) in outputs.into_iter().zip(&ctx.gradients) {
            if let Some(gradient) = gradient {
                seeds.push((output, capture(&mut body, *gradient)));
            }
        }
        let wrt: Vec<_> = outside.iter().map(|v| (capture(&mut body, ctx.b.value(*v)), None)).collect();
        body.gradients(ctx, &seeds, &wrt)?;
        attributes.set(name, body.graph.to_body()?);
    }
    let condition = ctx.x(0)?.id();
    let found = ctx.b.several("If", &[Some(condition)], attributes, outside.len());
    let typed = outside.iter().zip(found).map(|(outside, gradient)| {
        let value = ctx.b.value(*outside);
        (*outside, gradient.typed(value.element_type(), value.shape()))
    });
    Ok(typed.collect())
}
