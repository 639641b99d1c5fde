//! Which loss and metric a run uses, told from the target where the user does not say.

mod check;
mod kind;

use std::{collections::HashMap, sync::atomic::AtomicBool};

use dendrite_autodiff::loss::{self, Loss, LossValues};
use dendrite_data::Samples;
use dendrite_onnx::{Dim, ElementType, Graph, Model, Tensor, ValueId};
use dendrite_runtime::{SessionOptions, infer_shapes};

use crate::{
    classes::{self, Classes},
    error::{Error, Result},
    evaluate::{Basis, Score},
    feed::no_target,
    further,
    metric::Metric,
    network::{Link, Network},
    options::{ClassWeights, LossKind, MetricKind, Options},
    sequence::Sequences,
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
    /// Set when the run is to stop.
    pub interrupt: &'a AtomicBool,
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
    /// The axis of the prediction, whose first are the samples, that holds classes; it means nothing to losses without classes.
    pub class_axis: usize,
    /// How the cross-entropy reads the prediction.
    pub reading: Reading,
    /// The class number that marks positions without a target.
    pub ignore: Option<i64>,
    /// The share of each target that training spreads over all classes; scores are of the targets as they are.
    pub smoothing: f64,
    /// Whether further outputs add their losses.
    pub further: bool,
    /// The loss as an option names it.
    pub kind: LossKind,
    /// What of the target decided for it, where anything else could be meant.
    pub reason: Option<&'static str>,
    /// Whether the user chose the metric.
    pub metric_chosen: bool,
}

/// How the cross-entropy of classes reads a prediction. Predicted classes are the same in all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// As logits.
    Logits,
    /// As logits divided by a temperature. Some exported models give logits in the thousands: their cross-entropy sees
    /// nothing but mistakes, and falls fastest when the network is wrecked. Divided by the power of two that fits the
    /// training data best, every sample counts, and what the network knows is kept.
    Tempered(f64),
    /// As probabilities, where the exporter left no softmax to take off.
    Probabilities,
}

/// Probabilities below this count as this much, so that their logarithm is finite.
const LEAST_PROBABILITY: f64 = 1e-7;
/// A temperature is used only if the loss at it is below this share of that of guessing: a model that knows nothing fits best
/// at an infinite temperature, and would not learn there.
const BETTER_THAN_GUESSING: f64 = 0.8;

impl Objective {
    /// Choose loss and metric for `samples`, and check their target against the prediction.
    pub fn choose(network: &Network, samples: &Samples, options: &Options) -> Result<Self> {
        let target = samples.target().ok_or_else(|| no_target(samples))?;
        let prediction = network.graph.value(network.prediction).shape.clone().unwrap_or_default();
        let classes = target.element_type == ElementType::Int64;
        let (kind, reason) = kind::choose(network, samples, options)?;
        let takes_classes = matches!(kind, LossKind::CrossEntropy | LossKind::Ctc);
        let class_axis = if takes_classes { classes::axis(network, samples, options)? } else { 1 };
        for (option, given) in [
            ("--class-axis", options.class_axis.is_some() && !takes_classes),
            ("--blank", options.blank != 0 && kind != LossKind::Ctc),
        ] {
            if given {
                return Err(Error::Option {
                    reason: format!("{option} is not for the loss {kind}"),
                    hint: format!("leave {option} out, or choose another loss with --loss"),
                });
            }
        }
        if !(classes && matches!(kind, LossKind::CrossEntropy)) {
            let only = |option: &str| Error::Option {
                reason: format!("{option} is for integer classes and the cross-entropy"),
                hint: format!("leave {option} out, or save the target as integer classes"),
            };
            if options.class_weights != ClassWeights::Equal {
                return Err(only("--class-weights"));
            }
            if options.ignore_index.is_some() && !classes {
                return Err(only("--ignore-index"));
            }
        }
        if options.label_smoothing > 0.0 && kind != LossKind::CrossEntropy {
            return Err(Error::Option {
                reason: "--label-smoothing is for the cross-entropy".to_owned(),
                hint: "leave --label-smoothing out".to_owned(),
            });
        }
        let loss = match &kind {
            LossKind::CrossEntropy | LossKind::Auto if classes => Loss::CrossEntropy {
                axis: class_axis,
                soft: false,
                ignore: options.ignore_index,
                class_weights: {
                    let count = prediction.0.get(class_axis).and_then(Dim::known);
                    check::class_weights(count, samples, options)?
                },
                smoothing: 0.0,
            },
            LossKind::CrossEntropy | LossKind::Auto => {
                Loss::CrossEntropy { axis: class_axis, soft: true, ignore: None, class_weights: None, smoothing: 0.0 }
            }
            LossKind::Ctc => {
                let Sequences { blank, padding } = check::sequences(network, class_axis, samples, options)?;
                Loss::Ctc { axis: class_axis, blank, padding }
            }
            LossKind::Bce => Loss::Bce,
            LossKind::Mse => Loss::Mse,
            LossKind::L1 => Loss::L1,
            LossKind::Huber => Loss::Huber { delta: 1.0 },
            LossKind::File(path) => Loss::Graph(Box::new(Model::open(path)?)),
        };
        let single = prediction.0.iter().skip(1).all(|d| *d == Dim::Known(1));
        let metric = match Metric::from_kind(&options.metric, options.minimise)? {
            Some(metric) => metric,
            None if matches!(kind, LossKind::CrossEntropy | LossKind::Ctc) || (kind == LossKind::Bce && single) => {
                Metric::Accuracy
            }
            None => Metric::Loss,
        };
        let objective = Objective {
            reading: Reading::Logits,
            loss,
            metric,
            class_axis,
            ignore: options.ignore_index.filter(|_| classes),
            smoothing: options.label_smoothing,
            further: !network.further.is_empty(),
            kind,
            reason,
            metric_chosen: options.metric != MetricKind::Auto,
        };
        objective.check(&prediction, samples, classes)?;
        objective.check_metric(network, &prediction, classes)?;
        objective.check_auc(samples)?;
        Ok(objective)
    }

    /// Whether [`Objective::fit_reading`] has a choice: where nothing is known of a prediction whose classes are trained, or
    /// that the target alone made logits.
    pub fn has_choice(&self, network: &Network) -> bool {
        let of_classes = matches!(self.loss, Loss::CrossEntropy { soft: false, .. } | Loss::Ctc { .. });
        let classes = of_classes && network.link == Link::Identity;
        classes || self.reason.is_some()
    }

    /// Choose how to read predictions from those of the input model on the training data.
    pub fn fit_reading(&mut self, score: &Score, target: &Tensor) {
        if self.reason.is_some() {
            return self.unless_probabilities(score);
        }
        if matches!(self.loss, Loss::Ctc { .. }) {
            if are_probabilities(score, Classes::of_prediction(&score.shape, self.class_axis)) {
                self.reading = Reading::Probabilities;
            }
            return;
        }
        let Some(labelled) = Labelled::of(score, target, self.class_axis, self.ignore) else { return };
        if are_probabilities(score, labelled.classes) {
            self.reading = Reading::Probabilities;
            return;
        }
        let candidates = (0..=LARGEST_TEMPERATURE).map(|power| 2f64.powi(power));
        let losses = candidates.map(|t| (t, labelled.cross_entropy(t)));
        if let Some((temperature, loss)) = losses.min_by(|a, b| a.1.total_cmp(&b.1))
            && temperature > 1.0
            && loss < BETTER_THAN_GUESSING * (labelled.classes.count as f64).ln()
        {
            self.reading = Reading::Tempered(temperature);
        }
    }

    /// Predictions that are no logits but probabilities, by operators in which no sigmoid or softmax was found, have to stay
    /// probabilities: they train by squared errors, unless the user asked for a metric of classes.
    fn unless_probabilities(&mut self, score: &Score) {
        if !self.metric_chosen && score.predictions.iter().all(|p| (0.0..=1.0).contains(p)) {
            self.loss = Loss::Mse;
            self.kind = LossKind::Mse;
            self.metric = Metric::Loss;
            self.reason = Some("every prediction of the input lies between 0 and 1");
        }
    }

    /// The loss of a score as users know it: of logits as they are, whatever temperature trained.
    pub fn reported_loss(&self, score: &Score, samples: &Samples) -> Result<f64> {
        let Reading::Tempered(temperature) = self.reading else { return Ok(score.loss) };
        let classes = Classes::of_prediction(&score.shape, self.class_axis);
        let positions = classes.positions(score.width()).max(1);
        let (mut sum, mut rows) = (0.0, 0);
        for block in samples.target_blocks() {
            for labels in block?.to_i64().unwrap_or_default().chunks(positions) {
                let start = rows * score.width();
                let Some(row) = score.predictions.get(start..start + score.width()) else { return Ok(score.loss) };
                let (mut of_row, mut counted) = (0.0, 0);
                for (position, label) in labels.iter().enumerate().filter(|(_, label)| Some(**label) != self.ignore) {
                    // A class for every position, or nothing that can be told from its logits alone.
                    let class = usize::try_from(*label).ok().filter(|class| *class < classes.count);
                    let Some(class) = class else { return Ok(score.loss) };
                    let scores = classes.scores(row, position);
                    let plain = cross_entropy_of(scores.clone(), class, 1.0);
                    // With further outputs the score holds their losses too: the first one's is exchanged.
                    let own = if self.further { cross_entropy_of(scores, class, temperature) } else { 0.0 };
                    of_row += plain - own;
                    counted += 1;
                }
                sum += of_row / f64::from(counted.max(1));
                rows += 1;
            }
        }
        let told = rows > 0 && score.predictions.len() == rows * score.width();
        Ok(match told {
            true if self.further => score.loss + sum / rows as f64,
            true => sum / rows as f64,
            false => score.loss,
        })
    }

    /// Add the loss that trains to a graph: that of smoothed targets, where they are.
    pub fn attach_training(&self, graph: &mut Graph, prediction: ValueId) -> Result<LossValues> {
        let mut own = self.clone();
        if let Loss::CrossEntropy { smoothing, .. } = &mut own.loss {
            *smoothing = self.smoothing;
        }
        own.attach(graph, prediction)
    }

    /// Add the loss of a network's prediction to a graph.
    pub fn attach(&self, graph: &mut Graph, prediction: ValueId) -> Result<LossValues> {
        let (element_type, shape) = {
            let value = graph.value(prediction);
            (value.element_type, value.shape.clone())
        };
        let float = element_type.unwrap_or(ElementType::Float);
        let number = |graph: &mut Graph, v: f64| graph.add_constant("loss/number", Tensor::scalar(float, v));
        let logits = match self.reading {
            Reading::Logits => prediction,
            Reading::Tempered(temperature) => {
                let factor = number(graph, 1.0 / temperature);
                graph.op("Mul", "loss/logits", &[prediction, factor], Default::default())
            }
            Reading::Probabilities => {
                let (least, most) = (number(graph, LEAST_PROBABILITY), number(graph, 1.0));
                let clipped = graph.op("Clip", "loss/clipped", &[prediction, least, most], Default::default());
                graph.set_type(clipped, element_type, shape.clone());
                graph.op("Log", "loss/logits", &[clipped], Default::default())
            }
        };
        graph.set_type(logits, element_type, shape);
        let values = self.attach_first(graph, logits)?;
        Ok(match further::loss_of(graph) {
            Some(further) => loss::add(graph, values, further),
            None => values,
        })
    }

    fn attach_first(&self, graph: &mut Graph, logits: ValueId) -> Result<LossValues> {
        let Loss::Graph(model) = &self.loss else { return Ok(loss::attach(graph, logits, &self.loss)?) };
        let values = loss::attach(graph, logits, &self.loss).map_err(|e| of_file("--loss", model, &e))?;
        // Files of models rarely declare the shapes between their inputs and outputs.
        infer_shapes(graph)?;
        Ok(values)
    }

    /// The accuracy of always answering the most frequent class, where the metric is the accuracy of classes.
    pub fn most_frequent(&self, samples: &Samples) -> Result<Option<f64>> {
        let labelled = samples.target().is_some_and(|t| t.element_type == ElementType::Int64);
        if !(labelled && matches!(self.metric, Metric::Accuracy)) || matches!(self.loss, Loss::Ctc { .. }) {
            return Ok(None);
        }
        let mut counts: HashMap<i64, usize> = HashMap::new();
        for block in samples.target_blocks() {
            for label in block?.to_i64().unwrap_or_default().into_iter().filter(|l| Some(*l) != self.ignore) {
                *counts.entry(label).or_default() += 1;
            }
        }
        let all = counts.values().sum::<usize>().max(1);
        Ok(counts.into_values().max().map(|most| most as f64 / all as f64))
    }

    /// How predictions spell sequences, if that is what trains.
    fn sequences(&self) -> Option<Sequences> {
        match self.loss {
            Loss::Ctc { blank, padding, .. } => Some(Sequences { blank, padding }),
            _ => None,
        }
    }

    /// The axis of the file's output that holds classes, where the loss takes classes and there are more axes than one to choose
    /// from.
    pub fn told_class_axis(&self, network: &Network) -> Option<usize> {
        let takes_classes = matches!(self.loss, Loss::CrossEntropy { .. } | Loss::Ctc { .. });
        let several = network.graph.rank(network.prediction).is_some_and(|rank| rank > 2);
        (takes_classes && several).then(|| network.output_samples.of_file(self.class_axis)).flatten()
    }

    /// What the metric needs to know besides predictions and targets.
    pub fn basis(&self, network: &Network) -> Basis {
        Basis {
            metric: self.metric.clone(),
            link: network.link,
            class_axis: self.class_axis,
            independent: self.independent(network),
            ignore: self.ignore,
            sequences: self.sequences(),
        }
    }

    /// Add a metric that is a graph, on the model's output: one number a sample.
    pub fn attach_metric(&self, graph: &mut Graph, network: &Network, target: ValueId) -> Result<Option<ValueId>> {
        let Metric::Graph { model, .. } = &self.metric else { return Ok(None) };
        let output = network.link.attach(graph, network.prediction);
        let measured = loss::measure(graph, model, output, target).map_err(|e| of_file("--metric", model, &e))?;
        infer_shapes(graph)?;
        Ok(Some(measured))
    }

    /// Whether the scores of a prediction are independent, each behind a sigmoid.
    pub fn independent(&self, network: &Network) -> bool {
        matches!(self.loss, Loss::Bce) || network.link == Link::Sigmoid
    }
}

/// An error about the graph that `option` gives.
fn of_file(option: &str, model: &Model, error: &dendrite_autodiff::Error) -> Error {
    let path = model.path().map(|p| format!(" {}", p.display())).unwrap_or_default();
    let hint = error.hint().unwrap_or("`dendrite check` lists every finding in the file");
    Error::Option { reason: format!("{option}{path}: {error}"), hint: hint.to_owned() }
}

/// Positions whose reading is tried, about.
const READ_POSITIONS: usize = 1 << 14;

/// Positions of predictions, evenly spread, each with its class.
struct Labelled<'a> {
    score: &'a Score,
    classes: Classes,
    /// Position, counted over all samples, and class.
    labels: Vec<(usize, usize)>,
}

impl<'a> Labelled<'a> {
    /// `None` where a position has no class that is one of several.
    fn of(score: &'a Score, target: &Tensor, class_axis: usize, ignore: Option<i64>) -> Option<Self> {
        let labels = target.to_i64()?;
        let classes = Classes::of_prediction(&score.shape, class_axis);
        if score.predictions.len() != labels.len() * classes.count || classes.count < 2 {
            return None;
        }
        let step = step(labels.len(), classes.positions(score.width()));
        let counted = labels.into_iter().enumerate().step_by(step).filter(|(_, label)| Some(*label) != ignore);
        let class = |label: i64| usize::try_from(label).ok().filter(|label| *label < classes.count);
        let labels = counted.map(|(at, label)| Some((at, class(label)?))).collect::<Option<Vec<_>>>()?;
        Some(Labelled { score, classes, labels })
    }

    /// The scores of every position with its class.
    fn rows(&self) -> impl Iterator<Item = (impl Iterator<Item = f32> + Clone, usize)> {
        let width = self.score.width();
        let positions = self.classes.positions(width).max(1);
        self.labels.iter().map(move |(at, label)| {
            let row = self.score.predictions.get(at / positions * width..).unwrap_or_default();
            (self.classes.scores(row, at % positions), *label)
        })
    }

    /// The mean cross-entropy of logits divided by `temperature`.
    fn cross_entropy(&self, temperature: f64) -> f64 {
        let losses = self.rows().map(|(scores, label)| cross_entropy_of(scores, label, temperature));
        losses.sum::<f64>() / self.labels.len().max(1) as f64
    }
}

/// The step from one position that is read to the next of `all`, those of a sample met alike.
fn step(all: usize, positions: usize) -> usize {
    let divisor = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let least = (all / READ_POSITIONS).max(1);
    (least..).find(|step| *step == 1 || divisor(*step, positions) == 1).unwrap_or(least)
}

/// Whether scores are positive and add up to 1 at positions, evenly spread.
fn are_probabilities(score: &Score, classes: Classes) -> bool {
    let positions = classes.positions(score.width()).max(1);
    let all = score.predictions.len() / classes.count;
    (0..all).step_by(step(all, positions)).all(|at| {
        let row = score.predictions.get(at / positions * score.width()..).unwrap_or_default();
        let scores = classes.scores(row, at % positions);
        scores.clone().all(|p| (-1e-6..=1.0 + 1e-6).contains(&p)) && (scores.sum::<f32>() - 1.0).abs() < 1e-3
    })
}

/// The cross-entropy of the logits of one position divided by `temperature`.
fn cross_entropy_of(scores: impl Iterator<Item = f32> + Clone, label: usize, temperature: f64) -> f64 {
    let scaled = scores.map(|v| f64::from(v) / temperature);
    let top = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
    let own = scaled.clone().nth(label).unwrap_or(f64::NEG_INFINITY);
    top + scaled.map(|v| (v - top).exp()).sum::<f64>().ln() - own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective() -> Objective {
        Objective {
            loss: Loss::classes(),
            metric: Metric::Accuracy,
            class_axis: 1,
            reading: Reading::Logits,
            ignore: None,
            smoothing: 0.0,
            further: false,
            kind: LossKind::CrossEntropy,
            reason: None,
            metric_chosen: false,
        }
    }

    fn score(predictions: &[f32]) -> Score {
        Score { predictions: predictions.to_vec(), shape: vec![2], ..Score::default() }
    }

    #[test]
    fn what_is_a_probability_already_stays_one() {
        let bits = || Objective { loss: Loss::Bce, kind: LossKind::Bce, reason: Some("zeros and ones"), ..objective() };
        let targets = Tensor::from_f32(&[4], &[0.0, 1.0, 0.0, 1.0]);
        let (mut logits, mut probabilities) = (bits(), bits());
        logits.fit_reading(&score(&[-1.0, 0.5, 0.2, 3.0]), &targets);
        assert!(logits.kind == LossKind::Bce && !logits.metric.is_loss());
        probabilities.fit_reading(&score(&[0.1, 0.5, 0.2, 0.9]), &targets);
        assert!(probabilities.kind == LossKind::Mse && probabilities.metric.is_loss());
    }

    #[test]
    fn a_model_that_knows_nothing_gets_no_temperature() {
        let mut objective = objective();
        objective.fit_reading(&score(&[5.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0, 5.0]), &Tensor::int64s(&[1, 0, 0, 1]));
        assert_eq!(objective.reading, Reading::Logits);
    }

    #[test]
    fn logits_in_the_thousands_are_tempered_and_probabilities_are_told_from_logits() {
        let mut tempered = objective();
        // Right by thousands nine times, wrong by a hundred once.
        let mut predictions = [2000.0, 0.0].repeat(9);
        predictions.extend([0.0, 100.0]);
        tempered.fit_reading(&score(&predictions), &Tensor::int64s(&[0; 10]));
        assert!(matches!(tempered.reading, Reading::Tempered(t) if (32.0..2000.0).contains(&t)), "{tempered:?}");
        let (score_of_all, labels) = (score(&predictions), Tensor::int64s(&[0; 10]));
        let plain = Labelled::of(&score_of_all, &labels, 1, None).map_or(0.0, |labelled| labelled.cross_entropy(1.0));
        assert!((plain - 10.0).abs() < 1e-6);
        let mut probabilities = objective();
        probabilities.fit_reading(&score(&[0.9, 0.1, 0.25, 0.75]), &Tensor::int64s(&[0, 1]));
        assert_eq!(probabilities.reading, Reading::Probabilities);
    }
}
