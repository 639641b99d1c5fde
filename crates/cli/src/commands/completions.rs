//! `dendrite completions`: what a shell needs to complete the command line, from its own definitions.

use clap_complete::Shell;

use crate::{
    failure::{Failure, Outcome},
    output::Output,
};

/// Print a shell's completions, for example into ~/.local/share/bash-completion/completions/dendrite
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "dendrite", &mut text);
    out.line(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Outcome::Success)
}
