//! What can go wrong with a model file, and what the user can do about it.

use std::path::PathBuf;

/// The result of an operation on a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about a model or a part of one. The message names the file, node or tensor; [`Error::hint`] the remedy.
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
    /// The bytes are not an ONNX model.
    #[error("{path}: not an ONNX model: {reason}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        reason: String,
        /// The remedy.
        hint: &'static str,
    },
    /// A tensor's description and its bytes disagree, or its kind is unknown.
    #[error("tensor '{name}': {reason}")]
    Tensor {
        /// The tensor's name in the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A node is malformed.
    #[error("node '{node}' ({op}): {reason}")]
    Node {
        /// The node's name, or its first output where it has none.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The graph as a whole is malformed.
    #[error("graph '{graph}': {reason}")]
    Graph {
        /// The graph's name.
        graph: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's bytes outside the model file cannot be had.
    #[error("tensor '{name}': external data '{location}': {reason}")]
    External {
        /// The tensor's name in the file.
        name: String,
        /// The file its message names.
        location: String,
        /// What is wrong with it.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// An edit does not fit the model.
    #[error("the model cannot be edited: {reason}")]
    Edit {
        /// What does not fit.
        reason: String,
        /// What the caller can do.
        hint: String,
    },
    /// The model is valid but asks for something this tool does not do.
    #[error("{what}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What the user can do instead.
        hint: String,
    },
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Io { source, .. } => io_hint(source),
            Error::Decode { hint, .. } => Some(hint),
            Error::Tensor { .. } | Error::Node { .. } | Error::Graph { .. } => {
                Some("`dendrite check` lists every finding in the file")
            }
            Error::External { hint, .. } | Error::Edit { hint, .. } | Error::Unsupported { hint, .. } => Some(hint),
        }
    }
}

/// The remedy for what the operating system refused, where one is known.
pub fn io_hint(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind as Kind;
    Some(match error.kind() {
        Kind::NotFound => "check the path",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            "check who may read or write there, or choose another place"
        }
        Kind::StorageFull | Kind::QuotaExceeded => "free space on the disk; what was there before is unharmed",
        Kind::IsADirectory => "give a file, not a folder",
        Kind::AlreadyExists => "a file of this name is in the way; choose another place",
        Kind::NotADirectory => "a part of the path is a file; check the path",
        _ => return None,
    })
}
