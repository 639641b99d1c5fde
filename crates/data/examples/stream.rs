//! Opens data for a model and says what it took: `stream MODEL DATA [TARGET] [BATCH]`.

use std::{error::Error, time::Instant};

use dendrite_data::{DataSet, Input, Loader, Preprocess, Request};
use dendrite_onnx::{Graph, Model};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(data)) = (arguments.next(), arguments.next()) else {
        return Err("usage: stream MODEL DATA [TARGET] [BATCH]".into());
    };
    let target = arguments.next().filter(|t| !t.is_empty());
    let batch = arguments.next().map_or(Ok(32), |b| b.parse())?;
    let graph = Graph::from_model(&Model::open(&model)?)?;
    let preprocess = Preprocess::default();
    let started = Instant::now();
    let set = DataSet::open(&data, &preprocess)?;
    println!("{}: {} ({:.0?})", set.kind(), data, started.elapsed());
    for (name, what) in set.describe() {
        println!("  {name}: {what}");
    }
    let request = Request { inputs: Input::of_graph(&graph, &graph.inputs), target, preprocess, ..Request::default() };
    let samples = set.samples(&request)?;
    println!("{} samples ready after {:.0?}, in memory: {}", samples.len(), started.elapsed(), samples.is_resident());
    for pass in 1..=3 {
        let started = Instant::now();
        let mut batches = 0u32;
        for loaded in Loader::new(&samples, batch, (0..samples.len()).rev().collect::<Vec<_>>(), None)? {
            batches += u32::from(loaded?.count > 0);
        }
        let spent = started.elapsed();
        println!("pass {pass}: {batches} batches in {spent:.1?}, {:.1?} each", spent / batches.max(1));
    }
    Ok(())
}
