//! The options of growth, shared by the commands that plan, insert and grow.

use std::path::{Path, PathBuf};

use dendrite_runtime::{Device, SessionOptions};
use dendrite_trainer::options::{
    Activations, Also, BatchNorm, ClassWeights, Control, LossKind, Method, MetricKind, OptimizerKind, Options, Time,
};
use dendrites::Connection;

use crate::{failure::Failure, toml_error};

/// Declares a flag's values once: the names on the command line and what they stand for.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident => $target:ty { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)* }

        impl From<$name> for $target {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => <$target>::$variant,)* }
            }
        }
    };
}

choices! {
    /// How dendrites learn.
    MethodChoice => Method {
        /// The paper's: correlation-trained and frozen, ignored by the error that reaches lower layers
        Pb,
        /// Gradient descent from random dendrites, everything trained together
        Gd,
        /// Correlation-trained, then trained together with everything
        Hybrid,
    }
}

choices! {
    /// How dendrites reach neurons.
    ConnectionChoice => Connection {
        /// One dendrite a neuron, one scalar each (the paper's)
        Neuron,
        /// Each dendrite feeds all neurons of its site
        Layer,
    }
}

choices! {
    /// Non-linearities of dendrites.
    ActivationChoice => Activations {
        /// 1 / (1 + exp(-z))
        Sigmoid,
        /// tanh(z)
        Tanh,
        /// max(z, 0)
        Relu,
        /// All compete, the best-correlating one wins a set
        Mixed,
    }
}

choices! {
    /// Optimizers.
    OptimizerChoice => OptimizerKind {
        /// Adam with decoupled weight decay
        #[value(name = "adamw")]
        AdamW,
        /// Adam
        Adam,
        /// Gradient descent with momentum 0.9
        Sgd,
    }
}

choices! {
    /// Statistics of batch normalisation where weights train.
    BatchNormChoice => BatchNorm {
        /// The stored ones, which stay as they are
        Frozen,
        /// Those of the batch; the stored ones follow with the file's momentum (0.9 where that is 1)
        Train,
    }
}

/// Where dendrites grow and how many.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Dendrites")]
pub(crate) struct Placement {
    /// Sites that take dendrites: patterns of output or node names; all sites unless said
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    pub(crate) sites: Vec<String>,
    /// Sites that take none
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    pub(crate) exclude: Vec<String>,
    /// Dendrites a neuron, at most (layer connection: cycles, at most) [default: 3]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) dendrites: Option<usize>,
    /// How dendrites reach neurons; recurrent operators take `layer` alone [default: neuron]
    #[arg(long, value_name = "CONNECTION")]
    pub(crate) connect: Option<ConnectionChoice>,
    /// Dendrites a site and cycle in the layer connection: a number, or a fraction of the site's neurons; in the neuron
    /// connection, dendrites a neuron and cycle
    #[arg(long, value_name = "K|FRACTION", value_parser = positive)]
    pub(crate) width: Option<f64>,
    /// Parameters the grown model may have: a number, or xF for F times those of the input
    #[arg(long, value_name = "N|xF")]
    pub(crate) max_parameters: Option<ParameterLimit>,
    /// Non-linearity of dendrites [default: relu]
    #[arg(long, value_name = "ACTIVATION")]
    pub(crate) activation: Option<ActivationChoice>,
    /// The output to train; by default the first float output
    #[arg(long, value_name = "NAME")]
    pub(crate) output: Option<String>,
    /// Another output that trains with it: its targets, and if need be its loss and how much that counts; may be given
    /// several times
    #[arg(long, value_name = "OUTPUT=ARRAY[,loss=LOSS][,weight=W]")]
    pub(crate) also: Vec<Also>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    pub(crate) seed: Option<u64>,
}

/// What is predicted, and how well.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Data and loss")]
pub(crate) struct Scoring {
    /// auto, cross-entropy, ctc, bce, mse, l1, huber, or an ONNX file with inputs prediction and target [default: auto]
    #[arg(long, value_name = "LOSS")]
    loss: Option<LossKind>,
    /// auto, accuracy, top5 (or another number), cer, f1, auc, mae, rmse, loss, or an ONNX file with inputs prediction and target
    /// that gives one number a sample [default: auto]
    #[arg(long, value_name = "METRIC")]
    metric: Option<MetricKind>,
    /// A metric given as a file is better when it is smaller
    #[arg(long)]
    minimise: bool,
    /// The class number of positions without a target
    #[arg(long, value_name = "N", value_parser = integer)]
    ignore_index: Option<i64>,
    /// The array that holds targets [default: target]
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The array of sample weights: how much each sample counts in training
    #[arg(long, value_name = "NAME")]
    weight: Option<String>,
    /// The array of an input that is not called like it
    #[arg(long, value_name = "INPUT=ARRAY", value_parser = pair)]
    map: Vec<(String, String)>,
    /// The axis of an input or output that counts samples, from 0, where it cannot be told from the model; arrays have samples
    /// first all the same
    #[arg(long, value_name = "NAME=AXIS", value_parser = axis)]
    batch_axis: Vec<(String, usize)>,
    /// The axis of the output that holds classes, where it cannot be told from the model and the targets; -1 is the last
    #[arg(long, value_name = "AXIS", allow_negative_numbers = true)]
    class_axis: Option<i64>,
    /// The class that stands for none, for --loss ctc; -1 is the last [default: 0]
    #[arg(long, value_name = "CLASS", allow_negative_numbers = true)]
    blank: Option<i64>,
    /// The model has no axis that counts samples: a row of every array is a whole input, and batches are added up one by one
    #[arg(long)]
    one_at_a_time: bool,
}

/// How the grown model learns.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct Training {
    /// How dendrites learn [default: hybrid]
    #[arg(long, value_name = "METHOD")]
    method: Option<MethodChoice>,
    /// Candidates a dendrite [default: 8]
    #[arg(long, value_name = "K", value_parser = count)]
    pool: Option<usize>,
    /// Epochs of a neuron phase, at most [default: 200]
    #[arg(long, value_name = "N", value_parser = count)]
    epochs: Option<usize>,
    /// Samples a step; by default a hundredth of the data within 16 and 128
    #[arg(long, value_name = "N", value_parser = count)]
    batch: Option<usize>,
    /// Pass a step's batch in pieces of so many samples, whose gradients are added up: the same step in less memory
    #[arg(long, value_name = "N", value_parser = count)]
    micro_batch: Option<usize>,
    /// Compute activations anew in the backward pass instead of keeping them all: the same step in less memory, up to 1.4
    /// times as long
    #[arg(long)]
    recompute: bool,
    /// Whether samples are drawn in a new order every epoch [default: true]
    #[arg(long, value_name = "BOOL")]
    shuffle: Option<bool>,
    /// The learning rate at which a neuron phase starts; searched for by default
    #[arg(long, value_name = "RATE", value_parser = positive)]
    lr: Option<f64>,
    /// The optimizer [default: adamw]
    #[arg(long, value_name = "OPTIMIZER")]
    optimizer: Option<OptimizerChoice>,
    /// Share of each class target that training spreads evenly over all classes; 0.1 keeps a small data set from making
    /// the model too sure [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    label_smoothing: Option<f64>,
    /// Weight decay; by default larger for smaller data sets
    #[arg(long, value_name = "DECAY", value_parser = not_negative)]
    weight_decay: Option<f64>,
    /// How much each class counts in the loss: equal, balanced (by the inverse of its share), or a list 1,2.5,1 [default:
    /// equal]
    #[arg(long, value_name = "WEIGHTS")]
    class_weights: Option<ClassWeights>,
    /// Largest norm of the gradient; no clipping by default
    #[arg(long, value_name = "NORM", value_parser = positive)]
    clip_norm: Option<f64>,
    /// Epochs without improvement before the learning rate drops [default: 10]
    #[arg(long, value_name = "N", value_parser = count)]
    patience: Option<usize>,
    /// Attempts at a cycle before growth stops [default: 2]
    #[arg(long, value_name = "N", value_parser = count)]
    tries: Option<usize>,
    /// Weights that train: all, sites, head, dendrites, or a pattern of names [default: all]
    #[arg(long, value_name = "WHICH")]
    train_weights: Option<String>,
    /// The statistics by which BatchNormalization trains; scores are always by the stored ones [default: frozen]
    #[arg(long, value_name = "STATISTICS")]
    batch_norm: Option<BatchNormChoice>,
    /// How long training may take: 90s, 10m, 1h30m; no limit by default
    #[arg(long, value_name = "TIME")]
    budget: Option<Time>,
    /// How long training goes on between two checkpoints [default: 10s]
    #[arg(long, value_name = "TIME")]
    checkpoint_every: Option<Time>,
    /// What the result is held against, each in a run of its own afterwards: longer (as many epochs without dendrites), sham
    /// (connections held at zero), wider (hidden layers widened to as many parameters), several by commas, all, or none
    /// [default: none]
    #[arg(long, value_name = "CONTROLS")]
    controls: Option<Controls>,
    /// Grow at once, without a neuron phase before the first dendrites
    #[arg(long)]
    no_finetune_first: bool,
}

/// Where it is computed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct Machine {
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Threads; all cores by default
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
}

impl Machine {
    /// Let flags override `options`.
    pub(crate) fn apply(&self, options: &mut Options) {
        set_some(&mut options.threads, self.threads);
    }

    /// How sessions are built under `options`.
    pub(crate) fn session(&self, options: &Options) -> SessionOptions {
        let threads = options.threads.unwrap_or(0);
        SessionOptions { device: self.device, threads, ..Default::default() }
    }
}

/// A limit on parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ParameterLimit {
    /// A number.
    Absolute(usize),
    /// A multiple of the input model's.
    Times(f64),
}

impl std::str::FromStr for ParameterLimit {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let invalid = || format!("'{s}' is neither a number nor a factor such as x2.5");
        match s.strip_prefix('x') {
            Some(factor) => positive(factor).map(ParameterLimit::Times).map_err(|_| invalid()),
            None => s.parse().map(ParameterLimit::Absolute).map_err(|_| invalid()),
        }
    }
}

impl ParameterLimit {
    /// The limit for a model of `parameters`.
    pub(crate) fn of(self, parameters: usize) -> usize {
        match self {
            ParameterLimit::Absolute(n) => n,
            ParameterLimit::Times(factor) => (parameters as f64 * factor) as usize,
        }
    }
}

/// What a result is held against.
#[derive(Debug, Clone)]
struct Controls(Vec<Control>);

impl std::str::FromStr for Controls {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let one = |name: &str| match name.trim() {
            "longer" => Ok(Control::Longer),
            "sham" => Ok(Control::Sham),
            "wider" => Ok(Control::Wider),
            alone @ ("all" | "none") => Err(format!("'{alone}' stands alone, or name controls: longer, sham, wider")),
            other => Err(format!("'{other}' is no control; one of longer, sham, wider, all or none")),
        };
        match s {
            "none" => Ok(Controls(Vec::new())),
            "all" => Ok(Controls(vec![Control::Longer, Control::Sham, Control::Wider])),
            list => list.split(',').map(one).collect::<Result<_, _>>().map(Controls),
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!("'{text}' is not a number above 0")),
    }
}

pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!("'{text}' is not a number of at least 0")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err(format!("'{text}' is not a number from 0 to below 1")),
    }
}

/// A whole number of 0 or more.
pub(crate) fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not a whole number of 0 or more"))
}

/// A whole number of 1 or more.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(count) if count > 0 => Ok(count as usize),
        _ => Err(format!("'{text}' is not a whole number of 1 or more")),
    }
}

fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("'{text}' is not a whole number"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (input, array) = text.split_once('=').ok_or_else(|| format!("'{text}' is not of the form INPUT=ARRAY"))?;
    Ok((input.to_owned(), array.to_owned()))
}

fn axis(text: &str) -> Result<(String, usize), String> {
    let parts = text.rsplit_once('=').and_then(|(name, axis)| Some((name.to_owned(), axis.parse().ok()?)));
    parts.ok_or_else(|| format!("'{text}' is not of the form NAME=AXIS, the axis a number from 0"))
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let fail = |e: std::io::Error| Failure::io(path)(e);
    let bytes = std::fs::read(path).map_err(fail)?;
    let text = || Failure::new(format!("{}: it is no text in UTF-8", path.display()), Some("give a file of TOML"));
    String::from_utf8(bytes).map_err(|_| text())
}

/// Options in a file and one by one.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct Configuration {
    /// Options in TOML; flags override them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One option of the file's form, such as preprocess.scale=0.0078125 or augment.flip="horizontal"
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

const CONFIGURATION_HINT: &str = "`dendrite grow --print-config` prints every option with its value";

impl Configuration {
    /// The options of the file, or the defaults, with single ones changed.
    pub(crate) fn read(&self) -> Result<Options, Failure> {
        let mut table = toml::Table::new();
        let fail =
            |place: &str, text: &str, e: &toml::de::Error| toml_error::failure(place, text, e, CONFIGURATION_HINT);
        let checked = |place: &str, options: &Options| {
            options.check().map_err(|e| Failure::new(format!("{place}: {e}"), e.hint()))
        };
        if let Some(path) = &self.config {
            let text = read_text(path)?;
            // Read as options first: an error then shows the line.
            let options = toml::from_str(&text).map_err(|e| fail(&shown(path), &text, &e))?;
            checked(&shown(path), &options)?;
            table = toml::from_str(&text).map_err(|e| fail(&shown(path), &text, &e))?;
        }
        for setting in &self.set {
            let place = format!("--set {setting}");
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| Failure::new(format!("{place}: expected KEY=VALUE"), Some(CONFIGURATION_HINT)))?;
            // What is no TOML value is taken as text, so that quotes may be left out.
            let assignment = |value: &str| toml::from_str::<toml::Table>(&format!("{} = {value}", key.trim()));
            let quoted = toml::Value::String(value.trim().to_owned()).to_string();
            let single =
                assignment(value.trim()).or_else(|_| assignment(&quoted)).map_err(|e| fail(&place, setting, &e))?;
            let before = table.clone();
            merge(&mut table, single);
            let options = table.clone().try_into().map_err(|e| {
                // The likeliest slip of all: a list as other options take it.
                let list = value.contains(',') && !value.contains(['[', '{', '"']);
                let bracketed = format!("{}=[{}]", key.trim(), value.trim());
                let fits = |e: &toml::Table| e.clone().try_into::<Options>().is_ok();
                let fixed =
                    list.then(|| assignment(&format!("[{}]", value.trim())).ok()).flatten().is_some_and(|single| {
                        let mut table = before.clone();
                        merge(&mut table, single);
                        fits(&table)
                    });
                let hint = format!("lists are in brackets: --set {bracketed}");
                toml_error::failure(&place, setting, &e, if fixed { &hint } else { CONFIGURATION_HINT })
            })?;
            checked(&place, &options)?;
        }
        table.try_into().map_err(|e| fail("options", "", &e))
    }
}

/// Put the entries of `from` into `into`, tables entry by entry.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

impl Placement {
    /// Let flags override `options`. `parameters` are the input model's.
    pub(crate) fn apply(&self, options: &mut Options, parameters: usize) {
        if !self.sites.is_empty() {
            options.sites.clone_from(&self.sites);
        }
        if !self.exclude.is_empty() {
            options.exclude.clone_from(&self.exclude);
        }
        set(&mut options.dendrites, self.dendrites);
        set(&mut options.connect, self.connect.map(Connection::from));
        set(&mut options.activation, self.activation.map(Activations::from));
        set(&mut options.seed, self.seed);
        set_some(&mut options.width, self.width);
        set_some(&mut options.output, self.output.clone());
        if !self.also.is_empty() {
            options.also.clone_from(&self.also);
        }
        set_some(&mut options.max_parameters, self.max_parameters.map(|limit| limit.of(parameters)));
    }
}

impl Scoring {
    /// Let flags override `options`.
    pub(crate) fn apply(&self, options: &mut Options) {
        set(&mut options.loss, self.loss.clone());
        set(&mut options.metric, self.metric.clone());
        options.minimise |= self.minimise;
        set_some(&mut options.ignore_index, self.ignore_index);
        set(&mut options.target, self.target.clone());
        set_some(&mut options.weight, self.weight.clone());
        if !self.map.is_empty() {
            options.map.clone_from(&self.map);
        }
        if !self.batch_axis.is_empty() {
            options.batch_axis.clone_from(&self.batch_axis);
        }
        set_some(&mut options.class_axis, self.class_axis);
        set(&mut options.blank, self.blank);
        options.one_at_a_time |= self.one_at_a_time;
    }
}

impl Training {
    /// Let flags override `options`.
    pub(crate) fn apply(&self, options: &mut Options) {
        set(&mut options.method, self.method.map(Method::from));
        set(&mut options.pool, self.pool);
        set(&mut options.epochs, self.epochs);
        set_some(&mut options.batch, self.batch);
        set_some(&mut options.micro_batch, self.micro_batch);
        options.recompute |= self.recompute;
        set(&mut options.shuffle, self.shuffle);
        set_some(&mut options.lr, self.lr);
        set(&mut options.class_weights, self.class_weights.clone());
        set(&mut options.optimizer, self.optimizer.map(OptimizerKind::from));
        set(&mut options.label_smoothing, self.label_smoothing);
        set_some(&mut options.weight_decay, self.weight_decay);
        set_some(&mut options.clip_norm, self.clip_norm);
        set(&mut options.patience, self.patience);
        set(&mut options.tries, self.tries);
        set(&mut options.train, self.train_weights.clone());
        set(&mut options.batch_norm, self.batch_norm.map(BatchNorm::from));
        set_some(&mut options.budget, self.budget);
        set(&mut options.checkpoint_every, self.checkpoint_every);
        set(&mut options.controls, self.controls.clone().map(|c| c.0));
        if self.no_finetune_first {
            options.finetune_first = false;
        }
    }
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn set_some<T>(slot: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *slot = value;
    }
}

/// Refuse to write below a folder called `~`: the shell puts the home folder in its place only where it begins a word.
pub(crate) fn check_home(path: &Path) -> Result<(), Failure> {
    match home(path).filter(|folder| !Path::new(folder).exists()) {
        Some(folder) => Err(Failure::new(
            format!("{}: there is no folder '{folder}', and none is made", shown(path)),
            Some(NOT_EXPANDED),
        )),
        None => Ok(()),
    }
}

/// What to do about a path that still begins with `~`.
pub(crate) const NOT_EXPANDED: &str =
    "the shell did not put your home folder in the place of ~: leave out the quotes and the =, or write $HOME";

/// The folder `~` or `~user` that a path begins with.
pub(crate) fn home(path: &Path) -> Option<&str> {
    path.components().next()?.as_os_str().to_str().filter(|first| first.starts_with('~'))
}

/// A file argument in messages.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
