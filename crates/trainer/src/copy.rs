//! How the working copy of a model is made.

use dendrite_data::DataSet;
use dendrite_onnx::{Dim, Graph, Model, ValueId, ops::cost::model_parameters};
use dendrite_runtime::infer_shapes;
use dendrites::{find_sites, hoist};

use crate::{
    axes::{self, SampleAxis},
    error::{Error, Result},
    further,
    link::{Link, before_link},
    network::{Batching, Further, Network, not_freed},
    options::Options,
    quantised,
    working::to_working_opset,
};

impl Network {
    /// Prepare `model` for training its output `output` (by default the first float output).
    pub fn prepare(model: &Model, output: Option<&str>) -> Result<Self> {
        Self::prepare_for(model, &Options { output: output.map(str::to_owned), ..Options::default() })
    }

    /// Prepare `model` as `options` ask: with the further outputs that train, whose kinds of targets `data` tell.
    pub fn of(model: &Model, options: &Options, data: &DataSet) -> Result<Self> {
        let mut network = Self::prepare_for(model, options)?;
        further::attach(&mut network, model, options, data)?;
        Ok(network)
    }

    /// [`Network::of`] without the losses of further outputs.
    pub fn prepare_for(model: &Model, options: &Options) -> Result<Self> {
        if options.one_at_a_time {
            return prepare(model, options, Batching::Whole);
        }
        let network = prepare(model, options, Batching::Free)?;
        // What was made for one sample may count on it in more places than can be told from the file.
        if network.fixed_batch == Some(1) && !axes::follows(&network.graph, network.prediction) {
            return prepare(model, options, Batching::One);
        }
        Ok(network)
    }
}

fn prepare(model: &Model, options: &Options, batching: Batching) -> Result<Network> {
    model.support()?;
    let mut graph = Graph::from_model(model)?;
    hoist(&mut graph)?;
    let quantised = quantised::first(&graph);
    // What stands in the way of a quantised model is mostly that.
    let explained = |e: Error| match &quantised {
        Some(node) => quantised::refusal(node, &e),
        None => e,
    };
    infer_shapes(&mut graph).map_err(|e| explained(e.into()))?;
    to_working_opset(&mut graph)?;
    let named = axes::named(&graph, &options.batch_axis)?;
    let (output, further) = chosen_outputs(&graph, options)?;
    graph.outputs = [output].into_iter().chain(further.iter().copied()).collect();
    graph.prune();
    let inputs = used_inputs(&graph);
    graph.inputs.retain(|v| inputs.contains(v));
    let batched = axes::of_inputs(&graph, &named);
    let (mut fixed, mut states) = (Some(1), Vec::new());
    match batching {
        Batching::Free => {
            fixed = axes::free(&mut graph, &batched, &named);
            match (infer_shapes(&mut graph), fixed) {
                (Err(_), Some(1)) if quantised.is_none() => return prepare(model, options, Batching::One),
                (Err(e), Some(size)) => return Err(explained(not_freed(size, &e))),
                (Err(e), None) => return Err(explained(e.into())),
                (Ok(()), _) => {}
            }
            // Before that, inference may take a state's one sample for the batch.
            states = axes::spread_states(&mut graph, &batched, &named)?;
            if !states.is_empty() {
                fixed = Some(1);
            }
            axes::name_squeezed(&mut graph)?;
        }
        Batching::One => {
            states = axes::fix_to_one(&mut graph, &batched);
            infer_shapes(&mut graph).map_err(|e| explained(e.into()))?;
        }
        Batching::Whole => {}
    }
    let name = graph.name_of(output).to_owned();
    // What the loss takes of an output, its samples first; what lies between; and where the file has the samples.
    let mut taken = |output: ValueId| {
        let axis = axes::of_output(&graph, output, &batched, &named);
        let (prediction, link) = before_link(&mut graph, output);
        let counts = match batching {
            Batching::Free => true,
            Batching::One => axes::counts_one(&graph, prediction, axis),
            Batching::Whole => false,
        };
        let samples = if counts { SampleAxis::At(axis) } else { SampleAxis::Missing };
        let (prediction, link) = match link {
            Link::Softmax { axis } => match samples.turned(axis) {
                // Over samples it is none of classes.
                0 => (output, Link::Identity),
                axis => (prediction, Link::Softmax { axis }),
            },
            link => (prediction, link),
        };
        (axes::samples_to_front(&mut graph, prediction, samples), link, samples)
    };
    let (prediction, link, output_samples) = taken(output);
    let further: Vec<Further> = further
        .into_iter()
        .zip(&options.also)
        .map(|(output, also)| Further { prediction: taken(output).0, target: None, array: also.target.clone() })
        .collect();
    let turned_inputs = if batching == Batching::Whole {
        axes::take_sample_axis(&mut graph)?;
        Vec::new()
    } else {
        axes::turn_inputs(&mut graph, &batched)?
    };
    graph.outputs = [prediction].into_iter().chain(further.iter().map(|f| f.prediction)).collect();
    graph.prune();
    let batch_symbol = graph.inputs.iter().find_map(|v| match graph.value(*v).shape.as_ref()?.dim(0)? {
        Dim::Symbol(s) => Some(s.clone()),
        _ => None,
    });
    let (sites, not_sites) = find_sites(&graph)?;
    let parameters = model_parameters(&graph);
    Ok(Network {
        parameters,
        graph,
        prediction,
        output: name,
        link,
        further,
        sites,
        not_sites,
        fixed_batch: fixed,
        batch_symbol,
        turned_inputs,
        output_samples,
        states,
        batching,
    })
}

/// The output that trains, and those that train with it.
fn chosen_outputs(graph: &Graph, options: &Options) -> Result<(ValueId, Vec<ValueId>)> {
    let output = choose_output(graph, options.output.as_deref())?;
    let further: Vec<ValueId> =
        options.also.iter().map(|also| choose_output(graph, Some(&also.output))).collect::<Result<_>>()?;
    for (place, id) in further.iter().enumerate() {
        let again = further[..place].contains(id);
        if *id == output || again {
            let which = if again { "twice" } else { "which is the first output" };
            return Err(Error::Option {
                reason: format!("--also names '{}', {which}", graph.name_of(*id)),
                hint: "name each output once, the first with --output".to_owned(),
            });
        }
    }
    Ok((output, further))
}

fn used_inputs(graph: &Graph) -> Vec<ValueId> {
    let uses = graph.uses();
    graph.inputs.iter().copied().filter(|v| !uses[v.index()].is_empty() || graph.outputs.contains(v)).collect()
}

fn choose_output(graph: &Graph, wanted: Option<&str>) -> Result<ValueId> {
    let names = || graph.outputs.iter().map(|v| graph.name_of(*v)).collect::<Vec<_>>().join(", ");
    let is_float = |id: &ValueId| graph.value(*id).element_type.is_some_and(|t| t.is_float());
    match wanted {
        Some(name) => {
            let id =
                graph.outputs.iter().copied().find(|v| graph.name_of(*v) == name).ok_or_else(|| Error::Option {
                    reason: format!("the model has no output '{name}'; it has {}", names()),
                    hint: "choose one of them with --output".to_owned(),
                })?;
            if !is_float(&id) {
                return Err(Error::Option {
                    reason: format!("output '{name}' is not a float, no loss can be taken on it"),
                    hint: "choose another with --output".to_owned(),
                });
            }
            Ok(id)
        }
        None => graph.outputs.iter().copied().find(is_float).ok_or_else(|| {
            let maps = graph.outputs.iter().filter_map(|v| graph.value(*v).producer()).map(|id| graph.node(id));
            let zipped = maps.into_iter().any(|node| node.op == "ZipMap");
            Error::Option {
                reason: format!("the model has no float output to train; it has {}", names()),
                hint: if zipped {
                    "a ZipMap output is a list of maps, not a tensor: export the classifier with options={\"zipmap\": False}"
                } else {
                    "export the model with its scores (probabilities or logits) as an output"
                }
                .to_owned(),
            }
        }),
    }
}
