//! Further outputs that train together with the first.
//!
//! Their targets are inputs of the working copy and their losses are computed in it: one more number a sample, which every
//! loss of the run adds. What reads data, splits off a frozen part or takes a gradient sees an input like any other.

use dendrite_autodiff::loss;
use dendrite_data::{DataSet, Samples};
use dendrite_onnx::{Attributes, ElementType, Graph, Model, Shape, Tensor, ValueId};
use dendrite_runtime::infer_shapes;

use crate::{
    choices::{Also, ClassWeights, LossKind, MetricKind},
    error::Result,
    network::Network,
    objective::Objective,
    options::Options,
};

/// The value that holds, for each sample, the losses of the further outputs together.
const LOSS: &str = "further/loss";

/// The value of a graph that holds the further outputs' losses, `[N]`, if there are any.
pub(crate) fn loss_of(graph: &Graph) -> Option<ValueId> {
    // Behind a frozen part the data may hold it.
    graph.find(LOSS).filter(|v| graph.value(*v).producer().is_some() || graph.inputs.contains(v))
}

/// Let `network`, which was prepared with the outputs of `options.also`, take their targets and add up their losses.
/// `data` tells of what kind the targets are.
pub(crate) fn attach(network: &mut Network, model: &Model, options: &Options, data: &DataSet) -> Result<()> {
    let mut sum: Option<ValueId> = None;
    for (place, also) in options.also.iter().enumerate() {
        let objective = choose(model, also, options, data)?;
        let prediction = network.further[place].prediction;
        let target = format!("target/{}", also.output);
        let weight = format!("weight/{}", also.output);
        let graph = &mut network.graph;
        let values = loss::attach_named(graph, prediction, &objective.loss, &target, &weight)?;
        network.further[place].target = Some(graph.name_of(values.target).to_owned());
        // Samples are weighed where all losses are added up.
        graph.inputs.retain(|v| *v != values.weight);
        let factor = graph.add_constant("further/weight", Tensor::scalar(ElementType::Float, also.weight));
        let shape = graph.value(values.per_sample).shape.clone();
        let mut op = |name: &str, operator: &str, inputs: &[ValueId]| {
            let value = graph.op(operator, name, inputs, Attributes::new());
            graph.set_type(value, Some(ElementType::Float), shape.clone());
            value
        };
        let own = op("further/weighted", "Mul", &[values.per_sample, factor]);
        sum = Some(match sum {
            Some(before) => op("further/sum", "Add", &[before, own]),
            None => own,
        });
    }
    let Some(sum) = sum else { return Ok(()) };
    let total = network.graph.op("Identity", LOSS, &[sum], Attributes::new());
    let shape = network.graph.value(sum).shape.clone().filter(|s| s.rank() == 1);
    let rows = network.graph.value(network.prediction).shape.as_ref().and_then(|s| s.dim(0).cloned());
    let shape = shape.or(rows.map(|n| Shape(vec![n])));
    network.graph.set_type(total, Some(ElementType::Float), shape);
    network.graph.outputs = vec![network.prediction, total];
    network.graph.prune();
    infer_shapes(&mut network.graph)?;
    Ok(())
}

/// Whether the targets of the further outputs in `data` are what their losses take.
pub(crate) fn check(model: &Model, options: &Options, data: &DataSet) -> Result<()> {
    options.also.iter().try_for_each(|also| choose(model, also, options, data).map(drop))
}

/// The loss of a further output, its target checked as that of a single output is.
fn choose(model: &Model, also: &Also, options: &Options, data: &DataSet) -> Result<Objective> {
    let own = Options {
        output: Some(also.output.clone()),
        target: also.target.clone(),
        loss: also.loss.clone(),
        metric: MetricKind::Loss,
        class_weights: ClassWeights::Equal,
        ignore_index: None,
        class_axis: None,
        blank: 0,
        label_smoothing: 0.0,
        also: Vec::new(),
        ..options.clone()
    };
    let network = Network::prepare_for(model, &own)?;
    let mut request = network.request(&own);
    request.others = options.also.iter().map(|a| a.target.clone()).chain([options.target.clone()]).collect();
    let samples: Samples = data.samples(&request)?;
    let shape = network.graph.value(network.prediction).shape.clone().unwrap_or_default();
    // Of sequences one class a row is a sequence too.
    let samples = if own.loss == LossKind::Ctc { samples } else { samples.conformed(&shape)? };
    Objective::choose(&network, &samples, &own)
}
