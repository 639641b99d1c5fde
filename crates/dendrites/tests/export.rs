//! The exported file computes what the working copy computes, and both what the formulas say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/reference.rs"]
#[allow(dead_code, unreachable_pub)]
mod reference;

use common::{Random, apart, cases, difference, file, inputs, models, patched, run, run_file, sets, tensors, working};
use dendrite_onnx::{Graph, Tensor};
use dendrite_runtime::Optimization;
use dendrites::{Activation, Connection, DendriteSet, Site, Weights, fragment::Reading, insert::insert_into_graph};
use reference::{frozen, knows, rows_of};

const ACTIVATIONS: [Activation; 3] = [Activation::Relu, Activation::Tanh, Activation::Sigmoid];

/// Sets of both connections at one site, activations in turn: the second is a layer, which no cascade reads.
fn mixed(site: &Site, count: usize) -> Vec<DendriteSet> {
    let list = std::slice::from_ref(site);
    (0..count)
        .map(|index| {
            let connection = if index == 1 { Connection::Layer } else { Connection::Neuron };
            DendriteSet { index, ..sets(list, connection, 1, ACTIVATIONS[index % 3]).remove(0) }
        })
        .collect()
}

fn variants(site: &Site) -> Vec<Vec<DendriteSet>> {
    let list = std::slice::from_ref(site);
    let mut all: Vec<Vec<DendriteSet>> = (0..=4).map(|count| mixed(site, count)).collect();
    for connection in [Connection::Neuron, Connection::Layer] {
        for activation in ACTIVATIONS {
            all.extend((1..=3).map(|count| sets(list, connection, count, activation)));
        }
    }
    all
}

/// What the sets add to the site's output, from the formulas, rows by channels.
fn contributions(graph: &Graph, site: &Site, sets: &[DendriteSet], weights: &Weights, x: &Tensor) -> Vec<f64> {
    let mut sum: Vec<f64> = Vec::new();
    for set in sets {
        let a = frozen(graph, site, sets, weights, set, x);
        let v = weights[&set.path("connection")].to_f64().unwrap();
        let conv = site.kind.is_convolution();
        let at = |k: usize, c: usize| if conv { v[c * set.width + k] } else { v[k * site.channels + c] };
        let added =
            (0..a.rows()).flat_map(|r| (0..site.channels).map(move |c| (r, c))).map(|(r, c)| match set.connection {
                Connection::Neuron => v[c] * a.at(r, c),
                Connection::Layer => (0..set.width).map(|k| at(k, c) * a.at(r, k)).sum(),
            });
        let added: Vec<f64> = added.collect();
        if sum.is_empty() {
            sum = added;
        } else {
            sum.iter_mut().zip(added).for_each(|(s, v)| *s += v);
        }
    }
    sum
}

#[test]
fn the_file_the_working_copy_and_the_formulas_agree() {
    let (mut copies, mut formulas) = (0.0f64, 0.0f64);
    for case in cases() {
        let model = file(&case.graph);
        let (graph, sites) = working(&model);
        let [site] = sites.as_slice() else { panic!("{}: {} sites", case.name, sites.len()) };
        assert_eq!(site.name, "h", "{}: bias and normalisation belong to the site", case.name);
        let mut random = Random::new(51);
        let feeds = inputs(&graph, &mut random);
        let mut observed = graph.clone();
        observed.outputs.push(site.applications[0].output);
        let main = rows_of(site, &run(&observed, &feeds)["h"]);
        let mut live = 0;
        for sets in variants(site) {
            let weights = tensors(&sites, &sets, &mut random, true);
            let bytes = patched(&model, &graph, &sites, &sets, &weights);
            let mut copy = graph.clone();
            insert_into_graph(&mut copy, &sites, &sets, &weights, Reading::Direct).unwrap();
            let mut perforated = graph.clone();
            insert_into_graph(&mut perforated, &sites, &sets, &weights, Reading::Perforated).unwrap();
            let expected = run(&copy, &feeds)["y"].clone();
            for (what, found) in [
                ("file", run_file(&bytes, &feeds, Optimization::Off)),
                ("file, optimised", run_file(&bytes, &feeds, Optimization::All)),
                ("perforated", run(&perforated, &feeds)),
            ] {
                let off = difference(&found["y"], &expected);
                copies = copies.max(off);
                assert!(off < 1e-6, "{}: {what}, {} sets: {off:e}", case.name, sets.len());
            }
            if !knows(case.name) {
                continue;
            }
            let added = contributions(&graph, site, &sets, &weights, &feeds[0].1);
            let y = rows_of(site, &expected).values;
            let formula: Vec<f64> =
                main.values.iter().enumerate().map(|(i, m)| (m + added.get(i).unwrap_or(&0.0)).tanh()).collect();
            // A set of two units may happen to be dead, but not often.
            live += usize::from(added.iter().any(|v| v.abs() > 0.1));
            let off = apart(&y, &formula);
            formulas = formulas.max(off);
            assert!(off < 3e-6, "{}: formula, {sets:?}: {off:e}", case.name);
        }
        assert!(live >= 18 || !knows(case.name), "{}: {live}", case.name);
    }
    println!("copies {copies:e}, formulas {formulas:e}");
}

#[test]
fn real_models_agree_with_their_working_copies() {
    for (name, model) in models() {
        let (graph, sites) = working(&model);
        let mut random = Random::new(61);
        let feeds = inputs(&graph, &mut random);
        for connection in [Connection::Neuron, Connection::Layer] {
            for count in [1, 3] {
                let added = sets(&sites, connection, count, Activation::Tanh);
                let weights: Weights = tensors(&sites, &added, &mut random, true)
                    .into_iter()
                    .map(|(name, t)| {
                        // Connections of the size training gives them, so that deep networks stay in range.
                        let scale = if name.ends_with("/connection") { 0.1 } else { 1.0 };
                        let values: Vec<f32> = t.to_f32().unwrap().iter().map(|v| v * scale).collect();
                        (name, Tensor::from_f32(t.shape(), &values))
                    })
                    .collect();
                let mut copy = graph.clone();
                insert_into_graph(&mut copy, &sites, &added, &weights, Reading::Direct).unwrap();
                let expected = run(&copy, &feeds);
                let found = run_file(&patched(&model, &graph, &sites, &added, &weights), &feeds, Optimization::Off);
                for (output, tensor) in expected {
                    let off = difference(&found[&output], &tensor);
                    println!("{name}: {count} {connection:?}: {output}: {off:e}");
                    assert!(off < 1e-6, "{name}: {count} {connection:?}: {output}: {off:e}");
                }
            }
        }
    }
}
