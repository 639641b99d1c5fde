//! Where the time of a training step goes:
//! `cargo run --release --example step -- MODEL DATA.npz [OPTION VALUE]...`.
//!
//! Options: `--dendrites N` grows N on every site first (0), `--batch N`, `--micro-batch N`, `--recompute 1`, `--threads A,B,..` (0: all cores), `--spin 1`,
//! `--level off|basic|extended|all`, `--rounds N` of 200 ms for each number of threads, taken in turn (9), `--dump FILE`
//! writes the graph as it runs (with `--level off`, as it was built), `--profile 1` prints the operators by their time.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use dendrite_onnx::{Graph, Model, Tensor};
use dendrite_runtime::{Optimization, SessionOptions};
use dendrite_trainer::{
    DataSet, Growth, Loader, Network, Options, Preprocess, Samples,
    neuron::trained_names,
    objective::{Context, Objective},
    prepare::make_plan,
    step::Trainer,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

static NEVER: AtomicBool = AtomicBool::new(false);

/// How long a round takes.
const ROUND: Duration = Duration::from_millis(200);

struct Arguments {
    model: Model,
    data: DataSet,
    named: BTreeMap<String, String>,
}

impl Arguments {
    fn read() -> Result<Self> {
        let given: Vec<String> = env::args().skip(1).collect();
        let [model, data, rest @ ..] = given.as_slice() else {
            return Err("usage: step MODEL DATA.npz [OPTION VALUE]...".into());
        };
        let named = rest.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default()));
        Ok(Arguments {
            model: Model::open(model)?,
            data: DataSet::open(data, &Preprocess::default())?,
            named: named.collect(),
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.text(name).map(str::parse).transpose()?)
    }

    fn session(&self, threads: usize) -> Result<SessionOptions> {
        let optimization = match self.text("--level").unwrap_or("all") {
            "off" => Optimization::Off,
            "basic" => Optimization::Basic,
            "extended" => Optimization::Extended,
            "all" => Optimization::All,
            other => return Err(format!("'{other}' is no level").into()),
        };
        let spinning = self.number("--spin")?.unwrap_or(0) > 0;
        Ok(SessionOptions { threads, spinning, optimization, ..Default::default() })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let mut options = Options {
        batch: arguments.number("--batch")?,
        micro_batch: arguments.number("--micro-batch")?,
        recompute: arguments.number("--recompute")?.unwrap_or(0) > 0,
        ..Options::default()
    };
    let dendrites = arguments.number("--dendrites")?.unwrap_or(0);
    options.dendrites = dendrites.max(1);
    let network = Network::prepare(&arguments.model, None)?;
    let samples = network.samples(&arguments.data, &options)?;
    let growth = if dendrites == 0 { Growth::default() } else { grown(&network, &options)? };
    let build = |session: &SessionOptions| -> Result<Trainer> {
        let names = trained_names(&network, &growth, &options)?;
        let objective = Objective::choose(&network, &samples, &options)?;
        let context = Context {
            network: &network,
            objective: &objective,
            samples: &samples,
            options: &options,
            session,
            interrupt: &NEVER,
        };
        Ok(Trainer::new(context, &growth, &names)?)
    };

    let folder = env::temp_dir().join(format!("dendrite-step-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&arguments, &options, &samples, &build, &folder);
    fs::remove_dir_all(&folder)?;
    measured
}

/// Print nodes and times; files go to `folder`.
fn measure(
    arguments: &Arguments,
    options: &Options,
    samples: &Samples,
    build: &dyn Fn(&SessionOptions) -> Result<Trainer>,
    folder: &Path,
) -> Result<()> {
    let dumped = match arguments.text("--dump") {
        Some(file) => file.into(),
        None => folder.join("step.onnx"),
    };
    let threads: Vec<usize> =
        arguments.text("--threads").unwrap_or("0").split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let mut session = arguments.session(threads.first().copied().unwrap_or(0))?;
    let profiled = arguments.number("--profile")?.unwrap_or(0) > 0;
    session.dump = Some(dumped.clone());
    session.profile = profiled.then(|| folder.join("profile"));
    let mut first = build(&session)?;
    let batch = options.batch_for(samples.len());
    println!("{} nodes, {} tensors of state, batch {batch}", nodes(&dumped)?, first.state()?.len());
    if profiled {
        run(&mut first, samples, batch)?;
        drop(first);
        return table(folder);
    }
    drop(first);

    let mut trainers = Vec::new();
    for threads in threads {
        trainers.push((threads, build(&arguments.session(threads)?)?, Vec::new()));
    }
    for round in 0..=arguments.number("--rounds")?.unwrap_or(9) {
        for (_, trainer, times) in &mut trainers {
            let time = run(trainer, samples, batch)?;
            // The first round only warms up.
            if round > 0 {
                times.push(time);
            }
        }
    }
    for (threads, _, times) in &mut trainers {
        times.sort_by(f64::total_cmp);
        let (least, median) =
            (times.first().copied().unwrap_or(0.0), times.get(times.len() / 2).copied().unwrap_or(0.0));
        println!("threads {threads}: {least:.0} us a step at least, {median:.0} in the median");
    }
    Ok(())
}

/// Dendrites on every site with weights that are small but not zero.
fn grown(network: &Network, options: &Options) -> Result<Growth> {
    let mut growth = Growth::default();
    let plan = make_plan(network, options, 0)?;
    for _ in 0..plan.cycles {
        let new = plan.next_cycle(&network.sites, &growth.sets)?;
        growth.sets.extend(new);
    }
    for set in &growth.sets {
        let Some(site) = network.site(&set.site) else { continue };
        for (name, shape) in set.tensors(site, &growth.sets) {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
            growth.weights.insert(name, Tensor::from_f32(&shape, &values));
        }
    }
    Ok(growth)
}

/// Microseconds a step over about [`ROUND`], a batch of real rows each.
fn run(trainer: &mut Trainer, samples: &Samples, batch: usize) -> Result<f64> {
    let order: Vec<usize> = (0..samples.len()).take(samples.len() / batch * batch).collect();
    let (start, mut steps) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        for rows in Loader::new(samples, batch, order.clone(), None)? {
            steps += 1;
            trainer.step(samples, &rows?, 1e-6, steps)?;
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / steps as f64)
}

fn nodes(file: &Path) -> Result<usize> {
    Ok(Graph::from_model(&Model::open(file)?)?.node_ids().len())
}

/// The operators of a profile by their time, and the nodes that take most.
fn table(folder: &Path) -> Result<()> {
    let mut operators: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    let mut slowest: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    let mut runs = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let events: Vec<serde_json::Value> = serde_json::from_str(&fs::read_to_string(path)?)?;
        for event in &events {
            runs += usize::from(event["name"] == "model_run");
            let name = event["name"].as_str().unwrap_or_default();
            let (Some(op), true) = (event["args"]["op_name"].as_str(), name.ends_with("_kernel_time")) else {
                continue;
            };
            let time = event["dur"].as_f64().unwrap_or(0.0);
            let shapes = &event["args"]["input_type_shape"];
            for (map, key) in [(&mut operators, op.to_owned()), (&mut slowest, format!("{op} {name} {shapes}"))] {
                let sum = map.entry(key).or_default();
                sum.0 += time;
                sum.1 += 1;
            }
        }
    }
    let runs = runs.max(1);
    println!("microseconds and nodes a step, measured with profiling on");
    for (map, most) in [(operators, usize::MAX), (slowest, 25)] {
        let mut rows: Vec<_> = map.into_iter().collect();
        rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        for (name, (time, count)) in rows.into_iter().take(most) {
            println!("{:9.1} {:4} {name}", time / runs as f64, count / runs);
        }
        println!();
    }
    Ok(())
}
