//! Control flow: gradients through Scan, Loop and If.
//!
//! The gradient of a body is found as that of any graph, in a copy of the body that computes the forward pass again from
//! what it read: states before each iteration, which the node is made to keep, and what it captures. So nothing inside a body
//! needs to be kept, and a body may hold whatever has rules, control flow included.

mod body;
mod branch;
mod iteration;

use dendrite_onnx::ValueId;

use crate::{
    error::{Error, Result},
    expr::V,
    rules::Ctx,
};

/// Contributions to the gradients of what a node with sub-graphs reads: its inputs and what its bodies capture. `wanted`
/// says of which values.
pub(crate) fn differentiate<'b>(ctx: &Ctx<'b>, wanted: &dyn Fn(ValueId) -> bool) -> Result<Vec<(ValueId, V<'b>)>> {
    match ctx.node.op.as_str() {
        "If" if ctx.node.domain.is_empty() => branch::differentiate(ctx, wanted),
        "Scan" if ctx.node.domain.is_empty() => iteration::scan(ctx, wanted),
        "Loop" if ctx.node.domain.is_empty() => iteration::repeat(ctx, wanted),
        _ => Err(Error::NotImplemented {
            node: ctx.name(),
            op: ctx.node.op.clone(),
            version: ctx.b.graph().opsets.get(&ctx.node.domain).copied().unwrap_or(0),
        }),
    }
}

/// The operators with sub-graphs that have a gradient.
pub const OPERATORS: [&str; 3] = ["If", "Loop", "Scan"];
