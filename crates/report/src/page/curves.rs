//! The curves of a run: metric, losses, gradients and learning rate over all its epochs, phases as bands.

use maud::{Markup, PreEscaped, html};
use serde_json::json;

use super::plot::{Axis, Band, Frame, Log, Plot, Series, Shape, key};
use crate::{
    run::Run,
    schema::Epoch,
    timeline::{Segment, Timeline},
    words::{Metric, count, number, sentence, short, small, turn},
};

/// Where the read-outs of the page's script take their numbers from.
const DATA: &str = "run-data";

/// The section, whole without a script.
pub(super) fn curves(run: &Run, line: &Timeline) -> Markup {
    let epochs = line.epochs();
    let metric = run.metric(line);
    let bands: Vec<Band> =
        line.segments.iter().map(|s| Band { start: s.start, end: s.end(), kept: s.kept() }).collect();
    let frame = Frame { epochs, bands: &bands };
    html! {
        section aria-labelledby="curves" class="curves" {
            h2 id="curves" { "Curves" }
            @if epochs == 0 {
                p class="note" { "There are none: no epoch was trained, or the run has left no events.jsonl." }
            } @else {
                p class="note" {
                    (count(epochs, "epoch", "epochs")) " of training one after the other. Each band is a phase, which starts from \
                    the best model so far; a filled dot marks the weights a phase was judged by if they were kept, a ring those \
                    that were not."
                }
                @if !metric.is_loss() { (metric_plot(line, &metric, frame)) }
                (loss_plot(line, frame))
                (norm_plot(line, frame))
                (rate_plot(line, frame))
                @if let Some(note) = tempered(line) { p class="note" { (note) } }
                script type="application/json" id=(DATA) { (PreEscaped(data(line, &metric))) }
            }
        }
    }
}

/// The phases by name over a plot, as much of them as there is room for.
fn labels(line: &Timeline, frame: &Frame) -> Markup {
    html! {
        ol class="bands" {
            @for (segment, band) in line.segments.iter().zip(frame.bands) {
                @let left = frame.place(band.start) * 100.0;
                @let width = (frame.place(band.end) * 100.0 - left).max(0.0);
                @let outcome = match band.kept { Some(true) => "kept", Some(false) => "not kept", None => "not judged" };
                @let name = turn(segment.turn);
                li class=(band.class()) style=(format!("left:{left:.2}%;width:{width:.2}%")) title=(format!("{name}: {outcome}")) {
                    span class="mark" { (match band.kept { Some(true) => "\u{2713}", Some(false) => "\u{2715}", None => "?" }) }
                    " " span class="short" aria-hidden="true" { (short(segment.turn)) }
                    span class="name" { (name) } span class="unseen" { ", " (outcome) }
                }
            }
        }
    }
}

fn metric_plot(line: &Timeline, metric: &Metric, frame: Frame) -> Markup {
    let start = line.baseline.as_ref().and_then(|b| b.val_metric);
    let values = line.all().filter_map(|(_, e)| e.val_metric).chain(start);
    let Some(mut axis) = Axis::around(values, Log::Never) else { return Markup::default() };
    if metric.is_share() {
        axis = axis.within(0.0, 1.0);
    }
    let ticks = axis.ticks(5);
    let digits = usize::from(ticks.iter().any(|t| (t * 100.0 - (t * 100.0).round()).abs() > 1e-6));
    let label = |v: f64| if metric.is_share() { format!("{:.digits$} %", v * 100.0) } else { number(v) };
    let mut series = vec![best(line, frame.epochs, start, |s| s.verdict.as_ref()?.val_metric)];
    series.push(curve(line, "val", |e| e.val_metric));
    series.extend(judged(line, |e| e.val_metric));
    let plot = Plot {
        frame,
        axis,
        ticks: ticks.into_iter().map(|v| (v, label(v))).collect(),
        series,
        class: "tall",
        description: description(
            line,
            &format!("validation {}", metric.title()),
            start,
            |s| s.verdict.as_ref()?.val_metric,
            |v| metric.value(v),
        ),
        foot: false,
    };
    html! {
        figure data-plot="metric" {
            figcaption {
                strong { (sentence(&format!("validation {}", metric.title()))) }
                ul class="keys" {
                    (key("val", "validation"))
                    (key("best", "best model so far"))
                    (key("val dot", "kept"))
                    (key("val dot ring", "not kept"))
                }
            }
            (labels(line, &frame))
            (plot.markup())
        }
    }
}

fn loss_plot(line: &Timeline, frame: Frame) -> Markup {
    let start = line.baseline.as_ref().and_then(|b| b.val_loss);
    let values = line.all().flat_map(|(_, e)| [e.train_loss, e.val_loss]).flatten().chain(start);
    let Some(axis) = Axis::around(values, Log::IfWide) else { return Markup::default() };
    let mut series = vec![best(line, frame.epochs, start, |s| s.verdict.as_ref()?.val_loss)];
    series.push(curve(line, "train", |e| e.train_loss));
    series.push(curve(line, "val", |e| e.val_loss));
    series.extend(judged(line, |e| e.val_loss));
    let plot = Plot {
        frame,
        axis,
        ticks: axis.ticks(5).into_iter().map(|v| (v, tick(v))).collect(),
        series,
        class: "tall",
        description: description(line, "validation loss", start, |s| s.verdict.as_ref()?.val_loss, number),
        foot: false,
    };
    html! {
        figure data-plot="loss" {
            figcaption {
                strong { "Loss" @if axis.is_log() { ", logarithmic" } }
                ul class="keys" {
                    (key("train", "training"))
                    (key("val", "validation"))
                    (key("best", "best model so far"))
                }
            }
            (labels(line, &frame))
            (plot.markup())
        }
    }
}

/// The gradients' norm; earlier versions did not tell it.
fn norm_plot(line: &Timeline, frame: Frame) -> Markup {
    let norms = || line.all().filter_map(|(_, e)| e.gradient_norm);
    let Some(axis) = Axis::around(norms(), Log::Always) else { return Markup::default() };
    let ends = |f: fn(f64, f64) -> f64| norms().reduce(f).unwrap_or_default();
    let plot = Plot {
        frame,
        axis,
        ticks: axis.ticks(2).into_iter().map(|v| (v, exponent(v))).collect(),
        series: vec![curve(line, "rate", |e| e.gradient_norm)],
        class: "strip",
        description: format!("norm of the gradients, between {} and {}", small(ends(f64::min)), small(ends(f64::max))),
        foot: false,
    };
    html! {
        figure data-plot="norm" {
            figcaption { strong { "Norm of the gradients, logarithmic" } }
            (plot.markup())
        }
    }
}

fn rate_plot(line: &Timeline, frame: Frame) -> Markup {
    let Some(axis) = Axis::around(line.all().filter_map(|(_, e)| e.lr), Log::Always) else { return Markup::default() };
    let ends = |f: fn(f64, f64) -> f64| line.all().filter_map(|(_, e)| e.lr).reduce(f).unwrap_or_default();
    let plot = Plot {
        frame,
        axis,
        ticks: axis.ticks(2).into_iter().map(|v| (v, exponent(v))).collect(),
        series: vec![rates(line)],
        class: "strip",
        description: format!("learning rate, between {} and {}", small(ends(f64::min)), small(ends(f64::max))),
        foot: true,
    };
    html! {
        figure data-plot="rate" {
            figcaption { strong { "Learning rate, logarithmic" } }
            (plot.markup())
            p class="axis" { "epoch of the run" }
        }
    }
}

/// A measure over epochs, one run a phase.
fn curve(line: &Timeline, class: &'static str, of: fn(&Epoch) -> Option<f64>) -> Series {
    let run = |s: &Segment| -> Vec<(usize, f64)> {
        s.epochs.iter().enumerate().map(|(i, e)| (s.start + i + 1, of(e).unwrap_or(f64::NAN))).collect()
    };
    Series { class, runs: line.segments.iter().map(run).collect(), shape: Shape::Line }
}

/// The learning rate: an epoch's holds from the end of the epoch before it to its own.
fn rates(line: &Timeline) -> Series {
    let run = |s: &Segment| -> Vec<(usize, f64)> {
        let rate = |e: &Epoch| e.lr.unwrap_or(f64::NAN);
        let starts = s.epochs.iter().enumerate().map(|(i, e)| (s.start + i, rate(e)));
        starts.chain(s.epochs.last().map(|e| (s.end(), rate(e)))).collect()
    };
    Series { class: "rate", runs: line.segments.iter().map(run).collect(), shape: Shape::Steps }
}

/// The best model's measure: level, and changed where a phase was kept.
fn best(line: &Timeline, epochs: usize, start: Option<f64>, of: fn(&Segment) -> Option<f64>) -> Series {
    let mut run: Vec<(usize, f64)> = start.map(|v| (0, v)).into_iter().collect();
    run.extend(line.segments.iter().filter(|s| s.kept() == Some(true)).filter_map(|s| Some((s.end(), of(s)?))));
    run.extend(run.last().map(|(_, v)| (epochs, *v)));
    Series { class: "best", runs: vec![run], shape: Shape::Steps }
}

/// The epochs whose weights phases were judged by: of those kept, and of those not.
fn judged(line: &Timeline, of: fn(&Epoch) -> Option<f64>) -> [Series; 2] {
    let dots = |kept: bool| {
        let at = |s: &Segment| {
            let verdict = s.verdict.as_ref().filter(|v| v.accepted == kept)?;
            // A phase is judged by the weights of one of its epochs, told by the same two numbers.
            let same = |e: &Epoch| e.val_loss == verdict.val_loss && e.val_metric == verdict.val_metric;
            let i = s.epochs.iter().position(same)?;
            Some((s.start + i + 1, of(&s.epochs[i])?))
        };
        line.segments.iter().filter_map(at).collect()
    };
    [("val dot", true), ("val dot ring", false)].map(|(class, kept)| Series {
        class,
        runs: vec![dots(kept)],
        shape: Shape::Dots,
    })
}

fn description(
    line: &Timeline,
    what: &str,
    start: Option<f64>,
    of: fn(&Segment) -> Option<f64>,
    shown: impl Fn(f64) -> String,
) -> String {
    let mut text = format!("{what} over {}", count(line.epochs(), "epoch", "epochs"));
    if let Some(start) = start {
        text += &format!("; input {}", shown(start));
    }
    for segment in &line.segments {
        if let (Some(value), Some(kept)) = (of(segment), segment.kept()) {
            let outcome = if kept { "kept" } else { "not kept" };
            text += &format!("; {} {}, {outcome}", turn(segment.turn), shown(value));
        }
    }
    text
}

fn tempered(line: &Timeline) -> Option<String> {
    let temperature = line.baseline.as_ref()?.temperature.filter(|t| *t != 1.0)?;
    Some(format!(
        "Logits were divided by {} for the loss that trains, which is the one drawn; the losses in the table above are those of \
         the logits as they are.",
        tick(temperature)
    ))
}

/// A value without trailing noughts.
fn tick(value: f64) -> String {
    let text = number(value);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn exponent(value: f64) -> String {
    format!("{value:.0e}")
}

/// Every epoch's numbers for the read-outs. Nothing in it can end the element that holds it.
fn data(line: &Timeline, metric: &Metric) -> String {
    let short = |v: Option<f64>| v.and_then(|v| format!("{v:.5e}").parse::<f64>().ok());
    let phases: Vec<_> = line
        .segments
        .iter()
        .map(|s| {
            let rows: Vec<_> = s
                .epochs
                .iter()
                .map(|e| {
                    [
                        Some(e.epoch as f64),
                        short(e.val_metric),
                        short(e.val_loss),
                        short(e.train_loss),
                        short(e.lr),
                        short(e.gradient_norm),
                    ]
                })
                .collect();
            json!({ "name": turn(s.turn), "epochs": rows })
        })
        .collect();
    let data =
        json!({ "metric": metric.title(), "loss": metric.is_loss(), "share": metric.is_share(), "phases": phases });
    inert(&data.to_string())
}

/// JSON inside HTML: what could be markup becomes an escape, which JSON reads back.
fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text += &format!("\\u{:04x}", c as u32),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_cannot_end_its_element() {
        let hostile = json!({ "metric": "</script><!--<script>&\u{2028}" }).to_string();
        let text = inert(&hostile);
        assert!(!text.contains(['<', '>', '&', '\u{2028}']));
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["metric"], "</script><!--<script>&\u{2028}");
    }
}
