//! Image files as rows: listing, decoding, resizing, and the numbers that a model takes.

mod decode;
pub(crate) mod folder;
mod plan;
mod resize;
mod source;

use std::path::{Path, PathBuf};

pub(crate) use decode::{Picture, dimensions};
pub(crate) use plan::Plan;
pub(crate) use source::ImageSource;

/// The image files of a data set.
#[derive(Debug)]
pub(crate) struct ImageList {
    root: PathBuf,
    files: Vec<PathBuf>,
}

impl ImageList {
    /// `files` are relative to `root`.
    pub(crate) fn new(root: PathBuf, files: Vec<PathBuf>) -> Self {
        ImageList { root, files }
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The path of row `index` within the data set.
    pub(crate) fn relative(&self, index: usize) -> &Path {
        self.files.get(index).map_or(Path::new(""), PathBuf::as_path)
    }

    /// The file of row `index`.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        self.root.join(self.relative(index))
    }
}
