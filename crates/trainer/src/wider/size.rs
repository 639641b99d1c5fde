//! How many units each layer gets.

use std::collections::BTreeMap;

use dendrite_onnx::{Graph, ValueId};

use crate::wider::hidden::Hidden;

/// Units for every layer, in proportion to its width, whose parameters together come nearest to `wanted`.
pub(super) fn units(graph: &Graph, layers: &[Hidden], wanted: usize) -> Vec<usize> {
    let scaled = |by: f64| -> Vec<usize> { layers.iter().map(|l| (by * l.units as f64).round() as usize).collect() };
    let added = |units: &[usize]| parameters(graph, layers, units);
    let (mut low, mut high) = (0.0, 1.0);
    while added(&scaled(high)) < wanted {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if added(&scaled(middle)) < wanted { low = middle } else { high = middle }
    }
    let off = |units: &[usize]| added(units).abs_diff(wanted);
    let mut best = scaled(low);
    if off(&scaled(high)) < off(&best) {
        best = scaled(high);
    }
    // What rounding has left, a unit at a time.
    loop {
        let moved = (0..layers.len()).flat_map(|i| {
            let (mut more, mut less) = (best.clone(), best.clone());
            more[i] += 1;
            less[i] = less[i].saturating_sub(1);
            [more, less]
        });
        match moved.min_by_key(|units| off(units)) {
            Some(units) if off(&units) < off(&best) => best = units,
            _ => return best,
        }
    }
}

/// Parameters that `units` more a layer add.
fn parameters(graph: &Graph, layers: &[Hidden], units: &[usize]) -> usize {
    let mut sizes: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
    for (layer, n) in layers.iter().zip(units) {
        for edit in layer.edits.iter().filter(|e| e.counts) {
            let shape = || graph.constant(edit.value).map_or(Vec::new(), |t| t.shape().to_vec());
            let shape = sizes.entry(edit.value).or_insert_with(shape);
            shape[edit.axis] += edit.layout.outer * edit.layout.inner * n;
        }
    }
    let old = |value: ValueId| graph.constant(value).map_or(0, dendrite_onnx::Tensor::len);
    sizes.into_iter().map(|(value, shape)| shape.iter().product::<usize>() - old(value)).sum()
}
