//! What can go wrong between a model and ONNX Runtime, and what the user can do about it.

use std::path::PathBuf;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about the library, a session or a run. [`Error::hint`] gives the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library was not found and could not be fetched.
    #[error("ONNX Runtime {version} was not found and could not be installed: {reason}")]
    Install {
        /// The version wanted.
        version: &'static str,
        /// What failed.
        reason: String,
    },
    /// A path named by the user does not hold the library.
    #[error("{path}: {reason}")]
    Library {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused a file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The device asked for is not there.
    #[error("{device} cannot be used: {reason}")]
    Device {
        /// The device.
        device: String,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// ONNX Runtime did not accept the model.
    #[error("ONNX Runtime does not load the model: {reason}")]
    Load {
        /// What it said.
        reason: String,
    },
    /// A tensor given or asked for does not fit the model.
    #[error("'{name}': {reason}")]
    Port {
        /// The input or output.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// A run failed.
    #[error("ONNX Runtime failed: {reason}")]
    Run {
        /// What it said.
        reason: String,
    },
    /// A run was ended from outside.
    #[error("interrupted")]
    Interrupted,
    /// The graph or a tensor in it is at fault.
    #[error(transparent)]
    Model(#[from] dendrite_onnx::Error),
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Install { .. } => Some(
                "set ORT_DYLIB_PATH to the library, or run `dendrite runtime install` with a connection, or `pip install \
                 onnxruntime==1.31.1`",
            ),
            Error::Library { .. } => Some(
                "set ORT_DYLIB_PATH to libonnxruntime (.so, .dylib or .dll) of 1.24 or newer, or unset it to use the one \
                 that `dendrite runtime install` fetches",
            ),
            Error::Device { .. } => Some(
                "`dendrite runtime install --gpu` fetches the library with CUDA; it needs a driver, CUDA 13 and cuDNN 9 on \
                 the library path; `--device cpu` runs anywhere",
            ),
            Error::Load { reason } if reason.contains("not a registered") || reason.contains("No Op registered") => {
                Some("ONNX Runtime lacks this operator: export the model with standard operators of its opset")
            }
            Error::Load { reason } if reason.contains("InferenceError") => {
                Some("types or shapes do not go together at this node: export the model again")
            }
            Error::Load { .. } => Some("`dendrite check` lists every finding in the file"),
            Error::Port { .. } => Some("`dendrite inspect` shows what the model takes and gives"),
            Error::Model(e) => e.hint(),
            _ => None,
        }
    }

    /// What was said about memory, on the host or on a device, if that was what lacked.
    pub fn lack_of_memory(&self) -> Option<&str> {
        const SAID: [&str; 4] = ["Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory"];
        let (Error::Run { reason } | Error::Load { reason }) = self else { return None };
        let start = SAID.iter().find_map(|text| reason.find(text))?;
        reason.get(start..)
    }

    /// The error that ONNX Runtime did not load a model, from what it said: without what the error says anyway, and a node
    /// named as everywhere.
    pub(crate) fn load(said: &str) -> Self {
        let said =
            said.split_once(" failed:").filter(|(start, _)| start.starts_with("Load model")).map_or(said, |s| s.1);
        let node = said.strip_prefix("Node (").and_then(|rest| {
            let (node, rest) = rest.split_once(") Op (")?;
            let (op, reason) = rest.split_once(") [")?;
            let (kind, reason) = reason.split_once("] ")?;
            Some(format!("node '{node}' ({op}): {reason} ({kind})"))
        });
        let operator = said.strip_prefix("Fatal error: ").and_then(|rest| {
            let (name, _) = rest.split_once("(-1) is not a registered function/op")?;
            Some(format!("'{name}' is not a registered operator"))
        });
        Error::Load { reason: node.or(operator).unwrap_or_else(|| said.to_owned()) }
    }

    pub(crate) fn run(error: impl std::fmt::Display) -> Self {
        Error::Run { reason: error.to_string().trim_end().to_owned() }
    }

    pub(crate) fn port(name: &str, reason: impl Into<String>) -> Self {
        Error::Port { name: name.to_owned(), reason: reason.into() }
    }
}
