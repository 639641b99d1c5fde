//! `dendrite check`: what is wrong with a file.

use std::path::PathBuf;

use dendrite_onnx::{Finding, Model, Severity};
use dendrite_runtime::{Error, Optimization, Session, SessionOptions};
use serde_json::json;

use crate::{
    failure::{Failure, Outcome},
    output::Output,
};

/// Check structure, types, names, order and external data of a model
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    model: PathBuf,
    /// Leave out whether ONNX Runtime loads the model
    #[arg(long)]
    no_load: bool,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let model = Model::open(&args.model)?;
    let mut findings = dendrite_onnx::check(&model);
    let is_error = |f: &Finding| f.severity == Severity::Error;
    // Types and shapes that follow from computation are the runtime's to check; a file that is wrong already need not be.
    if !args.no_load && !findings.iter().any(is_error) {
        findings.extend(load(args, out));
    }
    let errors = findings.iter().filter(|f| is_error(f)).count();
    if out.is_json() {
        let listed = findings.iter().map(|f| {
            json!({
                "severity": f.severity.to_string(), "place": f.place, "message": f.message, "hint": f.hint,
            })
        });
        out.object(json!({ "model": args.model, "valid": errors == 0, "findings": listed.collect::<Vec<_>>() }))?;
    } else {
        for finding in &findings {
            let severity = finding.severity.to_string();
            let severity = if is_error(finding) { out.bad(&severity) } else { out.strong(&severity) };
            out.line(format_args!("{severity}: {}: {}", finding.place, finding.message))?;
            if let Some(hint) = &finding.hint {
                out.line(format_args!("  hint: {hint}"))?;
            }
        }
        let verdict = if errors == 0 { out.good("valid") } else { out.bad("not valid") };
        let warnings = findings.len() - errors;
        out.line(format_args!("{}: {verdict}, {errors} errors, {warnings} warnings", args.model.display()))?;
    }
    Ok(if errors == 0 { Outcome::Success } else { Outcome::Negative })
}

/// What ONNX Runtime has against the file. That there is none is no finding.
fn load(args: &Args, out: &Output) -> Option<Finding> {
    let options = SessionOptions { threads: 1, optimization: Optimization::Off, ..Default::default() };
    match Session::from_file(&args.model, &options) {
        Ok(_) => None,
        Err(e @ Error::Load { .. }) => Some(Finding {
            severity: Severity::Error,
            place: "session".to_owned(),
            message: e.to_string(),
            // The hint of other errors is to call `check`.
            hint: e.hint().filter(|hint| !hint.contains("dendrite check")).map(str::to_owned),
        }),
        Err(e) => {
            out.warn(format_args!("not tried in ONNX Runtime: {e}"));
            None
        }
    }
}
