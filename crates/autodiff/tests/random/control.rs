//! Control flow with small random bodies, sequences and optional values.

use dendrite_autodiff::expr::{Builder, V};
use dendrite_onnx::{Attributes, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET};

use crate::{
    case::{Case, Input, Table},
    draw::Draw,
};

pub(crate) const OPERATORS: Table = &[
    (&["If"], branches),
    (&["Loop"], iterations),
    (&["Scan"], scan),
    (&["SequenceAt", "ConcatFromSequence"], sequence),
    (&["OptionalGetElement"], |r, op| {
        let (shape, wrapped) = (r.shape(0, 4), r.once_in(2));
        Case::of(op).x(r.floats(&shape)).built(move |graph, _, v| {
            let of = if wrapped { graph.op("Optional", "optional", &v[..1], Attributes::new()) } else { v[0] };
            vec![graph.op("OptionalGetElement", "y", &[of], Attributes::new())]
        })
    }),
];

/// A chain of smooth operations on two values of one shape.
#[derive(Clone)]
struct Chain(Vec<usize>);

impl Chain {
    fn new(r: &mut Draw) -> Self {
        let count = r.size(1, 4);
        Chain((0..count).map(|_| r.below(6)).collect())
    }

    fn of<'b>(&self, x: V<'b>, w: V<'b>) -> V<'b> {
        self.0.iter().fold(x, |v, step| match step {
            0 => v.unary("Tanh"),
            1 => v * w,
            2 => v + w,
            3 => v.unary("Sin") - x,
            4 => v.unary("Sigmoid") * 1.5,
            _ => (v * 0.25).unary("Exp"),
        })
    }
}

/// A body captures a value.
fn captured(body: &mut Graph, v: (&str, ElementType, &[usize])) -> ValueId {
    body.capture(v.0, Some(v.1), Some(Shape::known(v.2)))
}

/// An If in one of whose branches a chain of two values is computed, in the other of the same two exchanged.
fn if_else(
    graph: &mut Graph,
    condition: ValueId,
    (float, shape): (ElementType, &[usize]),
    values: [ValueId; 2],
    chains: &[Chain],
) -> ValueId {
    let names = values.map(|v| graph.name_of(v).to_owned());
    let mut attributes = Attributes::new();
    for (i, branch) in ["then_branch", "else_branch"].into_iter().enumerate() {
        let mut body = Graph::new(branch, WORKING_OPSET);
        let x = captured(&mut body, (&names[i], float, shape));
        let w = captured(&mut body, (&names[1 - i], float, shape));
        body.outputs = Builder::scope(&mut body, branch, |b| vec![own(b, chains[i].of(b.value(x), b.value(w)))]);
        attributes.set(branch, body.to_body().unwrap());
    }
    let y = graph.op("If", "taken", &[condition], attributes);
    graph.set_type(y, Some(float), Some(Shape::known(shape)));
    y
}

fn branches(r: &mut Draw, op: &str) -> Case {
    let (shape, chains) = (r.shape(0, 3), [Chain::new(r), Chain::new(r)]);
    let condition = Tensor::scalar(ElementType::Bool, r.flag() as f64);
    let case = Case::of(op).x(r.floats(&shape)).x(r.floats(&shape)).input(r.given(condition));
    // A branch may read one of the two alone.
    let same = [r.once_in(3), r.once_in(3)];
    case.built(move |graph, float, v| {
        let names = [0, 1].map(|i| graph.name_of(v[i]).to_owned());
        let mut attributes = Attributes::new();
        for (i, branch) in ["then_branch", "else_branch"].into_iter().enumerate() {
            let mut body = Graph::new(branch, WORKING_OPSET);
            let x = captured(&mut body, (&names[i], float, &shape));
            let w = if same[i] { x } else { captured(&mut body, (&names[1 - i], float, &shape)) };
            let chain = &chains[i];
            body.outputs = Builder::scope(&mut body, branch, |b| vec![chain.of(b.value(x), b.value(w)).id()]);
            attributes.set(branch, body.to_body().unwrap());
        }
        vec![graph.op("If", "y", &[v[2]], attributes)]
    })
}

/// s' = chain(s, w), y = chain(s', s) as often as a count or a condition says.
fn iterations(r: &mut Draw, op: &str) -> Case {
    let (shape, chains) = (r.full(0, 2), [Chain::new(r), Chain::new(r)]);
    let (count, limit) = (r.int(0, 4), r.int(1, 3));
    let (counted, ending) = (r.once_in(2), r.once_in(3));
    let case = Case::of(op).x(r.between(&shape, -1.0, 1.0)).x(r.between(&shape, -1.0, 1.0));
    let count = Tensor::from_i64(&[], &[count]);
    let case = case.input(if counted { r.given(count) } else { Input::Constant(count) });
    let conditioned = r.once_in(3);
    let begins = Tensor::scalar(ElementType::Bool, f64::from(u8::from(!r.once_in(4))));
    let case = if conditioned { case.input(r.given(begins)) } else { case };
    case.built(move |graph, float, v| {
        let w = graph.name_of(v[1]).to_owned();
        let mut body = Graph::new("body", WORKING_OPSET);
        let number = body.add_input("number", ElementType::Int64, Shape::known(&[]));
        let go_on = body.add_input("go_on", ElementType::Bool, Shape::known(&[]));
        let state = body.add_input("state", float, Shape::known(&shape));
        let w = captured(&mut body, (&w, float, &shape));
        let still = if ending {
            let limit = body.add_constant("limit", Tensor::from_i64(&[], &[limit]));
            body.op("Less", "still", &[number, limit], Attributes::new())
        } else {
            body.op("Identity", "still", &[go_on], Attributes::new())
        };
        body.set_type(still, Some(ElementType::Bool), Some(Shape::known(&[])));
        body.outputs = Builder::scope(&mut body, "step", |b| {
            let state = b.value(state);
            let next = chains[0].of(state, b.value(w));
            let y = chains[1].of(next, state) * b.value(number).cast(float);
            vec![still, own(b, next), own(b, y)]
        });
        let attributes = Attributes::new().with("body", body.to_body().unwrap());
        graph.add_node("Loop", "y", &[Some(v[2]), conditioned.then(|| v[3]), Some(v[0])], attributes, 2)
    })
}

/// An output of a body is no value twice.
fn own(b: &Builder, v: V<'_>) -> ValueId {
    b.node("Identity", &[v], Attributes::new(), v.element_type(), v.shape()).id()
}

/// s' = chain(s, w), y = chain(s', x) along any axis in either direction.
fn scan(r: &mut Draw, op: &str) -> Case {
    let (shape, chains) = (r.full(0, 2), [Chain::new(r), Chain::new(r), Chain::new(r)]);
    let (steps, rank) = (r.size(1, 4), shape.len() + 1);
    let ([axis, to], [back, turned]) = ([r.axis(rank), r.axis(rank)], [r.flag(), r.flag()]);
    let mut array = shape.clone();
    array.insert(axis.1, steps);
    let weighted = r.once_in(2);
    let case = Case::of(op).x(r.between(&array, -1.0, 1.0)).x(r.between(&shape, -1.0, 1.0));
    let case = if weighted { case.x(r.between(&shape, -1.0, 1.0)) } else { case };
    let left_out = if r.once_in(3) { vec![r.below(2)] } else { vec![] };
    let branched = r.once_in(3);
    let condition = Tensor::scalar(ElementType::Bool, r.flag() as f64);
    let case = if branched { case.input(r.given(condition)) } else { case };
    case.unweighted(&left_out).built(move |graph, float, v| {
        let mut body = Graph::new("body", WORKING_OPSET);
        let state = body.add_input("state", float, Shape::known(&shape));
        let x = body.add_input("element", float, Shape::known(&shape));
        let mut w = if weighted { captured(&mut body, (graph.name_of(v[2]), float, &shape)) } else { x };
        if branched {
            let condition = graph.name_of(v[v.len() - 1]);
            let condition = captured(&mut body, (condition, ElementType::Bool, &[]));
            w = if_else(&mut body, condition, (float, &shape), [state, w], &chains);
        }
        body.outputs = Builder::scope(&mut body, "step", |b| {
            let (state, x) = (b.value(state), b.value(x));
            let next = chains[0].of(chains[1].of(state, b.value(w)), x);
            vec![own(b, next), own(b, chains[2].of(next, x) + state)]
        });
        let attributes = Attributes::new()
            .with("body", body.to_body().unwrap())
            .with("num_scan_inputs", 1i64)
            .with("scan_input_axes", vec![axis.0])
            .with("scan_input_directions", vec![back])
            .with("scan_output_axes", vec![to.0])
            .with("scan_output_directions", vec![turned]);
        graph.add_node("Scan", "y", &[Some(v[1]), Some(v[0])], attributes, 2)
    })
}

/// Tensors put into a sequence, moved, and taken out of it.
fn sequence(r: &mut Draw, op: &str) -> Case {
    let (shape, count) = (r.full(1, 3), r.size(1, 3));
    let mut case = Case::of(op);
    let split = r.once_in(3);
    for _ in 0..if split { 1 } else { count } {
        case = case.x(r.floats(&shape));
    }
    let (axis, front) = r.axis(shape.len());
    let keep = r.flag();
    let parts = if split { shape[front] } else { count };
    let (inserted, place) = (!split && r.once_in(3), r.below(parts));
    let place = r.said(place, parts);
    let new = r.flag();
    let rank = if split && keep == 0 { shape.len() - 1 } else { shape.len() } + new as usize;
    let (takes_one, new) = (op == "SequenceAt", if rank == 0 { 1 } else { new });
    let joined = r.axis(rank.max(1)).0;
    case.built(move |graph, _, v| {
        let sequence = if split {
            let attributes = Attributes::new().with("axis", axis).with("keepdims", keep);
            graph.op("SplitToSequence", "sequence", v, attributes)
        } else if inserted {
            let whole = graph.op("SequenceConstruct", "sequence", &v[..v.len()], Attributes::new());
            let first = graph.add_constant("first", Tensor::from_i64(&[], &[0]));
            let more = graph.op("SequenceInsert", "more", &[whole, v[0], first], Attributes::new());
            graph.op("SequenceErase", "fewer", &[more, first], Attributes::new())
        } else {
            graph.op("SequenceConstruct", "sequence", v, Attributes::new())
        };
        vec![if takes_one {
            let at = graph.add_constant("at", Tensor::from_i64(&[], &[place]));
            graph.op("SequenceAt", "y", &[sequence, at], Attributes::new())
        } else {
            let attributes = Attributes::new().with("axis", joined).with("new_axis", new);
            graph.op("ConcatFromSequence", "y", &[sequence], attributes)
        }]
    })
}
