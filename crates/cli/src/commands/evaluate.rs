//! `dendrite evaluate`: a model's scores on data.

use std::path::PathBuf;

use dendrite_onnx::Model;
use dendrite_trainer::{
    DataSet, Network, Options,
    evaluate::Evaluator,
    network::Growth,
    objective::{Objective, Reading},
};
use serde_json::json;

use crate::{
    failure::{Failure, Outcome},
    growth::{Machine, Scoring},
    output::Output,
};

/// Score a model on data, with 95 % confidence intervals
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    model: PathBuf,
    /// The data (.npz; arrays named like the model's inputs, and target)
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// The output to score; by default the first float output
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Samples a pass
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    #[command(flatten)]
    scoring: Scoring,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let model = Model::open(&args.model)?;
    let mut options = Options::default();
    args.scoring.apply(&mut options);
    args.machine.apply(&mut options);
    let network = Network::prepare(&model, args.output.as_deref())?;
    let data = DataSet::open(&args.data)?;
    let samples = network.samples(&data, &options)?;
    let mut objective = Objective::choose(&network, &samples, &options)?;
    let batch = (args.batch as usize).min(samples.len());
    let session = args.machine.session(&options);
    let score = |objective: &Objective| {
        Evaluator::new(&network, &Growth::default(), &[], objective, &samples, batch, &session)?.score(&samples)
    };
    let mut scored = score(&objective)?;
    if let Some(target) = samples.target().filter(|_| objective.has_choice(&network)) {
        objective.fit_reading(&scored, target);
        match objective.reading {
            Reading::Probabilities => scored = score(&objective)?,
            // A temperature serves training; the loss is that of the logits as they are.
            Reading::Logits | Reading::Tempered(_) => {}
        }
    }
    let rows = match samples.target() {
        Some(target) => scored.intervals(&objective.basis(&network), target)?,
        None => Vec::new(),
    };
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
        .map(|r| vec![r.name.to_owned(), format!("{:.4}", r.value), format!("{:.4} to {:.4}", r.low, r.high)])
        .collect();
    out.table(&["metric", "value", "95 % interval"], &[1, 2], &table)?;
    out.note(format_args!("{} samples", samples.len()));
    Ok(Outcome::Success)
}
