//! Which axis of a prediction holds classes, and where the scores of one position lie.

use dendrite_data::Samples;
use dendrite_onnx::{Dim, ElementType, Shape};

use crate::{
    error::{Error, Result},
    network::{Link, Network},
    options::{LossKind, Options},
};

/// Where the classes of one sample's prediction lie, the elements counted in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Classes {
    /// The number of classes.
    pub(crate) count: usize,
    /// Elements from one class to the next.
    stride: usize,
}

impl Classes {
    /// The classes on `axis` of `shape`, both without the axis of samples. A prediction without axes is one class.
    pub(crate) fn of(shape: &[usize], axis: usize) -> Self {
        let stride = shape.iter().skip(axis + 1).product::<usize>().max(1);
        Classes { count: shape.get(axis).copied().unwrap_or(1).max(1), stride }
    }

    /// The classes on `axis` of a prediction whose first axis counts samples; `shape` is that of one sample.
    pub(crate) fn of_prediction(shape: &[usize], axis: usize) -> Self {
        Classes::of(shape, axis.saturating_sub(1))
    }

    /// The positions of a prediction of `width` elements.
    pub(crate) fn positions(self, width: usize) -> usize {
        width / self.count
    }

    /// The element that scores `class` at `position`.
    pub(crate) fn place(self, position: usize, class: usize) -> usize {
        (position / self.stride * self.count + class) * self.stride + position % self.stride
    }

    /// The scores at `position` of the prediction `row`, class by class.
    pub(crate) fn scores(self, row: &[f32], position: usize) -> impl Iterator<Item = f32> + Clone + '_ {
        (0..self.count).map(move |class| row.get(self.place(position, class)).copied().unwrap_or(f32::NEG_INFINITY))
    }
}

/// The axis of the network's prediction that holds classes, for losses of classes: as the user says, else the one of the final softmax, else the
/// one that integer targets lack, else the one behind the samples.
pub(crate) fn axis(network: &Network, samples: &Samples, options: &Options) -> Result<usize> {
    let prediction = network.graph.value(network.prediction).shape.clone().unwrap_or_default();
    let told = match network.link {
        Link::Softmax { axis } => Some(axis),
        _ => None,
    };
    if let Some(named) = options.class_axis {
        let axis = network.prediction_axis(named).filter(|axis| (1..prediction.rank()).contains(axis));
        let Some(axis) = axis else {
            return Err(Error::Option {
                reason: format!("--class-axis {named}: '{}' has no such axis beside its samples", network.output),
                hint: format!(
                    "with samples first its shape is {prediction}; leave --class-axis out, or name another axis"
                ),
            });
        };
        if told.is_some_and(|told| told != axis) {
            return Err(Error::Option {
                reason: format!("--class-axis {named}: '{}' is a softmax over another axis", network.output),
                hint: "leave --class-axis out: the classes lie where the softmax is taken".to_owned(),
            });
        }
        return Ok(axis);
    }
    if options.loss == LossKind::Ctc {
        // Sequences have their own length, and scores mostly come last.
        return Ok(told.unwrap_or(2));
    }
    let lacking = || {
        let target = samples.target().filter(|t| t.element_type == ElementType::Int64)?;
        lacking(&prediction, &target.row_shape)
    };
    Ok(told.or_else(lacking).unwrap_or(1))
}

/// The axis of a prediction of known length without which it has the shape of a target, `row` without samples; the first of
/// several.
fn lacking(prediction: &Shape, row: &[usize]) -> Option<usize> {
    let dims = prediction.0.iter().map(Dim::known).collect::<Vec<_>>();
    let without = |axis: usize| dims.iter().enumerate().skip(1).filter(move |(at, _)| *at != axis).map(|(_, dim)| *dim);
    let fits = |axis: &usize| {
        dims[*axis].is_some()
            && dims.len() == row.len() + 2
            && without(*axis).zip(row).all(|(dim, size)| dim.is_none_or(|dim| dim == *size))
    };
    (1..dims.len()).find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_lack_the_axis_of_classes() {
        let symbol = || Dim::Symbol("length".to_owned());
        let of = |dims: &[Dim], row: &[usize]| lacking(&Shape([&[Dim::Unknown], dims].concat()), row);
        let known = |n: usize| Dim::Known(n);
        assert_eq!(of(&[known(9)], &[]), Some(1));
        assert_eq!(of(&[known(9), known(16)], &[16]), Some(1));
        assert_eq!(of(&[known(16), known(9)], &[16]), Some(2));
        assert_eq!(of(&[symbol(), known(9)], &[9]), Some(2));
        assert_eq!(of(&[known(9), symbol()], &[16]), Some(1));
        assert_eq!(of(&[known(9), known(9)], &[9]), Some(1));
        assert_eq!(of(&[known(32), known(40), known(9)], &[32, 40]), Some(3));
        assert_eq!(of(&[known(16), known(9)], &[12]), None);
        assert_eq!(of(&[known(16), known(9)], &[]), None);
    }

    #[test]
    fn a_position_has_its_classes_wherever_they_lie() {
        let row: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let at = |axis, position| Classes::of(&[2, 3, 4], axis).scores(&row, position).collect::<Vec<_>>();
        assert_eq!(at(0, 5), [5.0, 17.0]);
        assert_eq!(at(1, 5), [13.0, 17.0, 21.0]);
        assert_eq!(at(2, 5), [20.0, 21.0, 22.0, 23.0]);
        assert_eq!(Classes::of(&[2, 3, 4], 1).positions(24), 8);
        assert_eq!(Classes::of(&[], 0), Classes { count: 1, stride: 1 });
    }
}
