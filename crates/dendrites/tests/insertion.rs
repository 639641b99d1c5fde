//! A new set changes no output: in every model, for both connections, at every level of optimisation.
//! `DENDRITE_MODELS=FOLDER cargo test -p dendrites --test insertion` adds every .onnx file below a folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::{
    Random, cases, difference, file, inputs, models, patched, recurrent_cases, run_file, sets, tensors, tied_cases,
    working,
};
use dendrite_onnx::{Model, Patch, Severity, Tensor, check, ops::cost};
use dendrite_runtime::Optimization;
use dendrites::{
    Activation, Connection, Plan, PlannedSite,
    fragment::Reading,
    insert::{insert_into_graph, insert_into_patch},
};
use onnx_protobuf::Message as _;

const ACTIVATIONS: [Activation; 3] = [Activation::Relu, Activation::Tanh, Activation::Sigmoid];
const LEVELS: [(Optimization, f64); 4] =
    [(Optimization::Off, 0.0), (Optimization::Basic, 0.0), (Optimization::Extended, 0.0), (Optimization::All, 1e-6)];

fn worst(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> f64 {
    assert!(a.keys().eq(b.keys()));
    a.iter().map(|(name, tensor)| difference(tensor, &b[name])).fold(0.0, f64::max)
}

/// Real models, and one of every kind of site.
fn all() -> Vec<(String, Model)> {
    let mut all = models();
    all.extend(
        cases()
            .into_iter()
            .chain(tied_cases(true))
            .chain(recurrent_cases())
            .map(|case| (case.name.to_owned(), file(&case.graph))),
    );
    all
}

#[test]
fn no_dendrite_no_byte() {
    for (name, model) in all() {
        let (graph, sites) = working(&model);
        assert!(!sites.is_empty(), "{name}");
        assert_eq!(patched(&model, &graph, &sites, &[], &Default::default()), model.bytes().to_vec(), "{name}");
    }
}

#[test]
fn insertion_changes_no_output() {
    for (name, model) in all() {
        let (graph, sites) = working(&model);
        let mut random = Random::new(1);
        let feeds = inputs(&graph, &mut random);
        let mut before = Vec::new();
        for (level, _) in LEVELS {
            before.push(run_file(model.bytes(), &feeds, level));
        }
        for connection in [Connection::Neuron, Connection::Layer] {
            for count in 1..=3 {
                let added = sets(&sites, connection, count, ACTIVATIONS[count - 1]);
                let weights = tensors(&sites, &added, &mut random, false);
                let bytes = patched(&model, &graph, &sites, &added, &weights);
                for ((level, tolerance), before) in LEVELS.into_iter().zip(&before) {
                    let off = worst(&run_file(&bytes, &feeds, level), before);
                    println!("{name}: {count} {connection:?}, {level:?}: {off:e}");
                    assert!(off <= tolerance, "{name}: {count} {connection:?}, {level:?}: {off:e}");
                }
            }
        }
    }
}

#[test]
fn the_file_stays_what_it_was() {
    for (name, model) in all() {
        let (graph, sites) = working(&model);
        let added = sets(&sites, Connection::Neuron, 2, Activation::Relu);
        let weights = tensors(&sites, &added, &mut Random::new(2), true);
        let bytes = patched(&model, &graph, &sites, &added, &weights);
        let grown = Model::from_bytes(bytes.clone()).unwrap();
        let errors: Vec<_> = check(&grown).into_iter().filter(|f| f.severity == Severity::Error).collect();
        assert_eq!(errors, [], "{name}");

        let (old, new) = (
            onnx_protobuf::ModelProto::parse_from_bytes(model.bytes()).unwrap(),
            onnx_protobuf::ModelProto::parse_from_bytes(&bytes).unwrap(),
        );
        assert_eq!((new.ir_version, &new.opset_import), (old.ir_version, &old.opset_import), "{name}");
        assert_eq!(new.graph.output, old.graph.output, "{name}");
        assert_eq!(new.metadata_props, old.metadata_props, "{name}");
        // Old initializers and inputs come first, unchanged; below IR 4 every new initializer is an input too.
        let count = old.graph.initializer.len();
        assert_eq!(new.graph.initializer[..count], old.graph.initializer[..], "{name}");
        let names = |g: &onnx_protobuf::GraphProto| -> Vec<String> { g.input.iter().map(|i| i.name.clone()).collect() };
        let fresh: Vec<&str> = new.graph.initializer[count..].iter().map(|t| t.name.as_str()).collect();
        assert_eq!(fresh.len(), weights.len(), "{name}");
        let inputs = names(&new.graph);
        assert_eq!(inputs[..old.graph.input.len()], names(&old.graph)[..], "{name}");
        assert_eq!(
            inputs[old.graph.input.len()..].to_vec(),
            if old.ir_version < 4 { fresh.clone() } else { Vec::new() },
            "{name}"
        );
        for tensor in &new.graph.initializer[count..] {
            assert!(weights[&tensor.name].bytes()[..] == tensor.raw_data[..], "{name}: {}", tensor.name);
            assert!(tensor.name.contains("/dendrite_"), "{name}: {}", tensor.name);
        }
    }
}

#[test]
fn a_grown_file_grows_again() {
    for (name, model) in all().into_iter().filter(|(_, m)| m.bytes().len() < 1 << 20) {
        let mut random = Random::new(3);
        let mut model = model;
        let feeds = inputs(&working(&model).0, &mut random);
        let mut count = working(&model).1.len();
        for round in 0..3 {
            let (graph, sites) = working(&model);
            assert!(round == 0 || sites.len() > count, "{name}: a dendrite is a site itself");
            count = sites.len();
            let connection = if round == 1 { Connection::Layer } else { Connection::Neuron };
            let added = sets(&sites, connection, 2, Activation::Relu);
            // First inert, so that outputs can be compared, then as they are.
            let inert = tensors(&sites, &added, &mut random, false);
            let bytes = patched(&model, &graph, &sites, &added, &inert);
            let off = worst(
                &run_file(&bytes, &feeds, Optimization::Off),
                &run_file(model.bytes(), &feeds, Optimization::Off),
            );
            assert_eq!(off, 0.0, "{name}, round {round}");
            let live = tensors(&sites, &added, &mut random, true);
            model = Model::from_bytes(patched(&model, &graph, &sites, &added, &live)).unwrap();
            let errors: Vec<_> = check(&model).into_iter().filter(|f| f.severity == Severity::Error).collect();
            assert_eq!(errors, [], "{name}, round {round}");
            if sites.len() > 40 {
                break;
            }
        }
    }
}

/// D sets add D * P + C * D (D + 1) / 2 parameters and D times the site's multiply-accumulates.
#[test]
fn parameters_and_work_follow_the_formulas() {
    for (name, model) in all() {
        let (graph, every) = working(&model);
        let (sites, recurrent): (Vec<_>, Vec<_>) = every.into_iter().partition(|s| !s.kind.is_recurrent());
        let (parameters, macs) = (cost::model_parameters(&graph), cost::model_macs(&graph));
        let own = |s: &dendrites::Site| s.weight_shape.iter().product::<usize>() + if s.bias { s.channels } else { 0 };
        let site_macs: Option<u64> =
            sites.iter().flat_map(|s| &s.applications).map(|a| cost::node_cost(&graph, a.node).macs).sum();
        for d in 0..=3usize {
            let added = sets(&sites, Connection::Neuron, d, Activation::Relu);
            let expected: usize = sites.iter().map(|s| d * own(s) + s.channels * d * (d + 1) / 2).sum();
            let counted: usize = added
                .iter()
                .map(|set| set.parameters(sites.iter().find(|s| s.name == set.site).unwrap(), &added))
                .sum();
            assert_eq!(counted, expected, "{name}, {d}");
            let planned = sites.iter().map(|s| PlannedSite { name: s.name.clone(), dendrites: 1 }).collect();
            let plan = Plan { connect: Connection::Neuron, cycles: d, sites: planned };
            assert_eq!(plan.parameters(&sites, d), expected, "{name}, {d}");

            let weights = tensors(&sites, &added, &mut Random::new(4), true);
            let grown = Model::from_bytes(patched(&model, &graph, &sites, &added, &weights)).unwrap();
            let (grown, _) = working(&grown);
            // A connection of a single number counts as a setting there.
            let single: usize = sites.iter().filter(|s| s.channels == 1).map(|_| d * (d + 1) / 2).sum();
            assert_eq!(cost::model_parameters(&grown), parameters + expected - single, "{name}, {d}");
            if let (Some(macs), Some(more)) = (macs, site_macs) {
                assert_eq!(cost::model_macs(&grown), Some(macs + d as u64 * more), "{name}, {d}");
            }
            if name.ends_with("letters.onnx") && d == 3 {
                assert_eq!(cost::model_parameters(&grown), 3108);
            }
        }
        let sites: Vec<_> = sites.into_iter().chain(recurrent).collect();
        let added = sets(&sites, Connection::Layer, 1, Activation::Relu);
        let expected: usize =
            sites.iter().zip(&added).map(|(s, set)| set.width * (own(s) / s.channels + s.channels)).sum();
        let counted: usize = added.iter().zip(&sites).map(|(set, site)| set.parameters(site, &added)).sum();
        assert_eq!(counted, expected, "{name}, layer");
    }
}

#[test]
fn a_set_that_does_not_fit_is_an_error() {
    let (_, model) = models().into_iter().find(|(n, _)| n.ends_with("letters.onnx")).unwrap();
    let (graph, sites) = working(&model);
    let added = sets(&sites, Connection::Neuron, 1, Activation::Relu);
    let mut weights = tensors(&sites, &added, &mut Random::new(5), false);
    weights.insert(added[0].path("weight"), Tensor::from_f32(&[1], &[0.0]));
    let mut patch = Patch::new();
    let error = insert_into_patch(&mut patch, &model, &graph, &sites, &added, &weights).unwrap_err();
    assert!(error.to_string().contains("has shape [1]"), "{error}");
    weights.remove(&added[0].path("weight"));
    let error = insert_into_patch(&mut patch, &model, &graph, &sites, &added, &weights).unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
}

/// A value of the model that is called like a dendrite's is not wired to it by accident.
#[test]
fn a_taken_name_is_an_error() {
    for taken in ["h/main", "h/dendrite_0/weight", "h/dendrite_0/activation"] {
        let case = common::cases().into_iter().find(|c| c.name == "gemm").unwrap();
        let mut graph = case.graph;
        let h = graph.find("h").unwrap();
        let other = graph.op("Neg", taken, &[h], Default::default());
        graph.set_type(other, Some(dendrite_onnx::ElementType::Float), None);
        graph.outputs.push(other);
        let model = common::file(&graph);
        let (mut graph, sites) = working(&model);
        let added = sets(&sites, Connection::Neuron, 1, Activation::Relu);
        let weights = tensors(&sites, &added, &mut Random::new(6), false);
        let mut patch = Patch::new();
        let error = insert_into_patch(&mut patch, &model, &graph, &sites, &added, &weights).unwrap_err();
        assert!(error.to_string().contains(taken), "{error}");
        let error = insert_into_graph(&mut graph, &sites, &added, &weights, Reading::Direct).unwrap_err();
        assert!(error.to_string().contains(taken), "{error}");
    }
}
