//! The run folder: logs that grow with the run, and files that are replaced whole.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use dendrite_onnx::file::write_bytes;

use crate::{
    error::{Error, Result},
    events::Event,
    summary::Summary,
};

/// The result.
pub const MODEL: &str = "model.onnx";
/// The facts of the run.
pub const SUMMARY: &str = "summary.json";
const EVENTS: &str = "events.jsonl";
const METRICS: &str = "metrics.csv";
const METRICS_HEADER: &str = "cycle,attempt,epoch,lr,train_loss,val_loss,val_metric\n";

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    events: Log,
    metrics: Log,
}

#[derive(Debug)]
struct Log {
    name: &'static str,
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    fn open(root: &Path, name: &'static str, length: u64) -> Result<Self> {
        let path = root.join(name);
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        file.set_len(length).map_err(Error::io(&path))?;
        drop(file);
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Log { name, path, file, length })
    }

    fn append(&mut self, line: &str) -> Result<()> {
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))?;
        self.length += line.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

impl RunFolder {
    /// The facts of the run in `root`, if it is complete: the summary is written last, and the checkpoint goes after it.
    pub fn complete(root: &Path) -> Result<Option<Summary>> {
        let path = root.join(SUMMARY);
        if !path.exists() || Self::checkpoint(root).exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Checkpoint {
            path,
            reason: format!("the summary of the run in this folder cannot be read: {e}"),
            hint: "choose another folder with -o".to_owned(),
        })
    }

    /// A new folder. One that holds a result or a checkpoint is refused, unless it is of a run that was `unfinished` and
    /// may start anew; what a run left that ended before its first checkpoint is overwritten.
    pub fn create(root: &Path, unfinished: bool) -> Result<Self> {
        let holds = |name: &str| root.join(name).exists();
        let result = holds(MODEL) && (holds(SUMMARY) || !holds(EVENTS) || !unfinished);
        if result || (Self::checkpoint(root).exists() && !unfinished) {
            let hint = if result {
                "the run in it is complete; choose another folder with -o"
            } else {
                "choose another folder with -o, or go on with --resume"
            };
            return Err(Error::Option {
                reason: format!("{} already holds a run", root.display()),
                hint: hint.to_owned(),
            });
        }
        let checkpoints = root.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        let mut folder = Self::open(root, &[])?;
        folder.metrics.append(METRICS_HEADER)?;
        Ok(folder)
    }

    /// The folder of a run that goes on; its logs are cut to `lengths`.
    pub fn open(root: &Path, lengths: &[(String, u64)]) -> Result<Self> {
        let length = |name: &str| lengths.iter().find(|(n, _)| n == name).map_or(0, |(_, l)| *l);
        Ok(RunFolder {
            root: root.to_owned(),
            events: Log::open(root, EVENTS, length(EVENTS))?,
            metrics: Log::open(root, METRICS, length(METRICS))?,
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the checkpoint lies.
    pub fn checkpoint(root: &Path) -> PathBuf {
        root.join("checkpoints").join("latest.safetensors")
    }

    /// Append an event to the logs.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        if let Event::Epoch { cycle, attempt, report } = event {
            self.metrics.append(&format!(
                "{cycle},{attempt},{},{},{},{},{}\n",
                report.epoch, report.lr, report.train_loss, report.val_loss, report.val_metric
            ))?;
        }
        let line = serde_json::to_string(event)
            .map_err(|e| Error::Io { path: self.events.path.clone(), source: std::io::Error::other(e) })?;
        self.events.append(&(line + "\n"))
    }

    /// Flush the logs and tell their lengths, for a checkpoint.
    pub fn lengths(&self) -> Result<Vec<(String, u64)>> {
        [&self.events, &self.metrics]
            .into_iter()
            .map(|log| log.sync().map(|()| (log.name.to_owned(), log.length)))
            .collect()
    }

    /// Write a file of the folder whole.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(write_bytes(&self.root.join(name), bytes)?)
    }

    /// Remove the checkpoint of a finished run.
    pub fn remove_checkpoint(&self) -> Result<()> {
        let path = Self::checkpoint(&self.root);
        if path.exists() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        Ok(())
    }
}
