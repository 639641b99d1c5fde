//! A run folder, read.

use std::{fs, io::ErrorKind, path::Path};

use serde::de::DeserializeOwned;

use crate::{
    error::{Error, Result},
    schema::{Event, Plan, Scores, Summary},
    timeline::Timeline,
    words::Metric,
};

const EVENTS: &str = "events.jsonl";
const SUMMARY: &str = "summary.json";
const PLAN: &str = "plan.toml";
const CONFIG: &str = "config.toml";

/// The files of a finished run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) summary: Summary,
    /// Empty where there is no events.jsonl.
    pub(crate) events: Vec<Event>,
    pub(crate) plan: Option<Plan>,
    /// The options as they are written.
    pub(crate) config: Option<String>,
    /// Whether a metric of the user's own is better when smaller, as the options say.
    pub(crate) minimise: Option<bool>,
    /// Whether the run is itself a control, its connections held at zero.
    pub(crate) sham: bool,
}

impl Run {
    /// The metric that `scores` are told by.
    pub(crate) fn headline(&self, scores: &Scores) -> Metric {
        Metric::headline(scores, self.minimise)
    }

    /// The metric of the run's curves and phases.
    pub(crate) fn metric(&self, line: &Timeline) -> Metric {
        match (&line.baseline, &self.summary.before.val) {
            (Some(baseline), _) => Metric::new(&baseline.metric, self.minimise),
            (None, Some(scores)) => self.headline(scores),
            (None, None) => Metric::loss(),
        }
    }

    /// Read `folder`. Only summary.json has to be there: a page without curves is better than none.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let summary = text(folder, SUMMARY)?.ok_or_else(|| Error::Content {
            path: folder.join(SUMMARY),
            reason: "there is none, so the folder holds no finished run".to_owned(),
            hint: "name the folder of a run that has ended; `dendrite grow --resume` goes on with one that has not"
                .to_owned(),
        })?;
        let summary = serde_json::from_str(&summary).map_err(|e| damaged(folder, SUMMARY, e.to_string()))?;
        let events = match text(folder, EVENTS)? {
            Some(text) => lines(&text).map_err(|reason| damaged(folder, EVENTS, reason))?,
            None => Vec::new(),
        };
        let plan = match text(folder, PLAN)? {
            Some(text) => Some(toml::from_str(&text).map_err(|e| damaged(folder, PLAN, e.message().to_owned()))?),
            None => None,
        };
        let config = text(folder, CONFIG)?;
        let options: Option<toml::Table> = config.as_ref().and_then(|c| c.parse().ok());
        let flag = |name: &str| options.as_ref().and_then(|o| o.get(name)?.as_bool());
        let (minimise, sham) = (flag("minimise"), flag("sham") == Some(true));
        Ok(Run { summary, events, plan, config, minimise, sham })
    }
}

/// The lines of an events.jsonl. A last line without its line feed was cut off while it was written and is left out.
pub(crate) fn lines<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1)))
        .collect()
}

fn text(folder: &Path, name: &str) -> Result<Option<String>> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

fn damaged(folder: &Path, name: &str, reason: String) -> Error {
    Error::Content {
        path: folder.join(name),
        reason,
        hint: "the page is made from the files as `dendrite grow` writes them; restore them or run anew".to_owned(),
    }
}
