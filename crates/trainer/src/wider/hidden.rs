//! Hidden layers, and everything that has to grow with one: from where its units are computed to where they are read.

use std::collections::{BTreeMap, HashMap};

use dendrite_onnx::{ElementType, Graph, Node, NodeId, ValueId, batch::reachable};

use crate::error::Result;

/// How the units of a layer lie on an axis: `outer` times, all units with `inner` elements each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) outer: usize,
    pub(super) units: usize,
    pub(super) inner: usize,
}

impl Layout {
    fn plain(units: usize) -> Self {
        Layout { outer: 1, units, inner: 1 }
    }

    fn len(self) -> usize {
        self.outer * self.units * self.inner
    }

    /// The old index of an index on the axis with `more` units; `None` for one that belongs to a new unit.
    pub(super) fn origin(self, index: usize, more: usize) -> Option<usize> {
        let (row, inner) = (index / self.inner, index % self.inner);
        let (outer, unit) = (row / (self.units + more), row % (self.units + more));
        (unit < self.units).then_some((outer * self.units + unit) * self.inner + inner)
    }
}

/// What stands in the place of a new unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// Random numbers as large as the weight's own.
    Random,
    /// One number.
    Constant(f32),
}

/// A constant that gets longer.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) value: ValueId,
    pub(super) axis: usize,
    pub(super) layout: Layout,
    pub(super) fill: Fill,
    /// Whether the new elements feed new units, and do not read them.
    pub(super) feeds: bool,
    /// Whether its elements count as parameters.
    pub(super) counts: bool,
}

/// A layer that can be widened.
#[derive(Debug, Clone)]
pub(super) struct Hidden {
    pub(super) name: String,
    pub(super) units: usize,
    pub(super) edits: Vec<Edit>,
    /// Depthwise convolutions on the way: a group more for each unit.
    pub(super) grouped: Vec<NodeId>,
    /// Reshapes on the way, with sizes that leave the units' axis open.
    pub(super) flattened: Vec<(NodeId, Vec<i64>)>,
}

/// The linear layers of a graph.
pub(super) struct Layers {
    /// Those that can be widened, in topological order.
    pub(super) hidden: Vec<Hidden>,
    /// Every other one by name, with the reason why not.
    pub(super) others: Vec<(String, String)>,
}

/// The linear layers of a graph. Shapes must be recorded.
pub(super) fn hidden_layers(graph: &Graph) -> Result<Layers> {
    let active = reachable(graph, &graph.inputs);
    let uses = graph.uses();
    let mut layers = Layers { hidden: Vec::new(), others: Vec::new() };
    for id in graph.topological_order()? {
        let node = graph.node(id);
        let linear = ["Conv", "Gemm", "MatMul", "ConvTranspose"].iter().any(|op| node.is(op));
        // Depthwise convolutions have no units of their own: they are widened with the layer before them.
        let depthwise = node.is("Conv") && node.attributes.int("group", 1) > 1;
        let computed = |value: Option<ValueId>| value.is_some_and(|v| active.contains(&v));
        // Where both operands are computed, there are no weights and no units.
        let computes = computed(node.output(0)) && computed(node.input(0)) && !computed(node.input(1));
        if !linear || !computes || (depthwise && is_depthwise(graph, node)) {
            continue;
        }
        let name = node.output(0).map(|v| graph.name_of(v).to_owned()).unwrap_or_default();
        match Trace::new(graph, &uses, &name).layer(node) {
            Ok(hidden) => layers.hidden.push(hidden),
            Err(reason) => layers.others.push((name, reason)),
        }
    }
    Ok(layers)
}

fn is_depthwise(graph: &Graph, node: &Node) -> bool {
    let shape = node.input(1).and_then(|v| graph.constant(v)).map(|t| t.shape().to_vec()).unwrap_or_default();
    shape.first().is_some_and(|n| *n as i64 == node.attributes.int("group", 1)) && shape.get(1) == Some(&1)
}

/// Operators that compute each element from one element, and are finite wherever that is.
const ELEMENTWISE: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Softplus",
    "Softsign",
    "Gelu",
    "Mish",
    "Swish",
    "ThresholdedRelu",
    "Clip",
    "Erf",
    "Abs",
    "Neg",
    "Identity",
    "Dropout",
    "Sign",
];
const POOLS: &[&str] = &["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"];
const REDUCTIONS: &[&str] =
    &["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"];

/// Where a layer's units lie in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    axis: usize,
    layout: Layout,
}

type Step<T = ()> = std::result::Result<T, String>;

/// The way of one layer's units through a graph.
struct Trace<'g> {
    graph: &'g Graph,
    uses: &'g [Vec<(NodeId, usize)>],
    hidden: Hidden,
    places: BTreeMap<ValueId, Place>,
    waiting: Vec<ValueId>,
    /// Nodes that join two computed values, which must both be this layer's.
    joins: Vec<NodeId>,
}

impl<'g> Trace<'g> {
    fn new(graph: &'g Graph, uses: &'g [Vec<(NodeId, usize)>], name: &str) -> Self {
        let (edits, grouped, flattened) = Default::default();
        let hidden = Hidden { name: name.to_owned(), units: 0, edits, grouped, flattened };
        Trace { graph, uses, hidden, places: BTreeMap::new(), waiting: Vec::new(), joins: Vec::new() }
    }

    /// Follow the units of `node` to where they are read.
    fn layer(mut self, node: &Node) -> Step<Hidden> {
        self.begin(node)?;
        while let Some(value) = self.waiting.pop() {
            if self.graph.outputs.contains(&value) {
                return Err("its units are the model's output".to_owned());
            }
            for (id, position) in &self.uses[value.index()] {
                self.pass(*id, *position, value)?;
            }
        }
        for id in &self.joins {
            let node = self.graph.node(*id);
            let places: Vec<Option<&Place>> = node.inputs.iter().flatten().map(|v| self.places.get(v)).collect();
            if places.iter().any(|place| place.is_none() || *place != places[0]) {
                return Err(format!("its output meets another one at {}", self.graph.label(node)));
            }
        }
        let mut seen = HashMap::new();
        for edit in &self.hidden.edits {
            // One constant may be an operand of two layers, on one axis each.
            let shared = self.uses[edit.value.index()].len() > 1 || seen.insert((edit.value, edit.axis), ()).is_some();
            if shared || self.graph.outputs.contains(&edit.value) {
                return Err(format!("'{}' is used more than once", self.graph.name_of(edit.value)));
            }
        }
        Ok(self.hidden)
    }

    fn begin(&mut self, node: &Node) -> Step {
        let shape = self.weight(node, 1)?;
        let output = node.output(0).ok_or("it has no output")?;
        let rank = self.rank(output)?;
        match node.op.as_str() {
            "Conv" if node.attributes.int("group", 1) > 1 => return Err("it is a grouped convolution".to_owned()),
            "Conv" => self.start(node, 0, shape[0], Some(0))?,
            "ConvTranspose" if node.attributes.int("group", 1) > 1 => {
                return Err("it is a grouped convolution".to_owned());
            }
            "ConvTranspose" => self.start(node, 1, shape[1], Some(0))?,
            "Gemm" if node.attributes.int("transA", 0) != 0 => return Err("its input is transposed".to_owned()),
            "Gemm" => {
                let axis = usize::from(node.attributes.int("transB", 0) == 0);
                self.start(node, axis, shape[axis], None)?;
                if let Some(bias) = node.input(2) {
                    self.operand(node, bias, Place { axis: 1, layout: Layout::plain(shape[axis]) }, 2, 0.0)?;
                }
            }
            _ if shape.len() == 2 => self.start(node, 1, shape[1], None)?,
            _ => return Err(format!("its weights have {} axes", shape.len())),
        }
        let axis = if node.is("Conv") || node.is("ConvTranspose") { 1 } else { rank - 1 };
        self.go_on(Some(output), Place { axis, layout: Layout::plain(self.hidden.units) });
        Ok(())
    }

    /// The layer's own weights and, at `bias_axis`, its bias.
    fn start(&mut self, node: &Node, axis: usize, units: usize, bias_axis: Option<usize>) -> Step {
        self.hidden.units = units;
        let layout = Layout::plain(units);
        if let Some(weight) = node.input(1) {
            self.edit(weight, axis, layout, Fill::Random, true);
        }
        if let (Some(bias), Some(axis)) = (node.input(2), bias_axis) {
            self.weight(node, 2)?;
            self.edit(bias, axis, layout, Fill::Constant(0.0), true);
        }
        Ok(())
    }

    /// A node reads `value`.
    fn pass(&mut self, id: NodeId, position: usize, value: ValueId) -> Step {
        let node = self.graph.node(id);
        let Some(place) = self.places.get(&value).copied() else { return Ok(()) };
        let (op, rank) = (node.op.as_str(), self.rank(value)?);
        let plain = place.layout.outer == 1 && place.layout.inner == 1;
        let channels = position == 0 && place.axis == 1 && plain;
        let stop = || Err(format!("its output is read by {}", self.graph.label(node)));
        if !node.domain.is_empty() || position == usize::MAX {
            return stop();
        }
        match op {
            _ if ELEMENTWISE.contains(&op) && position == 0 => self.go_on(node.output(0), place),
            "Add" | "Sub" | "Mul" | "Div" | "PRelu" | "Max" | "Min" | "Pow" => {
                return self.join(id, position, place, rank);
            }
            _ if POOLS.contains(&op) && channels => self.go_on(node.output(0), place),
            "BatchNormalization" | "InstanceNormalization" if channels => {
                // As fresh ones are: scale 1, shift 0, mean 0, variance 1.
                for (index, fill) in [(1, 1.0), (2, 0.0), (3, 0.0), (4, 1.0)].into_iter().take(node.inputs.len() - 1) {
                    self.weight(node, index)?;
                    let constant = node.input(index).ok_or("a normalisation lacks an input")?;
                    self.edit(constant, 0, place.layout, Fill::Constant(fill), true);
                    if index > 2 {
                        self.hidden.edits.iter_mut().filter(|e| e.value == constant).for_each(|e| e.counts = false);
                    }
                }
                self.go_on(node.output(0), place);
            }
            "Flatten" if position == 0 && node.attributes.int("axis", 1) == 1 => self.flatten(node, value, place)?,
            "Reshape" if position == 0 => {
                let sizes = node.input(1).and_then(|v| self.graph.constant(v)?.to_i64()).unwrap_or_default();
                let [first, second] = sizes[..] else { return stop() };
                let (known, rest) = (self.dims(value)?, self.graph.value(value).shape.as_ref());
                let all: Option<usize> = known[1..].iter().copied().product();
                let same_rows =
                    first == 0 || first == -1 || rest.and_then(|s| s.dim(0)?.known()) == usize::try_from(first).ok();
                let same_columns = second == -1 || all.is_some_and(|n| n as i64 == second);
                if !(same_rows && same_columns) || node.attributes.int("allowzero", 0) != 0 {
                    return stop();
                }
                self.hidden.flattened.push((id, vec![if first == -1 { 0 } else { first }, -1]));
                self.flatten(node, value, place)?;
            }
            "Transpose" if position == 0 => {
                let back: Vec<i64> = (0..rank as i64).rev().collect();
                let perm = node.attributes.ints("perm").map_or(back, <[i64]>::to_vec);
                let axis = perm.iter().position(|a| *a == place.axis as i64).ok_or("a Transpose is malformed")?;
                self.go_on(node.output(0), Place { axis, ..place });
            }
            "Squeeze" | "Unsqueeze" if position == 0 => {
                let added = usize::from(op == "Unsqueeze");
                let axes =
                    self.axes(node, if added == 1 { self.rank(node.output(0).ok_or("no output")?)? } else { rank })?;
                // Without axes every one of size 1 goes.
                if axes.is_empty() {
                    return stop();
                }
                let kept: Vec<usize> = if added == 1 {
                    (0..rank + axes.len()).filter(|a| !axes.contains(a)).collect()
                } else {
                    (0..rank).filter(|a| !axes.contains(a)).collect()
                };
                let axis =
                    if added == 1 { kept.get(place.axis).copied() } else { kept.iter().position(|a| *a == place.axis) };
                self.go_on(
                    node.output(0),
                    Place { axis: axis.ok_or("a squeeze takes the axis of its units away")?, ..place },
                );
            }
            _ if REDUCTIONS.contains(&op) && position == 0 => {
                let axes = self.axes(node, rank)?;
                if axes.is_empty() || axes.contains(&place.axis) {
                    return stop();
                }
                let gone = axes.iter().filter(|a| **a < place.axis).count();
                let axis = if node.attributes.int("keepdims", 1) == 0 { place.axis - gone } else { place.axis };
                self.go_on(node.output(0), Place { axis, ..place });
            }
            "Pad" if position == 0 => {
                let pads = node.input(1).and_then(|v| self.graph.constant(v)?.to_i64()).unwrap_or_default();
                let untouched = [place.axis, place.axis + rank].iter().all(|i| pads.get(*i) == Some(&0));
                if node.input(3).is_some() || pads.len() != 2 * rank || !untouched {
                    return stop();
                }
                self.go_on(node.output(0), place);
            }
            "Conv" | "ConvTranspose" if channels => return self.convolution(id, place),
            "Gemm" if position == 0 && node.attributes.int("transA", 0) == 0 && rank == 2 && place.axis == 1 => {
                self.weight(node, 1)?;
                let weight = node.input(1).ok_or("a Gemm lacks its weights")?;
                let axis = usize::from(node.attributes.int("transB", 0) != 0);
                self.edit(weight, axis, place.layout, Fill::Constant(0.0), false);
            }
            "MatMul" if position == 0 && place.axis == rank - 1 => {
                if self.weight(node, 1)?.len() != 2 {
                    return stop();
                }
                let weight = node.input(1).ok_or("a MatMul lacks its weights")?;
                self.edit(weight, 0, place.layout, Fill::Constant(0.0), false);
            }
            _ => return stop(),
        }
        Ok(())
    }

    fn convolution(&mut self, id: NodeId, place: Place) -> Step {
        let node = self.graph.node(id);
        let shape = self.weight(node, 1)?;
        let weight = node.input(1).ok_or("a convolution lacks its weights")?;
        let groups = node.attributes.int("group", 1);
        if groups == 1 {
            let axis = usize::from(node.is("Conv"));
            self.edit(weight, axis, place.layout, Fill::Constant(0.0), false);
            return Ok(());
        }
        if !node.is("Conv") || groups != place.layout.units as i64 || shape.first() != Some(&place.layout.units) {
            return Err(format!("its output is read by a grouped convolution, {}", self.graph.label(node)));
        }
        self.edit(weight, 0, place.layout, Fill::Random, true);
        if let Some(bias) = node.input(2) {
            self.weight(node, 2)?;
            self.edit(bias, 0, place.layout, Fill::Constant(0.0), true);
        }
        self.hidden.grouped.push(id);
        self.go_on(node.output(0), place);
        Ok(())
    }

    /// An elementwise operator of two values.
    fn join(&mut self, id: NodeId, position: usize, place: Place, rank: usize) -> Step {
        let node = self.graph.node(id);
        let other = node.inputs.len() == 2 && position < 2;
        let (true, Some(other)) = (other, node.input(1 - position.min(1))) else {
            return Err(format!("its output is read by {}", self.graph.label(node)));
        };
        if self.graph.constant(other).is_none() {
            // Both sides come by, so this node may be met twice.
            if !self.joins.contains(&id) {
                self.joins.push(id);
            }
            self.go_on(node.output(0), place);
            return Ok(());
        }
        // x ** y of new units, which may be negative, is finite only for these.
        let whole = |v: &f64| *v >= 1.0 && v.fract() == 0.0;
        let power = self.graph.constant(other).and_then(|t| t.to_f64()).is_some_and(|v| v.iter().all(whole));
        if position == 1 && matches!(node.op.as_str(), "Div" | "Pow" | "PRelu") || node.is("Pow") && !power {
            return Err(format!("its output is read by {}", self.graph.label(node)));
        }
        let fill = match node.op.as_str() {
            "Mul" | "Div" | "Pow" => 1.0,
            "PRelu" => 0.25,
            _ => 0.0,
        };
        self.operand(node, other, place, rank, fill)?;
        self.go_on(node.output(0), place);
        Ok(())
    }

    /// A constant that is broadcast against a value of `rank` axes.
    fn operand(&mut self, node: &Node, constant: ValueId, place: Place, rank: usize, fill: f32) -> Step {
        let shape = self.graph.constant(constant).map(|t| t.shape().to_vec()).ok_or_else(|| self.computed(constant))?;
        if shape.len() > rank {
            return Err(format!("its output is read by {}", self.graph.label(node)));
        }
        let Some(axis) = (place.axis + shape.len()).checked_sub(rank) else { return Ok(()) };
        match shape.get(axis) {
            None | Some(1) if place.layout.len() != 1 => Ok(()),
            Some(n) if *n == place.layout.len() => {
                self.edit(constant, axis, place.layout, Fill::Constant(fill), true);
                Ok(())
            }
            _ => Err(format!("its output is read by {}", self.graph.label(node))),
        }
    }

    /// All axes but the first become one.
    fn flatten(&mut self, node: &Node, value: ValueId, place: Place) -> Step {
        let dims = self.dims(value)?;
        if place.axis == 0 {
            return Err(format!("its units lie on the first axis at {}", self.graph.label(node)));
        }
        let product = |dims: &[Option<usize>]| dims.iter().copied().product::<Option<usize>>();
        let sizes = product(&dims[1..place.axis]).zip(product(&dims[place.axis + 1..]));
        let (before, after) = sizes.ok_or_else(|| format!("the sizes at {} are not known", self.graph.label(node)))?;
        let Layout { outer, units, inner } = place.layout;
        let layout = Layout { outer: before * outer, units, inner: inner * after };
        self.go_on(node.output(0), Place { axis: 1, layout });
        Ok(())
    }

    fn go_on(&mut self, value: Option<ValueId>, place: Place) {
        if let Some(value) = value
            && self.places.insert(value, place).is_none()
        {
            self.waiting.push(value);
        }
    }

    fn edit(&mut self, value: ValueId, axis: usize, layout: Layout, fill: Fill, feeds: bool) {
        self.hidden.edits.push(Edit { value, axis, layout, fill, feeds, counts: true });
    }

    /// The shape of a float32 constant at a node's input.
    fn weight(&self, node: &Node, index: usize) -> Step<Vec<usize>> {
        let value = node.input(index).ok_or_else(|| format!("{} lacks an input", self.graph.label(node)))?;
        let tensor = self.graph.constant(value).ok_or_else(|| self.computed(value))?;
        if tensor.element_type() != ElementType::Float {
            return Err(format!("'{}' is not float32", self.graph.name_of(value)));
        }
        Ok(tensor.shape().to_vec())
    }

    fn computed(&self, value: ValueId) -> String {
        format!("'{}' is computed", self.graph.name_of(value))
    }

    fn rank(&self, value: ValueId) -> Step<usize> {
        self.graph.rank(value).ok_or_else(|| format!("the rank of '{}' is not known", self.graph.name_of(value)))
    }

    fn dims(&self, value: ValueId) -> Step<Vec<Option<usize>>> {
        self.rank(value)?;
        Ok(self.graph.value(value).shape.iter().flat_map(|s| &s.0).map(dendrite_onnx::Dim::known).collect())
    }

    /// The axes that a reduction or a squeeze names, counted from the front of `rank` axes.
    fn axes(&self, node: &Node, rank: usize) -> Step<Vec<usize>> {
        let given = match node.input(1) {
            Some(v) => Some(self.graph.constant(v).and_then(|t| t.to_i64()).ok_or_else(|| self.computed(v))?),
            None => node.attributes.ints("axes").map(<[i64]>::to_vec),
        };
        let front = |a: i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok();
        Ok(given.unwrap_or_default().into_iter().filter_map(front).collect())
    }
}
