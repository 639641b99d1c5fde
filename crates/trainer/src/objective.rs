//! Which loss and metric a run uses, told from the target where the user does not say.

use dendrite_autodiff::loss::{self, Loss, LossValues};
use dendrite_onnx::{ElementType, Graph, Model, Tensor, ValueId};
use dendrite_runtime::{SessionOptions, infer_shapes};

use crate::{
    data::Samples,
    error::Result,
    metric::Metric,
    network::{Link, Network},
    options::{LossKind, Options},
};

/// What every phase of a run works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The working copy of the model.
    pub network: &'a Network,
    /// Loss and metric.
    pub objective: &'a Objective,
    /// Data that train.
    pub samples: &'a Samples,
    /// The options.
    pub options: &'a Options,
    /// How sessions are built.
    pub session: &'a SessionOptions,
}

/// The largest temperature tried, as a power of two.
const LARGEST_TEMPERATURE: i32 = 20;

/// Loss and metric.
#[derive(Debug, Clone)]
pub struct Objective {
    /// The loss.
    pub loss: Loss,
    /// The metric.
    pub metric: Metric,
    /// What logits are divided by before the loss. Some exported models give logits in the thousands: their cross-entropy
    /// sees nothing but mistakes, and falls fastest when the network is wrecked. Divided by the power of two that fits the
    /// training data best, every sample counts, and what the network knows is kept. Predicted classes are unaffected.
    pub temperature: f64,
}

impl Objective {
    /// Choose loss and metric for `samples`, and check their target against the prediction.
    pub fn choose(network: &Network, samples: &Samples, options: &Options) -> Result<Self> {
        let Some(target) = samples.target() else {
            return Err(samples.error("it holds no target".to_owned(), "name the array 'target' or say --target"));
        };
        let prediction = network.graph.value(network.prediction).shape.clone().unwrap_or_default();
        let classes = target.element_type() == ElementType::Int64;
        let kind = match &options.loss {
            LossKind::Auto if classes => LossKind::CrossEntropy,
            LossKind::Auto => match network.link {
                Link::Softmax => LossKind::CrossEntropy,
                Link::Sigmoid => LossKind::Bce,
                Link::Identity => LossKind::Mse,
            },
            chosen => chosen.clone(),
        };
        let loss = match &kind {
            LossKind::CrossEntropy | LossKind::Auto => Loss::CrossEntropy { soft: !classes },
            LossKind::Bce => Loss::Bce,
            LossKind::Mse => Loss::Mse,
            LossKind::L1 => Loss::L1,
            LossKind::Huber => Loss::Huber { delta: 1.0 },
            LossKind::File(path) => Loss::Graph(Box::new(Model::open(path)?)),
        };
        let objective = Objective {
            temperature: 1.0,
            loss,
            metric: if kind == LossKind::CrossEntropy { Metric::Accuracy } else { Metric::Loss },
        };
        objective.check(&prediction, samples, classes)?;
        Ok(objective)
    }

    /// Whether logits may be divided by a temperature: only raw logits of classes, since probabilities are output as they
    /// are.
    pub fn tempers(&self, network: &Network) -> bool {
        matches!(self.loss, Loss::CrossEntropy { soft: false }) && network.link == Link::Identity
    }

    /// Choose the temperature that fits `predictions` (rows of `width` logits) to the classes `target` best.
    pub fn fit_temperature(&mut self, predictions: &[f32], width: usize, target: &Tensor) {
        let classes = target.to_i64().unwrap_or_default();
        if width < 2 || predictions.len() != classes.len() * width {
            return;
        }
        let loss = |temperature: f64| -> f64 {
            let rows = predictions.chunks_exact(width).zip(&classes);
            rows.map(|(row, class)| {
                let scaled = row.iter().map(|v| f64::from(*v) / temperature);
                let top = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
                let own = usize::try_from(*class).ok().and_then(|c| row.get(c)).map_or(0.0, |v| f64::from(*v));
                top + scaled.map(|v| (v - top).exp()).sum::<f64>().ln() - own / temperature
            })
            .sum()
        };
        let candidates = (0..=LARGEST_TEMPERATURE).map(|power| 2f64.powi(power));
        let best = candidates.map(|t| (t, loss(t))).min_by(|a, b| a.1.total_cmp(&b.1));
        self.temperature = best.map_or(1.0, |(t, _)| t);
    }

    /// Add the loss of a network's prediction to a graph.
    pub fn attach(&self, graph: &mut Graph, prediction: ValueId) -> Result<LossValues> {
        let mut logits = prediction;
        if self.temperature != 1.0 {
            let (element_type, shape) = {
                let value = graph.value(prediction);
                (value.element_type, value.shape.clone())
            };
            let factor = Tensor::scalar(element_type.unwrap_or(ElementType::Float), 1.0 / self.temperature);
            let factor = graph.add_constant("loss/temperature", factor);
            logits = graph.op("Mul", "loss/logits", &[prediction, factor], Default::default());
            graph.set_type(logits, element_type, shape);
        }
        let values = loss::attach(graph, logits, &self.loss)?;
        if matches!(self.loss, Loss::Graph(_)) {
            // Files of models rarely declare the shapes between their inputs and outputs.
            infer_shapes(graph)?;
        }
        Ok(values)
    }

    fn check(&self, prediction: &dendrite_onnx::Shape, samples: &Samples, classes: bool) -> Result<()> {
        let Some(target) = samples.target() else { return Ok(()) };
        match (&self.loss, classes) {
            (Loss::CrossEntropy { .. }, true) => {
                let Some(count) = prediction.dim(1).and_then(|d| d.known()) else { return Ok(()) };
                let labels = target.to_i64().unwrap_or_default();
                let width = target.len() / target.shape().first().copied().unwrap_or(1).max(1);
                match labels.iter().position(|l| usize::try_from(*l).map_or(true, |l| l >= count)) {
                    None => Ok(()),
                    Some(at) => Err(samples.error(
                        format!(
                            "the target in row {} is {}, the model has classes 0 to {}",
                            at / width.max(1),
                            labels[at],
                            count - 1
                        ),
                        "number the classes as the model's output does",
                    )),
                }
            }
            (Loss::Graph(_), _) => Ok(()),
            (_, true) => Err(samples.error(
                "the target holds integers, this loss takes floats".to_owned(),
                "save the target as float32, or choose --loss cross-entropy",
            )),
            _ => {
                let fits = target.shape().len() == prediction.rank()
                    && prediction.0.iter().zip(target.shape()).skip(1).all(|(d, n)| d.known().is_none_or(|d| d == *n));
                if fits {
                    return Ok(());
                }
                Err(samples.error(
                    format!("the target has shape {:?}, the model's output {prediction}", target.shape()),
                    "save the target with the output's shape, one row a sample",
                ))
            }
        }
    }
}
