//! The table of phases.

use maud::{Markup, html};

use crate::{
    run::Run,
    schema::Phase,
    timeline::Timeline,
    words::{Metric, grouped, name, number},
};

/// Every phase in order, with what was decided.
pub(super) fn phases(run: &Run, line: &Timeline) -> Markup {
    let summary = &run.summary;
    let metric = line.baseline.as_ref().map(|b| Metric(b.metric.clone()));
    let metric = metric.or_else(|| summary.before.val.as_ref().map(Metric::headline)).unwrap_or_else(Metric::loss);
    let value = |v: Option<f64>| v.map_or("\u{2013}".to_owned(), |v| metric.value(v));
    html! {
        section aria-labelledby="phases" {
            h2 id="phases" { "Phases" }
            @if summary.phases.is_empty() {
                p class="note" { "There were none." }
            } @else {
                div class="scroll" role="region" aria-labelledby="phases" tabindex="0" {
                    table {
                        caption { "In order; a phase is judged by the weights of its best epoch on validation" }
                        thead {
                            tr {
                                th scope="col" { "phase" }
                                th scope="col" class="n" { "cycle" }
                                th scope="col" class="n" { "try" }
                                th scope="col" class="n" { "epochs" }
                                th scope="col" class="n" { "parameters" }
                                th scope="col" class="n" { "validation loss" }
                                @if metric != Metric::loss() { th scope="col" class="n" { "validation " (metric.title()) } }
                                th scope="col" class="n" { "gain in standard errors" }
                                th scope="col" { "outcome" }
                            }
                        }
                        tbody {
                            @for phase in &summary.phases {
                                @let dendrites = phase.kind == "dendrite";
                                tr class=(if dendrites { "aside" } else { "" }) {
                                    th scope="row" { (kind(&phase.kind)) }
                                    td class="n" { @if phase.turn.cycle > 0 { (phase.turn.cycle) } @else { "\u{2013}" } }
                                    td class="n" { (phase.turn.attempt + 1) }
                                    td class="n" { (phase.epochs) }
                                    td class="n" { (parameters(run, line, phase).map_or("\u{2013}".to_owned(), grouped)) }
                                    @if dendrites {
                                        td class="n" { "\u{2013}" }
                                        @if metric != Metric::loss() { td class="n" { "\u{2013}" } }
                                    } @else {
                                        td class="n" { (phase.val_loss.map_or("\u{2013}".to_owned(), number)) }
                                        @if metric != Metric::loss() { td class="n" { (value(phase.val_metric)) } }
                                    }
                                    td class="n" { (errors(phase)) }
                                    (outcome(phase, &summary.method))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn kind(kind: &str) -> String {
    match kind {
        "finetune" => "fine-tune".to_owned(),
        "dendrite" => "dendrites".to_owned(),
        "neuron" => "everything together".to_owned(),
        other => name(other),
    }
}

fn parameters(run: &Run, line: &Timeline, phase: &Phase) -> Option<u64> {
    if phase.turn.cycle == 0 {
        return run.summary.before.parameters;
    }
    line.growths.iter().find(|g| g.turn == phase.turn).map(|g| g.parameters)
}

/// The gain in standard errors. Where it has no error, JSON has no number for it.
fn errors(phase: &Phase) -> String {
    match phase.t {
        Some(t) => format!("{}{:.1}", if t < 0.0 { '\u{2212}' } else { '+' }, t.abs()),
        None if phase.kept => "no error".to_owned(),
        None => "\u{2013}".to_owned(),
    }
}

fn outcome(phase: &Phase, method: &str) -> Markup {
    html! {
        @if phase.kind == "dendrite" {
            td { @if method == "gd" { "drawn at random" } @else { "trained and chosen" } }
        } @else if phase.kept {
            td class="good" { "\u{2713} kept" }
        } @else {
            td class="bad" { "\u{2715} not kept" }
        }
    }
}
