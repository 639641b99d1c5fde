//! Grow a model from a program: `cargo run --release --example grow -- MODEL TRAIN VAL TEST FOLDER [OPTIONS.toml]`.

use std::{env, path::Path, sync::atomic::AtomicBool};

use dendrite_onnx::Model;
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{DataSet, Event, Options, Run, grow};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, train, val, test, folder, rest @ ..] = arguments.as_slice() else {
        return Err("usage: grow MODEL TRAIN VAL TEST FOLDER [OPTIONS.toml]".into());
    };
    let options: Options = match rest.first() {
        Some(file) => toml::from_str(&std::fs::read_to_string(file)?)?,
        None => Options::default(),
    };
    let mut run = Run {
        model: &Model::open(model)?,
        train: &DataSet::open(train, &options.preprocess)?,
        val: &DataSet::open(val, &options.preprocess)?,
        test: Some(&DataSet::open(test, &options.preprocess)?),
        session: SessionOptions { threads: options.threads.unwrap_or(0), ..Default::default() },
        options: &options,
        plan: None,
        folder: Path::new(folder),
        resume: false,
        interrupt: &AtomicBool::new(false),
        second_runtime: None,
        observer: &mut |event: &Event| {
            if !matches!(event, Event::Progress { .. }) {
                println!("{}", serde_json::to_string(event).unwrap_or_default());
            }
        },
    };
    let outcome = grow(&mut run)?;
    println!("{}", serde_json::to_string_pretty(&outcome.summary)?);
    Ok(())
}
