//! The commands that print facts: what they say, where, and with which exit code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output};

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn dendrite(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dendrite")).args(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(args: &[&str]) -> serde_json::Value {
    let output = dendrite(args);
    let text = stdout(&output);
    assert!(text.starts_with("{\n  \"schema_version\": 1,"), "{text}{}", stderr(&output));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn inspect_knows_shapes_and_costs() {
    let facts = json(&["inspect", &repository("models/letters.onnx"), "--json", "--layers"]);
    assert_eq!(facts["parameters"], 714);
    assert_eq!(facts["macs"], 672);
    assert_eq!(facts["inputs"][0]["shape"], "[batch, 16]");
    assert_eq!(facts["outputs"][1]["shape"], "[batch, 26]");
    assert_eq!(facts["opset"]["ai.onnx.ml"], 1);
    assert_eq!(facts["layers"].as_array().unwrap().len(), 13);
    let text = stdout(&dendrite(&["inspect", &repository("models/mnist8.onnx"), "--layers"]));
    assert!(text.contains("format      IR 3, opset ai.onnx 8"), "{text}");
    assert!(text.contains("[1, 16, 14, 14]"), "{text}");
    assert!(!text.contains('\x1b'), "no colour in a pipe");
}

#[test]
fn layers_are_a_table_that_adds_up() {
    let model = repository("models/jv_cnn4.onnx");
    let text = stdout(&dendrite(&["inspect", &model, "--layers", "--format", "csv"]));
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.rsplitn(5, ',').collect()).collect();
    let (header, total) = (&rows[0], rows.last().unwrap());
    assert_eq!(header[..4], ["MACs (%)", "MACs a sample", "parameters (%)", "parameters"]);
    for column in 0..4 {
        let sum: f64 = rows[1..rows.len() - 1].iter().map(|row| row[column].parse::<f64>().unwrap()).sum();
        let said: f64 = total[column].parse().unwrap();
        // Shares are rounded to a tenth.
        assert!((sum - said).abs() < if column % 2 == 0 { 0.5 } else { 1e-9 }, "{column}: {sum} {said}");
    }
    assert_eq!(total[3], "521");
    let text = stdout(&dendrite(&["inspect", &model, "--layers"]));
    assert!(text.contains("parameters (%)") && text.lines().last().unwrap().trim().starts_with("total"), "{text}");
}

#[test]
fn colour_is_there_when_asked_for() {
    let text = stdout(&dendrite(&["inspect", &repository("models/jv_cnn4.onnx"), "--color", "always"]));
    assert!(text.contains("\x1b[1mmodel"), "{text}");
}

#[test]
fn errors_have_a_hint_and_exit_2() {
    let output = dendrite(&["inspect", "nowhere.onnx"]);
    assert_eq!(code(&output), 2);
    assert!(output.stdout.is_empty());
    let text = stderr(&output);
    assert!(text.starts_with("error: nowhere.onnx: ") && text.contains("\nhint: "), "{text}");
    assert_eq!(text.matches("No such file").count(), usize::from(cfg!(unix)), "a cause is said once: {text}");
    assert_eq!(code(&dendrite(&["frobnicate"])), 2);
    assert_eq!(code(&dendrite(&["inspect", &repository("models/letters.onnx"), "--dim", "nothing=3"])), 2);
    assert_eq!(code(&dendrite(&["--help"])), 0);
}

#[test]
fn a_missing_library_is_an_error_with_a_remedy() {
    let model = repository("models/letters.onnx");
    let output = Command::new(env!("CARGO_BIN_EXE_dendrite"))
        .args(["compare", &model, &model])
        .env("ORT_DYLIB_PATH", "nowhere")
        .output()
        .unwrap();
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    assert!(text.contains("ORT_DYLIB_PATH names no ONNX Runtime library"), "{text}");
    assert!(text.contains("dendrite runtime install"), "{text}");
}

#[test]
fn check_lists_findings_and_exits_1() {
    assert_eq!(code(&dendrite(&["check", &repository("models/mnist8.onnx")])), 0);
    let output = dendrite(&["check", &repository("fixtures/hostile/cycle.onnx")]);
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).contains("nodes depend on their own output"), "{}", stdout(&output));
    let facts = json(&["check", &repository("fixtures/hostile/dangling-input.onnx"), "--json"]);
    assert_eq!(facts["valid"], false);
    assert_eq!(facts["findings"][0]["severity"], "error");
}

#[test]
fn a_model_equals_itself_in_every_runtime() {
    let runtimes = if cfg!(feature = "tract") { "ort,tract" } else { "ort" };
    for model in ["letters", "mnist8", "jv_cnn4", "jv_gru8"] {
        let path = repository(&format!("models/{model}.onnx"));
        let facts = json(&["compare", &path, &path, "--runtime", runtimes, "--json"]);
        assert_eq!(facts["passes"], true, "{model}: {facts}");
    }
    if cfg!(feature = "tract") {
        let path = repository("models/letters.onnx");
        let output = dendrite(&["compare", &path, &path, "--runtime", "tract"]);
        assert!(stderr(&output).contains("tract has no ai.onnx.ml.Scaler: it starts at 'variable'"));
    }
}

#[test]
fn a_changed_weight_is_found_where_it_acts() {
    use dendrite_onnx::{Graph, Model, Tensor};
    use prost::Message;
    let path = repository("models/jv_cnn4.onnx");
    let mut graph = Graph::from_model(&Model::open(&path).unwrap()).unwrap();
    let conv = graph.nodes().filter(|(_, n)| n.is("Conv")).nth(1).unwrap().1.clone();
    let weight = conv.input(1).unwrap();
    let mut values = graph.constant(weight).unwrap().to_f32().unwrap();
    values[0] += 0.5;
    let shape = graph.constant(weight).unwrap().shape().to_vec();
    graph.set_constant(weight, Tensor::from_f32(&shape, &values));
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.onnx");
    std::fs::write(&changed, graph.to_model().unwrap().encode_to_vec()).unwrap();

    let args = ["compare", &path, changed.to_str().unwrap(), "--json"];
    assert_eq!(code(&dendrite(&args)), 1);
    let facts = json(&args);
    assert_eq!(facts["first_divergence"][0]["value"], graph.name_of(conv.output(0).unwrap()));
    assert_eq!(code(&dendrite(&[&args[..3], &["--tolerance", "1e9"]].concat())), 0);
}

#[test]
fn models_of_other_inputs_cannot_be_compared() {
    let output = dendrite(&["compare", &repository("models/jv_cnn4.onnx"), &repository("models/letters.onnx")]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("input 'X' of the second model is no input of the first"));
}

#[test]
fn status_says_where_the_library_is() {
    // Whatever ran before in this test has fetched one.
    let model = repository("models/letters.onnx");
    assert_eq!(code(&dendrite(&["compare", &model, &model])), 0);
    let facts = json(&["runtime", "status", "--json"]);
    assert_eq!(facts["devices"][0], "cpu");
    assert!(facts["library"]["path"].as_str().unwrap().contains("onnxruntime"));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_dendrite"))
        .args(["inspect", &repository("models/mnist8.onnx"), "--layers"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

/// The narrowest sets and the widest alike: an export has to run in the second runtime as it is.
#[cfg(feature = "tract")]
#[test]
fn inserted_models_run_in_tract() {
    let scratch = tempfile::tempdir().unwrap();
    for model in ["letters", "mnist8", "jv_cnn4", "jv_gru8"] {
        let input = repository(&format!("models/{model}.onnx"));
        for options in [&["--connect", "layer", "--width", "1"][..], &["--connect", "layer", "--dendrites", "2"], &[]] {
            let file = scratch.path().join("grown.onnx");
            let grown = file.to_str().unwrap();
            let inserted = dendrite(&[&["insert", &input, "-o", grown, "--force"], options].concat());
            assert_eq!(code(&inserted), 0, "{model} {options:?}: {}", stderr(&inserted));
            let facts = json(&["compare", &input, grown, "--runtime", "ort,tract", "--json"]);
            assert_eq!(facts["passes"], true, "{model} {options:?}: {facts}");
        }
    }
}

#[test]
fn a_number_below_zero_is_answered_by_its_option() {
    let output = dendrite(&["grow", &repository("models/letters.onnx"), "--lr", "-1"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("'-1' is not a number above 0"), "{}", stderr(&output));
}

#[test]
fn shells_and_man_know_the_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = stdout(&dendrite(&["completions", shell]));
        assert!(text.contains("dendrite") && text.contains("max-parameters"), "{shell}");
    }
    assert!(stdout(&dendrite(&["man"])).starts_with(".ie"));
    let page = stdout(&dendrite(&["man", "grow"]));
    assert!(page.contains("max\\-parameters") && page.contains("dendrite\\-grow"), "{page}");
    assert_eq!(code(&dendrite(&["man", "nothing"])), 2);
}

#[test]
fn a_plan_tells_what_memory_a_step_takes() {
    let model = repository("models/mnist8.onnx");
    let facts = json(&["plan", &model, "--json", "--batch", "32"]);
    let memory = &facts["step_memory"];
    assert_eq!((&memory["batch"], &memory["micro_batch"]), (&32.into(), &8.into()));
    let bytes = |which: &str, what: &str| memory[which][what].as_u64().unwrap();
    let parts = ["weights", "optimizer", "gradients", "activations"];
    assert_eq!(parts.iter().map(|part| bytes("plain", part)).sum::<u64>(), bytes("plain", "total"));
    // The weights are held by two steps in turn at least, AdamW has two moments for each.
    assert!(bytes("plain", "weights") >= 8 * facts["parameters_after"].as_u64().unwrap());
    assert_eq!(bytes("plain", "optimizer"), 8 * bytes("plain", "gradients"));
    assert!(bytes("with_micro_batch", "activations") < bytes("plain", "activations"));
    assert!(bytes("with_recompute", "activations") <= bytes("plain", "activations"));
    let twice = json(&["plan", &model, "--json", "--batch", "64"]);
    assert!(twice["step_memory"]["plain"]["activations"].as_u64().unwrap() > bytes("plain", "activations") * 3 / 2);
    let text = stdout(&dendrite(&["plan", &model, "--batch", "32"]));
    assert!(text.contains("# memory of a training step of 32 samples: about "), "{text}");
    assert!(text.contains("# with --micro-batch 8 about "), "{text}");
}

#[test]
fn a_plan_of_no_dendrite_says_so() {
    let text = stdout(&dendrite(&["plan", &repository("models/jv_cnn4.onnx"), "--dendrites", "0"]));
    assert!(text.contains("# no dendrites are asked for (--dendrites 0): the plan is empty"), "{text}");
    let text = stdout(&dendrite(&["plan", &repository("models/jv_cnn4.onnx")]));
    assert!(!text.contains("no dendrites are asked for"), "{text}");
}

#[test]
fn every_option_that_is_printed_is_described() {
    let printed: toml::Table = stdout(&dendrite(&["grow", "--print-config"])).parse().unwrap();
    let document = std::fs::read_to_string(repository("docs/run-folder.md")).unwrap();
    let missing: Vec<_> = printed.keys().filter(|key| !document.contains(&format!("\n| `{key}` |"))).collect();
    assert!(printed.len() > 20 && missing.is_empty(), "{missing:?}");
}

#[test]
fn a_plan_of_a_step_that_cannot_be_divided_says_so() {
    let model = repository("fixtures/gradients/batch_norm_steps.onnx");
    let printed = dendrite(&["plan", &model, "--set", "batch-norm=train"]);
    assert_eq!(code(&printed), 0, "{}", stderr(&printed));
    let text = stdout(&printed);
    assert!(text.contains("with --recompute about") && text.contains("cannot be divided"), "{text}");
}
