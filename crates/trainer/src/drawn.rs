//! The graphs of a training step, from a network to its gradients and the optimizer's update.

use std::collections::HashSet;

use dendrite_autodiff::{
    accumulation, gradients,
    loss::LossValues,
    optimizer,
    optimizer::{Algorithm, Optimizer, OptimizerValues},
    recompute::recompute,
};
use dendrite_onnx::{ElementType, Graph, Shape, Tensor, ValueId, padding::absorb_padding};
use dendrite_runtime::fold_integers;
use dendrites::fragment::{Reading, stop_value};

use crate::{
    batch_norm::{self, Running},
    error::{Error, Result},
    feed,
    network::Growth,
    objective::Context,
    options::{BatchNorm, Method, OptimizerKind, Options},
    pieces::Passes,
};

/// The scalar outputs of a step: the mean loss of the batch, and the norm of the gradients.
pub(crate) const LOSS: &str = "training/loss";
pub(crate) const NORM: &str = "training/gradient_norm";

/// The graph of a training step as far as its gradients.
struct Differentiated {
    graph: Graph,
    values: LossValues,
    /// The weights that train, with their values at the start.
    kept: Vec<(String, Tensor)>,
    /// The same weights with their gradients.
    pairs: Vec<(ValueId, ValueId)>,
    /// The statistics that follow the batches.
    running: Vec<Running>,
}

/// Build everything of the first training step but its session, to find out early what stands in its way.
pub(crate) fn rehearse(context: Context, names: &[String]) -> Result<()> {
    differentiate(context, &Growth::default(), names).map(drop)
}

fn differentiate(context: Context, growth: &Growth, names: &[String]) -> Result<Differentiated> {
    let Context { network, objective, samples, options, .. } = context;
    let batch = options.pass_for(samples.len());
    let perforated = options.method == Method::Pb;
    let reading = if perforated { Reading::Perforated } else { Reading::Direct };
    let mut graph = network.grown(growth, reading)?;
    network.bind(&mut graph, &feed::shapes(samples, batch))?;
    fold_integers(&mut graph)?;
    absorb_padding(&mut graph);
    let applications = network.sites.iter().flat_map(|site| &site.applications);
    let stops: HashSet<ValueId> = if perforated {
        applications.filter_map(|a| graph.find(&stop_value(&a.name))).collect()
    } else {
        HashSet::new()
    };
    let trained: Vec<ValueId> = names.iter().filter_map(|n| graph.find(n)).collect();
    let running =
        if options.batch_norm == BatchNorm::Train { batch_norm::use_batches(&mut graph, names)? } else { Vec::new() };
    let mut start = Vec::new();
    for id in &trained {
        start.extend(graph.constant_to_input(*id));
    }
    let values = objective.attach_training(&mut graph, network.prediction)?;
    let divided = options.divides(samples.len());
    if divided && !running.is_empty() {
        return Err(Error::Option {
            reason: "--batch-norm train takes statistics of a whole batch, --micro-batch passes it in pieces"
                .to_owned(),
            hint: "leave one of the two out".to_owned(),
        });
    }
    if divided && !values.separable {
        let (why, say) = if values.alike {
            ("the loss gives one number for the whole batch", "let the loss give one number for each sample, or")
        } else {
            ("classes are weighed or ignored, and --also adds a loss of which nothing is", "")
        };
        return Err(Error::Option {
            reason: format!("micro-batch: {why}, which cannot be added up from pieces of it"),
            hint: format!("{say} leave --micro-batch out").trim_start().to_owned(),
        });
    }
    let loss = if divided { values.sum } else { values.mean };
    let found = gradients(&mut graph, loss, &trained, &stops)?;
    let (mut kept, mut pairs) = (Vec::new(), Vec::new());
    for ((weight, initial), gradient) in trained.into_iter().zip(start).zip(found) {
        match gradient {
            Some(gradient) => {
                pairs.push((weight, gradient));
                kept.push((graph.name_of(weight).to_owned(), initial));
            }
            // What the loss does not depend on stays a constant.
            None => {
                graph.inputs.retain(|v| *v != weight);
                graph.set_constant(weight, initial);
            }
        }
    }
    if kept.is_empty() {
        return Err(Error::Option {
            reason: "nothing trains: the loss depends on no selected weight".to_owned(),
            hint: "select weights with --train-weights, or another output with --output".to_owned(),
        });
    }
    Ok(Differentiated { graph, values, kept, pairs, running })
}

/// Everything of a training step but its sessions.
pub(crate) struct Parts {
    /// The pass over a piece of a batch, where batches are divided.
    pub(crate) passes: Option<Passes>,
    /// The whole step, or the optimizer's part of it.
    pub(crate) graph: Graph,
    /// The weights that train, with their values at the start.
    pub(crate) kept: Vec<(String, Tensor)>,
    /// The statistics that follow the batches.
    pub(crate) running: Vec<Running>,
    /// The optimizer's values in `graph`.
    pub(crate) attached: OptimizerValues,
    /// The names of the inputs that take targets and sample weights.
    pub(crate) target: String,
    pub(crate) weight: String,
}

impl Parts {
    pub(crate) fn new(context: Context, growth: &Growth, names: &[String]) -> Result<Self> {
        let Context { samples, options, .. } = context;
        let Differentiated { mut graph, values, kept, pairs, running } = differentiate(context, growth, names)?;
        let divided = options.divides(samples.len());
        if options.recompute {
            recompute(&mut graph, if divided { values.sum } else { values.mean }, &pairs)?;
        }
        let optimizer = optimizer_of(options, samples.len());
        let name = |v: ValueId| graph.name_of(v).to_owned();
        let (target, weight) = (name(values.target), name(values.weight));
        let mut passes = None;
        let (loss, attached) = if divided {
            let parameters: Vec<(String, Shape)> =
                kept.iter().map(|(name, tensor)| (name.clone(), Shape::known(tensor.shape()))).collect();
            let of_piece = Passes::new(graph, &values, &pairs)?;
            let update = accumulation::update(&optimizer, &parameters, &of_piece.names())?;
            passes = Some(of_piece);
            graph = update.graph;
            (update.loss, update.optimizer)
        } else {
            let attached = optimizer::attach(&mut graph, &optimizer, &pairs)?;
            (values.mean, attached)
        };
        let loss = graph.op("Identity", LOSS, &[loss], Default::default());
        let norm = graph.op("Identity", NORM, &[attached.gradient_norm], Default::default());
        graph.outputs = vec![loss, norm];
        graph.outputs.extend(&attached.updated);
        graph.outputs.extend(running.iter().map(|r| r.updated));
        graph.outputs.extend(attached.state.iter().map(|(_, output, _)| *output));
        graph.prune();
        Ok(Parts { passes, graph, kept, running, attached, target, weight })
    }

    /// The optimizer's state at the start.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Tensor> + '_ {
        let zeros = |shape: &Shape| Tensor::filled(ElementType::Float, &shape.as_known().unwrap_or_default(), 0.0);
        self.attached.state.iter().map(move |(_, _, shape)| zeros(shape))
    }
}

fn optimizer_of(options: &Options, samples: usize) -> Optimizer {
    let weight_decay = options.decay_for(samples);
    let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
    let algorithm = match options.optimizer {
        OptimizerKind::AdamW => Algorithm::AdamW { beta1, beta2, epsilon, weight_decay },
        OptimizerKind::Adam => Algorithm::Adam { beta1, beta2, epsilon, weight_decay },
        OptimizerKind::Sgd => Algorithm::Sgd { momentum: 0.9, nesterov: false, weight_decay },
    };
    Optimizer { algorithm, clip_norm: options.clip_norm }
}
