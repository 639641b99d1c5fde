//! Read, write, check and edit ONNX models. No runtime in it.
//!
//! Two views of a file stand side by side, because they serve two purposes:
//!
//! * [`Model`] is the user's file: the decoded protobuf over a memory map, kept together with its bytes. It is edited by
//!   a [`Patch`], which replaces and adds messages in the byte stream and leaves everything else as it lies.
//! * [`Graph`] is a working copy for analysis and training: typed ids instead of names, one opset, free to be rewritten.
//!
//! Values, initializers and nodes keep their names on the way from `Model` to `Graph`, so that what was trained returns
//! to the file by name.

pub mod attributes;
pub mod batch;
pub mod bodies;
pub mod check;
pub mod diff;
pub mod error;
pub mod external;
pub mod file;
pub mod functions;
pub mod graph;
mod map;
pub mod model;
pub mod ops;
pub mod padding;
pub mod patch;
pub mod proto;
pub mod shape;
pub mod survey;
pub mod tensor;
pub mod upgrade;
mod wire;

pub use attributes::Attributes;
pub use check::{Finding, Severity, check};
pub use error::{Error, Result};
pub use graph::{Graph, Node, NodeId, Value, ValueId};
pub use model::Model;
pub use patch::Patch;
pub use shape::{Dim, Shape};
pub use tensor::{ElementType, Tensor};

/// The opset of working copies: the highest that the pinned ONNX Runtime and tract both run.
pub const WORKING_OPSET: i64 = 26;
