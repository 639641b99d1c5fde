//! `dendrite demo`: the main job on a bundled model and bundled data.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use dendrite_onnx::{Model, file::write_bytes};
use dendrite_trainer::{
    DataSet, Options, Preprocess, Run, grow,
    options::Method,
    summary::{Side, Summary},
};
use dendrites::Connection;

use crate::{
    failure::{Failure, Outcome},
    growth::{Machine, check_home, shown},
    output::{Output, grouped},
    parity,
    progress::Progress,
};

const MODEL: &[u8] = include_bytes!("../../../../models/letters.onnx");
const TRAIN: &[u8] = include_bytes!("../../../../fixtures/letters/train.npz");
const VAL: &[u8] = include_bytes!("../../../../fixtures/letters/val.npz");
const TEST: &[u8] = include_bytes!("../../../../fixtures/letters/test.npz");

/// Grow a bundled letter recogniser and show what it gains, in under a minute
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the run folders go
    #[arg(short, long, value_name = "FOLDER", default_value = "dendrite-demo")]
    output_folder: PathBuf,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    machine: Machine,
}

/// One run of the demo.
struct Arm {
    folder: &'static str,
    title: &'static str,
    options: Options,
}

fn arms(base: Options) -> Vec<Arm> {
    vec![
        Arm {
            folder: "longer",
            title: "trained longer, no dendrites",
            options: Options { dendrites: 0, ..base.clone() },
        },
        Arm { folder: "neuron", title: "3 dendrites a neuron", options: base.clone() },
        Arm {
            folder: "layer",
            title: "dendrites shared by a layer",
            options: Options {
                method: Method::Gd,
                connect: Connection::Layer,
                max_parameters: Some(3_200),
                ..base
            },
        },
    ]
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    check_home(&args.output_folder)?;
    std::fs::create_dir_all(&args.output_folder).map_err(Failure::io(&args.output_folder))?;
    let bundled = [("letters.onnx", MODEL), ("train.npz", TRAIN), ("val.npz", VAL), ("test.npz", TEST)];
    let bundled = bundled.map(|(name, bytes)| (args.output_folder.join(name), bytes));
    if let Some((path, _)) = bundled.iter().find(|(path, bytes)| std::fs::read(path).is_ok_and(|old| old != *bytes)) {
        let reason = format!("{} is there already and is not the demo's", shown(path));
        return Err(Failure::new(reason, Some("choose another folder with -o")));
    }
    // They lie beside the runs, where the user can look at them and use them again.
    bundled.iter().try_for_each(|(path, bytes)| write_bytes(path, bytes))?;
    let [model, train, val, test] = bundled.map(|(path, _)| path);
    let model = Model::open(&model)?;
    let open = |path: &Path| DataSet::open(path, &Preprocess::default());
    let (train, val, test) = (open(&train)?, open(&val)?, open(&test)?);
    out.note(
        "A letter recogniser exported from scikit-learn (UCI letter recognition: 16 features, 26 letters), and 13,000 rows\n\
         to train on. Nothing but the .onnx file and the data is used.\n",
    );
    let never = AtomicBool::new(false);
    let mut base = Options { seed: args.seed, ..Default::default() };
    args.machine.apply(&mut base);
    let session = args.machine.session(&base);
    let second = parity::tract(&session);
    let mut results: Vec<(Arm, Summary)> = Vec::new();
    for arm in arms(base) {
        let mut progress = Progress::new(out, arm.title);
        let folder = args.output_folder.join(arm.folder);
        if folder.join("events.jsonl").exists() {
            // A demo is there to be run again, also after it was stopped.
            std::fs::remove_dir_all(&folder).map_err(Failure::io(&folder))?;
        }
        let mut run = Run {
            model: &model,
            train: &train,
            val: &val,
            test: Some(&test),
            options: &arm.options,
            plan: None,
            session: session.clone(),
            folder: &folder,
            resume: false,
            interrupt: &never,
            observer: &mut |event| progress.show(event),
            second_runtime: second.as_deref(),
        };
        let summary = grow(&mut run)?.summary;
        results.push((arm, summary));
    }
    report(&results, args, out)
}

fn report(results: &[(Arm, Summary)], args: &Args, out: &Output) -> Result<Outcome, Failure> {
    if out.is_json() {
        let runs: serde_json::Map<String, serde_json::Value> = results
            .iter()
            .map(|(arm, summary)| Ok((arm.folder.to_owned(), serde_json::to_value(summary)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|e| Failure::new(e.to_string(), None))?;
        out.object(serde_json::json!({ "runs": runs }))?;
        return Ok(Outcome::Success);
    }
    let row = |title: &str, side: &Side, seconds: Option<f64>| {
        let accuracy = side.test.as_ref().and_then(|t| t.headline()).map_or(f64::NAN, |(_, v)| v);
        vec![
            title.to_owned(),
            grouped(side.parameters as u64),
            side.macs.map_or("-".to_owned(), grouped),
            format!("{:.1} %", 100.0 * accuracy),
            format!("{:.1} %", 100.0 * (1.0 - accuracy)),
            seconds.map_or(String::new(), |s| format!("{s:.0} s")),
        ]
    };
    out.note("");
    let mut rows = Vec::new();
    if let Some((_, summary)) = results.first() {
        rows.push(row("the exported model", &summary.before, None));
    }
    rows.extend(results.iter().map(|(arm, summary)| row(arm.title, &summary.after, Some(summary.seconds))));
    out.table(&["", "parameters", "MACs", "test accuracy", "test error", "time"], &[1, 2, 3, 4, 5], &rows)?;
    out.line("")?;
    for (arm, summary) in results.iter().filter(|(arm, _)| arm.options.dendrites > 0) {
        let tract = summary.parity.tract.map_or("not run".to_owned(), |t| format!("{t:.0e}"));
        out.line(format_args!(
            "{} (plain ONNX; differs from the trained network by {:.0e} in ONNX Runtime, {tract} in tract)",
            args.output_folder.join(arm.folder).join("model.onnx").display(),
            summary.parity.ort
        ))?;
    }
    let lies = args.output_folder.display();
    out.note(format_args!(
        "\nEach run as a page: {lies}/*/report.html. By hand: dendrite grow {lies}/letters.onnx --train {lies}/train.npz \\\n  \
         --val {lies}/val.npz --test {lies}/test.npz -o run"
    ));
    out.note("On your own model: dendrite grow MODEL.onnx --train train.npz --val val.npz --test test.npz -o run");
    Ok(Outcome::Success)
}
