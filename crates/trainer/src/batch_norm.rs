//! Batch normalisation in a training step: which nodes normalise by the statistics of the batch, and how their stored
//! statistics follow.
//!
//! A node trains where its scale or its shift does. The operator itself, in training mode, normalises by the mean and the
//! population variance of the batch, and gives running = momentum * running + (1 - momentum) * batch.

use std::collections::HashMap;

use dendrite_onnx::{Graph, Node, NodeId, Tensor, ValueId};
use dendrites::trainable::origin;

use crate::{
    error::{Error, Result},
    options::{BatchNorm, Options},
};

/// ONNX's default. It stands in for a momentum of 1, with which stored statistics would never move: exporters write that for
/// layers they take to be frozen.
const MOMENTUM: f32 = 0.9;

/// A stored statistic that follows the batches.
pub(crate) struct Running {
    /// Its name in the model; in a training graph an input.
    pub(crate) name: String,
    /// Its value after a step.
    pub(crate) updated: ValueId,
    /// Its value before the first step.
    pub(crate) initial: Tensor,
}

/// How a model's batch normalisations take part in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Those that the model has.
    pub(crate) nodes: usize,
    /// Those whose statistics follow the batches.
    pub(crate) trained: usize,
    /// Of these, those for whose momentum of 1 the default is taken.
    pub(crate) replaced: usize,
}

/// What a run under `options` does with the batch normalisations of `graph`; `trained` are the weights that train.
pub(crate) fn facts(graph: &Graph, trained: &[String], options: &Options) -> Facts {
    let nodes: Vec<&Node> = graph.nodes().map(|(_, node)| node).filter(|node| is_stored(node)).collect();
    let live = nodes.iter().filter(|node| options.batch_norm == BatchNorm::Train && trains(graph, node, trained));
    let (trained, replaced) = live.fold((0, 0), |(n, r), node| (n + 1, r + usize::from(never_moves(node))));
    Facts { nodes: nodes.len(), trained, replaced }
}

/// Whether the option can be followed: an error where there is no statistic to train.
pub(crate) fn check(graph: &Graph, trained: &[String], options: &Options) -> Result<()> {
    let Facts { nodes, trained: live, .. } = facts(graph, trained, options);
    if options.batch_norm == BatchNorm::Frozen || live > 0 {
        return Ok(());
    }
    Err(if nodes == 0 {
        Error::Option {
            reason: "--batch-norm train: the model has no BatchNormalization; exporters fold it into convolutions"
                .to_owned(),
            hint:
                "leave --batch-norm out, or export the model without folding (PyTorch: training=TrainingMode.PRESERVE, \
                   do_constant_folding=False)"
                    .to_owned(),
        }
    } else {
        Error::Option {
            reason: format!(
                "--batch-norm train: none of the model's BatchNormalization nodes ({nodes}) has a scale or a shift that trains"
            ),
            hint: "leave --batch-norm out, or select their weights with --train-weights".to_owned(),
        }
    })
}

/// The names of the stored statistics that change in a run; none unless `options` let them.
pub(crate) fn changing(graph: &Graph, trained: &[String], options: &Options) -> Result<Vec<String>> {
    if options.batch_norm == BatchNorm::Frozen {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for id in live(graph, trained)? {
        let ids = statistics(graph, graph.node(id))?;
        names.extend(ids.map(|v| graph.name_of(v).to_owned()));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Let the batch normalisations of `graph` whose scale or shift is among `trained` use the statistics of the batch, their
/// stored ones becoming inputs. A statistic that several nodes share follows each of them in turn.
pub(crate) fn use_batches(graph: &mut Graph, trained: &[String]) -> Result<Vec<Running>> {
    let mut running: Vec<Running> = Vec::new();
    let mut latest: HashMap<ValueId, usize> = HashMap::new();
    // All at first: what several nodes share is no constant any more once it is an input.
    let found = live(graph, trained)?.into_iter().map(|id| Ok((id, statistics(graph, graph.node(id))?)));
    for (id, statistics) in found.collect::<Result<Vec<_>>>()? {
        let node = graph.node(id).clone();
        enough_values(graph, &node)?;
        for (index, statistic) in statistics.into_iter().enumerate() {
            let name = graph.name_of(statistic).to_owned();
            let (element_type, shape) = (graph.value(statistic).element_type, graph.value(statistic).shape.clone());
            let updated = graph.add_value(&format!("{name}/updated"));
            graph.set_type(updated, element_type, shape);
            set_output(graph, id, 1 + index, updated);
            match latest.get(&statistic) {
                Some(place) => {
                    let before = std::mem::replace(&mut running[*place].updated, updated);
                    graph.set_input(id, 3 + index, Some(before));
                }
                None => {
                    let initial = graph.constant_to_input(statistic).ok_or_else(|| computed(graph, &node))?;
                    graph.set_input(id, 3 + index, Some(statistic));
                    latest.insert(statistic, running.len());
                    running.push(Running { name, updated, initial });
                }
            }
        }
        let momentum = if never_moves(&node) { MOMENTUM } else { momentum(&node) };
        let attributes = &mut graph.node_mut(id).attributes;
        attributes.set("training_mode", 1i64);
        attributes.set("momentum", momentum);
    }
    Ok(running)
}

/// A batch normalisation that uses stored statistics.
fn is_stored(node: &Node) -> bool {
    node.is("BatchNormalization") && node.attributes.int("training_mode", 0) == 0
}

fn trains(graph: &Graph, node: &Node, trained: &[String]) -> bool {
    let weight = |index| node.input(index).and_then(|v| origin(graph, v)).map(|v| graph.name_of(v));
    [weight(1), weight(2)].into_iter().flatten().any(|name| trained.iter().any(|t| t == name))
}

/// The nodes that train, in topological order.
fn live(graph: &Graph, trained: &[String]) -> Result<Vec<NodeId>> {
    let mut order = graph.topological_order()?;
    order.retain(|id| is_stored(graph.node(*id)) && trains(graph, graph.node(*id), trained));
    Ok(order)
}

/// The stored mean and variance of a node.
fn statistics(graph: &Graph, node: &Node) -> Result<[ValueId; 2]> {
    let stored = |index| {
        let value = node.input(index).and_then(|v| origin(graph, v));
        value.filter(|v| graph.rank(*v) == Some(1) && !graph.is_of_function(*v)).ok_or_else(|| computed(graph, node))
    };
    Ok([stored(3)?, stored(4)?])
}

fn computed(graph: &Graph, node: &Node) -> Error {
    Error::Option {
        reason: format!(
            "node {}: its mean or variance is not stored in the model as a float32 vector",
            graph.label(node)
        ),
        hint: "leave --batch-norm train out".to_owned(),
    }
}

fn momentum(node: &Node) -> f32 {
    node.attributes.opt_float("momentum").unwrap_or(MOMENTUM)
}

fn never_moves(node: &Node) -> bool {
    momentum(node) >= 1.0
}

/// The variance of a single value is zero, whatever the value.
fn enough_values(graph: &Graph, node: &Node) -> Result<()> {
    let shape = node.input(0).and_then(|v| graph.value(v).shape.as_ref()?.as_known());
    let values = shape.map(|s| s.iter().enumerate().filter(|(axis, _)| *axis != 1).map(|(_, n)| n).product::<usize>());
    if values != Some(1) {
        return Ok(());
    }
    Err(Error::Option {
        reason: format!("node {}: a batch of one sample has no variance to train by", graph.label(node)),
        hint: "raise --batch, or leave --batch-norm train out".to_owned(),
    })
}

fn set_output(graph: &mut Graph, node: NodeId, index: usize, value: ValueId) {
    let outputs = &mut graph.node_mut(node).outputs;
    if outputs.len() <= index {
        outputs.resize(index + 1, None);
    }
    graph.set_output(node, index, value);
}
