//! Progress of a run: on a terminal one bar for the phase, elsewhere a line now and then; a line for what is decided.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use console::Term;
use dendrite_trainer::{
    Event,
    accept::{CRITICAL, Refusal, Verdict},
};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, change, grouped, in_digits};

/// How long a log says nothing of a phase that goes on.
const SILENCE: Duration = Duration::from_secs(30);
/// Columns of the bar itself, where they fit.
const BAR: usize = 24;
/// Columns of a terminal that does not say how many it has.
const USUAL_WIDTH: usize = 80;

/// Shows events as they come.
pub(crate) struct Progress<'a> {
    out: &'a Output,
    bar: ProgressBar,
    label: String,
    /// The phase, and the latest of it.
    phase: String,
    told: String,
    /// What a log is told, where there is no bar.
    log: Option<Log>,
}

/// Where a phase stands.
struct Log {
    phase: String,
    epochs: usize,
    /// Epochs since `begun`, which a resumed phase has not had from its first on.
    done: u32,
    begun: Instant,
    spoken: Instant,
}

impl Log {
    fn new(phase: String, epochs: usize) -> Self {
        Log { phase, epochs, done: 0, begun: Instant::now(), spoken: Instant::now() }
    }

    /// What is to be said after an epoch, if it is time: where the phase stands and how long it takes at most.
    fn after(&mut self, epoch: usize, result: &str) -> Option<String> {
        self.done += 1;
        if self.spoken.elapsed() < SILENCE {
            return None;
        }
        self.spoken = Instant::now();
        let left = self.begun.elapsed() / self.done * self.epochs.saturating_sub(epoch) as u32;
        let left = indicatif::HumanDuration(left);
        Some(format!("{}: epoch {epoch} of {}, {result}; at most {left} left", self.phase, self.epochs))
    }
}

impl<'a> Progress<'a> {
    /// Progress under `label`, on standard error; the bar only if that is a terminal and the user did not ask for quiet.
    pub(crate) fn new(out: &'a Output, label: &str) -> Self {
        let visible = !out.is_quiet() && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        // The line is put together here, so that it fits: one that goes over into the next is not cleared whole, and takes what
        // stands above with it. A terminal that became narrower since cuts it off.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        let log = (!visible).then(|| Log::new(String::new(), 0));
        Progress { out, bar, label: label.to_owned(), phase: String::new(), told: String::new(), log }
    }

    /// Take the bar away. What is printed while it stands would be cleared with it when it is dropped.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Show what was told last of the phase.
    fn tell(&mut self, told: String) {
        self.told = told;
        let stands = Stands {
            phase: &self.phase,
            done: self.bar.position(),
            epochs: self.bar.length().unwrap_or(0),
            elapsed: self.bar.elapsed(),
            left: self.bar.eta(),
            told: &self.told,
        };
        let width = Term::stderr().size_checked().map_or(USUAL_WIDTH, |(_, columns)| usize::from(columns));
        self.bar.set_message(stands.line(width));
    }

    /// Show one event.
    pub(crate) fn show(&mut self, event: &Event) {
        match event {
            Event::Baseline {
                parameters,
                val_loss,
                temperature,
                metric,
                val_metric,
                loss,
                loss_reason,
                class_axis,
                classes,
                most_frequent,
            } => {
                // A control has the same ones.
                if self.label.is_empty() {
                    let why =
                        loss_reason.map_or(String::new(), |reason| format!(", since {reason} (--loss takes another)"));
                    let over = class_axis.map_or(String::new(), |axis| format!(" over the classes on axis {axis}"));
                    self.say(format!("loss: {loss}{over}{why}; metric: {metric}"));
                    if let Some(names) = classes {
                        self.say(format!(
                            "classes by the model's outputs: {} (preprocess.classes gives another order)",
                            numbered(names)
                        ));
                    }
                }
                if *temperature != 1.0 {
                    self.say(format!(
                        "the loss that trains takes logits divided by {temperature}: so they fit the training data best"
                    ));
                }
                let parameters = grouped(*parameters as u64);
                let beside = beside(*val_metric, *val_loss);
                self.say(format!(
                    "input: {parameters} parameters, validation {metric} {}{beside}",
                    in_digits(*val_metric)
                ));
                if let Some(share) =
                    most_frequent.filter(|share| self.label.is_empty() && hardly_better(*val_metric, *share))
                {
                    let prefix = self.prefix();
                    self.bar.suspend(|| {
                        self.out.warn(format_args!(
                            "{prefix}always answering the most frequent class would score {share:.4}: the input model hardly \
                             knows these data. Do its outputs mean the classes in this order, and are inputs prepared as it \
                             takes them (columns, scale, mean)?"
                        ));
                    });
                }
            }
            Event::PhaseStarted { kind, cycle, attempt, parameters, epochs } => {
                self.bar.reset();
                self.bar.set_length(*epochs as u64);
                self.phase = self.prefix() + &name(kind, *cycle, *attempt);
                self.tell(format!("{} parameters", grouped(*parameters as u64)));
                if self.log.is_some() {
                    self.log = Some(Log::new(name(kind, *cycle, *attempt), *epochs));
                }
            }
            Event::Epoch { report, .. } => {
                let loss = beside(report.val_metric, report.val_loss);
                let result = format!("validation {}{loss}, lr {:.1e}", in_digits(report.val_metric), report.lr);
                self.bar.set_position(report.epoch as u64);
                self.tell(result.clone());
                if let Some(text) = self.log.as_mut().and_then(|log| log.after(report.epoch, &result)) {
                    self.say(text);
                }
            }
            // A control is judged by the same samples, of which it was said already.
            Event::FewValidationSamples { .. } if !self.label.is_empty() => {}
            Event::FewValidationSamples { samples } => self.bar.suspend(|| {
                self.out.warn(format_args!(
                    "{samples} samples of --val can hardly decide: only a large gain shows on them; give 100 or more"
                ));
            }),
            Event::FrozenPart { samples } => {
                let samples = grouped(*samples as u64);
                self.say(format!("the part of the model that stays as it is, is computed once for {samples} samples"));
            }
            Event::BatchNorm { nodes, trained, replaced } => {
                let momentum = match replaced {
                    0 => String::new(),
                    n => format!("; the momentum of {n} is 1, with which they would never move: 0.9 is taken"),
                };
                self.say(format!(
                    "batch normalisation: {trained} of {nodes} train by the batch, their stored statistics follow{momentum}"
                ));
            }
            Event::ControlStarted { control, note } => {
                self.label = format!("control {control}");
                if let Some(note) = note {
                    self.say(note.clone());
                }
            }
            Event::ControlLeftOut { control, reason } => {
                self.label = format!("control {control}");
                self.say(format!("not run: {reason}"));
            }
            Event::Progress { done, steps } => {
                // Steps of a short epoch go by too fast to be shown.
                if *steps >= 50 && (done % (steps / 50).max(1) == 0 || done == steps) {
                    self.tell(format!("step {done} of {steps}"));
                }
            }
            Event::Candidates { done, epochs } => {
                self.bar.set_length(*epochs as u64);
                self.bar.set_position(*done as u64);
                let so_far = self.log.as_mut().and_then(|log| {
                    log.epochs = *epochs;
                    log.after(*done, "candidates train")
                });
                if let Some(text) = so_far {
                    self.say(text);
                }
            }
            Event::BudgetSpent { cycle, attempt, kind, epochs } => {
                let phase = name(kind, *cycle, *attempt);
                self.say(match (kind.as_str(), epochs) {
                    ("dendrite", _) | (_, 0) => {
                        format!("{phase}: the time of --budget is used up; nothing of it can be judged")
                    }
                    (_, epochs) => format!(
                        "{phase}: its time of --budget is used up after {epochs} epochs; what they reached is judged"
                    ),
                });
            }
            Event::Trouble { report, .. } => {
                let next = match report.next_lr {
                    Some(lr) => format!("going on from the last good weights at a learning rate of {lr:.1e}"),
                    None => "the phase ends with its best weights; try a lower --lr or --clip-norm 1".to_owned(),
                };
                let what = report.anomaly.as_ref().map_or("the loss is no number".to_owned(), |a| a.to_string());
                let prefix = self.prefix();
                self.bar.suspend(|| {
                    self.out.warn(format_args!("{prefix}epoch {}, step {}: {what}; {next}", report.epoch, report.step));
                });
            }
            Event::Site { report, .. } => {
                if report.trained > report.initial {
                    let activation = format!("{:?}", report.activation).to_lowercase();
                    self.say(format!(
                        "  {}: mean correlation with the error {:.3} -> {:.3} ({activation})",
                        report.site, report.initial, report.trained
                    ));
                }
            }
            Event::Verdict { cycle, attempt, val_metric, val_loss, verdict } => {
                let decision =
                    if verdict.accepted { self.out.good_note("kept") } else { format!("not kept{}", why_not(verdict)) };
                let kind = if *cycle == 0 { "finetune" } else { "neuron" };
                self.say(format!(
                    "{}: validation {} ({}){}, {:+.1} standard errors: {decision}",
                    name(kind, *cycle, *attempt),
                    in_digits(*val_metric),
                    change(verdict.metric_change),
                    beside(*val_metric, *val_loss),
                    verdict.t,
                ));
            }
            Event::Finished { .. } => self.end(),
        }
    }

    fn say(&self, text: String) {
        let prefix = self.prefix();
        self.bar.suspend(|| self.out.note(format_args!("{prefix}{text}")));
    }

    /// What stands before every line.
    fn prefix(&self) -> String {
        if self.label.is_empty() { String::new() } else { format!("{}: ", self.label) }
    }
}

/// Classes as `0 cat, 1 dog`, not too many of them.
fn numbered(names: &[String]) -> String {
    const MOST: usize = 12;
    let mut text: Vec<String> = names.iter().take(MOST).enumerate().map(|(i, name)| format!("{i} {name}")).collect();
    if names.len() > MOST {
        text.push(format!("... {} in all", names.len()));
    }
    text.join(", ")
}

/// Whether an accuracy is so near to that of answering one class always that the model may be asked the wrong way.
fn hardly_better(accuracy: f64, most_frequent: f64) -> bool {
    const SHARE: f64 = 0.25;
    accuracy - most_frequent < SHARE * (1.0 - most_frequent)
}

/// Where a phase stands, as a line shows it.
struct Stands<'a> {
    phase: &'a str,
    done: u64,
    epochs: u64,
    elapsed: Duration,
    left: Duration,
    told: &'a str,
}

impl Stands<'_> {
    /// The line for a terminal of `width` columns: all of it, or without the bar and the time that went by, and then with less of
    /// what was told.
    fn line(&self, width: usize) -> String {
        let Stands { phase, done, epochs, told, .. } = self;
        let (elapsed, left) = (HumanDuration(self.elapsed), HumanDuration(self.left));
        let fits = |line: &String| line.chars().count() <= width;
        let filled = (*done as usize * BAR).checked_div(*epochs as usize).unwrap_or(0).min(BAR);
        let bar = "\u{2588}".repeat(filled) + &"\u{2591}".repeat(BAR - filled);
        let whole = format!("{phase} {bar} {done}/{epochs} epochs, {elapsed:#}, at most {left:#} left; {told}");
        let without = format!("{phase} {done}/{epochs} epochs, at most {left:#} left; ");
        let shortest = format!("{phase} {done}/{epochs}; ");
        let parts: Vec<&str> = told.split(", ").collect();
        let shorter = [without, shortest].into_iter().flat_map(|head| {
            let line = move |count: usize, parts: &[&str]| head.clone() + &parts[..count].join(", ");
            (1..=parts.len()).rev().map(|count| line(count, &parts)).collect::<Vec<_>>()
        });
        let line = [whole].into_iter().chain(shorter).find(fits);
        // Nothing of it fits: as much as does.
        line.unwrap_or_else(|| format!("{phase} {done}/{epochs}").chars().take(width).collect())
    }
}

/// The loss beside the metric, unless that is the loss itself.
fn beside(metric: f64, loss: f64) -> String {
    if metric == loss { String::new() } else { format!(", loss {}", in_digits(loss)) }
}

/// Why a cycle is not kept, in a few words.
fn why_not(verdict: &Verdict) -> String {
    match verdict.refusal {
        Some(Refusal::Metric) => ", the metric is worse".to_owned(),
        Some(Refusal::Uncertain) => format!(", it takes more than {CRITICAL}"),
        Some(Refusal::Small) => ", the loss gains too little to be of use".to_owned(),
        Some(Refusal::Reported) => ", the loss of the logits as they are is higher than the input's".to_owned(),
        None => String::new(),
    }
}

fn name(kind: &str, cycle: usize, attempt: usize) -> String {
    let again = if attempt > 0 { format!(", try {}", attempt + 1) } else { String::new() };
    match kind {
        "finetune" => "fine-tune".to_owned(),
        "dendrite" => format!("cycle {cycle}{again}, dendrites"),
        _ => format!("cycle {cycle}{again}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_every_terminal() {
        let stands = Stands {
            phase: "control longer: cycle 2, try 2",
            done: 50,
            epochs: 200,
            elapsed: Duration::from_secs(12),
            left: Duration::from_secs(36),
            told: "validation 0.9712, loss 0.1034, lr 1.0e-3",
        };
        for width in 0..200 {
            let line = stands.line(width);
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        let bar = "\u{2588}".repeat(6) + &"\u{2591}".repeat(18);
        let told = "validation 0.9712, loss 0.1034, lr 1.0e-3";
        assert_eq!(
            stands.line(180),
            format!("control longer: cycle 2, try 2 {bar} 50/200 epochs, 12s, at most 36s left; {told}")
        );
        let short = Stands { phase: "cycle 1", ..stands };
        assert_eq!(short.line(100), format!("cycle 1 50/200 epochs, at most 36s left; {told}"));
        assert_eq!(short.line(80), "cycle 1 50/200 epochs, at most 36s left; validation 0.9712, loss 0.1034");
        assert_eq!(short.line(20), "cycle 1 50/200");
    }

    #[test]
    fn a_loss_that_is_the_metric_is_told_once() {
        assert_eq!(beside(62.9344, 62.9344), "");
        assert_eq!(beside(0.75, 0.5), ", loss 0.5000");
    }

    #[test]
    fn a_cycle_that_is_not_kept_says_why() {
        let verdict = |refusal| Verdict { gain: 0.1, t: 3.0, metric_change: -0.035, accepted: false, refusal };
        assert_eq!(why_not(&verdict(Some(Refusal::Metric))), ", the metric is worse");
        assert_eq!(why_not(&verdict(Some(Refusal::Uncertain))), ", it takes more than 1.645");
    }
}
