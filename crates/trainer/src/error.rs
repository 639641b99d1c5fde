//! What can go wrong in a run, and what the user can do about it.

use std::path::PathBuf;

/// The result of an operation of the trainer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a run: about data, options, the model or the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model is at fault.
    #[error(transparent)]
    Onnx(#[from] dendrite_onnx::Error),
    /// Data cannot be read or do not fit.
    #[error(transparent)]
    Data(#[from] dendrite_data::Error),
    /// A gradient could not be built.
    #[error(transparent)]
    Autodiff(#[from] dendrite_autodiff::Error),
    /// Sites, plans or insertion failed.
    #[error(transparent)]
    Dendrites(#[from] dendrites::Error),
    /// The run folder's page or its TensorBoard file cannot be written.
    #[error(transparent)]
    Report(#[from] dendrite_report::Error),
    /// ONNX Runtime refused something.
    #[error(transparent)]
    Runtime(#[from] dendrite_runtime::Error),
    /// A training step does not fit into memory.
    #[error("a training step does not fit into memory: {reason}")]
    Memory {
        /// What ONNX Runtime said.
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
    /// An option is impossible here.
    #[error("{reason}")]
    Option {
        /// What is wrong.
        reason: String,
        /// The remedy.
        hint: String,
    },
    /// Training left the numbers.
    #[error("the loss became {value} in {phase}, epoch {epoch}")]
    Diverged {
        /// The loss.
        value: f64,
        /// The phase.
        phase: String,
        /// The epoch, from 1.
        epoch: usize,
    },
    /// A checkpoint cannot be used.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// Why.
        reason: String,
        /// The remedy.
        hint: String,
    },
    /// The user asked to stop; the last checkpoint says where.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Onnx(e) => e.hint(),
            Error::Data(e) => e.hint(),
            Error::Autodiff(e) => e.hint(),
            Error::Dendrites(e) => e.hint(),
            Error::Report(e) => e.hint(),
            Error::Runtime(e) => e.hint(),
            Error::Option { hint, .. } | Error::Checkpoint { hint, .. } => Some(hint),
            Error::Memory { .. } => Some(
                "--micro-batch passes a batch in pieces, --recompute keeps fewer activations; `dendrite plan` says what each \
                 comes to",
            ),
            Error::Diverged { .. } => Some("lower the learning rate with --lr"),
            Error::Io { source, .. } => dendrite_onnx::error::io_hint(source),
            Error::Interrupted => None,
        }
    }

    /// An error of a training step, which says so where memory was what lacked.
    pub(crate) fn of_training(error: Error) -> Self {
        match &error {
            Error::Runtime(said) => {
                said.lack_of_memory().map(str::to_owned).map_or(error, |reason| Error::Memory { reason })
            }
            _ => error,
        }
    }

    /// An i/o error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_told_with_what_takes_less() {
        let failed = |reason: &str| {
            Error::of_training(Error::Runtime(dendrite_runtime::Error::Run { reason: reason.to_owned() }))
        };
        let lack = failed("arena.cc:360 Failed to allocate memory for requested buffer of size 308281344");
        let told = "a training step does not fit into memory: Failed to allocate memory for requested buffer of size 308281344";
        assert_eq!(lack.to_string(), told);
        assert!(lack.hint().is_some_and(|hint| hint.contains("--micro-batch") && hint.contains("--recompute")));
        assert!(failed("bad shape").hint().is_none());
    }
}
