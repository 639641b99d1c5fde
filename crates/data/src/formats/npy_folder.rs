//! A folder of `.npy` files, each an array named like its file.

use std::path::{Path, PathBuf};

use crate::{
    array::Origin,
    column::Column,
    error::Result,
    formats::npy::{self, Place},
    storage::{DataFile, Storage},
};

/// The columns of `files`, the `.npy` files of the folder `root`.
pub(crate) fn columns(root: &Path, files: &[PathBuf]) -> Result<Vec<Column>> {
    let column = |file: &PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let data = DataFile::open(file)?;
        npy::column(Origin::new(root, &name), Place::Stored(Storage::whole(data)))
    };
    files.iter().map(column).collect()
}
