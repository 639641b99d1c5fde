//! Losses as graphs: one number a sample, and their weighted mean.

use std::collections::HashMap;

use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Shape, Tensor, ValueId, WORKING_OPSET, upgrade::upgrade,
};

use crate::{
    ctc,
    error::{Error, Result},
    expr::{Builder, V},
};

/// The smallest sum of weights that the mean divides by, so that a batch of padding alone has the loss 0.
pub(crate) const TINY: f64 = 1e-12;

/// What is minimised.
#[derive(Debug, Clone)]
pub enum Loss {
    /// Cross-entropy of logits over their classes: `[N, C]`, `[N, C, d..]` or, with the classes last, `[N, d.., C]`.
    CrossEntropy {
        /// The axis of the classes, from 1.
        axis: usize,
        /// Targets are probabilities of the prediction's shape; else class numbers in 0..C, int64 `[N]` or `[N, d..]`.
        soft: bool,
        /// The class number that marks positions without a target: they count nowhere. Not for soft targets.
        ignore: Option<i64>,
        /// How much a position of each class counts, C numbers. Not for soft targets.
        class_weights: Option<Vec<f32>>,
        /// The share of each target that is spread evenly over all classes (label smoothing), 0 for none.
        smoothing: f64,
    },
    /// Connectionist temporal classification of logits `[N, T, C]` or `[N, C, T]`: which classes a sequence of steps spells,
    /// whichever steps each takes. Targets are class numbers, int64 `[N, L]`; the loss of a sample is divided by their count.
    Ctc {
        /// The axis of the classes, 1 or 2; the other one counts steps.
        axis: usize,
        /// The class that stands for none.
        blank: i64,
        /// The number behind the last class of a shorter sequence.
        padding: i64,
    },
    /// Binary cross-entropy of logits; targets are probabilities of the prediction's shape.
    Bce,
    /// The squared difference.
    Mse,
    /// The absolute difference.
    L1,
    /// Quadratic up to a difference of `delta`, linear beyond: r^2 / 2 or delta * (|r| - delta / 2).
    Huber {
        /// Where the quadratic part ends.
        delta: f64,
    },
    /// A graph of one's own with the inputs `prediction` and `target` (or the first two) and as its first output one number a
    /// sample, `[N]`, or one in all. Rows that only pad a batch cannot be masked out of a single number. It may be of any
    /// opset that can be upgraded. Shapes that it does not declare are to be inferred after [`attach`], before
    /// [`gradients`](crate::gradients).
    Graph(Box<Model>),
}

impl Loss {
    /// Cross-entropy with class numbers, the classes on axis 1, each position counting alike.
    pub fn classes() -> Self {
        Loss::CrossEntropy { axis: 1, soft: false, ignore: None, class_weights: None, smoothing: 0.0 }
    }

    /// Cross-entropy with soft targets, the classes on axis 1.
    pub fn soft_classes() -> Self {
        Loss::CrossEntropy { axis: 1, soft: true, ignore: None, class_weights: None, smoothing: 0.0 }
    }
}

/// The values that [`attach`] adds to a graph.
#[derive(Debug, Clone, Copy)]
pub struct LossValues {
    /// The targets: a new input.
    pub target: ValueId,
    /// The weight of each sample, float32 `[N]`: a new input. 0 for rows that only pad the batch.
    pub weight: ValueId,
    /// The loss of each sample, float32 `[N]`, the mean over all other axes, where positions count differently the weighted
    /// mean.
    pub per_sample: ValueId,
    /// The weighted mean, a scalar: sum(weight * per_sample) / sum(weight). Where positions count differently, a sample
    /// weighs as much as its positions together, so that the mean is that over positions.
    pub mean: ValueId,
    /// What the mean divides, a scalar: sum(weight * per_sample).
    pub sum: ValueId,
    /// What the mean divides by, a scalar, before it is kept from zero: sum(weight), of positions that count differently the
    /// sum of their shares too.
    pub total: ValueId,
    /// Whether the sum of a batch is that of its parts: not where a graph of one's own gives one number in all.
    pub separable: bool,
    /// Whether all positions count alike.
    pub alike: bool,
}

/// Add a loss of `prediction`, whose first axis is the batch, to a graph. Its shape's rank must be known.
pub fn attach(graph: &mut Graph, prediction: ValueId, loss: &Loss) -> Result<LossValues> {
    attach_named(graph, prediction, loss, "target", "weight")
}

/// [`attach`] with names for the two new inputs, for a graph that gets several losses.
pub fn attach_named(
    graph: &mut Graph,
    prediction: ValueId,
    loss: &Loss,
    target: &str,
    weight: &str,
) -> Result<LossValues> {
    let value = graph.value(prediction);
    let name = value.name.clone();
    let Some(shape) = value.shape.clone().filter(|s| s.rank() > 0) else {
        return Err(Error::invalid(
            format!("prediction '{name}' has no batch axis"),
            "run shape inference on the graph, and choose an output with one row for each sample",
        ));
    };
    let float = value.element_type.unwrap_or(ElementType::Float);
    if !float.is_float() {
        return Err(Error::invalid(
            format!("prediction '{name}' is {float}, not a float"),
            "choose the output of scores or probabilities instead of the chosen class",
        ));
    }
    if let Loss::CrossEntropy { axis, .. } = loss
        && !(1..shape.rank()).contains(axis)
    {
        let which = if *axis == 1 { String::new() } else { format!(" {axis}") };
        return Err(Error::invalid(
            format!("prediction '{name}' of shape {shape} has no axis{which} of classes"),
            "choose the output of logits, or binary cross-entropy",
        ));
    }
    if let Loss::Ctc { axis, .. } = loss
        && !(shape.rank() == 3 && (1..3).contains(axis))
    {
        return Err(Error::invalid(
            format!("prediction '{name}' of shape {shape} is no sequence of scores of classes"),
            "choose an output of samples, steps and classes",
        ));
    }
    let rows = Shape(vec![shape.0[0].clone()]);
    let (target_type, target_shape) = match loss {
        Loss::CrossEntropy { axis: classes, soft: false, .. } => {
            let dims = shape.0.iter().enumerate().filter(|(axis, _)| axis != classes).map(|(_, d)| d.clone());
            (ElementType::Int64, Shape(dims.collect()))
        }
        Loss::Ctc { .. } => (ElementType::Int64, Shape(vec![shape.0[0].clone(), Dim::Unknown])),
        Loss::Graph(model) => graph_target(model, &shape)?,
        _ => (ElementType::Float, shape.clone()),
    };
    let target = graph.add_input(target, target_type, target_shape);
    let weight = graph.add_input(weight, ElementType::Float, rows);
    let inlined = match loss {
        Loss::Graph(model) => Some(inline(graph, model, prediction, target, "loss")?),
        _ => None,
    };
    Builder::scope(graph, "loss", |b| {
        let (p, t, w) = (b.value(prediction).cast(ElementType::Float), b.value(target), b.value(weight));
        let elements = match loss {
            Loss::CrossEntropy { axis, soft, smoothing, .. } => cross_entropy(p, t, *axis, *soft, *smoothing, &shape),
            Loss::Ctc { axis, blank, padding } => {
                let p = if *axis == 1 { p.transpose(&[0, 2, 1]) } else { p };
                ctc::loss(p, t, *blank, *padding)?
            }
            Loss::Bce => p.unary("Softplus") - p * t,
            Loss::Mse => squared(p - t),
            Loss::L1 => (p - t).abs(),
            Loss::Huber { delta } => huber(p - t, *delta),
            Loss::Graph(_) => inlined.map_or(p, |v| b.value(v)).cast(ElementType::Float),
        };
        let least = b.scalar(ElementType::Float, TINY);
        let positions = |v: V<'_>| (1..v.rank().unwrap_or(1)).collect::<Vec<_>>();
        let counts = importance(t, loss);
        let (per_sample, w) = match (counts, elements.rank()) {
            (_, Some(0) | None) => (elements.expand_like(w), w),
            (None, _) => (elements.mean(&positions(elements), false), w),
            (Some(counts), _) => {
                let share = counts.mean(&positions(elements), false);
                let sum = (elements * counts).mean(&positions(elements), false);
                (sum / share.binary("Max", least), w * share)
            }
        };
        let (total, sum) = (w.sum(&[0], false), (w * per_sample).sum(&[0], false));
        let mean = sum / total.binary("Max", least);
        Ok(LossValues {
            target,
            weight,
            per_sample: per_sample.id(),
            mean: mean.id(),
            sum: sum.id(),
            total: total.id(),
            separable: elements.rank().is_some_and(|rank| rank > 0),
            alike: counts.is_none(),
        })
    })
}

/// Add another loss of each sample, `[N]`, to `values`. Samples weigh as their weights say, however their positions count.
pub fn add(graph: &mut Graph, values: LossValues, per_sample: ValueId) -> LossValues {
    Builder::scope(graph, "loss", |b| {
        let (w, more) = (b.value(values.weight), b.value(per_sample));
        let per_sample = (b.value(values.per_sample) + more).id();
        let least = b.scalar(ElementType::Float, TINY);
        let more = (w * more).sum(&[0], false);
        if values.alike {
            let sum = b.value(values.sum) + more;
            let mean = sum / b.value(values.total).binary("Max", least);
            return LossValues { per_sample, mean: mean.id(), sum: sum.id(), ..values };
        }
        // Two sums of weights divide: no one sum over the batch gives the mean.
        let mean = b.value(values.mean) + more / w.sum(&[0], false).binary("Max", least);
        LossValues { per_sample, mean: mean.id(), separable: false, ..values }
    })
}

/// How much each position counts, where they do not count alike: `[N, d..]`.
fn importance<'b>(t: V<'b>, loss: &Loss) -> Option<V<'b>> {
    let Loss::CrossEntropy { soft: false, ignore, class_weights, .. } = loss else { return None };
    let b = t.builder();
    let valid = ignore.map(|class| t.compare("Equal", b.constant(Tensor::int64s(&[class]))).unary("Not"));
    let weights = class_weights.as_ref().map(|weights| {
        let table = b.constant(Tensor::from_f32(&[weights.len()], weights));
        // A class number that is ignored may lie outside the table.
        let safe = match valid {
            Some(valid) => valid.choose(t, b.constant(Tensor::int64s(&[0]))),
            None => t,
        };
        b.node("Gather", &[table, safe], Attributes::new(), ElementType::Float, t.shape())
    });
    match (valid, weights) {
        (None, weights) => weights,
        (Some(valid), None) => Some(valid.cast(ElementType::Float)),
        (Some(valid), Some(weights)) => Some(weights.only(valid)),
    }
}

fn squared(r: V<'_>) -> V<'_> {
    r * r
}

/// With r cut to +-delta as c: c * (r - c / 2).
fn huber(r: V<'_>, delta: f64) -> V<'_> {
    let cut = r.builder().node(
        "Clip",
        &[r, r.scalar(-delta), r.scalar(delta)],
        Attributes::new(),
        r.element_type(),
        r.shape(),
    );
    cut * (r - cut * 0.5)
}

/// Logits with their classes on `axis`, and targets, to a loss for each position: `[N, d..]`.
fn cross_entropy<'b>(p: V<'b>, t: V<'b>, axis: usize, soft: bool, smoothing: f64, shape: &Shape) -> V<'b> {
    let b = p.builder();
    let over_classes = || Attributes::new().with("axis", axis as i64);
    let log_p = b.node("LogSoftmax", &[p], over_classes(), ElementType::Float, Some(shape.clone()));
    let expected = if soft {
        t
    } else {
        let off_on = b.floats(ElementType::Float, &[2], &[0.0, 1.0]);
        b.node("OneHot", &[t, p.dim(axis), off_on], over_classes(), ElementType::Float, Some(shape.clone()))
    };
    let loss = -(expected * log_p).sum(&[axis], false);
    if smoothing == 0.0 {
        return loss;
    }
    let spread = -log_p.mean(&[axis], false);
    loss * (1.0 - smoothing) + spread * smoothing
}

fn graph_target(model: &Model, prediction: &Shape) -> Result<(ElementType, Shape)> {
    let loss = Graph::from_model(model)?;
    let value = loss.value(loss_input(&loss, "target", 1)?);
    let float = value.element_type.unwrap_or(ElementType::Float);
    let mut symbols = HashMap::new();
    bind(&mut symbols, &loss, loss_input(&loss, "prediction", 0)?, prediction);
    let mut shape = value.shape.clone().unwrap_or_else(|| prediction.clone());
    for dim in &mut shape.0 {
        if let Dim::Symbol(symbol) = dim {
            *dim = symbols.get(symbol).cloned().unwrap_or(dim.clone());
        }
    }
    if let Some(batch) = shape.0.first_mut() {
        *batch = prediction.0.first().cloned().unwrap_or(Dim::Unknown);
    }
    Ok((float, shape))
}

/// The loss graph's symbols stand for what its inputs are given.
fn bind(symbols: &mut HashMap<String, Dim>, loss: &Graph, input: ValueId, given: &Shape) {
    let declared = loss.value(input).shape.iter().flat_map(|s| &s.0);
    for (declared, given) in declared.zip(&given.0) {
        if let Dim::Symbol(symbol) = declared {
            symbols.entry(symbol.clone()).or_insert(given.clone());
        }
    }
}

fn loss_input(loss: &Graph, name: &str, place: usize) -> Result<ValueId> {
    let named = loss.inputs.iter().find(|v| loss.name_of(**v) == name);
    named.or(loss.inputs.get(place)).copied().ok_or_else(|| {
        Error::invalid("the graph has fewer than two inputs", "give it the inputs 'prediction' and 'target'")
    })
}

/// Add a metric given as a graph, of the same form as [`Loss::Graph`]: one number a sample, `[N]`. Shapes that it does not
/// declare are to be inferred afterwards.
pub fn measure(graph: &mut Graph, model: &Model, prediction: ValueId, target: ValueId) -> Result<ValueId> {
    let value = inline(graph, model, prediction, target, "metric")?;
    match graph.value(value).shape.as_ref().map(Shape::rank) {
        Some(1) => Ok(value),
        _ => Err(Error::invalid(
            "the metric graph's output is not declared as [N]",
            "let it give one number for each sample: their mean is the metric",
        )),
    }
}

/// Copy a loss graph's nodes and constants, its inputs replaced; `prefix` begins the names of what is copied.
fn inline(graph: &mut Graph, model: &Model, prediction: ValueId, target: ValueId, prefix: &str) -> Result<ValueId> {
    let mut loss = Graph::from_model(model)?;
    upgrade(&mut loss, WORKING_OPSET)?;
    let inputs = [(loss_input(&loss, "prediction", 0)?, prediction), (loss_input(&loss, "target", 1)?, target)];
    let mut symbols = HashMap::new();
    for (inner, outer) in inputs {
        bind(&mut symbols, &loss, inner, &graph.value(outer).shape.clone().unwrap_or_default());
    }
    let mut places = HashMap::from(inputs);
    let bound = |dim: &Dim| match dim {
        Dim::Symbol(symbol) => symbols.get(symbol).cloned().unwrap_or(Dim::Unknown),
        other => other.clone(),
    };
    for (id, value) in loss.values() {
        if places.contains_key(&id) {
            continue;
        }
        let new = graph.add_value(&format!("{prefix}/{}", value.name));
        let shape = value.shape.as_ref().map(|s| Shape(s.0.iter().map(bound).collect()));
        graph.set_type(new, value.element_type, shape);
        if let Some(tensor) = &value.constant {
            graph.set_constant(new, tensor.clone());
        }
        places.insert(id, new);
    }
    let renamed = |ids: &[Option<ValueId>]| ids.iter().map(|v| v.and_then(|v| places.get(&v).copied())).collect();
    for id in loss.topological_order()? {
        let mut node = loss.node(id).clone();
        if node.attributes.graphs().next().is_some() {
            return Err(Error::invalid(
                format!("node '{}' ({}) of the {prefix} graph has a sub-graph", node.name, node.op),
                "write it without If, Loop and Scan",
            ));
        }
        (node.inputs, node.outputs) = (renamed(&node.inputs), renamed(&node.outputs));
        if !node.name.is_empty() {
            node.name = format!("{prefix}/{}", node.name);
        }
        graph.push(node);
    }
    let output = loss
        .outputs
        .first()
        .ok_or_else(|| Error::invalid(format!("the {prefix} graph has no output"), "give it one"))?;
    if loss.value(*output).shape.as_ref().is_none_or(|s| s.rank() > 1) {
        return Err(Error::invalid(
            format!(
                "the {prefix} graph's output '{}' is declared neither as [N] nor as a scalar",
                loss.name_of(*output)
            ),
            "reduce it to one number for each sample, and declare its shape",
        ));
    }
    places
        .get(output)
        .copied()
        .ok_or_else(|| Error::invalid(format!("the {prefix} graph's output is missing"), "name its output"))
}
