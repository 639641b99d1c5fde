//! Where dendrites went, and how well they learnt to follow the error.

use maud::{Markup, html};

use crate::{
    run::Run,
    schema::Site,
    timeline::{Growth, Timeline},
    words::{count, factor, grouped, name, number, turn},
};

/// Rows of a table that are shown at once; the rest is folded.
const ROWS: usize = 24;

/// Both sections; nothing for a run that grew nothing.
pub(super) fn sites(run: &Run, line: &Timeline) -> Markup {
    html! {
        (placement(run, line))
        (correlations(run, line))
    }
}

/// Where dendrites went and what they cost.
fn placement(run: &Run, line: &Timeline) -> Markup {
    let Some(plan) = &run.plan else { return Markup::default() };
    let layer = plan.connect == "layer";
    let kept = |site: &str| -> usize {
        let sets = line.growths.iter().filter(|g| g.kept).flat_map(|g| &g.sites).filter(|s| s.site == site).count();
        if layer { sets * plan.sites.iter().find(|p| p.name == site).map_or(0, |p| p.dendrites) } else { sets }
    };
    let unit = if layer { "at the site" } else { "a neuron" };
    html! {
        section aria-labelledby="placement" {
            h2 id="placement" { "Where dendrites went" }
            @if plan.sites.is_empty() || plan.cycles == 0 {
                p class="note" { "Nowhere: the run was asked for no dendrites." }
            } @else {
                p {
                    @if layer { "Each dendrite feeds all neurons of its site." } @else { "Each dendrite feeds one neuron." }
                    " Planned: " (count(plan.cycles, "cycle", "cycles")) " at most at "
                    (count(plan.sites.len(), "site", "sites")) ". Kept: " (count(line.growths.iter().filter(|g| g.kept).count(), "cycle", "cycles"))
                    (cost(run)) "."
                }
                (folded(
                    &format!("Dendrites {unit}"),
                    &html! {
                        tr {
                            th scope="col" { "site" }
                            th scope="col" class="n" { "a cycle, planned" }
                            th scope="col" class="n" { "in the result" }
                        }
                    },
                    &plan.sites.iter().map(|site| html! {
                        tr {
                            th scope="row" { bdi class="site" { (name(&site.name)) } }
                            td class="n" { (site.dendrites) }
                            td class="n main" { (kept(&site.name)) }
                        }
                    }).collect::<Vec<_>>(),
                ))
            }
        }
    }
}

fn cost(run: &Run) -> String {
    match (run.summary.before.parameters, run.summary.after.parameters) {
        (Some(a), Some(b)) if b > a => {
            let times = factor(a, b).map_or(String::new(), |t| format!(", {t} in all"));
            format!(", which add {} parameters to {}{times}", grouped(b - a), grouped(a))
        }
        _ => String::new(),
    }
}

/// Correlations with the error before and after the candidates' training, a table for each cycle.
fn correlations(run: &Run, line: &Timeline) -> Markup {
    let growths: Vec<&Growth> = line.growths.iter().filter(|g| !g.sites.is_empty()).collect();
    if growths.is_empty() {
        return Markup::default();
    }
    let most = growths
        .iter()
        .flat_map(|g| &g.sites)
        .flat_map(|s| [s.initial, s.trained])
        .flatten()
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max);
    let layer = run.plan.as_ref().is_some_and(|p| p.connect == "layer");
    html! {
        section aria-labelledby="correlations" {
            h2 id="correlations" { "Correlation with the error" }
            p {
                @if layer {
                    "Mean over a site\u{2019}s dendrites of the size of their correlations with the errors of all neurons."
                } @else {
                    "Mean over a site\u{2019}s neurons of |\u{3c1}|, the correlation of the chosen candidate with the neuron\u{2019}s remaining error."
                }
                @if run.summary.method == "gd" {
                    " With the method gd, dendrites start at random and are not trained to correlate."
                } @else {
                    " The tick marks it before the candidates\u{2019} training, the bar after it."
                }
            }
            @for growth in growths {
                @let rows: Vec<Markup> = growth.sites.iter().zip(ordinals(&growth.sites)).map(|(s, k)| row(s, k, most)).collect();
                (folded(
                    &format!("{}, {}", turn(growth.turn), if growth.kept { "kept" } else { "not kept" }),
                    &html! {
                        tr {
                            th scope="col" { "site" }
                            th scope="col" class="n" { "set" }
                            th scope="col" { "non-linearity" }
                            th scope="col" class="n" { "samples" }
                            th scope="col" class="n" { "before" }
                            th scope="col" class="n" { "after" }
                            th scope="col" class="wide" { span class="unseen" { "as a bar" } }
                        }
                    },
                    &rows,
                ))
            }
        }
    }
}

/// The number of each set among those of its site, from 1.
fn ordinals(sites: &[Site]) -> impl Iterator<Item = usize> + '_ {
    (0..sites.len()).map(|i| sites[..=i].iter().filter(|s| s.site == sites[i].site).count())
}

fn row(site: &Site, ordinal: usize, most: f64) -> Markup {
    let share = |v: Option<f64>| v.filter(|v| v.is_finite() && most > 0.0).map_or(0.0, |v| (v / most * 100.0).clamp(0.0, 100.0));
    let shown = |v: Option<f64>| v.map_or("\u{2013}".to_owned(), |v| if v < 1e-3 { number(v) } else { format!("{v:.3}") });
    html! {
        tr {
            th scope="row" { bdi class="site" { (name(&site.site)) } }
            td class="n" { (ordinal) }
            td { (name(&site.activation)) }
            td class="n" { (grouped(site.samples)) }
            td class="n" { (shown(site.initial)) }
            td class="n main" { (shown(site.trained)) }
            td class="wide" {
                svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
                    rect class="rail" x="0" y="3.5" width="100" height="3" {}
                    rect class="fill" x="0" y="2" width=(format!("{:.1}", share(site.trained))) height="6" {}
                    path class="tick" d=(format!("M{:.1} 0V10", share(site.initial))) {}
                }
            }
        }
    }
}

/// A table, its rows beyond the first ones folded.
fn folded(caption: &str, head: &Markup, rows: &[Markup]) -> Markup {
    let (first, rest) = rows.split_at(rows.len().min(ROWS));
    let table = |caption: &str, rows: &[Markup]| html! {
        div class="scroll" role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { (head) }
                tbody { @for row in rows { (row) } }
            }
        }
    };
    html! {
        (table(caption, first))
        @if !rest.is_empty() {
            details {
                summary { (count(rest.len(), "more row", "more rows")) }
                (table(&format!("{caption}, continued"), rest))
            }
        }
    }
}
