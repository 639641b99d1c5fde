//! The loss of every training step, to hold against another implementation:
//! `cargo run --release --example losses -- MODEL DATA.npz STEPS OPTIONS.toml`.
//!
//! Batches are the rows of the data in their order, over and over; rows that do not fill a batch are left out. The learning
//! rate is that of the options, the same in every step. Prints a JSON list.

use std::{env, error::Error, sync::atomic::AtomicBool};

use dendrite_onnx::Model;
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{
    DataSet, Growth, Loader, Network, Options,
    neuron::trained_names,
    objective::{Context, Objective},
    step::Trainer,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, data, steps, options] = arguments.as_slice() else {
        return Err("usage: losses MODEL DATA.npz STEPS OPTIONS.toml".into());
    };
    let options: Options = toml::from_str(&std::fs::read_to_string(options)?)?;
    let lr = options.lr.ok_or("the options give no lr")?;
    let data = DataSet::open(data, &options.preprocess)?;
    let network = Network::of(&Model::open(model)?, &options, &data)?;
    let samples = network.samples(&data, &options)?;
    let growth = Growth::default();
    let names = trained_names(&network, &growth, &options)?;
    let objective = Objective::choose(&network, &samples, &options)?;
    let session = SessionOptions { threads: options.threads.unwrap_or(0), ..Default::default() };
    let interrupt = &AtomicBool::new(false);
    let context = Context {
        network: &network,
        objective: &objective,
        samples: &samples,
        options: &options,
        session: &session,
        interrupt,
    };
    let mut trainer = Trainer::new(context, &growth, &names)?;
    let steps: u64 = steps.parse()?;
    let batch = options.batch_for(samples.len());
    let rows: Vec<usize> = (0..samples.len() / batch * batch).collect();
    if rows.is_empty() {
        return Err(format!("{} rows are fewer than a batch of {batch}", samples.len()).into());
    }
    let mut losses = Vec::new();
    while (losses.len() as u64) < steps {
        for batch in Loader::new(&samples, batch, rows.clone(), None)? {
            let step = losses.len() as u64 + 1;
            if step > steps {
                break;
            }
            losses.push(trainer.step(&samples, &batch?, lr, step)?.loss);
        }
    }
    println!("{}", serde_json::to_string(&losses)?);
    Ok(())
}
