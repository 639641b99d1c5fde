//! `dendrite plan`: where dendrites would grow and what they would cost.

use std::path::PathBuf;

use dendrite_onnx::Model;
use dendrite_trainer::{DataSet, Network, Options, prepare::make_plan};
use dendrites::Connection;
use serde_json::json;

use crate::{
    failure::{Failure, Outcome},
    growth::{Configuration, MethodChoice, Placement, count},
    memory::{Asked, Memory},
    output::{Output, grouped},
};

/// Show the sites that would take dendrites and their cost, as TOML to edit; nothing is trained
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    model: PathBuf,
    #[command(flatten)]
    configuration: Configuration,
    /// How dendrites will learn: `pb` grows them one by one, the others together [default: hybrid]
    #[arg(long, value_name = "METHOD")]
    method: Option<MethodChoice>,
    /// Data that will train: what memory a step takes is then told for their shapes, number and target
    #[arg(long, value_name = "DATA")]
    train: Option<PathBuf>,
    /// Samples a step, for the memory it takes; by default what growth would choose for the data, 16 without them
    #[arg(long, value_name = "N", value_parser = count)]
    batch: Option<usize>,
    /// Samples of a pass, for the memory that --micro-batch brings a step to; a quarter of the batch unless said
    #[arg(long, value_name = "N", value_parser = count)]
    micro_batch: Option<usize>,
    #[command(flatten)]
    placement: Placement,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    plan(args, out).map_err(|failure| failure.of(&args.model))
}

fn plan(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let model = Model::open(&args.model)?;
    let mut options = args.configuration.read()?;
    if let Some(method) = args.method {
        options.method = method.into();
    }
    let output = args.placement.output.as_deref().or(options.output.as_deref());
    let also = if args.placement.also.is_empty() { &options.also } else { &args.placement.also };
    let train = args.train.as_ref().map(|path| DataSet::open(path, &options.preprocess)).transpose()?;
    let chosen = Options { output: output.map(str::to_owned), also: also.clone(), ..options.clone() };
    let network = match &train {
        Some(data) => Network::of(&model, &chosen, data)?,
        None => Network::prepare_for(&model, &chosen)?,
    };
    let base = network.parameters;
    args.placement.apply(&mut options, base);
    let plan = make_plan(&network, &options, base)?;
    let of_site = |name: &str, cycles: usize| {
        let mut one = plan.clone();
        one.sites.retain(|s| s.name == name);
        one.parameters(&network.sites, cycles)
    };
    // Nodes that are no sites, and sites that take no dendrites by this connection.
    let reasons = network.not_sites.iter().map(|n| (n.name.as_str(), n.op.as_str(), n.reason.as_str()));
    let refusing = network.sites.iter().filter_map(|s| {
        let first = s.applications.first()?;
        Some((s.name.as_str(), network.graph.node(first.node).op.as_str(), s.kind.refuses(plan.connect)?))
    });
    let others: Vec<(&str, &str, &str)> = reasons.chain(refusing).collect();
    let total = base + plan.parameters(&network.sites, plan.cycles);
    // Data that were given have to fit. Without them, what cannot be told is left open: a plan needs no estimate.
    let asked = Asked { train: train.as_ref(), batch: args.batch, micro_batch: args.micro_batch };
    let memory = match Memory::of(&asked, &network, &plan, &options) {
        Err(failure) if args.train.is_some() => return Err(failure),
        memory => memory,
    };
    if out.is_json() {
        let sites = plan.sites.iter().map(|s| {
            json!({ "name": s.name, "dendrites": s.dendrites, "parameters": of_site(&s.name, plan.cycles) })
        });
        let others = others.iter().map(|(node, op, reason)| json!({ "node": node, "operator": op, "reason": reason }));
        out.object(json!({
            "connect": plan.connect, "cycles": plan.cycles, "sites": sites.collect::<Vec<_>>(),
            "not_sites": others.collect::<Vec<_>>(), "parameters_before": base, "parameters_after": total,
            "step_memory": memory.as_ref().ok().map(Memory::json),
        }))?;
        return Ok(Outcome::Success);
    }
    out.line(format_args!(
        "# {} parameters before, at most {} after {} cycle{}",
        grouped(base as u64),
        grouped(total as u64),
        plan.cycles,
        if plan.cycles == 1 { "" } else { "s" }
    ))?;
    if plan.sites.is_empty() {
        out.line("# no dendrites are asked for (--dendrites 0): the plan is empty, and `grow --plan` takes none without a site")?;
    }
    match &memory {
        Ok(memory) => memory.lines().iter().try_for_each(|line| out.line(line))?,
        Err(failure) => out.line(format_args!("# memory of a training step: not told, {}", failure.message()))?,
    }
    for (name, op, reason) in &others {
        out.line(format_args!("# not a site: {name} ({op}): {reason}"))?;
    }
    let unit = match plan.connect {
        Connection::Neuron => "for each neuron and cycle",
        Connection::Layer => "for each cycle",
    };
    let text = toml::to_string(&plan).map_err(|e| Failure::new(e.to_string(), None))?;
    let mut sites = plan.sites.iter();
    for line in text.lines() {
        match line.starts_with("dendrites = ").then(|| sites.next()).flatten() {
            Some(site) => {
                let cost = grouped(of_site(&site.name, plan.cycles) as u64);
                let neurons = network.site(&site.name).map_or(0, |s| s.channels);
                out.line(format_args!("{line} # {unit}; {neurons} neurons, {cost} parameters in all"))?;
            }
            None => out.line(line)?,
        }
    }
    Ok(Outcome::Success)
}
