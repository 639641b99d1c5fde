//! The connectionist temporal classification loss: -log of the probability that scores of steps spell a sequence of classes,
//! summed over all ways in which steps can do so (Graves et al. 2006).
//!
//! Between the classes and around them stands the blank, which spells nothing; a class may last several steps, and the blank
//! between two classes may be left out unless they are equal. The forward variable runs over the steps in a `Scan`, its
//! gradient is that of any `Scan`.

use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, WORKING_OPSET};

use crate::{
    error::Result,
    expr::{Builder, Size, V},
};

/// The logarithm of what cannot be. A number, since the difference of two infinities is none; so small that many of them add
/// up to a number too.
const NEVER: f64 = -1e30;

/// The loss of each sample, `[N]`, divided by the number of its classes: of logits `p` `[N, T, C]` and class numbers `t`
/// `[N, L]`, which end where the number `padding` begins. A sequence that takes more steps than there are has a loss of about
/// 1e30 divided by the number of its classes.
pub(crate) fn loss<'b>(p: V<'b>, t: V<'b>, blank: i64, padding: i64) -> Result<V<'b>> {
    let b = p.builder();
    let class = |n: i64| b.constant(Tensor::int64s(&[n]));
    let gathered = |v: V<'b>, at: V<'b>, axis: i64| {
        let attributes = Attributes::new().with("axis", axis);
        b.node("GatherElements", &[v, at], attributes, ElementType::Float, at.shape())
    };
    let given = t.compare("Equal", class(padding)).unary("Not");
    let count = given.cast(ElementType::Int64).sum(&[1], true);
    let labels = given.choose(t, class(blank));
    let filled = |like: V<'b>, element_type: ElementType, value: f64| {
        b.filled(element_type, &[Size::Of(like, 0), Size::Of(like, 1)], value)
    };
    let column = |element_type: ElementType, value: f64| b.filled(element_type, &[Size::Of(t, 0), Size::Is(1)], value);
    // Blank, class, blank, .., class, blank: [N, 2L + 1], called states.
    let blanks = filled(t, ElementType::Int64, blank as f64);
    let pairs = b.concat(&[blanks.unsqueeze(&[2]), labels.unsqueeze(&[2])], 2);
    let pairs = pairs.reshape(&[Size::Of(t, 0), Size::Rest]);
    let edge = column(ElementType::Int64, blank as f64);
    let states = b.concat(&[pairs, edge], 1);
    let two_before = b.concat(&[edge, edge, states.slice(&[(1, 0, -2, 1)])], 1);
    let differ = states.compare("Equal", two_before).unary("Not");
    let may_skip = differ.and(states.compare("Equal", class(blank)).unary("Not"));
    let (zero, never) = (b.scalar(ElementType::Float, 0.0), b.scalar(ElementType::Float, NEVER));
    let skip = may_skip.choose(zero, never);

    let log_p = b.node("LogSoftmax", &[p], Attributes::new().with("axis", 2i64), ElementType::Float, p.shape());
    let target = b.sizes(&[Size::Of(p, 0), Size::Of(p, 1), Size::Of(states, 1)]);
    let dims = p.shape().zip(states.shape()).map(|(p, s)| Shape(vec![p.0[0].clone(), p.0[1].clone(), s.0[1].clone()]));
    let at = b.node("Expand", &[states.unsqueeze(&[1]), target], Attributes::new(), ElementType::Int64, dims);
    let emitted = gathered(log_p, at, 2).transpose(&[1, 0, 2]);

    // Before the first step nothing is spelt, as after a blank.
    let start = b.concat(&[column(ElementType::Float, 0.0), filled(pairs, ElementType::Float, NEVER)], 1);
    let body = step(start.shape(), skip, column(ElementType::Float, NEVER))?;
    let attributes = Attributes::new().with("body", body.to_body()?).with("num_scan_inputs", 1i64);
    let found = b.several("Scan", &[Some(start.id()), Some(emitted.id())], attributes, 1);
    let end = found[0].typed(ElementType::Float, start.shape());

    // All is spelt in the last class and in the blank behind it; an empty sequence has the blank alone.
    let behind = count * class(2);
    let in_last = (behind - class(1)).binary("Max", class(0));
    let empty = count.compare("Equal", class(0)).choose(never, zero);
    let ends = b.concat(&[gathered(end, behind, 1), gathered(end, in_last, 1) + empty], 1);
    let log_probability = ends.reduce("ReduceLogSumExp", &[1], false);
    let length = count.squeeze(&[1]).binary("Max", b.scalar(ElementType::Int64, 1.0)).cast(ElementType::Float);
    Ok(-log_probability / length)
}

/// The body: the logarithms of having spelt up to each state, and those of the states' classes in one step, to the former after it.
fn step(states: Option<Shape>, skip: V<'_>, none: V<'_>) -> Result<Graph> {
    let mut body = Graph::new("step", WORKING_OPSET);
    let shape = states.unwrap_or_default();
    let before = body.add_input("inside/loss/before", ElementType::Float, shape.clone());
    let emitted = body.add_input("inside/loss/emitted", ElementType::Float, shape.clone());
    let outer = |v: V<'_>| (v.builder().graph().name_of(v.id()).to_owned(), v.shape());
    let [skip, none] =
        [outer(skip), outer(none)].map(|(name, shape)| body.capture(&name, Some(ElementType::Float), shape));
    let after = Builder::scope(&mut body, "inside/loss", |b| {
        let (before, emitted, skip, none) = (b.value(before), b.value(emitted), b.value(skip), b.value(none));
        let shifted = |parts: &[V<'_>], from_end: i64| {
            let kept = before.slice(&[(1, 0, -from_end, 1)]);
            let parts: Vec<_> = parts.iter().map(|v| b.value(v.id())).chain([kept]).collect();
            b.concat(&parts, 1).typed(ElementType::Float, Some(shape.clone()))
        };
        let ways = [before, shifted(&[none], 1), shifted(&[none, none], 2) + skip].map(|v| v.unsqueeze(&[0]));
        let spelt = b.concat(&ways, 0).reduce("ReduceLogSumExp", &[0], false);
        (spelt + emitted).typed(ElementType::Float, Some(shape.clone())).id()
    });
    body.outputs = vec![after];
    Ok(body)
}
