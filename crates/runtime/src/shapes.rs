//! Shapes and types of a graph's values, from the session's own inference and, where that ends, from probe runs.
//!
//! Inference needs no weights: a copy of the graph whose large constants became typed inputs and whose every value became
//! an output loads in milliseconds, and its session says what it inferred. What the graph computes at run time (the target
//! of a Reshape, the pads of a Pad) stays open there. For that, the graph is run: once, and once again for each symbol
//! with another size. A dimension that never changes is a number, one that follows a symbol is the symbol.

use std::collections::HashMap;

use dendrite_onnx::{Dim, ElementType, Graph, Shape, Tensor, ValueId};

use crate::{
    error::Result,
    session::{Optimization, Session, SessionOptions},
};

/// Constants of more elements than this cannot be meant for shape inference.
const LARGE: usize = 64;

/// Sizes that probe runs give to the first axis of inputs, and sizes to try in turn for every other symbol: small for
/// speed, larger where a model does not run on small ones.
const BATCH: [usize; 2] = [2, 3];
const OTHER: [[usize; 2]; 3] = [[5, 7], [32, 64], [224, 256]];

/// With more symbols than this they are varied together.
const MOST_SYMBOLS: usize = 4;

/// Record the element type and shape of every value of the main graph.
///
/// Symbols of the inputs keep their names; an input dimension without one gets a name: `batch` for the first axis unless
/// that name is taken, else one made of the input's name and the axis. A dimension that depends on symbols in another way
/// than being equal to one stays [`Dim::Unknown`], and a value of which not even the rank could be found has no shape.
/// Values inside sub-graphs are not part of the graph and get nothing.
///
/// # Errors
///
/// ONNX Runtime must accept the graph. That it also runs is not needed: then less is known.
pub fn infer_shapes(graph: &mut Graph) -> Result<()> {
    let symbols = name_dimensions(graph);
    let targets = computed_values(graph);
    for (value, element_type, shape) in infer(graph, &targets, &symbols)? {
        graph.set_type(value, element_type, shape);
    }
    let open: Vec<ValueId> = targets.into_iter().filter(|v| is_open(graph, *v)).collect();
    if !open.is_empty()
        && let Some(found) = probe(graph, &open, &symbols)
    {
        for (value, element_type, shape) in found {
            let shape = merge(graph.value(value).shape.as_ref(), shape);
            graph.set_type(value, Some(element_type), Some(shape));
        }
    }
    Ok(())
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
fn infer(graph: &Graph, targets: &[ValueId], symbols: &[String]) -> Result<Vec<Inferred>> {
    let mut skeleton = graph.clone();
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
    let session = Session::from_graph(&skeleton, &options).or_else(|_| Session::from_graph(&complete, &options))?;
    Ok(session
        .outputs()
        .iter()
        .filter_map(|port| {
            let mut shape = port.shape.clone();
            for dim in shape.iter_mut().flat_map(|s| s.0.iter_mut()) {
                // A symbol that no input has is one that inference made up.
                if matches!(dim, Dim::Symbol(s) if !symbols.contains(s)) {
                    *dim = Dim::Unknown;
                }
            }
            Some((graph.find(&port.name)?, port.element_type, shape))
        })
        .collect())
}

/// Whether something about a tensor's shape is still to be found. Values that are no tensors are not.
fn is_open(graph: &Graph, value: ValueId) -> bool {
    let value = graph.value(value);
    value.element_type.is_some() && value.shape.as_ref().is_none_or(|s| s.0.contains(&Dim::Unknown))
}

type Found = (ValueId, ElementType, Shape);

/// What probe runs say of `open` values; nothing if the graph does not run.
fn probe(graph: &Graph, open: &[ValueId], symbols: &[String]) -> Option<Vec<Found>> {
    let mut probed = graph.clone();
    for value in open {
        probed.set_type(*value, None, None);
    }
    probed.outputs = open.to_vec();
    probed.prune();
    let options = SessionOptions { optimization: Optimization::Basic, ..Default::default() };
    let mut session = Session::from_graph(&probed, &options).ok()?;

    let first_axis: Vec<bool> = symbols
        .iter()
        .map(|s| {
            let mut shapes = graph.inputs.iter().filter_map(|i| graph.value(*i).shape.as_ref());
            shapes.any(|shape| matches!(shape.0.first(), Some(Dim::Symbol(first)) if first == s))
        })
        .collect();
    for sizes in OTHER {
        let sizes: Vec<[usize; 2]> = first_axis.iter().map(|first| if *first { BATCH } else { sizes }).collect();
        let found = (symbols.len() <= MOST_SYMBOLS)
            .then(|| vary_each(graph, &mut session, symbols, &sizes))
            .flatten()
            .or_else(|| vary_together(graph, &mut session, symbols, &sizes));
        if found.is_some() {
            return found;
        }
        if !first_axis.contains(&false) {
            break;
        }
    }
    None
}

type Run = Vec<(ValueId, ElementType, Vec<usize>)>;

/// Vary one symbol at a time: a dimension that changes with exactly one and equals it in both runs is that symbol.
fn vary_each(graph: &Graph, session: &mut Session, symbols: &[String], sizes: &[[usize; 2]]) -> Option<Vec<Found>> {
    let base: Vec<usize> = sizes.iter().map(|s| s[0]).collect();
    let reference = run(graph, session, symbols, &base)?;
    let mut others = Vec::with_capacity(symbols.len());
    for i in 0..symbols.len() {
        let mut changed = base.clone();
        changed[i] = sizes[i][1];
        others.push(run(graph, session, symbols, &changed)?);
    }
    let dim = |value: usize, axis: usize, n: usize| {
        let seen = |i: usize| others[i].get(value).and_then(|(_, _, s)| s.get(axis)).copied();
        let mut moving = (0..symbols.len()).filter(|i| seen(*i) != Some(n));
        match (moving.next(), moving.next()) {
            (None, _) => Dim::Known(n),
            (Some(i), None) if n == sizes[i][0] && seen(i) == Some(sizes[i][1]) => Dim::Symbol(symbols[i].clone()),
            _ => Dim::Unknown,
        }
    };
    Some(collect(&reference, dim))
}

/// Vary all symbols at once, for graphs in which several must be equal: a dimension that follows is the first of those
/// with its sizes.
fn vary_together(graph: &Graph, session: &mut Session, symbols: &[String], sizes: &[[usize; 2]]) -> Option<Vec<Found>> {
    let [first, second] = [0, 1].map(|k| sizes.iter().map(|s| s[k]).collect::<Vec<_>>());
    let reference = run(graph, session, symbols, &first)?;
    let other = run(graph, session, symbols, &second)?;
    let dim = |value: usize, axis: usize, n: usize| {
        let Some(m) = other.get(value).and_then(|(_, _, s)| s.get(axis)).copied() else { return Dim::Unknown };
        if n == m {
            return Dim::Known(n);
        }
        match sizes.iter().position(|s| *s == [n, m]) {
            Some(i) => Dim::Symbol(symbols[i].clone()),
            None => Dim::Unknown,
        }
    };
    Some(collect(&reference, dim))
}

fn collect(reference: &Run, dim: impl Fn(usize, usize, usize) -> Dim) -> Vec<Found> {
    reference
        .iter()
        .enumerate()
        .map(|(v, (value, ty, shape))| {
            let dims = shape.iter().enumerate().map(|(axis, n)| dim(v, axis, *n));
            (*value, *ty, Shape(dims.collect()))
        })
        .collect()
}

/// Run on made-up inputs: waves for floats, which are neither constant nor outside what an activation bears, and zeros for
/// integers, which index and count.
fn run(graph: &Graph, session: &mut Session, symbols: &[String], sizes: &[usize]) -> Option<Run> {
    let size: HashMap<&str, usize> = symbols.iter().map(String::as_str).zip(sizes.iter().copied()).collect();
    let mut feeds = Vec::new();
    for port in session.inputs() {
        let value = graph.value(graph.find(&port.name)?);
        let dims = value.shape.as_ref()?.0.iter().map(|d| match d {
            Dim::Known(n) => Some(*n),
            Dim::Symbol(s) => size.get(s.as_str()).copied(),
            Dim::Unknown => None,
        });
        let shape = dims.collect::<Option<Vec<_>>>()?;
        feeds.push((port.name.clone(), made_up(value.element_type?, &shape)?));
    }
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let outputs = session.run(&feeds).ok()?;
    outputs
        .into_iter()
        .map(|(name, tensor)| Some((graph.find(&name)?, tensor.element_type(), tensor.shape().to_vec())))
        .collect()
}

fn made_up(element_type: ElementType, shape: &[usize]) -> Option<Tensor> {
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    let wave = (0..count).map(|i| (i as f32 * 0.7).sin());
    match element_type {
        ElementType::String => None,
        ElementType::Float => Some(Tensor::from_f32(shape, &wave.collect::<Vec<_>>())),
        ElementType::Double => Some(Tensor::from_f64(shape, &wave.map(f64::from).collect::<Vec<_>>())),
        other => Some(Tensor::filled(other, shape, 0.0)),
    }
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
