//! Controls: what a grown model is held against, run after it under the same conditions.

use std::path::Path;

use dendrite_onnx::file::write_bytes;

use crate::{
    error::{Error, Result},
    events::Event,
    folder::{self, RunFolder},
    grow::{Outcome, Run, grow},
    options::{Control, Options},
    schedule::DROPS,
    summary::Summary,
    wider::{Wider, widen},
};

/// Layers that a note names.
const MOST_NAMED: usize = 4;

/// Run the controls that `run`'s options ask for, each in a folder of its own below the run's, and put them into the summary
/// of `outcome` and its file. A control that is there already is not run again.
pub fn controls(run: &mut Run, outcome: &mut Outcome) -> Result<()> {
    let mut wanted = run.options.controls.clone();
    wanted.sort_unstable();
    wanted.dedup();
    let _lock = if wanted.is_empty() { None } else { RunFolder::lock(run.folder)? };
    for control in wanted {
        let name = control.name().to_owned();
        let wider = match control {
            Control::Wider => match wider(run, &outcome.summary)? {
                Ok(wider) => Some(wider),
                Err(reason) => {
                    (run.observer)(&Event::ControlLeftOut { control: control.name(), reason: reason.clone() });
                    outcome.summary.control_notes.insert(name, format!("not run: {reason}"));
                    record(&outcome.summary, run.folder)?;
                    continue;
                }
            },
            Control::Longer | Control::Sham => None,
        };
        let note = wider.as_ref().map(told);
        (run.observer)(&Event::ControlStarted { control: control.name(), note: note.clone() });
        let options = of(control, run.options, &outcome.summary);
        let folder = run.folder.join("controls").join(control.name());
        let mut own = Run {
            model: wider.as_ref().map_or(run.model, |w| &w.model),
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
        outcome.summary.controls.insert(name.clone(), found.after);
        outcome.summary.control_notes.extend(note.map(|note| (name, note)));
        record(&outcome.summary, run.folder)?;
    }
    Ok(())
}

/// The input with its hidden layers widened to the size of the result, or why that cannot be had.
fn wider(run: &Run, summary: &Summary) -> Result<std::result::Result<Wider, String>> {
    let options = run.options;
    if options.train != "all" && options.train != "sites" {
        return Ok(Err(format!("with --train-weights {} the widened layers would not train", options.train)));
    }
    if !options.also.is_empty() {
        return Ok(Err(
            "a widened model has the first output alone, and further ones train with it (--also)".to_owned()
        ));
    }
    widen(run.model, options.output.as_deref(), summary.after.parameters, options.seed, &run.session)
}

/// What was widened, in words.
fn told(wider: &Wider) -> String {
    let layers = wider.layers.iter().map(|(name, old, new)| format!("{name} {old} to {new}"));
    let others = wider.others.iter().map(|(name, reason)| format!("{name} ({reason})"));
    let rest = if wider.others.is_empty() { String::new() } else { format!("; as they were: {}", listed(others)) };
    format!("units of {}{rest}", listed(layers))
}

/// The first of some things, and how many more there are.
fn listed(mut things: impl ExactSizeIterator<Item = String>) -> String {
    let first: Vec<String> = things.by_ref().take(MOST_NAMED).collect();
    let more = if things.len() == 0 { String::new() } else { format!(" and {} more", things.len()) };
    first.join(", ") + &more
}

/// The options of a control of the run that `summary` tells of.
fn of(control: Control, options: &Options, summary: &Summary) -> Options {
    let own = Options { controls: Vec::new(), ..options.clone() };
    match control {
        Control::Sham => Options { sham: true, ..own },
        Control::Longer | Control::Wider => {
            // As many epochs as all phases had together, and patience enough to use them.
            let epochs: usize = summary.phases.iter().filter(|p| p.kind != "dendrite").map(|p| p.epochs).sum();
            let patience = own.patience.max(epochs / (2 * (DROPS + 1)));
            // A widened model has the chosen output alone.
            let output = own.output.clone().filter(|_| control == Control::Longer);
            Options { dendrites: 0, finetune_first: true, epochs: epochs.max(1), patience, output, ..own }
        }
    }
}

/// Write the summary and the page that tells of it anew.
fn record(summary: &Summary, folder: &Path) -> Result<()> {
    let path = folder.join(folder::SUMMARY);
    let text = serde_json::to_string_pretty(summary)
        .map_err(|e| Error::Io { path: path.clone(), source: std::io::Error::other(e) })?;
    write_bytes(&path, (text + "\n").as_bytes())?;
    RunFolder::write_report(folder)
}
