//! `dendrite evaluate`: a model's scores on data.

use std::path::PathBuf;

use dendrite_onnx::Model;
use dendrite_trainer::{
    DataSet, Network,
    evaluate::Evaluator,
    memory::scored_at_once,
    network::{Batching, Growth},
    objective::{Objective, Reading},
};
use serde_json::json;

use crate::{
    failure::{Failure, Outcome},
    growth::{Configuration, Machine, Scoring, count},
    output::{Output, in_digits},
};

/// Samples a pass where a sample's values are not large.
const DEFAULT_BATCH: usize = 64;

/// Score a model on data, with 95 % confidence intervals
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    model: PathBuf,
    /// The data, in any form that `grow` takes
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// The output to score; by default the first float output
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Samples a pass; 64, or fewer where a sample's values are large, unless said
    #[arg(long, value_name = "N", value_parser = count)]
    batch: Option<usize>,
    #[command(flatten)]
    configuration: Configuration,
    #[command(flatten)]
    scoring: Scoring,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    evaluate(args, out).map_err(|failure| failure.of(&args.model))
}

fn evaluate(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let model = Model::open(&args.model)?;
    let mut options = args.configuration.read()?;
    args.scoring.apply(&mut options);
    args.machine.apply(&mut options);
    if args.output.is_some() {
        options.output.clone_from(&args.output);
    }
    let data = DataSet::open(&args.data, &options.preprocess)?;
    let network = Network::of(&model, &options, &data)?;
    let samples = network.samples(&data, &options)?;
    let mut objective = Objective::choose(&network, &samples, &options)?;
    let batch = match args.batch {
        Some(batch) if network.batching == Batching::Free => batch.min(samples.len()),
        _ => scored_at_once(&network, &samples, DEFAULT_BATCH)?,
    };
    let session = args.machine.session(&options);
    let score = |objective: &Objective| {
        Evaluator::new(&network, &Growth::default(), &[], objective, &samples, batch, &session)?.score(&samples)
    };
    let mut scored = score(&objective)?;
    let target = samples.target_tensor()?;
    if objective.has_choice(&network) {
        let kind = objective.kind.clone();
        objective.fit_reading(&scored, &target);
        // A temperature serves training; the loss is that of the logits as they are.
        if objective.reading == Reading::Probabilities || objective.kind != kind {
            scored = score(&objective)?;
        }
    }
    let rows = scored.intervals(&objective.basis(&network), &target)?;
    if out.is_json() {
        let metrics: serde_json::Map<String, serde_json::Value> = rows
            .iter()
            .map(|r| (r.name.to_owned(), json!({ "value": r.value, "low": r.low, "high": r.high })))
            .collect();
        return out
            .object(json!({ "model": args.model, "data": args.data, "samples": samples.len(), "metrics": metrics }))
            .map(|()| Outcome::Success);
    }
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|r| vec![r.name.to_owned(), in_digits(r.value), format!("{} to {}", in_digits(r.low), in_digits(r.high))])
        .collect();
    out.table(&["metric", "value", "95 % interval"], &[1, 2], &table)?;
    out.note(format_args!("{} samples", samples.len()));
    Ok(Outcome::Success)
}
