//! Runs that are killed or interrupted, at random and in the middle of what they write, end after `--resume` in the bytes of
//! the undisturbed one. `scripts/crash.py` is the same at length.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use dendrite_onnx::file::is_temporary;

/// A fine-tune, a restructure and a neuron phase, in as little time as goes.
const SHORT: &[&str] =
    &["--connect", "layer", "--width", "8", "--dendrites", "1", "--lr", "0.01", "--epochs", "8", "--tries", "1"];
const STEPWISE: &[&str] = &["--checkpoint-every", "0s"];

fn grow(folder: &Path, options: &[&[&str]]) -> Command {
    let repository = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    let mut command = Command::new(env!("CARGO_BIN_EXE_dendrite"));
    command.arg("grow").arg(repository("models/jv_cnn4.onnx")).arg("-o").arg(folder);
    for part in ["train", "val", "test"] {
        command.arg(format!("--{part}")).arg(repository(&format!("fixtures/japanese-vowels/{part}.npz")));
    }
    command.args(["--threads", "1", "--quiet"]).args(options.concat());
    command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.code().is_some_and(|c| c < 2), "{output:?}");
    output
}

/// Files of a folder and of those in it that were left by a save that did not end.
fn left(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(left(&entry.path()));
        } else if entry.file_name().to_str().is_some_and(is_temporary) {
            found.push(entry.path());
        }
    }
    found
}

/// The kind of the phase under way.
fn phase(folder: &Path) -> Option<String> {
    let events = fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    let whole = &events[..events.rfind('\n').unwrap_or(0)];
    let events = whole.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    events.filter(|e| e["event"] == "phase_started").find_map(|e| Some(e["kind"].as_str()?.to_owned()))
}

/// Kill a run once `condition` holds, or when it has ended.
fn kill_when(child: &mut Child, condition: &mut dyn FnMut() -> bool) {
    while child.try_wait().unwrap().is_none() {
        if condition() {
            child.kill().unwrap();
        }
    }
}

/// What is the same in every run of these options: the result, the logs, and the summary but for its seconds.
fn facts(folder: &Path) -> (Vec<u8>, String, String, serde_json::Value) {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();
    let mut summary: serde_json::Value = serde_json::from_slice(&read("summary.json")).unwrap();
    summary["seconds"].take();
    (read("model.onnx"), text("metrics.csv"), text("events.jsonl"), summary)
}

fn assert_same(folder: &Path, undisturbed: &Path, what: &str) {
    let (found, expected) = (facts(folder), facts(undisturbed));
    assert_eq!(found.1, expected.1, "{what}: metrics.csv");
    assert_eq!(found.2, expected.2, "{what}: events.jsonl");
    assert_eq!(found.3, expected.3, "{what}: summary.json");
    assert!(found.0 == expected.0, "{what}: model.onnx");
    assert_eq!(left(folder), Vec::<PathBuf>::new(), "{what}");
    assert_eq!(fs::read_dir(folder.join("tensorboard")).unwrap().count(), 1, "{what}: one event file");
    assert!(folder.join("report.html").exists() && !folder.join("checkpoints/latest.safetensors").exists(), "{what}");
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let undisturbed = scratch.path().join("undisturbed");
    finish(grow(&undisturbed, &[SHORT]));
    // Inside a save, if its temporary file is there when the process is not: a kill may come too late. The resumed run is
    // killed likewise.
    let mut inside = 0;
    let folder = scratch.path().join("save");
    for (skip, resume) in [(20, &[][..]), (10, &["--resume"])] {
        let mut child = grow(&folder, &[SHORT, STEPWISE, resume]).spawn().unwrap();
        let mut seen = 0;
        kill_when(&mut child, &mut || {
            seen += usize::from(!left(&folder).is_empty());
            seen > skip
        });
        inside += usize::from(!left(&folder).is_empty());
    }
    finish(grow(&folder, &[SHORT, &["--resume"]]));
    assert_same(&folder, &undisturbed, "killed in a save");
    for delay in [0, 5, 10] {
        let folder = scratch.path().join(format!("restructure_{delay}"));
        let mut child = grow(&folder, &[SHORT, STEPWISE]).spawn().unwrap();
        kill_when(&mut child, &mut || {
            let found = phase(&folder).as_deref() == Some("dendrite");
            if found {
                thread::sleep(Duration::from_millis(delay));
            }
            found
        });
        inside += usize::from(phase(&folder).as_deref() == Some("dendrite"));
        finish(grow(&folder, &[SHORT, &["--resume"]]));
        assert_same(&folder, &undisturbed, &format!("killed {delay} ms into the restructure"));
    }
    assert!(inside >= 3, "only {inside} kills fell inside a save or a restructure");
    let folder = scratch.path().join("anywhere");
    let mut child = grow(&folder, &[SHORT]).spawn().unwrap();
    thread::sleep(Duration::from_millis(300));
    let _ = child.kill();
    child.wait().unwrap();
    finish(grow(&folder, &[SHORT, &["--resume"]]));
    assert_same(&folder, &undisturbed, "killed after 300 ms");
}

#[test]
fn an_interrupted_run_ends_at_once_and_resumes_to_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let undisturbed = scratch.path().join("undisturbed");
    finish(grow(&undisturbed, &[SHORT]));
    for (signal, kind) in [("INT", "finetune"), ("TERM", "dendrite")] {
        let folder = scratch.path().join(signal);
        let child = grow(&folder, &[SHORT, STEPWISE]).spawn().unwrap();
        while phase(&folder).as_deref() != Some(kind) {
            thread::yield_now();
        }
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "SIG{signal}: {output:?}");
        finish(grow(&folder, &[SHORT, &["--resume"]]));
        assert_same(&folder, &undisturbed, signal);
    }
}

#[test]
fn a_search_for_the_learning_rate_ends_though_checkpoints_fall_due_within() {
    let scratch = tempfile::tempdir().unwrap();
    let (plain, stepwise) = (scratch.path().join("plain"), scratch.path().join("stepwise"));
    let search: &[&str] = &["--dendrites", "0", "--epochs", "2"];
    finish(grow(&plain, &[search]));
    let mut child = grow(&stepwise, &[search, STEPWISE]).spawn().unwrap();
    let started = Instant::now();
    kill_when(&mut child, &mut || started.elapsed() > Duration::from_secs(60));
    assert!(child.wait().unwrap().code().is_some(), "it had not ended after a minute");
    assert_same(&stepwise, &plain, "checkpoints after every step");
}

#[test]
fn a_second_process_is_kept_away_until_the_first_has_ended() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let long: &[&str] = &["--dendrites", "0", "--epochs", "100000", "--patience", "100000", "--lr", "1e-3"];
    let mut first = grow(&folder, &[long]).spawn().unwrap();
    let checkpoint = folder.join("checkpoints/latest.safetensors");
    while !checkpoint.exists() {
        assert!(first.try_wait().unwrap().is_none(), "the run has ended early");
        thread::yield_now();
    }
    for resume in [&[][..], &["--resume"]] {
        let second = grow(&folder, &[long, resume]).output().unwrap();
        assert_eq!(second.status.code(), Some(2), "{second:?}");
        let message = String::from_utf8(second.stderr).unwrap();
        assert!(message.contains(&format!("is in use: process {} writes a run to it", first.id())), "{message}");
        assert!(message.contains("hint: wait until it has ended"), "{message}");
    }
    // SIGKILL: nothing of the process's own can free the folder.
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(folder.join(".lock").exists());
    let mut third = grow(&folder, &[long, &["--resume"]]).spawn().unwrap();
    let told = || fs::read_to_string(folder.join(".lock")).unwrap_or_default();
    while told() != third.id().to_string() {
        assert!(third.try_wait().unwrap().is_none(), "it did not go on");
        thread::yield_now();
    }
    let sent = Command::new("kill").arg("-INT").arg(third.id().to_string()).status().unwrap();
    assert!(sent.success());
    third.wait().unwrap();
    assert!(!folder.join(".lock").exists());
}
