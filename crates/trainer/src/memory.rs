//! How much memory graphs take, and what is done about it.

use dendrite_data::Samples;
use dendrite_onnx::{Graph, Shape};
use dendrite_runtime::SessionOptions;
use dendrites::fragment::Reading;

use crate::{
    error::Result,
    feed,
    network::{Batching, Growth, Network},
    options::{BatchNorm, ClassWeights, LossKind, Options},
};

/// Bytes of computed values above which a graph is large.
const LARGE: usize = 64 << 20;

/// Whether the values that a graph of known shapes computes take much memory.
pub(crate) fn is_large(graph: &Graph) -> bool {
    computed(graph) > LARGE
}

/// `session` for running `graph`. The memory of a large one is not planned as one block: planning saves an allocation a value, 20
/// of 140 microseconds of a small step, and costs as much memory again as the values take.
pub(crate) fn planned(graph: &Graph, session: &SessionOptions) -> SessionOptions {
    SessionOptions { memory_pattern: session.memory_pattern && !is_large(graph), ..session.clone() }
}

/// Bytes of computed values that a pass of scoring may take.
const SCORED: usize = 2 << 30;

/// Samples that are scored at a time: `wanted`, or fewer where there are fewer or a sample's values are large.
pub fn scored_at_once(network: &Network, samples: &Samples, wanted: usize) -> Result<usize> {
    if network.batching != Batching::Free {
        return Ok(1);
    }
    let mut graph = network.graph.clone();
    network.bind(&mut graph, &feed::shapes(samples, 1))?;
    let fitting = SCORED / computed(&graph).max(1);
    Ok(wanted.min(fitting).min(samples.len()).max(1))
}

/// Bytes of activations, with as many of gradients, that a pass of training may take where nothing is said of its size.
const TRAINED: usize = 4 << 30;

/// Samples of a pass of training where those of a whole batch take much memory: fewer are passed then, whose gradients are added up.
/// `None` where they do not, or where a batch cannot be divided. `growth` is all that may grow.
pub(crate) fn trained_at_once(
    network: &Network,
    growth: &Growth,
    samples: &Samples,
    options: &Options,
) -> Result<Option<usize>> {
    let weighed = options.class_weights != ClassWeights::Equal || options.ignore_index.is_some();
    let divisible = options.batch_norm == BatchNorm::Frozen
        && !matches!(options.loss, LossKind::File(_))
        && (options.also.is_empty() || !weighed);
    if !divisible {
        return Ok(None);
    }
    let mut graph = network.grown(growth, Reading::Direct)?;
    network.bind(&mut graph, &feed::shapes(samples, 1))?;
    let fitting = TRAINED / computed(&graph).saturating_mul(2).max(1);
    Ok((fitting < options.batch_for(samples.len())).then_some(fitting.max(1)))
}

/// Bytes of all values that a graph computes, as far as their shapes are known.
fn computed(graph: &Graph) -> usize {
    let bytes = |value: &dendrite_onnx::graph::Value| {
        let elements = value.shape.as_ref().and_then(Shape::as_known)?.iter().product::<usize>();
        value.element_type?.byte_len(elements)
    };
    let computed = graph.values().filter(|(_, value)| value.producer().is_some());
    computed.filter_map(|(_, value)| bytes(value)).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use dendrite_data::{Input, Request};
    use dendrite_onnx::{Attributes, Dim, ElementType, Model, Tensor};
    use prost::Message;

    use super::*;

    /// One wide convolution of small images, the mean of each channel.
    fn wide() -> std::result::Result<Model, dendrite_onnx::Error> {
        let mut graph = Graph::new("wide", 17);
        let dims = [1, 64, 64].map(Dim::Known);
        let shape = std::iter::once(Dim::Symbol("batch".to_owned())).chain(dims).collect();
        let x = graph.add_input("x", ElementType::Float, Shape(shape));
        let w = graph.add_constant("w", Tensor::filled(ElementType::Float, &[512, 1, 3, 3], 0.1));
        let z = graph.op("Conv", "z", &[x, w], Attributes::new());
        let a = graph.op("Relu", "a", &[z], Attributes::new());
        let y = graph.op("GlobalAveragePool", "y", &[a], Attributes::new());
        graph.set_type(y, Some(ElementType::Float), None);
        graph.outputs = vec![y];
        Model::from_bytes(graph.to_model()?.encode_to_vec())
    }

    #[test]
    fn a_batch_of_many_activations_passes_in_pieces() -> Result<()> {
        let network = Network::prepare(&wide()?, None)?;
        let rows = 256;
        let input = Input::new("x", ElementType::Float, None);
        let request = Request { inputs: vec![input], target: Some("target".to_owned()), ..Request::default() };
        let zeros = |shape: &[usize]| Tensor::filled(ElementType::Float, shape, 0.0);
        let arrays =
            vec![("x".to_owned(), zeros(&[rows, 1, 64, 64])), ("target".to_owned(), zeros(&[rows, 512, 1, 1]))];
        let samples = Samples::from_arrays("memory", arrays, &request)?;
        let pass = |options: &Options| trained_at_once(&network, &Growth::default(), &samples, options);
        let many = Options { batch: Some(rows), ..Options::default() };
        // Two values of 512 times 62 times 62 float32, and their gradients.
        let expected = TRAINED / (2 * 4 * (2 * 512 * 62 * 62 + 512));
        assert!(expected < rows);
        assert_eq!(pass(&many)?, Some(expected));
        assert_eq!(pass(&Options { batch: Some(16), ..Options::default() })?, None);
        // Statistics of a whole batch are not those of its pieces.
        assert_eq!(pass(&Options { batch_norm: BatchNorm::Train, ..many })?, None);
        Ok(())
    }
}
