//! LSTM, GRU and RNN as a Scan over the steps of each direction.
//!
//! What the input contributes to the gates is one product for all steps, before the Scan; the recurrent product and the gates
//! are in its body.

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, ValueId, WORKING_OPSET};

use crate::{
    error::Result,
    expr::{Builder, Size, V},
    rules::Ctx,
};

pub(super) fn lstm<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    lower(c, &Kind { gates: 4, states: 2, defaults: &["Sigmoid", "Tanh", "Tanh"], step: lstm_step })
}

pub(super) fn gru<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    lower(c, &Kind { gates: 3, states: 1, defaults: &["Sigmoid", "Tanh"], step: gru_step })
}

pub(super) fn rnn<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    lower(c, &Kind { gates: 1, states: 1, defaults: &["Tanh"], step: rnn_step })
}

/// One of the three operators.
struct Kind {
    gates: usize,
    /// The states of a step: h, and c of an LSTM.
    states: usize,
    /// Its activations unless said.
    defaults: &'static [&'static str],
    step: for<'i> fn(&Step<'i>) -> Vec<V<'i>>,
}

/// What a step computes with, inside the body.
struct Step<'i> {
    /// What the input contributes to the gates, side by side: [batch, gates * hidden].
    input: V<'i>,
    /// The states before the step: [batch, hidden] each.
    states: Vec<V<'i>>,
    /// The recurrent weights: [hidden, gates * hidden].
    recurrent: V<'i>,
    /// The recurrent bias, where it is not part of `input`: [gates * hidden].
    bias: Option<V<'i>>,
    /// An LSTM's peephole weights of the input, output and forget gate: [3 * hidden].
    peephole: Option<V<'i>>,
    activations: Vec<Activation>,
    clip: Option<f64>,
    hidden: usize,
    input_forget: bool,
    linear_before_reset: bool,
}

impl<'i> Step<'i> {
    /// The activation `index` of a gate before it, clipped.
    fn gate(&self, index: usize, before: V<'i>) -> V<'i> {
        let clipped = match self.clip {
            Some(limit) => {
                let inputs = [before, before.scalar(-limit), before.scalar(limit)];
                before.builder().node("Clip", &inputs, Attributes::new(), before.element_type(), before.shape())
            }
            None => before,
        };
        self.activations[index].apply(clipped)
    }

    /// Equal parts along the last axis.
    fn parts(&self, v: V<'i>, count: usize) -> Vec<V<'i>> {
        if count == 1 {
            return vec![v];
        }
        let b = v.builder();
        let axis = v.rank().unwrap_or(1) - 1;
        let sizes = b.ints(&vec![self.hidden as i64; count]);
        let attributes = Attributes::new().with("axis", axis as i64);
        let shape = v.shape().map(|mut s| {
            s.0[axis] = Dim::Known(self.hidden);
            s
        });
        let pieces = b.several("Split", &[Some(v.id()), Some(sizes.id())], attributes, count);
        pieces.into_iter().map(|piece| piece.typed(v.element_type(), shape.clone())).collect()
    }
}

/// Gates i, o, f, c.
fn lstm_step<'i>(s: &Step<'i>) -> Vec<V<'i>> {
    let (h, c) = (s.states[0], s.states[1]);
    let gates = s.parts(s.input + h.matmul(s.recurrent), 4);
    let peephole = s.peephole.map(|p| s.parts(p, 3));
    let seeing = |gate: V<'i>, index: usize, cell: V<'i>| match &peephole {
        Some(weights) => gate + weights[index] * cell,
        None => gate,
    };
    let i = s.gate(0, seeing(gates[0], 0, c));
    let f = if s.input_forget { 1.0 - i } else { s.gate(0, seeing(gates[2], 2, c)) };
    let next = f * c + i * s.gate(1, gates[3]);
    let o = s.gate(0, seeing(gates[1], 1, next));
    vec![o * s.activations[2].apply(next), next]
}

/// Gates z, r, h.
fn gru_step<'i>(s: &Step<'i>) -> Vec<V<'i>> {
    let h = s.states[0];
    let (input, hidden) = (s.parts(s.input, 3), s.hidden as i64);
    let weights = |from: i64, to: i64| s.recurrent.slice(&[(1, from * hidden, to * hidden, 1)]);
    let bias = s.bias.map(|bias| s.parts(bias, 3));
    let biased = |v: V<'i>, gate: usize| bias.as_ref().map_or(v, |bias| v + bias[gate]);
    let (z, r, candidate);
    if s.linear_before_reset {
        let products = s.parts(h.matmul(s.recurrent), 3);
        z = s.gate(0, input[0] + biased(products[0], 0));
        r = s.gate(0, input[1] + biased(products[1], 1));
        candidate = s.gate(1, input[2] + r * biased(products[2], 2));
    } else {
        let products = s.parts(h.matmul(weights(0, 2)), 2);
        z = s.gate(0, input[0] + biased(products[0], 0));
        r = s.gate(0, input[1] + biased(products[1], 1));
        candidate = s.gate(1, input[2] + biased((r * h).matmul(weights(2, 3)), 2));
    }
    vec![(1.0 - z) * candidate + z * h]
}

fn rnn_step<'i>(s: &Step<'i>) -> Vec<V<'i>> {
    vec![s.gate(0, s.input + s.states[0].matmul(s.recurrent))]
}

/// The node as its steps, both layouts.
fn lower<'b>(c: &Ctx<'b>, kind: &Kind) -> Result<Vec<Option<V<'b>>>> {
    let by_sample = c.int("layout", 0) == 1;
    // Time, batch, features.
    let x = if by_sample { c.x(0)?.transpose(&[1, 0, 2]) } else { c.x(0)? };
    let hidden = c.known_dims(c.x(2)?, 2)?[0];
    let directions: &[bool] = match c.node.attributes.str("direction", "forward") {
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        _ => &[false],
    };
    let activations = Activation::all(c, kind, directions.len())?;
    let (mut ys, mut lasts) = (Vec::new(), vec![Vec::new(); kind.states]);
    for (place, backwards) in directions.iter().enumerate() {
        let direction = Direction { c, kind, x, hidden, place, by_sample, backwards: *backwards };
        let own = activations[place * kind.defaults.len()..(place + 1) * kind.defaults.len()].to_vec();
        let (y, last) = direction.run(own)?;
        // The axis of directions stands behind that of the steps.
        ys.push(y.unsqueeze(&[1]));
        lasts.iter_mut().zip(last).for_each(|(all, v)| all.push(v.unsqueeze(&[0])));
    }
    let join = |parts: &[V<'b>], axis: usize| if parts.len() == 1 { parts[0] } else { c.b.concat(parts, axis) };
    let y = join(&ys, 1);
    let y = if by_sample { y.transpose(&[2, 0, 1, 3]) } else { y };
    let mut outputs = vec![Some(y)];
    for last in lasts {
        let last = join(&last, 0);
        outputs.push(Some(if by_sample { last.transpose(&[1, 0, 2]) } else { last }));
    }
    Ok(outputs)
}

/// One direction of a node.
struct Direction<'a, 'b> {
    c: &'a Ctx<'b>,
    kind: &'a Kind,
    x: V<'b>,
    hidden: usize,
    place: usize,
    by_sample: bool,
    backwards: bool,
}

impl<'b> Direction<'_, 'b> {
    /// This direction's part of an input: its first axis counts directions.
    fn own(&self, v: V<'b>) -> V<'b> {
        let place = self.place as i64;
        v.slice(&[(0, place, place + 1, 1)]).squeeze(&[0])
    }

    fn initial(&self, index: usize) -> V<'b> {
        match self.c.opt(index) {
            Some(v) => self.own(if self.by_sample { v.transpose(&[1, 0, 2]) } else { v }),
            None => self.c.b.filled(self.x.element_type(), &[Size::Of(self.x, 1), Size::Is(self.hidden)], 0.0),
        }
    }

    /// The outputs of all steps, [time, batch, hidden], and the last states.
    fn run(&self, activations: Vec<Activation>) -> Result<(V<'b>, Vec<V<'b>>)> {
        let (c, kind) = (self.c, self.kind);
        let width = (kind.gates * self.hidden) as i64;
        let (weights, recurrent) = (self.own(c.x(1)?), self.own(c.x(2)?).matrix_transpose(2));
        let bias = c.opt(3).map(|v| self.own(v));
        let half = |from: i64| bias.map(|bias| bias.slice(&[(0, from * width, (from + 1) * width, 1)]));
        let linear_before_reset = kind.gates == 3 && c.int("linear_before_reset", 0) != 0;
        let lengths = c.opt(4);
        let reversed = |v: V<'b>, lengths: V<'b>| {
            let attributes = Attributes::new().with("time_axis", 0i64).with("batch_axis", 1i64);
            c.b.node("ReverseSequence", &[v, lengths], attributes, v.element_type(), v.shape())
        };
        let lengths = lengths.map(|v| v.cast(ElementType::Int64));
        // With lengths each sample is turned round by itself, and all go forwards.
        let turned = lengths.filter(|_| self.backwards);
        let x = turned.map_or(self.x, |lengths| reversed(self.x, lengths));
        let mut input = x.matmul(weights.matrix_transpose(2));
        if let Some(bias) = half(0) {
            input = input + bias;
        }
        // The recurrent bias of a GRU is scaled by a gate in one of its forms.
        let inside = half(1).filter(|_| linear_before_reset);
        if let Some(bias) = half(1).filter(|_| !linear_before_reset) {
            input = input + bias;
        }
        let mut states = vec![self.initial(5)];
        if kind.states == 2 {
            states.push(self.initial(6));
        }
        let peephole = if kind.gates == 4 { c.opt(7).map(|v| self.own(v)) } else { None };
        let mask = lengths.map(|lengths| self.mask(lengths));

        let body = self.body(input, &states, (recurrent, inside, peephole), mask.is_some(), activations)?;
        let backwards = i64::from(self.backwards && turned.is_none());
        let arrays = 1 + i64::from(mask.is_some());
        let attributes = Attributes::new()
            .with("body", body.to_body()?)
            .with("num_scan_inputs", arrays)
            .with("scan_input_directions", vec![backwards; arrays as usize])
            .with("scan_output_directions", vec![backwards]);
        let inputs: Vec<_> = states.iter().chain([&input]).chain(&mask).map(|v| Some(v.id())).collect();
        let found = c.b.several("Scan", &inputs, attributes, kind.states + 1);
        let (float, shape) = (input.element_type(), states[0].shape());
        let steps = input.shape().map(|s| s.0[0].clone());
        let last = found[..kind.states].iter().map(|v| v.typed(float, shape.clone())).collect();
        let stacked = shape.zip(steps).map(|(mut s, steps)| {
            s.0.insert(0, steps);
            s
        });
        let y = found[kind.states].typed(float, stacked);
        Ok((turned.map_or(y, |lengths| reversed(y, lengths)), last))
    }

    /// Whether a step belongs to a sample: [time, batch, 1].
    fn mask(&self, lengths: V<'b>) -> V<'b> {
        let b = self.c.b;
        let int = |n: f64| b.scalar(ElementType::Int64, n);
        let count = self.x.dim(0).squeeze(&[0]);
        let dims = Some(Shape(vec![self.x.shape().map_or(Dim::Unknown, |s| s.0[0].clone())]));
        let steps = b.node("Range", &[int(0.0), count, int(1.0)], Attributes::new(), ElementType::Int64, dims);
        steps.unsqueeze(&[1, 2]).compare("Less", lengths.unsqueeze(&[0, 2]))
    }

    /// The body: states and a step's input to new states and the step's output.
    fn body(
        &self,
        input: V<'b>,
        states: &[V<'b>],
        (recurrent, bias, peephole): (V<'b>, Option<V<'b>>, Option<V<'b>>),
        masked: bool,
        activations: Vec<Activation>,
    ) -> Result<Graph> {
        let c = self.c;
        let prefix = format!("inside/{}/{}", c.name(), self.place);
        let mut body = Graph::new("step", WORKING_OPSET);
        let float = input.element_type();
        let mut add = |role: &str, element_type: ElementType, shape: Option<Shape>| -> ValueId {
            let id = body.add_input(&format!("{prefix}/{role}"), element_type, Shape::default());
            body.set_type(id, Some(element_type), shape);
            id
        };
        let before: Vec<ValueId> = states.iter().map(|v| add("state", float, v.shape())).collect();
        let of_step = |v: V<'b>| v.shape().map(|s| Shape(s.0[1..].to_vec()));
        let input = add("input", float, of_step(input));
        let rows = states[0].shape().map_or(Dim::Unknown, |s| s.0[0].clone());
        let mask = masked.then(|| add("mask", ElementType::Bool, Some(Shape(vec![rows, Dim::Known(1)]))));
        let mut capture = |v: V<'b>| {
            let name = c.b.graph().name_of(v.id()).to_owned();
            body.capture(&name, Some(v.element_type()), v.shape())
        };
        let (recurrent, bias, peephole) = (capture(recurrent), bias.map(&mut capture), peephole.map(&mut capture));
        let outputs = Builder::scope(&mut body, &prefix, |b| {
            let states: Vec<V<'_>> = before.iter().map(|v| b.value(*v)).collect();
            let step = Step {
                input: b.value(input),
                states: states.clone(),
                recurrent: b.value(recurrent),
                bias: bias.map(|v| b.value(v)),
                peephole: peephole.map(|v| b.value(v)),
                activations,
                clip: c.node.attributes.opt_float("clip").map(f64::from).filter(|limit| *limit > 0.0),
                hidden: self.hidden,
                input_forget: c.int("input_forget", 0) != 0,
                linear_before_reset: c.int("linear_before_reset", 0) != 0,
            };
            let mut next = (self.kind.step)(&step);
            let mut y = next[0];
            if let Some(mask) = mask.map(|v| b.value(v)) {
                y = next[0].only(mask);
                next = next.into_iter().zip(states).map(|(new, old)| mask.choose(new, old)).collect();
            }
            // An output is no value twice.
            let output = |v: V<'_>| {
                let id = b.graph_mut().op("Identity", &format!("{prefix}/output"), &[v.id()], Attributes::new());
                b.value(id).typed(v.element_type(), v.shape()).id()
            };
            next.into_iter().chain([y]).map(output).collect::<Vec<_>>()
        });
        body.outputs = outputs;
        Ok(body)
    }
}

/// An activation with its parameters.
#[derive(Clone)]
struct Activation {
    name: String,
    alpha: Option<f64>,
    beta: Option<f64>,
}

impl Activation {
    /// The activations of all directions. Parameters are given in the order of the activations that take them.
    fn all(c: &Ctx<'_>, kind: &Kind, directions: usize) -> Result<Vec<Activation>> {
        let given: Vec<String> = match c.node.attributes.get("activations") {
            Some(list) => list.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect(),
            None => kind.defaults.repeat(directions).into_iter().map(str::to_owned).collect(),
        };
        if given.len() != kind.defaults.len() * directions {
            return Err(c.stop(format!("{} activations", given.len()), "`dendrite check` lists every finding"));
        }
        let list = |name: &str| c.node.attributes.floats(name).unwrap_or_default().iter().map(|v| f64::from(*v));
        let (mut alphas, mut betas) = (list("activation_alpha"), list("activation_beta"));
        let named = given.into_iter().map(|name| {
            let (alpha, beta) = match name.to_lowercase().as_str() {
                "affine" => (Some(1.0), Some(0.0)),
                "leakyrelu" => (Some(0.01), None),
                "thresholdedrelu" | "elu" => (Some(1.0), None),
                "scaledtanh" => (Some(1.0), Some(1.0)),
                "hardsigmoid" => (Some(0.2), Some(0.5)),
                "relu" | "tanh" | "sigmoid" | "softsign" | "softplus" => (None, None),
                _ => return Err(c.stop(format!("activation '{name}'"), "`dendrite check` lists every finding")),
            };
            let alpha = alpha.map(|default| alphas.next().unwrap_or(default));
            Ok(Activation { name, alpha, beta: beta.map(|default| betas.next().unwrap_or(default)) })
        });
        named.collect()
    }

    fn apply<'i>(&self, x: V<'i>) -> V<'i> {
        let (alpha, beta) = (self.alpha.unwrap_or(1.0), self.beta.unwrap_or(0.0));
        let with = |op: &str| {
            let mut attributes = Attributes::new();
            for (name, value) in [("alpha", self.alpha), ("beta", self.beta)] {
                if let Some(value) = value {
                    attributes.set(name, value as f32);
                }
            }
            x.builder().node(op, &[x], attributes, x.element_type(), x.shape())
        };
        match self.name.to_lowercase().as_str() {
            "affine" => x * alpha + beta,
            "scaledtanh" => (x * beta).unary("Tanh") * alpha,
            "leakyrelu" => with("LeakyRelu"),
            "thresholdedrelu" => with("ThresholdedRelu"),
            "elu" => with("Elu"),
            "hardsigmoid" => with("HardSigmoid"),
            "relu" => x.unary("Relu"),
            "sigmoid" => x.unary("Sigmoid"),
            "softsign" => x.unary("Softsign"),
            "softplus" => x.unary("Softplus"),
            _ => x.unary("Tanh"),
        }
    }
}
