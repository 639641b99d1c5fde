//! `dendrite man`: the manual page, from the command line's own definitions.

use clap_mangen::Man;

use crate::{
    failure::{Failure, Outcome},
    output::Output,
};

/// Print the manual page, of the whole command or of one of its commands: `dendrite man grow | man -l -`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The command
    command: Option<String>,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let mut whole = crate::command();
    whole.build();
    let page = match &args.command {
        None => whole,
        Some(name) => whole.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::new(format!("there is no command '{name}'"), Some("`dendrite --help` lists the commands"))
        })?,
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    out.line(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Outcome::Success)
}
