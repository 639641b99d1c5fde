//! Data sets of every kind, matched to a model's inputs and streamed.
//!
//! A [`DataSet`] is a file or folder with named columns; its kind is told by its content. [`DataSet::samples`] matches the
//! columns to what a model asks ([`Request`]), checks them, and gives [`Samples`], which are read row by row in the types
//! of the model's inputs. A [`Loader`] makes batches of them ahead of the consumer, augmented where that is asked for.
//!
//! Arrays that fit stay in memory, larger ones lie where they are and are read by position, so that a data set may be larger
//! than memory.

mod array;
mod augment;
mod cast;
mod column;
mod dataset;
mod error;
mod fingerprint;
mod formats;
mod images;
mod loader;
mod matching;
mod names;
mod preprocess;
mod random;
mod request;
mod samples;
mod spool;
mod storage;
mod table;
mod target;
mod transpose;

pub use augment::{Augment, Extent, Fill, Flip};
pub use dataset::{DataSet, Limits, open};
pub use error::{Error, Result};
pub use loader::{Batch, Loader};
pub use preprocess::{Channels, Classes, Filter, Layout, PerChannel, Preprocess, Resize, Size};
pub use request::{Input, Request};
pub use samples::{Field, Samples};
