//! A run folder as one page to read, and a run as TensorBoard events.
//!
//! Both are made from the folder's documented files (docs/run-folder.md) and know nothing of what wrote them: the page can be
//! made anew from any run folder at any later time.

mod error;
mod page;
mod run;
mod schema;
pub mod tensorboard;
mod timeline;
mod words;

pub use error::{Error, Result};
pub use page::render;
