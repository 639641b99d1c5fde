//! Everything about ONNX Runtime: the library, devices, sessions, bindings, shape inference.
//!
//! * [`library`] finds the shared library or installs the pinned one; the first session does both on its own.
//! * [`Session`] runs a model on tensors of any type.
//! * [`Loop`] runs one graph many times with its state kept on the device: the training step.
//! * [`infer_shapes`] fills in the types and shapes of a graph's values, [`fold_integers`] the integers it computes from them.
//!
//! A process has one environment; it is made with the first session and lives as long as the process.

mod bodies;
mod contents;
mod convert;
mod environment;
pub mod error;
mod folding;
pub mod library;
mod looping;
mod probe;
mod session;
mod shapes;

pub use error::{Error, Result};
pub use folding::fold_integers;
pub use looping::{Loop, StateSlot, Terminator};
pub use session::{Device, Optimization, Port, Session, SessionOptions};
pub use shapes::{infer_shapes, runs};
