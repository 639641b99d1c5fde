//! Scores. One evaluation session serves every phase of a run, since weights as inputs and weights as initializers give
//! different last bits: training graphs never score.

use dendrite_onnx::{ElementType, Tensor};
use dendrite_runtime::{Loop, Session, SessionOptions};
use dendrites::{Weights, fragment::Reading};

use crate::{
    data::{Samples, gather_rows},
    error::Result,
    metric::Metric,
    network::{Growth, Network},
    objective::Objective,
};

/// The result of an evaluation.
#[derive(Debug, Clone)]
pub struct Score {
    /// The mean loss.
    pub loss: f64,
    /// The metric.
    pub metric: f64,
    /// The loss of every sample.
    pub per_sample: Vec<f64>,
    /// Predictions before softmax or sigmoid, one row a sample.
    pub predictions: Vec<f32>,
    /// Elements of a prediction.
    pub width: usize,
}

/// An evaluation session over one structure (dendrite sets), for any weights of it.
pub struct Evaluator {
    pass: Loop,
    batch: usize,
    metric: Metric,
    weights: Vec<String>,
    target: String,
    weight: String,
    width: usize,
}

const PER_SAMPLE: &str = "evaluation/per_sample";
const PREDICTION: &str = "evaluation/prediction";

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
        let shapes: Vec<(String, Vec<usize>)> =
            samples.fields().iter().map(|(name, array)| (name.clone(), batch_shape(array, batch))).collect();
        Network::bind_shapes(&mut graph, &shapes)?;
        let target = samples.target().ok_or_else(|| samples.error("it holds no target".to_owned(), "say --target"))?;
        let values = objective.attach(&mut graph, network.prediction)?;
        let width = {
            let shape = graph.value(network.prediction).shape.as_ref().and_then(|s| s.as_known()).unwrap_or_default();
            shape.iter().skip(1).product::<usize>()
        };
        let per_sample = graph.op("Identity", PER_SAMPLE, &[values.per_sample], Default::default());
        let prediction = graph.op("Identity", PREDICTION, &[network.prediction], Default::default());
        graph.outputs = vec![per_sample, prediction];
        for (name, array) in samples.fields() {
            feeds.push((name.clone(), array.element_type(), batch_shape(array, batch)));
        }
        let target_name = graph.name_of(values.target).to_owned();
        let weight_name = graph.name_of(values.weight).to_owned();
        feeds.push((target_name.clone(), target.element_type(), batch_shape(target, batch)));
        feeds.push((weight_name.clone(), ElementType::Float, vec![batch]));
        graph.prune();
        let prediction_shape = graph
            .value(network.prediction)
            .shape
            .as_ref()
            .and_then(|s| s.as_known())
            .unwrap_or_else(|| vec![batch, width]);
        let fetches = [
            (graph.name_of(per_sample).to_owned(), ElementType::Float, vec![batch]),
            (graph.name_of(prediction).to_owned(), ElementType::Float, prediction_shape),
        ];
        let session = Session::from_graph(&graph, session)?;
        let known: Vec<String> = session.inputs().iter().map(|p| p.name.clone()).collect();
        feeds.retain(|(name, _, _)| known.contains(name));
        let mut pass = Loop::new(session, Vec::new(), &feeds, &fetches)?;
        for (name, tensor) in &initial {
            if known.contains(name) {
                pass.write(name, tensor.bytes())?;
            }
        }
        if known.contains(&weight_name) {
            pass.write_f32(&weight_name, &vec![1.0; batch])?;
        }
        Ok(Evaluator {
            pass,
            batch,
            metric: objective.metric,
            weights: initial.into_iter().map(|(name, _)| name).filter(|n| known.contains(n)).collect(),
            target: target_name,
            weight: weight_name,
            width,
        })
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
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
        let target = samples.target().ok_or_else(|| samples.error("it holds no target".to_owned(), "say --target"))?;
        let rows = samples.len();
        let mut score = Score {
            loss: 0.0,
            metric: 0.0,
            per_sample: Vec::with_capacity(rows),
            predictions: Vec::with_capacity(rows * self.width),
            width: self.width,
        };
        let mut buffer = Vec::new();
        let (mut losses, mut predictions) = (Vec::new(), Vec::new());
        for start in (0..rows).step_by(self.batch) {
            let count = self.batch.min(rows - start);
            // The last batch is filled up with its first row; what is computed for the filling is dropped.
            let indices: Vec<usize> = (0..self.batch).map(|i| if i < count { start + i } else { start }).collect();
            for (name, array) in
                samples.fields().iter().map(|(n, a)| (n.as_str(), a)).chain([(self.target.as_str(), target)])
            {
                write_rows(&mut self.pass, name, array, &indices, &mut buffer)?;
            }
            self.pass.step()?;
            self.pass.read_f32(PER_SAMPLE, &mut losses)?;
            self.pass.read_f32(PREDICTION, &mut predictions)?;
            score.per_sample.extend(losses.iter().take(count).map(|l| f64::from(*l)));
            score.predictions.extend(predictions.iter().take(count * self.width));
        }
        score.loss = score.per_sample.iter().sum::<f64>() / rows.max(1) as f64;
        score.metric = self.metric.value(&score.predictions, self.width, target, &score.per_sample);
        Ok(score)
    }
}

/// The shape of `batch` rows of an array.
pub fn batch_shape(array: &Tensor, batch: usize) -> Vec<usize> {
    let mut shape = array.shape().to_vec();
    if let Some(first) = shape.first_mut() {
        *first = batch;
    }
    shape
}

/// Copy rows of an array into an input of a pass. `buffer` is scratch space.
pub fn write_rows(pass: &mut Loop, name: &str, array: &Tensor, indices: &[usize], buffer: &mut Vec<u8>) -> Result<()> {
    let rows = array.shape().first().copied().unwrap_or(1).max(1);
    buffer.resize(array.bytes().len() / rows * indices.len(), 0);
    gather_rows(array, indices, buffer);
    pass.write(name, buffer)?;
    Ok(())
}

/// A metric with its 95 % confidence interval.
#[derive(Debug, Clone)]
pub struct Interval {
    /// The metric.
    pub name: &'static str,
    /// The estimate.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The 97.5 % point of the normal distribution.
const TWO_SIDED: f64 = 1.959_964;

/// The metric and the loss of a score with 95 % intervals: Wilson's for the accuracy, the normal one for means.
pub fn interval(metric: Metric, score: &Score, target: Option<&Tensor>) -> Vec<Interval> {
    let n = score.per_sample.len().max(1) as f64;
    let mut rows = Vec::new();
    match metric {
        Metric::Accuracy => {
            let (p, z2) = (score.metric, TWO_SIDED * TWO_SIDED);
            let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
            let half = TWO_SIDED / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
            rows.push(Interval { name: metric.name(), value: p, low: centre - half, high: centre + half });
        }
        Metric::Mae | Metric::Rmse => {
            let target = target.and_then(Tensor::to_f32).unwrap_or_default();
            let width = score.width.max(1);
            let per_sample: Vec<f64> = score
                .predictions
                .chunks_exact(width)
                .zip(target.chunks_exact(width))
                .map(|(p, t)| {
                    let errors = p.iter().zip(t).map(|(p, t)| f64::from(p - t));
                    let sum: f64 =
                        if metric == Metric::Mae { errors.map(f64::abs).sum() } else { errors.map(|e| e * e).sum() };
                    sum / width as f64
                })
                .collect();
            let (mean, half) = mean_interval(&per_sample);
            let shown = |v: f64| if metric == Metric::Rmse { v.max(0.0).sqrt() } else { v };
            let (low, high) = (shown(mean - half), shown(mean + half));
            rows.push(Interval { name: metric.name(), value: score.metric, low, high });
        }
        Metric::Loss => {}
    }
    let (mean, half) = mean_interval(&score.per_sample);
    rows.push(Interval { name: Metric::Loss.name(), value: mean, low: mean - half, high: mean + half });
    rows
}

/// A mean and half the width of its interval.
fn mean_interval(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, TWO_SIDED * (variance / n).sqrt())
}
