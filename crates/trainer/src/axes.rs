//! Which axis of a model's inputs and outputs counts samples.
//!
//! Data and losses have samples first. A model need not: recurrent networks often have time there. A working copy then turns such
//! inputs and outputs at its border, and so are arrays that go into the user's file or come out of it; the file stays as it is.

use dendrite_onnx::{
    Attributes, Dim, Graph, Shape, Tensor, ValueId,
    batch::{BATCH_SYMBOL, fixed_batch, free_batch},
};
use dendrite_runtime::{infer_shapes, runs};

use crate::error::{Error, Result};

/// How the nodes that turn inputs are named.
const BORDER: &str = "onnx-dendrite/input";

/// Which axis of a file's output counts samples. In the working copy it is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleAxis {
    /// This one.
    At(usize),
    /// None: the output is that of one sample.
    Missing,
}

impl SampleAxis {
    /// What an axis of the output is called in the working copy.
    pub fn turned(self, axis: usize) -> usize {
        match self {
            SampleAxis::Missing => axis + 1,
            SampleAxis::At(samples) if axis == samples => 0,
            SampleAxis::At(samples) => axis + usize::from(axis < samples),
        }
    }

    /// [`SampleAxis::turned`] the other way: the file's axis; none for that of samples.
    pub fn of_file(self, axis: usize) -> Option<usize> {
        let behind = axis.checked_sub(1)?;
        Some(match self {
            SampleAxis::At(samples) if axis > samples => axis,
            SampleAxis::At(_) | SampleAxis::Missing => behind,
        })
    }
}

/// A value and the axis of it that counts samples.
pub(crate) type BatchAxis = (ValueId, usize);

/// The axes that the user named, checked: of inputs and outputs of the whole model.
pub(crate) fn named(graph: &Graph, axes: &[(String, usize)]) -> Result<Vec<BatchAxis>> {
    let ends = || graph.inputs.iter().chain(&graph.outputs).copied();
    let find = |(name, axis): &(String, usize)| {
        let Some(value) = ends().find(|v| graph.name_of(*v) == name) else {
            let names: Vec<&str> = ends().map(|v| graph.name_of(v)).collect();
            return Err(Error::Option {
                reason: format!("--batch-axis names '{name}', the model's inputs and outputs are {}", names.join(", ")),
                hint: "say --batch-axis name=axis with one of them".to_owned(),
            });
        };
        match &graph.value(value).shape {
            Some(shape) if *axis >= shape.rank() => Err(Error::Option {
                reason: format!("--batch-axis {name}={axis}: the shape of '{name}' is {shape}"),
                hint: format!("name an axis from 0 to {}", shape.rank().saturating_sub(1)),
            }),
            _ => Ok((value, *axis)),
        }
    };
    axes.iter().map(find).collect()
}

/// The axis of every input that counts samples: as named, else the one whose symbol says so, else the first.
pub(crate) fn of_inputs(graph: &Graph, named: &[BatchAxis]) -> Vec<BatchAxis> {
    let axis = |input: ValueId| {
        let told = named.iter().find(|(value, _)| *value == input).map(|(_, axis)| *axis);
        told.unwrap_or_else(|| {
            let dims = graph.value(input).shape.iter().flat_map(|shape| &shape.0);
            dims.enumerate().find(|(_, dim)| says_batch(dim)).map_or(0, |(axis, _)| axis)
        })
    };
    graph.inputs.iter().map(|input| (*input, axis(*input))).collect()
}

/// Whether the symbol of a dimension is one that exporters give to the number of samples.
fn says_batch(dim: &Dim) -> bool {
    let Dim::Symbol(symbol) = dim else { return false };
    let symbol = symbol.to_lowercase();
    symbol.contains("batch") || symbol == "bs"
}

/// Let `graph` take any number of samples, if it is fixed to one; that number.
pub(crate) fn free(graph: &mut Graph, batched: &[BatchAxis], named: &[BatchAxis]) -> Option<usize> {
    if let Some(size) = fixed_batch(graph, batched) {
        free_batch(graph, batched, size);
        return Some(size);
    }
    // An input of which it was said that it counts samples follows those that already do.
    let symbol = symbols(graph, batched).into_iter().next().unwrap_or_else(|| BATCH_SYMBOL.to_owned());
    let told: Vec<BatchAxis> = batched.iter().copied().filter(|end| named.contains(end)).collect();
    let size = fixed_batch(graph, &told)?;
    for (value, axis) in told {
        let (element_type, shape) = (graph.value(value).element_type, graph.value(value).shape.clone());
        graph.set_type(value, element_type, shape.map(|shape| with_dim(shape, axis, Dim::Symbol(symbol.clone()))));
    }
    Some(size)
}

fn with_dim(mut shape: Shape, axis: usize, dim: Dim) -> Shape {
    if let Some(slot) = shape.0.get_mut(axis) {
        *slot = dim;
    }
    shape
}

/// The symbols of the numbers of samples.
fn symbols(graph: &Graph, batched: &[BatchAxis]) -> Vec<String> {
    let dim = |(value, axis): &BatchAxis| graph.value(*value).shape.as_ref()?.0.get(*axis).cloned();
    let mut symbols = Vec::new();
    for end in batched {
        if let Some(Dim::Symbol(symbol)) = dim(end)
            && !symbols.contains(&symbol)
        {
            symbols.push(symbol);
        }
    }
    symbols
}

/// The axis of an output that counts samples: as named, else the one that is as long as the inputs' is, else the first.
pub(crate) fn of_output(graph: &Graph, output: ValueId, batched: &[BatchAxis], named: &[BatchAxis]) -> usize {
    if let Some((_, axis)) = named.iter().find(|(value, _)| *value == output) {
        return *axis;
    }
    let symbols = symbols(graph, batched);
    let follows = |dim: &Dim| matches!(dim, Dim::Symbol(symbol) if symbols.contains(symbol));
    let dims = graph.value(output).shape.iter().flat_map(|shape| &shape.0);
    dims.enumerate().find(|(_, dim)| follows(dim)).map_or(0, |(axis, _)| axis)
}

/// Say of every `Squeeze` without axes which ones it takes away. With a batch of one it would take that away too.
pub(crate) fn name_squeezed(graph: &mut Graph) -> Result<()> {
    loop {
        let mut changed = false;
        for id in graph.node_ids() {
            let node = graph.node(id);
            if !node.is("Squeeze") || node.input(1).is_some() {
                continue;
            }
            let shape = node.input(0).and_then(|data| graph.value(data).shape.clone());
            let Some(shape) = shape.filter(|shape| !shape.0.contains(&Dim::Unknown)) else { continue };
            let ones = shape.0.iter().enumerate().filter(|(_, dim)| **dim == Dim::Known(1));
            let axes: Vec<i64> = ones.map(|(axis, _)| axis as i64).collect();
            if axes.is_empty() {
                // It takes away an axis whose size the data tell.
                continue;
            }
            let axes = graph.add_constant("squeezed/axes", Tensor::int64s(&axes));
            graph.set_input(id, 1, Some(axes));
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        // What comes behind it may have had no shape before.
        infer_shapes(graph)?;
    }
}

/// Spread the inputs that are made for one sample, such as the initial state of a recurrent network, over the batch: where the model
/// does not run otherwise. Returns their names.
pub(crate) fn spread_states(graph: &mut Graph, batched: &[BatchAxis], named: &[BatchAxis]) -> Result<Vec<String>> {
    let states: Vec<BatchAxis> = batched
        .iter()
        .filter(|end| !named.contains(end))
        .filter_map(|(value, _)| Some((*value, single_axis(graph.value(*value).shape.as_ref()?)?)))
        .collect();
    let leader = batched.iter().copied().find(|end| !symbols(graph, &[*end]).is_empty());
    let Some(leader) = leader.filter(|_| !states.is_empty() && !runs(graph)) else { return Ok(Vec::new()) };
    let mut spread = graph.clone();
    for (state, axis) in &states {
        let rank = spread.rank(*state).unwrap_or(0);
        let element_type = spread.value(*state).element_type;
        let over = spread.add_value("axes/state");
        spread.replace_uses(*state, over);
        let size = spread.op("Shape", "axes/shape", &[leader.0], {
            let from = leader.1 as i64;
            Attributes::new().with("start", from).with("end", from + 1)
        });
        let one = Tensor::int64s(&[1]);
        let parts: Vec<ValueId> =
            (0..rank).map(|at| if at == *axis { size } else { spread.add_constant("axes/one", one.clone()) }).collect();
        let target = spread.op("Concat", "axes/target", &parts, Attributes::new().with("axis", 0i64));
        let expanded = spread.op("Expand", BORDER, &[*state, target], Attributes::new());
        spread.replace_uses(over, expanded);
        spread.set_type(expanded, element_type, None);
    }
    if !runs(&spread) {
        return Ok(Vec::new());
    }
    infer_shapes(&mut spread)?;
    *graph = spread;
    Ok(states.iter().map(|(state, _)| graph.name_of(*state).to_owned()).collect())
}

/// The axis of a wholly known shape that is made for one sample: the only one of length 1, or that of recurrent operators.
fn single_axis(shape: &Shape) -> Option<usize> {
    let known = shape.as_known()?;
    let ones: Vec<usize> = (0..known.len()).filter(|axis| known[*axis] == 1).collect();
    match ones.as_slice() {
        [one] => Some(*one),
        several if known.len() == 3 && several.contains(&1) => Some(1),
        _ => None,
    }
}

/// Let the inputs whose samples lie on another axis have them first. Returns their names with that axis.
pub(crate) fn turn_inputs(graph: &mut Graph, batched: &[BatchAxis]) -> Result<Vec<(String, usize)>> {
    let mut turned = Vec::new();
    for (input, axis) in batched.iter().copied().filter(|(_, axis)| *axis > 0) {
        let Some(shape) = graph.value(input).shape.clone() else { continue };
        let name = graph.name_of(input).to_owned();
        uncaptured(
            graph,
            input,
            &format!("the samples of input '{name}' lie on axis {axis}"),
            "export the model with the batch as the first axis",
        )?;
        let order: Vec<usize> = samples_first(shape.rank(), axis);
        let back: Vec<i64> =
            (0..shape.rank()).filter_map(|at| order.iter().position(|from| *from == at)).map(|p| p as i64).collect();
        let element_type = graph.value(input).element_type;
        let inner = graph.add_value(&format!("axes/{name}"));
        graph.replace_uses(input, inner);
        let moved = graph.op("Transpose", BORDER, &[input], Attributes::new().with("perm", back.as_slice()));
        graph.replace_uses(inner, moved);
        graph.set_type(moved, element_type, Some(shape.clone()));
        let first = Shape(order.iter().filter_map(|from| shape.0.get(*from).cloned()).collect());
        graph.set_type(input, element_type, Some(first));
        turned.push((name, axis));
    }
    Ok(turned)
}

/// An error where a sub-graph reads `input`: it reads by name, and would read what is not turned yet.
fn uncaptured(graph: &Graph, input: ValueId, why: &str, hint: &str) -> Result<()> {
    let captured =
        graph.nodes().find(|(_, node)| !node.inputs.contains(&Some(input)) && graph.reads(node).contains(&input));
    captured.map_or(Ok(()), |(_, node)| {
        let (name, label) = (graph.name_of(input), graph.label(node));
        Err(Error::Option {
            reason: format!("{why}, and node {label} reads '{name}' in a sub-graph"),
            hint: hint.to_owned(),
        })
    })
}

/// `value` with its samples first.
pub(crate) fn samples_to_front(graph: &mut Graph, value: ValueId, samples: SampleAxis) -> ValueId {
    match samples {
        SampleAxis::At(axis) => turn_output(graph, value, axis),
        SampleAxis::Missing => give_sample_axis(graph, value),
    }
}

/// `value` with its samples, which lie on `axis`, first.
fn turn_output(graph: &mut Graph, value: ValueId, axis: usize) -> ValueId {
    let Some(shape) = graph.value(value).shape.clone().filter(|_| axis > 0) else { return value };
    let order = samples_first(shape.rank(), axis);
    let perm: Vec<i64> = order.iter().map(|from| *from as i64).collect();
    let element_type = graph.value(value).element_type;
    let name = format!("axes/{}", graph.name_of(value));
    let turned = graph.op("Transpose", &name, &[value], Attributes::new().with("perm", perm.as_slice()));
    let shape = Shape(order.iter().filter_map(|from| shape.0.get(*from).cloned()).collect());
    graph.set_type(turned, element_type, Some(shape));
    turned
}

/// Whether `value` follows the number of samples, as far as its shape tells.
pub(crate) fn follows(graph: &Graph, value: ValueId) -> bool {
    const SAMPLES: usize = 16;
    let mut graph = graph.clone();
    for input in graph.inputs.clone() {
        let (element_type, shape) = (graph.value(input).element_type, graph.value(input).shape.clone());
        if let Some(shape) = shape.filter(|shape| matches!(shape.dim(0), Some(Dim::Symbol(_)))) {
            graph.set_type(input, element_type, Some(with_dim(shape, 0, Dim::Known(SAMPLES))));
        }
    }
    infer_shapes(&mut graph).is_ok()
        && graph.value(value).shape.as_ref().is_none_or(|shape| match shape.0.first() {
            Some(Dim::Known(size)) => *size == SAMPLES,
            Some(_) => true,
            None => false,
        })
}

/// Let every input count one sample where it counts any; the names of those that count none, since they already have one.
pub(crate) fn fix_to_one(graph: &mut Graph, batched: &[BatchAxis]) -> Vec<String> {
    let mut states = Vec::new();
    let open = |graph: &Graph, (value, axis): &BatchAxis| {
        graph.value(*value).shape.as_ref().and_then(|shape| shape.0.get(*axis)).is_none_or(|dim| dim.known() != Some(1))
    };
    let any_open = batched.iter().any(|end| !symbols(graph, &[*end]).is_empty());
    for (value, axis) in batched {
        let (element_type, shape) = (graph.value(*value).element_type, graph.value(*value).shape.clone());
        let Some(shape) = shape else { continue };
        let whole = shape.as_known().is_some();
        if whole && (any_open || open(graph, &(*value, *axis))) {
            states.push(graph.name_of(*value).to_owned());
        } else {
            graph.set_type(*value, element_type, Some(with_dim(shape, *axis, Dim::Known(1))));
        }
    }
    states
}

/// Whether `axis` of a value counts one sample.
pub(crate) fn counts_one(graph: &Graph, value: ValueId, axis: usize) -> bool {
    graph.value(value).shape.as_ref().is_some_and(|shape| shape.0.get(axis) == Some(&Dim::Known(1)))
}

/// Let every input have an axis of one sample before its own.
pub(crate) fn take_sample_axis(graph: &mut Graph) -> Result<()> {
    for input in graph.inputs.clone() {
        uncaptured(graph, input, "the samples are whole inputs", "export the model with the batch as the first axis")?;
        let (element_type, shape) = (graph.value(input).element_type, graph.value(input).shape.clone());
        let inner = graph.add_value(&format!("axes/{}", graph.name_of(input)));
        graph.replace_uses(input, inner);
        let zero = graph.add_constant("axes/sample", Tensor::int64s(&[0]));
        let whole = graph.op("Squeeze", BORDER, &[input, zero], Attributes::new());
        graph.replace_uses(inner, whole);
        graph.set_type(whole, element_type, shape.clone());
        let shape = shape.map(|shape| Shape(std::iter::once(Dim::Known(1)).chain(shape.0).collect()));
        graph.set_type(input, element_type, shape);
    }
    Ok(())
}

/// `value` with an axis of one sample before its own.
fn give_sample_axis(graph: &mut Graph, value: ValueId) -> ValueId {
    let (element_type, shape) = (graph.value(value).element_type, graph.value(value).shape.clone());
    let zero = graph.add_constant("axes/sample", Tensor::int64s(&[0]));
    let name = format!("axes/{}", graph.name_of(value));
    let given = graph.op("Unsqueeze", &name, &[value, zero], Attributes::new());
    let shape = shape.map(|shape| Shape(std::iter::once(Dim::Known(1)).chain(shape.0).collect()));
    graph.set_type(given, element_type, shape);
    given
}

/// The input of the model that `value` is, but for its turn on the way in.
pub(crate) fn of_file(graph: &Graph, value: ValueId) -> ValueId {
    let producer = graph.value(value).producer().map(|id| graph.node(id));
    // The nodes at the border are named so, and nothing else reads an input under another name.
    let border = producer.filter(|node| node.name.starts_with(BORDER));
    border.and_then(|node| node.input(0)).filter(|input| graph.inputs.contains(input)).unwrap_or(value)
}

/// The order of axes that has `axis` first and the others as they were.
fn samples_first(rank: usize, axis: usize) -> Vec<usize> {
    std::iter::once(axis).chain((0..rank).filter(|at| *at != axis)).collect()
}

/// An array that has samples first, with them on `axis`.
pub(crate) fn into_file(tensor: &Tensor, axis: usize) -> Result<Tensor> {
    swapped(tensor, 1, axis)
}

/// An array whose samples lie on `axis`, with them first.
pub(crate) fn out_of_file(tensor: &Tensor, axis: usize) -> Result<Tensor> {
    swapped(tensor, axis, 1)
}

/// `tensor` with its first `count` axes behind the `other` ones that follow them.
fn swapped(tensor: &Tensor, count: usize, other: usize) -> Result<Tensor> {
    let shape = tensor.shape();
    if count == 0 || other == 0 || count + other > shape.len() || tensor.is_empty() {
        return Ok(tensor.clone());
    }
    let (front, rest) = shape.split_at(count);
    let (middle, rest) = rest.split_at(other);
    let size = |axes: &[usize]| axes.iter().product::<usize>();
    let (rows, columns) = (size(front), size(middle));
    let width = tensor.bytes().len() / (rows * columns);
    let mut bytes = Vec::with_capacity(tensor.bytes().len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * width;
            bytes.extend_from_slice(&tensor.bytes()[at..at + width]);
        }
    }
    Ok(Tensor::new(tensor.element_type(), [middle, front, rest].concat(), bytes)?)
}

#[cfg(test)]
mod tests {
    use dendrite_onnx::ElementType;

    use super::*;

    fn graph(dims: &[&[Dim]]) -> Graph {
        let mut graph = Graph::new("axes", 21);
        for (index, dims) in dims.iter().enumerate() {
            graph.add_input(&format!("x{index}"), ElementType::Float, Shape(dims.to_vec()));
        }
        graph
    }

    #[test]
    fn samples_lie_where_a_name_says_else_where_a_symbol_does_else_first() {
        let symbol = |s: &str| Dim::Symbol(s.to_owned());
        let graph = graph(&[
            &[symbol("frames"), symbol("batch_size"), Dim::Known(3)],
            &[symbol("frames"), symbol("n"), Dim::Known(3)],
            &[Dim::Known(4), Dim::Known(1), Dim::Known(64)],
        ]);
        let axes = |named: &[BatchAxis]| of_inputs(&graph, named).iter().map(|(_, axis)| *axis).collect::<Vec<_>>();
        assert_eq!(axes(&[]), [1, 0, 0]);
        assert_eq!(axes(&[(graph.inputs[1], 1), (graph.inputs[0], 0)]), [0, 1, 0]);
        assert!(named(&graph, &[("x2".to_owned(), 3)]).is_err_and(|e| e.to_string().contains("[4, 1, 64]")));
        assert!(named(&graph, &[("h0".to_owned(), 1)]).is_err_and(|e| e.to_string().contains("x0, x1, x2")));
    }

    #[test]
    fn axes_of_an_output_have_a_name_in_the_file_and_one_in_the_copy() {
        for (samples, turned) in
            [(SampleAxis::At(0), [0, 1, 2]), (SampleAxis::At(1), [1, 0, 2]), (SampleAxis::At(2), [1, 2, 0])]
        {
            assert_eq!([0, 1, 2].map(|axis| samples.turned(axis)), turned);
            let back = (0..3).filter(|axis| turned[*axis] > 0).all(|axis| samples.of_file(turned[axis]) == Some(axis));
            assert!(back);
        }
        assert_eq!(SampleAxis::Missing.of_file(SampleAxis::Missing.turned(0)), Some(0));
    }

    #[test]
    fn arrays_are_turned_there_and_back() -> Result<()> {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let first = Tensor::from_f32(&[2, 3, 4], &values);
        for (axis, shape) in [(0, [2, 3, 4]), (1, [3, 2, 4]), (2, [3, 4, 2])] {
            let there = into_file(&first, axis)?;
            assert_eq!(there.shape(), shape);
            assert_eq!(out_of_file(&there, axis)?, first);
        }
        // Element [0, 1, 0], whose sample is 1, is the first of sample 1: number 12.
        assert_eq!(into_file(&first, 1)?.to_f32().unwrap_or_default()[4], 12.0);
        Ok(())
    }
}
