//! The working copy of the user's model: at the working opset, with a dynamic batch, known shapes, and the value the loss
//! takes.

use dendrite_data::{DataSet, Input, Request, Samples};
use dendrite_onnx::{Dim, Graph, Model, Shape, ValueId, WORKING_OPSET, ops::cost::model_parameters, upgrade::upgrade};
use dendrite_runtime::infer_shapes;
use dendrites::{DendriteSet, NotASite, Site, Weights, find_sites, fragment::Reading, insert::insert_into_graph};

pub use crate::link::Link;
use crate::{
    axes,
    error::{Error, Result},
    further,
    link::before_link,
    options::{Also, Options},
    quantised,
};

/// A model prepared for training.
#[derive(Debug, Clone)]
pub struct Network {
    /// The graph; its only output is `prediction`.
    pub graph: Graph,
    /// The value the loss takes: logits where the output is a softmax or a sigmoid.
    pub prediction: ValueId,
    /// The model's output that is trained.
    pub output: String,
    /// What lies between `prediction` and `output`.
    pub link: Link,
    /// Further outputs that train with it.
    pub further: Vec<Further>,
    /// Parameters of the model, without those of losses.
    pub parameters: usize,
    /// The sites, in topological order.
    pub sites: Vec<Site>,
    /// The linear nodes that are none, with reasons.
    pub not_sites: Vec<NotASite>,
    /// The batch size the file is fixed to, if it is.
    pub fixed_batch: Option<usize>,
    /// The symbol of the batch in recorded shapes.
    pub batch_symbol: Option<String>,
    /// Inputs whose samples lie on another axis than the first in the file, with that axis. Here they have them first.
    pub turned_inputs: Vec<(String, usize)>,
    /// The axis of the output that counts samples in the file. Here it is the first.
    pub output_axis: usize,
    /// Inputs that hold one state for every sample.
    pub states: Vec<String>,
}

/// A further output of a network.
#[derive(Debug, Clone)]
pub struct Further {
    /// The value its loss takes.
    pub prediction: ValueId,
    /// The input of the working copy that takes its targets, once its loss is part of it.
    pub target: Option<String>,
    /// The array that holds them.
    pub array: String,
}

/// What has been grown on a network: the sets, their tensors and the trained weights of the model, all by name. A weight
/// of the model that is absent has its value from the file.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// The dendrite sets in the order in which they grew.
    pub sets: Vec<DendriteSet>,
    /// Tensors by name.
    pub weights: Weights,
}

impl Network {
    /// Prepare `model` for training its output `output` (by default the first float output).
    pub fn prepare(model: &Model, output: Option<&str>) -> Result<Self> {
        Self::prepare_all(model, output, &[], &[])
    }

    /// Prepare `model` as `options` ask: with the further outputs that train, whose kinds of targets `data` tell.
    pub fn of(model: &Model, options: &Options, data: &DataSet) -> Result<Self> {
        let mut network = Self::prepare_all(model, options.output.as_deref(), &options.also, &options.batch_axis)?;
        further::attach(&mut network, model, options, data)?;
        Ok(network)
    }

    /// [`Network::prepare`] with everything that the outputs of `also` depend on too, and with the axes that count samples of the
    /// inputs and outputs in `batch_axis`.
    pub fn prepare_all(
        model: &Model,
        output: Option<&str>,
        also: &[Also],
        batch_axis: &[(String, usize)],
    ) -> Result<Self> {
        model.support()?;
        let mut graph = Graph::from_model(model)?;
        let quantised = quantised::first(&graph);
        // What stands in the way of a quantised model is mostly that.
        let explained = |e: Error| match &quantised {
            Some(node) => quantised::refusal(node, &e),
            None => e,
        };
        infer_shapes(&mut graph).map_err(|e| explained(e.into()))?;
        upgrade(&mut graph, WORKING_OPSET)?;
        let named = axes::named(&graph, batch_axis)?;
        let output = choose_output(&graph, output)?;
        let further: Vec<ValueId> =
            also.iter().map(|also| choose_output(&graph, Some(&also.output))).collect::<Result<_>>()?;
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
        graph.outputs = [output].into_iter().chain(further.iter().copied()).collect();
        graph.prune();
        let inputs = used_inputs(&graph);
        graph.inputs.retain(|v| inputs.contains(v));
        let batched = axes::of_inputs(&graph, &named);
        let mut fixed = axes::free(&mut graph, &batched, &named);
        infer_shapes(&mut graph).map_err(|e| match fixed {
            Some(size) => explained(not_freed(size, &e)),
            None => explained(e.into()),
        })?;
        axes::name_squeezed(&mut graph)?;
        let states = axes::spread_states(&mut graph, &batched, &named)?;
        if !states.is_empty() {
            fixed = Some(1);
            axes::name_squeezed(&mut graph)?;
        }
        let name = graph.name_of(output).to_owned();
        // What the loss takes of an output, its samples first; what lies between; and where the file has the samples.
        let mut taken = |output: ValueId| {
            let axis = axes::of_output(&graph, output, &batched, &named);
            let (prediction, link) = match before_link(&mut graph, output) {
                // Over other classes than those of the last axis once it is turned.
                (_, Link::Softmax) if axis > 0 => (output, Link::Identity),
                found => found,
            };
            (axes::turn_output(&mut graph, prediction, axis), link, axis)
        };
        let (prediction, link, output_axis) = taken(output);
        let further: Vec<Further> = further
            .into_iter()
            .zip(also)
            .map(|(output, also)| Further { prediction: taken(output).0, target: None, array: also.target.clone() })
            .collect();
        let turned_inputs = axes::turn_inputs(&mut graph, &batched)?;
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
            output_axis,
            states,
        })
    }

    /// The graph with `growth` applied: trained weights in place of the file's, dendrites inserted.
    pub fn grown(&self, growth: &Growth, reading: Reading) -> Result<Graph> {
        let mut graph = self.graph.clone();
        for (name, tensor) in &growth.weights {
            if let Some(id) = graph.find(name).filter(|id| graph.constant(*id).is_some()) {
                graph.set_constant(id, tensor.clone());
            }
        }
        insert_into_graph(&mut graph, &self.sites, &growth.sets, &growth.weights, reading)?;
        Ok(graph)
    }

    /// Record that the batch, and every other symbolic axis of the inputs, has the size of `shapes` (input name, shape).
    /// Shapes inside the graph follow; what cannot be told stays symbolic.
    pub fn bind_shapes(graph: &mut Graph, shapes: &[(String, Vec<usize>)]) -> Result<()> {
        let mut bound: Vec<(String, usize)> = Vec::new();
        for input in graph.inputs.clone() {
            let Some((_, known)) = shapes.iter().find(|(name, _)| name == graph.name_of(input)) else { continue };
            if let Some(shape) = &graph.value(input).shape {
                for (dim, size) in shape.0.iter().zip(known) {
                    if let Dim::Symbol(symbol) = dim {
                        bound.push((symbol.clone(), *size));
                    }
                }
            }
            let element_type = graph.value(input).element_type;
            graph.set_type(input, element_type, Some(Shape::known(known)));
        }
        let values: Vec<(ValueId, Shape)> = graph.values().filter_map(|(id, v)| Some((id, v.shape.clone()?))).collect();
        for (id, mut shape) in values {
            for dim in &mut shape.0 {
                let Dim::Symbol(symbol) = dim else { continue };
                if let Some((_, size)) = bound.iter().find(|(s, _)| s == symbol) {
                    *dim = Dim::Known(*size);
                }
            }
            let element_type = graph.value(id).element_type;
            graph.set_type(id, element_type, Some(shape));
        }
        // What the symbols did not tell (dendrites' values, computed dimensions) the session infers.
        infer_shapes(graph)?;
        Ok(())
    }

    /// [`Network::bind_shapes`] for a graph of this network, whose batch may be one that cannot be another.
    pub fn bind(&self, graph: &mut Graph, shapes: &[(String, Vec<usize>)]) -> Result<()> {
        Self::bind_shapes(graph, shapes).map_err(|e| match (self.fixed_batch, e) {
            (Some(size), Error::Runtime(e)) => not_freed(size, &e),
            (_, e) => e,
        })
    }

    /// What the network asks of data.
    pub fn request(&self, options: &Options) -> Request {
        let mut inputs = Input::of_graph(&self.graph, &self.graph.inputs);
        let mut map = options.map.clone();
        inputs.iter_mut().filter(|i| self.states.contains(&i.name)).for_each(|i| i.per_batch = true);
        for further in &self.further {
            inputs.iter_mut().filter(|i| Some(&i.name) == further.target.as_ref()).for_each(|i| i.target = true);
            map.extend(further.target.clone().map(|target| (target, further.array.clone())));
        }
        Request {
            inputs,
            map,
            others: Vec::new(),
            target: Some(options.target.clone()),
            weight: options.weight.clone(),
            preprocess: options.preprocess.clone(),
        }
    }

    /// The samples of a data set, its target brought to the prediction's form.
    pub fn samples(&self, data: &DataSet, options: &Options) -> Result<Samples> {
        let samples = data.samples(&self.request(options))?;
        Ok(samples.conformed(&self.graph.value(self.prediction).shape.clone().unwrap_or_default())?)
    }

    /// The site whose output is `name`.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|s| s.name == name)
    }
}

/// The error that a model takes its batch of `size` and no other.
fn not_freed(size: usize, error: &dendrite_runtime::Error) -> Error {
    Error::Option {
        reason: format!("the model is fixed to a batch of {size} and cannot take another: {error}"),
        hint: "export the model with a dynamic batch axis".to_owned(),
    }
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

/// Parameters of a model as it is trained: those that the chosen output depends on.
pub fn parameters(model: &Model) -> Result<usize> {
    Ok(model_parameters(&Graph::from_model(model)?))
}
