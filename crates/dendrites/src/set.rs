//! What a dendrite set is: one description for both connections, and the weights that belong to it.

use std::collections::BTreeMap;

use dendrite_onnx::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    sites::{Site, SiteKind},
};

/// The non-linearity of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Activation {
    Sigmoid,
    Tanh,
    Relu,
}

impl Activation {
    /// The ONNX operator.
    pub fn op(self) -> &'static str {
        match self {
            Activation::Sigmoid => "Sigmoid",
            Activation::Tanh => "Tanh",
            Activation::Relu => "Relu",
        }
    }

    /// The non-linearity that an ONNX operator is.
    pub fn of_op(op: &str) -> Option<Self> {
        [Activation::Sigmoid, Activation::Tanh, Activation::Relu].into_iter().find(|a| a.op() == op)
    }
}

/// How a set reaches the site's neurons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    /// One dendrite a neuron, one scalar each; sees earlier `neuron` sets of the site.
    Neuron,
    /// `width` dendrites, each connected to every neuron.
    Layer,
}

/// One dendrite set at one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DendriteSet {
    /// The site's output value.
    pub site: String,
    /// Position among the sets of the site, from 0.
    pub index: usize,
    /// The connection.
    pub connection: Connection,
    /// The non-linearity.
    pub activation: Activation,
    /// Dendrites in the set: the site's neurons for [`Connection::Neuron`].
    pub width: usize,
}

/// Tensors by name: the weights of dendrites, and trained weights of the model.
pub type Weights = BTreeMap<String, Tensor>;

impl DendriteSet {
    /// The name of the tensor with `role`.
    pub fn path(&self, role: &str) -> String {
        self.path_at(&self.site, role)
    }

    /// The name of the node or value with `role` where the site is applied and its output is `output`.
    pub fn path_at(&self, output: &str, role: &str) -> String {
        format!("{output}/dendrite_{}/{role}", self.index)
    }

    /// The shape of the weight operand: the site's, with `width` neurons.
    pub fn weight_shape(&self, site: &Site) -> Vec<usize> {
        site.weight_shape_of(self.width)
    }

    /// The shape of a vector with one element a dendrite, as it broadcasts against the set's activations.
    pub fn channel_shape(&self, site: &Site) -> Vec<usize> {
        let mut shape = vec![self.width];
        if site.kind.is_convolution() {
            shape.extend(std::iter::repeat_n(1, site.weight_shape.len() - 2));
        }
        shape
    }

    /// The shape of the connection: a scalar a neuron, or the mixing matrix in the form its operator takes.
    pub fn connection_shape(&self, site: &Site) -> Vec<usize> {
        if let SiteKind::Recurrent { directions } = site.kind {
            return vec![directions, site.channels / directions.max(1), self.width];
        }
        match self.connection {
            Connection::Neuron => self.channel_shape(site),
            Connection::Layer if site.kind.is_convolution() => {
                let mut shape = vec![site.channels, self.width];
                shape.extend(std::iter::repeat_n(1, site.weight_shape.len() - 2));
                shape
            }
            Connection::Layer => vec![self.width, site.channels],
        }
    }

    /// The earlier sets of the same site that this one reads.
    pub fn cascade<'a>(&'a self, sets: &'a [DendriteSet]) -> impl Iterator<Item = &'a DendriteSet> {
        sets.iter().filter(|s| {
            s.site == self.site
                && s.index < self.index
                && s.connection == Connection::Neuron
                && self.connection == Connection::Neuron
        })
    }

    /// The name of the weights with which this set reads the earlier set `from`.
    pub fn cascade_path(&self, from: &DendriteSet) -> String {
        self.path(&format!("cascade_{}", from.index))
    }

    /// Every tensor of the set with its shape.
    pub fn tensors(&self, site: &Site, sets: &[DendriteSet]) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![(self.path("weight"), self.weight_shape(site))];
        if site.bias {
            let shape = if site.kind.is_convolution() { vec![self.width] } else { self.channel_shape(site) };
            tensors.push((self.path("bias"), shape));
        }
        tensors.push((self.path("connection"), self.connection_shape(site)));
        for from in self.cascade(sets) {
            tensors.push((self.cascade_path(from), self.channel_shape(site)));
        }
        tensors
    }

    /// Parameters the set adds.
    pub fn parameters(&self, site: &Site, sets: &[DendriteSet]) -> usize {
        self.tensors(site, sets).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// The tensor `name` of `weights`, with the shape the set demands.
pub fn tensor<'a>(weights: &'a Weights, set: &DendriteSet, name: &str, shape: &[usize]) -> Result<&'a Tensor> {
    let fail = |reason: String| Error::Set { site: set.site.clone(), reason };
    let tensor = weights.get(name).ok_or_else(|| fail(format!("tensor '{name}' is missing")))?;
    if tensor.shape() != shape {
        return Err(fail(format!("tensor '{name}' has shape {:?}, not {shape:?}", tensor.shape())));
    }
    Ok(tensor)
}
