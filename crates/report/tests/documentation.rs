//! docs/run-folder.md names every field that a real run writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// The text under the heading `heading`, to the next one of its level or above.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading}")) + 1;
    let level = heading.chars().take_while(|c| *c == '#').count();
    let body = start + heading.len();
    let end = (1..=level).filter_map(|n| document[body..].find(&format!("\n{} ", "#".repeat(n)))).min();
    &document[start..end.map_or(document.len(), |end| body + end)]
}

fn names(section: &str, field: &str) -> bool {
    section.lines().any(|line| line.starts_with(&format!("| `{field}`")))
}

#[test]
fn every_field_of_every_event_is_described() {
    let document = read("docs/run-folder.md");
    let mut kinds = BTreeSet::new();
    for line in read("fixtures/runs/letters/events.jsonl").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let kind = event["event"].as_str().unwrap().to_owned();
        let text = section(&document, &format!("### `{kind}`"));
        for field in event.as_object().unwrap().keys().filter(|f| *f != "event") {
            assert!(names(text, field), "{field} of {kind}");
        }
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), 6, "the fixture has events of every kind: {kinds:?}");
}

#[test]
fn every_field_of_the_summary_is_described() {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    found.insert(path.clone());
                    walk(value, &path, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, &format!("{path}[]"), found)),
            _ => {}
        }
    }
    let document = read("docs/run-folder.md");
    let text = section(&document, "## summary.json");
    let mut fields = BTreeSet::new();
    walk(&serde_json::from_str(&read("fixtures/runs/letters/summary.json")).unwrap(), "", &mut fields);
    for field in fields {
        // Both sides have the same fields, and scores are called like the metric.
        let generic =
            field.replacen("after", "before", 1).replace("test.", "val.").replace("val.accuracy", "val.<metric>");
        assert!(names(text, &generic), "{generic}");
    }
}

#[test]
fn every_column_and_every_file_is_described() {
    let document = read("docs/run-folder.md");
    let header = read("fixtures/runs/letters/metrics.csv");
    for column in header.lines().next().unwrap().split(',') {
        assert!(names(section(&document, "## metrics.csv"), column), "{column}");
    }
    for (file, heading) in [("plan.toml", "## plan.toml"), ("config.toml", "## config.toml")] {
        let table: toml::Table = read(&format!("fixtures/runs/letters/{file}")).parse().unwrap();
        for key in table.keys() {
            assert!(names(section(&document, heading), key), "{key} of {file}");
        }
    }
}
