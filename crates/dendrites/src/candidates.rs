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

use dendrite_autodiff::{gradients, optimizer};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

use crate::{
    error::{Error, Result},
    set::{Activation, Connection, DendriteSet, Weights, tensor},
    sites::{Site, SiteKind},
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

/// A graph over one site's data. Inputs `x`, `error` and `weight` (one number a sample) by these names.
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

/// The shapes of one batch of a site's data.
#[derive(Debug, Clone)]
pub struct SiteBatch {
    /// Shape of x, batch first.
    pub input: Vec<usize>,
    /// Shape of E, batch first.
    pub error: Vec<usize>,
}

/// Build a graph for `pool` at `site`. `source` is the working copy in which the site was found; `sets` and `weights` are
/// the dendrites already there, which the pool reads frozen.
pub fn candidate_graph(
    source: &Graph,
    site: &Site,
    pool: &Pool,
    sets: &[DendriteSet],
    weights: &Weights,
    batch: &SiteBatch,
    purpose: &Purpose,
) -> Result<CandidateGraph> {
    let mut b = Builder { graph: Graph::new("candidates", WORKING_OPSET), site, pool, batch };
    let x = b.graph.add_input("x", ElementType::Float, Shape::known(&batch.input));
    let e = b.graph.add_input("error", ElementType::Float, Shape::known(&batch.error));
    let n = batch.input.first().copied().unwrap_or(1);
    let w = b.graph.add_input("weight", ElementType::Float, Shape::known(&[n]));

    let mut parameters = Vec::new();
    for (name, shape) in pool.tensors(site, sets) {
        parameters.push(b.graph.add_input(&name, ElementType::Float, Shape::known(&shape)));
    }
    let z = b.net_inputs(source, sets, weights, x)?;
    let a = b.activate(z);
    let e = b.rows(e, site.channels);
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

/// Rows and columns of the matrices everything is brought to: M rows (samples x positions) by units or neurons.
struct Builder<'a> {
    graph: Graph,
    site: &'a Site,
    pool: &'a Pool,
    batch: &'a SiteBatch,
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

    fn row_count(&self) -> usize {
        self.batch.error.iter().product::<usize>() / self.site.channels.max(1)
    }

    /// A value of the site's output layout with `columns` channels as a matrix of rows by channels.
    fn rows(&mut self, value: ValueId, columns: usize) -> ValueId {
        let (mut value, rows) = (value, self.row_count());
        let rank = self.batch.error.len();
        if self.site.kind.is_convolution() {
            let mut perm: Vec<i64> = vec![0];
            perm.extend(2..rank as i64);
            perm.push(1);
            let mut shape = vec![self.batch.error[0]];
            shape.extend(&self.batch.error[2..]);
            shape.push(columns);
            value = self.typed("Transpose", &[value], Attributes::new().with("perm", perm), &shape);
        }
        let target = self.ints(&[rows as i64, columns as i64]);
        self.typed("Reshape", &[value, target], Attributes::new(), &[rows, columns])
    }

    /// The weight of each row: its sample's.
    fn row_weights(&mut self, w: ValueId) -> ValueId {
        let n = self.batch.error.first().copied().unwrap_or(1);
        let rows = self.row_count();
        let column = self.ints(&[n as i64, 1]);
        let column = self.typed("Reshape", &[w, column], Attributes::new(), &[n, 1]);
        let wide = self.ints(&[n as i64, (rows / n.max(1)) as i64]);
        let wide = self.typed("Expand", &[column, wide], Attributes::new(), &[n, rows / n.max(1)]);
        let flat = self.ints(&[rows as i64, 1]);
        self.typed("Reshape", &[wide, flat], Attributes::new(), &[rows, 1])
    }

    /// z of all units, rows by units.
    fn net_inputs(&mut self, source: &Graph, sets: &[DendriteSet], weights: &Weights, x: ValueId) -> Result<ValueId> {
        let units = self.pool.units();
        let wide = DendriteSet { width: units, ..self.pool.set.clone() };
        let z = self.linear(source, &wide, x)?;
        let mut z = self.rows(z, units);
        let rows = self.row_count();
        for from in wide.cascade(sets) {
            let earlier = self.frozen(source, sets, weights, from, x)?;
            let earlier = self.rows(earlier, self.site.channels);
            // Every candidate of a neuron reads that neuron's earlier dendrite.
            let copies = self.ints(&[1, self.pool.size() as i64]);
            let tiled = self.typed("Tile", &[earlier, copies], Attributes::new(), &[rows, units]);
            let flat = self.ints(&[1, units as i64]);
            let c = self.input(&wide.cascade_path(from))?;
            let c = self.typed("Reshape", &[c, flat], Attributes::new(), &[1, units]);
            let scaled = self.typed("Mul", &[tiled, c], Attributes::new(), &[rows, units]);
            z = self.typed("Add", &[z, scaled], Attributes::new(), &[rows, units]);
        }
        Ok(z)
    }

    fn input(&self, name: &str) -> Result<ValueId> {
        self.graph
            .find(name)
            .ok_or_else(|| Error::Set { site: self.site.name.clone(), reason: format!("tensor '{name}' is missing") })
    }

    /// Op(x; W, b) with the tensors of `set`, in the site's layout. Grouped convolutions run one a candidate, so that each
    /// keeps the site's grouping.
    fn linear(&mut self, source: &Graph, set: &DendriteSet, x: ValueId) -> Result<ValueId> {
        let weight = self.input(&set.path("weight"))?;
        let bias = if self.site.bias { Some(self.input(&set.path("bias"))?) } else { None };
        let mut shape = self.batch.error.clone();
        let axis = if self.site.kind.is_convolution() { 1 } else { shape.len() - 1 };
        shape[axis] = set.width;
        let attributes = source.node(self.site.node).attributes.clone();
        Ok(match self.site.kind {
            kind if kind.is_convolution() && self.site.groups > 1 && set.width > self.pool.set.width => {
                self.grouped(set, x, weight, bias, &attributes, &shape)
            }
            SiteKind::Conv | SiteKind::ConvTranspose => {
                let inputs: Vec<ValueId> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
                self.typed(self.site.kind.op(), &inputs, attributes, &shape)
            }
            SiteKind::Gemm => {
                let attributes = Attributes::new().with("transB", i64::from(self.site.transposed));
                let inputs: Vec<ValueId> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
                self.typed("Gemm", &inputs, attributes, &shape)
            }
            SiteKind::MatMul => {
                let product = self.typed("MatMul", &[x, weight], Attributes::new(), &shape);
                match bias {
                    Some(bias) => self.typed("Add", &[product, bias], Attributes::new(), &shape),
                    None => product,
                }
            }
        })
    }

    fn grouped(
        &mut self,
        set: &DendriteSet,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        attributes: &Attributes,
        shape: &[usize],
    ) -> ValueId {
        let width = self.pool.set.width;
        let count = set.width / width;
        let split = |b: &mut Self, value: ValueId, axis: usize, shape: Vec<usize>| -> Vec<ValueId> {
            let attributes = Attributes::new().with("axis", axis as i64).with("num_outputs", count as i64);
            let parts = b.graph.add_node("Split", "split", &[Some(value)], attributes, count);
            for part in &parts {
                b.graph.set_type(*part, Some(ElementType::Float), Some(Shape::known(&shape)));
            }
            parts
        };
        let weights = split(self, weight, self.site.weight_axis(), self.site.weight_shape_of(width));
        let biases = bias.map(|b| split(self, b, 0, vec![width]));
        let mut one = shape.to_vec();
        one[1] = width;
        let parts: Vec<ValueId> = (0..count)
            .map(|p| {
                let mut inputs = vec![x, weights[p]];
                inputs.extend(biases.as_ref().map(|b| b[p]));
                self.typed(self.site.kind.op(), &inputs, attributes.clone(), &one)
            })
            .collect();
        self.typed("Concat", &parts, Attributes::new().with("axis", 1), shape)
    }

    /// The activations of an existing set, its tensors constants of this graph.
    fn frozen(
        &mut self,
        source: &Graph,
        sets: &[DendriteSet],
        weights: &Weights,
        set: &DendriteSet,
        x: ValueId,
    ) -> Result<ValueId> {
        if let Some(done) = self.graph.find(&set.path("activation")) {
            return Ok(done);
        }
        for (name, shape) in set.tensors(self.site, sets) {
            self.graph.add_constant(&name, tensor(weights, set, &name, &shape)?.clone());
        }
        let mut z = self.linear(source, set, x)?;
        let shape = self.batch.error.clone();
        let earlier: Vec<DendriteSet> = set.cascade(sets).cloned().collect();
        for from in &earlier {
            let a = self.frozen(source, sets, weights, from, x)?;
            let c = self.input(&set.cascade_path(from))?;
            let scaled = self.typed("Mul", &[a, c], Attributes::new(), &shape);
            z = self.typed("Add", &[z, scaled], Attributes::new(), &shape);
        }
        let a = self.graph.op(set.activation.op(), &set.path("activation"), &[z], Attributes::new());
        self.graph.set_type(a, Some(ElementType::Float), Some(Shape::known(&shape)));
        Ok(a)
    }

    fn activate(&mut self, z: ValueId) -> ValueId {
        let (rows, width) = (self.row_count(), self.pool.set.width);
        let groups = self.pool.groups.clone();
        if let [(activation, _)] = groups.as_slice() {
            return self.typed(activation.op(), &[z], Attributes::new(), &[rows, self.pool.units()]);
        }
        let sizes: Vec<i64> = groups.iter().map(|(_, n)| (n * width) as i64).collect();
        let split = self.ints(&sizes);
        let parts = self.graph.add_node(
            "Split",
            "groups",
            &[Some(z), Some(split)],
            Attributes::new().with("axis", 1),
            sizes.len(),
        );
        let mut activated = Vec::new();
        for (part, (activation, count)) in parts.into_iter().zip(&groups) {
            let shape = [rows, count * width];
            self.graph.set_type(part, Some(ElementType::Float), Some(Shape::known(&shape)));
            activated.push(self.typed(activation.op(), &[part], Attributes::new(), &shape));
        }
        self.typed("Concat", &activated, Attributes::new().with("axis", 1), &[rows, self.pool.units()])
    }

    /// Sum over rows of a matrix with `columns` columns, [1, columns].
    fn sum_rows(&mut self, value: ValueId, columns: usize) -> ValueId {
        let axes = self.ints(&[0]);
        self.typed("ReduceSum", &[value, axes], Attributes::new().with("keepdims", 1), &[1, columns])
    }

    /// E repeated for every candidate of a neuron.
    fn tile_errors(&mut self, e: ValueId) -> ValueId {
        let copies = self.ints(&[1, self.pool.size() as i64]);
        let shape = [self.row_count(), self.pool.units()];
        self.typed("Tile", &[e, copies], Attributes::new(), &shape)
    }

    fn product(&mut self, a: ValueId, e: ValueId) -> ValueId {
        let (units, channels) = (self.pool.units(), self.site.channels);
        match self.pool.set.connection {
            Connection::Neuron => {
                let e = self.tile_errors(e);
                let rows = self.row_count();
                let ae = self.typed("Mul", &[a, e], Attributes::new(), &[rows, units]);
                self.sum_rows(ae, units)
            }
            Connection::Layer => {
                let rows = self.row_count();
                let at = self.typed("Transpose", &[a], Attributes::new().with("perm", vec![1i64, 0]), &[units, rows]);
                self.typed("MatMul", &[at, e], Attributes::new(), &[units, channels])
            }
        }
    }

    fn score(&mut self, z: ValueId, a: ValueId, e: ValueId, w: ValueId) {
        let (rows, units, channels) = (self.row_count(), self.pool.units(), self.site.channels);
        let mut sums = Vec::new();
        let mut weighted = Vec::new();
        for (value, columns) in [(z, units), (a, units), (e, channels)] {
            let first = self.typed("Mul", &[value, w], Attributes::new(), &[rows, columns]);
            let second = self.typed("Mul", &[first, value], Attributes::new(), &[rows, columns]);
            weighted.push(first);
            sums.push(self.sum_rows(first, columns));
            sums.push(self.sum_rows(second, columns));
        }
        let count = self.sum_rows(w, 1);
        let product = self.product(weighted[1], e);
        let names = [
            statistics::Z,
            statistics::ZZ,
            statistics::A,
            statistics::AA,
            statistics::E,
            statistics::EE,
            statistics::COUNT,
            statistics::AE,
        ];
        let values: Vec<ValueId> = sums.into_iter().chain([count, product]).collect();
        self.graph.outputs = names
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let (element_type, shape) = {
                    let v = self.graph.value(value);
                    (v.element_type, v.shape.clone())
                };
                let named = self.graph.op("Identity", name, &[value], Attributes::new());
                self.graph.set_type(named, element_type, shape);
                named
            })
            .collect();
    }

    /// Centred and divided by the standard deviation (guarded), rows by columns, weighted by `w`.
    fn standardise(&mut self, value: ValueId, columns: usize, w: ValueId, count: ValueId) -> ValueId {
        let rows = self.row_count();
        let wide = [rows, columns];
        let weighted = self.typed("Mul", &[value, w], Attributes::new(), &wide);
        let sum = self.sum_rows(weighted, columns);
        let mean = self.typed("Div", &[sum, count], Attributes::new(), &[1, columns]);
        let centred = self.typed("Sub", &[value, mean], Attributes::new(), &wide);
        let square = self.typed("Mul", &[centred, centred], Attributes::new(), &wide);
        let square = self.typed("Mul", &[square, w], Attributes::new(), &wide);
        let sum = self.sum_rows(square, columns);
        let variance = self.typed("Div", &[sum, count], Attributes::new(), &[1, columns]);
        let floor = self.scalar(VARIANCE_FLOOR);
        let guarded = self.typed("Add", &[variance, floor], Attributes::new(), &[1, columns]);
        let sigma = self.typed("Sqrt", &[guarded], Attributes::new(), &[1, columns]);
        self.typed("Div", &[centred, sigma], Attributes::new(), &wide)
    }

    /// J, a scalar.
    fn objective(&mut self, a: ValueId, e: ValueId, w: ValueId) -> ValueId {
        let (rows, units, channels) = (self.row_count(), self.pool.units(), self.site.channels);
        let count = self.sum_rows(w, 1);
        let a = self.standardise(a, units, w, count);
        let e = match self.pool.set.connection {
            Connection::Neuron => self.standardise(e, channels, w, count),
            Connection::Layer => e,
        };
        let aw = self.typed("Mul", &[a, w], Attributes::new(), &[rows, units]);
        let cov = self.product(aw, e);
        let strengths = match self.pool.set.connection {
            Connection::Neuron => {
                let rho = self.typed("Div", &[cov, count], Attributes::new(), &[1, units]);
                self.typed("Abs", &[rho], Attributes::new(), &[1, units])
            }
            Connection::Layer => {
                let cov = self.typed("Div", &[cov, count], Attributes::new(), &[units, channels]);
                let square = self.typed("Mul", &[cov, cov], Attributes::new(), &[units, channels]);
                let axes = self.ints(&[1]);
                let sum = self.typed("ReduceSum", &[square, axes], Attributes::new().with("keepdims", 1), &[units, 1]);
                let floor = self.scalar(VARIANCE_FLOOR);
                let guarded = self.typed("Add", &[sum, floor], Attributes::new(), &[units, 1]);
                self.typed("Sqrt", &[guarded], Attributes::new(), &[units, 1])
            }
        };
        let axes = self.ints(&[0, 1]);
        let sum = self.typed("ReduceSum", &[strengths, axes], Attributes::new().with("keepdims", 0), &[]);
        self.typed("Neg", &[sum], Attributes::new(), &[])
    }
}
