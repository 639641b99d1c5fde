//! How a command ends: exit codes, and errors with their causes and their remedy.

use std::{error::Error, io, process::ExitCode};

use crate::output::Output;

/// How a command ended that met no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything is as wished: exit 0.
    Success,
    /// A negative finding: exit 1.
    Negative,
    /// The user stopped it: exit 130, as shells expect.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => ExitCode::SUCCESS,
            Outcome::Negative => ExitCode::from(1),
            Outcome::Interrupted => ExitCode::from(130),
        }
    }
}

/// An error on its way to the user: exit 2.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

/// A message of the command's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

impl Failure {
    /// An error of the command itself.
    pub(crate) fn new(message: impl Into<String>, hint: Option<&str>) -> Self {
        Failure { error: Box::new(Message(message.into())), hint: hint.map(str::to_owned) }
    }

    /// The error in one line, without its causes.
    #[cfg_attr(not(feature = "tract"), allow(dead_code))]
    pub(crate) fn message(&self) -> String {
        self.error.to_string()
    }

    /// Print `error:`, the causes it does not name itself, and `hint:`; the exit code. Output that nobody reads any more
    /// is no failure.
    pub(crate) fn report(&self, out: &Output) -> ExitCode {
        if self.is_broken_pipe() {
            return ExitCode::SUCCESS;
        }
        let mut said = self.error.to_string();
        eprintln!("{} {said}", out.alarm("error:"));
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                eprintln!("  caused by: {text}");
            }
            said = text;
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            eprintln!("{} {hint}", out.advice("hint:"));
        }
        ExitCode::from(2)
    }

    fn is_broken_pipe(&self) -> bool {
        self.error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { error: Box::new(error), hint: None }
    }
}

/// Errors of the crates bring their hint along.
macro_rules! from_crates {
    ($($(#[$attribute:meta])* $error:ty;)*) => {
        $($(#[$attribute])* impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let hint = error.hint().map(|h| h.to_string());
                Failure { error: Box::new(error), hint }
            }
        })*
    };
}

from_crates! {
    dendrite_onnx::Error;
    dendrite_runtime::Error;
    dendrite_trainer::Error;
    dendrites::Error;
    #[cfg(feature = "tract")]
    dendrite_tract::Error;
}
