//! What the tests of gradients share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

pub mod cases;

use std::collections::{HashMap, HashSet};

use dendrite_autodiff::{Result, expr::Builder, gradients};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId};
use dendrite_runtime::{Optimization, Session, SessionOptions};

/// A session on one thread.
pub fn session(graph: &Graph, optimization: Optimization) -> dendrite_runtime::Result<Session> {
    let options = SessionOptions { threads: 1, optimization, ..Default::default() };
    Session::from_graph(graph, &options)
}

/// Run a graph; its outputs by name.
pub fn try_run(graph: &Graph, feeds: &[(&str, &Tensor)]) -> dendrite_runtime::Result<HashMap<String, Tensor>> {
    Ok(session(graph, Optimization::All)?.run(feeds)?.into_iter().collect())
}

/// Run a graph that must run; its outputs by name.
pub fn run(graph: &Graph, feeds: &[(&str, &Tensor)]) -> HashMap<String, Tensor> {
    try_run(graph, feeds).unwrap_or_else(|e| panic!("{e}"))
}

/// Add `sum(weight * y)` over some outputs: a loss.
pub fn weighted_sum(graph: &mut Graph, outputs: &[(ValueId, Tensor)]) -> ValueId {
    Builder::scope(graph, "loss", |b| {
        let sums: Vec<_> = outputs
            .iter()
            .map(|(y, weight)| {
                let axes: Vec<usize> = (0..weight.shape().len()).collect();
                (b.value(*y) * b.constant(weight.clone())).sum(&axes, false)
            })
            .collect();
        b.sum(&sums).unwrap().id()
    })
}

/// The gradients of a loss as outputs of the graph; `None` where they are zero.
pub fn with_gradients(graph: &mut Graph, loss: ValueId, wrt: &[ValueId]) -> Result<Vec<Option<String>>> {
    let found = gradients(graph, loss, wrt, &HashSet::new())?;
    Ok(found
        .into_iter()
        .map(|gradient| {
            // A gradient may be an input or a constant: an output needs a node.
            let out = graph.op("Identity", "result", &[gradient?], Attributes::new());
            graph.set_type(out, Some(ElementType::Float), None);
            graph.outputs.push(out);
            Some(graph.name_of(out).to_owned())
        })
        .collect())
}

/// The largest difference, relative to max(1, max|expected|).
pub fn error(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "sizes differ");
    let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    actual.iter().zip(expected).fold(0.0, |m, (a, e)| {
        let d = (f64::from(*a) - e).abs() / scale;
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    })
}

/// A float32 input.
pub fn input(graph: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    graph.add_input(name, ElementType::Float, Shape::known(shape))
}

/// Reproducible numbers in -1..1.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}
