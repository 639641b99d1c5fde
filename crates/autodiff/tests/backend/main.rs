//! The node models of onnx's backend tests: each is verified, refused for a reason, without anything to differentiate, or
//! not run by the runtime.
//!
//! docs/operators.md says what becomes of each operator, fixtures/backend/verified.txt which models are verified. With
//! UPDATE_OPERATORS=1 the test writes the former anew and adds to the latter; a model never leaves it that way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cases;
mod classify;
#[path = "../common/cases.rs"]
#[allow(dead_code, unreachable_pub)]
mod references;
mod table;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use cases::Case;
use classify::{Class, Finding, classify};

/// Findings in the order of the cases, by two threads: loading models takes most of the time.
fn classify_all(cases: &[Case]) -> Vec<Finding> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let i = next.fetch_add(1, Ordering::Relaxed)
            && let Some(case) = cases.get(i)
        {
            let finding = classify(case);
            found.lock().unwrap().push((i, finding));
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(i, _)| *i);
    found.into_iter().map(|(_, f)| f).collect()
}

#[test]
fn every_backend_model_is_classified() {
    let cases = cases::read_all();
    let findings = classify_all(&cases);
    let all = || cases.iter().zip(&findings);
    for (case, f) in all() {
        println!("{:?}\t{}\t{}\t{:.1e}\t{}", f.class, case.operator(), case.name, f.worst, f.reasons.join("; "));
    }
    let mut failures: Vec<String> = all()
        .filter(|(_, f)| f.class == Class::Wrong)
        .map(|(case, f)| format!("{} ({}): {}", case.name, case.operator(), f.reasons.join("; ")))
        .collect();

    let list = cases::folder().join("verified.txt");
    let stored = std::fs::read_to_string(&list).unwrap_or_default();
    let mut before: BTreeSet<&str> = stored.lines().collect();
    let now: BTreeSet<&str> =
        all().filter(|(_, f)| f.class == Class::Verified).map(|(case, _)| case.name.as_str()).collect();
    failures.extend(before.difference(&now).map(|name| format!("{name} is no longer verified")));

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators.md");
    let text = table::render(&cases, &findings);
    if std::env::var_os("UPDATE_OPERATORS").is_some() {
        std::fs::write(&page, &text).unwrap();
        before.extend(&now);
        std::fs::write(&list, before.into_iter().map(|n| format!("{n}\n")).collect::<String>()).unwrap();
    } else {
        let written = std::fs::read_to_string(&page).unwrap_or_default();
        let (written, text) = (table::comparable(&written), table::comparable(&text));
        for pair in written.lines().zip(text.lines()).filter(|(a, b)| a != b) {
            failures.push(format!("docs/operators.md is stale:\n  {}\n  {}", pair.0, pair.1));
        }
        if written.lines().count() != text.lines().count() {
            failures.push("docs/operators.md is stale: UPDATE_OPERATORS=1 writes it".to_owned());
        }
        failures.extend(now.difference(&before).map(|name| format!("{name} is verified and not listed as such")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
