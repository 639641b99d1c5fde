//! The copies of the forward pass's nodes, and the gates through which they read.

use std::collections::HashMap;

use dendrite_onnx::{Attributes, ElementType, Graph, Node, NodeId, Shape, Tensor, ValueId};

use super::Forward;
use crate::error::Result;

/// Whether a node gives the same again: nothing random, no sub-graph.
pub(super) fn can_repeat(node: &Node) -> bool {
    const RANDOM: [&str; 7] = [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "Dropout",
    ];
    node.attributes.graphs().next().is_none() && !RANDOM.contains(&node.op.as_str())
}

/// Let the backward pass read copies of what lies within the segments that begin at the start and at `cuts`, the last excepted.
/// The number of nodes copied.
pub(super) fn copy_segments(
    graph: &mut Graph,
    forward: &Forward,
    cuts: &[usize],
    params: &[(ValueId, ValueId)],
) -> Result<usize> {
    let order = graph.topological_order()?;
    let segments = Segments::of(graph, forward, cuts);
    let levels = segments.levels(graph, forward, &order);
    let mut gate: Option<Gate> = None;
    let mut copied = 0;
    for segment in (0..cuts.len()).rev() {
        let awaited = awaited(graph, forward, &levels, &order, segment + 1, params);
        gate = Gate::after(graph, gate, &awaited, segment).or(gate);
        let Some(gate) = gate else { continue };
        let mut copies =
            Copies { forward, segments: &segments, segment, gate, made: HashMap::new(), gated: HashMap::new() };
        for id in order.iter().filter(|id| !forward.holds(**id)) {
            for (index, input) in graph.node(*id).inputs.clone().into_iter().enumerate() {
                let Some(input) = input.filter(|v| segments.hold(*v, segment)) else { continue };
                let copy = copies.of(graph, input);
                graph.set_input(*id, index, Some(copy));
            }
        }
        copied += copies.made.len();
    }
    Ok(copied)
}

/// The segments of a forward pass.
struct Segments {
    /// The segment of each node by its place in the forward pass.
    of_place: Vec<usize>,
    /// The segment within which each value (by index) lies, if it can be computed again there.
    within: Vec<Option<usize>>,
    last: usize,
}

impl Segments {
    fn of(graph: &Graph, forward: &Forward, cuts: &[usize]) -> Self {
        let last = cuts.len();
        let of_place: Vec<usize> =
            (0..forward.nodes.len()).map(|place| cuts.iter().filter(|cut| **cut <= place).count()).collect();
        let mut within = vec![None; graph.value_count()];
        let uses = graph.uses();
        for (place, id) in forward.nodes.iter().enumerate().filter(|(place, _)| of_place[*place] < last) {
            let node = graph.node(*id);
            let segment = of_place[place];
            // A node that cannot be repeated, or reads what no gate can hold back, is kept.
            let gated = |v: ValueId| within_or_fixed(&within, forward, v, segment) || gateable(graph, v);
            if !can_repeat(node) || node.inputs.iter().flatten().any(|v| !gated(*v)) {
                continue;
            }
            for output in node.outputs.iter().flatten().filter(|v| !forward.fixed[v.index()]) {
                let crosses = uses[output.index()].iter().any(|(reader, index)| {
                    let place = forward.place.get(reader.index()).copied().flatten();
                    *index == usize::MAX || place.is_some_and(|place| of_place[place] != segment)
                });
                if !crosses && !graph.outputs.contains(output) {
                    within[output.index()] = Some(segment);
                }
            }
        }
        Segments { of_place, within, last }
    }

    /// Whether a value can be computed again within `segment`. Values that were added since cannot.
    fn hold(&self, value: ValueId, segment: usize) -> bool {
        self.within.get(value.index()).copied().flatten() == Some(segment)
    }

    /// When each node (by index) of the backward pass can run: the first segment that has to have been computed again. What is
    /// made of kept values alone is as late as what reads it, so that it does not lie in memory for long.
    fn levels(&self, graph: &Graph, forward: &Forward, order: &[NodeId]) -> Vec<usize> {
        let mut level = vec![self.last; order.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
        let mut late = vec![false; level.len()];
        for id in order.iter().filter(|id| !forward.holds(**id)) {
            let mut only_kept = true;
            for v in graph.reads(graph.node(*id)) {
                let producer = graph.value(v).producer();
                let backward = producer.filter(|p| !forward.holds(*p));
                if let Some(producer) = backward {
                    level[id.index()] = level[id.index()].min(level[producer.index()]);
                    only_kept &= late[producer.index()];
                } else if let Some(segment) = self.within[v.index()] {
                    level[id.index()] = level[id.index()].min(segment);
                    only_kept = false;
                } else {
                    let place = forward.producer(graph, v);
                    only_kept &= forward.fixed[v.index()] || place.is_none_or(|place| self.of_place[place] < self.last);
                }
            }
            late[id.index()] = only_kept;
        }
        let uses = graph.uses();
        for id in order.iter().rev().filter(|id| late.get(id.index()).copied().unwrap_or(false)) {
            let readers = graph.node(*id).outputs.iter().flatten().flat_map(|v| &uses[v.index()]);
            if let Some(latest) = readers.map(|(reader, _)| level[reader.index()]).max() {
                level[id.index()] = level[id.index()].min(latest);
            }
        }
        level
    }
}

fn within_or_fixed(within: &[Option<usize>], forward: &Forward, value: ValueId, segment: usize) -> bool {
    forward.fixed[value.index()] || within[value.index()] == Some(segment)
}

/// Whether a Reshape can pass a value on.
fn gateable(graph: &Graph, value: ValueId) -> bool {
    let value = graph.value(value);
    value.element_type.is_some() && value.shape.as_ref().is_some_and(|shape| shape.as_known().is_some())
}

/// The values of the backward pass at `level` that later levels read, or that are gradients of weights.
fn awaited(
    graph: &Graph,
    forward: &Forward,
    levels: &[usize],
    order: &[NodeId],
    level: usize,
    params: &[(ValueId, ValueId)],
) -> Vec<ValueId> {
    let uses = graph.uses();
    let at_level = |id: &NodeId| !forward.holds(*id) && levels.get(id.index()) == Some(&level);
    let values = order.iter().filter(|id| at_level(id)).flat_map(|id| graph.node(*id).outputs.iter().flatten());
    let is_awaited = |v: &ValueId| {
        let later = |id: &NodeId| levels.get(id.index()).is_some_and(|l| *l < level);
        uses[v.index()].iter().any(|(id, _)| later(id)) || params.iter().any(|(_, gradient)| gradient == v)
    };
    values.copied().filter(|v| is_awaited(v) && gateable(graph, *v)).collect()
}

/// What the copies of a segment wait for: the largest size of some values, as an int64 scalar, and what it is known to be.
#[derive(Clone, Copy)]
struct Gate {
    largest: ValueId,
    known: usize,
}

impl Gate {
    /// A gate that waits for `values` and for all that an earlier one waits for; `None` if there are no values.
    fn after(graph: &mut Graph, earlier: Option<Gate>, values: &[ValueId], segment: usize) -> Option<Gate> {
        if values.is_empty() {
            return None;
        }
        let mut known = earlier.map_or(0, |gate| gate.known);
        let mut sizes: Vec<ValueId> = earlier.iter().map(|gate| gate.largest).collect();
        for value in values {
            let shape = graph.value(*value).shape.as_ref().and_then(Shape::as_known)?;
            known = known.max(shape.iter().product());
            let size = graph.op("Size", &format!("recomputed/{segment}/size"), &[*value], Attributes::new());
            graph.set_type(size, Some(ElementType::Int64), Some(Shape::default()));
            sizes.push(size);
        }
        let largest = graph.op("Max", &format!("recomputed/{segment}/largest"), &sizes, Attributes::new());
        graph.set_type(largest, Some(ElementType::Int64), Some(Shape::default()));
        Some(Gate { largest, known })
    }

    /// `value` of known shape, which cannot be read before what the gate waits for is there.
    fn pass(self, graph: &mut Graph, value: ValueId, segment: usize) -> ValueId {
        let facts = graph.value(value);
        let (element_type, shape) = (facts.element_type, facts.shape.clone());
        let name = format!("recomputed/{segment}/{}", facts.name);
        let dims = shape.as_ref().and_then(Shape::as_known).unwrap_or_default();
        let short: Vec<i64> = dims.iter().map(|n| *n as i64 - self.known as i64).collect();
        let rank = dims.len();
        let short = graph.add_constant(&format!("{name}/shape"), Tensor::from_i64(&[rank], &short));
        let target = graph.op("Add", &format!("{name}/shape"), &[short, self.largest], Attributes::new());
        graph.set_type(target, Some(ElementType::Int64), Some(Shape::known(&[rank])));
        // A dimension of 0 is meant as it stands.
        let passed = graph.op("Reshape", &name, &[value, target], Attributes::new().with("allowzero", 1i64));
        graph.set_type(passed, element_type, shape);
        passed
    }
}

/// The copies of one segment's nodes.
struct Copies<'a> {
    forward: &'a Forward,
    segments: &'a Segments,
    segment: usize,
    gate: Gate,
    /// The copied nodes with the outputs of their copies.
    made: HashMap<NodeId, Vec<Option<ValueId>>>,
    gated: HashMap<ValueId, ValueId>,
}

impl Copies<'_> {
    /// The copy of a value within the segment; of one that is kept, what the gate passes on.
    fn of(&mut self, graph: &mut Graph, value: ValueId) -> ValueId {
        if self.forward.fixed[value.index()] {
            return value;
        }
        let producer = graph.value(value).producer().filter(|_| self.segments.hold(value, self.segment));
        let Some(producer) = producer else {
            if let Some(passed) = self.gated.get(&value) {
                return *passed;
            }
            let passed = self.gate.pass(graph, value, self.segment);
            self.gated.insert(value, passed);
            return passed;
        };
        let outputs = graph.node(producer).outputs.clone();
        if !self.made.contains_key(&producer) {
            self.make(graph, producer);
        }
        let index = outputs.iter().position(|output| *output == Some(value));
        index.and_then(|index| self.made.get(&producer)?.get(index).copied().flatten()).unwrap_or(value)
    }

    /// Copy a node, and what it reads within the segment before it: in order, since chains may be long.
    fn make(&mut self, graph: &mut Graph, node: NodeId) {
        let mut wanted = vec![node];
        let mut stack = vec![node];
        while let Some(id) = stack.pop() {
            for v in graph.node(id).inputs.iter().flatten() {
                let within = self.segments.hold(*v, self.segment);
                let producer = graph.value(*v).producer().filter(|_| within);
                if let Some(producer) = producer.filter(|p| !self.made.contains_key(p) && !wanted.contains(p)) {
                    wanted.push(producer);
                    stack.push(producer);
                }
            }
        }
        wanted.sort_unstable_by_key(|id| self.forward.place[id.index()]);
        for id in wanted {
            let original = graph.node(id).clone();
            let inputs = original.inputs.iter().map(|v| v.map(|v| self.of(graph, v))).collect();
            let copied = |graph: &mut Graph, v: ValueId| {
                let facts = graph.value(v);
                let (name, element_type, shape) = (facts.name.clone(), facts.element_type, facts.shape.clone());
                let copy = graph.add_value(&format!("recomputed/{}/{name}", self.segment));
                graph.set_type(copy, element_type, shape);
                copy
            };
            let outputs: Vec<Option<ValueId>> = original.outputs.iter().map(|v| v.map(|v| copied(graph, v))).collect();
            let name = format!("recomputed/{}/{}", self.segment, original.name);
            graph.push(Node { name, inputs, outputs: outputs.clone(), ..original });
            self.made.insert(id, outputs);
        }
    }
}
