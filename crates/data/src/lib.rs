//! Data sets of every kind, matched to a model's inputs and streamed.
//!
//! A [`DataSet`] is a file or folder with named columns; its kind is told by its content. [`DataSet::samples`] matches the
//! columns to what a model asks ([`Request`]), checks them, and gives [`Samples`], which are read row by row in the types
//! of the model's inputs. A [`Loader`] makes batches of them ahead of the consumer, augmented where that is asked for.
//!
//! | kind | columns |
//! |---|---|
//! | `.npz` | its arrays, stored or deflated, of any byte order and either memory order |
//! | folder of `.npy` files | an array for each file, named like it |
//! | `.safetensors` | its tensors |
//! | `.parquet` | columns of numbers, of lists of numbers of equal length, and of texts (classes) |
//! | `.csv`, `.tsv` | columns of numbers and of texts (classes); comma, semicolon or tab; a header row |
//! | folder of images by class | `image` and `target`; classes in the order of `classes.txt`, else of their names |
//! | folder of `test_data_set_N` | ONNX's test data: `input_K`, `output_K`; `target` is `output_0` |
//!
//! An input takes the array called like it, or the one that [`Request::map`] names. Images go to the only input that can
//! take them, test data without names by their order. In tables, several columns make up an input: `name_0`, `name_1`, ...,
//! or all but target and weight where the model has one input of that width.
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
mod order;
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
pub use names::nearest;
pub use order::Order;
pub use preprocess::{Channels, Classes, Filter, Layout, PerChannel, Preprocess, Resize, Size};
pub use random::generator;
pub use request::{Input, Request};
pub use samples::{Field, Samples};
