//! The search for one set at one site: random candidates, their training, and exact scores.

use std::sync::atomic::{AtomicBool, Ordering};

use dendrite_autodiff::optimizer::{Algorithm, Optimizer};
use dendrite_onnx::{ElementType, Tensor, ValueId};
use dendrite_runtime::{Loop, Session, StateSlot};
use dendrites::{
    Connection, DendriteSet, Site, Weights,
    candidates::{CandidateGraph, Pool, Purpose, SiteBatch, VARIANCE_FLOOR, candidate_graph, statistics},
};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    SiteReport,
    best::{Best, scale_units, unit_axis},
    data::{SiteData, batch_shape, site_feeds, write_site_batch},
};
use crate::{
    error::{Error, Result},
    objective::Context,
    options::{Method, Options},
    random::normal,
};

/// The learning rate of candidates: their objective is scale-free, so one number serves.
const CANDIDATE_RATE: f64 = 0.01;
/// Rows (samples times positions) of one candidate step.
const CANDIDATE_ROWS: usize = 512;
/// The standard deviation a new dendrite's net input is brought to lies in this range.
const NET_INPUT_DEVIATION: (f32, f32) = (1.0, 2.0);

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
pub(super) struct Search<'a> {
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
    pub(super) fn new(
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

    pub(super) fn run(&mut self, rng: &mut ChaCha8Rng) -> Result<(DendriteSet, Weights, SiteReport)> {
        let mut current = self.initial(rng)?;
        let sums = self.sums(&current)?;
        let first = self.strengths(&sums);
        let mut best = Best::new(self.site, &self.pool, &current, &first);
        let initial = best.mean();
        let options = self.context.options;
        let epochs = options.candidate_epochs();
        if epochs > 0 {
            let mut training = Training::new(self, &current)?;
            for _ in 0..epochs {
                training.epoch(self.data, self.batch, self.context.interrupt, rng)?;
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
            dendrites: set.width,
            parameters: {
                let mut all = self.sets.to_vec();
                all.push(set.clone());
                set.parameters(self.site, &all)
            },
            activation,
            initial,
            trained: best.mean(),
            samples: self.data.samples,
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
        let units = self.pool.units();
        let bias = self.pool.set.path("bias");
        // Deviations are taken of centred net inputs: where inputs lie far from zero, the difference of two large sums
        // would be lost in float32.
        let mut means = vec![0.0; units];
        let mut sums = self.sums(&tensors)?;
        if let Some(tensor) = tensors.get(&bias).cloned() {
            means = sums.z.iter().map(|z| z / sums.count).collect();
            let centred: Vec<f32> = means.iter().map(|m| -*m as f32).collect();
            means = centred.iter().map(|c| -f64::from(*c)).collect();
            tensors.insert(bias.clone(), Tensor::from_f32(tensor.shape(), &centred));
            sums = self.sums(&tensors)?;
        }
        let mut scales = Vec::with_capacity(units);
        let mut shifts = Vec::with_capacity(units);
        for (k, mean) in means.into_iter().enumerate() {
            let rest = sums.z[k] / sums.count;
            let deviation = (sums.zz[k] / sums.count - rest * rest).max(0.0).sqrt();
            let (low, high) = NET_INPUT_DEVIATION;
            let wanted = low + (high - low) * rng.random::<f32>();
            let scale = if deviation > 1e-12 { f64::from(wanted) / deviation } else { 0.0 };
            let centre = f64::from(wanted) * (2.0 * f64::from(rng.random::<f32>()) - 1.0);
            scales.push(scale as f32);
            shifts.push((centre - (mean + rest) * f64::from(scale as f32)) as f32);
        }
        let name = self.pool.set.path("weight");
        let scaled = scale_units(&tensors[&name], unit_axis(self.site, &tensors[&name]), &scales);
        tensors.insert(name, scaled);
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
            stop_if(self.context.interrupt)?;
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
                let variance = (sums.aa[k] / n - mean * mean).max(0.0) + VARIANCE_FLOOR;
                match self.pool.set.connection {
                    Connection::Neuron => {
                        let c = k % channels;
                        let mean_e = sums.e[c] / n;
                        let variance_e = (sums.ee[c] / n - mean_e * mean_e).max(0.0) + VARIANCE_FLOOR;
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
        Ok(Training { step, graph, frozen: start.clone(), count, steps: 0 })
    }

    /// One pass over the samples in a new order. A last batch that is not full is left out: it comes first another time.
    fn epoch(&mut self, data: &SiteData, batch: usize, interrupt: &AtomicBool, rng: &mut ChaCha8Rng) -> Result<()> {
        let mut order: Vec<usize> = (0..data.input.shape()[0]).collect();
        order.shuffle(rng);
        let mut buffer = Vec::new();
        for rows in order.chunks_exact(batch) {
            stop_if(interrupt)?;
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

/// Fail with [`Error::Interrupted`] once `interrupt` is set.
fn stop_if(interrupt: &AtomicBool) -> Result<()> {
    if interrupt.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
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
