//! The commands, a file each. A command is registered by its line below: its name and its module, which has `Args` and
//! `run`.

use crate::{
    failure::{Failure, Outcome},
    output::Output,
};

macro_rules! commands {
    ($($command:ident = $module:ident,)*) => {
        $(mod $module;)*

        /// What to do.
        #[derive(clap::Subcommand)]
        pub(crate) enum Command {
            $(#[allow(missing_docs)] $command(Box<$module::Args>),)*
        }

        impl Command {
            /// Do it.
            pub(crate) fn run(&self, out: &Output) -> Result<Outcome, Failure> {
                match self {
                    $(Command::$command(args) => $module::run(args, out),)*
                }
            }
        }
    };
}

commands! {
    Demo = demo,
    Grow = grow,
    Plan = plan,
    Insert = insert,
    Evaluate = evaluate,
    Inspect = inspect,
    Check = check,
    Compare = compare,
    Diff = diff,
    Runtime = runtime,
    Completions = completions,
    Man = man,
}
