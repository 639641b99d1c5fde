//! The page of a real run and of runs made up from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use dendrite_report::render;
use serde_json::{Value, json};

const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/runs/letters");

/// The page of a copy of the fixture after `change` to its files.
fn page(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(RUN).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    change(folder.path());
    let page = render(folder.path()).unwrap();
    well_formed(&page);
    page
}

/// Turn an option of a run's configuration on or off.
fn set(folder: &Path, option: &str, value: bool) {
    let path = folder.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    let off = format!("{option} = false");
    assert!(text.contains(&off));
    fs::write(&path, text.replace(&off, &format!("{option} = {value}"))).unwrap();
}

/// The same with a change to summary.json alone.
fn page_of(change: impl FnOnce(&mut Value)) -> String {
    page(|folder| {
        let path = folder.join("summary.json");
        let mut summary: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut summary);
        fs::write(path, summary.to_string()).unwrap();
    })
}

/// Every element is closed in order, every attribute is quoted, and no text holds a bare angle bracket.
fn well_formed(page: &str) {
    const EMPTY: [&str; 1] = ["meta"];
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let mut open: Vec<&str> = Vec::new();
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a bare bracket in {:?}", &rest[..start]);
        let end = tag_end(&rest[start..]) + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let name = tag.split_whitespace().next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        if EMPTY.contains(&name) {
            continue;
        }
        open.push(name);
        if name == "script" || name == "style" {
            // Raw text ends at its own end tag and nowhere else.
            let end = rest.find("</").unwrap();
            assert!(rest[end..].starts_with(&format!("</{name}>")));
            rest = &rest[end..];
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    assert!(!rest.contains('>'));
}

fn tag_end(text: &str) -> usize {
    let mut quoted = false;
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '>' if !quoted => return i,
            '<' if i > 0 && !quoted => panic!("a tag within a tag: {}", &text[..i]),
            _ => {}
        }
    }
    panic!("an open tag: {}", &text[..text.len().min(80)]);
}

fn plain(text: &str) -> String {
    text.replace('\u{a0}', " ")
}

#[test]
fn the_page_of_a_real_run_says_what_happened() {
    let page = plain(&page(|_| ()));
    assert!(page.contains("<h1 class=\"won\">Accuracy on validation rose from 82.5 % to 90.6 % with 48 dendrites a site; parameters 714 → 4,362, MACs ×6.29.</h1>"));
    assert!(page.contains("On the test data, which decided nothing, accuracy rose from 78.8 % to 90.2 %."));
    for phase in ["fine-tune", "cycle 1", "cycle 2", "cycle 3", "cycle 4", "cycle 5", "cycle 5 try 2"] {
        assert!(page.contains(&format!("<th scope=\"row\">{phase}</th>")), "{phase} is not in the table");
        assert!(page.contains(&format!("<span class=\"name\">{phase}</span>")), "{phase} is not over the curves");
    }
    assert_eq!(page.matches("✕ not kept").count(), 3);
    for text in [
        "onnx-dendrite 0.1.0",
        "hybrid",
        "add_result1",
        "finetune-first = true",
        "Learning rate",
        "Norm of the gradients",
        "84 epochs",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let page = page(|_| ());
    for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_run_that_kept_nothing_says_so() {
    let page = plain(&page_of(|summary| {
        for phase in summary["phases"].as_array_mut().unwrap() {
            phase["kept"] = json!(false);
        }
        summary["after"] = summary["before"].clone();
        summary["kept_dendrites"] = json!(0);
        summary["parity"] = json!({ "ort": 0.0, "tract": null });
    }));
    assert!(page.contains("Nothing beat the input model on validation; the result is the input, byte for byte."));
    assert!(page.contains("The closest attempt, cycle 5 try 2"));
    assert!(page.contains("not run"));
    assert!(!page.contains("better</span>"));
}

#[test]
fn losses_and_stronger_controls_stand_beside_the_wins() {
    let page = plain(&page_of(|summary| {
        summary["after"]["test"]["accuracy"] = json!(0.75);
        summary["controls"] = json!({
            "sham": { "parameters": 4362, "val": { "accuracy": 0.83, "loss": 0.6 }, "test": { "accuracy": 0.70, "loss": 0.7 } },
            "finetune": { "parameters": 714, "val": { "accuracy": 0.83, "loss": 0.6 }, "test": { "accuracy": 0.79, "loss": 0.7 } },
        });
        summary["control_notes"] = json!({ "wider": "not run: <no> layer" });
    }));
    assert!(page.contains("Control <bdi>wider</bdi>: <bdi>not run: &lt;no&gt; layer</bdi>."));
    assert!(page.contains("But on the test data, which decided nothing, accuracy fell from 78.8 % to 75.0 %."));
    assert!(page.contains("Worse than the input: test accuracy."));
    assert_eq!(page.matches("class=\"against\"").count(), 2);
    assert!(page.contains("The control “finetune” does as well or better on test: accuracy 79.0 % against 75.0 %."));
    assert!(!page.contains("The control “sham” does"));
    assert!(page.contains("control: <bdi>sham</bdi>"));
    assert!(!page.contains("No controls were run"));
}

#[test]
fn a_sham_is_called_one_and_missing_controls_are_missed() {
    let page = page(|folder| {
        set(folder, "sham", true);
    });
    assert!(page.contains("This run is a sham"));
    assert!(page.contains("No controls were run"));
}

#[test]
fn a_metric_of_the_users_own_goes_the_way_the_options_say() {
    let with = |minimise: bool| {
        page(|folder| {
            for file in ["summary.json", "events.jsonl"] {
                let path = folder.join(file);
                let text = fs::read_to_string(&path).unwrap().replace("\"accuracy\"", "\"pinball\"");
                fs::write(path, text).unwrap();
            }
            set(folder, "minimise", minimise);
        })
    };
    assert!(with(true).contains("Worse than the input: validation pinball, test pinball."));
    assert!(!with(false).contains("Worse than the input"));
}

#[test]
fn a_gain_too_small_to_be_of_use_is_not_dressed_up() {
    let page = plain(&page_of(|summary| {
        summary["after"]["val"] = summary["before"]["val"].clone();
        let loss = summary["before"]["val"]["loss"].as_f64().unwrap();
        summary["after"]["val"]["loss"] = json!(loss - 4e-7);
    }));
    assert!(page.contains("Accuracy on validation stayed at 82.5 %, the loss fell by 4.0e-7 from 0.6038"));
    assert!(page.contains("too small to be of use"));
}

#[test]
fn fine_tuning_alone_is_called_that() {
    let page = page_of(|summary| summary["kept_dendrites"] = json!(0));
    assert!(page.contains("by fine-tuning alone, without dendrites"));
}

#[test]
fn names_out_of_untrusted_models_stay_text() {
    const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{202e}\u{0}";
    let name = serde_json::to_string(HOSTILE).unwrap();
    let page = page(|folder| {
        let change = |file: &str, from: &str, to: &str| {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from));
            fs::write(path, text.replace(from, to)).unwrap();
        };
        change("events.jsonl", "\"add_result\"", &name);
        change("events.jsonl", "\"metric\":\"accuracy\"", &format!("\"metric\":{name}"));
        change("plan.toml", "\"add_result\"", &name.replace("\\u0000", "\\u0001"));
        change("summary.json", "\"hybrid\"", &name);
        change("summary.json", "\"accuracy\"", &name);
        change("config.toml", "\"hybrid\"", "\"</code><script>alert(3)</script>\"");
    });
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains("<img"));
    assert!(!page.contains(['\u{0}', '\u{1}']));
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
    // The page's own two scripts, one of them data.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
}

#[test]
fn files_that_are_missing_or_torn_cost_their_section_only() {
    let bare = page(|folder| {
        for file in ["events.jsonl", "plan.toml", "config.toml"] {
            fs::remove_file(folder.join(file)).unwrap();
        }
    });
    assert!(bare.contains("Accuracy on validation rose"));
    assert!(bare.contains("There are none"));
    let torn = page(|folder| {
        let path = folder.join("events.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, &text[..text.len() - 9]).unwrap();
    });
    assert!(torn.contains("84 epochs"));
    let null = page(|folder| {
        let path = folder.join("events.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|l| l.contains("\"epoch\"")).unwrap();
        let none = r#"{"event":"epoch","cycle":0,"attempt":0,"epoch":1,"lr":null,"train_loss":null,"val_loss":null,"val_metric":null}"#;
        fs::write(&path, text.replacen(line, none, 1)).unwrap();
    });
    assert!(null.contains("84 epochs"));
}

#[test]
fn errors_name_the_file_and_the_line() {
    let empty = tempfile::tempdir().unwrap();
    let error = render(empty.path()).unwrap_err();
    assert!(error.to_string().contains("summary.json"), "{error}");
    assert!(error.hint().unwrap().contains("--resume"));

    fs::copy(format!("{RUN}/summary.json"), empty.path().join("summary.json")).unwrap();
    fs::write(empty.path().join("events.jsonl"), "{\"event\":\"finished\"}\n{\"event\":\n").unwrap();
    let error = render(empty.path()).unwrap_err().to_string();
    assert!(error.contains("events.jsonl: line 2"), "{error}");
}

#[test]
fn the_statistics_of_batch_normalisation_are_told_where_there_are_any() {
    let told = |which: &str| page_of(|summary| summary["batch_norm"] = json!(which));
    assert!(!page(|_| {}).contains("Batch normalisation"));
    assert!(told("frozen").contains("<dt>Batch normalisation</dt><dd>stored statistics</dd>"));
    assert!(told("train").contains("<dt>Batch normalisation</dt><dd>statistics of the batch</dd>"));
}

#[test]
fn a_phase_that_the_budget_ended_says_so() {
    let said = "(ended by the budget)";
    assert!(!page(|_| {}).contains(said));
    let cut = page_of(|summary| summary["phases"][0]["cut"] = json!(true));
    assert_eq!(cut.matches(said).count(), 1);
}
