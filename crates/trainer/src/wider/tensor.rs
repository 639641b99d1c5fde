//! A weight with room for new units.

use dendrite_onnx::{Tensor, tensor::element_count};
use rand_chacha::ChaCha8Rng;

use crate::{random::normal, wider::hidden::Edit};

/// `old` with the new units of `edits`, each given with their number. An element that belongs to a new unit on any axis is new: where
/// the unit is one that the weight feeds, the fill of that edit decides, so that a new unit reads old and new ones alike, and
/// old ones read new ones by the fill of the axis they are read on.
pub(super) fn grown(old: &Tensor, edits: &[(&Edit, usize)], rng: &mut ChaCha8Rng) -> Option<Tensor> {
    let values = old.to_f32()?;
    let mut shape = old.shape().to_vec();
    for (edit, n) in edits {
        *shape.get_mut(edit.axis)? += edit.layout.outer * edit.layout.inner * n;
    }
    let deviation = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt();
    let count = element_count(&shape)?;
    let mut new = Vec::with_capacity(count);
    let mut place = vec![0usize; shape.len()];
    for _ in 0..count {
        let mut from = place.clone();
        let mut fill = None;
        for (edit, n) in edits {
            match edit.layout.origin(place[edit.axis], *n) {
                Some(index) => from[edit.axis] = index,
                // Incoming weights of a new unit come before what reads another one.
                None if fill.is_none() || edit.feeds => fill = Some(edit.fill),
                None => {}
            }
        }
        let flat = from.iter().zip(old.shape()).fold(0, |flat, (i, n)| flat * n + i);
        new.push(match fill {
            Some(fill) => fill.value(|| (deviation as f32) * normal(rng)),
            None => *values.get(flat)?,
        });
        for axis in (0..place.len()).rev() {
            place[axis] += 1;
            if place[axis] < shape[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    Some(Tensor::from_f32(&shape, &new))
}
