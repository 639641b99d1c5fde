//! The page: what a reader wants to know, in the order in which it is wanted.

mod curves;
mod guide;
mod phases;
mod plot;
mod scores;
mod sites;
mod verdict;

use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    error::Result,
    run::Run,
    timeline::Timeline,
    words::{duration, name},
};

const STYLE: &str = include_str!("../../assets/report.css");
const SCRIPT: &str = include_str!("../../assets/report.js");
/// Should a name of the model ever slip into markup, it can still load nothing.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page of a finished run, made from the files in `folder` alone: one HTML file that needs no other.
pub fn render(folder: &Path) -> Result<String> {
    let run = Run::read(folder)?;
    Ok(page(&run).into_string())
}

fn page(run: &Run) -> Markup {
    let line = Timeline::new(&run.events);
    let verdict = verdict::verdict(run);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Dendrite run: " (verdict.headline) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        p class="kind" { "Dendrite run" }
                        h1 class=(if verdict.improved { "won" } else { "lost" }) { (verdict.headline) }
                        @for remark in &verdict.remarks { p class=(if remark.against { "against" } else { "" }) { (remark.text) } }
                        (facts(run))
                    }
                    (scores::scores(run))
                    (curves::curves(run, &line))
                    (sites::sites(run, &line))
                    (phases::phases(run, &line))
                    (guide::guide())
                    (guide::options(run))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn facts(run: &Run) -> Markup {
    let summary = &run.summary;
    html! {
        dl class="facts" {
            div { dt { "Tool" } dd { (name(&summary.tool)) } }
            div { dt { "Method" } dd { (name(&summary.method)) } }
            div { dt { "Seed" } dd { (summary.seed) } }
            div { dt { "Device" } dd { (name(&summary.device)) } }
            @if let Some(statistics) = &summary.batch_norm {
                div { dt { "Batch normalisation" } dd { (by_statistics(statistics)) } }
            }
            div { dt { "Time" } dd { (duration(summary.seconds)) } }
        }
    }
}

/// By which statistics a batch normalisation trained.
fn by_statistics(which: &str) -> &str {
    match which {
        "frozen" => "stored statistics",
        "train" => "statistics of the batch",
        other => other,
    }
}
