//! Sequences and optional values, resolved to the tensors that they are made of.

use dendrite_onnx::{Node, ValueId};

use super::one;
use crate::{error::Result, expr::V, rules::Ctx};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// One element, at a constant position.
pub(super) fn at<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let elements = elements(c, c.x(0)?)?;
    let position = constant(c, c.x(1)?)?;
    match elements.get(place(position, elements.len())) {
        Some(element) => one(*element),
        None => Err(c.stop(format!("no element {position}"), "`dendrite check` lists every finding in the file")),
    }
}

/// All elements joined, along an axis of theirs or a new one.
pub(super) fn concat<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let mut elements = elements(c, c.x(0)?)?;
    let Some(first) = elements.first() else {
        return Err(c.stop("the sequence is empty", "join at least one tensor"));
    };
    let new = c.int("new_axis", 0) != 0;
    let axis = c.front_axis(c.int("axis", 0), c.rank(*first)? + usize::from(new))?;
    if new {
        elements.iter_mut().for_each(|v| *v = v.unsqueeze(&[axis]));
    }
    one(c.b.concat(&elements, axis))
}

/// The value of an optional one that is there, or a tensor itself.
pub(super) fn optional<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let v = c.x(0)?;
    match producer(c, v) {
        Some(node) if node.is("Optional") => one(c.b.value(input(c, &node, 0)?)),
        // A tensor is its own element.
        _ if c.b.graph().value(v.id()).element_type.is_some() => one(v),
        _ => Err(c.stop("the optional is not made in this graph", "let the model take and give tensors")),
    }
}

fn producer<'b>(c: &Ctx<'b>, v: V<'b>) -> Option<Node> {
    let graph = c.b.graph();
    graph.value(v.id()).producer().map(|id| graph.node(id).clone())
}

fn input(c: &Ctx<'_>, node: &Node, index: usize) -> Result<ValueId> {
    node.input(index).ok_or_else(|| c.malformed(0))
}

fn constant(c: &Ctx<'_>, v: V<'_>) -> Result<i64> {
    let position = v.as_ints().and_then(|v| v.first().copied());
    position.ok_or_else(|| c.stop("the position is not constant", "make it a constant of the model"))
}

fn place(position: i64, length: usize) -> usize {
    (if position < 0 { position + length as i64 } else { position }).max(0) as usize
}

/// The tensors of a sequence that is built in this graph.
fn elements<'b>(c: &Ctx<'b>, sequence: V<'b>) -> Result<Vec<V<'b>>> {
    let unknown = || {
        c.stop(
            "the sequence is not built from tensors in the same graph",
            "simplify the model so that no sequence is left, or freeze what comes before",
        )
    };
    let Some(node) = producer(c, sequence) else { return Err(unknown()) };
    let value = |index: usize| input(c, &node, index).map(|v| c.b.value(v));
    match node.op.as_str() {
        "SequenceEmpty" => Ok(Vec::new()),
        "SequenceConstruct" => (0..node.inputs.len()).map(value).collect(),
        "Identity" => elements(c, value(0)?),
        "SequenceInsert" => {
            let mut all = elements(c, value(0)?)?;
            let at = match node.input(2) {
                Some(position) => place(constant(c, c.b.value(position))?, all.len()),
                None => all.len(),
            };
            all.insert(at.min(all.len()), value(1)?);
            Ok(all)
        }
        "SequenceErase" => {
            let mut all = elements(c, value(0)?)?;
            let at = match node.input(1) {
                Some(position) => place(constant(c, c.b.value(position))?, all.len()),
                None => all.len().saturating_sub(1),
            };
            if at >= all.len() {
                return Err(unknown());
            }
            all.remove(at);
            Ok(all)
        }
        "SplitToSequence" => split(c, &node, value(0)?),
        _ => Err(unknown()),
    }
}

/// The parts that a SplitToSequence node makes.
fn split<'b>(c: &Ctx<'b>, node: &Node, x: V<'b>) -> Result<Vec<V<'b>>> {
    let axis = c.front_axis(node.attributes.int("axis", 0), c.rank(x)?)?;
    let size = c.known_dims(x, axis)?.first().copied().unwrap_or(0) as i64;
    let (sizes, dropped) = match node.input(1).map(|v| c.b.value(v)) {
        None => (vec![1; size as usize], node.attributes.int("keepdims", 1) == 0),
        Some(sizes) => {
            let given = sizes.as_ints().ok_or_else(|| c.stop("the sizes are not constant", "make them constants"))?;
            let all = match (sizes.rank(), given.first()) {
                // Equal parts, the last of which may be smaller.
                (Some(0), Some(part)) => {
                    (0..size).step_by((*part).max(1) as usize).map(|at| (*part).min(size - at)).collect()
                }
                _ => given,
            };
            (all, false)
        }
    };
    let mut start = 0;
    let part = |length: i64| {
        let v = x.slice(&[(axis, start, start + length, 1)]);
        start += length;
        if dropped { v.squeeze(&[axis]) } else { v }
    };
    Ok(sizes.into_iter().map(part).collect())
}
