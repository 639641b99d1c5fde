//! A site's frozen data: its input x and its error E over the training samples.

use std::{collections::HashSet, ops::Range, sync::atomic::Ordering};

use dendrite_autodiff::{gradients, loss::LossValues};
use dendrite_data::Loader;
use dendrite_onnx::{Dim, ElementType, Graph, Tensor, ValueId};
use dendrite_runtime::{Loop, Session};
use dendrites::{Site, candidates::SiteBatch, fragment::Reading};
use rand::seq::SliceRandom;

use crate::{
    error::{Error, Result},
    feed,
    memory::planned,
    network::{Growth, Network},
    objective::Context,
    random::generator,
};

/// Bytes that one site's input and error may take in memory; beyond, a random part of the samples serves.
const SITE_BYTES: usize = 128 << 20;
/// Bytes that the sites whose data are computed together may take.
const GROUP_BYTES: usize = 512 << 20;
/// Positions beyond which more samples tell little more.
const POSITIONS: usize = 1 << 20;

/// One site's frozen data, row by row: a row is a sample, or a part of one.
pub(super) struct SiteData {
    pub(super) input: Tensor,
    pub(super) error: Tensor,
    /// The samples the rows come from.
    pub(super) samples: usize,
}

/// What the passes over a network compute for one site, and how many samples of it are kept.
struct Wanted<'a> {
    site: &'a Site,
    input: Vec<usize>,
    error: Vec<usize>,
    samples: usize,
    /// Whether the first axis counts samples. It may count time, or samples and time: whole batches are kept then, in which rows
    /// of the input and of the error still belong together.
    by_sample: bool,
}

impl Wanted<'_> {
    /// Samples of a batch of `count` that are kept, when `done` have been.
    fn kept(&self, batch: usize, count: usize, done: usize) -> usize {
        let kept = count.min(self.samples.saturating_sub(done));
        if self.by_sample || kept == batch { kept } else { 0 }
    }

    /// The shape of the rows of all samples in place of `shape`, that of a batch.
    fn rows(&self, shape: &[usize], batch: usize) -> Vec<usize> {
        if self.by_sample {
            return std::iter::once(self.samples).chain(shape.iter().skip(1).copied()).collect();
        }
        let batches = self.samples / batch.max(1);
        // Neurons on the last axis have all others for rows.
        let split = if self.site.channel_axis() == -1 { shape.len().saturating_sub(1) } else { 1 };
        let (rows, row) = shape.split_at(split.min(shape.len()));
        std::iter::once(batches * rows.iter().product::<usize>()).chain(row.iter().copied()).collect()
    }

    fn bytes(&self, batch: usize) -> usize {
        per_sample(&self.input, &self.error, batch).saturating_mul(self.samples)
    }
}

/// Bytes of a site's input and error for one sample.
fn per_sample(input: &[usize], error: &[usize], batch: usize) -> usize {
    4 * (input.iter().product::<usize>() + error.iter().product::<usize>()) / batch.max(1)
}

/// A frozen network with the errors of sites.
pub(super) struct Frozen<'a> {
    context: Context<'a>,
    graph: Graph,
    values: LossValues,
    wanted: Vec<(Wanted<'a>, ValueId)>,
    order: Vec<usize>,
    batch: usize,
}

impl<'a> Frozen<'a> {
    /// Differentiate the network as `growth` has it with respect to the outputs of `sites`.
    pub(super) fn new(context: Context<'a>, growth: &Growth, sites: &[&'a Site], place: [u64; 2]) -> Result<Self> {
        let Context { network, objective, samples, options, .. } = context;
        let batch = options.pass_for(samples.len());
        let mut graph = network.grown(growth, Reading::Direct)?;
        network.bind(&mut graph, &feed::shapes(samples, batch))?;
        let values = objective.attach_training(&mut graph, network.prediction)?;
        let mut unique: Vec<&Site> = sites.to_vec();
        unique.dedup_by_key(|site| &site.name);
        let wrt: Vec<ValueId> = unique.iter().map(|s| s.output).collect();
        let found = gradients(&mut graph, values.mean, &wrt, &HashSet::new())?;
        let mut wanted = Vec::new();
        for (site, gradient) in unique.into_iter().zip(found) {
            let gradient = gradient.ok_or_else(|| Error::Option {
                reason: format!("the loss does not depend on site '{}'", site.name),
                hint: "leave it out with --exclude".to_owned(),
            })?;
            let (input, error) =
                (known_shape(&graph, site.input, &site.name)?, known_shape(&graph, site.output, &site.name)?);
            let positions = error.iter().product::<usize>() / (batch * site.channels).max(1);
            let fitting = (SITE_BYTES / per_sample(&input, &error, batch).max(1)).min(POSITIONS / positions.max(1));
            let mut samples = fitting.max(batch).min(samples.len());
            let by_sample = [site.input, site.output].iter().all(|value| counts_samples(network, *value))
                && [&input, &error].iter().all(|shape| shape.first() == Some(&batch));
            if !by_sample {
                samples -= samples % batch;
            }
            wanted.push((Wanted { site, input, error, samples, by_sample }, gradient));
        }
        let mut order: Vec<usize> = (0..samples.len()).collect();
        if wanted.iter().any(|(w, _)| w.samples < order.len()) {
            order.shuffle(&mut generator(options.seed, &[3, place[0], place[1]]));
            order.truncate(wanted.iter().map(|(w, _)| w.samples).max().unwrap_or(0));
            order.shrink_to_fit();
        }
        Ok(Frozen { context, graph, values, wanted, order, batch })
    }

    /// Sites in groups, the data of each of which fit into memory together.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (index, (wanted, _)) in self.wanted.iter().enumerate() {
            let own = wanted.bytes(self.batch);
            match groups.last_mut() {
                Some(group) if bytes + own <= GROUP_BYTES => group.end = index + 1,
                _ => {
                    groups.push(index..index + 1);
                    bytes = 0;
                }
            }
            bytes += own;
        }
        groups
    }

    /// x and E of every site of a group, E scaled to unit size.
    pub(super) fn data(&self, group: Range<usize>) -> Result<Vec<(&'a Site, SiteData)>> {
        let Context { samples, session, interrupt, .. } = self.context;
        let mut graph = self.graph.clone();
        let (mut fetches, mut limits) = (Vec::new(), Vec::new());
        graph.outputs.clear();
        let wanted = &self.wanted[group];
        for (index, (wanted, gradient)) in wanted.iter().enumerate() {
            let both = [("input", wanted.site.input, &wanted.input), ("error", *gradient, &wanted.error)];
            for (role, value, shape) in both {
                let named = graph.op("Identity", &format!("site_{index}/{role}"), &[value], Default::default());
                graph.outputs.push(named);
                fetches.push((graph.name_of(named).to_owned(), ElementType::Float, shape.clone()));
                limits.push(wanted);
            }
        }
        graph.prune();
        let (target, weight) =
            (graph.name_of(self.values.target).to_owned(), graph.name_of(self.values.weight).to_owned());
        let mut feeds = feed::inputs(samples, self.batch);
        feeds.push(feed::target(samples, &target, self.batch)?);
        feeds.push((weight.clone(), ElementType::Float, vec![self.batch]));
        let mut pass =
            Loop::new(Session::from_graph(&graph, &planned(&graph, session))?, Vec::new(), &feeds, &fetches)?;
        feed::write_constants(&mut pass, samples)?;
        let rows = limits.iter().map(|wanted| wanted.samples).max().unwrap_or(0);
        let mut columns: Vec<Vec<f32>> = vec![Vec::new(); fetches.len()];
        let (mut read, mut done) = (Vec::new(), 0);
        for batch in Loader::new(samples, self.batch, self.order[..rows].to_vec(), None)? {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let batch = batch?;
            feed::write(&mut pass, samples, &batch, &target)?;
            pass.write_f32(&weight, &batch.weights)?;
            pass.step()?;
            // The loss is a mean over the batch's samples; errors are wanted per sample.
            let total: f32 = batch.weights.iter().sum();
            for (((name, _, shape), column), wanted) in fetches.iter().zip(&mut columns).zip(&limits) {
                let kept = wanted.kept(self.batch, batch.count, done);
                if kept == 0 {
                    continue;
                }
                pass.read_f32(name, &mut read)?;
                let width = shape.iter().product::<usize>() / self.batch;
                let scale = if name.ends_with("/error") { total } else { 1.0 };
                column.extend(read.iter().take(width * kept).map(|v| v * scale));
            }
            done += batch.count;
        }
        let mut columns = columns.into_iter();
        let mut data = Vec::new();
        for (wanted, _) in wanted {
            let (Some(x), Some(mut e)) = (columns.next(), columns.next()) else { break };
            scale_errors(&mut e);
            data.push((
                wanted.site,
                SiteData {
                    input: Tensor::from_f32(&wanted.rows(&wanted.input, self.batch), &x),
                    error: Tensor::from_f32(&wanted.rows(&wanted.error, self.batch), &e),
                    samples: wanted.samples,
                },
            ));
        }
        Ok(data)
    }
}

/// Whether the first axis of a value of the network is as long as there are samples, as far as its symbols tell.
fn counts_samples(network: &Network, value: ValueId) -> bool {
    let first = network.graph.value(value).shape.as_ref().and_then(|shape| shape.0.first());
    match (first, &network.batch_symbol) {
        (Some(Dim::Symbol(symbol)), Some(batch)) => symbol == batch,
        (Some(Dim::Known(_)), Some(_)) => false,
        _ => true,
    }
}

fn known_shape(graph: &dendrite_onnx::Graph, value: ValueId, site: &str) -> Result<Vec<usize>> {
    graph.value(value).shape.as_ref().and_then(|s| s.as_known()).ok_or_else(|| Error::Option {
        reason: format!("the shape of value '{}' at site '{site}' is unknown", graph.name_of(value)),
        hint: "leave the site out with --exclude".to_owned(),
    })
}

/// Bring errors to unit size: their scale depends on the loss, correlations do not.
fn scale_errors(errors: &mut [f32]) {
    let square: f64 = errors.iter().map(|e| f64::from(*e) * f64::from(*e)).sum::<f64>() / errors.len().max(1) as f64;
    let scale = 1.0 / square.sqrt().max(1e-30);
    errors.iter_mut().for_each(|e| *e = (f64::from(*e) * scale) as f32);
}

/// The inputs of a candidate graph.
pub(super) fn site_feeds(shapes: &SiteBatch, batch: usize) -> Vec<(String, ElementType, Vec<usize>)> {
    vec![
        ("x".to_owned(), ElementType::Float, shapes.input.clone()),
        ("error".to_owned(), ElementType::Float, shapes.error.clone()),
        ("weight".to_owned(), ElementType::Float, vec![batch]),
    ]
}

/// Write samples of a site into a pass; a batch that is not full is filled up with weight zero.
pub(super) fn write_site_batch(
    pass: &mut Loop,
    data: &SiteData,
    rows: &[usize],
    batch: usize,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let mut indices = rows.to_vec();
    indices.resize(batch, rows[0]);
    write_rows(pass, "x", &data.input, &indices, buffer)?;
    write_rows(pass, "error", &data.error, &indices, buffer)?;
    let weights: Vec<f32> = (0..batch).map(|i| if i < rows.len() { 1.0 } else { 0.0 }).collect();
    pass.write_f32("weight", &weights)?;
    Ok(())
}

/// The shape of `batch` rows of an array.
pub(super) fn batch_shape(array: &Tensor, batch: usize) -> Vec<usize> {
    std::iter::once(batch).chain(array.shape().iter().skip(1).copied()).collect()
}

/// Copy rows of an array into an input of a pass. `buffer` is scratch space.
fn write_rows(pass: &mut Loop, name: &str, array: &Tensor, indices: &[usize], buffer: &mut Vec<u8>) -> Result<()> {
    let width = array.bytes().len() / array.shape().first().copied().unwrap_or(1).max(1);
    buffer.clear();
    indices.iter().for_each(|index| buffer.extend_from_slice(&array.bytes()[index * width..(index + 1) * width]));
    Ok(pass.write(name, buffer)?)
}
