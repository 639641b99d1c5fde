//! Scatters with every reduction.
//!
//! `put` is the operator itself, `pick` the gather that reads where it writes. Where equal elements meet under `max` or `min`
//! they share the gradient evenly, as for ReduceMax.

use dendrite_onnx::Attributes;

use super::{Answer, Ctx, Table};
use crate::{error::Result, expr::V};

pub(super) const RULES: Table = &[(&["ScatterElements", "ScatterND"], scatter)];

fn scatter<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let (dy, data, updates) = (c.dy(0)?, c.x(0)?, c.x(2)?);
    let to_data = input == 0;
    Ok(match (c.node.attributes.str("reduction", "none"), input) {
        (_, 1) => Answer::Zero,
        ("none", 0) => put(c, dy, c.zeros_like(updates)?, "none").into(),
        ("add", 0) => dy.into(),
        ("none" | "add", _) => pick(c, dy, updates).into(),
        ("mul", _) => product(c, dy, data, updates, to_data)?.into(),
        ("max" | "min", _) => extremum(c, dy, data, updates, to_data)?.into(),
        (other, _) => {
            return Err(c.stop(format!("reduction '{other}'"), "`dendrite check` lists every finding in the file"));
        }
    })
}

/// `data` with `updates` where the node's indices point.
fn put<'b>(c: &Ctx<'b>, data: V<'b>, updates: V<'b>, how: &str) -> V<'b> {
    let mut attributes = c.node.attributes.clone();
    attributes.remove("reduction");
    if how != "none" {
        attributes.set("reduction", how);
    }
    let inputs = [Some(data.id()), c.node.input(1), Some(updates.id())];
    c.b.node_with_gaps(&c.node.op, &inputs, attributes, data.element_type(), data.shape())
}

/// The elements of `v` at the places of the updates.
fn pick<'b>(c: &Ctx<'b>, v: V<'b>, updates: V<'b>) -> V<'b> {
    let mut attributes = Attributes::new();
    if let Some(axis) = c.node.attributes.opt_int("axis") {
        attributes.set("axis", axis);
    }
    let op = if c.node.is("ScatterND") { "GatherND" } else { "GatherElements" };
    c.b.node_with_gaps(op, &[Some(v.id()), c.node.input(1)], attributes, v.element_type(), updates.shape())
}

/// y = data * all updates of the place. What stands beside an update is exact where some are zero.
fn product<'b>(c: &Ctx<'b>, dy: V<'b>, data: V<'b>, updates: V<'b>, to_data: bool) -> Result<V<'b>> {
    let ones = c.zeros_like(data)? + 1.0;
    if to_data {
        return Ok(dy * put(c, ones, updates, "mul"));
    }
    let zero = updates.compare_to("Equal", 0.0);
    let safe = zero.choose(updates.scalar(1.0), updates);
    let zeros = pick(c, put(c, c.zeros_like(data)?, zero.cast(updates.element_type()), "add"), updates);
    let product = pick(c, put(c, ones, safe, "mul"), updates);
    let at_zero = product.only(zeros.compare_to("Equal", 1.0));
    let elsewhere = (product / safe).only(zeros.compare_to("Equal", 0.0));
    Ok(pick(c, dy * data, updates) * zero.choose(at_zero, elsewhere))
}

fn extremum<'b>(c: &Ctx<'b>, dy: V<'b>, data: V<'b>, updates: V<'b>, to_data: bool) -> Result<V<'b>> {
    let y = c.y(0)?;
    let float = data.element_type();
    let stays = data.compare("Equal", y).cast(float);
    let wins = updates.compare("Equal", pick(c, y, updates)).cast(float);
    let share = dy / put(c, stays, wins, "add");
    Ok(if to_data { stays * share } else { wins * pick(c, share, updates) })
}
