//! Where dendrites went, and how well they learnt to follow the error.

use std::collections::HashMap;

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
    // Parameters that the kept sets of a site added, where the run told of them.
    let paid = |site: &str| -> Option<u64> {
        let kept = line.growths.iter().filter(|g| g.kept).flat_map(|g| &g.sites).filter(|s| s.site == site);
        kept.map(|s| s.parameters).sum()
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
                            th scope="col" class="n" { "parameters" }
                        }
                    },
                    &plan.sites.iter().map(|site| html! {
                        tr {
                            th scope="row" { bdi class="site" { (name(&site.name)) } }
                            td class="n" { (site.dendrites) }
                            td class="n main" { (kept(&site.name)) }
                            td class="n" { (paid(&site.name).map_or("\u{2013}".to_owned(), grouped)) }
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
    let layer = run.plan.as_ref().is_some_and(|p| p.connect == "layer");
    let first = growths[0].sites[0].activation.as_str();
    // What a full bar stands for: the largest value among those that can be compared.
    let scale = |site: &Site| if layer { site.site.clone() } else { String::new() };
    let mut full: HashMap<String, f64> = HashMap::new();
    for site in growths.iter().flat_map(|g| &g.sites) {
        let most = full.entry(scale(site)).or_default();
        *most = [site.initial, site.trained].into_iter().flatten().filter(|v| v.is_finite()).fold(*most, f64::max);
    }
    let columns = Columns {
        set: growths.iter().any(|g| ordinals(&g.sites).into_iter().any(|k| k > 1)),
        form: growths.iter().flat_map(|g| &g.sites).any(|s| s.activation != first),
    };
    html! {
        section aria-labelledby="correlations" {
            h2 id="correlations" { "Correlation with the error" }
            p {
                @if layer {
                    "Mean over a site\u{2019}s dendrites of the size of their covariances with the errors of all neurons, for a \
                    dendrite of deviation one."
                } @else {
                    "Mean over a site\u{2019}s neurons of |\u{3c1}|, the correlation of the chosen candidate with the neuron\u{2019}s \
                    remaining error."
                }
                @if run.summary.method == "gd" {
                    " With the method gd, dendrites start at random and are not trained to correlate."
                } @else {
                    " The tick marks it before the candidates\u{2019} training, the bar after it; a full bar is the largest value of "
                    @if layer { "the site." } @else { "the run." }
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
                    growth.sites.iter().zip(ordinals(&growth.sites)).map(|(site, k)| {
                        row(growth, site, k, columns, full.get(&scale(site)).copied().unwrap_or_default())
                    })
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
fn ordinals(sites: &[Site]) -> Vec<usize> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    sites
        .iter()
        .map(|site| {
            let count = seen.entry(&site.site).or_default();
            *count += 1;
            *count
        })
        .collect()
}

fn row(growth: &Growth, site: &Site, ordinal: usize, columns: Columns, full: f64) -> Markup {
    let place =
        |v: Option<f64>| v.filter(|v| v.is_finite() && full > 0.0).map(|v| (v / full * 100.0).clamp(0.0, 100.0));
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
