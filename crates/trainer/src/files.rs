//! Writing files so that a crash leaves the old or the new one, never half of one.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::error::{Error, Result};

/// Write `bytes` to a temporary file beside `path`, flush it to the disk and move it into place.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(folder))?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::Io { path: path.to_owned(), source: e.error })?;
    sync_folder(folder)
}

/// Flush a folder's entries to the disk, so that a file moved into it stays moved.
pub fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    Ok(())
}

/// Create a folder and those above it.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(path))
}
