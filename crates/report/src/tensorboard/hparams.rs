//! The options of a run for TensorBoard's HParams page, on which runs are compared by them. Field numbers as in the plugin's
//! .proto file.

use std::collections::BTreeMap;

use prost::{Message, Oneof};
use serde_json::Value as Json;

/// The plugin's name.
pub(super) const PLUGIN: &str = "hparams";
/// The tag under which it looks for the beginning of a session.
pub(super) const STARTED: &str = "_hparams_/session_start_info";
/// And for its end.
pub(super) const ENDED: &str = "_hparams_/session_end_info";
/// Status.STATUS_SUCCESS.
const SUCCESS: i32 = 1;

/// tensorboard.hparams.HParamsPluginData.
#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(oneof = "What", tags = "3, 4")]
    what: Option<What>,
}

/// What the plugin is told.
#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(message, tag = "3")]
    Start(Start),
    #[prost(message, tag = "4")]
    End(End),
}

/// tensorboard.hparams.SessionStartInfo.
#[derive(Clone, PartialEq, Message)]
struct Start {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Value>,
    #[prost(double, tag = "5")]
    seconds: f64,
}

/// tensorboard.hparams.SessionEndInfo.
#[derive(Clone, PartialEq, Message)]
struct End {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    seconds: f64,
}

/// google.protobuf.Value.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

/// Of what kind a value is.
#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}

/// What the plugin reads of a run with these options that began at `seconds` since 1970. The entries of a table are called
/// `table.entry`, lists become text, and options without a value are left out.
pub(super) fn started(options: &Json, seconds: f64) -> Vec<u8> {
    let mut hparams = BTreeMap::new();
    flatten("", options, &mut hparams);
    Data { what: Some(What::Start(Start { hparams, seconds })) }.encode_to_vec()
}

/// What it reads of one that came to its end at `seconds`.
pub(super) fn ended(seconds: f64) -> Vec<u8> {
    Data { what: Some(What::End(End { status: SUCCESS, seconds })) }.encode_to_vec()
}

fn flatten(name: &str, option: &Json, found: &mut BTreeMap<String, Value>) {
    let kind = match option {
        Json::Null => return,
        Json::Object(entries) => {
            for (entry, option) in entries {
                let name = if name.is_empty() { entry.clone() } else { format!("{name}.{entry}") };
                flatten(&name, option, found);
            }
            return;
        }
        Json::Array(items) if items.is_empty() => return,
        Json::Array(items) => {
            let text = |item: &Json| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            Kind::String(items.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        Json::Bool(value) => Kind::Bool(*value),
        Json::Number(value) => Kind::Number(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::String(value.clone()),
    };
    found.insert(name.to_owned(), Value { kind: Some(kind) });
}
