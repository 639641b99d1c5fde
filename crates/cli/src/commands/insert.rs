//! `dendrite insert`: untrained dendrites, for trying where a model runs.

use std::path::{Path, PathBuf};

use dendrite_onnx::Model;
use dendrite_trainer::{Network, Options, export, prepare::budget, random::initial_growth};
use dendrites::{Connection, Demand, Plan, sites::select};
use serde_json::json;

use crate::{
    failure::{Failure, Outcome},
    growth::{Placement, check_home, shown},
    output::{Output, grouped},
};

/// Insert untrained dendrites; outputs stay equal
///
/// The connections of new dendrites are zero. With `--dendrites 0` the model is written back unchanged to the byte.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    model: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output_file: PathBuf,
    /// Overwrite the file if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    placement: Placement,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    insert(args, out).map_err(|failure| failure.of(&args.model))
}

/// Refuse to write over the model itself, which may be the only one there is, and over any other file unless that is wanted.
fn check_output(args: &Args) -> Result<(), Failure> {
    let output = &args.output_file;
    check_home(output)?;
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(&args.model, output) {
        let reason = format!("{} is the model itself", shown(output));
        return Err(Failure::new(reason, Some("choose another file with -o: the model stays as it is")));
    }
    // What is wrong with a folder is told where it is written.
    if output.exists() && !output.is_dir() && !args.force {
        let reason = format!("{} is there already", shown(output));
        return Err(Failure::new(reason, Some("choose another file with -o, or overwrite it with --force")));
    }
    Ok(())
}

fn insert(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    check_output(args)?;
    let model = Model::open(&args.model)?;
    let mut options = Options { dendrites: 1, ..Options::default() };
    let base = dendrite_trainer::network::parameters(&model)?;
    args.placement.apply(&mut options, base);
    let (mut edit, mut added) = (export::Edit::none(&model), 0);
    if options.dendrites > 0 {
        let network = Network::prepare_for(&model, &options)?;
        let sites = select(&network.sites, &options.sites, &options.exclude)?;
        let (cycles, width) = match options.connect {
            Connection::Neuron => (1, Some(options.dendrites as f64)),
            Connection::Layer => (options.dendrites, options.width),
        };
        let budget = options.max_parameters.map(|limit| budget(limit, base)).transpose()?;
        let plan = Plan::new(&sites, &Demand { connect: options.connect, cycles, width, budget })?;
        let growth = initial_growth(&network, &plan, options.activation.list()[0], options.seed)?;
        added = growth.sets.iter().filter_map(|s| Some(s.parameters(network.site(&s.site)?, &growth.sets))).sum();
        edit = export::edit(&model, &network, &growth, None)?;
    }
    edit.write(&args.output_file)?;
    if out.is_json() {
        out.object(json!({ "file": args.output_file, "parameters_added": added }))?;
    } else {
        out.line(format_args!("{}: {} parameters added", args.output_file.display(), grouped(added as u64)))?;
    }
    Ok(Outcome::Success)
}
