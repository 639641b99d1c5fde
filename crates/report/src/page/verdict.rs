//! What a run came to, in sentences.

use crate::{
    run::Run,
    schema::{Scores, Side},
    words::{Change, Metric, count, factor, grouped, sentence},
};

/// The relative change below which a gain is called small.
const FAINT: f64 = 1e-3;

/// The verdict and what has to be said beside it.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) improved: bool,
    pub(super) headline: String,
    pub(super) remarks: Vec<Remark>,
}

/// What has to be said beside the verdict.
#[derive(Debug, Clone)]
pub(super) struct Remark {
    pub(super) text: String,
    /// Whether it speaks against the result.
    pub(super) against: bool,
}

impl Remark {
    fn plain(text: String) -> Self {
        Remark { text, against: false }
    }

    fn against(text: String) -> Self {
        Remark { text, against: true }
    }
}

/// Judge a run by its summary.
pub(super) fn verdict(run: &Run) -> Verdict {
    let summary = &run.summary;
    let improved = summary.phases.iter().any(|p| p.kept);
    let mut remarks = Vec::new();
    if run.sham {
        let text = "This run is a sham: every connection is held at zero, so that its dendrites do nothing.";
        remarks.push(Remark::against(text.to_owned()));
    }
    let headline = if improved {
        remarks.extend(faint(run).map(Remark::against));
        remarks.extend(finetune(run).map(Remark::plain));
        remarks.extend(on_test(run));
        won(run)
    } else {
        remarks.extend(closest(run).map(Remark::plain));
        "Nothing beat the input model on validation; the result is the input, byte for byte.".to_owned()
    };
    remarks.extend(stronger_controls(run).into_iter().map(Remark::against));
    Verdict { improved, headline, remarks }
}

/// A score before and after, where both were measured.
pub(super) fn both(metric: &Metric, before: Option<&Scores>, after: Option<&Scores>) -> Option<(f64, f64)> {
    let value = |scores: Option<&Scores>| scores.and_then(|s| s.get(&metric.name)).copied().flatten();
    Some((value(before)?, value(after)?))
}

fn won(run: &Run) -> String {
    let (before, after) = (&run.summary.before, &run.summary.after);
    let metric = after.val.as_ref().map_or_else(Metric::loss, |s| run.headline(s));
    let mut text = match both(&metric, before.val.as_ref(), after.val.as_ref()) {
        Some((a, b)) => format!("{} on validation {}", sentence(&metric.title()), metric.moved(a, b)),
        None => "The result beats the input on validation".to_owned(),
    };
    // Where the metric has no room to rise, it is the loss that was accepted.
    if let Some((a, b)) = both(&Metric::loss(), before.val.as_ref(), after.val.as_ref())
        && both(&metric, before.val.as_ref(), after.val.as_ref()).is_some_and(|(a, b)| a == b)
        && !metric.is_loss()
    {
        text += &format!(", the loss {}", Metric::loss().moved(a, b));
    }
    text += &match run.summary.kept_dendrites {
        0 => " by fine-tuning alone, without dendrites".to_owned(),
        n if run.plan.as_ref().is_some_and(|p| p.connect == "layer") => {
            format!(" with {}", count(n, "dendrite a site", "dendrites a site"))
        }
        n => format!(" with {}", count(n, "dendrite a neuron", "dendrites a neuron")),
    };
    text + &cost(before, after) + "."
}

fn cost(before: &Side, after: &Side) -> String {
    let mut text = match (before.parameters, after.parameters) {
        (Some(a), Some(b)) if a == b => format!("; parameters {} as before", grouped(a)),
        (Some(a), Some(b)) => format!("; parameters {} \u{2192} {}", grouped(a), grouped(b)),
        _ => String::new(),
    };
    if let (Some(a), Some(b)) = (before.macs, after.macs)
        && a != b
        && let Some(times) = factor(a, b)
    {
        text += &format!(", MACs {times}");
    }
    text
}

fn on_test(run: &Run) -> Option<Remark> {
    let summary = &run.summary;
    let metric = summary.after.test.as_ref().map(|s| run.headline(s))?;
    let (a, b) = both(&metric, summary.before.test.as_ref(), summary.after.test.as_ref())?;
    let text = format!("the test data, which decided nothing, {} {}.", metric.title(), metric.moved(a, b));
    Some(match metric.change(a, b) {
        Change::Worse => Remark::against(format!("But on {text}")),
        _ => Remark::plain(format!("On {text}")),
    })
}

/// Many samples make the smallest gain certain: certain is not large.
fn faint(run: &Run) -> Option<String> {
    let summary = &run.summary;
    let metric = run.headline(summary.before.val.as_ref()?);
    let (a, b) = both(&metric, summary.before.val.as_ref(), summary.after.val.as_ref())?;
    let (loss_a, loss_b) = both(&Metric::loss(), summary.before.val.as_ref(), summary.after.val.as_ref())?;
    let small = |a: f64, b: f64| (a - b).abs() <= FAINT * a.abs();
    (small(a, b) && small(loss_a, loss_b)).then(|| {
        "The paired test finds the gain certain, but it is less than 0.1\u{a0}% of the loss: too small to be of use.".to_owned()
    })
}

/// How far training went before the first dendrites: what they have to be measured against.
fn finetune(run: &Run) -> Option<String> {
    let summary = &run.summary;
    let phase = summary.phases.iter().find(|p| p.kind == "finetune")?;
    if summary.kept_dendrites == 0 {
        return None;
    }
    let metric = summary.before.val.as_ref().map(|s| run.headline(s))?;
    let reached = metric.value(phase.val_metric?);
    Some(if phase.kept {
        format!("Of this, fine-tuning before the first dendrites had reached {reached} on validation.")
    } else {
        format!("Fine-tuning before the first dendrites ended at {reached} on validation and was not kept.")
    })
}

/// The attempt that came closest, of a run that kept none.
fn closest(run: &Run) -> Option<String> {
    let summary = &run.summary;
    let phase = summary
        .phases
        .iter()
        .filter(|p| p.kind != "dendrite" && p.val_loss.is_some())
        .min_by(|a, b| a.val_loss.partial_cmp(&b.val_loss).unwrap_or(std::cmp::Ordering::Equal))?;
    let scores = summary.before.val.as_ref()?;
    let metric = run.headline(scores);
    let (before, after) = metric.pair((*scores.get(&metric.name)?)?, phase.val_metric?);
    let t = phase.t.map_or(String::new(), |t| format!(", a gain in loss of {t:.1} standard errors"));
    Some(format!(
        "The closest attempt, {}, had {} {after} against the input\u{2019}s {before}{t}; it takes more than 1.645 and a \
         metric that is no lower to be kept.",
        crate::words::turn(phase.turn),
        metric.title(),
    ))
}

/// Controls that do as well as the result on the data that decided nothing, else on validation.
fn stronger_controls(run: &Run) -> Vec<String> {
    let summary = &run.summary;
    let on_test = summary.after.test.is_some();
    let of = |side: &Side| if on_test { side.test.clone() } else { side.val.clone() };
    let Some(result) = of(&summary.after) else { return Vec::new() };
    let metric = run.headline(&result);
    let data = if on_test { "test" } else { "validation" };
    summary
        .controls
        .iter()
        .filter_map(|(name, side)| {
            let (result, control) = both(&metric, Some(&result), of(side).as_ref())?;
            let (shown, control_shown) = metric.pair(result, control);
            match metric.change(control, result) {
                Change::Better | Change::Unknown => None,
                Change::Worse | Change::Same => Some(format!(
                    "The control \u{201c}{}\u{201d} does as well or better on {data}: {} {control_shown} against {shown}.",
                    crate::words::name(name),
                    metric.title(),
                )),
            }
        })
        .collect()
}
