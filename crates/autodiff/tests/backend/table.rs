//! docs/operators.md: what becomes of each operator's models.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
};

use crate::{
    cases::Case,
    classify::{Class, Finding},
    references,
};

/// The column that depends on the machine's kernels.
const ERROR_COLUMN: usize = 6;

/// What is said of one operator.
#[derive(Default)]
struct Row {
    /// Models of the operator as a node.
    nodes: BTreeMap<Class, usize>,
    /// Models in which it is expanded into the operators that define it.
    expanded: BTreeMap<Class, usize>,
    worst: f64,
    refusals: BTreeMap<String, usize>,
    failures: BTreeMap<String, usize>,
}

impl Row {
    fn count(&self, class: Class) -> usize {
        self.nodes.get(&class).copied().unwrap_or(0)
    }
}

/// The operator that a model is about: an expanded model has the name of the model that it expands.
fn subject(case: &Case, operators: &HashMap<&str, String>) -> (String, bool) {
    match case.name.split_once("_expanded") {
        Some((base, _)) => (operators.get(base).cloned().unwrap_or_else(|| case.operator()), true),
        None => (case.operator(), false),
    }
}

fn rows(cases: &[Case], findings: &[Finding]) -> BTreeMap<String, Row> {
    let operators: HashMap<&str, String> = cases.iter().map(|c| (c.name.as_str(), c.operator())).collect();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (case, finding) in cases.iter().zip(findings) {
        let (operator, expanded) = subject(case, &operators);
        let row = rows.entry(operator).or_default();
        let counts = if expanded { &mut row.expanded } else { &mut row.nodes };
        *counts.entry(finding.class).or_default() += 1;
        row.worst = row.worst.max(finding.worst);
        for reason in &finding.reasons {
            match finding.class {
                Class::Refused | Class::Verified => *row.refusals.entry(reason.clone()).or_default() += 1,
                Class::NotRun => *row.failures.entry(brief(reason)).or_default() += 1,
                Class::Constant | Class::Wrong => {}
            }
        }
    }
    rows
}

/// What the runtime says, without its source files, nodes and lists of types.
fn brief(reason: &str) -> String {
    for (sign, meaning) in [
        ("ValidateOpsetForDomain", "the opset is newer than the runtime"),
        ("is not a registered operator", "the operator is unknown"),
        ("Could not find an implementation", "no kernel for these types"),
        ("Failed to find kernel", "no kernel for these types"),
        ("layout_ == 0", "no kernel for layout 1"),
        ("ScalesValidation", "no kernel for these axes"),
        ("Locale", "the locale is not installed"),
        ("other outputs", "its outputs are not those that onnx stores"),
    ] {
        if reason.contains(sign) {
            return meaning.to_owned();
        }
    }
    "the run fails".to_owned()
}

fn cell(count: usize) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}

fn listed(reasons: &BTreeMap<String, usize>) -> String {
    let all: Vec<String> = reasons.iter().map(|(r, n)| format!("{} ({n})", r.replace('|', "\\|"))).collect();
    all.join("; ")
}

pub(crate) fn render(cases: &[Case], findings: &[Finding]) -> String {
    let rows = rows(cases, findings);
    let total = |class| findings.iter().filter(|f| f.class == class).count();
    let nodes = |class| rows.values().map(|r| r.count(class)).sum::<usize>();
    let verified: BTreeSet<&String> =
        rows.iter().filter(|(_, r)| r.count(Class::Verified) > 0).map(|(o, _)| o).collect();
    let mut own = references::operators();
    own.retain(|operator, cases| *cases > 0 && !verified.contains(operator));
    let standard = own.keys().filter(|o| !o.contains('.')).count();
    let mut text = String::from(
        "# Operators that can be trained through\n\n\
         A model can be trained where every operator between its trained weights and its outputs has a gradient. This table\n\
         says for which operators that is tested, on the node models of the backend tests of onnx 1.22.0. It is written by\n\
         `UPDATE_OPERATORS=1 cargo test -p dendrite-autodiff --test backend`, which runs every model in ONNX Runtime 1.31.1.\n\n",
    );
    let _ = writeln!(text, "| models | as a node | expanded | what it means |\n|---|---:|---:|---|");
    for (class, name, meaning) in [
        (Class::Verified, "verified", "the gradients agree with differences of the function"),
        (Class::Refused, "refused", "an error says why there is no gradient, before anything is trained"),
        (
            Class::Constant,
            "nothing to differentiate",
            "no float input or output, or a derivative that is zero everywhere",
        ),
        (Class::NotRun, "not run", "the runtime does not run the model, or computes something else than onnx"),
    ] {
        let _ = writeln!(text, "| {name} | {} | {} | {meaning} |", nodes(class), total(class) - nodes(class));
    }
    let _ = writeln!(text, "| all | {} | {} | |\n", nodes_of_all(&rows), cases.len() - nodes_of_all(&rows));
    let _ = writeln!(
        text,
        "Verified operators: **{}**, zero gradients not counted: {} on these models, and {} more ({standard} of them standard ones) on\n\
         [cases of their own](#operators-with-cases-of-their-own). An operator that is defined by others has models in which it is\n\
         expanded into them; they are counted apart. A model with one input that is refused counts as refused, and the table says\n\
         which input it is. Errors are relative to the largest derivative or 1, and have to stay below 1e-5 in float64, 2e-3 in\n\
         float32, and ten units in the last place of the 16-bit types. Besides, each of the {random} operators that can be\n\
         differentiated is held to differences on {each} seeded random cases: shapes, attributes, broadcasting, empty and rank-0\n\
         tensors, sizes that are not known (`cargo test -p dendrite-autodiff --test random`).\n",
        verified.len() + own.len(),
        verified.len(),
        own.len(),
        random = dendrite_autodiff::differentiable().len() - references::STRAIGHT_THROUGH.len(),
        each = references::RANDOM_CASES,
    );
    let _ = writeln!(
        text,
        "| operator | verified | refused | nothing to differentiate | not run | largest error | expanded and verified | why refused |\n\
         |---|---:|---:|---:|---:|---:|---:|---|"
    );
    for (operator, row) in &rows {
        let expanded: usize = row.expanded.values().sum();
        let expanded = match row.expanded.get(&Class::Verified) {
            _ if expanded == 0 => String::new(),
            found => format!("{} of {expanded}", found.unwrap_or(&0)),
        };
        let worst = if row.worst == 0.0 { String::new() } else { format!("{:.0e}", row.worst) };
        let _ = writeln!(
            text,
            "| {operator} | {} | {} | {} | {} | {worst} | {expanded} | {} |",
            cell(row.count(Class::Verified)),
            cell(row.count(Class::Refused)),
            cell(row.count(Class::Constant)),
            cell(row.count(Class::NotRun)),
            listed(&row.refusals),
        );
    }
    let _ = writeln!(
        text,
        "\n## Operators with cases of their own\n\n\
         What the backend tests have no model for that could be differentiated, above all ONNX Runtime's own operators, which\n\
         exporters and optimizers leave behind: verified against references in double precision\n\
         (`scripts/gradient_references.py`), with how many cases. `cargo test -p dendrite-autodiff --test rules` runs them.\n"
    );
    for (operator, cases) in &own {
        let _ = writeln!(text, "- {operator} ({cases})");
    }
    let _ = writeln!(text, "\n## Not run\n\nModels that ONNX Runtime 1.31.1 does not run on a CPU, with how many.\n");
    for (operator, row) in rows.iter().filter(|(_, r)| !r.failures.is_empty()) {
        let _ = writeln!(text, "- {operator}: {}", listed(&row.failures));
    }
    let _ = writeln!(
        text,
        "\n## Inputs without a reference\n\nInputs of verified models at which differences say nothing: their gradients are not compared.\n"
    );
    let mut open: BTreeMap<(String, &String, &String), usize> = BTreeMap::new();
    for (case, _) in cases.iter().zip(findings).filter(|(_, f)| f.class == Class::Verified) {
        for (input, reason) in &case.none_for {
            *open.entry((case.operator(), input, reason)).or_default() += 1;
        }
    }
    for ((operator, input, reason), count) in open {
        let _ = writeln!(text, "- {operator}, `{input}`: {reason} ({count})");
    }
    text
}

fn nodes_of_all(rows: &BTreeMap<String, Row>) -> usize {
    rows.values().flat_map(|r| r.nodes.values()).sum()
}

/// The text without what differs between machines.
pub(crate) fn comparable(text: &str) -> String {
    let line = |line: &str| {
        let cells = line.split('|').enumerate().filter(|(i, _)| *i != ERROR_COLUMN).map(|(_, c)| c);
        cells.collect::<Vec<_>>().join("|")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
