//! Numbers and names as a reader wants them.

use crate::schema::{Scores, Turn};

/// A space that does not break between a number and its unit.
const NARROW: char = '\u{a0}';

/// Digits in groups of three.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Four significant digits, plain where that is short.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !value.is_finite() {
        "not a number".to_owned()
    } else if !(1e-3..1e6).contains(&size) {
        small(value)
    } else {
        let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{value:.decimals$}").replace('-', "\u{2212}")
    }
}

/// A number by its magnitude: 3.6e-7.
pub(crate) fn small(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") }
}

/// A wall time.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..120 => format!("{whole}{NARROW}s"),
        120..7200 => format!("{}{NARROW}min {}{NARROW}s", whole / 60, whole % 60),
        _ => format!("{}{NARROW}h {}{NARROW}min", whole / 3600, whole % 3600 / 60),
    }
}

/// How many times `before` fits into `after`.
pub(crate) fn factor(before: u64, after: u64) -> Option<String> {
    (before > 0).then(|| format!("\u{d7}{:.2}", after as f64 / before as f64))
}

/// `n` of something.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n as u64), if n == 1 { one } else { many })
}

/// A name out of a model or a file: what cannot be seen is made visible.
pub(crate) fn name(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a neuron phase is called.
pub(crate) fn turn(turn: Turn) -> String {
    let again = if turn.attempt > 0 { format!(" try {}", turn.attempt + 1) } else { String::new() };
    if turn.cycle == 0 { format!("fine-tune{again}") } else { format!("cycle {}{again}", turn.cycle) }
}

/// The same where there is little room: 2b is the second try at cycle 2.
pub(crate) fn short(turn: Turn) -> String {
    let again = match turn.attempt {
        0 => String::new(),
        n @ 1..26 => char::from(b'a' + n as u8).to_string(),
        n => format!("-{}", n + 1),
    };
    if turn.cycle == 0 { format!("ft{again}") } else { format!("{}{again}", turn.cycle) }
}

/// Whether a change is for the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Better,
    Worse,
    Same,
    /// It is not known which direction is good.
    Unknown,
}

/// What is measured beside the loss, or the loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: String,
    /// Whether smaller is better, where that is known.
    minimise: Option<bool>,
}

impl Metric {
    /// The metric `name`; `minimise` says which way a metric of the user's own goes.
    pub(crate) fn new(name: &str, minimise: Option<bool>) -> Self {
        let minimise = match name {
            "accuracy" | "f1" | "auc" => Some(false),
            "loss" | "mae" | "rmse" => Some(true),
            top if is_top(top) => Some(false),
            _ => minimise,
        };
        Metric { name: name.to_owned(), minimise }
    }

    /// The loss.
    pub(crate) fn loss() -> Self {
        Metric::new("loss", None)
    }

    /// The metric that is not the loss, where there is one.
    pub(crate) fn headline(scores: &Scores, minimise: Option<bool>) -> Self {
        Metric::new(scores.keys().find(|name| *name != "loss").map_or("loss", |name| name), minimise)
    }

    pub(crate) fn is_loss(&self) -> bool {
        self.name == "loss"
    }

    pub(crate) fn is_share(&self) -> bool {
        self.name == "accuracy" || is_top(&self.name)
    }

    /// The name in a sentence.
    pub(crate) fn title(&self) -> String {
        match self.name.as_str() {
            "mae" => "mean absolute error".to_owned(),
            "rmse" => "root mean squared error".to_owned(),
            "f1" => "F1 score".to_owned(),
            "auc" => "AUC".to_owned(),
            top if is_top(top) => format!("top-{} accuracy", &top[3..]),
            other => name(other),
        }
    }

    /// Two values, with as many digits as it takes to tell them apart.
    pub(crate) fn pair(&self, a: f64, b: f64) -> (String, String) {
        if !self.is_share() {
            return (number(a), number(b));
        }
        let digits = (1..3).find(|d| a == b || rounded(a, *d) != rounded(b, *d)).unwrap_or(3);
        (percent(a, digits), percent(b, digits))
    }

    /// One value.
    pub(crate) fn value(&self, value: f64) -> String {
        if self.is_share() { percent(value, 1) } else { number(value) }
    }

    /// The difference of two values with its sign.
    pub(crate) fn difference(&self, before: f64, after: f64) -> String {
        let change = after - before;
        let sign = if change < 0.0 { '\u{2212}' } else { '+' };
        let size = change.abs();
        if change == 0.0 {
            "0".to_owned()
        } else if self.is_share() {
            let digits = if size < 0.001 { 2 } else { 1 };
            format!("{sign}{:.digits$} points", size * 100.0)
        } else {
            format!("{sign}{}", number(size))
        }
    }

    /// What going from `before` to `after` means.
    pub(crate) fn change(&self, before: f64, after: f64) -> Change {
        match self.minimise {
            _ if before == after => Change::Same,
            None => Change::Unknown,
            Some(minimise) if (after < before) == minimise => Change::Better,
            Some(_) => Change::Worse,
        }
    }

    /// "rose from 78.8 % to 93.4 %".
    pub(crate) fn moved(&self, before: f64, after: f64) -> String {
        let (a, b) = self.pair(before, after);
        let verb = match after.partial_cmp(&before) {
            Some(std::cmp::Ordering::Greater) => "rose",
            Some(std::cmp::Ordering::Less) => "fell",
            _ => return format!("stayed at {a}"),
        };
        // A change that no shown digit tells is said to be as small as it is.
        if a == b {
            format!("{verb} by {} from {a}", small((after - before).abs()))
        } else {
            format!("{verb} from {a} to {b}")
        }
    }
}

/// "top5": the share of targets among the five largest scores.
fn is_top(name: &str) -> bool {
    name.strip_prefix("top").is_some_and(|k| !k.is_empty() && k.bytes().all(|b| b.is_ascii_digit()))
}

fn rounded(share: f64, digits: i32) -> i64 {
    (share * 100.0 * 10f64.powi(digits)).round() as i64
}

fn percent(share: f64, digits: i32) -> String {
    format!("{:.*}{NARROW}%", digits.max(0) as usize, share * 100.0)
}

/// The first letter large.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_told_apart() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(number(0.217449), "0.2174");
        assert_eq!(number(-12.3456), "\u{2212}12.35");
        assert_eq!(number(3.6e-7), "3.6e-7");
        assert_eq!(number(54321.9), "54322");
        assert_eq!(duration(7.2), "7\u{a0}s");
        assert_eq!(duration(3725.0), "62\u{a0}min 5\u{a0}s");
        assert_eq!(factor(714, 3108).as_deref(), Some("\u{d7}4.35"));
        assert_eq!(factor(0, 1), None);
        let accuracy = Metric::new("accuracy", None);
        assert_eq!(accuracy.pair(0.788, 0.934), ("78.8\u{a0}%".to_owned(), "93.4\u{a0}%".to_owned()));
        assert_eq!(accuracy.pair(0.9881, 0.9884), ("98.81\u{a0}%".to_owned(), "98.84\u{a0}%".to_owned()));
        assert_eq!(accuracy.difference(0.5, 0.4), "\u{2212}10.0 points");
        assert_eq!(Metric::loss().moved(0.60384, 0.60383), "fell by 1.0e-5 from 0.6038");
        assert_eq!(accuracy.moved(1.0, 1.0), "stayed at 100.0\u{a0}%");
    }

    #[test]
    fn the_direction_of_a_metric_decides_what_is_better() {
        assert_eq!(Metric::new("accuracy", Some(true)).change(0.5, 0.4), Change::Worse);
        assert_eq!(Metric::new("top5", None).change(0.5, 0.6), Change::Better);
        assert_eq!(Metric::new("rmse", None).change(0.5, 0.4), Change::Better);
        assert_eq!(Metric::new("mine", Some(true)).change(0.5, 0.4), Change::Better);
        assert_eq!(Metric::new("mine", None).change(0.5, 0.4), Change::Unknown);
    }

    #[test]
    fn a_metric_is_called_by_its_words() {
        assert_eq!(Metric::new("top5", None).title(), "top-5 accuracy");
        assert_eq!(Metric::new("topology", None).title(), "topology");
    }
}
