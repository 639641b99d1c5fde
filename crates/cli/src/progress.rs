//! Progress of a run: on a terminal one bar for the phase, elsewhere a line now and then; a line for what is decided.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use dendrite_trainer::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, grouped};

/// How long a log says nothing of a phase that goes on.
const SILENCE: Duration = Duration::from_secs(30);

/// Shows events as they come.
pub(crate) struct Progress<'a> {
    out: &'a Output,
    bar: ProgressBar,
    label: String,
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
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} epochs, {elapsed}, at most {eta} left; {msg}")
        {
            bar.set_style(style);
        }
        let log = (!visible).then(|| Log::new(String::new(), 0));
        Progress { out, bar, label: label.to_owned(), log }
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
                classes,
                most_frequent,
            } => {
                // A control has the same ones.
                if self.label.is_empty() {
                    let why =
                        loss_reason.map_or(String::new(), |reason| format!(", since {reason} (--loss takes another)"));
                    self.say(format!("loss: {loss}{why}; metric: {metric}"));
                    if let Some(names) = classes {
                        self.say(format!(
                            "classes by the model's outputs: {} (preprocess.classes gives another order)",
                            numbered(names)
                        ));
                    }
                }
                if *temperature != 1.0 {
                    self.say(format!("logits are divided by {temperature} for the loss that trains: they are large"));
                }
                let parameters = grouped(*parameters as u64);
                self.say(format!(
                    "input: {parameters} parameters, validation {metric} {val_metric:.4}, loss {val_loss:.4}"
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
                self.bar.set_prefix(self.prefix() + &name(kind, *cycle, *attempt));
                self.bar.set_message(format!("{} parameters", grouped(*parameters as u64)));
                if self.log.is_some() {
                    self.log = Some(Log::new(name(kind, *cycle, *attempt), *epochs));
                }
            }
            Event::Epoch { report, .. } => {
                let result =
                    format!("validation {:.4}, loss {:.4}, lr {:.1e}", report.val_metric, report.val_loss, report.lr);
                self.bar.set_position(report.epoch as u64);
                self.bar.set_message(result.clone());
                if let Some(text) = self.log.as_mut().and_then(|log| log.after(report.epoch, &result)) {
                    self.say(text);
                }
            }
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
                    self.bar.set_message(format!("step {done} of {steps}"));
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
                let decision = if verdict.accepted { self.out.good_note("kept") } else { "not kept".to_owned() };
                let kind = if *cycle == 0 { "finetune" } else { "neuron" };
                self.say(format!(
                    "{}: validation {val_metric:.4} ({:+.4}), loss {val_loss:.4}, {:+.1} standard errors: {decision}",
                    name(kind, *cycle, *attempt),
                    verdict.metric_change,
                    verdict.t,
                ));
            }
            Event::Finished { .. } => self.bar.finish_and_clear(),
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

fn name(kind: &str, cycle: usize, attempt: usize) -> String {
    let again = if attempt > 0 { format!(", try {}", attempt + 1) } else { String::new() };
    match kind {
        "finetune" => "fine-tune".to_owned(),
        "dendrite" => format!("cycle {cycle}{again}, dendrites"),
        _ => format!("cycle {cycle}{again}"),
    }
}
