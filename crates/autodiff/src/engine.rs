//! The reverse sweep: which nodes are on a path, in which order they are differentiated, how contributions meet.

use std::collections::{HashMap, HashSet};

use dendrite_onnx::{ElementType, Graph, NodeId, Shape, Tensor, ValueId, WORKING_OPSET};

use crate::{
    control,
    error::{Error, Result},
    expr::{Builder, V},
    lowering,
    rules::{self, Answer, Ctx, node_name},
};

/// The gradient of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// The value that holds it, of the same type and shape.
    Some(ValueId),
    /// It is zero everywhere.
    Zero,
}

/// Extend `graph` by the derivatives of `loss` with respect to the values `wrt`; `None` is a zero derivative.
///
/// `loss` must be a float of one element. `wrt` may be inputs, constants or values in between, such as a site's output;
/// values in `stops` are treated as independent of everything (a value in both is differentiated, but nothing before
/// it). Only nodes between `wrt` and `loss` are differentiated.
///
/// The graph must be at the working opset with element types and ranks recorded; dimensions may be symbolic, and the
/// gradients then stay as dynamic as the graph. On an error the graph may hold nodes that nothing reads.
pub fn gradients(
    graph: &mut Graph,
    loss: ValueId,
    wrt: &[ValueId],
    stops: &HashSet<ValueId>,
) -> Result<Vec<Option<ValueId>>> {
    check(graph, loss)?;
    let value = graph.value(loss);
    let ones = vec![1; value.shape.as_ref().map_or(0, Shape::rank)];
    let one = Tensor::filled(value.element_type.unwrap_or(ElementType::Float), &ones, 1.0);
    let seed = graph.add_constant("gradient/constant", one);
    pull_back(graph, &[(loss, seed)], wrt, stops, "gradient")
}

/// Extend `graph` by the derivatives of sum(seed * value) over the pairs (value, seed) of `seeds` with respect to `wrt`.
/// `name` begins the names of new values.
pub(crate) fn pull_back(
    graph: &mut Graph,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
    stops: &HashSet<ValueId>,
    name: &str,
) -> Result<Vec<Option<ValueId>>> {
    let (order, path) = loop {
        let order = graph.topological_order()?;
        let path = Path::between(graph, &order, seeds, wrt, stops);
        let concerned = |graph: &Graph, id: NodeId| {
            let node = graph.node(id);
            graph.reads(node).iter().any(|v| path.holds(*v))
                && node.outputs.iter().flatten().any(|v| path.leads_through(*v))
        };
        if !lowering::lower(graph, &order, &concerned)? {
            break (order, path);
        }
    };
    let old = graph.node_ids().last().map_or(0, |id| id.index() + 1);
    Builder::scope(graph, name, |b| {
        let found = sweep(b, &order, &path, seeds, wrt, name)?;
        b.remove_unread(old, &found.iter().flatten().copied().collect::<Vec<_>>());
        Ok(found)
    })
}

fn check(graph: &Graph, loss: ValueId) -> Result<()> {
    let version = graph.opsets.get("").copied().unwrap_or(0);
    if version != WORKING_OPSET {
        return Err(Error::invalid(
            format!("the graph is at opset {version}, gradients are built at opset {WORKING_OPSET}"),
            "upgrade the working copy first",
        ));
    }
    let value = graph.value(loss);
    let float = value.element_type.is_none_or(|t| t.is_float());
    let one = value.shape.as_ref().is_none_or(|s| s.0.iter().all(|d| d.known().is_none_or(|n| n == 1)));
    if !float || !one {
        return Err(Error::invalid(
            format!("'{}' is not a float of one element", value.name),
            "reduce the loss to one number, for example by its mean",
        ));
    }
    Ok(())
}

/// The values that depend on one of `wrt` and on which the loss depends.
struct Path {
    on: Vec<bool>,
    /// Of those, the values whose gradient is passed to what computes them.
    leads: Vec<bool>,
}

impl Path {
    fn between(
        graph: &Graph,
        order: &[NodeId],
        seeds: &[(ValueId, ValueId)],
        wrt: &[ValueId],
        stops: &HashSet<ValueId>,
    ) -> Self {
        let mut depends = vec![false; graph.value_count()];
        wrt.iter().for_each(|v| depends[v.index()] = true);
        for id in order {
            let node = graph.node(*id);
            if !rules::is_flat(node) && graph.reads(node).iter().any(|v| depends[v.index()]) {
                for output in node.outputs.iter().flatten().filter(|v| !stops.contains(v)) {
                    depends[output.index()] = true;
                }
            }
        }
        let mut needed = vec![false; graph.value_count()];
        seeds.iter().for_each(|(value, _)| needed[value.index()] = true);
        for id in order.iter().rev() {
            let node = graph.node(*id);
            let leads = |v: &ValueId| needed[v.index()] && depends[v.index()] && !stops.contains(v);
            if node.outputs.iter().flatten().any(leads) {
                graph.reads(node).iter().for_each(|v| needed[v.index()] = true);
            }
        }
        let on: Vec<bool> = depends.iter().zip(&needed).map(|(d, n)| *d && *n).collect();
        let mut leads = on.clone();
        // A stop that is differentiated itself leads no further back.
        stops.iter().for_each(|v| leads[v.index()] = false);
        Path { on, leads }
    }

    fn holds(&self, v: ValueId) -> bool {
        self.on.get(v.index()).copied().unwrap_or(false)
    }

    fn leads_through(&self, v: ValueId) -> bool {
        self.leads.get(v.index()).copied().unwrap_or(false)
    }
}

fn sweep(
    b: &Builder,
    order: &[NodeId],
    path: &Path,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
    name: &str,
) -> Result<Vec<Option<ValueId>>> {
    let mut parts: HashMap<ValueId, Vec<V<'_>>> = HashMap::new();
    for (value, seed) in seeds.iter().filter(|(value, _)| path.holds(*value)) {
        parts.entry(*value).or_default().push(b.value(*seed));
    }
    for id in order.iter().rev() {
        let node = b.graph().node(*id).clone();
        if !node.inputs.iter().flatten().any(|v| path.holds(*v)) && node.attributes.graphs().next().is_none() {
            continue;
        }
        let mut gradients = Vec::with_capacity(node.outputs.len());
        for output in &node.outputs {
            let Some(output) = output.filter(|v| path.leads_through(*v)) else {
                gradients.push(None);
                continue;
            };
            b.rename(&format!("{name}/{}", b.graph().name_of(output)));
            let total = parts.get(&output).and_then(|p| b.sum(p));
            if let Some(total) = total {
                parts.insert(output, vec![total]);
            }
            gradients.push(total);
        }
        if gradients.iter().all(Option::is_none) {
            continue;
        }
        if node.attributes.graphs().next().is_some() {
            let ctx = Ctx { b, id: *id, node, gradients };
            for (value, gradient) in control::differentiate(&ctx, &|v| path.holds(v))? {
                parts.entry(value).or_default().push(gradient);
            }
            continue;
        }
        let inputs = node.inputs.clone();
        let rule = rule_for(b, &node)?;
        let ctx = Ctx { b, id: *id, node, gradients };
        for (index, input) in inputs.iter().enumerate() {
            let Some(input) = input.filter(|v| path.holds(*v)) else { continue };
            // Only quantised numbers have a gradient although they are integers: what dequantises them passes it on.
            let integer = |v: ValueId| b.graph().value(v).element_type.is_some_and(|t| !t.is_float());
            let quantised = ctx.node.is("DequantizeLinear") || ctx.node.outputs.iter().flatten().all(|v| integer(*v));
            if integer(input) && !quantised {
                continue;
            }
            if let Gradient::Some(gradient) = differentiate(&ctx, rule, index, input)? {
                parts.entry(input).or_default().push(b.value(gradient));
            }
        }
    }
    b.rename(name);
    Ok(wrt.iter().map(|v| parts.get(v).and_then(|p| b.sum(p)).map(V::id)).collect())
}

pub(crate) fn rule_for(b: &Builder, node: &dendrite_onnx::Node) -> Result<rules::Rule> {
    rules::find(&node.domain, &node.op).ok_or_else(|| {
        let op = if node.domain.is_empty() { node.op.clone() } else { format!("{}.{}", node.domain, node.op) };
        let name = node_name(b, node);
        match rules::refusal(&node.domain, &node.op) {
            Some(reason) => Error::Stop { node: name, op, reason: reason.to_owned(), remedy: rules::REMEDY.to_owned() },
            None => {
                let version = b.graph().opsets.get(&node.domain).copied().unwrap_or(0);
                Error::NotImplemented { node: name, op, version }
            }
        }
    })
}

/// The contribution of one node to the gradient of one of its inputs, of the input's type and shape.
fn differentiate(ctx: &Ctx<'_>, rule: rules::Rule, index: usize, input: ValueId) -> Result<Gradient> {
    let x = ctx.b.value(input);
    let gradient = match rule(ctx, index)? {
        Answer::Zero => return Ok(Gradient::Zero),
        Answer::Exact(v) => v,
        // A single operand is never broadcast.
        Answer::Unreduced(v) if ctx.node.inputs.iter().flatten().count() == 1 => v,
        Answer::Unreduced(v) => v.sum_to(x).ok_or_else(|| Error::Stop {
            node: node_name(ctx.b, &ctx.node),
            op: ctx.node.op.clone(),
            reason: format!("the rank of '{}' or of its gradient is not known", ctx.b.graph().name_of(input)),
            remedy: "run shape inference on the graph before differentiating it".to_owned(),
        })?,
    };
    // What is known of the input holds for its gradient, and is at least as exact.
    if let (Some(shape), true) = (x.shape(), gradient.tensor().is_none()) {
        let known = |s: &Shape| s.0.iter().filter(|d| **d != dendrite_onnx::Dim::Unknown).count();
        if gradient.shape().is_none_or(|s| s.rank() != shape.rank() || known(&s) <= known(&shape)) {
            let float = x.element_type().is_float();
            gradient.typed(if float { x.element_type() } else { gradient.element_type() }, Some(shape));
        }
    }
    Ok(Gradient::Some(gradient.id()))
}
