//! Batches of samples on their way into a session.

use std::{borrow::Cow, ops::Range};

use dendrite_data::{Batch, Samples};
use dendrite_onnx::{ElementType, Tensor};
use dendrite_runtime::Loop;

use crate::error::{Error, Result};

/// A feed of a session: name, type and shape.
pub type Port = (String, ElementType, Vec<usize>);

/// The model's inputs for batches of `batch` samples.
pub fn inputs(samples: &Samples, batch: usize) -> Vec<Port> {
    let port = |field: &dendrite_data::Field| (field.name.clone(), field.element_type, field.batch_shape(batch));
    samples.fields().iter().map(port).collect()
}

/// The names of the model's inputs with their shapes for batches of `batch` samples.
pub fn shapes(samples: &Samples, batch: usize) -> Vec<(String, Vec<usize>)> {
    inputs(samples, batch).into_iter().map(|(name, _, shape)| (name, shape)).collect()
}

/// The target as the feed `name`.
pub fn target(samples: &Samples, name: &str, batch: usize) -> Result<Port> {
    let field = samples.target().ok_or_else(|| no_target(samples))?;
    Ok((name.to_owned(), field.element_type, field.batch_shape(batch)))
}

/// The error that a data set has no target.
pub fn no_target(samples: &Samples) -> Error {
    samples.error("it holds no target", "name the array 'target' or say --target").into()
}

/// Write the inputs that are the same for every batch.
pub fn write_constants(pass: &mut Loop, samples: &Samples) -> Result<()> {
    for (index, field) in samples.fields().iter().enumerate() {
        if let Some(tensor) = samples.constant(index) {
            pass.write(&field.name, tensor.bytes())?;
        }
    }
    Ok(())
}

/// Write a batch's inputs and its target, the latter into the feed `target`.
pub fn write(pass: &mut Loop, samples: &Samples, batch: &Batch, target: &str) -> Result<()> {
    for (field, bytes) in samples.fields().iter().zip(&batch.fields).filter(|(field, _)| field.per_sample) {
        pass.write(&field.name, bytes)?;
    }
    Ok(pass.write(target, &batch.target)?)
}

/// The rows `part` of a batch, filled up to `size` rows with the first of them, whose weights are 0.
pub(crate) struct Part<'a> {
    batch: &'a Batch,
    rows: Range<usize>,
    size: usize,
}

impl<'a> Part<'a> {
    pub(crate) fn new(batch: &'a Batch, rows: Range<usize>, size: usize) -> Self {
        Part { batch, rows, size }
    }

    /// The part's bytes of an array of the batch.
    fn bytes(&self, all: &'a [u8]) -> Cow<'a, [u8]> {
        let width = all.len() / self.batch.rows.len().max(1);
        let own = all.get(self.rows.start * width..self.rows.end * width).unwrap_or_default();
        if self.rows.len() == self.size {
            return Cow::Borrowed(own);
        }
        let first = own.get(..width).unwrap_or_default();
        let filling = std::iter::repeat_n(first, self.size.saturating_sub(self.rows.len()));
        Cow::Owned([own].into_iter().chain(filling).flatten().copied().collect())
    }

    fn weights(&self) -> Vec<f32> {
        let mut weights = self.batch.weights.get(self.rows.clone()).unwrap_or_default().to_vec();
        weights.resize(self.size, 0.0);
        weights
    }

    /// Write the part into a pass: its inputs, its target and its weights, the latter into the feeds called so.
    pub(crate) fn write(&self, pass: &mut Loop, samples: &Samples, target: &str, weight: &str) -> Result<()> {
        for (field, bytes) in samples.fields().iter().zip(&self.batch.fields).filter(|(field, _)| field.per_sample) {
            pass.write(&field.name, &self.bytes(bytes))?;
        }
        pass.write(target, &self.bytes(&self.batch.target))?;
        Ok(pass.write_f32(weight, &self.weights())?)
    }

    /// The part as tensors, those that are the same for every batch included.
    pub(crate) fn tensors(&self, samples: &Samples, target: &str, weight: &str) -> Result<Vec<(String, Tensor)>> {
        let mut feeds = Vec::new();
        for (index, (field, bytes)) in samples.fields().iter().zip(&self.batch.fields).enumerate() {
            let tensor = match samples.constant(index) {
                Some(tensor) => tensor.clone(),
                None => Tensor::new(field.element_type, field.batch_shape(self.size), self.bytes(bytes).into_owned())?,
            };
            feeds.push((field.name.clone(), tensor));
        }
        let (name, element_type, shape) = self::target(samples, target, self.size)?;
        feeds.push((name, Tensor::new(element_type, shape, self.bytes(&self.batch.target).into_owned())?));
        feeds.push((weight.to_owned(), Tensor::from_f32(&[self.size], &self.weights())));
        Ok(feeds)
    }
}

/// Some rows of every input, as a session takes them.
pub fn rows(samples: &Samples, indices: &[usize]) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    for (index, field) in samples.fields().iter().enumerate() {
        let tensor = match samples.constant(index) {
            Some(tensor) => tensor.clone(),
            None => {
                let mut bytes = vec![0u8; field.row_bytes() * indices.len()];
                samples.read(index, indices, &mut bytes)?;
                Tensor::new(field.element_type, field.batch_shape(indices.len()), bytes)?
            }
        };
        tensors.push((field.name.clone(), tensor));
    }
    Ok(tensors)
}
