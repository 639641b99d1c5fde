//! Where dendrites went, and how well they learnt to follow the error.

use maud::{Markup, html};

use crate::{
    run::Run,
    schema::Site,
    timeline::{Growth, Timeline},
    words::{count, factor, grouped, name, number, short},
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

/// What the kept dendrites cost.
fn cost(run: &Run) -> String {
    match (run.summary.before.parameters, run.summary.after.parameters) {
        (Some(a), Some(b)) if b > a => {
            let times = factor(a, b).map_or(String::new(), |t| format!(" ({t})"));
            format!("; {} parameters on top of {}{times}", grouped(b - a), grouped(a))
        }
        _ => String::new(),
    }
}

/// Correlations with the error before and after the candidates' training.
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
    let first = growths[0].sites[0].activation.as_str();
    let columns = Columns {
        set: growths.iter().any(|g| ordinals(&g.sites).any(|k| k > 1)),
        form: growths.iter().flat_map(|g| &g.sites).any(|s| s.activation != first),
    };
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
                " Measured on " (samples(&growths)) " training samples"
                @if !columns.form { "; every set has the non-linearity " (name(first)) } "."
            }
            (folded(
                "Sites by cycle",
                &html! {
                    tr {
                        th scope="col" { "cycle" }
                        th scope="col" { "site" }
                        @if columns.set { th scope="col" class="n" { "set" } }
                        @if columns.form { th scope="col" { "non-linearity" } }
                        th scope="col" class="n" { "before" }
                        th scope="col" class="n" { "after" }
                        th scope="col" class="wide" { span class="unseen" { "as a bar" } }
                    }
                },
                &growths.iter().flat_map(|growth| {
                    growth.sites.iter().zip(ordinals(&growth.sites)).map(|(site, k)| row(growth, site, k, columns, most))
                }).collect::<Vec<_>>(),
            ))
        }
    }
}

/// The columns that tell rows apart.
#[derive(Debug, Clone, Copy)]
struct Columns {
    set: bool,
    form: bool,
}

/// The samples that correlations were measured on.
fn samples(growths: &[&Growth]) -> String {
    let all = || growths.iter().flat_map(|g| &g.sites).map(|s| s.samples);
    let (low, high) = (all().min().unwrap_or_default(), all().max().unwrap_or_default());
    if low == high { grouped(low) } else { format!("{} to {}", grouped(low), grouped(high)) }
}

/// The number of each set among those of its site, from 1.
fn ordinals(sites: &[Site]) -> impl Iterator<Item = usize> + '_ {
    (0..sites.len()).map(|i| sites[..=i].iter().filter(|s| s.site == sites[i].site).count())
}

fn row(growth: &Growth, site: &Site, ordinal: usize, columns: Columns, most: f64) -> Markup {
    let place =
        |v: Option<f64>| v.filter(|v| v.is_finite() && most > 0.0).map(|v| (v / most * 100.0).clamp(0.0, 100.0));
    let shown =
        |v: Option<f64>| v.map_or("\u{2013}".to_owned(), |v| if v < 1e-3 { number(v) } else { format!("{v:.3}") });
    html! {
        tr class=(if growth.kept { "" } else { "soft" }) {
            td class="tight" { (short(growth.turn)) " " (mark(growth.kept)) }
            th scope="row" { bdi class="site" { (name(&site.site)) } }
            @if columns.set { td class="n" { (ordinal) } }
            @if columns.form { td { (name(&site.activation)) } }
            td class="n" { (shown(site.initial)) }
            td class="n main" { (shown(site.trained)) }
            td class="wide" {
                svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
                    rect class="rail" x="0" y="3.5" width="100" height="3" {}
                    @if let Some(width) = place(site.trained) {
                        rect class="fill" x="0" y="2" width=(format!("{width:.1}")) height="6" {}
                    }
                    @if let Some(x) = place(site.initial) { path class="tick" d=(format!("M{x:.1} 0V10")) {} }
                }
            }
        }
    }
}

fn mark(kept: bool) -> Markup {
    html! {
        @if kept { span class="good" aria-hidden="true" { "\u{2713}" } span class="unseen" { "kept" } }
        @else { span class="bad" aria-hidden="true" { "\u{2715}" } span class="unseen" { "not kept" } }
    }
}

/// A table, its rows beyond the first ones folded.
fn folded(caption: &str, head: &Markup, rows: &[Markup]) -> Markup {
    let (first, rest) = rows.split_at(rows.len().min(ROWS));
    let table = |caption: &str, rows: &[Markup]| {
        html! {
            div class="scroll" role="region" aria-label=(caption) tabindex="0" {
                table {
                    caption { (caption) }
                    thead { (head) }
                    tbody { @for row in rows { (row) } }
                }
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
