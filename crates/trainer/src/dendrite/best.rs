//! The best candidates so far, unit by unit.

use dendrite_onnx::{ElementType, Tensor};
use dendrites::{Activation, DendriteSet, Site, Weights, candidates::Pool};

use crate::error::{Error, Result};

/// The best snapshot of every unit: rows of a pool are independent, so each is taken from the epoch in which it was best.
pub(super) struct Best {
    strengths: Vec<f64>,
    tensors: Weights,
    width: usize,
    weight: String,
    weight_axis: usize,
}

impl Best {
    pub(super) fn new(site: &Site, pool: &Pool, tensors: &Weights, strengths: &[f64]) -> Self {
        let weight = pool.set.path("weight");
        let weight_axis = unit_axis(site, &tensors[&weight]);
        Best { strengths: strengths.to_vec(), tensors: tensors.clone(), width: pool.set.width, weight, weight_axis }
    }

    /// The axis of a tensor that counts units: all but the weights are vectors.
    fn axis(&self, name: &str) -> usize {
        if name == self.weight { self.weight_axis } else { 0 }
    }

    pub(super) fn update(&mut self, tensors: &Weights, strengths: &[f64]) {
        let better: Vec<bool> = strengths.iter().zip(&self.strengths).map(|(new, old)| new > old).collect();
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .map(|(name, kept)| {
                let chosen = choose_units(&kept, &tensors[&name], self.axis(&name), &better);
                (name, chosen)
            })
            .collect();
        for (old, new) in self.strengths.iter_mut().zip(strengths) {
            *old = old.max(*new);
        }
    }

    /// For every dendrite the best candidate with an activation in `range` of candidates.
    fn best_in(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        (0..self.width)
            .map(|k| {
                range.clone().fold(range.start, |best, p| {
                    if self.strengths[p * self.width + k] > self.strengths[best * self.width + k] { p } else { best }
                })
            })
            .collect()
    }

    pub(super) fn mean(&self) -> f64 {
        let candidates = self.strengths.len() / self.width.max(1);
        let best = self.best_in(0..candidates);
        best.iter().enumerate().map(|(k, p)| self.strengths[p * self.width + k]).sum::<f64>() / self.width.max(1) as f64
    }

    /// The activation whose candidates are strongest, and the set's tensors made of them, the connection zero.
    pub(super) fn winners(&self, pool: &Pool, site: &Site, sets: &[DendriteSet]) -> Result<(Activation, Weights)> {
        let mut start = 0;
        let mut chosen: Option<(f64, Activation, Vec<usize>)> = None;
        for (activation, count) in &pool.groups {
            let best = self.best_in(start..start + count);
            start += count;
            let total = best.iter().enumerate().map(|(k, p)| self.strengths[p * self.width + k]).sum::<f64>();
            if chosen.as_ref().is_none_or(|(t, _, _)| total > *t) {
                chosen = Some((total, *activation, best));
            }
        }
        let Some((_, activation, best)) = chosen else {
            return Err(Error::Option {
                reason: "the pool is empty".to_owned(),
                hint: "--pool takes at least 1".to_owned(),
            });
        };
        let units: Vec<usize> = best.iter().enumerate().map(|(k, p)| p * self.width + k).collect();
        let mut tensors = Weights::new();
        for (name, shape) in pool.set.tensors(site, sets) {
            let tensor = match self.tensors.get(&name) {
                Some(wide) => take_units(wide, self.axis(&name), &units, &shape),
                None => Tensor::filled(ElementType::Float, &shape, 0.0),
            };
            tensors.insert(name, tensor);
        }
        Ok((activation, tensors))
    }
}

/// The axis of a weight operand that counts units.
pub(super) fn unit_axis(site: &Site, tensor: &Tensor) -> usize {
    match site.kind {
        dendrites::SiteKind::Conv => 0,
        dendrites::SiteKind::Gemm if site.transposed => 0,
        _ => tensor.shape().len() - 1,
    }
}

/// Multiply each unit by its scale.
pub(super) fn scale_units(tensor: &Tensor, axis: usize, scales: &[f32]) -> Tensor {
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let units = tensor.shape()[axis];
    let values: Vec<f32> =
        tensor.to_f32().unwrap_or_default().iter().enumerate().map(|(i, v)| v * scales[i / inner % units]).collect();
    Tensor::from_f32(tensor.shape(), &values)
}

fn choose_units(old: &Tensor, new: &Tensor, axis: usize, better: &[bool]) -> Tensor {
    let inner: usize = old.shape()[axis + 1..].iter().product();
    let units = old.shape()[axis];
    let (old_values, new_values) = (old.to_f32().unwrap_or_default(), new.to_f32().unwrap_or_default());
    let values: Vec<f32> = old_values
        .iter()
        .zip(&new_values)
        .enumerate()
        .map(|(i, (o, n))| if better[i / inner % units] { *n } else { *o })
        .collect();
    Tensor::from_f32(old.shape(), &values)
}

fn take_units(tensor: &Tensor, axis: usize, chosen: &[usize], shape: &[usize]) -> Tensor {
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let outer: usize = tensor.shape()[..axis].iter().product();
    let units = tensor.shape()[axis];
    let source = tensor.to_f32().unwrap_or_default();
    let mut values = Vec::with_capacity(outer * chosen.len() * inner);
    for o in 0..outer {
        for unit in chosen {
            let start = (o * units + unit) * inner;
            values.extend_from_slice(&source[start..start + inner]);
        }
    }
    Tensor::from_f32(shape, &values)
}
