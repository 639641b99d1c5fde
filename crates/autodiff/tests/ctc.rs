//! The connectionist temporal classification loss against the sum over all ways to spell a sequence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{error, input, numbers, run, with_gradients};
use dendrite_autodiff::loss::{self, Loss};
use dendrite_onnx::{Graph, Tensor, WORKING_OPSET};

const STEPS: usize = 5;
const CLASSES: usize = 3;
const PADDING: i64 = -1;

/// What a way through the steps spells: equal neighbours are one, blanks are none.
fn spelt(way: &[usize], blank: usize) -> Vec<usize> {
    let mut classes = way.to_vec();
    classes.dedup();
    classes.retain(|class| *class != blank);
    classes
}

/// The loss of one sample, its logits `[STEPS, CLASSES]`.
fn reference(logits: &[f64], label: &[i64], blank: usize) -> f64 {
    let label: Vec<usize> = label.iter().take_while(|l| **l != PADDING).map(|l| *l as usize).collect();
    let probabilities: Vec<Vec<f64>> = logits
        .chunks(CLASSES)
        .map(|row| {
            let total: f64 = row.iter().map(|v| v.exp()).sum();
            row.iter().map(|v| v.exp() / total).collect()
        })
        .collect();
    let ways = (0..CLASSES.pow(STEPS as u32))
        .map(|n| (0..STEPS).map(|step| n / CLASSES.pow(step as u32) % CLASSES).collect::<Vec<_>>());
    let fitting = ways.filter(|way| spelt(way, blank) == label);
    let sum: f64 = fitting.map(|way| way.iter().zip(&probabilities).map(|(c, p)| p[*c]).product::<f64>()).sum();
    -sum.ln() / label.len().max(1) as f64
}

/// One sample a row: two classes, equal ones between which a blank has to be, as many as fit, one, none.
fn labels(blank: usize) -> (Vec<i64>, usize) {
    let [a, b] = if blank == 0 { [1, 2] } else { [0, 1] };
    let rows = [[a, b, -1, -1], [a, a, -1, -1], [b, b, a, -1], [b, -1, -1, -1], [-1, -1, -1, -1], [a, b, a, b]];
    (rows.concat(), rows.len())
}

#[test]
fn all_ways_to_spell_a_sequence_are_summed() {
    for (axis, blank) in [(2, 0), (1, 0), (2, 2)] {
        let (labels, rows) = labels(blank);
        let shape = if axis == 2 { [rows, STEPS, CLASSES] } else { [rows, CLASSES, STEPS] };
        let mut graph = Graph::new("ctc", WORKING_OPSET);
        let p = input(&mut graph, "p", &shape);
        let loss = Loss::Ctc { axis, blank: blank as i64, padding: PADDING };
        let values = loss::attach(&mut graph, p, &loss).unwrap();
        graph.outputs = vec![values.per_sample, values.mean];
        let name = with_gradients(&mut graph, values.mean, &[p]).unwrap()[0].clone().unwrap();
        let at = numbers(rows * STEPS * CLASSES, 7);
        let weights: Vec<f32> = (0..rows).map(|n| n as f32).collect();
        let results = run(
            &graph,
            &[
                ("p", &Tensor::from_f32(&shape, &at)),
                ("target", &Tensor::from_i64(&[rows, labels.len() / rows], &labels)),
                ("weight", &Tensor::from_f32(&[rows], &weights)),
            ],
        );
        let at: Vec<f64> = at.iter().map(|v| f64::from(*v)).collect();
        let width = STEPS * CLASSES;
        let losses = |at: &[f64]| -> Vec<f64> {
            let sample = |n: usize| {
                let row = &at[n * width..(n + 1) * width];
                let logits: Vec<f64> = (0..width)
                    .map(|i| if axis == 2 { row[i] } else { row[i % CLASSES * STEPS + i / CLASSES] })
                    .collect();
                reference(&logits, &labels[n * labels.len() / rows..(n + 1) * labels.len() / rows], blank)
            };
            (0..rows).map(sample).collect()
        };
        let mean = |at: &[f64]| {
            let total: f32 = weights.iter().sum();
            losses(at).iter().zip(&weights).map(|(l, w)| l * f64::from(*w)).sum::<f64>() / f64::from(total)
        };
        let got = |v| results[graph.name_of(v)].to_f32().unwrap();
        assert!(error(&got(values.per_sample), &losses(&at)) < 1e-5, "{:?} {:?}", got(values.per_sample), losses(&at));
        let gradient: Vec<f64> = (0..at.len())
            .map(|i| {
                let moved = |by: f64| {
                    let mut at = at.clone();
                    at[i] += by;
                    mean(&at)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            })
            .collect();
        assert!(error(&results[&name].to_f32().unwrap(), &gradient) < 1e-5);
    }
}

/// Three classes of two equal ones take five steps, four classes of which two pairs are equal six: that is never spelt.
#[test]
fn what_takes_more_steps_than_there_are_is_far_away_and_has_a_gradient() {
    let mut graph = Graph::new("ctc", WORKING_OPSET);
    let p = input(&mut graph, "p", &[1, STEPS, CLASSES]);
    let values = loss::attach(&mut graph, p, &Loss::Ctc { axis: 2, blank: 0, padding: PADDING }).unwrap();
    graph.outputs = vec![values.per_sample];
    let name = with_gradients(&mut graph, values.mean, &[p]).unwrap()[0].clone().unwrap();
    let results = run(
        &graph,
        &[
            ("p", &Tensor::from_f32(&[1, STEPS, CLASSES], &numbers(STEPS * CLASSES, 8))),
            ("target", &Tensor::from_i64(&[1, 4], &[1, 1, 2, 2])),
            ("weight", &Tensor::from_f32(&[1], &[1.0])),
        ],
    );
    let loss = results[graph.name_of(values.per_sample)].to_f32().unwrap()[0];
    assert!(loss.is_finite() && loss > 1e28, "{loss}");
    assert!(results[&name].to_f32().unwrap().iter().all(|v| v.is_finite()));
}
