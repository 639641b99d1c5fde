//! The part of a network that nothing changes in a run: computed once over the data, in place of once a step.
//!
//! What lies before the first trained weight and the first site is the same for a sample in every epoch. Where that is a good
//! part of the work, training goes on behind it: a network whose inputs are the values at the border, on samples that hold
//! them. Names stay, so what is grown there is grown on the whole network.

use std::sync::atomic::{AtomicBool, Ordering};

use dendrite_data::{Augment, Loader, Samples};
use dendrite_onnx::{ElementType, Graph, Shape, Tensor, ValueId, batch::reachable, ops::cost::model_macs};
use dendrite_runtime::{Loop, Session, SessionOptions, infer_shapes};

use crate::{
    error::{Error, Result},
    feed,
    memory::planned,
    network::{Batching, Network},
    options::Options,
};

/// The share of a pass's work that has to be saved.
const WORTHWHILE: f64 = 0.2;
/// Bytes that the border's values may take over all data sets.
const MOST_BYTES: usize = 1 << 30;
/// How often the training data are computed under random changes, in place of changes that are new in every epoch; the data
/// as they are come on top.
const COPIES: usize = 7;
/// Samples of a pass over the frozen part.
const BATCH: usize = 32;

/// How many times the training data come behind a frozen part: as they are, and with every set of changes.
pub(crate) fn sets(options: &Options) -> usize {
    if options.augment.is_off() { 1 } else { 1 + COPIES }
}

/// The frozen part of a network.
pub(crate) struct Frozen {
    graph: Graph,
    border: Vec<ValueId>,
    /// Inputs of the whole network that the part behind the border reads too.
    kept: Vec<String>,
    request: dendrite_data::Request,
}

impl Frozen {
    /// Split `network` where training of the weights and statistics `trained` and growth at `sites` begin. `samples` are all
    /// that will be read, those that train first. `None` where it is not worth while, or the values at the border would not fit.
    pub(crate) fn split(
        network: &Network,
        trained: &[String],
        sites: &[&str],
        samples: &[&Samples],
        options: &Options,
    ) -> Result<Option<(Frozen, Network)>> {
        let Some(first) = samples.first() else { return Ok(None) };
        if options.augment.mix.is_some() || network.batching != Batching::Free {
            // Samples that are blended with others are no longer one of a few, and what takes one at a time tells no batch.
            return Ok(None);
        }
        let mut bound = network.graph.clone();
        network.bind(&mut bound, &feed::shapes(first, BATCH))?;
        let live = live(&bound, network, trained, sites);
        // A first axis is that of the samples if it follows their number: an axis of its own may be as long as one batch.
        let mut other = network.graph.clone();
        network.bind(&mut other, &feed::shapes(first, BATCH - 1))?;
        let Some((border, live)) = settle(&bound, &other, live) else { return Ok(None) };
        let behind = behind(network, &border, &live)?;
        let saved = || -> Option<f64> {
            let mut part = bound.clone();
            cut(&mut part, &border, &live);
            Some(1.0 - model_macs(&part)? as f64 / model_macs(&bound)?.max(1) as f64)
        };
        if saved().is_none_or(|share| share < WORTHWHILE) {
            return Ok(None);
        }
        let width = |v: &ValueId| {
            let value = bound.value(*v);
            let elements = value.shape.as_ref().and_then(Shape::as_known).map_or(0, |s| s.iter().product::<usize>());
            value.element_type.and_then(|t| t.byte_len(elements)).unwrap_or(usize::MAX) / BATCH
        };
        let row = border.iter().map(width).fold(0usize, usize::saturating_add);
        let rows: usize = samples.iter().map(|s| s.len()).sum::<usize>() + (sets(options) - 1) * first.len();
        if row.saturating_mul(rows) > MOST_BYTES {
            return Ok(None);
        }
        let mut graph = network.graph.clone();
        graph.outputs.clone_from(&border);
        graph.prune();
        let kept = behind.graph.inputs.iter().map(|v| behind.graph.name_of(*v).to_owned());
        let kept = kept.filter(|name| network.graph.inputs.iter().any(|v| network.graph.name_of(*v) == name)).collect();
        let request = dendrite_data::Request { map: Vec::new(), ..behind.request(options) };
        Ok(Some((Frozen { graph, border, kept, request }, behind)))
    }

    /// The samples as the network behind the border takes them. With `augment`, changes of data and a seed, they come with
    /// changed copies, one set of all samples after the other.
    pub(crate) fn samples(
        &self,
        samples: &Samples,
        augment: Option<(&Augment, u64)>,
        session: &SessionOptions,
        interrupt: &AtomicBool,
    ) -> Result<Samples> {
        let augment = augment.filter(|(augment, _)| !augment.is_off());
        let sets = 1 + augment.map_or(0, |_| COPIES);
        let size = BATCH.min(samples.len());
        let mut graph = self.graph.clone();
        Network::bind_shapes(&mut graph, &feed::shapes(samples, size))?;
        let mut fetches = Vec::new();
        for value in &self.border {
            let facts = graph.value(*value);
            let shape = facts.shape.as_ref().and_then(Shape::as_known);
            let (Some(shape), Some(element_type)) = (shape, facts.element_type) else {
                return Err(unknown(&graph, *value));
            };
            fetches.push((facts.name.clone(), element_type, shape));
        }
        let session = Session::from_graph(&graph, &planned(&graph, session))?;
        let known: Vec<String> = session.inputs().iter().map(|p| p.name.clone()).collect();
        let feeds: Vec<feed::Port> =
            feed::inputs(samples, size).into_iter().filter(|(name, _, _)| known.contains(name)).collect();
        let mut pass = Loop::new(session, Vec::new(), &feeds, &fetches)?;
        let mut columns: Vec<Vec<u8>> = vec![Vec::new(); fetches.len()];
        for (index, field) in samples.fields().iter().enumerate().filter(|(_, f)| known.contains(&f.name)) {
            if let Some(tensor) = samples.constant(index) {
                pass.write(&field.name, tensor.bytes())?;
            }
        }
        // The first set is of the data as they are, the epochs of the others count from 1 as those of training do.
        let changes =
            (0..sets as u64).map(|set| augment.filter(|_| set > 0).map(|(augment, seed)| (augment, seed, set)));
        for change in changes {
            for batch in Loader::new(samples, size, 0..samples.len(), change)? {
                if interrupt.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                let batch = batch?;
                for (field, bytes) in samples.fields().iter().zip(&batch.fields) {
                    if field.per_sample && known.contains(&field.name) {
                        pass.write(&field.name, bytes)?;
                    }
                }
                pass.step()?;
                for ((name, _, _), column) in fetches.iter().zip(&mut columns) {
                    let tensor = pass.read(name)?;
                    let width = tensor.bytes().len() / size;
                    column.extend_from_slice(&tensor.bytes()[..width * batch.count]);
                }
            }
        }
        let repeated = |tensor: &Tensor| -> Result<Tensor> {
            let shape = std::iter::once(sets * samples.len()).chain(tensor.shape().iter().skip(1).copied()).collect();
            Ok(Tensor::new(tensor.element_type(), shape, tensor.bytes().repeat(sets))?)
        };
        let mut arrays: Vec<(String, Tensor)> = Vec::new();
        for ((name, element_type, shape), column) in fetches.into_iter().zip(columns) {
            let shape = std::iter::once(sets * samples.len()).chain(shape.into_iter().skip(1)).collect();
            arrays.push((name, Tensor::new(element_type, shape, column)?));
        }
        let mut request = self.request.clone();
        for (index, field) in samples.fields().iter().enumerate().filter(|(_, f)| self.kept.contains(&f.name)) {
            let tensor = samples.tensor(index)?;
            arrays.push((field.name.clone(), if field.per_sample { repeated(&tensor)? } else { tensor }));
            request.inputs.iter_mut().filter(|i| i.name == field.name).for_each(|i| i.per_batch = !field.per_sample);
        }
        // Values and the target may be called alike.
        let target = free("target", &arrays);
        arrays.push((target.clone(), repeated(&samples.target_tensor()?)?));
        request.target = Some(target);
        request.weight = None;
        if let Some(weights) = samples.weights()? {
            let name = free("weight", &arrays);
            arrays.push((name.clone(), repeated(&Tensor::from_f32(&[weights.len()], &weights))?));
            request.weight = Some(name);
        }
        Ok(Samples::from_arrays(&samples.path().to_string_lossy(), arrays, &request)?)
    }
}

fn unknown(graph: &Graph, value: ValueId) -> Error {
    Error::Option {
        reason: format!("the shape of '{}' is not known", graph.name_of(value)),
        hint: "export the model with fixed sizes".to_owned(),
    }
}

fn free(name: &str, arrays: &[(String, Tensor)]) -> String {
    let mut name = name.to_owned();
    while arrays.iter().any(|(n, _)| *n == name) {
        name.push('_');
    }
    name
}

/// Whether each node (by index) computes something that may change in the run.
fn live(graph: &Graph, network: &Network, trained: &[String], sites: &[&str]) -> Vec<bool> {
    let mut start: Vec<ValueId> = trained.iter().filter_map(|name| graph.find(name)).collect();
    let mut nodes = vec![false; graph.node_ids().last().map_or(0, |id| id.index() + 1)];
    let grown = network.sites.iter().filter(|s| sites.contains(&s.name.as_str()));
    for application in grown.flat_map(|site| &site.applications) {
        nodes[application.node.index()] = true;
        start.extend(graph.node(application.node).outputs.iter().flatten());
    }
    let changing = reachable(graph, &start);
    for (id, node) in graph.nodes() {
        nodes[id.index()] |= node.outputs.iter().flatten().any(|o| changing.contains(o));
    }
    nodes
}

/// The values that the live nodes read of what is frozen. A value that has no row for each sample cannot be kept by sample:
/// what computes it is counted among the live nodes. `None` where nothing is left before the border.
/// `other` is the graph for one sample less a batch.
fn settle(graph: &Graph, other: &Graph, mut live: Vec<bool>) -> Option<(Vec<ValueId>, Vec<bool>)> {
    let rows = |graph: &Graph, value: ValueId| graph.value(value).shape.as_ref()?.dim(0)?.known();
    let dependent = reachable(graph, &graph.inputs);
    loop {
        let mut border: Vec<ValueId> = Vec::new();
        let mut grown = false;
        let reads = graph.nodes().filter(|(id, _)| live[id.index()]).flat_map(|(_, node)| graph.reads(node));
        let mut read: Vec<ValueId> = reads.chain(graph.outputs.iter().copied()).collect();
        read.sort_unstable_by_key(|v| v.index());
        read.dedup();
        for value in read {
            let Some(producer) = graph.value(value).producer().filter(|id| !live[id.index()]) else { continue };
            let facts = graph.value(value);
            let by_sample = dependent.contains(&value)
                && facts.element_type.is_some_and(|t| t != ElementType::String)
                && facts.shape.as_ref().is_some_and(|s| s.as_known().is_some())
                && rows(graph, value) == Some(BATCH)
                && rows(other, value) == Some(BATCH - 1);
            if by_sample {
                border.push(value);
            } else {
                live[producer.index()] = true;
                grown = true;
            }
        }
        if !grown {
            return (!border.is_empty()).then_some((border, live));
        }
    }
}

/// Make the values at the border inputs, and leave out what computes them.
fn cut(graph: &mut Graph, border: &[ValueId], live: &[bool]) {
    for id in graph.node_ids() {
        if !live.get(id.index()).copied().unwrap_or(true) {
            graph.remove(id);
        }
    }
    graph.inputs.extend(border);
    graph.prune();
}

/// The network behind the border.
fn behind(network: &Network, border: &[ValueId], live: &[bool]) -> Result<Network> {
    let mut behind = network.clone();
    cut(&mut behind.graph, border, live);
    let uses = behind.graph.uses();
    let outputs = behind.graph.outputs.clone();
    behind.graph.inputs.retain(|v| !uses[v.index()].is_empty() || outputs.contains(v));
    infer_shapes(&mut behind.graph)?;
    let left = behind.graph.node_ids();
    behind.sites.retain(|site| site.applications.iter().all(|a| left.contains(&a.node)));
    Ok(behind)
}
