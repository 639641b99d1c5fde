//! The best candidates so far, unit by unit.

use dendrite_onnx::{ElementType, Tensor};
use dendrites::{Activation, DendriteSet, Site, Weights, candidates::Pool, units::UnitLayout};

use crate::error::{Error, Result};

/// The best snapshot of every unit: units of a pool are independent, so each is taken from the epoch in which it was best.
pub(super) struct Best {
    strengths: Vec<f64>,
    tensors: Weights,
    width: usize,
    weight: String,
    layout: UnitLayout,
}

impl Best {
    pub(super) fn new(site: &Site, pool: &Pool, tensors: &Weights, strengths: &[f64]) -> Self {
        let layout = UnitLayout::of_weight(site, &pool.set, pool.size());
        let (strengths, tensors) = (strengths.to_vec(), tensors.clone());
        Best { strengths, tensors, width: pool.set.width, weight: pool.set.path("weight"), layout }
    }

    /// How a tensor is divided among units: all but the weights are vectors.
    fn layout(&self, name: &str) -> UnitLayout {
        if name == self.weight { self.layout } else { UnitLayout::of_vector(self.strengths.len()) }
    }

    pub(super) fn update(&mut self, tensors: &Weights, strengths: &[f64]) {
        let better: Vec<bool> = strengths.iter().zip(&self.strengths).map(|(new, old)| new > old).collect();
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .map(|(name, kept)| {
                let chosen = choose_units(&kept, &tensors[&name], &self.layout(&name), &better);
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
                Some(wide) => {
                    let one = if name == self.weight {
                        UnitLayout::of_weight(site, &pool.set, 1)
                    } else {
                        UnitLayout::of_vector(self.width)
                    };
                    take_units(wide, &self.layout(&name), &units, &one, &shape)
                }
                None => Tensor::filled(ElementType::Float, &shape, 0.0),
            };
            tensors.insert(name, tensor);
        }
        Ok((activation, tensors))
    }
}

/// Multiply each unit by its scale.
pub(super) fn scale_units(tensor: &Tensor, layout: &UnitLayout, scales: &[f32]) -> Tensor {
    let values = tensor.to_f32().unwrap_or_default();
    let scaled: Vec<f32> = values.iter().enumerate().map(|(i, v)| v * scales[layout.unit(i)]).collect();
    Tensor::from_f32(tensor.shape(), &scaled)
}

fn choose_units(old: &Tensor, new: &Tensor, layout: &UnitLayout, better: &[bool]) -> Tensor {
    let (old_values, new_values) = (old.to_f32().unwrap_or_default(), new.to_f32().unwrap_or_default());
    let both = old_values.iter().zip(&new_values).enumerate();
    let values: Vec<f32> = both.map(|(i, (o, n))| if better[layout.unit(i)] { *n } else { *o }).collect();
    Tensor::from_f32(old.shape(), &values)
}

/// The units `chosen` of a pool as a tensor of their own.
fn take_units(tensor: &Tensor, pool: &UnitLayout, chosen: &[usize], one: &UnitLayout, shape: &[usize]) -> Tensor {
    let source = tensor.to_f32().unwrap_or_default();
    let values: Vec<f32> = (0..one.len()).map(|i| source[pool.counterpart(chosen[one.unit(i)], one, i)]).collect();
    Tensor::from_f32(shape, &values)
}
