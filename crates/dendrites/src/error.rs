//! What can go wrong when dendrites are planned or inserted.

/// The result of an operation on dendrites.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about sites, plans or insertion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model itself is at fault.
    #[error(transparent)]
    Onnx(#[from] dendrite_onnx::Error),
    /// A gradient could not be built.
    #[error(transparent)]
    Autodiff(#[from] dendrite_autodiff::Error),
    /// A pattern is not a valid glob.
    #[error("'{pattern}' is not a valid pattern: {reason}")]
    Pattern {
        /// What the user wrote.
        pattern: String,
        /// Why it does not parse.
        reason: String,
    },
    /// A pattern or name selects no site.
    #[error("no site matches '{pattern}'; the model has {}", listed(known))]
    NoSite {
        /// What the user wrote.
        pattern: String,
        /// The sites there are.
        known: Vec<String>,
    },
    /// Every site is excluded.
    #[error("no site is left to grow dendrites on")]
    NoneLeft,
    /// A site that is wanted takes no dendrites by the connection wanted.
    #[error("site '{site}' cannot grow: {reason}")]
    Refused {
        /// The site's output value.
        site: String,
        /// Why, as a clause.
        reason: &'static str,
    },
    /// A plan does not fit the model.
    #[error("{0}")]
    Plan(String),
    /// A pattern selects no weight.
    #[error("no weight matches '{pattern}'; the model has {}", listed(known))]
    NoWeight {
        /// What the user wrote.
        pattern: String,
        /// The weights there are.
        known: Vec<String>,
    },
    /// The budget has no room for a dendrite.
    #[error("{0}")]
    Budget(String),
    /// A set and the weights or the site it belongs to disagree.
    #[error("dendrite set at '{site}': {reason}")]
    Set {
        /// The site's output value.
        site: String,
        /// What does not fit.
        reason: String,
    },
}

impl Error {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Onnx(e) => e.hint(),
            Error::Autodiff(e) => e.hint(),
            Error::Pattern { .. } => Some("patterns are globs such as '/layer*/conv*'; quote them from the shell"),
            Error::NoSite { .. } => {
                Some("`dendrite inspect MODEL --sites` lists the sites and why other nodes are none")
            }
            Error::NoWeight { .. } => {
                Some("--train-weights takes all, sites, head, dendrites or a pattern of weight names")
            }
            Error::NoneLeft => Some("exclude fewer: --exclude takes away from what --sites selects"),
            Error::Refused { .. } => Some("grow with --connect layer, or leave the site out with --exclude"),
            Error::Plan(_) => Some("`dendrite plan MODEL` prints a plan for the model"),
            Error::Budget(_) => Some("raise --max-parameters or leave it out"),
            Error::Set { .. } => None,
        }
    }
}

/// The names, as many as a line holds.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    match names.len() {
        0 => "none".to_owned(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}
