//! Which loss trains, where the user does not say: told from the target and from what the output ends in.

use dendrite_data::Samples;
use dendrite_onnx::{Dim, ElementType, Shape};

use crate::{
    error::Result,
    network::{Link, Network},
    options::{LossKind, Options},
};

/// How far the sum of a row may be from 1 for a distribution over classes; that of half floats is so far.
const NEAR_ONE: f64 = 5e-3;

/// The loss, and what of the target decided where its type and the model's end leave more than one.
pub(super) fn choose(
    network: &Network,
    samples: &Samples,
    options: &Options,
) -> Result<(LossKind, Option<&'static str>)> {
    let classes = samples.target().is_some_and(|t| t.element_type == ElementType::Int64);
    Ok(match &options.loss {
        LossKind::Auto if classes => (LossKind::CrossEntropy, None),
        LossKind::Auto => match network.link {
            Link::Softmax { .. } => (LossKind::CrossEntropy, None),
            Link::Sigmoid => (LossKind::Bce, None),
            Link::Identity => {
                let prediction = network.graph.value(network.prediction).shape.clone().unwrap_or_default();
                match numbers(samples, &prediction)? {
                    Numbers::Distributions => (LossKind::CrossEntropy, Some("every row of the target adds up to 1")),
                    Numbers::Bits => (LossKind::Bce, Some("every target is 0 or 1")),
                    Numbers::Any => (LossKind::Mse, None),
                }
            }
        },
        chosen => (chosen.clone(), None),
    })
}

/// What float targets are.
#[derive(Debug, PartialEq)]
enum Numbers {
    /// Shares of classes that exclude each other: no negative number, rows that add up to 1.
    Distributions,
    /// Zeros and ones, both.
    Bits,
    /// Anything else.
    Any,
}

fn numbers(samples: &Samples, prediction: &Shape) -> Result<Numbers> {
    let width = match prediction.rank() {
        0 | 1 => Some(1),
        rank => prediction.dim(1).and_then(Dim::known).filter(|n| rank == 2 || *n == 1),
    };
    // Over positions and classes at once zeros and ones do not say what excludes what.
    let Some(width) = width.filter(|n| *n > 0) else { return Ok(Numbers::Any) };
    let (mut distributions, mut bits) = (width > 1, [true, false, false]);
    for block in samples.target_blocks() {
        let values = block?.to_f64().unwrap_or_default();
        distributions &= values.chunks(width).all(is_distribution);
        bits[0] &= values.iter().all(|v| *v == 0.0 || *v == 1.0);
        bits[1] |= values.contains(&0.0);
        bits[2] |= values.contains(&1.0);
        if !distributions && !bits[0] {
            return Ok(Numbers::Any);
        }
    }
    Ok(match (distributions, bits) {
        (true, _) if !samples.is_empty() => Numbers::Distributions,
        (_, [true, true, true]) => Numbers::Bits,
        _ => Numbers::Any,
    })
}

fn is_distribution(row: &[f64]) -> bool {
    row.iter().all(|v| *v >= 0.0) && (row.iter().sum::<f64>() - 1.0).abs() <= NEAR_ONE
}

#[cfg(test)]
mod tests {
    use dendrite_data::{DataSet, Input, Request};
    use dendrite_onnx::Tensor;

    use super::*;

    fn told(shape: &[usize], values: &[f32], prediction: &[usize]) -> Numbers {
        let rows = Tensor::from_f32(&[shape[0], 1], &vec![0.0; shape[0]]);
        let arrays = vec![("x".to_owned(), rows), ("target".to_owned(), Tensor::from_f32(shape, values))];
        let request = Request {
            inputs: vec![Input::new("x", ElementType::Float, None)],
            target: Some("target".to_owned()),
            ..Request::default()
        };
        let samples = DataSet::from_arrays("rows", arrays).and_then(|data| data.samples(&request));
        let samples = samples.unwrap_or_else(|e| unreachable!("{e}"));
        numbers(&samples, &Shape::known(prediction)).unwrap_or_else(|e| unreachable!("{e}"))
    }

    #[test]
    fn shares_of_classes_are_told_from_numbers() {
        assert_eq!(told(&[2, 3], &[0.0, 1.0, 0.0, 0.2, 0.3, 0.5], &[2, 3]), Numbers::Distributions);
        assert_eq!(told(&[2, 3], &[0.0, 1.0, 0.0, 0.2, 0.3, 0.6], &[2, 3]), Numbers::Any);
        assert_eq!(told(&[2, 3], &[1.5, -0.5, 0.0, 0.2, 0.3, 0.5], &[2, 3]), Numbers::Any);
    }

    #[test]
    fn zeros_and_ones_are_told_from_numbers() {
        assert_eq!(told(&[3], &[0.0, 1.0, 1.0], &[3, 1]), Numbers::Bits);
        assert_eq!(told(&[2, 3], &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], &[2, 3]), Numbers::Bits);
        assert_eq!(told(&[3], &[0.0, 0.5, 1.0], &[3, 1]), Numbers::Any);
        // Of one value nothing can be told.
        assert_eq!(told(&[3], &[1.0, 1.0, 1.0], &[3, 1]), Numbers::Any);
        assert_eq!(told(&[1, 2, 2], &[0.0, 1.0, 1.0, 0.0], &[1, 2, 2]), Numbers::Any);
    }
}
