//! Gradient accumulation: a batch passed in pieces, whose sums are added up before the optimizer takes its step.
//!
//! What is added up are sums, of the loss and of its gradients, and the sum of the weights they count with. The mean over the
//! whole batch is taken once, in the graph of the update, so that the result does not depend on how a batch was divided.

use dendrite_onnx::{ElementType, Graph, Shape, ValueId, WORKING_OPSET};

use crate::{
    error::{Error, Result},
    expr::Builder,
    loss::{LossValues, TINY},
    optimizer::{self, Optimizer, OptimizerValues},
};

/// A sum over the pieces of a batch in the graph of one piece: zero before the first.
#[derive(Debug, Clone)]
pub struct RunningSum {
    /// The sum so far: a new float32 input.
    pub input: ValueId,
    /// The sum with this piece.
    pub output: ValueId,
    /// The shape of both.
    pub shape: Shape,
}

/// Add running sums to the graph of a piece: of the loss, of the weights, and of the gradients of [`LossValues::sum`], given as
/// (parameter, gradient). They come in this order. Parameters are float32 of known shapes.
pub fn attach(graph: &mut Graph, loss: &LossValues, params: &[(ValueId, ValueId)]) -> Result<Vec<RunningSum>> {
    if !loss.separable {
        return Err(Error::invalid(
            "the loss gives one number for the whole batch, which is no sum over its samples",
            "let it give one number for each sample",
        ));
    }
    let scalar = |name: &str, value| (format!("accumulated/{name}"), value, Shape::default());
    let mut added = vec![scalar("loss", loss.sum), scalar("weight", loss.total)];
    for (param, gradient) in params {
        let value = graph.value(*param);
        added.push((format!("accumulated/{}", value.name), *gradient, value.shape.clone().unwrap_or_default()));
    }
    Ok(Builder::scope(graph, "accumulated", |b| {
        let sums = added.into_iter().map(|(name, value, shape)| {
            let input = b.input(&name, &shape);
            b.rename(&name);
            let output = (input + b.value(value)).typed(ElementType::Float, Some(shape.clone()));
            RunningSum { input: input.id(), output: output.id(), shape }
        });
        sums.collect()
    }))
}

/// The graph that takes the optimizer's step once all pieces of a batch have been passed.
#[derive(Debug, Clone)]
pub struct Update {
    /// The graph. Its inputs are the parameters and the running sums under their names, and those of the optimizer.
    pub graph: Graph,
    /// The mean loss of the batch, a scalar.
    pub loss: ValueId,
    /// The optimizer's values.
    pub optimizer: OptimizerValues,
}

/// The update of `params`, float32 of known shapes, by name; `sums` are the names of the running sums that [`attach`] added for
/// them.
pub fn update(optimizer: &Optimizer, params: &[(String, Shape)], sums: &[String]) -> Result<Update> {
    let mut graph = Graph::new("update", WORKING_OPSET);
    let mut input = |name: &String, shape: &Shape| graph.add_input(name, ElementType::Float, shape.clone());
    let params: Vec<(ValueId, &Shape)> = params.iter().map(|(name, shape)| (input(name, shape), shape)).collect();
    let [loss, weight, sums @ ..] = sums else {
        return Err(Error::invalid("there is no running sum", "give those of the graph of a piece"));
    };
    let (loss, weight) = (input(loss, &Shape::default()), input(weight, &Shape::default()));
    let pairs: Vec<(ValueId, ValueId)> =
        params.iter().zip(sums).map(|((param, shape), sum)| (*param, input(sum, shape))).collect();
    let (loss, pairs) = Builder::scope(&mut graph, "accumulated/mean", |b| {
        let total = b.value(weight).binary("Max", b.scalar(ElementType::Float, TINY));
        let loss = (b.value(loss) / total).id();
        let mean = |(param, sum): (ValueId, ValueId)| {
            b.rename(&format!("gradient/{}", b.graph().name_of(param)));
            (param, (b.value(sum) / total).id())
        };
        (loss, pairs.into_iter().map(mean).collect::<Vec<_>>())
    });
    let optimizer = optimizer::attach(&mut graph, optimizer, &pairs)?;
    Ok(Update { graph, loss, optimizer })
}
