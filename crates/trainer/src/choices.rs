//! Options that take one of several values, as they stand on the command line and in a configuration.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use dendrites::Activation;
use serde::{Deserialize, Serialize};

/// How dendrites and weights learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The paper's: correlation-trained, frozen dendrites; the error that reaches lower layers ignores them.
    Pb,
    /// Gradient descent alone: dendrites start at random and train with everything else.
    Gd,
    /// Correlation-trained, then trained with everything else.
    Hybrid,
}

impl Method {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::Pb => "pb",
            Method::Gd => "gd",
            Method::Hybrid => "hybrid",
        }
    }
}

/// The activations candidates may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Activations {
    Sigmoid,
    Tanh,
    Relu,
    /// All three compete; a set takes the one that correlates best.
    Mixed,
}

impl Activations {
    /// The activations in the pool.
    pub fn list(self) -> &'static [Activation] {
        match self {
            Activations::Sigmoid => &[Activation::Sigmoid],
            Activations::Tanh => &[Activation::Tanh],
            Activations::Relu => &[Activation::Relu],
            Activations::Mixed => &[Activation::Relu, Activation::Tanh, Activation::Sigmoid],
        }
    }
}

/// The loss that trains and that acceptance is tested on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LossKind {
    /// By the target: cross-entropy for classes, binary cross-entropy behind a sigmoid, else the squared error.
    Auto,
    /// Cross-entropy of logits with classes or soft targets.
    CrossEntropy,
    /// Connectionist temporal classification: which classes a sequence of steps spells.
    Ctc,
    /// Binary cross-entropy of logits.
    Bce,
    /// Squared error.
    Mse,
    /// Absolute error.
    L1,
    /// Huber's loss with delta 1.
    Huber,
    /// A loss given as an ONNX file.
    File(PathBuf),
}

impl FromStr for LossKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Ok(match s {
            "auto" => LossKind::Auto,
            "cross-entropy" => LossKind::CrossEntropy,
            "ctc" => LossKind::Ctc,
            "bce" => LossKind::Bce,
            "mse" => LossKind::Mse,
            "l1" => LossKind::L1,
            "huber" => LossKind::Huber,
            file if file.ends_with(".onnx") => LossKind::File(file.into()),
            other => {
                return Err(format!(
                    "'{other}' is no loss; one of auto, cross-entropy, ctc, bce, mse, l1, huber or a .onnx file"
                ));
            }
        })
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossKind::Auto => f.write_str("auto"),
            LossKind::CrossEntropy => f.write_str("cross-entropy"),
            LossKind::Ctc => f.write_str("ctc"),
            LossKind::Bce => f.write_str("bce"),
            LossKind::Mse => f.write_str("mse"),
            LossKind::L1 => f.write_str("l1"),
            LossKind::Huber => f.write_str("huber"),
            LossKind::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A further output that trains with the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Also {
    /// The output.
    pub output: String,
    /// The array of its targets.
    pub target: String,
    /// Its loss.
    #[serde(default = "Also::loss")]
    pub loss: LossKind,
    /// How much its loss counts; that of the first output counts 1.
    #[serde(default = "Also::weight")]
    pub weight: f64,
}

impl Also {
    fn loss() -> LossKind {
        LossKind::Auto
    }

    fn weight() -> f64 {
        1.0
    }
}

impl FromStr for Also {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let form = || format!("'{s}' is not of the form OUTPUT=ARRAY[,loss=LOSS][,weight=W]");
        let mut parts = s.split(',');
        let (output, target) = parts.next().and_then(|p| p.split_once('=')).ok_or_else(form)?;
        let mut also =
            Also { output: output.to_owned(), target: target.to_owned(), loss: Self::loss(), weight: Self::weight() };
        for part in parts {
            match part.split_once('=').ok_or_else(form)? {
                ("loss", value) => also.loss = value.parse()?,
                ("weight", value) => also.weight = value.parse().map_err(|_| form())?,
                _ => return Err(form()),
            }
        }
        Ok(also)
    }
}

/// The metric that is reported and that may not fall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MetricKind {
    /// Accuracy of classes and of single sigmoids, else the loss.
    Auto,
    /// Share of targets that are met.
    Accuracy,
    /// Share of targets among the largest scores.
    Top(usize),
    /// Share of classes that are missing, too many or others in decoded sequences.
    Cer,
    /// F1.
    F1,
    /// Area under the ROC curve.
    Auc,
    /// Mean absolute error.
    Mae,
    /// Root of the mean squared error.
    Rmse,
    /// The mean loss.
    Loss,
    /// A metric given as an ONNX file.
    File(PathBuf),
}

impl FromStr for MetricKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let top = s.strip_prefix("top").and_then(|k| k.parse().ok()).filter(|k| *k > 0);
        Ok(match s {
            "auto" => MetricKind::Auto,
            "accuracy" => MetricKind::Accuracy,
            "cer" => MetricKind::Cer,
            "f1" => MetricKind::F1,
            "auc" => MetricKind::Auc,
            "mae" => MetricKind::Mae,
            "rmse" => MetricKind::Rmse,
            "loss" => MetricKind::Loss,
            file if file.ends_with(".onnx") => MetricKind::File(file.into()),
            other => match top {
                Some(k) => MetricKind::Top(k),
                None => {
                    return Err(format!(
                        "'{other}' is no metric; one of auto, accuracy, top5 (or another number), cer, f1, auc, mae, rmse, loss or a .onnx file"
                    ));
                }
            },
        })
    }
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricKind::Auto => f.write_str("auto"),
            MetricKind::Accuracy => f.write_str("accuracy"),
            MetricKind::Top(k) => write!(f, "top{k}"),
            MetricKind::Cer => f.write_str("cer"),
            MetricKind::F1 => f.write_str("f1"),
            MetricKind::Auc => f.write_str("auc"),
            MetricKind::Mae => f.write_str("mae"),
            MetricKind::Rmse => f.write_str("rmse"),
            MetricKind::Loss => f.write_str("loss"),
            MetricKind::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How much each class counts in the cross-entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ClassWeights {
    /// All alike.
    Equal,
    /// Each by the inverse of its share of the training data, so that all count the same together.
    Balanced,
    /// As given, one number a class.
    Given(Vec<f32>),
}

impl FromStr for ClassWeights {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "equal" => Ok(ClassWeights::Equal),
            "balanced" => Ok(ClassWeights::Balanced),
            list => {
                let weights: Option<Vec<f32>> = list
                    .split(',')
                    .map(|w| w.trim().parse().ok().filter(|w: &f32| *w >= 0.0 && w.is_finite()))
                    .collect();
                weights
                    .filter(|w| w.iter().any(|w| *w > 0.0))
                    .map(ClassWeights::Given)
                    .ok_or_else(|| format!("'{list}' is neither equal, balanced nor a list of numbers such as 1,2.5,1"))
            }
        }
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassWeights::Equal => f.write_str("equal"),
            ClassWeights::Balanced => f.write_str("balanced"),
            ClassWeights::Given(weights) => {
                f.write_str(&weights.iter().map(f32::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match humantime::parse_duration(s) {
            Ok(time) => Ok(Time(time)),
            _ => Err(format!("'{s}' is no time; say 90s, 10m or 1h30m")),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Which statistics batch normalisation uses where weights train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorm {
    /// The stored ones, which stay as they are.
    Frozen,
    /// Those of the batch; the stored ones follow.
    Train,
}

impl BatchNorm {
    /// The name on the command line and in the summary.
    pub fn name(self) -> &'static str {
        match self {
            BatchNorm::Frozen => "frozen",
            BatchNorm::Train => "train",
        }
    }
}

/// What a grown model is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// The input model trained for as many epochs without dendrites.
    Longer,
    /// The same growth with every connection held at zero: what dendrites owe to the schedule alone.
    Sham,
    /// The input with its own hidden layers widened to as many parameters, trained for as many epochs.
    Wider,
}

impl Control {
    /// The name on the command line, in the summary and of the folder.
    pub fn name(self) -> &'static str {
        match self {
            Control::Longer => "longer",
            Control::Sham => "sham",
            Control::Wider => "wider",
        }
    }
}

/// Options that stand in a file as they stand on the command line.
macro_rules! as_text {
    ($($kind:ty),*) => {
        $(impl TryFrom<String> for $kind {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(kind: $kind) -> String {
                kind.to_string()
            }
        })*
    };
}

as_text!(LossKind, MetricKind, ClassWeights, Time);

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum OptimizerKind {
    AdamW,
    Adam,
    Sgd,
}
