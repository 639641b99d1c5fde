//! Which loss and metric a run uses, told from the target where the user does not say.

use dendrite_autodiff::loss::Loss;
use dendrite_onnx::{ElementType, Model};

use crate::{
    data::Samples,
    error::Result,
    metric::Metric,
    network::{Link, Network},
    options::{LossKind, Options},
};

/// Loss, metric and the shape of a batch of targets.
#[derive(Debug, Clone)]
pub struct Objective {
    /// The loss.
    pub loss: Loss,
    /// The metric.
    pub metric: Metric,
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
        let objective = Objective { loss, metric: if kind == LossKind::CrossEntropy { Metric::Accuracy } else { Metric::Loss } };
        objective.check(&prediction, samples, classes)?;
        Ok(objective)
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
                        format!("the target in row {} is {}, the model has classes 0 to {}", at / width.max(1), labels[at], count - 1),
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
