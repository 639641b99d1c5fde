//! Probe runs: what a graph's values are for inputs of made-up contents and sizes.
//!
//! A dimension that never changes is a number, one that changes as a symbol of the inputs does is that symbol.

use std::collections::HashMap;

use dendrite_onnx::{Dim, ElementType, Graph, Shape, Tensor, ValueId};

use crate::session::{Optimization, Session, SessionOptions};

/// Sizes that probe runs give to the first axis of inputs, and sizes to try in turn for every other symbol: small for
/// speed, larger where a model does not run on small ones. Two sizes lie so far apart that strides do not take them to the same
/// number.
const BATCH: [usize; 2] = [2, 3];
const OTHER: [[usize; 2]; 3] = [[5, 71], [32, 64], [224, 256]];

/// With more symbols than this they are varied together.
const MOST_SYMBOLS: usize = 4;

/// Values of more elements than this are not looked into.
const LARGE: usize = 64;

/// What a run said of a value.
#[derive(Clone, PartialEq)]
pub(crate) struct Observed {
    value: ValueId,
    element_type: ElementType,
    shape: Vec<usize>,
    /// The contents of small values.
    contents: Option<Tensor>,
}

/// The runs of one graph under several sizes of its symbols.
pub(crate) struct Trial<'a> {
    symbols: &'a [String],
    /// For every symbol the size in the first run and the other one.
    sizes: Vec<[usize; 2]>,
    /// Whether run `1 + i` gave only symbol `i` its other size; otherwise there is one more run, with all others.
    each: bool,
    runs: Vec<Vec<Observed>>,
}

impl<'a> Trial<'a> {
    /// Observe `values`; nothing if the graph does not run.
    pub(crate) fn new(graph: &Graph, values: &[ValueId], symbols: &'a [String]) -> Option<Self> {
        let mut probed = graph.clone();
        for value in values {
            probed.set_type(*value, None, None);
        }
        probed.outputs = values.to_vec();
        probed.prune();
        let options = SessionOptions { optimization: Optimization::Basic, ..Default::default() };
        let mut session = Session::from_graph(&probed, &options).ok()?;
        let first_axis: Vec<bool> = symbols.iter().map(|s| is_first_axis(graph, s)).collect();
        for other in OTHER {
            let sizes: Vec<[usize; 2]> = first_axis.iter().map(|first| if *first { BATCH } else { other }).collect();
            for each in [true, false] {
                if each && symbols.len() > MOST_SYMBOLS {
                    continue;
                }
                if let Some(runs) = run_all(graph, &mut session, symbols, &sizes, each) {
                    return Some(Trial { symbols, sizes, each, runs });
                }
            }
            if !first_axis.contains(&false) {
                break;
            }
        }
        None
    }

    /// The values with what their types and shapes come to.
    pub(crate) fn shapes(&self) -> Vec<(ValueId, ElementType, Shape)> {
        let Some(reference) = self.runs.first() else { return Vec::new() };
        reference
            .iter()
            .enumerate()
            .map(|(i, o)| {
                let dims = (0..o.shape.len()).map(|axis| self.dim(i, axis)).collect();
                (o.value, o.element_type, Shape(dims))
            })
            .collect()
    }

    /// The small values that were the same in every run.
    pub(crate) fn constants(&self) -> Vec<(ValueId, Tensor)> {
        let Some((reference, others)) = self.runs.split_first() else { return Vec::new() };
        reference
            .iter()
            .enumerate()
            .filter(|(i, o)| others.iter().all(|run| run.get(*i) == Some(*o)))
            .filter_map(|(_, o)| Some((o.value, o.contents.clone()?)))
            .collect()
    }

    fn dim(&self, index: usize, axis: usize) -> Dim {
        let seen = |run: usize| self.runs.get(run)?.get(index)?.shape.get(axis).copied();
        let Some(n) = seen(0) else { return Dim::Unknown };
        let symbol = |i: usize, run: usize| {
            let follows = n == self.sizes[i][0] && seen(run) == Some(self.sizes[i][1]);
            follows.then(|| Dim::Symbol(self.symbols[i].clone()))
        };
        let mut moving = (1..self.runs.len()).filter(|run| seen(*run) != Some(n));
        match (moving.next(), moving.next()) {
            (None, _) => Dim::Known(n),
            (Some(run), None) if self.each => symbol(run - 1, run).unwrap_or(Dim::Unknown),
            (Some(run), None) => (0..self.symbols.len()).find_map(|i| symbol(i, run)).unwrap_or(Dim::Unknown),
            _ => Dim::Unknown,
        }
    }
}

fn is_first_axis(graph: &Graph, symbol: &str) -> bool {
    let mut shapes = graph.inputs.iter().filter_map(|i| graph.value(*i).shape.as_ref());
    shapes.any(|shape| matches!(shape.0.first(), Some(Dim::Symbol(first)) if first == symbol))
}

fn run_all(
    graph: &Graph,
    session: &mut Session,
    symbols: &[String],
    sizes: &[[usize; 2]],
    each: bool,
) -> Option<Vec<Vec<Observed>>> {
    let first: Vec<usize> = sizes.iter().map(|s| s[0]).collect();
    let mut runs = vec![run(graph, session, symbols, &first)?];
    if each {
        for (i, size) in sizes.iter().enumerate() {
            let mut changed = first.clone();
            changed[i] = size[1];
            runs.push(run(graph, session, symbols, &changed)?);
        }
    } else {
        let second: Vec<usize> = sizes.iter().map(|s| s[1]).collect();
        runs.push(run(graph, session, symbols, &second)?);
    }
    Some(runs)
}

/// Run on made-up inputs.
fn run(graph: &Graph, session: &mut Session, symbols: &[String], sizes: &[usize]) -> Option<Vec<Observed>> {
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
    let outputs = session.run_glancing(&feeds, LARGE).ok()?;
    outputs
        .into_iter()
        .map(|(name, (element_type, shape, contents))| {
            Some(Observed { value: graph.find(&name)?, element_type, shape, contents })
        })
        .collect()
}

/// Waves for floats, which are neither constant nor more than an activation bears, and zeros for integers, which index and
/// count.
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
