//! The table of phases.

use maud::{Markup, html};

use crate::{
    run::Run,
    schema::Phase,
    timeline::Timeline,
    words::{grouped, name, number, turn},
};

/// Every phase in order, with what was decided.
pub(super) fn phases(run: &Run, line: &Timeline) -> Markup {
    let summary = &run.summary;
    let metric = run.metric(line);
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
                                th scope="col" { "outcome" }
                                th scope="col" class="n" { "gain in standard errors" }
                                @if !metric.is_loss() { th scope="col" class="n" { "validation " (metric.title()) } }
                                th scope="col" class="n" { "validation loss" }
                                th scope="col" class="n" { "epochs" }
                                th scope="col" class="n" { "parameters" }
                            }
                        }
                        tbody {
                            @for phase in &summary.phases {
                                // The numbers of a dendrite phase are those of the model it starts from: they say nothing of it.
                                @let judged = phase.kind != "dendrite";
                                tr class=(if judged { "" } else { "aside" }) {
                                    th scope="row" { (title(phase)) }
                                    (outcome(phase, &summary.method))
                                    td class="n" { (errors(phase)) }
                                    @if !metric.is_loss() {
                                        td class="n" { (shown(phase.val_metric.filter(|_| judged), |v| metric.value(v))) }
                                    }
                                    td class="n" { (shown(phase.val_loss.filter(|_| judged), number)) }
                                    td class="n" { (shown(epochs(phase, &summary.method), |n| n.to_string())) }
                                    td class="n" { (shown(parameters(run, line, phase), grouped)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn title(phase: &Phase) -> String {
    let title = match phase.kind.as_str() {
        "finetune" | "neuron" => turn(phase.turn),
        "dendrite" => format!("{}, dendrites", turn(phase.turn)),
        other => format!("{}, {}", turn(phase.turn), name(other)),
    };
    if phase.cut { format!("{title} (ended by the budget)") } else { title }
}

fn shown<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or("\u{2013}".to_owned(), text)
}

/// Epochs; the method `gd` trains no candidates, whatever was asked for.
fn epochs(phase: &Phase, method: &str) -> Option<usize> {
    (phase.kind != "dendrite" || method != "gd").then_some(phase.epochs)
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
            td { @if method == "gd" { "at random" } @else { "trained" } }
        } @else if phase.kept {
            td class="good" { "\u{2713} kept" }
        } @else {
            td class="bad" { "\u{2715} not kept" }
        }
    }
}
