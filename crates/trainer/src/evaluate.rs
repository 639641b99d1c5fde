//! Scores. One evaluation session serves every phase of a run, since weights as inputs and weights as initializers give
//! different last bits: training graphs never score.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use dendrite_data::{Loader, Samples};
use dendrite_onnx::{ElementType, Tensor};
use dendrite_runtime::{Loop, Session, SessionOptions};
use dendrites::{Weights, fragment::Reading};

use crate::{
    error::{Error, Result},
    feed,
    memory::{is_large, planned},
    metric::{Interval, Mean, Metric, Scored, Truth, intervals},
    network::{Growth, Link, Network},
    objective::Objective,
    sequence::Sequences,
};

/// The result of an evaluation.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// The mean loss.
    pub loss: f64,
    /// The metric.
    pub metric: f64,
    /// The loss of every sample.
    pub per_sample: Vec<f64>,
    /// Predictions before softmax or sigmoid, one row a sample.
    pub predictions: Vec<f32>,
    /// The shape of one prediction.
    pub shape: Vec<usize>,
    /// What a metric of one's own gave for each sample.
    pub measured: Vec<f64>,
}

impl Score {
    /// Elements of a prediction.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The metric and the loss with their 95 % confidence intervals. `target` are the samples' targets.
    pub fn intervals(&self, basis: &Basis, target: &Tensor) -> Result<Vec<Interval>> {
        let (truth, all) = (Truth::of(target), 0..self.per_sample.len());
        let outputs = self.outputs(basis, &all);
        intervals(&basis.metric, &self.scored(basis, &truth, &outputs, &all))
    }

    /// The metric. Targets are read a block at a time where it can be taken so.
    fn metric_value(&self, basis: &Basis, samples: &Samples) -> Result<f64> {
        if !basis.metric.is_mean() {
            let (truth, rows) = (Truth::of(&samples.target_tensor()?), 0..samples.len());
            let all: Vec<usize> = rows.clone().collect();
            return basis.metric.value(&self.scored(basis, &truth, &[], &rows), &all);
        }
        let (mut mean, mut done) = (Mean::default(), 0);
        for block in samples.target_blocks() {
            let block = block?;
            let part = done..done + block.shape().first().copied().unwrap_or(0);
            let (truth, outputs) = (Truth::of(&block), self.outputs(basis, &part));
            let rows: Vec<usize> = (0..part.len()).collect();
            basis.metric.add(&self.scored(basis, &truth, &outputs, &part), &rows, &mut mean);
            done = part.end;
        }
        Ok(basis.metric.of_mean(mean))
    }

    /// The samples `part`, whose targets are `truth` and whose outputs are `outputs`.
    fn scored<'a>(&'a self, basis: &Basis, truth: &'a Truth, outputs: &'a [f32], part: &Range<usize>) -> Scored<'a> {
        Scored {
            predictions: self.rows(part),
            shape: &self.shape,
            class_axis: basis.class_axis,
            independent: basis.independent,
            truth,
            ignore: basis.ignore,
            sequences: basis.sequences,
            losses: self.per_sample.get(part.clone()).unwrap_or_default(),
            measured: self.measured.get(part.clone()).unwrap_or_default(),
            outputs,
        }
    }

    /// The predictions of the samples `part`.
    fn rows(&self, part: &Range<usize>) -> &[f32] {
        let width = self.width();
        self.predictions.get(part.start * width..part.end * width).unwrap_or_default()
    }

    /// The model's outputs for the samples `part`, where the metric compares them rather than what lies before the link.
    fn outputs(&self, basis: &Basis, part: &Range<usize>) -> Vec<f32> {
        if basis.link == Link::Identity || !matches!(basis.metric, Metric::Mae | Metric::Rmse) {
            return Vec::new();
        }
        self.rows(part).chunks_exact(self.width().max(1)).flat_map(|row| basis.link.apply(row, &self.shape)).collect()
    }
}

/// What a metric needs to know besides predictions and targets.
#[derive(Debug, Clone)]
pub struct Basis {
    /// The metric.
    pub metric: Metric,
    /// What lies between predictions and the model's output.
    pub link: Link,
    /// The axis of predictions that holds classes.
    pub class_axis: usize,
    /// Whether scores are independent, each behind a sigmoid.
    pub independent: bool,
    /// The class number that marks positions without a target.
    pub ignore: Option<i64>,
    /// How predictions spell sequences, where targets are such.
    pub sequences: Option<Sequences>,
}

/// An evaluation session over one structure (dendrite sets), for any weights of it.
pub struct Evaluator {
    pass: Loop,
    /// Whether what it computes takes much memory.
    large: bool,
    batch: usize,
    basis: Basis,
    weights: Vec<String>,
    target: String,
    weight: String,
    /// The shape of one prediction.
    shape: Vec<usize>,
}

const PER_SAMPLE: &str = "evaluation/per_sample";
const PREDICTION: &str = "evaluation/prediction";
const MEASURED: &str = "evaluation/measured";

impl Evaluator {
    /// Build a session for the structure of `growth`; `names` are the weights that later calls may change.
    pub fn new(
        network: &Network,
        growth: &Growth,
        names: &[String],
        objective: &Objective,
        samples: &Samples,
        batch: usize,
        session: &SessionOptions,
    ) -> Result<Self> {
        let mut graph = network.grown(growth, Reading::Direct)?;
        let mut feeds: Vec<(String, ElementType, Vec<usize>)> = Vec::new();
        let mut initial = Vec::new();
        for name in names {
            let Some(id) = graph.find(name) else { continue };
            if let Some(tensor) = graph.constant_to_input(id) {
                feeds.push((name.clone(), tensor.element_type(), tensor.shape().to_vec()));
                initial.push((name.clone(), tensor));
            }
        }
        network.bind(&mut graph, &feed::shapes(samples, batch))?;
        let values = objective.attach(&mut graph, network.prediction)?;
        let per_sample = graph.op("Identity", PER_SAMPLE, &[values.per_sample], Default::default());
        let prediction = graph.op("Identity", PREDICTION, &[network.prediction], Default::default());
        graph.outputs = vec![per_sample, prediction];
        if let Some(measured) = objective.attach_metric(&mut graph, network, values.target)? {
            let measured = graph.op("Identity", MEASURED, &[measured], Default::default());
            graph.outputs.push(measured);
        }
        feeds.extend(feed::inputs(samples, batch));
        let target_name = graph.name_of(values.target).to_owned();
        let weight_name = graph.name_of(values.weight).to_owned();
        feeds.push(feed::target(samples, &target_name, batch)?);
        feeds.push((weight_name.clone(), ElementType::Float, vec![batch]));
        graph.prune();
        let prediction_shape =
            graph.value(network.prediction).shape.as_ref().and_then(|s| s.as_known()).ok_or_else(|| Error::Option {
                reason: format!("the shape of the output '{}' is not known", network.output),
                hint: "export the model with fixed sizes, or train another output with --output".to_owned(),
            })?;
        let shape = prediction_shape.iter().skip(1).copied().collect();
        let mut fetches = vec![
            (PER_SAMPLE.to_owned(), ElementType::Float, vec![batch]),
            (PREDICTION.to_owned(), ElementType::Float, prediction_shape),
        ];
        if graph.outputs.len() > 2 {
            fetches.push((MEASURED.to_owned(), ElementType::Float, vec![batch]));
        }
        let large = is_large(&graph);
        let session = Session::from_graph(&graph, &planned(&graph, session))?;
        let known: Vec<String> = session.inputs().iter().map(|p| p.name.clone()).collect();
        feeds.retain(|(name, _, _)| known.contains(name));
        let mut pass = Loop::new(session, Vec::new(), &feeds, &fetches)?;
        for (name, tensor) in &initial {
            if known.contains(name) {
                pass.write(name, tensor.bytes())?;
            }
        }
        feed::write_constants(&mut pass, samples)?;
        if known.contains(&weight_name) {
            pass.write_f32(&weight_name, &vec![1.0; batch])?;
        }
        Ok(Evaluator {
            pass,
            large,
            batch,
            basis: objective.basis(network),
            weights: initial.into_iter().map(|(name, _)| name).filter(|n| known.contains(n)).collect(),
            target: target_name,
            weight: weight_name,
            shape,
        })
    }

    /// What the metric is taken of.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The name of the per-sample weight, which evaluation holds at one.
    pub fn weight_input(&self) -> &str {
        &self.weight
    }

    /// Let the session use `weights` from now on; names it does not know are passed over.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        for (name, tensor) in weights {
            if self.weights.contains(name) {
                self.pass.write(name, tensor.bytes())?;
            }
        }
        Ok(())
    }

    /// Score all of `samples`.
    pub fn score(&mut self, samples: &Samples) -> Result<Score> {
        self.score_unless(samples, &AtomicBool::new(false))
    }

    /// Score all of `samples`, or fail with [`Error::Interrupted`] once `interrupt` is set.
    pub fn score_unless(&mut self, samples: &Samples, interrupt: &AtomicBool) -> Result<Score> {
        let rows = samples.len();
        let mut score = Score {
            loss: 0.0,
            metric: 0.0,
            per_sample: Vec::with_capacity(rows),
            predictions: Vec::new(),
            shape: self.shape.clone(),
            measured: Vec::new(),
        };
        let width = score.width();
        score.predictions.reserve(rows * width);
        let (mut losses, mut predictions, mut measured) = (Vec::new(), Vec::new(), Vec::new());
        // The last batch is filled up with its first row; what is computed for the filling is dropped.
        let mut batches = Loader::new(samples, self.batch, 0..rows, None)?;
        while let Some(batch) = batches.next() {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let batch = batch?;
            let count = batch.count;
            feed::write(&mut self.pass, samples, &batch, &self.target)?;
            if self.large && batches.remaining() == 0 {
                // Training goes on, for long: what scoring needed is of use to it.
                self.pass.step_and_release()?;
            } else {
                self.pass.step()?;
            }
            self.pass.read_f32(PER_SAMPLE, &mut losses)?;
            self.pass.read_f32(PREDICTION, &mut predictions)?;
            score.per_sample.extend(losses.iter().take(count).map(|l| f64::from(*l)));
            score.predictions.extend(predictions.iter().take(count * width));
            if matches!(self.basis.metric, Metric::Graph { .. }) {
                self.pass.read_f32(MEASURED, &mut measured)?;
                score.measured.extend(measured.iter().take(count).map(|v| f64::from(*v)));
            }
        }
        score.loss = score.per_sample.iter().sum::<f64>() / rows.max(1) as f64;
        score.metric = score.metric_value(&self.basis, samples)?;
        Ok(score)
    }
}

#[cfg(test)]
mod tests {
    use dendrite_data::{Input, Request};

    use super::*;

    #[test]
    fn a_metric_taken_in_blocks_is_that_of_the_whole() -> Result<()> {
        let rows = 300_000;
        let number = |i: usize| (i as f32 * 0.37).sin() * 3.0;
        let predictions: Vec<f32> = (0..rows).map(number).collect();
        let target: Vec<f32> = (0..rows).map(|i| number(i + 5).max(0.0)).collect();
        let inputs = vec![Input::new("x", ElementType::Float, None)];
        let request = Request { inputs, target: Some("target".to_owned()), ..Request::default() };
        let column = |values: &[f32]| Tensor::from_f32(&[rows, 1], values);
        let arrays = vec![("x".to_owned(), column(&predictions)), ("target".to_owned(), column(&target))];
        let samples = Samples::from_arrays("memory", arrays, &request)?;
        assert!(samples.target_blocks().count() > 1);
        let score = Score {
            per_sample: predictions.iter().map(|p| f64::from(*p)).collect(),
            predictions,
            shape: vec![1],
            ..Score::default()
        };
        for (metric, link) in
            [(Metric::Mae, Link::Sigmoid), (Metric::Rmse, Link::Identity), (Metric::Accuracy, Link::Sigmoid)]
        {
            let basis = Basis { metric, link, class_axis: 1, independent: true, ignore: None, sequences: None };
            let (truth, all) = (Truth::of(&samples.target_tensor()?), 0..rows);
            let outputs = score.outputs(&basis, &all);
            let whole = score.scored(&basis, &truth, &outputs, &all);
            let expected = basis.metric.value(&whole, &all.clone().collect::<Vec<_>>())?;
            assert_eq!(score.metric_value(&basis, &samples)?, expected, "{}", basis.metric.name());
        }
        Ok(())
    }
}
