//! The user's file: decoded without copies, kept together with its bytes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::{
    error::{Error, Result},
    proto::{ModelProto, TensorProto},
    tensor::Tensor,
};

/// An ONNX model as it lies in a file.
#[derive(Debug, Clone)]
pub struct Model {
    path: Option<PathBuf>,
    bytes: Bytes,
    proto: ModelProto,
}

impl Model {
    /// Open a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut model = Self::from_bytes(bytes)?;
        model.path = Some(path.to_owned());
        Ok(model)
    }

    /// Read a model from memory. It cannot refer to external data.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        let proto = ModelProto::decode(bytes.clone())
            .map_err(|e| Error::Decode { path: PathBuf::new(), reason: e.to_string() })?;
        Ok(Model { path: None, bytes, proto })
    }

    /// The file's path, if it came from one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The decoded message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The contents of one of the model's tensor messages, external data included.
    pub fn tensor(&self, proto: &TensorProto) -> Result<Tensor> {
        Tensor::from_proto(proto)
    }
}
