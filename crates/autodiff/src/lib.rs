//! Reverse-mode differentiation of ONNX graphs, with losses and optimizers as graphs; no runtime in it.
//!
//! [`gradients`] extends a graph by the nodes that compute derivatives of one of its values. Everything it emits is a
//! standard operator that has a gradient rule itself, so the result can be differentiated again. Rules live in
//! `rules/`, one expression each; broadcasting is undone once, in the engine.
//!
//! ```
//! use std::collections::HashSet;
//! use dendrite_onnx::{Attributes, ElementType, Graph, Shape, WORKING_OPSET};
//!
//! let mut graph = Graph::new("example", WORKING_OPSET);
//! let x = graph.add_input("x", ElementType::Float, Shape::known(&[]));
//! let y = graph.op("Mul", "y", &[x, x], Attributes::new());
//! graph.set_type(y, Some(ElementType::Float), Some(Shape::known(&[])));
//! let gradients = dendrite_autodiff::gradients(&mut graph, y, &[x], &HashSet::new())?;
//! assert!(gradients[0].is_some());
//! # Ok::<(), dendrite_autodiff::Error>(())
//! ```

pub mod accumulation;
mod control;
mod ctc;
mod engine;
pub mod error;
pub mod expr;
pub mod footprint;
pub mod loss;
mod lowering;
pub mod optimizer;
pub mod recompute;
mod rules;

pub use control::OPERATORS as CONTROL_FLOW;
pub use engine::{Gradient, gradients};
pub use error::{Error, Result};
pub use lowering::lower_missing;
pub use rules::{differentiable, is_quantised, supported};
