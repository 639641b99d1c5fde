//! Every rule's result has rules itself: the gradient of |gradient|^2 / 2 of every case against differences of the gradient.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;

use common::{
    cases::{FAMILIES, cases, label, stored},
    numbers, session, weighted_sum,
};
use dendrite_autodiff::{expr::Builder, gradients};
use dendrite_onnx::{Graph, Tensor, ValueId};
use dendrite_runtime::Optimization;

/// Half of the difference, along a direction with components up to 1.
const STEP: f32 = 1e-3;
const TOLERANCE: f64 = 5e-3;

/// The derivative along a direction, and how far it is from that of differences, relative to the sizes of what is summed.
fn check(case: &Graph) -> Result<(f64, f64), String> {
    let mut graph = case.clone();
    let outputs: Vec<_> = graph.outputs.iter().filter_map(|y| Some((*y, stored(&graph, "weight", *y)?))).collect();
    let wrt = graph.inputs.clone();
    let loss = weighted_sum(&mut graph, &outputs);
    let first = gradients(&mut graph, loss, &wrt, &HashSet::new()).map_err(|e| e.to_string())?;
    let known: Vec<usize> = (0..wrt.len()).filter(|i| first[*i].is_some()).collect();
    if known.is_empty() {
        return Ok((0.0, 0.0));
    }
    let energy = Builder::scope(&mut graph, "energy", |b| {
        let halves = first.iter().flatten().map(|g| {
            let g = b.value(*g);
            (g * g).sum(&(0..g.rank().unwrap()).collect::<Vec<_>>(), false) * 0.5
        });
        b.sum(&halves.collect::<Vec<_>>()).unwrap().id()
    });
    let second = gradients(&mut graph, energy, &wrt, &HashSet::new()).map_err(|e| format!("again: {e}"))?;
    graph.outputs = known
        .iter()
        .filter_map(|i| first[*i])
        .chain(second.iter().flatten().copied())
        .map(|v| named(&mut graph, v))
        .collect();
    let values: Vec<Tensor> = wrt.iter().map(|v| stored(&graph, "value", *v).unwrap()).collect();
    let directions: Vec<Vec<f32>> = values.iter().enumerate().map(|(i, t)| numbers(t.len(), 40 + i as u64)).collect();
    let names: Vec<String> = wrt.iter().map(|v| graph.name_of(*v).to_owned()).collect();
    let mut session = session(&graph, Optimization::All).map_err(|e| e.to_string())?;
    let mut at = |by: f32| -> Result<Vec<Vec<f64>>, String> {
        let moved = values.iter().zip(&directions).map(|(t, d)| {
            let numbers: Vec<f32> = t.to_f32().unwrap().iter().zip(d).map(|(v, d)| v + by * d).collect();
            Tensor::from_f32(t.shape(), &numbers)
        });
        let tensors: Vec<Tensor> = moved.collect();
        let feeds: Vec<_> = names.iter().map(String::as_str).zip(&tensors).collect();
        let results = session.run(&feeds).map_err(|e| e.to_string())?;
        Ok(results.into_iter().map(|(_, t)| t.to_f64().unwrap()).collect())
    };
    let (exact, ahead, behind) = (at(0.0)?, at(STEP)?, at(-STEP)?);
    let (mut expected, mut size) = (0.0, 1.0f64);
    for i in 0..known.len() {
        for j in 0..exact[i].len() {
            let part = exact[i][j] * (ahead[i][j] - behind[i][j]) / (2.0 * f64::from(STEP));
            expected += part;
            size += part.abs();
        }
    }
    let along = (0..wrt.len()).filter(|i| second[*i].is_some());
    let actual: f64 = along
        .zip(&exact[known.len()..])
        .flat_map(|(i, g)| g.iter().zip(&directions[i]).map(|(g, d)| g * f64::from(*d)))
        .sum();
    let error = (actual - expected).abs() / size;
    Ok((actual, if error.is_nan() { f64::INFINITY } else { error }))
}

/// The same value as an output of its own: a gradient may be an input, or that of two.
fn named(graph: &mut Graph, v: ValueId) -> ValueId {
    let out = graph.op("Identity", "result", &[v], dendrite_onnx::Attributes::new());
    let value = graph.value(v);
    let (element_type, shape) = (value.element_type, value.shape.clone());
    graph.set_type(out, element_type, shape);
    out
}

#[test]
fn every_gradient_is_differentiated_again() {
    let (mut failures, mut curved) = (Vec::new(), 0);
    for family in FAMILIES {
        for (i, case) in cases(family).iter().enumerate() {
            let op = label(case.nodes().next().unwrap().1);
            match check(case) {
                Ok((along, e)) if e <= TOLERANCE => curved += usize::from(along.abs() > 1e-2),
                Ok((_, e)) => failures.push(format!("{family} {i}: {op} differs by {e:.2e}")),
                Err(e) => failures.push(format!("{family} {i}: {op}: {e}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{curved} cases with a second derivative");
    assert!(curved > 300);
}
