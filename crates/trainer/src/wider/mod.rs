//! The model with wider hidden layers: what as many parameters bring without dendrites.
//!
//! New units stand beside the old ones. Their incoming weights are drawn from a normal distribution as wide as the layer's own
//! weights (the root of their mean square), their biases are zero, and what reads them begins at zero: the wider network
//! computes what the model did (function-preserving growth as in Net2Net, arXiv:1511.05641, by new units in place of copies,
//! which would stay copies under equal gradients). All hidden layers that can be widened are, in proportion to their width.

mod fold;
mod hidden;
mod size;
mod tensor;

use dendrite_onnx::{Graph, Model, ValueId, ops::cost::model_parameters};
use dendrite_runtime::{SessionOptions, infer_shapes};
use prost::Message;

use crate::{
    error::Result,
    network::Network,
    random::generator,
    wider::hidden::{Fill, Hidden, Layers, hidden_layers},
    working::to_working_opset,
};

/// A model with wider layers.
#[derive(Debug, Clone)]
pub struct Wider {
    /// The model: the chosen output alone, at the working opset.
    pub model: Model,
    /// Its parameters.
    pub parameters: usize,
    /// The layers that were widened: name, units before and after.
    pub layers: Vec<(String, usize, usize)>,
    /// The layers that were not, with the reason as a clause.
    pub others: Vec<(String, String)>,
}

/// `model` with its hidden layers widened to as near to `parameters` parameters as whole units allow. The inner error says why
/// there is no such model.
pub fn widen(
    model: &Model,
    output: Option<&str>,
    parameters: usize,
    seed: u64,
    session: &SessionOptions,
) -> Result<std::result::Result<Wider, String>> {
    // Names the output; the graph that is widened keeps the file's batch and what follows the logits.
    let network = Network::prepare(model, output)?;
    let mut graph = Graph::from_model(model)?;
    infer_shapes(&mut graph)?;
    to_working_opset(&mut graph)?;
    graph.outputs = graph.find(&network.output).into_iter().collect();
    graph.prune();
    fold::fold(&mut graph, session)?;
    infer_shapes(&mut graph)?;
    let Layers { hidden: layers, others } = hidden_layers(&graph)?;
    let before = model_parameters(&graph);
    let reasons = || -> String {
        let all = others.iter().map(|(name, reason)| format!("'{name}': {reason}"));
        all.take(3).collect::<Vec<_>>().join("; ")
    };
    if layers.is_empty() {
        return Ok(Err(format!("no hidden layer can be widened ({})", reasons())));
    }
    let Some(wanted) = parameters.checked_sub(before).filter(|n| *n > 0) else {
        return Ok(Err("the result has no more parameters than the input".to_owned()));
    };
    let units = size::units(&graph, &layers, wanted);
    if units.iter().all(|n| *n == 0) {
        return Ok(Err(format!("{wanted} parameters are less than one unit of a hidden layer takes")));
    }
    apply(&mut graph, &layers, &units, seed);
    let widened = Model::from_bytes(graph.to_model()?.encode_to_vec())?;
    let told = layers.iter().zip(&units).filter(|(_, n)| **n > 0);
    Ok(Ok(Wider {
        parameters: model_parameters(&graph),
        model: widened,
        layers: told.map(|(layer, n)| (layer.name.clone(), layer.units, layer.units + n)).collect(),
        others,
    }))
}

/// Give every layer its new units.
fn apply(graph: &mut Graph, layers: &[Hidden], units: &[usize], seed: u64) {
    let mut edited: Vec<ValueId> = layers.iter().flat_map(|layer| layer.edits.iter().map(|e| e.value)).collect();
    edited.sort_unstable();
    edited.dedup();
    for (index, value) in edited.into_iter().enumerate() {
        let Some(old) = graph.constant(value).cloned() else { continue };
        let edits = layers.iter().zip(units).flat_map(|(layer, n)| layer.edits.iter().map(move |edit| (edit, *n)));
        let edits: Vec<_> = edits.filter(|(edit, _)| edit.value == value).collect();
        let mut rng = generator(seed, &[6, index as u64]);
        if let Some(new) = tensor::grown(&old, &edits, &mut rng) {
            graph.set_constant(value, new);
        }
    }
    for (layer, n) in layers.iter().zip(units) {
        for node in &layer.grouped {
            let groups = graph.node(*node).attributes.int("group", 1) + *n as i64;
            graph.node_mut(*node).attributes.set("group", groups);
        }
        for (node, sizes) in &layer.flattened {
            let shape = graph.add_constant("wider/shape", dendrite_onnx::Tensor::int64s(sizes));
            graph.set_input(*node, 1, Some(shape));
        }
    }
    // What was inferred in between no longer holds.
    let computed: Vec<ValueId> = graph.nodes().flat_map(|(_, node)| node.outputs.iter().flatten().copied()).collect();
    for value in computed.into_iter().filter(|v| !graph.outputs.contains(v)).collect::<Vec<_>>() {
        let element_type = graph.value(value).element_type;
        graph.set_type(value, element_type, None);
    }
}

impl Fill {
    /// The value of a new element, given the standard deviation of the layer's weights.
    fn value(self, draw: impl FnOnce() -> f32) -> f32 {
        match self {
            Fill::Random => draw(),
            Fill::Constant(value) => value,
        }
    }
}
