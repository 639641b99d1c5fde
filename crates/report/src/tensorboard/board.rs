//! Events of a run as scalars of TensorBoard.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{
    hparams,
    writer::{EventWriter, seconds},
};
use crate::{
    error::{Error, Result},
    run::lines,
    schema::Event,
};

/// Drives an [`EventWriter`] by the lines of events.jsonl. The step of every scalar counts epochs over the whole run, so that
/// the curves of its phases follow each other.
///
/// | event | scalars |
/// |---|---|
/// | `baseline` | `loss/validation`, `metric/<name>` of the input, at step 0 |
/// | `epoch` | `loss/train`, `loss/validation`, `metric/<name>`, `learning_rate`, `gradient_norm` |
/// | `site` | `correlation/<site>/initial`, `correlation/<site>/trained`; `initial_2` and so on for further sets of a phase |
/// | `phase_started` | `parameters` |
/// | `verdict` | `verdict/t`, `verdict/kept` (0 or 1) |
/// | `finished` | none; the HParams page counts the run as ended well |
///
/// Numbers that are none (`null` in the line) are left out.
#[derive(Debug)]
pub struct Board {
    writer: EventWriter,
    place: Place,
    /// Whether the options are still to be told.
    fresh: bool,
}

/// What of the past decides how a line is recorded.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Epochs so far.
    step: u64,
    /// The metric's name.
    metric: Option<String>,
    /// Sites told of since the phase began.
    sites: Vec<String>,
}

impl Board {
    /// A new event file in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        Ok(Board { writer: EventWriter::create(folder)?, place: Place::default(), fresh: true })
    }

    /// Go on with the event file at `path` as it was with `length` bytes, when `events` was what events.jsonl held. An event
    /// file that is gone or too short is made anew, in the same folder, from `events`.
    pub fn resume(path: &Path, length: u64, events: &str) -> Result<Self> {
        let lines: Vec<Value> = lines(events).map_err(|reason| Error::Content {
            path: PathBuf::from("events.jsonl"),
            reason,
            hint: "start the run anew in another folder".to_owned(),
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let usable = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() >= length);
        if !usable {
            let mut board = Board::create(folder)?;
            let now = seconds();
            for line in &lines {
                board.record(line, now)?;
            }
            return Ok(board);
        }
        let mut place = Place::default();
        for line in &lines {
            place.scalars(line);
        }
        Ok(Board { writer: EventWriter::open_at(path, length)?, place, fresh: false })
    }

    /// Tell a new file the options of the run, by name, for TensorBoard's page of hyperparameters; a file that goes on has been
    /// told. `wall_time` is in seconds since 1970.
    pub fn options(&mut self, options: &Value, wall_time: f64) -> Result<()> {
        if std::mem::take(&mut self.fresh) {
            let content = hparams::started(options, wall_time);
            self.writer.plugin(hparams::PLUGIN, hparams::STARTED, wall_time, content)?;
        }
        Ok(())
    }

    /// Record an event as it stands in events.jsonl; one that is not known is passed over. `wall_time` is in seconds since
    /// 1970.
    pub fn record(&mut self, event: &Value, wall_time: f64) -> Result<()> {
        for (tag, value) in self.place.scalars(event) {
            self.writer.scalar(&tag, self.place.step, wall_time, value as f32)?;
        }
        if let Ok(Event::Finished {}) = Event::deserialize(event) {
            self.writer.plugin(hparams::PLUGIN, hparams::ENDED, wall_time, hparams::ended(wall_time))?;
        }
        Ok(())
    }

    /// The file's writer: for texts, [`EventWriter::sync`] and [`EventWriter::length`].
    pub fn writer(&mut self) -> &mut EventWriter {
        &mut self.writer
    }

    /// Epochs recorded so far.
    pub fn step(&self) -> u64 {
        self.place.step
    }
}

impl Place {
    /// The scalars of an event, after moving on to its step.
    fn scalars(&mut self, event: &Value) -> Vec<(String, f64)> {
        let Ok(event) = Event::deserialize(event) else { return Vec::new() };
        let found: Vec<(String, Option<f64>)> = match event {
            Event::Baseline(baseline) => {
                let scalars = vec![
                    ("loss/validation".to_owned(), baseline.val_loss),
                    (format!("metric/{}", baseline.metric), baseline.val_metric),
                ];
                self.metric = Some(baseline.metric);
                scalars
            }
            Event::PhaseStarted(phase) => {
                self.sites.clear();
                // The dendrite phase of a cycle has the parameters, and the step, of the neuron phase after it.
                let told = (phase.kind != "dendrite").then_some(phase.parameters as f64);
                vec![("parameters".to_owned(), told)]
            }
            Event::Epoch(epoch) => {
                self.step += 1;
                let metric = self.metric.as_deref().unwrap_or("validation");
                vec![
                    ("loss/train".to_owned(), epoch.train_loss),
                    ("loss/validation".to_owned(), epoch.val_loss),
                    (format!("metric/{metric}"), epoch.val_metric),
                    ("learning_rate".to_owned(), epoch.lr),
                    ("gradient_norm".to_owned(), epoch.gradient_norm),
                ]
            }
            Event::Site(site) => {
                let earlier = self.sites.iter().filter(|s| **s == site.site).count();
                // A step has room for one value of a name.
                let set = if earlier == 0 { String::new() } else { format!("_{}", earlier + 1) };
                let tag = |what: &str| format!("correlation/{}/{what}{set}", site.site);
                let scalars = vec![(tag("initial"), site.initial), (tag("trained"), site.trained)];
                self.sites.push(site.site);
                scalars
            }
            Event::Verdict(verdict) => vec![
                ("verdict/t".to_owned(), verdict.t),
                ("verdict/kept".to_owned(), Some(f64::from(u8::from(verdict.accepted)))),
            ],
            Event::Finished {} | Event::Other => Vec::new(),
        };
        found.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect()
    }
}
