//! Controls: what a grown model is held against, run after it under the same conditions.

use std::path::Path;

use dendrite_onnx::file::write_bytes;

use crate::{
    error::{Error, Result},
    folder::{self, RunFolder},
    grow::{Outcome, Run, grow},
    options::{Control, Options},
    schedule::DROPS,
    summary::Summary,
};

/// Run the controls that `run`'s options ask for, each in a folder of its own below the run's, and put them into the summary
/// of `outcome` and its file. A control that is there already is not run again.
pub fn controls(run: &mut Run, outcome: &mut Outcome) -> Result<()> {
    let mut wanted = run.options.controls.clone();
    wanted.sort_unstable();
    wanted.dedup();
    for control in wanted {
        let options = of(control, run.options, &outcome.summary);
        let folder = run.folder.join("controls").join(control.name());
        let mut own = Run {
            model: run.model,
            train: run.train,
            val: run.val,
            test: run.test,
            options: &options,
            plan: run.plan.clone().filter(|_| control == Control::Sham),
            session: run.session.clone(),
            folder: &folder,
            resume: true,
            interrupt: run.interrupt,
            observer: run.observer,
            second_runtime: None,
        };
        let found = grow(&mut own)?.summary;
        outcome.summary.controls.insert(control.name().to_owned(), found.after);
        write_summary(&outcome.summary, run.folder)?;
        RunFolder::write_report(run.folder)?;
    }
    Ok(())
}

/// The options of a control of the run that `summary` tells of.
fn of(control: Control, options: &Options, summary: &Summary) -> Options {
    let own = Options { controls: Vec::new(), ..options.clone() };
    match control {
        Control::Sham => Options { sham: true, ..own },
        Control::Longer => {
            // As many epochs as all phases had together, and patience enough to use them.
            let epochs: usize = summary.phases.iter().filter(|p| p.kind != "dendrite").map(|p| p.epochs).sum();
            let patience = own.patience.max(epochs / (2 * (DROPS + 1)));
            Options { dendrites: 0, finetune_first: true, epochs: epochs.max(1), patience, ..own }
        }
    }
}

fn write_summary(summary: &Summary, folder: &Path) -> Result<()> {
    let path = folder.join(folder::SUMMARY);
    let text = serde_json::to_string_pretty(summary)
        .map_err(|e| Error::Io { path: path.clone(), source: std::io::Error::other(e) })?;
    Ok(write_bytes(&path, (text + "\n").as_bytes())?)
}
