//! The working copy of the user's model: at the working opset, with a dynamic batch, known shapes, and the value the loss
//! takes.

use dendrite_data::{DataSet, Input, Request, Samples};
use dendrite_onnx::{Dim, Graph, Model, Shape, ValueId, ops::cost::model_parameters};
use dendrite_runtime::infer_shapes;
use dendrites::{DendriteSet, NotASite, Site, Weights, fragment::Reading, insert::insert_into_graph};

pub use crate::{axes::SampleAxis, link::Link};
use crate::{
    error::{Error, Result},
    options::{LossKind, Options},
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
    /// The axis of the output that counts samples in the file.
    pub output_samples: SampleAxis,
    /// Inputs that hold one state for every sample.
    pub states: Vec<String>,
    /// How samples become batches.
    pub batching: Batching,
}

/// How samples become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// The model takes any number of them.
    Free,
    /// The model takes one: batches are of one, and steps add them up.
    One,
    /// The same, and the model has no axis that counts them: a sample is the whole of its inputs.
    Whole,
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

    /// `options` as a run goes by them: a model that takes one sample at a time is passed one.
    pub fn resolved(&self, options: &Options) -> Options {
        let micro_batch = if self.batching == Batching::Free { options.micro_batch } else { Some(1) };
        Options { micro_batch, ..options.clone() }
    }

    /// The axis of the prediction that is `axis` of the file's output, below zero counted from its end.
    pub(crate) fn prediction_axis(&self, axis: i64) -> Option<usize> {
        let rank = self.graph.rank(self.prediction)? - usize::from(self.output_samples == SampleAxis::Missing);
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
        (axis < rank).then(|| self.output_samples.turned(axis))
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
        if options.loss == LossKind::Ctc {
            // Of sequences one class a row is a sequence too.
            return Ok(samples);
        }
        Ok(samples.conformed(&self.graph.value(self.prediction).shape.clone().unwrap_or_default())?)
    }

    /// The site whose output is `name`.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|s| s.name == name)
    }
}

/// The error that a model takes its batch of `size` and no other.
pub(crate) fn not_freed(size: usize, error: &dendrite_runtime::Error) -> Error {
    Error::Option {
        reason: format!("the model is fixed to a batch of {size} and cannot take another: {error}"),
        hint: "export the model with a dynamic batch axis".to_owned(),
    }
}

/// Parameters of a model as it is trained: those that the chosen output depends on.
pub fn parameters(model: &Model) -> Result<usize> {
    Ok(model_parameters(&Graph::from_model(model)?))
}
