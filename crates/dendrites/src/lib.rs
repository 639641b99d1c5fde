//! Dendrites on ONNX graphs: where they can grow, what they are, how they are inserted, trained as candidates and written
//! into the user's file, and recognised there. No runtime in it.
//!
//! A *site* is a linear operation with weights and an output (neuron) axis. A *dendrite set* is a second such operation on
//! the same input, a non-linearity, and a connection to the site's neurons:
//!
//! ```text
//! neuron   z_d = Op(x; W_d, b_d) + sum_{e<d} c_{d,e} * a_e    a_d = f(z_d)    y = Op(x; W, b) + sum_d v_d * a_d
//! layer    a   = f(Op_K(x; W_d, b_d))                                         y = Op(x; W, b) + V a
//! ```
//!
//! A recurrent operator sums within itself: its dendrites are features that it reads beside its own, their connection more
//! columns of its weights ([`fragment::Joint`]).
//!
//! `neuron` is the paper's form (one scalar v and c a neuron, no mixing across neurons); `layer` feeds K dendrites to all
//! neurons through a K x C matrix, as Cascade-Correlation does.

pub mod candidates;
pub mod error;
pub mod fragment;
pub mod hoist;
pub mod insert;
mod operands;
pub mod plan;
pub mod probe;
pub mod recognise;
pub mod set;
pub mod sites;
pub mod trainable;
pub mod units;

pub use error::{Error, Result};
pub use fragment::{Fragment, fragment};
pub use hoist::hoist;
pub use plan::{Demand, Plan, PlannedSite};
pub use recognise::{Comparison, GrownSet, GrownSite, Growth, compare, recognise};
pub use set::{Activation, Connection, DendriteSet, Weights};
pub use sites::{Application, NotASite, Site, SiteKind, find_sites};
