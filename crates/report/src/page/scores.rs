//! The table of before and after, controls beside it.

use maud::{Markup, html};

use super::verdict::both;
use crate::{
    run::Run,
    schema::{Scores, Side, Summary},
    words::{Change, Metric, factor, grouped, name, sentence, small},
};

/// The table.
pub(super) fn scores(run: &Run) -> Markup {
    let summary = &run.summary;
    let controls: Vec<(&String, &Side)> = summary.controls.iter().collect();
    let mut rows = score_rows(run, &controls);
    rows.extend(cost_rows(summary, &controls));
    rows.extend(parity_rows(summary, controls.len()));
    let worse: Vec<String> =
        rows.iter().filter(|r| r.change == Some(Change::Worse)).map(|r| uncapped(&r.title)).collect();
    html! {
        section aria-labelledby="scores" {
            h2 id="scores" { "Before and after" }
            div class="scroll" role="region" aria-labelledby="scores" tabindex="0" {
                table class="scores" {
                    caption { "The input model, the result" @if !controls.is_empty() { ", and models trained for comparison" } }
                    thead {
                        tr {
                            th scope="col" { span class="unseen" { "what" } }
                            th scope="col" class="n" { "input" }
                            th scope="col" class="n" { "result" }
                            th scope="col" class="n" { "change" }
                            @for (control, _) in &controls {
                                th scope="col" class="n" { "control: " bdi { (name(control)) } }
                            }
                        }
                    }
                    tbody { @for row in &rows { (row.markup()) } }
                }
            }
            @if summary.after.test.is_none() { p class="note" { "No test data were given." } }
            @if controls.is_empty() && summary.kept_dendrites > 0 {
                p class="note" {
                    "No controls were run, so nothing here tells how much of this longer training alone would have brought."
                }
            }
            @for (control, note) in &summary.control_notes {
                p class="note" { "Control " bdi { (name(control)) } ": " bdi { (name(note)) } "." }
            }
            @if let (Some(plain), Some(input)) = (summary.parity.ort_unoptimised, summary.parity.input_optimised) {
                p class="note" {
                    "Without ONNX Runtime's optimisations the result is " (format!("{plain:.0e}")) " from what was trained; they bring \
                     the input model " (format!("{input:.0e}")) " from itself."
                }
            }
            @if let Some(reason) = &summary.parity.tract_reason { p class="note" { "tract did not run the file: " (name(reason)) "." } }
            @if !worse.is_empty() {
                p class="note" { "Worse than the input: " (worse.join(", ")) "." }
            }
        }
    }
}

struct Row {
    title: String,
    cells: Vec<String>,
    difference: String,
    change: Option<Change>,
    controls: Vec<String>,
}

impl Row {
    fn markup(&self) -> Markup {
        let (class, word) = match self.change {
            Some(Change::Better) => ("n good", " better"),
            Some(Change::Worse) => ("n bad", " worse"),
            _ => ("n", ""),
        };
        html! {
            tr {
                th scope="row" { (self.title) }
                @for (i, cell) in self.cells.iter().enumerate() { td class=(if i == 1 { "n main" } else { "n" }) { (cell) } }
                td class=(class) { (self.difference) span class="word" { (word) } }
                @for control in &self.controls { td class="n" { (control) } }
            }
        }
    }
}

fn score_rows(run: &Run, controls: &[(&String, &Side)]) -> Vec<Row> {
    let summary = &run.summary;
    type Of = fn(&Side) -> Option<&Scores>;
    let sources: [(&str, Of); 2] = [("Validation", |s| s.val.as_ref()), ("Test", |s| s.test.as_ref())];
    let mut rows = Vec::new();
    for (data, of) in sources {
        let Some(after) = of(&summary.after) else { continue };
        let headline = run.headline(after);
        let others: Vec<Metric> =
            after.keys().map(|k| Metric::new(k, run.minimise)).filter(|m| *m != headline).collect();
        for metric in std::iter::once(headline).chain(others) {
            let value = |side: &Side| of(side).and_then(|s| s.get(&metric.name)).copied().flatten();
            let shown = |v: Option<f64>| v.map_or("\u{2013}".to_owned(), |v| metric.value(v));
            let pair = both(&metric, of(&summary.before), Some(after));
            let cells = match pair {
                Some((a, b)) => <[String; 2]>::from(metric.pair(a, b)).to_vec(),
                None => vec![shown(value(&summary.before)), shown(value(&summary.after))],
            };
            rows.push(Row {
                title: sentence(&format!("{data} {}", metric.title())),
                cells,
                difference: pair.map_or("\u{2013}".to_owned(), |(a, b)| metric.difference(a, b)),
                change: pair.map(|(a, b)| metric.change(a, b)),
                controls: controls.iter().map(|(_, side)| shown(value(side))).collect(),
            });
        }
    }
    rows
}

fn cost_rows(summary: &Summary, controls: &[(&String, &Side)]) -> Vec<Row> {
    type Of = fn(&Side) -> Option<u64>;
    let sources: [(&str, Of); 2] =
        [("Parameters", |s| s.parameters), ("Multiply-accumulates (MACs) a sample", |s| s.macs)];
    let shown = |n: Option<u64>| n.map_or("\u{2013}".to_owned(), grouped);
    sources
        .into_iter()
        .map(|(title, of)| {
            let (before, after) = (of(&summary.before), of(&summary.after));
            let times = before.zip(after).and_then(|(a, b)| if a == b { Some("0".to_owned()) } else { factor(a, b) });
            Row {
                title: title.to_owned(),
                cells: vec![shown(before), shown(after)],
                difference: times.unwrap_or("\u{2013}".to_owned()),
                change: None,
                controls: controls.iter().map(|(_, side)| shown(of(side))).collect(),
            }
        })
        .collect()
}

/// How far the exported file is from what was trained, in the runtimes that ran it.
fn parity_rows(summary: &Summary, controls: usize) -> [Row; 2] {
    [("Parity in ONNX Runtime", summary.parity.ort), ("Parity in tract", summary.parity.tract)].map(|(title, value)| {
        Row {
            title: title.to_owned(),
            cells: vec![String::new(), value.map_or("not run".to_owned(), small)],
            difference: String::new(),
            change: None,
            controls: vec![String::new(); controls],
        }
    })
}

/// A row's title within a sentence.
fn uncapped(title: &str) -> String {
    let mut chars = title.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}
