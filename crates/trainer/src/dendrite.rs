//! The dendrite phase: the network is frozen, a pool of candidates at each site is trained to correlate with the site's
//! remaining error, and the best of each dendrite's candidates are kept.
//!
//! The network being frozen, a site's input and error are constants: they are computed once and reused over all epochs.

use std::collections::HashSet;

use dendrite_autodiff::{
    gradients,
    optimizer::{Algorithm, Optimizer},
};
use dendrite_onnx::{ElementType, Tensor, ValueId};
use dendrite_runtime::{Loop, Session, StateSlot};
use dendrites::{
    Activation, Connection, DendriteSet, Site, Weights,
    candidates::{CandidateGraph, Pool, Purpose, SiteBatch, candidate_graph, statistics},
    fragment::Reading,
};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    evaluate::{batch_shape, write_rows},
    network::{Growth, Network},
    objective::Context,
    options::{Method, Options},
    random::{generator, normal},
};

/// Bytes that one site's input and error may take in memory; beyond, a random part of the samples serves.
const CACHE_BYTES: usize = 1 << 30;
/// The learning rate of candidates: their objective is scale-free, so one number serves.
const CANDIDATE_RATE: f64 = 0.01;
/// Rows (samples times positions) of one candidate step.
const CANDIDATE_ROWS: usize = 512;
/// The standard deviation a new dendrite's net input is brought to lies in this range.
const NET_INPUT_DEVIATION: (f32, f32) = (1.0, 2.0);

/// What one site's dendrite phase came to.
#[derive(Debug, Clone, Serialize)]
pub struct SiteReport {
    /// The site.
    pub site: String,
    /// The activation that won.
    pub activation: Activation,
    /// Mean over dendrites of the best candidate's |rho| (layer: norm of its correlations) before training.
    pub initial: f64,
    /// The same after training.
    pub trained: f64,
    /// Samples that were used.
    pub samples: usize,
}

/// One site's frozen data.
struct SiteData {
    input: Tensor,
    error: Tensor,
}

/// Run the phase for `sets`, one new set a site, and return their tensors (the connection zero) with a report each.
pub fn dendrite_phase(
    context: Context,
    growth: &Growth,
    new: &[DendriteSet],
    place: [u64; 2],
) -> Result<(Vec<DendriteSet>, Weights, Vec<SiteReport>)> {
    let Context { network, options, .. } = context;
    let sites: Vec<&Site> = new.iter().filter_map(|set| network.site(&set.site)).collect();
    let mut data = site_data(context, growth, &sites, place)?;
    let mut weights = growth.weights.clone();
    let mut sets = growth.sets.clone();
    let (mut reports, mut added) = (Vec::new(), Vec::new());
    for (index, (set, site)) in new.iter().zip(&sites).enumerate() {
        // Sets of one site that are added together see each other: later ones read earlier ones.
        let Some(data) = data.iter_mut().find(|(name, _)| *name == site.name).map(|(_, d)| d) else { continue };
        let mut search = Search::new(context, site, set, &sets, &weights, data)?;
        let mut rng = generator(options.seed, &[2, place[0], place[1], index as u64]);
        let (set, tensors, report) = search.run(&mut rng)?;
        weights.extend(tensors);
        sets.push(set.clone());
        added.push(set);
        reports.push(report);
    }
    let names: HashSet<String> = growth.weights.keys().cloned().collect();
    weights.retain(|name, _| !names.contains(name));
    Ok((added, weights, reports))
}

/// x and E of every site over the training samples, E scaled to unit size.
fn site_data(context: Context, growth: &Growth, sites: &[&Site], place: [u64; 2]) -> Result<Vec<(String, SiteData)>> {
    let Context { network, objective, samples, options, session } = context;
    let batch = options.batch_for(samples.len());
    let mut graph = network.grown(growth, Reading::Direct)?;
    let shapes: Vec<(String, Vec<usize>)> =
        samples.fields().iter().map(|(name, array)| (name.clone(), batch_shape(array, batch))).collect();
    Network::bind_shapes(&mut graph, &shapes)?;
    let target = samples.target().ok_or_else(|| samples.error("it holds no target".to_owned(), "say --target"))?;
    let values = objective.attach(&mut graph, network.prediction)?;
    let mut names: Vec<String> = sites.iter().map(|s| s.name.clone()).collect();
    names.dedup();
    let unique: Vec<&Site> = names.iter().filter_map(|n| network.site(n)).collect();
    let wrt: Vec<ValueId> = unique.iter().map(|s| s.output).collect();
    let found = gradients(&mut graph, values.mean, &wrt, &HashSet::new())?;
    let mut fetches = Vec::new();
    let mut outputs = Vec::new();
    for (index, (site, gradient)) in unique.iter().zip(found).enumerate() {
        let gradient = gradient.ok_or_else(|| Error::Option {
            reason: format!("the loss does not depend on site '{}'", site.name),
            hint: "leave it out with --exclude".to_owned(),
        })?;
        for (role, value) in [("input", site.input), ("error", gradient)] {
            let shape = graph.value(value).shape.as_ref().and_then(|s| s.as_known());
            let shape = match (shape, role) {
                (Some(shape), _) => shape,
                (None, "error") => known_shape(&graph, site.output, &site.name)?,
                (None, _) => known_shape(&graph, value, &site.name)?,
            };
            let named = graph.op("Identity", &format!("site_{index}/{role}"), &[value], Default::default());
            outputs.push(named);
            fetches.push((graph.name_of(named).to_owned(), ElementType::Float, shape));
        }
    }
    graph.outputs = outputs;
    graph.prune();
    let (target_name, weight) = (graph.name_of(values.target).to_owned(), graph.name_of(values.weight).to_owned());
    let mut feeds: Vec<(String, ElementType, Vec<usize>)> = samples
        .fields()
        .iter()
        .map(|(name, array)| (name.clone(), array.element_type(), batch_shape(array, batch)))
        .collect();
    feeds.push((target_name.clone(), target.element_type(), batch_shape(target, batch)));
    feeds.push((weight.clone(), ElementType::Float, vec![batch]));

    let per_sample: usize =
        fetches.iter().map(|(_, _, shape)| shape.iter().product::<usize>() * 4 / batch).max().unwrap_or(1) * 2;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let fitting = (CACHE_BYTES / per_sample.max(1)).max(batch);
    if fitting < order.len() {
        order.shuffle(&mut generator(options.seed, &[3, place[0], place[1]]));
        order.truncate(fitting);
        order.sort_unstable();
    }
    let mut pass = Loop::new(Session::from_graph(&graph, session)?, Vec::new(), &feeds, &fetches)?;
    let mut columns: Vec<Vec<f32>> = vec![Vec::new(); fetches.len()];
    let (mut buffer, mut read) = (Vec::new(), Vec::new());
    for rows in order.chunks(batch) {
        let mut indices = rows.to_vec();
        indices.resize(batch, rows[0]);
        for (name, array) in samples.fields() {
            write_rows(&mut pass, name, array, &indices, &mut buffer)?;
        }
        write_rows(&mut pass, &target_name, target, &indices, &mut buffer)?;
        let weights: Vec<f32> = (0..batch).map(|i| if i < rows.len() { 1.0 } else { 0.0 }).collect();
        pass.write_f32(&weight, &weights)?;
        pass.step()?;
        for ((name, _, shape), column) in fetches.iter().zip(&mut columns) {
            pass.read_f32(name, &mut read)?;
            let width = shape.iter().product::<usize>() / batch;
            // The loss is a mean over the batch's samples; errors are wanted per sample.
            let scale = if name.ends_with("/error") { rows.len() as f32 } else { 1.0 };
            column.extend(read.iter().take(width * rows.len()).map(|v| v * scale));
        }
    }
    let mut columns = columns.into_iter().zip(&fetches);
    let mut data = Vec::new();
    for site in unique {
        let (Some((x, (_, _, x_shape))), Some((mut e, (_, _, e_shape)))) = (columns.next(), columns.next()) else {
            break;
        };
        scale_errors(&mut e);
        let with_rows = |shape: &[usize]| -> Vec<usize> {
            std::iter::once(order.len()).chain(shape.iter().skip(1).copied()).collect()
        };
        data.push((
            site.name.clone(),
            SiteData {
                input: Tensor::from_f32(&with_rows(x_shape), &x),
                error: Tensor::from_f32(&with_rows(e_shape), &e),
            },
        ));
    }
    Ok(data)
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

/// Exact sums over all samples, in double precision.
struct Sums {
    count: f64,
    a: Vec<f64>,
    aa: Vec<f64>,
    e: Vec<f64>,
    ee: Vec<f64>,
    ae: Vec<f64>,
    z: Vec<f64>,
    zz: Vec<f64>,
}

/// The search for one set at one site.
struct Search<'a> {
    context: Context<'a>,
    site: &'a Site,
    pool: Pool,
    sets: &'a [DendriteSet],
    weights: &'a Weights,
    data: &'a SiteData,
    batch: usize,
    score: Loop,
    names: Vec<(String, Vec<usize>)>,
}

impl<'a> Search<'a> {
    fn new(
        context: Context<'a>,
        site: &'a Site,
        set: &DendriteSet,
        sets: &'a [DendriteSet],
        weights: &'a Weights,
        data: &'a SiteData,
    ) -> Result<Self> {
        let Context { network, options, session, .. } = context;
        let pool = pool_for(set, options);
        let samples = data.input.shape()[0];
        let positions = data.error.len() / (samples * site.channels).max(1);
        let batch = (CANDIDATE_ROWS / positions.max(1)).clamp(8, 512).min(samples);
        let shapes = SiteBatch { input: batch_shape(&data.input, batch), error: batch_shape(&data.error, batch) };
        let graph = candidate_graph(&network.graph, site, &pool, sets, weights, &shapes, &Purpose::Score)?;
        let names = pool.tensors(site, sets);
        let units = pool.units();
        let product = match pool.set.connection {
            Connection::Neuron => vec![1, units],
            Connection::Layer => vec![units, site.channels],
        };
        let fetches: Vec<(String, ElementType, Vec<usize>)> = [
            (statistics::Z, vec![1, units]),
            (statistics::ZZ, vec![1, units]),
            (statistics::A, vec![1, units]),
            (statistics::AA, vec![1, units]),
            (statistics::E, vec![1, site.channels]),
            (statistics::EE, vec![1, site.channels]),
            (statistics::COUNT, vec![1, 1]),
            (statistics::AE, product),
        ]
        .into_iter()
        .map(|(name, shape)| (name.to_owned(), ElementType::Float, shape))
        .collect();
        let mut feeds = site_feeds(&shapes, batch);
        feeds.extend(names.iter().map(|(name, shape)| (name.clone(), ElementType::Float, shape.clone())));
        let score = Loop::new(Session::from_graph(&graph.graph, session)?, Vec::new(), &feeds, &fetches)?;
        Ok(Search { context, site, pool, sets, weights, data, batch, score, names })
    }

    fn run(&mut self, rng: &mut ChaCha8Rng) -> Result<(DendriteSet, Weights, SiteReport)> {
        let mut current = self.initial(rng)?;
        let sums = self.sums(&current)?;
        let first = self.strengths(&sums);
        let mut best = Best::new(self.site, &self.pool, &current, &first);
        let initial = best.mean();
        let options = self.context.options;
        let epochs = if options.method == Method::Gd { 0 } else { options.dendrite_epochs };
        if epochs > 0 {
            let mut training = Training::new(self, &current)?;
            for _ in 0..epochs {
                training.epoch(self.data, self.batch, rng)?;
                current = training.tensors(&self.names)?;
                let sums = self.sums(&current)?;
                let strengths = self.strengths(&sums);
                best.update(&current, &strengths);
            }
        }
        let (activation, tensors) = best.winners(&self.pool, self.site, self.sets)?;
        let set = DendriteSet { activation, ..self.pool.set.clone() };
        let report = SiteReport {
            site: self.site.name.clone(),
            activation,
            initial,
            trained: best.mean(),
            samples: self.data.input.shape()[0],
        };
        Ok((set, tensors, report))
    }

    /// Random weights, scaled so that each net input has a deviation drawn from [`NET_INPUT_DEVIATION`] and a mean within
    /// one deviation of zero.
    fn initial(&mut self, rng: &mut ChaCha8Rng) -> Result<Weights> {
        let mut tensors = Weights::new();
        for (name, shape) in &self.names {
            let values: Vec<f32> = if *name == self.pool.set.path("weight") {
                (0..shape.iter().product::<usize>()).map(|_| normal(rng)).collect()
            } else {
                vec![0.0; shape.iter().product()]
            };
            tensors.insert(name.clone(), Tensor::from_f32(shape, &values));
        }
        let sums = self.sums(&tensors)?;
        let units = self.pool.units();
        let mut scales = Vec::with_capacity(units);
        let mut shifts = Vec::with_capacity(units);
        for k in 0..units {
            let mean = sums.z[k] / sums.count;
            let deviation = (sums.zz[k] / sums.count - mean * mean).max(0.0).sqrt();
            let (low, high) = NET_INPUT_DEVIATION;
            let wanted = low + (high - low) * rng.random::<f32>();
            let scale = if deviation > 1e-12 { f64::from(wanted) / deviation } else { 0.0 };
            let centre = f64::from(wanted) * (2.0 * f64::from(rng.random::<f32>()) - 1.0);
            scales.push(scale as f32);
            shifts.push((centre - mean * scale) as f32);
        }
        let name = self.pool.set.path("weight");
        let scaled = scale_units(&tensors[&name], unit_axis(self.site, &tensors[&name]), &scales);
        tensors.insert(name, scaled);
        let bias = self.pool.set.path("bias");
        if let Some(tensor) = tensors.get(&bias) {
            let tensor = Tensor::from_f32(tensor.shape(), &shifts);
            tensors.insert(bias, tensor);
        }
        Ok(tensors)
    }

    /// One exact pass over all samples.
    fn sums(&mut self, tensors: &Weights) -> Result<Sums> {
        for (name, tensor) in tensors {
            self.score.write(name, tensor.bytes())?;
        }
        let units = self.pool.units();
        let products = match self.pool.set.connection {
            Connection::Neuron => units,
            Connection::Layer => units * self.site.channels,
        };
        let zeros = |n: usize| vec![0.0; n];
        let channels = self.site.channels;
        let mut sums = Sums {
            count: 0.0,
            a: zeros(units),
            aa: zeros(units),
            e: zeros(channels),
            ee: zeros(channels),
            ae: zeros(products),
            z: zeros(units),
            zz: zeros(units),
        };
        let samples = self.data.input.shape()[0];
        let all: Vec<usize> = (0..samples).collect();
        let (mut buffer, mut read) = (Vec::new(), Vec::new());
        for rows in all.chunks(self.batch) {
            write_site_batch(&mut self.score, self.data, rows, self.batch, &mut buffer)?;
            self.score.step()?;
            let mut count = [0.0];
            for (name, into) in [
                (statistics::COUNT, &mut count[..]),
                (statistics::A, &mut sums.a[..]),
                (statistics::AA, &mut sums.aa[..]),
                (statistics::E, &mut sums.e[..]),
                (statistics::EE, &mut sums.ee[..]),
                (statistics::AE, &mut sums.ae[..]),
                (statistics::Z, &mut sums.z[..]),
                (statistics::ZZ, &mut sums.zz[..]),
            ] {
                self.score.read_f32(name, &mut read)?;
                into.iter_mut().zip(&read).for_each(|(sum, v)| *sum += f64::from(*v));
            }
            sums.count += count[0];
        }
        Ok(sums)
    }

    /// |rho| of every unit; for the layer connection the norm of its correlations, errors weighted by their size.
    fn strengths(&self, sums: &Sums) -> Vec<f64> {
        let n = sums.count.max(1.0);
        let channels = self.site.channels;
        (0..self.pool.units())
            .map(|k| {
                let mean = sums.a[k] / n;
                let variance = (sums.aa[k] / n - mean * mean).max(0.0);
                if variance < 1e-12 {
                    return 0.0;
                }
                match self.pool.set.connection {
                    Connection::Neuron => {
                        let c = k % channels;
                        let mean_e = sums.e[c] / n;
                        let variance_e = (sums.ee[c] / n - mean_e * mean_e).max(0.0);
                        if variance_e < 1e-12 {
                            return 0.0;
                        }
                        ((sums.ae[k] / n - mean * mean_e) / (variance * variance_e).sqrt()).abs()
                    }
                    Connection::Layer => {
                        let square: f64 =
                            (0..channels).map(|c| (sums.ae[k * channels + c] / n - mean * sums.e[c] / n).powi(2)).sum();
                        (square / variance).sqrt()
                    }
                }
            })
            .collect()
    }
}

/// The training session of a pool.
struct Training {
    step: Loop,
    graph: CandidateGraph,
    frozen: Weights,
    learning_rate: String,
    count: String,
    steps: u64,
}

impl Training {
    fn new(search: &Search, start: &Weights) -> Result<Self> {
        let shapes = SiteBatch {
            input: batch_shape(&search.data.input, search.batch),
            error: batch_shape(&search.data.error, search.batch),
        };
        let algorithm = Algorithm::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let optimizer = Optimizer { algorithm, clip_norm: None };
        let graph = candidate_graph(
            &search.context.network.graph,
            search.site,
            &search.pool,
            search.sets,
            search.weights,
            &shapes,
            &Purpose::Train(&optimizer),
        )?;
        let mut state = Vec::new();
        let (mut learning_rate, mut count) = (String::new(), String::new());
        if let Some(values) = &graph.optimizer {
            let name = |v: ValueId| graph.graph.name_of(v).to_owned();
            for (parameter, updated) in graph.parameters.iter().zip(&values.updated) {
                let input = name(*parameter);
                let initial = start[&input].clone();
                state.push(StateSlot { input, output: name(*updated), initial });
            }
            for (input, output, shape) in &values.state {
                let zero = Tensor::filled(ElementType::Float, &shape.as_known().unwrap_or_default(), 0.0);
                state.push(StateSlot { input: name(*input), output: name(*output), initial: zero });
            }
            (learning_rate, count) = (name(values.learning_rate), name(values.step));
        }
        let mut feeds = site_feeds(&shapes, search.batch);
        feeds.push((learning_rate.clone(), ElementType::Float, vec![]));
        feeds.push((count.clone(), ElementType::Float, vec![]));
        let mut step = Loop::new(Session::from_graph(&graph.graph, search.context.session)?, state, &feeds, &[])?;
        step.write_f32(&learning_rate, &[CANDIDATE_RATE as f32])?;
        Ok(Training { step, graph, frozen: start.clone(), learning_rate, count, steps: 0 })
    }

    /// One pass over the samples in a new order. A last batch that is not full is left out: it comes first another time.
    fn epoch(&mut self, data: &SiteData, batch: usize, rng: &mut ChaCha8Rng) -> Result<()> {
        let mut order: Vec<usize> = (0..data.input.shape()[0]).collect();
        order.shuffle(rng);
        let mut buffer = Vec::new();
        debug_assert!(!self.learning_rate.is_empty());
        for rows in order.chunks_exact(batch) {
            write_site_batch(&mut self.step, data, rows, batch, &mut buffer)?;
            self.steps += 1;
            self.step.write_f32(&self.count, &[self.steps as f32])?;
            self.step.step()?;
        }
        Ok(())
    }

    fn tensors(&self, names: &[(String, Vec<usize>)]) -> Result<Weights> {
        let state = self.step.state()?;
        let mut tensors = self.frozen.clone();
        for (parameter, tensor) in self.graph.parameters.iter().zip(state) {
            tensors.insert(self.graph.graph.name_of(*parameter).to_owned(), tensor);
        }
        tensors.retain(|name, _| names.iter().any(|(n, _)| n == name));
        Ok(tensors)
    }
}

/// The best snapshot of every unit: rows of a pool are independent, so each is taken from the epoch in which it was best.
struct Best {
    strengths: Vec<f64>,
    tensors: Weights,
    width: usize,
    weight: String,
    weight_axis: usize,
}

impl Best {
    fn new(site: &Site, pool: &Pool, tensors: &Weights, strengths: &[f64]) -> Self {
        let weight = pool.set.path("weight");
        let weight_axis = unit_axis(site, &tensors[&weight]);
        Best { strengths: strengths.to_vec(), tensors: tensors.clone(), width: pool.set.width, weight, weight_axis }
    }

    /// The axis of a tensor that counts units: all but the weights are vectors.
    fn axis(&self, name: &str) -> usize {
        if name == self.weight { self.weight_axis } else { 0 }
    }

    fn update(&mut self, tensors: &Weights, strengths: &[f64]) {
        let better: Vec<bool> = strengths.iter().zip(&self.strengths).map(|(new, old)| new > old).collect();
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .map(|(name, kept)| {
                let chosen = choose_units(&kept, &tensors[&name], self.axis(&name), &better);
                (name, chosen)
            })
            .collect();
        for (old, new) in self.strengths.iter_mut().zip(strengths) {
            *old = old.max(*new);
        }
    }

    /// For every dendrite the best candidate with an activation in `range` of candidates.
    fn best_in(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        (0..self.width)
            .map(|k| {
                range.clone().fold(range.start, |best, p| {
                    if self.strengths[p * self.width + k] > self.strengths[best * self.width + k] { p } else { best }
                })
            })
            .collect()
    }

    fn mean(&self) -> f64 {
        let candidates = self.strengths.len() / self.width.max(1);
        let best = self.best_in(0..candidates);
        best.iter().enumerate().map(|(k, p)| self.strengths[p * self.width + k]).sum::<f64>() / self.width.max(1) as f64
    }

    /// The activation whose candidates are strongest, and the set's tensors made of them, the connection zero.
    fn winners(&self, pool: &Pool, site: &Site, sets: &[DendriteSet]) -> Result<(Activation, Weights)> {
        let mut start = 0;
        let mut chosen: Option<(f64, Activation, Vec<usize>)> = None;
        for (activation, count) in &pool.groups {
            let best = self.best_in(start..start + count);
            start += count;
            let total = best.iter().enumerate().map(|(k, p)| self.strengths[p * self.width + k]).sum::<f64>();
            if chosen.as_ref().is_none_or(|(t, _, _)| total > *t) {
                chosen = Some((total, *activation, best));
            }
        }
        let Some((_, activation, best)) = chosen else {
            return Err(Error::Option {
                reason: "the pool is empty".to_owned(),
                hint: "--pool takes at least 1".to_owned(),
            });
        };
        let units: Vec<usize> = best.iter().enumerate().map(|(k, p)| p * self.width + k).collect();
        let mut tensors = Weights::new();
        for (name, shape) in pool.set.tensors(site, sets) {
            let tensor = match self.tensors.get(&name) {
                Some(wide) => take_units(wide, self.axis(&name), &units, &shape),
                None => Tensor::filled(ElementType::Float, &shape, 0.0),
            };
            tensors.insert(name, tensor);
        }
        Ok((activation, tensors))
    }
}

/// The pool of a set under `options`: `gd` draws one candidate a dendrite, the others compete.
fn pool_for(set: &DendriteSet, options: &Options) -> Pool {
    let activations = options.activation.list();
    let size = if options.method == Method::Gd { 1 } else { options.pool.max(1) };
    let groups = activations
        .iter()
        .enumerate()
        .map(|(i, activation)| (*activation, size / activations.len() + usize::from(i < size % activations.len())))
        .filter(|(_, count)| *count > 0)
        .collect();
    Pool { set: set.clone(), groups }
}

fn site_feeds(shapes: &SiteBatch, batch: usize) -> Vec<(String, ElementType, Vec<usize>)> {
    vec![
        ("x".to_owned(), ElementType::Float, shapes.input.clone()),
        ("error".to_owned(), ElementType::Float, shapes.error.clone()),
        ("weight".to_owned(), ElementType::Float, vec![batch]),
    ]
}

fn write_site_batch(
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

/// The axis of a weight operand that counts units.
fn unit_axis(site: &Site, tensor: &Tensor) -> usize {
    match site.kind {
        dendrites::SiteKind::Conv => 0,
        dendrites::SiteKind::Gemm if site.transposed => 0,
        _ => tensor.shape().len() - 1,
    }
}

fn scale_units(tensor: &Tensor, axis: usize, scales: &[f32]) -> Tensor {
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let units = tensor.shape()[axis];
    let values: Vec<f32> =
        tensor.to_f32().unwrap_or_default().iter().enumerate().map(|(i, v)| v * scales[i / inner % units]).collect();
    Tensor::from_f32(tensor.shape(), &values)
}

fn choose_units(old: &Tensor, new: &Tensor, axis: usize, better: &[bool]) -> Tensor {
    let inner: usize = old.shape()[axis + 1..].iter().product();
    let units = old.shape()[axis];
    let (old_values, new_values) = (old.to_f32().unwrap_or_default(), new.to_f32().unwrap_or_default());
    let values: Vec<f32> = old_values
        .iter()
        .zip(&new_values)
        .enumerate()
        .map(|(i, (o, n))| if better[i / inner % units] { *n } else { *o })
        .collect();
    Tensor::from_f32(old.shape(), &values)
}

fn take_units(tensor: &Tensor, axis: usize, chosen: &[usize], shape: &[usize]) -> Tensor {
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let outer: usize = tensor.shape()[..axis].iter().product();
    let units = tensor.shape()[axis];
    let source = tensor.to_f32().unwrap_or_default();
    let mut values = Vec::with_capacity(outer * chosen.len() * inner);
    for o in 0..outer {
        for unit in chosen {
            let start = (o * units + unit) * inner;
            values.extend_from_slice(&source[start..start + inner]);
        }
    }
    Tensor::from_f32(shape, &values)
}
