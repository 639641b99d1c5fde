//! The run folder: logs that grow with the run, and files that are replaced whole.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use dendrite_onnx::file::{self, write_bytes};
use dendrite_report::tensorboard::Board;

use crate::{
    error::{Error, Result},
    events::Event,
    lock::Lock,
    options::Options,
    summary::Summary,
};

/// The result.
pub const MODEL: &str = "model.onnx";
/// The facts of the run.
pub const SUMMARY: &str = "summary.json";
/// The options.
pub const CONFIG: &str = "config.toml";
/// The plan.
pub const PLAN: &str = "plan.toml";
const EVENTS: &str = "events.jsonl";
const METRICS: &str = "metrics.csv";
const TENSORBOARD: &str = "tensorboard";
const REPORT: &str = "report.html";
const METRICS_HEADER: &str = "cycle,attempt,epoch,lr,train_loss,gradient_norm,val_loss,val_metric\n";

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    events: Log,
    metrics: Log,
    board: Board,
    /// The folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
    /// Keeps other processes away.
    lock: Option<Lock>,
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
        let there = file.metadata().map_err(Error::io(&path))?.len();
        if there < length {
            return Err(Error::Checkpoint {
                path,
                reason: format!("it has {there} bytes, and the checkpoint stands for {length}"),
                hint: "put back the file that the run wrote, or start anew in another folder".to_owned(),
            });
        }
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

    /// Whether a run may be written to `root`. Files that are called like those of a run and are of none are not written over.
    /// One that holds a result or a checkpoint is refused, unless it is of a run that was `unfinished` and may start anew; what
    /// a run left that ended before its first checkpoint is overwritten.
    pub fn check(root: &Path, unfinished: bool) -> Result<()> {
        if root.is_file() {
            return Err(Error::Option {
                reason: format!("{} is a file, a run needs a folder", root.display()),
                hint: "choose another folder with -o".to_owned(),
            });
        }
        let holds = |name: &str| root.join(name).exists();
        let of_a_run = holds(EVENTS) || holds(SUMMARY) || Self::checkpoint(root).exists();
        let ours = [MODEL, CONFIG, PLAN, METRICS, REPORT];
        if let Some(name) = ours.into_iter().find(|name| !of_a_run && holds(name)) {
            return Err(Error::Option {
                reason: format!(
                    "{} holds a {name} that is of no run, and a run there would write over it",
                    root.display()
                ),
                hint: "choose another folder with -o".to_owned(),
            });
        }
        let result = holds(MODEL) && (holds(SUMMARY) || !holds(EVENTS) || !unfinished);
        if result || (Self::checkpoint(root).exists() && !unfinished) {
            let hint = if Self::checkpoint(root).exists() {
                "choose another folder with -o, or go on with --resume"
            } else if holds(SUMMARY) {
                "the run in it is complete; choose another folder with -o"
            } else {
                "choose another folder with -o"
            };
            return Err(Error::Option {
                reason: format!("{} already holds a run", root.display()),
                hint: hint.to_owned(),
            });
        }
        Ok(())
    }

    /// Keep other processes away from `root`, if it is there already.
    pub(crate) fn lock(root: &Path) -> Result<Option<Lock>> {
        root.is_dir().then(|| Lock::take(root)).transpose()
    }

    /// A new folder; see [`RunFolder::check`]. `lock` is that of a folder that was there.
    pub(crate) fn create(root: &Path, unfinished: bool, lock: Option<Lock>) -> Result<Self> {
        Self::check(root, unfinished)?;
        let checkpoints = root.join("checkpoints");
        let made = checkpoints.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        let made = made.map(Path::to_owned).collect();
        fs::create_dir_all(&checkpoints).map_err(Error::io(root))?;
        let lock = lock.map_or_else(|| Lock::take(root), Ok)?;
        let mut folder = Self { made, ..Self::open(root, &[], Some(lock))? };
        folder.metrics.append(METRICS_HEADER)?;
        Ok(folder)
    }

    /// The folder of a run that goes on; its logs are cut to `lengths`.
    pub(crate) fn open(root: &Path, lengths: &[(String, u64)], lock: Option<Lock>) -> Result<Self> {
        Self::tidy(root);
        let length = |name: &str| lengths.iter().find(|(n, _)| n == name).map_or(0, |(_, l)| *l);
        let events = Log::open(root, EVENTS, length(EVENTS))?;
        let metrics = Log::open(root, METRICS, length(METRICS))?;
        let known = lengths.iter().find(|(name, _)| name.starts_with(TENSORBOARD));
        let mut board = match known {
            Some((name, length)) => {
                let told = fs::read_to_string(&events.path).map_err(Error::io(&events.path))?;
                Board::resume(&root.join(name), *length, &told)?
            }
            None => Board::create(&root.join(TENSORBOARD))?,
        };
        remove_other_boards(board.writer().path());
        Ok(RunFolder { root: root.to_owned(), events, metrics, board, made: Vec::new(), lock })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the checkpoint lies.
    pub fn checkpoint(root: &Path) -> PathBuf {
        root.join("checkpoints").join("latest.safetensors")
    }

    /// Tell TensorBoard the options of the run.
    pub(crate) fn record_options(&mut self, options: &Options) -> Result<()> {
        let mut options = serde_json::to_value(options).unwrap_or_default();
        // When checkpoints are written changes nothing of a run: it may be another where the run goes on.
        if let Some(options) = options.as_object_mut() {
            options.remove("checkpoint-every");
        }
        Ok(self.board.options(&options, now())?)
    }

    /// Append an event to the logs.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        if let Event::Epoch { cycle, attempt, report } = event {
            self.metrics.append(&format!(
                "{cycle},{attempt},{},{},{},{},{},{}\n",
                report.epoch, report.lr, report.train_loss, report.gradient_norm, report.val_loss, report.val_metric
            ))?;
        }
        let fail =
            |e: serde_json::Error| Error::Io { path: self.events.path.clone(), source: std::io::Error::other(e) };
        // As text first: a value would put the fields in the order of their names.
        let line = serde_json::to_string(event).map_err(fail)?;
        let value = serde_json::from_str(&line).map_err(fail)?;
        self.events.append(&(line + "\n"))?;
        Ok(self.board.record(&value, now())?)
    }

    /// Flush the logs and tell their lengths, for a checkpoint.
    pub fn lengths(&mut self) -> Result<Vec<(String, u64)>> {
        let logs = [&self.events, &self.metrics].into_iter();
        let mut lengths: Vec<(String, u64)> =
            logs.map(|log| log.sync().map(|()| (log.name.to_owned(), log.length))).collect::<Result<_>>()?;
        let board = self.board.writer();
        board.sync()?;
        if let Some(name) = board.path().file_name() {
            lengths.push((format!("{TENSORBOARD}/{}", name.to_string_lossy()), board.length()));
        }
        Ok(lengths)
    }

    /// Write a file of the folder whole.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(write_bytes(&self.root.join(name), bytes)?)
    }

    /// Write the page that tells of the run in `root`, from its own files.
    pub fn write_report(root: &Path) -> Result<()> {
        Ok(write_bytes(&root.join(REPORT), dendrite_report::render(root)?.as_bytes())?)
    }

    /// Take away what was written for a run that ended before anything came of it. What cannot be removed stays: the error
    /// that ended the run is the one to tell.
    pub fn abandon(&mut self) {
        for name in [EVENTS, METRICS, CONFIG, PLAN] {
            let _ = fs::remove_file(self.root.join(name));
        }
        let _ = fs::remove_file(self.board.writer().path());
        self.lock = None;
        // A folder that holds anything else is not empty, and stays.
        let _ = fs::remove_dir(self.root.join(TENSORBOARD));
        for folder in &self.made {
            let _ = fs::remove_dir(folder);
        }
    }

    /// Remove what a run that was killed in the middle of writing a file left of it. What cannot be removed is only untidy.
    pub fn tidy(root: &Path) {
        for folder in [root.to_owned(), root.join("checkpoints")] {
            remove_files(&folder, file::is_temporary);
        }
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

/// Remove the event files beside the one at `path`: TensorBoard would show what a run told before it began anew together with
/// what it told since.
fn remove_other_boards(path: &Path) {
    if let (Some(folder), Some(own)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        remove_files(folder, |name| {
            name != own && name.starts_with("events.out.tfevents.") && name.contains(".dendrite")
        });
    }
}

/// Remove the files of `folder` whose names are `unwanted`, as far as that can be done.
fn remove_files(folder: &Path, unwanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&unwanted) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Seconds since 1970; a clock before that counts as then.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
