//! Mistakes a user makes, each through the command a user types, with the answer they get.
//!
//! `messages.txt` beside this file lists them all, to be read from top to bottom. After a change of a message,
//! `UPDATE_MESSAGES=1 cargo test -p onnx-dendrite --test mistakes` writes it anew; read what `git diff` then shows.
//!
//! Whatever the list says, an answer fails the test that is a panic, has another exit code than its case expects, has no
//! `hint:`, or leaves a file behind.
#![cfg(target_os = "linux")] // what the system says is a part of the list
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod data;
mod make;
mod models;
mod options;
mod runs;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A mistake: what lies in the folder, and what is typed there.
pub(crate) struct Mistake {
    title: String,
    line: String,
    files: Vec<(String, Vec<u8>)>,
    environment: Vec<(&'static str, &'static str)>,
    code: i32,
}

/// The mistake `title` of a user who types `line`; `'` quotes, as in a shell.
pub(crate) fn mistake(title: &str, line: &str) -> Mistake {
    Mistake { title: title.to_owned(), line: line.to_owned(), files: Vec::new(), environment: Vec::new(), code: 2 }
}

impl Mistake {
    /// Put a file into the folder, or replace one of those that are always there. A path that ends in a slash is a folder.
    pub(crate) fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.to_owned(), bytes.into()));
        self
    }

    /// Set a variable of the environment.
    pub(crate) fn set(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// A negative finding, exit code 1.
    pub(crate) fn finding(mut self) -> Self {
        self.code = 1;
        self
    }

    /// Make the mistake in `folder`: the entry of the list, and what is wrong with the answer whatever the list says.
    fn answer(&self, folder: &Path) -> (String, Vec<String>) {
        for (path, bytes) in usual().iter().map(|(p, b)| (*p, b)).chain(self.files.iter().map(|(p, b)| (p.as_str(), b)))
        {
            let place = folder.join(path);
            if path.ends_with('/') {
                fs::create_dir_all(place).unwrap();
                continue;
            }
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, bytes).unwrap();
        }
        let before = contents(folder);
        let output = Command::new(env!("CARGO_BIN_EXE_dendrite"))
            .args(words(&self.line))
            .current_dir(folder)
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (said, told) = (text(&output.stderr, folder), text(&output.stdout, folder));
        let mut wrong = Vec::new();
        if output.status.code() != Some(self.code) {
            wrong.push(format!("exit code {:?}, not {}", output.status.code(), self.code));
        }
        if said.contains("panicked") {
            wrong.push("it panicked".to_owned());
        }
        if !said.contains("hint: ") && !told.contains("hint: ") {
            wrong.push("it has no hint".to_owned());
        }
        if self.code == 2 && !(said.starts_with("error: ") && told.is_empty()) {
            wrong.push("an error is not all that was said".to_owned());
        }
        let after = contents(folder);
        for path in after.keys().filter(|path| before.get(*path) != after.get(*path)) {
            wrong.push(format!("it left {} behind", path.display()));
        }
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            wrong.push(format!("it took {} away", path.display()));
        }
        let variables: String = self.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let entry = format!("## {}\n\n$ {variables}dendrite {}\n{told}{said}", self.title, self.line);
        let code = if self.code == 2 { String::new() } else { format!("exit code {}\n", self.code) };
        (entry + &code + "\n", wrong)
    }
}

/// What lies in every folder: a model that fits its data.
fn usual() -> [(&'static str, Vec<u8>); 3] {
    [("model.onnx", make::network()), ("train.npz", make::classes(40)), ("val.npz", make::classes(20))]
}

/// The words of a command line.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut begun) = (vec![String::new()], false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun {
                    words.push(String::new());
                    begun = false;
                }
            }
            c => {
                words.last_mut().unwrap().push(c);
                begun = true;
            }
        }
    }
    words
}

fn text(bytes: &[u8], folder: &Path) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.replace(folder.to_str().unwrap(), "FOLDER").lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

/// Every file and folder under `folder`, with what the files hold.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(current).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(folder).unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
                found.insert(inside, Vec::new());
            } else {
                found.insert(inside, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_mistake_gets_its_answer() {
    let scratch = tempfile::tempdir().unwrap();
    let chapters = [
        ("The model", models::mistakes()),
        ("The data", data::mistakes()),
        ("Options", options::mistakes()),
        ("Runs and results", runs::mistakes(scratch.path())),
    ];
    let all: Vec<&Mistake> = chapters.iter().flat_map(|(_, mistakes)| mistakes).collect();
    let answers = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mistake) = all.get(index) else { break };
                    let folder = scratch.path().join(index.to_string());
                    fs::create_dir(&folder).unwrap();
                    let answer = mistake.answer(&folder);
                    answers.lock().unwrap().insert(index, answer);
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    let mut list = "Mistakes and what the command answers, exit code 2 where none is said. See main.rs.\n".to_owned();
    let mut wrong = String::new();
    let mut answers = answers.into_values();
    for (title, mistakes) in &chapters {
        list += &format!("\n# {title}\n\n");
        for (entry, faults) in answers.by_ref().take(mistakes.len()) {
            if !faults.is_empty() {
                wrong += &format!("{}\n{entry}", faults.join("; "));
            }
            list += &entry;
        }
    }
    let list = list.trim_end().to_owned() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes/messages.txt");
    if std::env::var_os("UPDATE_MESSAGES").is_some() {
        fs::write(&path, &list).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
    let known = fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<String> = differing(&known, &list);
    assert!(changed.is_empty(), "messages.txt says otherwise of:\n{}", changed.join("\n"));
}

/// The entries of `list` that `known` does not hold, and the titles of those that only `known` holds.
fn differing(known: &str, list: &str) -> Vec<String> {
    let entries = |text: &str| -> Vec<String> { text.split("\n## ").map(|e| e.trim_end().to_owned()).collect() };
    let (old, new) = (entries(known), entries(list));
    let gone = old.iter().filter(|e| !new.contains(e)).map(|e| format!("- {}", e.lines().next().unwrap_or_default()));
    let come = new.iter().filter(|e| !old.contains(e)).map(|e| format!("+ {e}"));
    gone.chain(come).collect()
}
