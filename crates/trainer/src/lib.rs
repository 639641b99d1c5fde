//! Phases, controller, metrics, checkpoints and the run folder.
//!
//! [`grow`] runs the whole cycle: score the input model, fine-tune it, then grow dendrites in cycles of a dendrite and a
//! neuron phase, keep a cycle when a paired test on validation says so, and write the best model of all.

pub mod accept;
pub mod anomaly;
mod axes;
mod batch_norm;
pub mod checkpoint;
pub mod choices;
mod classes;
pub mod controls;
mod copy;
pub mod dendrite;
mod drawn;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod events;
pub mod export;
pub mod feed;
pub mod folder;
mod frozen;
mod further;
pub mod grow;
mod link;
mod lock;
pub mod memory;
pub mod metric;
pub mod network;
pub mod neuron;
pub mod objective;
pub mod options;
pub mod origin;
mod pieces;
pub mod prepare;
mod quantised;
pub mod random;
pub mod schedule;
pub mod sequence;
pub mod step;
pub mod summary;
pub mod wider;
mod working;

pub use controls::controls;
pub use dendrite_data::{Augment, DataSet, Input, Loader, Preprocess, Request, Samples};
pub use error::{Error, Result};
pub use events::Event;
pub use grow::{Outcome, Run, SecondRuntime, grow};
pub use network::{Growth, Network};
pub use options::{Method, Options};
