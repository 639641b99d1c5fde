//! What can be wrong with data, and what the user can do about it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The result of reading or matching data.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Data cannot be read, or do not fit the model or each other.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The data set, or the file in it that is at fault.
        path: PathBuf,
        /// What is wrong, with array and row.
        reason: String,
        /// The remedy.
        hint: String,
    },
    /// A request or an option is impossible here.
    #[error("{reason}")]
    Option {
        /// What is wrong.
        reason: String,
        /// The remedy.
        hint: String,
    },
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Data { hint, .. } | Error::Option { hint, .. } => Some(hint),
            Error::Io { source, .. } => match source.kind() {
                ErrorKind::UnexpectedEof => {
                    Some("the file changed or was cut off while it was read: leave it as it is")
                }
                ErrorKind::StorageFull => {
                    Some("make room where temporary files lie, or set TMPDIR to a folder with more")
                }
                _ => dendrite_onnx::error::io_hint(source),
            },
        }
    }

    /// An i/o error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// An error about the data in `path`.
    pub fn data(path: impl AsRef<Path>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().to_owned(), reason: reason.into(), hint: hint.into() }
    }

    /// An error about an option.
    pub fn option(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Option { reason: reason.into(), hint: hint.into() }
    }
}
