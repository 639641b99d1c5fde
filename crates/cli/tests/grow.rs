//! Growth through the command a user types, on the models and data of the repository.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn dendrite() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dendrite"));
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// `dendrite grow` on the model and data of a data set, with `options`.
fn grow(model: &str, data: &str, folder: &Path, options: &[&str]) -> Command {
    let mut command = dendrite();
    command.arg("grow").arg(repository(&format!("models/{model}.onnx")));
    for part in ["train", "val", "test"] {
        command.arg(format!("--{part}")).arg(repository(&format!("fixtures/{data}/{part}.npz")));
    }
    command.arg("-o").arg(folder).args(["--threads", "1", "--quiet"]).args(options);
    command
}

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.code().is_some_and(|c| c < 3), "{output:?}");
    output
}

fn summary(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap()
}

/// Enough training to be kept, little enough for a test.
const SHORT: &[&str] =
    &["--method", "gd", "--connect", "layer", "--width", "8", "--dendrites", "1", "--lr", "0.01", "--epochs", "12"];

#[test]
fn a_grown_model_scores_higher_and_is_a_plain_file() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let output = run(grow("letters", "letters", &folder, SHORT));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let facts = summary(&folder);
    let accuracy = |side: &str, part: &str| facts[side][part]["accuracy"].as_f64().unwrap();
    assert!(accuracy("after", "val") > accuracy("before", "val"));
    assert!(accuracy("after", "test") > accuracy("before", "test") + 0.03);
    assert!(facts["parity"]["ort"].as_f64().unwrap() < 1e-5);
    assert_eq!(facts["before"]["parameters"], 714);
    // The grown file is an ordinary model: every command takes it, and it can be grown again.
    let model = folder.join("model.onnx");
    let check = run({
        let mut command = dendrite();
        command.arg("check").arg(&model);
        command
    });
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let evaluated = run({
        let mut command = dendrite();
        command.args(["evaluate", "--json"]).arg(&model).arg("--data").arg(repository("fixtures/letters/test.npz"));
        command
    });
    let evaluated: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let again = evaluated["metrics"]["accuracy"]["value"].as_f64().unwrap();
    assert!((again - accuracy("after", "test")).abs() < 1e-9);
    for file in ["config.toml", "plan.toml", "events.jsonl", "metrics.csv"] {
        assert!(folder.join(file).metadata().unwrap().len() > 0, "{file}");
    }
}

#[test]
fn where_nothing_is_better_the_input_comes_back_byte_for_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let options = ["--dendrites", "1", "--lr", "1e-12", "--epochs", "1", "--tries", "1", "--weight-decay", "0"];
    let output = run(grow("jv_cnn4", "japanese-vowels", &folder, &options));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (input, result) = (repository("models/jv_cnn4.onnx"), folder.join("model.onnx"));
    assert!(fs::read(input).unwrap() == fs::read(result).unwrap());
    let facts = summary(&folder);
    assert_eq!(facts["before"]["val"], facts["after"]["val"]);
}

#[test]
fn a_fixed_batch_file_goes_in_as_it_is_and_keeps_its_form() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let options = ["--dendrites", "1", "--lr", "1e-4", "--epochs", "3", "--tries", "1", "--method", "gd"];
    let output = run(grow("mnist8", "optdigits", &folder, &options));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let read = |path: &Path| dendrite_onnx::Model::open(path).unwrap();
    let (before, after) = (read(&repository("models/mnist8.onnx")), read(&folder.join("model.onnx")));
    assert_eq!(before.proto().ir_version, after.proto().ir_version);
    assert_eq!(before.proto().opset_import, after.proto().opset_import);
    let graph = |m: &dendrite_onnx::Model| m.proto().graph.clone().unwrap();
    assert_eq!(graph(&before).output, graph(&after).output);
    assert_eq!(graph(&before).input[0], graph(&after).input[0]);
}

#[test]
fn going_on_where_there_is_no_run_begins_anew_and_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let (model, data) = (repository("models/jv_cnn4.onnx"), repository("fixtures/japanese-vowels"));
    let mut command = dendrite();
    command.arg("grow").arg(model).args(["--resume", "--threads", "1"]).args(SHORT).arg("-o").arg(&folder);
    command.arg("--train").arg(data.join("train.npz")).arg("--val").arg(data.join("val.npz"));
    let output = run(command);
    assert_ne!(output.status.code(), Some(2), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("holds no run to go on from: it begins anew"), "{message}");
    assert!(folder.join("model.onnx").exists());
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("model.onnx"), b"precious").unwrap();
    let output = run(grow("jv_cnn4", "japanese-vowels", &folder, SHORT));
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("holds a model.onnx that is of no run") && message.contains("hint: "), "{message}");
    assert_eq!(fs::read(folder.join("model.onnx")).unwrap(), b"precious");
}

#[test]
fn data_that_do_not_fit_are_named_before_training() {
    let scratch = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--target", "labels"], &["train.npz", "no array 'labels'", "--target"]),
        (&["--map", "x=y"], &["train.npz", "no array 'y'", "--map"]),
        (&["--output", "z"], &["no output 'z'", "it has y"]),
        (&["--sites", "nothing*"], &["no site matches 'nothing*'", "--sites"]),
        (&["--max-parameters", "100"], &["already has 521 parameters"]),
        (&["--loss", "mse"], &["the target holds integers"]),
    ];
    for (index, (options, expected)) in cases.iter().enumerate() {
        let folder = scratch.path().join(index.to_string());
        let output = run(grow("jv_cnn4", "japanese-vowels", &folder, options));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {message}");
        for part in *expected {
            assert!(message.contains(part), "{options:?}: {message}");
        }
        assert!(!folder.exists(), "{options:?} left a folder behind");
    }
}

#[test]
fn insertion_of_no_dendrite_is_the_same_file() {
    let scratch = tempfile::tempdir().unwrap();
    for model in ["letters", "mnist8", "jv_cnn4", "jv_gru8"] {
        let (input, output) = (repository(&format!("models/{model}.onnx")), scratch.path().join(model));
        let done = run({
            let mut command = dendrite();
            command.arg("insert").arg(&input).arg("-o").arg(&output).args(["--dendrites", "0"]);
            command
        });
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(fs::read(input).unwrap() == fs::read(output).unwrap());
    }
}

#[test]
fn insertion_overwrites_what_it_is_told_to_and_never_its_own_input() {
    let scratch = tempfile::tempdir().unwrap();
    let (input, output) = (scratch.path().join("model.onnx"), scratch.path().join("out.onnx"));
    let model = fs::read(repository("models/letters.onnx")).unwrap();
    fs::write(&input, &model).unwrap();
    fs::write(&output, b"precious").unwrap();
    let insert = |to: &Path, more: &[&str]| {
        let mut command = dendrite();
        command.arg("insert").arg(&input).arg("-o").arg(to).args(more);
        run(command).status.code()
    };
    assert_eq!(insert(&output, &[]), Some(2));
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    assert_eq!(insert(&output, &["--force"]), Some(0));
    assert!(fs::read(&output).unwrap().len() > model.len());
    // However it is called.
    let folder = scratch.path().join("sub");
    fs::create_dir(&folder).unwrap();
    assert_eq!(insert(&folder.join("../model.onnx"), &["--force"]), Some(2));
    #[cfg(unix)]
    {
        let link = scratch.path().join("link.onnx");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        assert_eq!(insert(&link, &["--force"]), Some(2));
    }
    assert!(fs::read(&input).unwrap() == model);
}

#[test]
fn a_gain_of_the_fine_tune_alone_is_called_so_and_a_complete_run_is_not_run_again() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let data = repository("fixtures/letters");
    let told = |more: &[&str]| {
        let mut command = dendrite();
        command.arg("grow").arg(repository("models/letters.onnx")).arg("-o").arg(&folder).args(["--threads", "1"]);
        command.arg("--train").arg(data.join("train.npz")).arg("--val").arg(data.join("val.npz"));
        command.args(["--dendrites", "0", "--epochs", "40"]).args(more);
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (table, said) = told(&[]);
    assert!(table.contains("result, only fine-tuned "), "{table}");
    assert!(said.contains("no dendrites were kept: all of the gain is the fine-tune's"), "{said}");
    assert!(!said.contains("already complete") && !said.contains("hardly decide"), "{said}");
    let before = fs::read(folder.join("events.jsonl")).unwrap();
    let (again, said) = told(&["--resume"]);
    assert!(said.contains("is already complete: nothing of it is trained again"), "{said}");
    assert_eq!(again, table);
    assert_eq!(fs::read(folder.join("events.jsonl")).unwrap(), before);
}

#[test]
fn few_samples_of_validation_are_warned_of_and_a_refusal_says_why() {
    let scratch = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{},0.5,{},0.25", i % 7, i % 5) + &",0.1".repeat(12) + &format!(",{}", i % 26);
    let columns: Vec<String> = (0..16).map(|i| format!("c{i}")).collect();
    let table = |rows: std::ops::Range<usize>| {
        let lines: Vec<String> = rows.map(row).collect();
        format!("{},target\n{}\n", columns.join(","), lines.join("\n"))
    };
    let (train, val) = (scratch.path().join("train.csv"), scratch.path().join("val.csv"));
    fs::write(&train, table(0..60)).unwrap();
    let told = |rows: usize| {
        fs::write(&val, table(100..100 + rows)).unwrap();
        let mut command = dendrite();
        command.arg("grow").arg(repository("models/letters.onnx")).args(["--threads", "1", "--dendrites", "0"]);
        command.args(["--lr", "1e-12", "--epochs", "1", "--tries", "1", "--weight-decay", "0"]);
        command.arg("--train").arg(&train).arg("--val").arg(&val).arg("-o").arg(scratch.path().join(rows.to_string()));
        String::from_utf8(run(command).stderr).unwrap()
    };
    let few = told(10);
    assert!(few.contains("warning: 10 samples of --val can hardly decide"), "{few}");
    assert!(few.contains("not kept, it takes more than 1.645"), "{few}");
    assert!(!told(50).contains("can hardly decide"));
}

#[test]
fn a_plan_is_read_back_as_it_was_printed() {
    let scratch = tempfile::tempdir().unwrap();
    let printed = run({
        let mut command = dendrite();
        command.arg("plan").arg(repository("models/jv_cnn4.onnx")).args(["--dendrites", "2", "--exclude", "y"]);
        command
    });
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let file = scratch.path().join("plan.toml");
    fs::write(&file, &printed.stdout).unwrap();
    let folder = scratch.path().join("run");
    let options = ["--plan", file.to_str().unwrap(), "--epochs", "1", "--tries", "1", "--lr", "0.001"];
    let output = run(grow("jv_cnn4", "japanese-vowels", &folder, &options));
    assert_ne!(output.status.code(), Some(2), "{output:?}");
    let used = fs::read_to_string(folder.join("plan.toml")).unwrap();
    let strip = |text: &str| -> String {
        text.lines()
            .map(|l| l.split('#').next().unwrap().trim())
            .filter(|l| !l.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(strip(&used), strip(&String::from_utf8(printed.stdout).unwrap()));
}

#[test]
fn controls_stand_beside_the_result_and_say_which_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    let data = repository("fixtures/letters");
    let mut command = dendrite();
    command
        .arg("grow")
        .arg(repository("models/letters.onnx"))
        .args(["--threads", "1", "--controls", "all"])
        .args(SHORT);
    command.arg("--train").arg(data.join("train.npz")).arg("--val").arg(data.join("val.npz")).arg("-o").arg(&folder);
    let output = run(command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    let facts = summary(&folder);
    let parameters = |control: &str| facts["controls"][control]["parameters"].as_u64().unwrap();
    let after = facts["after"]["parameters"].as_u64().unwrap();
    assert_eq!(parameters("longer"), 714);
    assert!([714, after].contains(&parameters("sham")), "{}", parameters("sham"));
    // A unit of the hidden layer has 16 weights, a bias and 26 readers.
    assert!(parameters("wider").abs_diff(after) <= (16 + 1 + 26) / 2, "{} {after}", parameters("wider"));
    let note = facts["control_notes"]["wider"].as_str().unwrap();
    assert!(note.starts_with("units of mul_result 16 to "), "{note}");
    // From the first control on, every line of a run says whose it is.
    let begun = message.find("control longer: input: 714 parameters").unwrap();
    assert!(!message[..begun].contains("control"), "{message}");
    let lines =
        message[begun..].lines().filter(|line| line.contains("parameters, validation") || line.contains("kept"));
    assert!(lines.clone().count() >= 6 && lines.clone().all(|line| line.starts_with("control ")), "{message}");
}

/// A float32 array as numpy.save writes it.
fn npy(tensor: &dendrite_onnx::Tensor) -> Vec<u8> {
    let shape: String = tensor.shape().iter().map(|n| format!("{n},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(tensor.bytes());
    bytes
}

#[test]
fn batch_normalisation_trains_where_it_is_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, data) = (repository("fixtures/gradients/batch_norm_steps.onnx"), scratch.path().join("data"));
    let model = dendrite_onnx::Model::open(&path).unwrap();
    let tensor = |model: &dendrite_onnx::Model, name: &str| model.tensor(model.initializers()[name]).unwrap();
    let val = scratch.path().join("val");
    fs::create_dir(&data).unwrap();
    fs::create_dir(&val).unwrap();
    for name in ["x", "target"] {
        let all = tensor(&model, &format!("data/{name}"));
        fs::write(data.join(name).with_extension("npy"), npy(&all)).unwrap();
        // Validation on the very samples that train is refused: one is left out.
        let mut shape = all.shape().to_vec();
        let rows = all.bytes()[..all.bytes().len() / shape[0] * (shape[0] - 1)].to_vec();
        shape[0] -= 1;
        let some = dendrite_onnx::Tensor::new(all.element_type(), shape, rows).unwrap();
        fs::write(val.join(name).with_extension("npy"), npy(&some)).unwrap();
    }
    for (mode, told) in [("train", "2 of 2 train by the batch"), ("frozen", "kept its stored statistics")] {
        let folder = scratch.path().join(mode);
        let mut command = dendrite();
        command.arg("grow").arg(&path).arg("--train").arg(&data).arg("--val").arg(&val).arg("-o").arg(&folder);
        command.args(["--dendrites", "0", "--epochs", "20", "--lr", "0.05", "--threads", "1", "--batch-norm", mode]);
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(told), "{message}");
        assert_eq!(summary(&folder)["batch_norm"], mode);
        let result = dendrite_onnx::Model::open(folder.join("model.onnx")).unwrap();
        for name in ["m1", "v1", "m2", "v2"] {
            assert_eq!(tensor(&result, name) != tensor(&model, name), mode == "train", "{mode}: {name}");
        }
        assert!(fs::read_to_string(folder.join("report.html")).unwrap().contains("Batch normalisation"));
    }
}

/// Options that save memory train the same weights, but for the last digits.
#[test]
fn less_memory_is_the_same_training() {
    let scratch = tempfile::tempdir().unwrap();
    let losses = |name: &str, more: &[&str]| -> Vec<f64> {
        let folder = scratch.path().join(name);
        let short = ["--dendrites", "0", "--lr", "0.003", "--epochs", "2", "--optimizer", "sgd"];
        run(grow("jv_cnn4", "japanese-vowels", &folder, &[&short, more].concat()));
        let text = fs::read_to_string(folder.join("metrics.csv")).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let column = lines.next().unwrap().iter().position(|name| *name == "val_loss").unwrap();
        lines.map(|line| line[column].parse().unwrap()).collect()
    };
    let plain = losses("plain", &[]);
    assert_eq!(plain.len(), 2);
    for more in [&["--micro-batch", "5"][..], &["--recompute"], &["--recompute", "--set", "micro-batch=5"]] {
        let less = losses(&more.join(" "), more);
        assert_eq!(less.len(), 2);
        assert!(plain.iter().zip(&less).all(|(a, b)| (a - b).abs() < 1e-5 * a.abs().max(1.0)), "{more:?}: {less:?}");
    }
}
