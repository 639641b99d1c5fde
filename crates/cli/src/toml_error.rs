//! What is wrong with a TOML file or a single setting: the line, what was read, and the name that was meant.

use dendrite_data::nearest;

use crate::failure::Failure;

/// The failure that `error` in `text` is; `place` names the file or the setting, `hint` is the remedy where none is nearer.
pub(crate) fn failure(place: &str, text: &str, error: &toml::de::Error, hint: &str) -> Failure {
    let message = error.message().trim();
    let position = error.span().map(|span| {
        let before = text.get(..span.start).unwrap_or_default();
        let number = before.matches('\n').count() + 1;
        (number, text.lines().nth(number - 1).unwrap_or_default().trim())
    });
    let place = match position {
        Some((number, _)) => format!("{place}, line {number}"),
        None => place.to_owned(),
    };
    if let Some((name, known)) = unknown(message) {
        let near = close(name, &known);
        let meant = typed(name).or_else(|| near.map(|n| format!("did you mean '{n}'?")));
        let what = if message.starts_with("unknown variant") {
            format!("'{name}' is none of {}", known.join(", "))
        } else {
            format!("there is no key '{name}'")
        };
        return Failure::new(format!("{place}: {what}"), Some(meant.as_deref().unwrap_or(hint)));
    }
    let line = position.map(|(_, line)| line).filter(|line| !line.is_empty());
    let reason = match line {
        Some(line) if line.ends_with('=') => "a value is missing".to_owned(),
        Some(_) if message.starts_with("invalid boolean") => "no value (texts need quotes)".to_owned(),
        _ => plain(message),
    };
    // What is missing stands in no line.
    let line = line.filter(|_| !message.starts_with("missing field"));
    let shown = line.map(|line| format!(" in `{line}`")).unwrap_or_default();
    Failure::new(format!("{place}: {reason}{shown}"), Some(hint))
}

/// What is no option of a file, since it says what a command works on.
fn typed(name: &str) -> Option<String> {
    let written = match name {
        "val" | "test" | "data" => format!("--{name} DATA"),
        "validation" => "--val DATA".to_owned(),
        "model" => "as the first argument".to_owned(),
        "plan" => "--plan FILE".to_owned(),
        "output-folder" | "folder" => "-o FOLDER".to_owned(),
        "resume" => "--resume".to_owned(),
        _ => return None,
    };
    Some(format!("models, data and folders are given on the command line: {written}"))
}

/// The name that is not known, and those that are.
fn unknown(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field ").or_else(|| message.strip_prefix("unknown variant "))?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

/// The known name that is spelt nearly like `name`, or of which `name` is a longer form, as flags are of some keys.
fn close<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let part =
        |key: &&str| name.strip_prefix(*key).is_some_and(|r| r.starts_with('-')) || name.ends_with(&format!("-{key}"));
    nearest(name, known).or_else(|| known.iter().copied().filter(part).max_by_key(|key| key.len()))
}

/// Types as a user calls them.
fn plain(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number of 0 or more",
        "i64" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        other => other,
    };
    format!("{found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_messages() {
        let message = "unknown field `epohcs`, expected one of `epochs`, `batch`";
        assert_eq!(unknown(message), Some(("epohcs", vec!["epochs", "batch"])));
        assert_eq!(close("train-weights", &["train", "tries"]), Some("train"));
        assert_eq!(close("no-finetune-first", &["finetune-first"]), Some("finetune-first"));
        assert_eq!(
            plain("invalid type: string \"x\", expected usize"),
            "invalid type: string \"x\", expected a whole number of 0 or more"
        );
    }
}
