//! `dendrite grow`: the whole cycle on the user's model and data.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dendrite_onnx::Model;
use dendrite_trainer::{
    DataSet, Error, Outcome as Grown, Run,
    folder::{RunFolder, SUMMARY},
    summary::Side,
};
use dendrites::Plan;

use crate::{
    failure::{Failure, Outcome},
    growth::{Configuration, Machine, Placement, Scoring, Training, check_home, read_text, shown},
    output::{Output, grouped, in_digits},
    parity,
    progress::Progress,
    toml_error,
};

/// Grow dendrites on a model: train, insert, train, keep what validation accepts, export
///
/// Writes a run folder with model.onnx, the best model of all on validation. Exit code 0: it beats the input; 1: nothing
/// did, and model.onnx is the input, byte for byte.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    #[arg(required_unless_present = "print_config")]
    model: Option<PathBuf>,
    /// Data that train: .npz, .safetensors, .parquet, .csv, a folder of .npy files, of images by class, or of test_data_set_N;
    /// arrays named like the model's inputs, and target
    #[arg(long, value_name = "DATA", required_unless_present = "print_config")]
    train: Option<PathBuf>,
    /// Data that decide what is kept
    #[arg(long, value_name = "DATA", required_unless_present = "print_config")]
    val: Option<PathBuf>,
    /// Data that are scored once, at the end
    #[arg(long, value_name = "DATA")]
    test: Option<PathBuf>,
    /// The run folder
    #[arg(short, long, value_name = "FOLDER", required_unless_present = "print_config")]
    output_folder: Option<PathBuf>,
    /// Go on from the folder's checkpoint; the other arguments have to be those of the interrupted run
    #[arg(long)]
    resume: bool,
    /// A plan as `dendrite plan` prints it, in place of the options that describe one
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["sites", "exclude", "dendrites", "connect", "width", "max_parameters"]
    )]
    plan: Option<PathBuf>,
    /// Print every option with its value as TOML, and do nothing
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    configuration: Configuration,
    #[command(flatten)]
    placement: Placement,
    #[command(flatten)]
    scoring: Scoring,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let mut options = args.configuration.read()?;
    args.scoring.apply(&mut options);
    args.training.apply(&mut options);
    args.machine.apply(&mut options);
    let (Some(path), Some(train), Some(val), Some(folder), false) =
        (&args.model, &args.train, &args.val, &args.output_folder, args.print_config)
    else {
        args.placement.apply(&mut options, 0);
        let text = toml::to_string(&options).map_err(|e| Failure::new(e.to_string(), None))?;
        out.line(text.trim_end())?;
        return Ok(Outcome::Success);
    };
    check_home(folder)?;
    let about = |failure: Failure| failure.of(path);
    let model = Model::open(path)?;
    let parameters = dendrite_trainer::network::parameters(&model).map_err(|e| about(e.into()))?;
    args.placement.apply(&mut options, parameters);
    let plan = args.plan.as_deref().map(read_plan).transpose()?;
    let open = |path: &PathBuf| DataSet::open(path, &options.preprocess);
    let (train, val) = (open(train)?, open(val)?);
    let test = args.test.as_ref().map(open).transpose()?;

    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupt);
    // A second Ctrl-C ends the process at once: the checkpoint on disk is whole at any moment.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if args.resume && !RunFolder::checkpoint(folder).exists() && !folder.join(SUMMARY).exists() {
        out.note(format_args!("{} holds no run to go on from: it begins anew", shown(folder)));
    }
    if args.resume && RunFolder::complete(folder)?.is_some() {
        out.note(format_args!("the run in {} is already complete: nothing of it is trained again", shown(folder)));
    }
    let mut progress = Progress::new(out, "");
    let session = args.machine.session(&options);
    let second = parity::tract(&session);
    let mut run = Run {
        model: &model,
        train: &train,
        val: &val,
        test: test.as_ref(),
        options: &options,
        plan,
        session,
        folder,
        resume: args.resume,
        interrupt: &interrupt,
        observer: &mut |event| progress.show(event),
        second_runtime: second.as_deref(),
    };
    let grown = dendrite_trainer::grow(&mut run).and_then(|mut grown| {
        dendrite_trainer::controls(&mut run, &mut grown)?;
        Ok(grown)
    });
    progress.end();
    let grown = match grown {
        Err(Error::Interrupted) => {
            out.note(format_args!("interrupted; go on with the same command and --resume ({})", shown(folder)));
            return Ok(Outcome::Interrupted);
        }
        other => other.map_err(|e| about(stopped(e.into(), folder)))?,
    };
    report(&grown, &folder.join("model.onnx"), out)?;
    Ok(if grown.improved { Outcome::Success } else { Outcome::Negative })
}

/// An error that ended a run, with how to go on from its checkpoint where the disk is full.
fn stopped(failure: Failure, folder: &Path) -> Failure {
    if RunFolder::checkpoint(folder).exists() {
        failure.when_full("free space on the disk, then go on with the same command and --resume; the checkpoint is whole")
    } else {
        failure
    }
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    let text = read_text(path)?;
    let fail = |e| toml_error::failure(&shown(path), &text, &e, "`dendrite plan MODEL` prints a valid plan");
    toml::from_str(&text).map_err(fail)
}

fn report(grown: &Grown, file: &Path, out: &Output) -> Result<(), Failure> {
    let summary = &grown.summary;
    if out.is_json() {
        return out.line(serde_json::to_string_pretty(summary).map_err(|e| Failure::new(e.to_string(), None))?);
    }
    let row = |name: &str, side: &Side| {
        let headline = |scores: Option<&dendrite_trainer::summary::Scores>| {
            scores.and_then(|s| s.headline()).map_or("-".to_owned(), |(_, v)| in_digits(v))
        };
        vec![
            name.to_owned(),
            grouped(side.parameters as u64),
            side.macs.map_or("-".to_owned(), grouped),
            headline(Some(&side.val)),
            headline(side.test.as_ref()),
        ]
    };
    let metric = summary.after.val.headline().map_or("score", |(name, _)| name);
    let (val, test) = (format!("val {metric}"), format!("test {metric}"));
    let finetuned = grown.improved && summary.kept_dendrites == 0;
    let result = if finetuned { "result, only fine-tuned" } else { "result" };
    let mut rows = vec![row("input", &summary.before), row(result, &summary.after)];
    rows.extend(summary.controls.iter().map(|(name, side)| row(&format!("control: {name}"), side)));
    out.table(&["", "parameters", "MACs", &val, &test], &[1, 2, 3, 4], &rows)?;
    let tract = summary.parity.tract.map_or("not run".to_owned(), |t| format!("{t:.1e}"));
    out.line(format_args!(
        "{} ({:.0} s; parity: ONNX Runtime {:.1e}, tract {tract})",
        file.display(),
        summary.seconds,
        summary.parity.ort
    ))?;
    if let (Some(plain), Some(input)) = (summary.parity.ort_unoptimised, summary.parity.input_optimised) {
        out.note(format_args!(
            "without ONNX Runtime's optimisations the result is {plain:.1e} from what was trained; they bring the input model \
             {input:.1e} from itself"
        ));
    }
    if let Some(reason) = &summary.parity.tract_reason {
        out.note(format_args!("tract did not run the result: {reason}"));
    }
    match summary.batch_norm.as_deref() {
        Some("train") => out.note("batch normalisation trained by the statistics of the batch; scores are by the stored ones"),
        Some(_) => out.note("batch normalisation kept its stored statistics (--batch-norm train lets them follow the data)"),
        None => {}
    }
    if finetuned {
        out.note("no dendrites were kept: all of the gain is the fine-tune's");
    }
    if !grown.improved {
        out.note("nothing beat the input model on validation: the result is the input, byte for byte");
    }
    Ok(())
}
