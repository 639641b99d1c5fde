//! A site's frozen data: its input x and its error E over the training samples.

use std::{collections::HashSet, ops::Range, sync::atomic::Ordering};

use dendrite_autodiff::{gradients, loss::LossValues};
use dendrite_data::{Loader, Order};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId};
use dendrite_runtime::{Loop, Session};
use dendrites::{
    Application, Site, SiteKind,
    candidates::{SiteBatch, WEIGHT, error_name, input_name},
    fragment::Reading,
    probe::neurons,
};

use crate::{
    error::{Error, Result},
    feed,
    memory::planned,
    network::Growth,
    objective::Context,
    random::generator,
};

/// Bytes that one site's input and error may take in memory; beyond, a random part of the samples serves.
const SITE_BYTES: usize = 128 << 20;
/// Bytes that the sites whose data are computed together may take.
const GROUP_BYTES: usize = 512 << 20;
/// Positions beyond which more samples tell little more.
const POSITIONS: usize = 1 << 20;

/// One site's frozen data.
pub(super) struct SiteData {
    /// How many samples there are.
    pub(super) samples: usize,
    /// Input and error of each of its applications.
    applications: Vec<(Tensor, Tensor)>,
}

impl SiteData {
    /// The length of the first axis: one for each sample, or several.
    pub(super) fn rows(&self) -> usize {
        self.applications.first().and_then(|(input, _)| input.shape().first()).copied().unwrap_or(0)
    }

    /// Positions of a row with an error for each of `channels` neurons, those of all applications.
    pub(super) fn positions(&self, channels: usize) -> usize {
        let errors: usize = self.applications.iter().map(|(_, error)| error.len()).sum();
        errors / (self.rows() * channels).max(1)
    }

    /// The shapes of a batch of rows.
    pub(super) fn batches(&self, batch: usize) -> Vec<SiteBatch> {
        let of = |(input, error): &(Tensor, Tensor)| SiteBatch {
            input: batch_shape(input, batch),
            error: batch_shape(error, batch),
        };
        self.applications.iter().map(of).collect()
    }
}

/// What the passes over a network compute for one application of a site: values with their shapes.
struct Port {
    input: (ValueId, Vec<usize>),
    error: (ValueId, Vec<usize>),
    /// Rows of a sample on their first axis.
    rows: usize,
}

/// Where samples lie in what a site reads and in its errors.
#[derive(Clone, Copy)]
enum Arrangement {
    /// An axis counts them.
    Axis(usize),
    /// The first axis counts so many rows for each of them.
    Rows(usize),
}

/// What the passes over a network compute for one site, and how many samples of it are kept.
struct Wanted<'a> {
    site: &'a Site,
    ports: Vec<Port>,
    samples: usize,
}

impl Wanted<'_> {
    fn bytes(&self, batch: usize) -> usize {
        per_sample(&self.ports, batch).saturating_mul(self.samples)
    }
}

/// Bytes of a site's inputs and errors for one sample.
fn per_sample(ports: &[Port], batch: usize) -> usize {
    let elements = |port: &Port| port.input.1.iter().product::<usize>() + port.error.1.iter().product::<usize>();
    4 * ports.iter().map(elements).sum::<usize>() / batch.max(1)
}

/// A frozen network with the errors of sites.
pub(super) struct Frozen<'a> {
    context: Context<'a>,
    graph: Graph,
    values: LossValues,
    wanted: Vec<Wanted<'a>>,
    order: Order,
    batch: usize,
}

impl<'a> Frozen<'a> {
    /// Differentiate the network as `growth` has it with respect to the neurons of `sites`.
    pub(super) fn new(context: Context<'a>, growth: &Growth, sites: &[&'a Site], place: [u64; 2]) -> Result<Self> {
        let Context { network, objective, samples, options, .. } = context;
        let batch = options.pass_for(samples.len());
        let mut graph = network.grown(growth, Reading::Direct)?;
        network.bind(&mut graph, &feed::shapes(samples, batch))?;
        let values = objective.attach_training(&mut graph, network.prediction)?;
        let mut unique: Vec<&Site> = sites.to_vec();
        unique.dedup_by_key(|site| &site.name);
        // What is told of nodes is told before differentiation takes some apart.
        let (mut wrt, mut arranged) = (Vec::new(), Vec::new());
        for site in &unique {
            for application in &site.applications {
                arranged.push(arrangement(&graph, site, application, batch)?);
                let found = neurons(&mut graph, site, application);
                wrt.push(found.ok_or_else(|| unknown_shape(graph.name_of(application.input), &application.name))?);
            }
        }
        let mut found = gradients(&mut graph, values.mean, &wrt, &HashSet::new())?.into_iter();
        let mut wanted = Vec::new();
        for site in unique {
            let count = site.applications.len();
            let places: Vec<(ValueId, Arrangement)> = wrt.drain(..count).zip(arranged.drain(..count)).collect();
            let gradients: Vec<Option<ValueId>> = found.by_ref().take(count).collect();
            if gradients.iter().all(Option::is_none) {
                return Err(Error::Option {
                    reason: format!("the loss does not depend on site '{}'", site.name),
                    hint: "leave it out with --exclude".to_owned(),
                });
            }
            let mut ports = Vec::new();
            for ((application, (value, arranged)), gradient) in site.applications.iter().zip(places).zip(gradients) {
                let input = known_shape(&graph, application.input, &application.name)?;
                let error = known_shape(&graph, value, &application.name)?;
                // Where the loss does not see an application, its error is none.
                let nothing = || Tensor::filled(ElementType::Float, &error, 0.0);
                let gradient = gradient.unwrap_or_else(|| graph.add_constant("no_error", nothing()));
                let (axis, rows) = match arranged {
                    Arrangement::Axis(axis) => (axis, 1),
                    Arrangement::Rows(rows) => (0, rows),
                };
                ports.push(Port {
                    input: samples_first(&mut graph, application.input, input, axis),
                    error: samples_first(&mut graph, gradient, error, axis),
                    rows,
                });
            }
            if ports.iter().any(|port| Some(port.rows) != ports.first().map(|first| first.rows)) {
                return Err(Error::Option {
                    reason: format!("the operations of site '{}' read different numbers of rows a sample", site.name),
                    hint: "leave the site out with --exclude".to_owned(),
                });
            }
            let elements: usize = ports.iter().map(|port| port.error.1.iter().product::<usize>()).sum();
            let positions = elements / (batch * site.channels).max(1);
            let fitting = (SITE_BYTES / per_sample(&ports, batch).max(1)).min(POSITIONS / positions.max(1));
            let samples = fitting.max(batch).min(samples.len());
            wanted.push(Wanted { site, ports, samples });
        }
        let order = if wanted.iter().any(|w| w.samples < samples.len()) {
            let order = Order::shuffled(samples.len(), &mut generator(options.seed, &[3, place[0], place[1]]));
            order.first(wanted.iter().map(|w| w.samples).max().unwrap_or(0))
        } else {
            Order::from(0..samples.len())
        };
        Ok(Frozen { context, graph, values, wanted, order, batch })
    }

    /// Sites in groups, the data of each of which fit into memory together.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (index, wanted) in self.wanted.iter().enumerate() {
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
        for wanted in wanted {
            for port in &wanted.ports {
                for (role, (value, shape)) in [("input", &port.input), ("error", &port.error)] {
                    let named = graph.op("Identity", &format!("site_{role}"), &[*value], Default::default());
                    graph.outputs.push(named);
                    fetches.push((graph.name_of(named).to_owned(), ElementType::Float, shape.clone()));
                    limits.push((wanted.samples, role == "error"));
                }
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
        let rows = limits.iter().map(|(samples, _)| *samples).max().unwrap_or(0);
        // What is kept is known, and a vector that grows by doubling would take up to twice as much.
        let sizes = fetches
            .iter()
            .zip(&limits)
            .map(|((_, _, shape), (limit, _))| shape.iter().product::<usize>() / self.batch.max(1) * limit);
        let mut columns: Vec<Vec<f32>> = sizes.map(Vec::with_capacity).collect();
        let (mut read, mut done) = (Vec::new(), 0);
        for batch in Loader::new(samples, self.batch, self.order.clone().first(rows), None)? {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let batch = batch?;
            feed::write(&mut pass, samples, &batch, &target)?;
            pass.write_f32(&weight, &batch.weights)?;
            pass.step()?;
            // The loss is a mean over the batch's samples; errors are wanted per sample.
            let total: f32 = batch.weights.iter().sum();
            for (((name, _, shape), column), (limit, is_error)) in fetches.iter().zip(&mut columns).zip(&limits) {
                let kept = batch.count.min(limit.saturating_sub(done));
                if kept == 0 {
                    continue;
                }
                pass.read_f32(name, &mut read)?;
                let width = shape.iter().product::<usize>() / self.batch;
                let scale = if *is_error { total } else { 1.0 };
                column.extend(read.iter().take(width * kept).map(|v| v * scale));
            }
            done += batch.count;
        }
        let mut columns = columns.into_iter();
        let mut data = Vec::new();
        for wanted in wanted {
            let with_rows = |rows: usize, shape: &[usize]| -> Vec<usize> {
                std::iter::once(wanted.samples * rows).chain(shape.iter().skip(1).copied()).collect()
            };
            let mut all: Vec<(Vec<f32>, Vec<f32>)> =
                wanted.ports.iter().map_while(|_| Some((columns.next()?, columns.next()?))).collect();
            scale_errors(&mut all);
            let ports = wanted.ports.iter().zip(all);
            let applications = ports.map(|(port, (x, e))| {
                let shapes = [&port.input.1, &port.error.1].map(|shape| with_rows(port.rows, shape));
                (Tensor::from_f32(&shapes[0], &x), Tensor::from_f32(&shapes[1], &e))
            });
            data.push((wanted.site, SiteData { samples: wanted.samples, applications: applications.collect() }));
        }
        Ok(data)
    }
}

fn unknown_shape(value: &str, site: &str) -> Error {
    Error::Option {
        reason: format!("the shape of value '{value}' at site '{site}' is unknown"),
        hint: "leave the site out with --exclude".to_owned(),
    }
}

fn known_shape(graph: &Graph, value: ValueId, site: &str) -> Result<Vec<usize>> {
    let shape = graph.value(value).shape.as_ref().and_then(|s| s.as_known());
    shape.ok_or_else(|| unknown_shape(graph.name_of(value), site))
}

/// Where samples lie at an application of a site. Sizes alone tell, and another axis may be as long as a batch by chance: then
/// of a batch that is not full other rows are taken than those of its samples, whose errors are theirs all the same or zero.
fn arrangement(graph: &Graph, site: &Site, application: &Application, batch: usize) -> Result<Arrangement> {
    let shape = known_shape(graph, application.input, &application.name)?;
    let axes = match site.kind {
        SiteKind::Recurrent { .. } => {
            let of_batch = usize::from(graph.node(application.node).attributes.int("layout", 0) == 0);
            vec![of_batch, 1 - of_batch]
        }
        SiteKind::MatMul => (0..shape.len().saturating_sub(1)).collect(),
        SiteKind::Conv | SiteKind::ConvTranspose | SiteKind::Gemm => vec![0],
    };
    if let Some(axis) = axes.into_iter().find(|axis| shape.get(*axis) == Some(&batch)) {
        return Ok(Arrangement::Axis(axis));
    }
    match shape.first() {
        Some(rows) if !site.kind.is_recurrent() && rows % batch == 0 => Ok(Arrangement::Rows(rows / batch)),
        _ => Err(Error::Option {
            reason: format!(
                "site '{}' reads {shape:?}, of which no axis counts the {batch} samples of a batch",
                application.name
            ),
            hint: "leave the site out with --exclude".to_owned(),
        }),
    }
}

/// A value with the axis of its samples first.
fn samples_first(graph: &mut Graph, value: ValueId, shape: Vec<usize>, axis: usize) -> (ValueId, Vec<usize>) {
    if axis == 0 {
        return (value, shape);
    }
    let mut turned = shape;
    turned.swap(0, axis);
    let mut perm: Vec<i64> = (0..turned.len() as i64).collect();
    perm.swap(0, axis);
    let first = graph.op("Transpose", "samples_first", &[value], Attributes::new().with("perm", perm));
    graph.set_type(first, Some(ElementType::Float), Some(Shape::known(&turned)));
    (first, turned)
}

/// Bring the errors of a site, which come with its inputs, to unit size: their scale depends on the loss, correlations do not.
fn scale_errors(data: &mut [(Vec<f32>, Vec<f32>)]) {
    let count: usize = data.iter().map(|(_, errors)| errors.len()).sum();
    let square: f64 = data.iter().flat_map(|(_, errors)| errors).map(|e| f64::from(*e) * f64::from(*e)).sum();
    let scale = 1.0 / (square / count.max(1) as f64).sqrt().max(1e-30);
    data.iter_mut().flat_map(|(_, errors)| errors).for_each(|e| *e = (f64::from(*e) * scale) as f32);
}

/// The inputs of a candidate graph.
pub(super) fn site_feeds(shapes: &[SiteBatch], batch: usize) -> Vec<(String, ElementType, Vec<usize>)> {
    let mut feeds = Vec::new();
    for (index, shapes) in shapes.iter().enumerate() {
        feeds.push((input_name(index), ElementType::Float, shapes.input.clone()));
        feeds.push((error_name(index), ElementType::Float, shapes.error.clone()));
    }
    feeds.push((WEIGHT.to_owned(), ElementType::Float, vec![batch]));
    feeds
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
    for (index, (input, error)) in data.applications.iter().enumerate() {
        write_rows(pass, &input_name(index), input, &indices, buffer)?;
        write_rows(pass, &error_name(index), error, &indices, buffer)?;
    }
    let weights: Vec<f32> = (0..batch).map(|i| if i < rows.len() { 1.0 } else { 0.0 }).collect();
    pass.write_f32(WEIGHT, &weights)?;
    Ok(())
}

/// The shape of `batch` rows of an array.
fn batch_shape(array: &Tensor, batch: usize) -> Vec<usize> {
    std::iter::once(batch).chain(array.shape().iter().skip(1).copied()).collect()
}

/// Copy rows of an array into an input of a pass. `buffer` is scratch space.
fn write_rows(pass: &mut Loop, name: &str, array: &Tensor, indices: &[usize], buffer: &mut Vec<u8>) -> Result<()> {
    let width = array.bytes().len() / array.shape().first().copied().unwrap_or(1).max(1);
    buffer.clear();
    indices.iter().for_each(|index| buffer.extend_from_slice(&array.bytes()[index * width..(index + 1) * width]));
    Ok(pass.write(name, buffer)?)
}
