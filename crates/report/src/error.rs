//! What can go wrong, and what the user can do about it.

use std::path::PathBuf;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file of a run folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        reason: String,
        /// The remedy.
        hint: String,
    },
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Content { hint, .. } => Some(hint),
            Error::Io { source, .. } => dendrite_onnx::error::io_hint(source),
        }
    }

    /// An i/o error with the file it concerns.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
