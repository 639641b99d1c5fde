//! What can go wrong when tract runs a model.

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about a run in tract. [`Error::hint`] gives the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// tract did not accept or run the model.
    #[error("tract does not run the model: {reason}")]
    Tract {
        /// What it said.
        reason: String,
    },
    /// A tensor given to it does not fit.
    #[error("'{name}': {reason}")]
    Feed {
        /// The value.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// The graph or a tensor in it is at fault.
    #[error(transparent)]
    Model(#[from] dendrite_onnx::Error),
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Tract { .. } => {
                Some("tract covers fewer operators than ONNX Runtime; `--runtime ort` leaves it out")
            }
            Error::Model(e) => e.hint(),
            Error::Feed { .. } => None,
        }
    }
}
