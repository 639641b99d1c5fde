//! Whether targets, loss and metric fit each other and the prediction, told before training.

use dendrite_autodiff::loss::Loss;
use dendrite_data::Samples;
use dendrite_onnx::{Dim, ElementType, Graph, Shape};

use super::Objective;
use crate::{
    error::{Error, Result},
    feed,
    metric::Metric,
    network::Network,
    options::{ClassWeights, Options},
    sequence::Sequences,
};

impl Objective {
    fn class_count(&self, prediction: &Shape) -> Option<usize> {
        prediction.0.get(self.class_axis).and_then(Dim::known)
    }

    pub(super) fn check_metric(&self, network: &Network, prediction: &Shape, classes: bool) -> Result<()> {
        let width = self.class_count(prediction);
        let reason = match &self.metric {
            Metric::Top(k) if self.independent(network) || width.is_some_and(|n| *k >= n) => {
                format!("top{k} says nothing about this output: it takes more than {k} classes that exclude each other")
            }
            Metric::Top(_) | Metric::F1 | Metric::Auc if matches!(self.loss, Loss::Ctc { .. }) => {
                format!("{} takes one class a position, this loss takes sequences", self.metric.name())
            }
            Metric::Cer if !matches!(self.loss, Loss::Ctc { .. }) => {
                "cer takes sequences, which --loss ctc reads".to_owned()
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
        let mut first = None;
        for block in samples.target_blocks() {
            let targets = block?.to_f64().unwrap_or_default();
            let mut counted = targets.into_iter().filter(|t| self.ignore.is_none_or(|ignored| *t != ignored as f64));
            first = first.or_else(|| counted.next());
            if counted.any(|t| first != Some(t)) {
                return Ok(());
            }
        }
        let Some(first) = first else { return Ok(()) };
        let reason = format!("every target is {first}, the AUC compares samples of a class with others");
        Err(samples.error(reason, "choose another with --metric, or other data").into())
    }

    pub(super) fn check(&self, prediction: &Shape, samples: &Samples, classes: bool) -> Result<()> {
        let Some(field) = samples.target() else { return Ok(()) };
        let shape = [&[samples.len()], field.row_shape.as_slice()].concat();
        match (&self.loss, classes) {
            (Loss::CrossEntropy { .. }, true) => {
                let positions = prediction.0.iter().enumerate().skip(1).filter(|(axis, _)| *axis != self.class_axis);
                let positions = positions.map(|(_, dim)| dim.known());
                if field.row_shape.len() + 2 != prediction.rank()
                    || positions.zip(&field.row_shape).any(|(d, n)| d.is_some_and(|d| d != *n))
                {
                    return Err(misshapen(samples, &shape, prediction));
                }
                let Some(count) = self.class_count(prediction) else { return Ok(()) };
                if let Some(names) = samples.classes().filter(|names| names.len() != count) {
                    let reason =
                        format!("it has {} classes ({}), the model has {count}", names.len(), shortened(names));
                    let hint = "list every class of the model in the order of its outputs: in classes.txt, or with \
                                preprocess.classes";
                    return Err(samples.error(reason, hint).into());
                }
                self.check_labels(samples, count)
            }
            (Loss::Graph(_) | Loss::Ctc { .. }, _) => Ok(()),
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
                let width = field.row_shape.iter().product::<usize>().max(1);
                let mut before = 0;
                for block in samples.target_blocks() {
                    let targets = block?.to_f32().unwrap_or_default();
                    if let Some(at) = targets.iter().position(|t| !(0.0..=most).contains(t)) {
                        let row = (before + at) / width;
                        let reason = format!("the target in row {row} is {}, {takes}", targets[at]);
                        return Err(samples.error(reason, hint).into());
                    }
                    before += targets.len();
                }
                Ok(())
            }
        }
    }

    /// Whether every class number is one of `count` classes, or ignored, and some are not ignored.
    fn check_labels(&self, samples: &Samples, count: usize) -> Result<()> {
        let outside = |l: i64| Some(l) != self.ignore && usize::try_from(l).map_or(true, |l| l >= count);
        let (mut seen, mut all_ignored, mut all_positive) = (0, true, true);
        // The place and the number of the first label outside.
        let mut wrong: Option<(usize, i64)> = None;
        for block in samples.target_blocks() {
            for label in block?.to_i64().unwrap_or_default() {
                all_ignored &= Some(label) == self.ignore;
                all_positive &= label > 0;
                if wrong.is_none() && outside(label) {
                    wrong = Some((seen, label));
                }
                seen += 1;
            }
        }
        if let Some(ignored) = self.ignore.filter(|_| all_ignored) {
            let reason = format!("every target is {ignored}, which --ignore-index leaves out");
            return Err(samples.error(reason, "ignore another number, or give targets").into());
        }
        let Some((at, label)) = wrong else { return Ok(()) };
        let width = samples.target().map_or(1, |field| field.row_shape.iter().product::<usize>());
        let row = at / width.max(1);
        let reason = format!("the target in row {row} is {label}, the model has classes 0 to {}", count - 1);
        let hint = if label == count as i64 && all_positive {
            "the labels count from 1: save them less 1"
        } else if label < 0 {
            "number the classes as the model's output does; --ignore-index leaves positions out"
        } else {
            "number the classes as the model's output does"
        };
        Err(samples.error(reason, hint).into())
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

/// How sequences are read, every target checked.
pub(super) fn sequences(network: &Network, axis: usize, samples: &Samples, options: &Options) -> Result<Sequences> {
    let Some(field) = samples.target() else { return Ok(Sequences { blank: 0, padding: PADDING }) };
    let shape = [&[samples.len()], field.row_shape.as_slice()].concat();
    let prediction = &bound(network, samples);
    if prediction.rank() != 3 || shape.contains(&0) || shape.len() != 2 || field.element_type != ElementType::Int64 {
        let kind = if field.element_type == ElementType::Int64 { "integers" } else { "floats" };
        let reason = format!(
            "the target holds {kind} of shape {shape:?}, the model's output is {}; ctc takes integers [rows, length] for scores \
             [rows, steps, classes]",
            network.graph.value(network.prediction).shape.clone().unwrap_or_default()
        );
        let hint = "save the classes of each row in order and fill up with -1; --output names another output";
        return Err(samples.error(reason, hint).into());
    }
    let size = |axis: usize| prediction.0.get(axis).and_then(Dim::known);
    let (count, steps) = (size(axis), size(3 - axis));
    if options.blank < 0 && count.is_none() {
        return Err(Error::Option {
            reason: format!("--blank {}: the number of the model's classes is not known", options.blank),
            hint: "count the blank from 0".to_owned(),
        });
    }
    let blank = match (options.blank, count) {
        (blank, Some(count)) if blank < 0 => blank + count as i64,
        (blank, _) => blank,
    };
    if blank < 0 || count.is_some_and(|count| blank >= count as i64) {
        return Err(Error::Option {
            reason: format!("--blank {}: the model has {} classes", options.blank, count.unwrap_or(0)),
            hint: "name one of them, counted from 0, or from the end by -1".to_owned(),
        });
    }
    let sequences = Sequences { blank, padding: options.ignore_index.unwrap_or(PADDING) };
    let length = field.row_shape.iter().product::<usize>().max(1);
    let mut before = 0;
    for block in samples.target_blocks() {
        let labels = block?.to_i64().unwrap_or_default();
        for (row, labels) in labels.chunks(length).enumerate() {
            if let Some((reason, hint)) = misspelt(labels, sequences, count, steps) {
                return Err(samples.error(format!("the target in row {} {reason}", before + row), hint).into());
            }
        }
        before += labels.len() / length;
    }
    Ok(sequences)
}

/// The shape of the prediction for these samples, as far as it can be told.
fn bound(network: &Network, samples: &Samples) -> Shape {
    let shape = |graph: &Graph| graph.value(network.prediction).shape.clone().unwrap_or_default();
    let mut graph = network.graph.clone();
    match network.bind(&mut graph, &feed::shapes(samples, 1)) {
        Ok(()) => shape(&graph),
        // What is wrong is told where the graph is to run.
        Err(_) => shape(&network.graph),
    }
}

/// The number behind the last class of a sequence, unless the user says another.
const PADDING: i64 = -1;

/// Why a row is no sequence that could be learned, and what to do.
fn misspelt(
    row: &[i64],
    sequences: Sequences,
    count: Option<usize>,
    steps: Option<usize>,
) -> Option<(String, &'static str)> {
    let Sequences { blank, padding } = sequences;
    let classes = sequences.target(row);
    if let Some(class) = row[classes.len()..].iter().find(|class| **class != padding) {
        let hint = "fill up each row behind its last class; --ignore-index says with which number";
        return Some((format!("has {class} behind the padding {padding}"), hint));
    }
    if classes.contains(&blank) {
        return Some((
            format!("has the class {blank}, which is the blank"),
            "--blank says which class stands for none",
        ));
    }
    if let Some(class) = classes.iter().find(|class| **class < 0 || count.is_some_and(|n| **class >= n as i64)) {
        let classes = count.map_or(String::new(), |n| format!(", the model has classes 0 to {}", n - 1));
        let hint = "fill up rows with -1, or say with --ignore-index with which number they are";
        return Some((format!("has {class}{classes}"), hint));
    }
    let needed = Sequences::steps(classes);
    steps.filter(|steps| needed > *steps).map(|steps| {
        let hint = "leave such rows out: each class takes a step, and equal neighbours one between them";
        (format!("takes {needed} steps, the model has {steps}"), hint)
    })
}

/// As many names as a line holds.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// How much each class counts under `options`; `None` if all count alike.
pub(super) fn class_weights(count: Option<usize>, samples: &Samples, options: &Options) -> Result<Option<Vec<f32>>> {
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
            let mut counts = vec![0usize; count];
            for block in samples.target_blocks() {
                let labels = block?.to_i64().unwrap_or_default();
                let valid = labels.into_iter().filter(|l| Some(*l) != options.ignore_index);
                valid.filter_map(|l| usize::try_from(l).ok()).for_each(|l| {
                    if let Some(count) = counts.get_mut(l) {
                        *count += 1;
                    }
                });
            }
            let (total, present) = (counts.iter().sum::<usize>(), counts.iter().filter(|n| **n > 0).count().max(1));
            // A class that does not occur has no say either way.
            let weight = |n: &usize| if *n == 0 { 1.0 } else { total as f32 / (present * n) as f32 };
            Ok(Some(counts.iter().map(weight).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use dendrite_data::{Input, Request};
    use dendrite_onnx::{ElementType, Tensor};

    use super::*;
    use crate::{objective::Reading, options::LossKind};

    /// Rows of several blocks.
    const ROWS: usize = 400_000;

    fn samples(target: Tensor) -> Samples {
        let inputs = vec![Input::new("x", ElementType::Float, None)];
        let request = Request { inputs, target: Some("target".to_owned()), ..Request::default() };
        let x = Tensor::filled(ElementType::Float, &[target.shape()[0]], 0.0);
        let arrays = vec![("x".to_owned(), x), ("target".to_owned(), target)];
        Samples::from_arrays("memory", arrays, &request).unwrap_or_else(|e| unreachable!("{e}"))
    }

    fn objective(loss: Loss, metric: Metric, ignore: Option<i64>) -> Objective {
        Objective {
            loss,
            metric,
            class_axis: 1,
            reading: Reading::Logits,
            ignore,
            smoothing: 0.0,
            further: false,
            kind: LossKind::Auto,
            reason: None,
            metric_chosen: false,
        }
    }

    fn message(checked: Result<()>) -> String {
        checked.map_or_else(|e| format!("{e}; {}", e.hint().unwrap_or_default()), |()| String::new())
    }

    #[test]
    fn the_first_wrong_row_is_named_in_whatever_block_it_lies() {
        let prediction = Shape(vec![Dim::Unknown, Dim::Known(3)]);
        let check = |labels: &[i64]| {
            let objective = objective(Loss::classes(), Metric::Accuracy, None);
            message(objective.check(&prediction, &samples(Tensor::int64s(labels)), true))
        };
        let mut labels: Vec<i64> = (0..ROWS as i64).map(|i| i % 3).collect();
        assert_eq!(check(&labels), "");
        labels[350_000] = 3;
        assert!(check(&labels).contains("row 350000 is 3, the model has classes 0 to 2; number the classes"));
        labels[300_001] = -1;
        assert!(check(&labels).contains("row 300001 is -1"), "{}", check(&labels));
        labels.iter_mut().for_each(|l| *l = 1 + l.rem_euclid(3));
        assert!(check(&labels).contains("row 2 is 3, the model has classes 0 to 2; the labels count from 1"));
        let mut shares = vec![0.5f32; ROWS * 2];
        shares[2 * 333_333 + 1] = 1.5;
        let pairs = Shape(vec![Dim::Unknown, Dim::Known(2)]);
        let target = samples(Tensor::from_f32(&[ROWS, 2], &shares));
        let checked = objective(Loss::Bce, Metric::Loss, None).check(&pairs, &target, false);
        assert!(message(checked).contains("row 333333 is 1.5"));
    }

    #[test]
    fn ignored_and_equal_targets_are_told_over_all_blocks() {
        let mut labels = vec![7i64; ROWS];
        let check = |labels: &[i64], metric: Metric| {
            let (objective, data) = (objective(Loss::classes(), metric, Some(7)), samples(Tensor::int64s(labels)));
            message(objective.check_labels(&data, 3).and_then(|()| objective.check_auc(&data)))
        };
        assert!(check(&labels, Metric::Accuracy).contains("every target is 7, which --ignore-index leaves out"));
        labels[0] = 1;
        assert!(check(&labels, Metric::Auc).contains("every target is 1, the AUC"));
        labels[ROWS - 1] = 2;
        assert_eq!(check(&labels, Metric::Auc), "");
    }

    #[test]
    fn balanced_weights_count_every_block() {
        let labels: Vec<i64> = (0..ROWS).map(|i| i64::from(i >= ROWS / 4)).collect();
        let options = Options { class_weights: ClassWeights::Balanced, ..Options::default() };
        let found = class_weights(Some(3), &samples(Tensor::int64s(&labels)), &options);
        assert_eq!(found.unwrap_or_default(), Some(vec![2.0, 2.0 / 3.0, 1.0]));
    }
}
