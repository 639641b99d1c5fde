//! `dendrite compare`: whether two models compute the same.

use std::path::PathBuf;

use dendrite_onnx::{Graph, Model, Tensor, batch::fixed_batch};
use dendrite_runtime::{SessionOptions, infer_shapes};
use dendrite_trainer::{DataSet, Input, Preprocess, Request, feed};
use serde_json::json;

use crate::{
    compare::{Difference, Runtime, compare, random_inputs},
    failure::{Failure, Outcome},
    growth::{count, not_negative, whole},
    output::Output,
};

/// Compare the outputs of two models on the same inputs
///
/// The second model runs in every runtime asked for and is held against the first in ONNX Runtime. An output passes when
/// |a - b| <= tolerance * max(1, max|b|).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The reference
    a: PathBuf,
    /// The model held against it; give the same twice to compare runtimes
    b: PathBuf,
    /// Where the second model runs
    #[arg(long = "runtime", value_name = "RUNTIME", value_delimiter = ',', default_value = "ort")]
    runtimes: Vec<Runtime>,
    /// The relative difference allowed [default: 1e-5 in ort, 1e-4 in tract]
    #[arg(long, value_name = "NUMBER", value_parser = not_negative)]
    tolerance: Option<f64>,
    /// Inputs from a data set, in any form that `grow` takes, in place of made-up ones
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Samples that are compared
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    batch: usize,
    /// The seed of made-up inputs
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>)]
    seed: u64,
    /// Threads of ONNX Runtime; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>)]
    threads: usize,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let open = |path: &PathBuf| -> Result<Graph, Failure> {
        let read = || -> Result<Graph, Failure> {
            let model = Model::open(path)?;
            model.support()?;
            let mut graph = Graph::from_model(&model)?;
            infer_shapes(&mut graph)?;
            Ok(graph)
        };
        read().map_err(|failure| failure.of(path))
    };
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    let inputs = match &args.data {
        Some(path) => first_samples(&a, path, args.batch)?,
        None => random_inputs(&a, args.batch, args.seed)?,
    };
    let options = SessionOptions { threads: args.threads, ..Default::default() };
    let result = compare(&a, &b, &inputs, &args.runtimes, args.tolerance, &options)?;

    if out.is_json() {
        let finite = |d: Option<Difference>| d.filter(|d| d.relative.is_finite());
        let rows = result.rows.iter().map(|r| {
            json!({
                "runtime": r.runtime.name(), "output": r.output, "difference": finite(r.difference),
                "tolerance": r.tolerance, "computed": r.computed, "passes": r.passes(),
            })
        });
        let divergences = result.divergences.iter().map(|d| {
            json!({
                "runtime": d.runtime.name(), "value": d.value, "operator": d.operator,
                "difference": finite(d.difference),
            })
        });
        out.object(json!({
            "a": args.a, "b": args.b, "passes": result.passes(), "outputs": rows.collect::<Vec<_>>(),
            "first_divergence": divergences.collect::<Vec<_>>(), "notes": result.notes,
        }))?;
    } else {
        for note in &result.notes {
            out.note(format_args!("note: {note}"));
        }
        let number = |n: f64| format!("{n:.2e}");
        let rows: Vec<Vec<String>> = result
            .rows
            .iter()
            .map(|r| {
                let [absolute, relative] = match r.difference {
                    Some(d) => [number(d.absolute), number(d.relative)],
                    None => ["-".to_owned(), "-".to_owned()],
                };
                let verdict = match (r.passes(), r.difference) {
                    (true, _) if !r.computed => "not computed".to_owned(),
                    (true, _) => out.good("equal"),
                    (false, Some(_)) => out.bad("differs"),
                    (false, None) => out.bad("missing or of another shape"),
                };
                vec![r.runtime.name().to_owned(), r.output.clone(), absolute, relative, number(r.tolerance), verdict]
            })
            .collect();
        out.table(&["runtime", "output", "absolute", "relative", "tolerance", ""], &[2, 3, 4], &rows)?;
        for d in &result.divergences {
            let by = d.difference.map_or("has another shape".to_owned(), |d| format!("by {}", number(d.relative)));
            out.line(format_args!("first divergence in {}: '{}' ({}) {by}", d.runtime.name(), d.value, d.operator))?;
        }
    }
    Ok(if result.passes() { Outcome::Success } else { Outcome::Negative })
}

/// The first `batch` samples of a data set, or as many as the model's fixed batch takes.
fn first_samples(graph: &Graph, path: &PathBuf, batch: usize) -> Result<Vec<(String, Tensor)>, Failure> {
    let request = Request { inputs: Input::of_graph(graph, &graph.inputs), ..Request::default() };
    let samples = DataSet::open(path, &Preprocess::default())?.samples(&request)?;
    let rows = fixed_batch(graph, &graph.inputs.iter().map(|input| (*input, 0)).collect::<Vec<_>>()).unwrap_or(batch.min(samples.len()));
    // A fixed batch is filled up with the first row.
    let indices: Vec<usize> = (0..rows).map(|i| if i < samples.len() { i } else { 0 }).collect();
    Ok(feed::rows(&samples, &indices)?)
}
