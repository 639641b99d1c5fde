//! The `dendrite` command: flags, commands, output. What it does is done by the crates under it.

mod commands;
mod compare;
mod failure;
mod growth;
mod layers;
mod memory;
mod output;
mod parity;
mod progress;
mod toml_error;
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, error::ErrorKind};

use output::{ColorChoice, Output};

/// Upgrade an exported ONNX model: grow dendrites on it, train them, export plain ONNX.
#[derive(Parser)]
#[command(name = "dendrite", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
    #[command(flatten)]
    global: Global,
}

/// Options of every command.
#[derive(clap::Args)]
struct Global {
    /// Print facts as one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for the log of ONNX Runtime too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// The command line. A number below zero is a value, not an unknown flag, so that the option it is given to can say what
/// it takes.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.allow_negative_numbers(true))
}

fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            if e.use_stderr() && e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                let words: Vec<String> = std::env::args().skip(1).collect();
                let out = Output::new(false, ColorChoice::Auto, false, 0);
                return usage::failure(&e, &command(), &words).report(&out);
            }
            // Help and version are output like any other: a closed pipe is no failure.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let out = Output::new(cli.global.json, cli.global.color, cli.global.quiet, cli.global.verbose);
    match cli.command.run(&out) {
        Ok(outcome) => outcome.into(),
        Err(failure) => failure.report(&out),
    }
}
