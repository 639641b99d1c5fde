//! Whether targets, loss and metric fit each other and the prediction, told before training.

use dendrite_autodiff::loss::Loss;
use dendrite_data::Samples;
use dendrite_onnx::{Dim, Shape};

use super::Objective;
use crate::{
    error::{Error, Result},
    metric::Metric,
    network::Network,
    options::{ClassWeights, Options},
};

impl Objective {
    pub(super) fn check_metric(&self, network: &Network, prediction: &Shape, classes: bool) -> Result<()> {
        let width = prediction.dim(1).and_then(Dim::known);
        let reason = match &self.metric {
            Metric::Top(k) if self.independent(network) || width.is_some_and(|n| *k >= n) => {
                format!("top{k} says nothing about this output: it takes more than {k} classes that exclude each other")
            }
            Metric::Mae | Metric::Rmse if classes => {
                format!("{} compares numbers, the target holds classes", self.metric.name())
            }
            Metric::Accuracy | Metric::F1 | Metric::Auc
                if !classes && matches!(self.loss, Loss::Mse | Loss::L1 | Loss::Huber { .. }) =>
            {
                format!("{} takes classes, this loss takes numbers", self.metric.name())
            }
            _ => return Ok(()),
        };
        Err(Error::Option { reason, hint: "choose another with --metric".to_owned() })
    }

    /// The AUC compares samples of a class with those of others.
    pub(super) fn check_auc(&self, samples: &Samples) -> Result<()> {
        if !matches!(self.metric, Metric::Auc) {
            return Ok(());
        }
        let targets = samples.target_tensor()?.to_f64().unwrap_or_default();
        let mut counted = targets.into_iter().filter(|t| self.ignore.is_none_or(|ignored| *t != ignored as f64));
        let Some(first) = counted.next() else { return Ok(()) };
        if counted.any(|t| t != first) {
            return Ok(());
        }
        let reason = format!("every target is {first}, the AUC compares samples of a class with others");
        Err(samples.error(reason, "choose another with --metric, or other data").into())
    }

    pub(super) fn check(&self, prediction: &Shape, samples: &Samples, classes: bool) -> Result<()> {
        let Some(field) = samples.target() else { return Ok(()) };
        let shape = [&[samples.len()], field.row_shape.as_slice()].concat();
        match (&self.loss, classes) {
            (Loss::CrossEntropy { .. }, true) => {
                let Some(count) = prediction.dim(1).and_then(|d| d.known()) else { return Ok(()) };
                let positions = prediction.0.iter().skip(2).map(Dim::known);
                if field.row_shape.len() + 2 != prediction.rank()
                    || positions.zip(&field.row_shape).any(|(d, n)| d.is_some_and(|d| d != *n))
                {
                    return Err(misshapen(samples, &shape, prediction));
                }
                if let Some(names) = samples.classes().filter(|names| names.len() != count) {
                    let reason =
                        format!("it has {} classes ({}), the model has {count}", names.len(), shortened(names));
                    let hint = "list every class of the model in the order of its outputs: in classes.txt, or with \
                                preprocess.classes";
                    return Err(samples.error(reason, hint).into());
                }
                let labels = samples.target_tensor()?.to_i64().unwrap_or_default();
                if self.ignore.is_some_and(|ignored| labels.iter().all(|l| *l == ignored)) {
                    let reason = format!("every target is {}, which --ignore-index leaves out", labels[0]);
                    return Err(samples.error(reason, "ignore another number, or give targets").into());
                }
                let width = field.row_shape.iter().product::<usize>();
                let outside = |l: &i64| Some(*l) != self.ignore && usize::try_from(*l).map_or(true, |l| l >= count);
                match labels.iter().position(outside) {
                    None => Ok(()),
                    Some(at) => Err(samples
                        .error(
                            format!(
                                "the target in row {} is {}, the model has classes 0 to {}",
                                at / width.max(1),
                                labels[at],
                                count - 1
                            ),
                            if labels[at] == count as i64 && labels.iter().all(|l| *l > 0) {
                                "the labels count from 1: save them less 1"
                            } else if labels[at] < 0 {
                                "number the classes as the model's output does; --ignore-index leaves positions out"
                            } else {
                                "number the classes as the model's output does"
                            },
                        )
                        .into()),
                }
            }
            (Loss::Graph(_), _) => Ok(()),
            (_, true) => Err(samples
                .error(
                    "the target holds integers, this loss takes floats",
                    "save the target as float32, or choose --loss cross-entropy",
                )
                .into()),
            _ => {
                let fits = shape.len() == prediction.rank()
                    && prediction.0.iter().zip(&shape).skip(1).all(|(d, n)| d.known().is_none_or(|d| d == *n));
                if !fits {
                    return Err(misshapen(samples, &shape, prediction));
                }
                let (most, takes, hint) = match &self.loss {
                    Loss::Bce => (1.0, "binary cross-entropy takes 0 to 1", "--loss mse takes any numbers"),
                    Loss::CrossEntropy { .. } => {
                        (f32::INFINITY, "cross-entropy takes shares of 0 or more", "--loss mse takes any numbers")
                    }
                    _ => return Ok(()),
                };
                let targets = samples.target_tensor()?.to_f32().unwrap_or_default();
                match targets.iter().position(|t| !(0.0..=most).contains(t)) {
                    None => Ok(()),
                    Some(at) => {
                        let row = at / field.row_shape.iter().product::<usize>().max(1);
                        let reason = format!("the target in row {row} is {}, {takes}", targets[at]);
                        Err(samples.error(reason, hint).into())
                    }
                }
            }
        }
    }
}

fn misshapen(samples: &Samples, shape: &[usize], prediction: &Shape) -> Error {
    let float = samples.target().is_some_and(|t| t.element_type.is_float());
    let kind = if float { "floats" } else { "integers" };
    let reason = format!("the target holds {kind} of shape {shape:?}, the model's output is {prediction}");
    let hint = match (float, shape.len()) {
        (true, 1) => "class numbers are integers: target.astype(numpy.int64); other targets have the output's shape",
        (false, 2) if prediction.rank() == 2 => {
            "classes are one number a row: numpy.argmax(target, axis=1); shares of classes are float32"
        }
        _ => "save the target with the output's shape, or its class numbers, one row a sample",
    };
    samples.error(reason, hint).into()
}

/// As many names as a line holds.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// How much each class counts under `options`; `None` if all count alike.
pub(super) fn class_weights(prediction: &Shape, samples: &Samples, options: &Options) -> Result<Option<Vec<f32>>> {
    let count = prediction.dim(1).and_then(Dim::known);
    match (&options.class_weights, count) {
        (ClassWeights::Equal, _) => Ok(None),
        (ClassWeights::Given(weights), count) if count.is_none_or(|n| n == weights.len()) => Ok(Some(weights.clone())),
        (ClassWeights::Given(weights), count) => Err(Error::Option {
            reason: format!(
                "--class-weights gives {} numbers, the model has {} classes",
                weights.len(),
                count.unwrap_or(0)
            ),
            hint: "give one number for each class, in the order of the model's output".to_owned(),
        }),
        (ClassWeights::Balanced, None) => Err(Error::Option {
            reason: "--class-weights balanced: the number of the model's classes is not known".to_owned(),
            hint: "give the weights as a list of numbers".to_owned(),
        }),
        (ClassWeights::Balanced, Some(count)) => {
            let labels = samples.target_tensor()?.to_i64().unwrap_or_default();
            let mut counts = vec![0usize; count];
            let valid = labels.iter().filter(|l| Some(**l) != options.ignore_index);
            valid.filter_map(|l| usize::try_from(*l).ok()).for_each(|l| {
                if let Some(count) = counts.get_mut(l) {
                    *count += 1;
                }
            });
            let (total, present) = (counts.iter().sum::<usize>(), counts.iter().filter(|n| **n > 0).count().max(1));
            // A class that does not occur has no say either way.
            let weight = |n: &usize| if *n == 0 { 1.0 } else { total as f32 / (present * n) as f32 };
            Ok(Some(counts.iter().map(weight).collect()))
        }
    }
}
