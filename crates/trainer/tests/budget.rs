//! A run whose time is used up ends, and says what it ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::atomic::AtomicBool, time::Duration};

use common::pairs;
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor};
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{DataSet, Event, Options, Run, grow, grow::Outcome, options::Time};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn model() -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut graph = Graph::new("two layers", 17);
    let batch = || Dim::Symbol("n".to_owned());
    let mut value = graph.add_input("x", ElementType::Float, Shape(vec![batch(), Dim::Known(2)]));
    for (name, inputs, outputs) in [("hidden", 2, 16), ("y", 16, 1)] {
        let values: Vec<f32> = (0..inputs * outputs).map(|_| rng.random::<f32>() - 0.5).collect();
        let w = graph.add_constant(&format!("{name}.weight"), Tensor::from_f32(&[inputs, outputs], &values));
        value = graph.op("MatMul", name, &[value, w], Attributes::new());
    }
    graph.set_type(value, Some(ElementType::Float), Some(Shape(vec![batch(), Dim::Known(1)])));
    graph.outputs = vec![value];
    Model::from_bytes(graph.to_model().unwrap().encode_to_vec()).unwrap()
}

fn data(rows: usize, seed: u64) -> DataSet {
    pairs(rows, seed, |[a, b]| a - 2.0 * b)
}

/// Run under a budget; the outcome and (kind, epochs) of what the budget ended.
fn run(options: &Options) -> (Outcome, Vec<(String, usize)>) {
    let folder = tempfile::tempdir().unwrap();
    let mut spent = Vec::new();
    let outcome = grow(&mut Run {
        model: &model(),
        train: &data(20_000, 1),
        val: &data(200, 2),
        test: None,
        options,
        plan: None,
        session: SessionOptions { threads: 1, ..Default::default() },
        folder: &folder.path().join("run"),
        resume: false,
        interrupt: &AtomicBool::new(false),
        observer: &mut |event| {
            if let Event::BudgetSpent { kind, epochs, .. } = event {
                spent.push((kind.clone(), *epochs));
            }
        },
        second_runtime: None,
    })
    .unwrap();
    (outcome, spent)
}

#[test]
fn a_dendrite_phase_gives_up() {
    let options = Options { finetune_first: false, budget: Some(Time(Duration::from_millis(1))), ..Options::default() };
    let (outcome, spent) = run(&options);
    assert_eq!(spent, [("dendrite".to_owned(), 1)]);
    assert!(!outcome.improved);
    let phases = &outcome.summary.phases;
    assert!(phases.len() == 1 && phases[0].cut && !phases[0].kept, "{phases:?}");
}

#[test]
fn a_search_for_the_learning_rate_gives_up() {
    let options = Options { dendrites: 0, budget: Some(Time(Duration::from_millis(1))), ..Options::default() };
    let (outcome, spent) = run(&options);
    assert_eq!(spent, [("finetune".to_owned(), 0)]);
    assert!(!outcome.improved);
}

#[test]
fn what_a_phase_has_reached_is_judged() {
    let options = Options {
        dendrites: 0,
        lr: Some(1e-3),
        epochs: 1_000_000,
        patience: 1_000_000,
        budget: Some(Time(Duration::from_secs(2))),
        ..Options::default()
    };
    let (outcome, spent) = run(&options);
    let phases = &outcome.summary.phases;
    assert!(matches!(spent.as_slice(), [(kind, epochs)] if kind == "finetune" && *epochs > 0), "{spent:?}");
    assert!(phases.len() == 1 && phases[0].cut && phases[0].epochs == spent[0].1, "{phases:?}");
    assert!(outcome.improved && outcome.summary.seconds < 20.0, "{:?}", outcome.summary.seconds);
}
