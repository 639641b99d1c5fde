//! Batches of samples on their way into a session.

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
