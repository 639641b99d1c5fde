//! How a command ends: exit codes, and errors with their causes and their remedy.

use std::{error::Error, io, path::Path, process::ExitCode};

use dendrite_data::nearest;
use dendrite_onnx::{Model, Severity};

use crate::{
    growth::{NOT_EXPANDED, home},
    output::Output,
};

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
    /// The file that the error is about, where the error itself does not know.
    place: Option<String>,
    hint: Option<String>,
}

/// Names of a folder that are looked through for the one that was meant.
const MOST_NAMES: usize = 10_000;

/// A message of the command's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

impl Failure {
    /// An error of the command itself.
    pub(crate) fn new(message: impl Into<String>, hint: Option<&str>) -> Self {
        Failure { error: Box::new(Message(message.into())), place: None, hint: hint.map(str::to_owned) }
    }

    /// What the operating system refused of `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| dendrite_onnx::Error::Io { path: path.to_owned(), source }.into()
    }

    /// Name the model that the error is about, where it is about a part of one and does not say of which. What `check` finds
    /// in the file says more than what stumbled over it.
    pub(crate) fn of(mut self, model: &Path) -> Self {
        if !of_a_model(&*self.error) {
            return self;
        }
        self.place = Some(model.display().to_string());
        let findings = Model::open(model).map(|model| dendrite_onnx::check(&model)).unwrap_or_default();
        if let Some(finding) = findings.into_iter().find(|f| f.severity == Severity::Error) {
            let place = if finding.place == "model" { String::new() } else { format!("{}: ", finding.place) };
            self.error = Box::new(Message(place + &finding.message));
            self.hint = finding.hint.or(self.hint);
        }
        self
    }

    /// The hint: for a file that is not there, the one that is called almost like it.
    fn remedy(&self) -> Option<String> {
        let near = not_there(&*self.error).and_then(|path| {
            let name = path.file_name()?.to_str()?;
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let entries = std::fs::read_dir(folder).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok());
            let names: Vec<String> = entries.take(MOST_NAMES).collect();
            let found = nearest(name, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
            Some(format!("did you mean {}?", path.with_file_name(found).display()))
        });
        let home = || not_there(&*self.error).and_then(home).map(|_| NOT_EXPANDED.to_owned());
        near.or_else(home).or_else(|| self.result_of_a_run()).or_else(|| self.hint.clone())
    }

    /// For a folder of a run in the place of a model: the model in it.
    fn result_of_a_run(&self) -> Option<String> {
        let (path, source) = about_a_file(&*self.error)?;
        let model = path.join(dendrite_trainer::folder::MODEL);
        let folder = source.kind() == io::ErrorKind::IsADirectory && model.is_file();
        folder.then(|| format!("give the model in it: {}", model.display()))
    }

    /// The same error with another remedy where the disk is full.
    pub(crate) fn when_full(mut self, hint: &str) -> Self {
        if is_full(self.error.as_ref()) {
            self.hint = Some(hint.to_owned());
        }
        self
    }

    /// The error in one line, without its causes.
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
        let place = self.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        eprintln!("{} {place}{said}", out.alarm("error:"));
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                eprintln!("  caused by: {text}");
            }
            said = text;
            cause = error.source();
        }
        if let Some(hint) = self.remedy() {
            eprintln!("{} {hint}", out.advice("hint:"));
        }
        ExitCode::from(2)
    }

    fn is_broken_pipe(&self) -> bool {
        self.error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The file that is not there, where that is the error.
fn not_there<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<&'a Path> {
    about_a_file(error).filter(|(_, source)| source.kind() == io::ErrorKind::NotFound).map(|(path, _)| path)
}

/// The file that the system refused, and why.
fn about_a_file<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<(&'a Path, &'a io::Error)> {
    use dendrite_trainer::Error as Trainer;
    Some(match error.downcast_ref::<Trainer>() {
        Some(Trainer::Onnx(dendrite_onnx::Error::Io { path, source })) => (path, source),
        Some(Trainer::Data(dendrite_data::Error::Io { path, source })) => (path, source),
        _ => match (error.downcast_ref(), error.downcast_ref()) {
            (Some(dendrite_onnx::Error::Io { path, source }), _) => (path, source),
            (_, Some(dendrite_data::Error::Io { path, source })) => (path, source),
            _ => return None,
        },
    })
}

/// Whether an error, or one that it comes from, is that the disk is full.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let full = |e: &io::Error| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(full) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether an error is about a part of a model without naming the file.
fn of_a_model(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    use dendrite_trainer::Error as Trainer;
    let onnx = |e: &dendrite_onnx::Error| {
        use dendrite_onnx::Error::{External, Graph, Node, Tensor, Unsupported};
        matches!(e, Tensor { .. } | Node { .. } | Graph { .. } | External { .. } | Unsupported { .. })
    };
    let autodiff = |e: &dendrite_autodiff::Error| {
        use dendrite_autodiff::Error::{NotImplemented, Onnx, Stop};
        matches!(e, NotImplemented { .. } | Stop { .. }) || matches!(e, Onnx(e) if onnx(e))
    };
    let runtime = |e: &dendrite_runtime::Error| {
        use dendrite_runtime::Error::{Load, Model};
        matches!(e, Load { .. }) || matches!(e, Model(e) if onnx(e))
    };
    let dendrites = |e: &dendrites::Error| match e {
        dendrites::Error::Onnx(e) => onnx(e),
        dendrites::Error::Autodiff(e) => autodiff(e),
        _ => false,
    };
    if let Some(e) = error.downcast_ref::<Trainer>() {
        return match e {
            Trainer::Onnx(e) => onnx(e),
            Trainer::Autodiff(e) => autodiff(e),
            Trainer::Dendrites(e) => dendrites(e),
            Trainer::Runtime(e) => runtime(e),
            _ => false,
        };
    }
    error.downcast_ref().is_some_and(onnx)
        || error.downcast_ref().is_some_and(runtime)
        || error.downcast_ref().is_some_and(dendrites)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { error: Box::new(error), place: None, hint: None }
    }
}

/// Errors of the crates bring their hint along.
macro_rules! from_crates {
    ($($(#[$attribute:meta])* $error:ty;)*) => {
        $($(#[$attribute])* impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let hint = error.hint().map(|h| h.to_string());
                Failure { error: Box::new(error), place: None, hint }
            }
        })*
    };
}

from_crates! {
    dendrite_onnx::Error;
    dendrite_runtime::Error;
    dendrite_trainer::Error;
    dendrite_data::Error;
    dendrites::Error;
    #[cfg(feature = "tract")]
    dendrite_tract::Error;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_errors_however_it_comes() {
        let io = |kind: io::ErrorKind| dendrite_onnx::Error::Io { path: "run/model.onnx".into(), source: kind.into() };
        let hint =
            |error: dendrite_trainer::Error| Failure::from(error).when_full("make room").remedy().unwrap_or_default();
        assert_eq!(hint(io(io::ErrorKind::StorageFull).into()), "make room");
        let path = "run/events.jsonl".into();
        assert_eq!(
            hint(dendrite_trainer::Error::Io { path, source: io::ErrorKind::QuotaExceeded.into() }),
            "make room"
        );
        assert_ne!(hint(io(io::ErrorKind::PermissionDenied).into()), "make room");
    }
}
