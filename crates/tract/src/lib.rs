//! The second runtime, for parity: models run in tract, which shares no code with ONNX Runtime.
//!
//! tract lacks some operators, those of ai.onnx.ml first of all. [`supported_cut`] says from which values on it can run a
//! graph; fed with them from another runtime, [`run_graph`] does the rest.

mod convert;
mod cut;
mod error;

use std::io::Cursor;

use dendrite_onnx::{Graph, Model, Shape, Tensor, ValueId};
use prost::Message;
use tract_onnx::prelude::*;

pub use cut::{Cut, Missing, supported_cut};
pub use error::{Error, Result};

/// Run a model on `feeds` and return its outputs in order. Unknown dimensions are what the feeds say.
pub fn run(model: &[u8], feeds: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let graph = Graph::from_model(&Model::from_bytes(model.to_vec())?)?;
    run_graph(&graph, feeds, &graph.outputs.clone())
}

/// Run a graph on `feeds` and return the values `fetches`.
///
/// A feed may be any value of the graph, not only an input: then it is taken as given, and what computes it does not run.
/// Inputs that `fetches` do not depend on need no feed.
pub fn run_graph(graph: &Graph, feeds: &[(&str, &Tensor)], fetches: &[ValueId]) -> Result<Vec<(String, Tensor)>> {
    let mut part = graph.clone();
    let mut fed = Vec::new();
    for (name, tensor) in feeds {
        let value = part.find(name).ok_or_else(|| Error::Feed {
            name: (*name).to_owned(),
            reason: "the graph has no such value".to_owned(),
        })?;
        detach(&mut part, value);
        part.set_type(value, Some(tensor.element_type()), Some(Shape::known(tensor.shape())));
        fed.push((value, *tensor));
    }
    part.outputs = fetches.to_vec();
    for fetch in fetches {
        if !fed.iter().any(|(value, _)| value == fetch) {
            // tract infers better than a declaration with symbols says.
            part.set_type(*fetch, None, None);
        }
    }
    part.prune();

    let mut read = vec![false; part.value_count()];
    for (_, node) in part.nodes() {
        part.reads(node).iter().for_each(|v| read[v.index()] = true);
    }
    let needed = |v: &ValueId| read[v.index()] || fetches.contains(v);
    let missing = part.inputs.iter().find(|v| needed(v) && !fed.iter().any(|(value, _)| value == *v));
    if let Some(value) = missing {
        return Err(Error::Feed { name: part.name_of(*value).to_owned(), reason: "the input is missing".to_owned() });
    }
    fed.retain(|(value, _)| needed(value));
    part.inputs = fed.iter().map(|(value, _)| *value).collect();

    let bytes = part.to_model()?.encode_to_vec();
    let inputs = fed
        .iter()
        .map(|(value, tensor)| Ok(convert::to_tract(part.name_of(*value), tensor)?.into_tvalue()))
        .collect::<Result<TVec<TValue>>>()?;
    let outputs = execute(&bytes, inputs).map_err(|e| Error::Tract { reason: short(&e) })?;
    fetches
        .iter()
        .zip(outputs)
        .map(|(value, output)| {
            let name = part.name_of(*value);
            Ok((name.to_owned(), convert::from_tract(name, &output)?))
        })
        .collect()
}

/// Characters of tract's words that are told: they may hold whole graphs.
const MOST: usize = 300;

/// What tract says, in one line: the outermost context and the root of its chain of causes.
fn short(error: &TractError) -> String {
    let (top, root) = (error.to_string(), error.root_cause().to_string());
    let whole = if top == root { top } else { format!("{top}: {root}") };
    let line = whole.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn execute(bytes: &[u8], inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
    tract_onnx::onnx().model_for_read(&mut Cursor::new(bytes))?.into_optimized()?.into_runnable()?.run(inputs)
}

/// Make a value one that no node computes.
fn detach(graph: &mut Graph, value: ValueId) {
    let Some(producer) = graph.value(value).producer() else { return };
    let Some(mut node) = graph.remove(producer) else { return };
    for output in &mut node.outputs {
        if *output == Some(value) {
            *output = None;
        }
    }
    if node.outputs.iter().any(Option::is_some) {
        graph.push(node);
    }
}
