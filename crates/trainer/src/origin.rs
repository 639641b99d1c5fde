//! What a run was started with: a checkpoint goes on only with the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use dendrite_data::Samples;

use crate::{
    checkpoint::{hex, sha256},
    error::Result,
    options::Options,
};

/// The program, model, data and options that decide every byte of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The program's version.
    pub version: String,
    /// SHA-256 of the model file.
    pub model: String,
    /// SHA-256 of the data sets: training, validation, test.
    pub data: Vec<String>,
    /// The options.
    pub options: Value,
    /// SHA-256 of the plan.
    pub plan: String,
}

impl Origin {
    /// The origin of a run. `data` are the training, validation and test data.
    pub fn new(model: &[u8], options: &Options, plan: &str, data: &[&Samples]) -> Result<Self> {
        let fingerprint = |samples: &&Samples| Ok(hex(&samples.fingerprint()?));
        Ok(Origin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: sha256(model),
            data: data.iter().map(fingerprint).collect::<Result<_>>()?,
            options: decisive(options),
            plan: sha256(plan.as_bytes()),
        })
    }

    /// Take note of the options as the run goes by them.
    pub fn resolve(&mut self, options: &Options) {
        self.options = decisive(options);
    }

    /// What differs in `other`, with which a run is to go on; `None` if nothing does.
    pub fn difference(&self, other: &Origin) -> Option<String> {
        if self.version != other.version {
            return Some(format!("it was written by version {} of this program", self.version));
        }
        if self.model != other.model {
            return Some("it belongs to another model".to_owned());
        }
        let names = ["training", "validation", "test"];
        if self.data.len() != other.data.len() {
            return Some("it belongs to a run with other data: the test data were added or left out".to_owned());
        }
        let changed = self.data.iter().zip(&other.data).position(|(a, b)| a != b);
        if let Some(name) = changed.and_then(|index| names.get(index)) {
            return Some(format!("it belongs to other {name} data"));
        }
        let options = self.options.as_object().into_iter().flatten();
        let differs = options.map(|(key, old)| (key, old, &other.options[key])).find(|(_, old, new)| old != new);
        if let Some((key, old, new)) = differs {
            return Some(format!("its run had the option {key} = {old}, now it is {new}"));
        }
        (self != other).then(|| "it belongs to another plan".to_owned())
    }
}

/// The options that decide what a run comes to, as far as it has come: not how long it may take, nor what follows it.
fn decisive(options: &Options) -> Value {
    let common = Options::default();
    let decisive =
        Options { budget: None, controls: Vec::new(), checkpoint_every: common.checkpoint_every, ..options.clone() };
    serde_json::to_value(decisive).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let options = Options::default();
        let origin = |options: &Options, plan: &str| {
            Origin::new(b"model", options, plan, &[]).unwrap_or_else(|e| unreachable!("{e}"))
        };
        let run = origin(&options, "");
        assert_eq!(run.difference(&run), None);
        let other = Origin { model: sha256(b"other"), ..run.clone() };
        assert_eq!(run.difference(&other).as_deref(), Some("it belongs to another model"));
        let seed = origin(&Options { seed: 1, ..Options::default() }, "");
        assert_eq!(run.difference(&seed).as_deref(), Some("its run had the option seed = 0, now it is 1"));
        assert_eq!(run.difference(&origin(&options, "x")).as_deref(), Some("it belongs to another plan"));
    }
}
