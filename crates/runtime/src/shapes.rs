//! Shapes and types of a graph's values, from the session's own inference and, where that ends, from probe runs.
//!
//! Inference needs no weights: a copy of the graph whose large constants became typed inputs and whose every value became
//! an output loads in milliseconds, and its session says what it inferred. It ends where the graph computes a shape (the
//! target of a Reshape, the pads of a Pad). Such integers are looked up in a probe run, which computes little else; those
//! that are always the same become constants for a second inference, and what is still open then is probed itself.

use std::collections::HashMap;

use dendrite_onnx::{Dim, ElementType, Graph, Shape, Tensor, ValueId};

use crate::{
    bodies::infer_bodies,
    contents::Influence,
    error::{Error, Result},
    probe::Trial,
    session::{Optimization, Session, SessionOptions},
};

/// Constants of more elements than this cannot be meant for shape inference.
const LARGE: usize = 64;

/// Record the element type and shape of every value of the main graph.
///
/// Symbols of the inputs keep their names; an input dimension without one gets a name: `batch` for the first axis unless
/// that name is taken, else one made of the input's name and the axis. A dimension that depends on symbols in another way
/// than being equal to one stays [`Dim::Unknown`], as does one that the contents of an input decide, and a value of which
/// not even the rank could be found has no shape.
/// Values inside sub-graphs are not part of the graph: what is found of them is written into the sub-graph.
///
/// # Errors
///
/// ONNX Runtime must accept the graph. That it also runs is not needed: then less is known.
pub fn infer_shapes(graph: &mut Graph) -> Result<()> {
    let symbols = name_dimensions(graph);
    let mut settled = HashMap::new();
    loop {
        infer_nodes(graph, &symbols, &settled)?;
        let found = infer_bodies(graph)?;
        if found.is_empty() {
            return Ok(());
        }
        for (value, mut shape) in found {
            forget_others(&mut shape, &symbols);
            settled.insert(value, shape);
        }
    }
}

/// [`infer_shapes`] without what lies in bodies, whose states' last shapes are in `settled`.
fn infer_nodes(graph: &mut Graph, symbols: &[String], settled: &HashMap<ValueId, Shape>) -> Result<()> {
    let targets = computed_values(graph);
    let record = |graph: &mut Graph, inferred: Vec<Inferred>| {
        for (value, element_type, shape) in inferred {
            graph.set_type(value, element_type, shape.or_else(|| settled.get(&value).cloned()));
        }
    };
    let none = HashMap::new();
    record(graph, infer(graph, &targets, symbols, &none, settled)?);

    let influence = Influence::of(graph);
    let mut integers = shape_integers(graph, &targets);
    integers.retain(|v| !influence.on_contents(*v));
    if !integers.is_empty()
        && let Some(trial) = Trial::new(graph, &integers, symbols)
    {
        let constants: HashMap<ValueId, Tensor> = trial.constants().into_iter().collect();
        if !constants.is_empty() {
            record(graph, infer(graph, &targets, symbols, &constants, settled)?);
        }
    }

    let open: Vec<ValueId> = targets.into_iter().filter(|v| is_open(graph, *v) && !influence.on_shape(*v)).collect();
    if !open.is_empty()
        && let Some(trial) = Trial::new(graph, &open, symbols)
    {
        for (value, element_type, shape) in trial.shapes() {
            let shape = merge(graph.value(value).shape.as_ref(), shape);
            graph.set_type(value, Some(element_type), Some(shape));
        }
    }
    Ok(())
}

/// Whether ONNX Runtime runs the graph on made-up inputs, under different numbers of samples and sizes of other open axes.
pub fn runs(graph: &Graph) -> bool {
    let mut graph = graph.clone();
    let symbols = name_dimensions(&mut graph);
    Trial::new(&graph, &graph.outputs, &symbols).is_some()
}

/// Give every input dimension a number or a symbol; the symbols in order of appearance.
fn name_dimensions(graph: &mut Graph) -> Vec<String> {
    let mut symbols: Vec<String> = Vec::new();
    for input in &graph.inputs {
        for dim in graph.value(*input).shape.iter().flat_map(|s| &s.0) {
            if let Dim::Symbol(s) = dim
                && !symbols.contains(s)
            {
                symbols.push(s.clone());
            }
        }
    }
    let batch = if symbols.iter().any(|s| s == "batch") { None } else { Some("batch") };
    for input in graph.inputs.clone() {
        let value = graph.value(input);
        let (element_type, name) = (value.element_type, value.name.clone());
        let Some(mut shape) = value.shape.clone() else { continue };
        for (axis, dim) in shape.0.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Unknown) {
            let symbol = match batch {
                Some(batch) if axis == 0 => batch.to_owned(),
                _ => {
                    let mut symbol = format!("{name}_{axis}");
                    while symbols.contains(&symbol) {
                        symbol.push('_');
                    }
                    symbol
                }
            };
            if !symbols.contains(&symbol) {
                symbols.push(symbol.clone());
            }
            *dim = Dim::Symbol(symbol);
        }
        graph.set_type(input, element_type, Some(shape));
    }
    symbols
}

/// The values that a node of the main graph computes.
fn computed_values(graph: &Graph) -> Vec<ValueId> {
    graph.values().filter(|(_, v)| v.producer().is_some()).map(|(id, _)| id).collect()
}

type Inferred = (ValueId, Option<ElementType>, Option<Shape>);

/// What the session infers for `targets` without weights and without running.
/// Readers of a value in `constants` are shown its contents, those of one in `settled` its shape.
fn infer(
    graph: &Graph,
    targets: &[ValueId],
    symbols: &[String],
    constants: &HashMap<ValueId, Tensor>,
    settled: &HashMap<ValueId, Shape>,
) -> Result<Vec<Inferred>> {
    let mut skeleton = graph.clone();
    for (value, tensor) in constants {
        let name = skeleton.name_of(*value).to_owned();
        let constant = skeleton.add_constant(&name, tensor.clone());
        skeleton.replace_uses(*value, constant);
    }
    for (value, shape) in settled {
        let known = graph.value(*value);
        let Some(element_type) = known.element_type else { continue };
        let given = skeleton.add_input(&known.name, element_type, shape.clone());
        skeleton.replace_uses(*value, given);
    }
    for target in targets {
        skeleton.set_type(*target, None, None);
    }
    skeleton.outputs = targets.to_vec();
    let complete = skeleton.clone();
    let large: Vec<ValueId> = skeleton
        .values()
        .filter(|(_, v)| v.constant.as_ref().is_some_and(|t| t.len() > LARGE))
        .map(|(id, _)| id)
        .collect();
    for constant in large {
        skeleton.constant_to_input(constant);
    }
    let options = SessionOptions { threads: 1, optimization: Optimization::Off, ..Default::default() };
    // A few kernels insist on constants; they get them.
    let session = match Session::from_graph(&skeleton, &options) {
        Err(Error::Load { .. }) => Session::from_graph(&complete, &options)?,
        other => other?,
    };
    Ok(session
        .outputs()
        .iter()
        .filter_map(|port| {
            let mut shape = port.shape.clone();
            // A symbol that no input has is one that inference made up.
            shape.iter_mut().for_each(|shape| forget_others(shape, symbols));
            Some((graph.find(&port.name)?, port.element_type, shape))
        })
        .collect())
}

/// Leave dimensions open that no symbol of an input stands for.
fn forget_others(shape: &mut Shape, symbols: &[String]) {
    for dim in &mut shape.0 {
        if matches!(dim, Dim::Symbol(s) if !symbols.contains(s)) {
            *dim = Dim::Unknown;
        }
    }
}

/// Whether something about a tensor's shape is still to be found. Values that are no tensors are not.
fn is_open(graph: &Graph, value: ValueId) -> bool {
    let value = graph.value(value);
    value.element_type.is_some() && value.shape.as_ref().is_none_or(|s| s.0.contains(&Dim::Unknown))
}

/// The computed integers that nodes with an open output read.
fn shape_integers(graph: &Graph, targets: &[ValueId]) -> Vec<ValueId> {
    let mut read = vec![false; graph.value_count()];
    for (_, node) in graph.nodes() {
        if node.outputs.iter().flatten().any(|v| is_open(graph, *v)) {
            node.inputs.iter().flatten().for_each(|v| read[v.index()] = true);
        }
    }
    let is_integer = |v: &ValueId| {
        matches!(graph.value(*v).element_type, Some(ElementType::Int64 | ElementType::Int32)) && read[v.index()]
    };
    targets.iter().copied().filter(is_integer).collect()
}

/// What inference knew stands; probing fills what it left open.
fn merge(inferred: Option<&Shape>, probed: Shape) -> Shape {
    match inferred {
        Some(inferred) if inferred.rank() == probed.rank() => Shape(
            inferred
                .0
                .iter()
                .zip(probed.0)
                .map(|(known, found)| if *known == Dim::Unknown { found } else { known.clone() })
                .collect(),
        ),
        _ => probed,
    }
}
