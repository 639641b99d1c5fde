//! What can go wrong when a graph is differentiated, and what the user can do about it.

/// The result of building a gradient, a loss or an optimizer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about the differentiation of a graph. The message names the node; [`Error::hint`] the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operator on the path from a parameter to the loss has no gradient rule.
    #[error("node '{node}': the gradient of {op} (opset {version}) is not implemented")]
    NotImplemented {
        /// The node's name, or its first output where it has none.
        node: String,
        /// The operator, with its domain where that is not the standard one.
        op: String,
        /// The opset version of the operator's domain in this graph.
        version: i64,
    },
    /// A rule exists but cannot answer for this node.
    #[error("node '{node}' ({op}): {reason}")]
    Stop {
        /// The node's name, or its first output where it has none.
        node: String,
        /// The operator.
        op: String,
        /// Why there is no gradient.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
    /// The graph, loss or optimizer asked for does not make sense.
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
    /// The graph itself is malformed.
    #[error(transparent)]
    Onnx(#[from] dendrite_onnx::Error),
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::NotImplemented { .. } => Some(
                "freeze the parameters before this node (`--train-weights`), or stop the gradient at its output, so that no \
                 gradient has to pass through it",
            ),
            Error::Stop { remedy, .. } | Error::Invalid { remedy, .. } => Some(remedy),
            Error::Onnx(e) => e.hint(),
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Invalid { reason: reason.into(), remedy: remedy.into() }
    }
}
