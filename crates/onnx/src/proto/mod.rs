//! The protobuf messages of ONNX, generated from `proto/onnx-ml.proto` (see `tests/proto_is_current.rs`).
//! Byte fields are [`bytes::Bytes`]: decoding from a memory map copies no tensor.

#[allow(missing_docs, clippy::all, unreachable_pub)]
#[rustfmt::skip] // as it was generated, so that the test can compare bytes
mod generated;

pub use generated::*;
