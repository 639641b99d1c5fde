//! What is wrong with a command line, said as every other error is: what is wrong, and a hint.

use std::{
    error::Error as _,
    num::{ParseFloatError, ParseIntError},
};

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::failure::Failure;

/// The failure that a command line of `program` is; `words` are what was typed after the program's name.
pub(crate) fn failure(error: &Error, program: &Command, words: &[String]) -> Failure {
    let (name, command) = typed(program, words);
    let help = format!("`{name} --help`");
    let argument = strings(error, ContextKind::InvalidArg);
    let first = argument.first().map_or("", |a| bare(a));
    let value = strings(error, ContextKind::InvalidValue).concat();
    let explained = || format!("{help} explains {}", if first.is_empty() { "it" } else { first });
    let (message, hint) = match error.kind() {
        ErrorKind::UnknownArgument if first.starts_with('-') => (
            format!("{name} has no option '{first}'"),
            called(command, first)
                .or_else(|| meant(error, ContextKind::SuggestedArg))
                .or_else(|| elsewhere(program, command, first))
                .unwrap_or_else(|| format!("{help} lists the options")),
        ),
        ErrorKind::UnknownArgument => {
            (format!("{name}: '{first}' is one argument too many"), format!("{help} says what it takes"))
        }
        ErrorKind::InvalidSubcommand => {
            let wrong = strings(error, ContextKind::InvalidSubcommand).concat();
            let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            let listed = || format!("the commands are {}", known.join(", "));
            let hint = meant(error, ContextKind::SuggestedSubcommand).unwrap_or_else(listed);
            (format!("{name} has no command '{wrong}'"), hint)
        }
        ErrorKind::MissingRequiredArgument => {
            let usage = strings(error, ContextKind::Usage).concat();
            let output = words.iter().any(|w| w == "--output" || w.starts_with("--output="));
            let place = argument.iter().find(|a| a.starts_with("--output-")).map(|a| bare(a)).filter(|_| output);
            let hint = usage.strip_prefix("Usage: ").map_or_else(explained, |usage| format!("usage: {usage}"));
            let hint = match place {
                Some(place) => format!("--output names an output of the model; say {place} or -o for what is written"),
                None => hint,
            };
            let verb = if argument.len() == 1 { "is" } else { "are" };
            (format!("{name}: {} {verb} missing", argument.join(" and ")), hint)
        }
        ErrorKind::InvalidValue if value.is_empty() => (format!("{first} is given without its value"), explained()),
        ErrorKind::InvalidValue => {
            let valid = strings(error, ContextKind::ValidValue).join(", ");
            let hint = meant(error, ContextKind::SuggestedValue).unwrap_or_else(explained);
            (format!("{first}: '{value}' is none of {valid}"), hint)
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map_or_else(String::new, |source| {
                let number = source.is::<ParseIntError>() || source.is::<ParseFloatError>();
                if number { format!("'{value}' is not a number that it takes") } else { source.to_string() }
            });
            (format!("{first}: {reason}"), explained())
        }
        ErrorKind::ArgumentConflict => match strings(error, ContextKind::PriorArg).first().map(|a| bare(a)) {
            Some(other) if other != first => {
                (format!("{first} and {other} exclude each other"), "leave one of them out".to_owned())
            }
            _ => (format!("{first} is given more than once"), "give it once".to_owned()),
        },
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            (line.strip_prefix("error: ").unwrap_or(line).to_owned(), format!("{help} says how it is used"))
        }
    };
    Failure::new(message, Some(&hint))
}

/// The command that was typed, with its name as it is typed.
fn typed<'a>(program: &'a Command, words: &[String]) -> (String, &'a Command) {
    let (mut name, mut command) = (program.get_name().to_owned(), program);
    for word in words {
        if let Some(found) = command.find_subcommand(word) {
            name = format!("{name} {word}");
            command = found;
        }
    }
    (name, command)
}

/// The option that goes by another name here.
fn called(command: &Command, option: &str) -> Option<String> {
    if command.get_name() == "plan" && matches!(option, "-o" | "--out" | "--output-file" | "--output-folder") {
        let how = "the plan goes to standard output: redirect it, as in `dendrite plan MODEL > plan.toml`";
        return Some(how.to_owned());
    }
    let names: &[&str] = match option {
        "--validation" | "--valid" | "--validate" | "--eval" | "--dev" => &["val", "data"],
        "--training" | "--train-data" => &["train", "data"],
        "--train" | "--val" | "--test" | "--dataset" => &["data"],
        _ => return None,
    };
    let has = |long: &&&str| command.get_arguments().any(|a| a.get_long() == Some(**long));
    names.iter().find(has).map(|name| format!("did you mean '--{name}'?"))
}

/// An option that other commands have.
fn elsewhere(program: &Command, command: &Command, option: &str) -> Option<String> {
    let long = option.strip_prefix("--")?;
    let has =
        |c: &&Command| c.get_name() != command.get_name() && c.get_arguments().any(|a| a.get_long() == Some(long));
    let names: Vec<&str> = program.get_subcommands().filter(has).map(Command::get_name).collect();
    (!names.is_empty()).then(|| format!("it is an option of {}", names.join(", ")))
}

/// What clap thinks was meant.
fn meant(error: &Error, kind: ContextKind) -> Option<String> {
    let names = strings(error, kind);
    let quoted: Vec<String> = names.iter().map(|n| format!("'{n}'")).collect();
    // The nearest comes last.
    (!quoted.is_empty()).then(|| format!("did you mean {}?", quoted.into_iter().rev().collect::<Vec<_>>().join(" or ")))
}

/// The option without its value's name.
fn bare(argument: &str) -> &str {
    argument.split_whitespace().next().unwrap_or_default().trim_end_matches("...")
}

fn strings(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}
