//! What a command prints: facts to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// The version of every JSON object printed; raised when one changes its meaning.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Serialize)]
struct Versioned<T> {
    schema_version: u32,
    #[serde(flatten)]
    facts: T,
}

/// How to print.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    color: ColorChoice,
}

impl Output {
    /// The output as the user asked for it; starts the log too.
    pub(crate) fn new(json: bool, color: ColorChoice, quiet: bool, verbose: u8) -> Self {
        let level = match verbose {
            0 => tracing::Level::WARN,
            1 => tracing::Level::INFO,
            2 => tracing::Level::DEBUG,
            _ => tracing::Level::TRACE,
        };
        let out = Output { json, quiet, verbose: verbose > 0, color };
        // Only the first subscriber of a process counts; there is one.
        let _ = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(io::stderr)
            .with_ansi(out.colors(&io::stderr()))
            .without_time()
            .try_init();
        out
    }

    /// Whether facts are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Print an object with the schema's version in front.
    pub(crate) fn object(&self, facts: impl Serialize) -> Result<(), Failure> {
        let versioned = Versioned { schema_version: SCHEMA_VERSION, facts };
        let text = serde_json::to_string_pretty(&versioned).map_err(|e| Failure::new(e.to_string(), None))?;
        self.line(text)
    }

    /// Print a line of facts.
    pub(crate) fn line(&self, text: impl std::fmt::Display) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()?;
        Ok(())
    }

    /// Print a table; columns whose number `right` holds are numbers.
    pub(crate) fn table(&self, header: &[&str], right: &[usize], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let cell = |i: usize, text: String| {
            let alignment = if right.contains(&i) { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        };
        table.set_header(header.iter().enumerate().map(|(i, h)| cell(i, (*h).to_owned())));
        for row in rows {
            table.add_row(row.iter().enumerate().map(|(i, text)| cell(i, text.clone())));
        }
        let text = table.to_string();
        let mut lines = text.lines().map(str::trim_end);
        if let Some(header) = lines.next() {
            self.line(self.strong(header))?;
        }
        lines.try_for_each(|line| self.line(line))
    }

    /// Tell the user something that is no fact of the result, unless quiet.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Warn the user, even if quiet.
    pub(crate) fn warn(&self, text: impl std::fmt::Display) {
        eprintln!("{} {text}", self.paint("33;1", "warning:", &io::stderr()));
    }

    /// A word in standard output that stands out.
    pub(crate) fn strong(&self, text: &str) -> String {
        self.paint("1", text, &io::stdout())
    }

    /// A word in standard output that is good.
    pub(crate) fn good(&self, text: &str) -> String {
        self.paint("32", text, &io::stdout())
    }

    /// A word in standard output that is bad.
    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("31;1", text, &io::stdout())
    }

    /// A word in standard error that is good.
    pub(crate) fn good_note(&self, text: &str) -> String {
        self.paint("32", text, &io::stderr())
    }

    /// Whether the user asked for nothing but results and errors.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the user asked for every detail.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// The word before an error.
    pub(crate) fn alarm(&self, text: &str) -> String {
        self.paint("31;1", text, &io::stderr())
    }

    /// The word before a hint.
    pub(crate) fn advice(&self, text: &str) -> String {
        self.paint("36;1", text, &io::stderr())
    }

    fn paint(&self, code: &str, text: &str, stream: &impl IsTerminal) -> String {
        if self.colors(stream) { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn colors(&self, stream: &impl IsTerminal) -> bool {
        let unwanted = || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => stream.is_terminal() && !unwanted() && !dumb(),
        }
    }
}

/// A score or a loss: four decimals, or as many digits as tell it where it is very small or large.
pub(crate) fn in_digits(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && size < 1e-3 => format!("{value:.3e}"),
        size if size >= 1e4 => format!("{value:.0}"),
        _ => format!("{value:.4}"),
    }
}

/// The change of a score.
pub(crate) fn change(value: f64) -> String {
    if value < 0.0 { in_digits(value) } else { format!("+{}", in_digits(value)) }
}

/// A number with its thousands apart.
pub(crate) fn grouped(n: impl Into<u64>) -> String {
    let digits = n.into().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in the unit that fits.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0u64, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.25, 7.04e-8, 70378.45].map(in_digits), ["0.0000", "0.2500", "7.040e-8", "70378"]);
        assert_eq!([0.0, 0.012, -0.012, -2e-6].map(change), ["+0.0000", "+0.0120", "-0.0120", "-2.000e-6"]);
        assert_eq!([0, 1023, 1024, 3_500_000].map(bytes), ["0 B", "1023 B", "1.0 KiB", "3.3 MiB"]);
    }
}
