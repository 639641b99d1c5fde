//! `dendrite runtime`: which ONNX Runtime is used, and fetching the pinned one.

use clap::Subcommand;
use dendrite_runtime::library::{self, Library};
use serde_json::json;

use crate::{
    failure::{Failure, Outcome},
    output::Output,
};

/// Show or fetch the ONNX Runtime library
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say which library is used, from where, with which devices; nothing is fetched
    Status,
    /// Fetch the pinned library into the user's cache
    Install {
        /// The library with CUDA
        #[arg(long)]
        gpu: bool,
    },
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    match args.action {
        Action::Status => status(out),
        Action::Install { gpu } => install(gpu, out),
    }
}

fn status(out: &Output) -> Result<Outcome, Failure> {
    let status = library::status()?;
    let outcome = if status.library.is_some() { Outcome::Success } else { Outcome::Negative };
    if out.is_json() {
        out.object(json!({
            "pinned": library::VERSION,
            "library": status.library.as_ref().map(describe),
            "build": status.build,
            "devices": status.devices,
            "cache": status.cache,
        }))?;
        return Ok(outcome);
    }
    match &status.library {
        Some(found) => {
            let version = found.version.as_deref().unwrap_or("of unknown version");
            out.line(format_args!("ONNX Runtime {version} ({})", found.origin))?;
            out.line(format_args!("library  {}", found.path.display()))?;
            out.line(format_args!("devices  {}", status.devices.join(", ")))?;
            if let Some(build) = &status.build {
                out.line(format_args!("build    {}", build.trim_start_matches("ORT Build Info: ")))?;
            }
        }
        None => {
            out.line("no ONNX Runtime found")?;
            out.note(format_args!(
                "{} is fetched on first need, or now by `dendrite runtime install`; {} names another",
                library::VERSION,
                library::VARIABLE
            ));
        }
    }
    if let Some(cache) = &status.cache {
        out.line(format_args!("cache    {}", cache.display()))?;
    }
    Ok(outcome)
}

fn install(gpu: bool, out: &Output) -> Result<Outcome, Failure> {
    let library = library::install(gpu)?;
    if out.is_json() {
        out.object(json!({ "pinned": library::VERSION, "library": describe(&library) }))?;
    } else {
        out.line(library.path.display())?;
    }
    if let Some(used) = library::locate()?.filter(|used| used.path != library.path) {
        out.note(format_args!("note: {} ({}) comes first and is used", used.path.display(), used.origin));
    }
    Ok(Outcome::Success)
}

fn describe(library: &Library) -> serde_json::Value {
    json!({
        "path": library.path,
        "origin": library.origin.to_string(),
        "version": library.version,
        "gpu": library.gpu,
    })
}
