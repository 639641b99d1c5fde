//! Scan and Loop: the gradient is a Scan over the iterations from last to first.

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET, proto::GraphProto};

use super::body::Body;
use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

/// What goes along an axis of an array, an element an iteration.
struct Sequence<'b> {
    /// The value inside the body.
    inner: ValueId,
    /// The array outside.
    outer: V<'b>,
    axis: i64,
    /// Whether the first iteration has the last element.
    reversed: bool,
}

/// An iteration as both operators have it.
struct Iteration<'b> {
    body: Body,
    /// The states as they come in and go out, inside.
    states: Vec<(ValueId, ValueId)>,
    /// Their initial values.
    initial: Vec<V<'b>>,
    /// What is read of arrays.
    reads: Vec<Sequence<'b>>,
    /// What goes into arrays: inside, and the gradient of the array.
    writes: Vec<(ValueId, Option<Sequence<'b>>)>,
}

pub(super) fn scan<'b>(ctx: &Ctx<'b>, wanted: &dyn Fn(ValueId) -> bool) -> Result<Vec<(ValueId, V<'b>)>> {
    let proto = ctx.node.attributes.get("body").and_then(|a| a.g.clone()).ok_or_else(|| ctx.malformed(0))?;
    let body = Body::copy(ctx, &proto)?;
    let arrays = ctx.int("num_scan_inputs", 0).max(0) as usize;
    let count = ctx.node.inputs.len().saturating_sub(arrays);
    let (inputs, outputs) = (body.graph.inputs.clone(), body.graph.outputs.clone());
    if inputs.len() != ctx.node.inputs.len() || outputs.len() < count {
        return Err(ctx.malformed(0));
    }
    let along =
        |name: &str, place: usize| ctx.node.attributes.ints(name).and_then(|v| v.get(place).copied()).unwrap_or(0);
    // An axis may be counted from the end.
    let axis = |name: &str, place: usize, array: V<'b>| -> Result<i64> {
        let given = along(name, place);
        Ok(if given < 0 { ctx.front_axis(given, ctx.rank(array)?)? as i64 } else { given })
    };
    let mut reads = Vec::new();
    for (place, inner) in inputs[count..].iter().enumerate() {
        let outer = ctx.x(count + place)?;
        let axis = axis("scan_input_axes", place, outer)?;
        reads.push(Sequence { inner: *inner, outer, axis, reversed: along("scan_input_directions", place) == 1 });
    }
    let mut writes = Vec::new();
    for (place, inner) in outputs[count..].iter().enumerate() {
        let gradient = match ctx.opt_dy(count + place) {
            Some(outer) => {
                let axis = axis("scan_output_axes", place, outer)?;
                let reversed = along("scan_output_directions", place) == 1;
                Some(Sequence { inner: *inner, outer, axis, reversed })
            }
            None => None,
        };
        writes.push((*inner, gradient));
    }
    let iteration = Iteration {
        states: inputs.iter().copied().zip(outputs.iter().copied()).take(count).collect(),
        initial: (0..count).map(|i| ctx.x(i)).collect::<Result<_>>()?,
        writes,
        reads,
        body,
    };
    iteration.differentiate(ctx, wanted, &proto, None)
}

pub(super) fn repeat<'b>(ctx: &Ctx<'b>, wanted: &dyn Fn(ValueId) -> bool) -> Result<Vec<(ValueId, V<'b>)>> {
    let proto = ctx.node.attributes.get("body").and_then(|a| a.g.clone()).ok_or_else(|| ctx.malformed(0))?;
    let body = Body::copy(ctx, &proto)?;
    let count = ctx.node.inputs.len().saturating_sub(2);
    let (inputs, outputs) = (body.graph.inputs.clone(), body.graph.outputs.clone());
    if inputs.len() != count + 2 || outputs.len() < count + 1 {
        return Err(ctx.malformed(0));
    }
    let states: Vec<_> = inputs[2..].iter().copied().zip(outputs[1..].iter().copied()).collect();
    for (before, after) in &states {
        let shape = |v: ValueId| body.graph.value(v).shape.as_ref().and_then(Shape::as_known);
        if let (Some(before), Some(after)) = (shape(*before), shape(*after))
            && before != after
        {
            return Err(ctx.stop(
                format!("a state changes its shape from {before:?} to {after:?} in an iteration"),
                "freeze the parameters before this node",
            ));
        }
    }
    let write = |(place, inner): (usize, &ValueId)| {
        let gradient =
            ctx.opt_dy(count + place).map(|outer| Sequence { inner: *inner, outer, axis: 0, reversed: false });
        (*inner, gradient)
    };
    let iteration = Iteration {
        initial: (0..count).map(|i| ctx.x(i + 2)).collect::<Result<_>>()?,
        writes: outputs[count + 1..].iter().enumerate().map(write).collect(),
        reads: Vec::new(),
        states,
        body,
    };
    iteration.differentiate(ctx, wanted, &proto, Some(&inputs[..2]))
}

impl<'b> Iteration<'b> {
    /// `counted` are the number of the iteration and the condition inside the body of a Loop.
    fn differentiate(
        mut self,
        ctx: &Ctx<'b>,
        wanted: &dyn Fn(ValueId) -> bool,
        proto: &GraphProto,
        counted: Option<&[ValueId]>,
    ) -> Result<Vec<(ValueId, V<'b>)>> {
        let b = ctx.b;
        self.settle();
        let float = |graph: &Graph, v: ValueId| graph.value(v).element_type.is_some_and(|t| t.is_float());
        let kept = self.keep(ctx, proto, counted)?;
        let captured = self.body.captured(ctx, wanted);
        let read: Vec<usize> = (0..self.reads.len())
            .filter(|i| wanted(self.reads[*i].outer.id()) && float(&self.body.graph, self.reads[*i].inner))
            .collect();
        let carried: Vec<usize> =
            (0..self.states.len()).filter(|i| float(&self.body.graph, self.states[*i].0)).collect();

        let mut inputs: Vec<V<'b>> = Vec::new();
        let mut order: Vec<ValueId> = Vec::new();
        let mut seeds = Vec::new();
        let mut wrt = Vec::new();
        // The gradients of the states go from iteration to iteration, and so do the sums of those of what is captured.
        for i in &carried {
            let (before, after) = self.states[*i];
            let (element_type, shape) = self.known(before);
            let carried = self.body.input("carried", element_type, shape);
            order.push(carried);
            seeds.push((after, carried));
            wrt.push((before, None));
            inputs.push(match ctx.opt_dy(*i) {
                Some(gradient) => gradient,
                None => zeros(ctx, self.initial[*i])?,
            });
        }
        for (outside, inside) in &captured {
            let (element_type, shape) = self.known(*inside);
            let sum = self.body.input("sum", element_type, shape);
            order.push(sum);
            wrt.push((*inside, Some(sum)));
            inputs.push(zeros(ctx, b.value(*outside))?);
        }
        let carried_states = order.len();
        for i in &read {
            wrt.push((self.reads[*i].inner, None));
        }
        // Everything that an iteration read, from last to first.
        let (mut axes, mut directions) = (Vec::new(), Vec::new());
        for (inner, array) in kept {
            order.push(inner);
            inputs.push(array);
            axes.push(0);
            directions.push(1);
        }
        for sequence in &self.reads {
            order.push(sequence.inner);
            inputs.push(sequence.outer);
            axes.push(sequence.axis);
            directions.push(i64::from(!sequence.reversed));
        }
        for (inner, gradient) in std::mem::take(&mut self.writes) {
            let Some(sequence) = gradient.filter(|_| float(&self.body.graph, inner)) else { continue };
            let (element_type, shape) = self.known(inner);
            let seed = self.body.input("seed", element_type, shape);
            order.push(seed);
            seeds.push((inner, seed));
            inputs.push(sequence.outer);
            axes.push(sequence.axis);
            directions.push(i64::from(!sequence.reversed));
        }
        if let Some([_, condition]) = counted {
            self.body.graph.set_constant(*condition, Tensor::filled(ElementType::Bool, &[], 1.0));
        }
        self.body.gradients(ctx, &seeds, &wrt)?;
        self.body.graph.inputs = order;

        let mut attributes = Attributes::new();
        attributes.set("body", self.body.graph.to_body()?);
        attributes.set("num_scan_inputs", axes.len() as i64);
        attributes.set("scan_input_axes", axes);
        attributes.set("scan_input_directions", directions);
        attributes.set("scan_output_axes", read.iter().map(|i| self.reads[*i].axis).collect::<Vec<_>>());
        // An array that was read from the front gets its last element first.
        let prepended = read.iter().map(|i| i64::from(!self.reads[*i].reversed)).collect::<Vec<_>>();
        attributes.set("scan_output_directions", prepended);
        let outputs = carried_states + read.len();
        let found = match counted {
            // What is kept of each iteration begins with the states and ends with its number.
            Some(_) if !begins(ctx) => {
                let numbers = inputs[carried_states + self.states.len()];
                self.if_any(ctx, numbers, &inputs, attributes, outputs)?
            }
            _ => b.several("Scan", &inputs.iter().map(|v| Some(v.id())).collect::<Vec<_>>(), attributes, outputs),
        };
        let outside = carried
            .iter()
            .map(|i| self.initial[*i])
            .chain(captured.iter().map(|(outside, _)| b.value(*outside)))
            .chain(read.iter().map(|i| self.reads[*i].outer));
        let pairs = outside.zip(found).filter(|(outside, _)| wanted(outside.id()));
        Ok(pairs.map(|(v, gradient)| (v.id(), gradient.typed(v.element_type(), v.shape()))).collect())
    }

    /// A Loop may end before its first iteration, and the runtime has no Scan over nothing: the gradients of the first
    /// `count` of `inputs` by the Scan where there are `numbers` of iterations, else as they are.
    fn if_any(
        &self,
        ctx: &Ctx<'b>,
        numbers: V<'b>,
        inputs: &[V<'b>],
        attributes: Attributes,
        count: usize,
    ) -> Result<Vec<V<'b>>> {
        let branch = |taken: &[V<'b>]| -> (Graph, Vec<ValueId>) {
            let mut graph = Graph::new("iterations", WORKING_OPSET);
            let outer = ctx.b.graph();
            let capture = |v: &V<'b>| graph.capture(outer.name_of(v.id()), Some(v.element_type()), v.shape());
            let captured = taken.iter().map(capture).collect();
            (graph, captured)
        };
        let (mut some, captured) = branch(inputs);
        let captured: Vec<Option<ValueId>> = captured.into_iter().map(Some).collect();
        some.outputs = some.add_node("Scan", &self.body.named("iterated"), &captured, attributes, count);
        let (mut none, captured) = branch(&inputs[..count]);
        for v in captured {
            let output = none.op("Identity", &self.body.named("unchanged"), &[v], Attributes::new());
            none.outputs.push(output);
        }
        for (place, input) in inputs[..count].iter().enumerate() {
            for graph in [&mut some, &mut none] {
                graph.set_type(graph.outputs[place], Some(input.element_type()), input.shape());
            }
        }
        let any = numbers.dim(0).squeeze(&[0]).compare("Greater", ctx.b.scalar(ElementType::Int64, 0.0));
        let attributes = Attributes::new().with("then_branch", some.to_body()?).with("else_branch", none.to_body()?);
        Ok(ctx.b.several("If", &[Some(any.id())], attributes, count))
    }

    /// A body may leave out what its inputs are: as what they are given.
    fn settle(&mut self) {
        let states = self.states.iter().zip(&self.initial).map(|((inner, _), outer)| (*inner, *outer, None));
        let arrays = self.reads.iter().map(|read| (read.inner, read.outer, Some(read.axis as usize)));
        for (inner, outer, axis) in states.chain(arrays).collect::<Vec<_>>() {
            let value = self.body.graph.value(inner);
            let (element_type, shape) = (value.element_type, value.shape.clone());
            let given = || {
                let mut shape = outer.shape()?;
                if let Some(axis) = axis.filter(|a| *a < shape.rank()) {
                    shape.0.remove(axis);
                }
                Some(shape)
            };
            self.body.graph.set_type(inner, element_type.or(Some(outer.element_type())), shape.or_else(given));
        }
    }

    fn known(&self, v: ValueId) -> (ElementType, Option<Shape>) {
        let value = self.body.graph.value(v);
        (value.element_type.unwrap_or(ElementType::Float), value.shape.clone())
    }

    /// Let the node keep its states as they come into each iteration, and a Loop the iterations' numbers, along a first
    /// axis: values inside with the arrays outside.
    fn keep(&self, ctx: &Ctx<'b>, proto: &GraphProto, counted: Option<&[ValueId]>) -> Result<Vec<(ValueId, V<'b>)>> {
        let number = counted.and_then(|c| c.first().copied());
        let inner: Vec<ValueId> = self.states.iter().map(|(before, _)| *before).chain(number).collect();
        let mut graph = Graph::from_body(proto, &ctx.b.graph())?;
        let mut kept = Vec::new();
        for value in inner {
            // The copy was made from the same message: the values have the same names.
            let own = graph.find(self.body.graph.name_of(value)).ok_or_else(|| ctx.malformed(0))?;
            let (element_type, shape) = self.known(value);
            let output = graph.op("Identity", &self.body.named("kept"), &[own], Attributes::new());
            graph.set_type(output, Some(element_type), shape.clone());
            graph.outputs.push(output);
            let rows =
                self.reads.first().and_then(|read| read.outer.shape()?.0.get(read.axis.max(0) as usize).cloned());
            let stacked = shape.map(|mut s| {
                s.0.insert(0, rows.clone().unwrap_or(Dim::Unknown));
                s
            });
            kept.push((value, element_type, stacked));
        }
        // The outputs of a Loop are those of its body but the condition.
        let first = self.states.len() + self.writes.len();
        let body = graph.to_body()?;
        {
            let mut outer = ctx.b.graph_mut();
            let attributes = &mut outer.node_mut(ctx.id).attributes;
            attributes.set("body", body);
            for name in ["scan_output_axes", "scan_output_directions"] {
                if let Some(given) = attributes.ints(name).map(<[i64]>::to_vec) {
                    attributes.set(name, [given, vec![0; kept.len()]].concat());
                }
            }
        }
        let output = |(place, (value, element_type, shape)): (usize, (ValueId, ElementType, Option<Shape>))| {
            (value, ctx.b.output(ctx.id, first + place, element_type, shape))
        };
        Ok(kept.into_iter().enumerate().map(output).collect())
    }
}

/// Whether the first iteration of a Loop is certain: its number of iterations and its condition are known.
fn begins(ctx: &Ctx<'_>) -> bool {
    let positive = |v: V<'_>| v.as_scalar().is_some_and(|n| n > 0.0);
    ctx.opt(0).is_none_or(positive) && ctx.opt(1).is_none_or(positive)
}

fn zeros<'b>(ctx: &Ctx<'b>, v: V<'b>) -> Result<V<'b>> {
    let sizes = Size::all(v).ok_or_else(|| ctx.no_rank(v))?;
    Ok(ctx.b.filled(v.element_type(), &sizes, 0.0))
}
