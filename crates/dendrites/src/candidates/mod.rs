//! The dendrite phase as graphs: a pool of candidates at one site, trained to correlate with the site's remaining error.
//!
//! The network is frozen, so a site's input x and error E are data. With P candidates a neuron, weights w_n per sample and
//! everything standardised, the objective of the `neuron` connection is
//!
//! ```text
//! J = -sum_{p,c} |rho_{p,c}|        rho = mean(a^ E^),  a^ = (a - mean a) / sigma_a,  E^ likewise
//! ```
//!
//! and of the `layer` connection, where unit k serves all neurons, J = -sum_k sqrt(sum_c cov(a^_k, E_c)^2). Variances are
//! guarded inside the square root: a dead unit has rho 0, never NaN.

mod net;
mod objective;

use dendrite_autodiff::{gradients, optimizer};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

use crate::{
    error::Result,
    set::{Activation, DendriteSet, Weights},
    sites::Site,
};

/// Keeps a standard deviation away from zero; activations have a deviation of about one, errors are scaled to one.
pub const VARIANCE_FLOOR: f64 = 1e-6;

/// A pool of candidates for one set.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The set a winner becomes. Its activation is that of the winning group.
    pub set: DendriteSet,
    /// Candidates a dendrite, by activation.
    pub groups: Vec<(Activation, usize)>,
}

impl Pool {
    /// Candidates a dendrite.
    pub fn size(&self) -> usize {
        self.groups.iter().map(|(_, n)| n).sum()
    }

    /// Units in the pool: candidates times dendrites. Unit `p * width + k` is candidate p of dendrite k.
    pub fn units(&self) -> usize {
        self.size() * self.set.width
    }

    /// The activation of candidate `p`.
    pub fn activation(&self, p: usize) -> Activation {
        let mut rest = p;
        for (activation, count) in &self.groups {
            if rest < *count {
                return *activation;
            }
            rest -= count;
        }
        self.set.activation
    }

    /// The trained tensors of the pool with their shapes: the set's own, with `units()` dendrites, connection left out.
    pub fn tensors(&self, site: &Site, sets: &[DendriteSet]) -> Vec<(String, Vec<usize>)> {
        let wide = DendriteSet { width: self.units(), ..self.set.clone() };
        let connection = wide.path("connection");
        wide.tensors(site, sets).into_iter().filter(|(name, _)| *name != connection).collect()
    }
}

/// The name of the input that takes x of an application of the site.
pub fn input_name(application: usize) -> String {
    format!("x_{application}")
}

/// The name of the input that takes the error E of an application of the site.
pub fn error_name(application: usize) -> String {
    format!("error_{application}")
}

/// The name of the input that takes a number for each sample, its weight.
pub const WEIGHT: &str = "weight";

/// A graph over one site's data, which are inputs of it.
#[derive(Debug)]
pub struct CandidateGraph {
    /// The graph.
    pub graph: Graph,
    /// The pool's tensors, inputs of the graph.
    pub parameters: Vec<ValueId>,
    /// What the optimizer adds, in the training graph.
    pub optimizer: Option<optimizer::OptimizerValues>,
}

/// Names of the statistics, each a vector over units except `error_*` (over neurons) and `product` (units x neurons for
/// the `layer` connection, units otherwise). All are weighted sums over samples and positions.
pub mod statistics {
    /// Sum of weights: the number of samples times positions.
    pub const COUNT: &str = "count";
    /// Sum of activations.
    pub const A: &str = "sum_a";
    /// Sum of squared activations.
    pub const AA: &str = "sum_aa";
    /// Sum of errors.
    pub const E: &str = "sum_e";
    /// Sum of squared errors.
    pub const EE: &str = "sum_ee";
    /// Sum of activation times error.
    pub const AE: &str = "sum_ae";
    /// Sum of net inputs z.
    pub const Z: &str = "sum_z";
    /// Sum of squared net inputs.
    pub const ZZ: &str = "sum_zz";
}

/// What a candidate graph is built for.
pub enum Purpose<'a> {
    /// One training step of the pool under an optimizer.
    Train(&'a optimizer::Optimizer),
    /// The sums of [`statistics`].
    Score,
}

/// The shapes of one batch of a site's data at one of its applications.
#[derive(Debug, Clone)]
pub struct SiteBatch {
    /// Shape of x, batch first.
    pub input: Vec<usize>,
    /// Shape of E, batch first.
    pub error: Vec<usize>,
}

/// Build a graph for `pool` at `site`. `source` is the working copy in which the site was found; `sets` and `weights` are
/// the dendrites already there, which the pool reads frozen. Rows (samples times positions) of all applications are rows alike.
pub fn candidate_graph(
    source: &Graph,
    site: &Site,
    pool: &Pool,
    sets: &[DendriteSet],
    weights: &Weights,
    batches: &[SiteBatch],
    purpose: &Purpose,
) -> Result<CandidateGraph> {
    let mut b = Builder { graph: Graph::new("candidates", WORKING_OPSET), site, pool, batches };
    let (mut xs, mut es) = (Vec::new(), Vec::new());
    for (index, batch) in batches.iter().enumerate() {
        xs.push(b.graph.add_input(&input_name(index), ElementType::Float, Shape::known(&batch.input)));
        es.push(b.graph.add_input(&error_name(index), ElementType::Float, Shape::known(&batch.error)));
    }
    let w = b.graph.add_input(WEIGHT, ElementType::Float, Shape::known(&[b.samples()]));

    let mut parameters = Vec::new();
    for (name, shape) in pool.tensors(site, sets) {
        parameters.push(b.graph.add_input(&name, ElementType::Float, Shape::known(&shape)));
    }
    let z = b.net_inputs(source, sets, weights, &xs)?;
    let a = b.activate(z);
    let e = b.all_rows(&es, site.channels);
    let w = b.row_weights(w);
    let mut graph = CandidateGraph { graph: Graph::default(), parameters: parameters.clone(), optimizer: None };
    match purpose {
        Purpose::Score => b.score(z, a, e, w),
        Purpose::Train(optimizer) => {
            let objective = b.objective(a, e, w);
            let gradients = gradients(&mut b.graph, objective, &parameters, &Default::default())?;
            let trained: Vec<(ValueId, ValueId)> =
                parameters.iter().zip(gradients).filter_map(|(p, g)| Some((*p, g?))).collect();
            let values = optimizer::attach(&mut b.graph, optimizer, &trained)?;
            let mut outputs = vec![objective];
            outputs.extend(&values.updated);
            outputs.extend(values.state.iter().map(|(_, out, _)| *out));
            b.graph.outputs = outputs;
            graph.parameters = trained.iter().map(|(p, _)| *p).collect();
            graph.optimizer = Some(values);
        }
    }
    b.graph.prune();
    graph.graph = b.graph;
    Ok(graph)
}

/// Rows and columns of the matrices everything is brought to: M rows (samples x positions, of all applications) by units or neurons.
struct Builder<'a> {
    graph: Graph,
    site: &'a Site,
    pool: &'a Pool,
    batches: &'a [SiteBatch],
}

impl Builder<'_> {
    fn op(&mut self, op: &str, inputs: &[ValueId], attributes: Attributes) -> ValueId {
        self.graph.op(op, &op.to_lowercase(), inputs, attributes)
    }

    fn typed(&mut self, op: &str, inputs: &[ValueId], attributes: Attributes, shape: &[usize]) -> ValueId {
        let value = self.op(op, inputs, attributes);
        self.graph.set_type(value, Some(ElementType::Float), Some(Shape::known(shape)));
        value
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_constant("ints", Tensor::int64s(values))
    }

    fn scalar(&mut self, value: f64) -> ValueId {
        self.graph.add_constant("scalar", Tensor::scalar(ElementType::Float, value))
    }

    fn samples(&self) -> usize {
        self.batches.first().and_then(|batch| batch.error.first()).copied().unwrap_or(1)
    }

    /// The rows of one application.
    fn rows_of(&self, application: usize) -> usize {
        self.batches[application].error.iter().product::<usize>() / self.site.channels.max(1)
    }

    fn row_count(&self) -> usize {
        (0..self.batches.len()).map(|application| self.rows_of(application)).sum()
    }

    /// A value of the site's output layout with `columns` channels as a matrix of rows by channels.
    fn rows(&mut self, application: usize, value: ValueId, columns: usize) -> ValueId {
        let (mut value, rows, batch) = (value, self.rows_of(application), &self.batches[application]);
        let rank = batch.error.len();
        if self.site.kind.is_convolution() {
            let mut perm: Vec<i64> = vec![0];
            perm.extend(2..rank as i64);
            perm.push(1);
            let mut shape = vec![batch.error[0]];
            shape.extend(&batch.error[2..]);
            shape.push(columns);
            value = self.typed("Transpose", &[value], Attributes::new().with("perm", perm), &shape);
        }
        let target = self.ints(&[rows as i64, columns as i64]);
        self.typed("Reshape", &[value, target], Attributes::new(), &[rows, columns])
    }

    /// [`Self::rows`] of a value of each application, one below the other.
    fn all_rows(&mut self, values: &[ValueId], columns: usize) -> ValueId {
        let parts: Vec<ValueId> = values.iter().enumerate().map(|(i, value)| self.rows(i, *value, columns)).collect();
        self.stacked(parts, columns)
    }

    fn stacked(&mut self, parts: Vec<ValueId>, columns: usize) -> ValueId {
        match parts.as_slice() {
            [one] => *one,
            _ => self.typed("Concat", &parts, Attributes::new().with("axis", 0), &[self.row_count(), columns]),
        }
    }

    /// The weight of each row: its sample's.
    fn row_weights(&mut self, w: ValueId) -> ValueId {
        let n = self.samples();
        let column = self.ints(&[n as i64, 1]);
        let column = self.typed("Reshape", &[w, column], Attributes::new(), &[n, 1]);
        let mut parts = Vec::new();
        for application in 0..self.batches.len() {
            let rows = self.rows_of(application);
            let wide = self.ints(&[n as i64, (rows / n.max(1)) as i64]);
            let wide = self.typed("Expand", &[column, wide], Attributes::new(), &[n, rows / n.max(1)]);
            let flat = self.ints(&[rows as i64, 1]);
            parts.push(self.typed("Reshape", &[wide, flat], Attributes::new(), &[rows, 1]));
        }
        self.stacked(parts, 1)
    }
}
