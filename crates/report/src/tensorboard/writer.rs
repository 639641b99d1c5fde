//! Writes event files that TensorBoard reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;

use super::{
    proto::{Content, Dim, Event, FLOAT, Metadata, Plugin, STRING, Shape, Summary, Tensor, Value, What},
    record::framed,
};
use crate::error::{Error, Result};

/// The version every event file begins with.
const VERSION: &str = "brain.Event:2";
/// Names tried in the same second before giving up.
const NAMES: usize = 1000;

/// An open event file. Every record is written whole and at once, so that a reader sees it as soon as it is there.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    length: u64,
}

impl EventWriter {
    /// A new file in `folder`, which is made if it is not there. It is called `events.out.tfevents.<seconds>.dendrite`:
    /// TensorBoard's names end in the machine's, which is nobody's business in a folder that is passed on.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let now = seconds();
        for again in 0..NAMES {
            let suffix = if again == 0 { String::new() } else { format!(".{again}") };
            let path = folder.join(format!("events.out.tfevents.{}.dendrite{suffix}", now as u64));
            match OpenOptions::new().create_new(true).append(true).open(&path) {
                Ok(file) => {
                    let mut writer = EventWriter { path, file, length: 0 };
                    writer.event(now, 0, What::FileVersion(VERSION.to_owned()))?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(path)(e)),
            }
        }
        Err(Error::io(folder)(ErrorKind::AlreadyExists.into()))
    }

    /// Go on with the file at `path` as it was when it had `length` bytes: what lies beyond is cut off.
    pub fn open_at(path: &Path, length: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path))?;
        let there = file.metadata().map_err(Error::io(path))?.len();
        if there < length {
            return Err(Error::Content {
                path: path.to_owned(),
                reason: format!("it has {there} bytes, and {length} were written to it"),
                hint: "remove it; it is made anew from events.jsonl".to_owned(),
            });
        }
        file.set_len(length).map_err(Error::io(path))?;
        Ok(EventWriter { path: path.to_owned(), file, length })
    }

    /// A number. `wall_time` is in seconds since 1970.
    pub fn scalar(&mut self, tag: &str, step: u64, wall_time: f64, value: f32) -> Result<()> {
        let value = Value { tag: tag.to_owned(), metadata: None, content: Some(Content::Simple(value)) };
        self.summary(step, wall_time, value)
    }

    /// A text, which TensorBoard shows as Markdown.
    pub fn text(&mut self, tag: &str, step: u64, wall_time: f64, text: &str) -> Result<()> {
        let tensor = Tensor {
            dtype: STRING,
            shape: Some(Shape { dims: vec![Dim { size: 1 }] }),
            strings: vec![text.as_bytes().to_vec()],
        };
        let value = Value {
            tag: tag.to_owned(),
            metadata: Some(Metadata { plugin: Some(Plugin { name: "text".to_owned(), content: Vec::new() }) }),
            content: Some(Content::Tensor(tensor)),
        };
        self.summary(step, wall_time, value)
    }

    /// What a plugin of TensorBoard reads, in its own encoding.
    pub(super) fn plugin(&mut self, plugin: &str, tag: &str, wall_time: f64, content: Vec<u8>) -> Result<()> {
        // The content says it all; a value without a tensor would be passed over.
        let nothing = Tensor { dtype: FLOAT, shape: Some(Shape { dims: vec![Dim { size: 0 }] }), strings: Vec::new() };
        let value = Value {
            tag: tag.to_owned(),
            metadata: Some(Metadata { plugin: Some(Plugin { name: plugin.to_owned(), content }) }),
            content: Some(Content::Tensor(nothing)),
        };
        self.summary(0, wall_time, value)
    }

    /// Make sure that everything written outlives the machine's failure.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn summary(&mut self, step: u64, wall_time: f64, value: Value) -> Result<()> {
        self.event(wall_time, step, What::Summary(Summary { value: vec![value] }))
    }

    fn event(&mut self, wall_time: f64, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time, step: i64::try_from(step).unwrap_or(i64::MAX), what: Some(what) };
        let bytes = framed(&event.encode_to_vec());
        self.file.write_all(&bytes).map_err(Error::io(&self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// Seconds since 1970.
pub(super) fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
