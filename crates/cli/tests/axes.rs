//! Models whose samples do not lie on the first axis, or on none, or whose classes do not follow it, through the command a user types. Each is held against a model
//! that computes the same with samples first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "mistakes/make.rs"]
#[allow(dead_code)]
mod make;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use dendrite_onnx::{
    Attributes, Dim, ElementType, Model, Shape, Tensor,
    graph::tensor_type,
    proto::{ModelProto, NodeProto, ValueInfoProto},
};
use make::{Values, floats, integers, model, node, npz, weights};
use prost::Message;

const TRAIN: usize = 48;
const VAL: usize = 24;
const STEPS: usize = 5;

fn symbolic(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = |d: &&str| d.parse().map_or_else(|_| Dim::Symbol((*d).to_owned()), Dim::Known);
    let shape = Shape(dims.iter().map(dim).collect());
    let r#type = Some(tensor_type(ElementType::Float, Some(&shape)));
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..Default::default() }
}

/// Two layers over the last axis of `x`, which has the first two axes `axes`.
fn layers(axes: [&str; 2]) -> ModelProto {
    let [a, b] = axes;
    model(
        vec![symbolic("x", &[a, b, "3"])],
        vec![
            node("MatMul", &["x", "w1"], &["h"], Attributes::new()),
            node("Relu", &["h"], &["r"], Attributes::new()),
            node("MatMul", &["r", "w2"], &["y"], Attributes::new()),
        ],
        &[("w1", weights(&[3, 6])), ("w2", weights(&[6, 2]))],
        vec![symbolic("y", &[a, b, "2"])],
    )
}

/// Numbers that look random, of mean 0.
fn noise(i: usize) -> f32 {
    ((i * 7919 + 13) % 101) as f32 / 50.5 - 1.0
}

/// Rows with something to learn: products of two inputs.
fn sequences(rows: usize) -> [(&'static str, Values); 2] {
    let x = |i: usize| noise(i + rows);
    let target = move |i: usize| x(i / 2 * 3) * x(i / 2 * 3 + 1 + i % 2);
    [("x", floats(&[rows, STEPS, 3], x)), ("target", floats(&[rows, STEPS, 2], target))]
}

fn dendrite(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dendrite"));
    command.env("NO_COLOR", "1").stdin(Stdio::null()).current_dir(folder).args(arguments).output().unwrap()
}

/// Write a model and its data into a folder.
fn lay_out(folder: &Path, model: &ModelProto, data: impl Fn(usize) -> Vec<(&'static str, Values)>) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("model.onnx"), model.encode_to_vec()).unwrap();
    fs::write(folder.join("train.npz"), npz(&data(TRAIN))).unwrap();
    fs::write(folder.join("val.npz"), npz(&data(VAL))).unwrap();
}

/// `dendrite grow` with dendrites from the start, which must be kept; the summary.
fn grow(folder: &Path, options: &[&str]) -> serde_json::Value {
    let few = "grow model.onnx --train train.npz --val val.npz -o run --threads 1 --quiet --no-finetune-first --dendrites 1 --lr 0.01 \
               --epochs 12 --batch 16";
    let arguments: Vec<&str> = few.split(' ').filter(|word| !word.is_empty()).chain(options.iter().copied()).collect();
    let output = dendrite(&arguments, folder);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("run/summary.json")).unwrap()).unwrap();
    assert!(number(&facts["parity"]["ort"]) < 1e-5, "{facts}");
    assert!(number(&facts["kept_dendrites"]) > 0.0);
    facts
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn losses(facts: &serde_json::Value) -> [f64; 2] {
    ["before", "after"].map(|side| number(&facts[side]["val"]["loss"]))
}

/// Two runs that compute the same but for the last digits, which training magnifies.
fn assert_alike(a: &serde_json::Value, b: &serde_json::Value) {
    let ([before, after], [before_b, after_b]) = (losses(a), losses(b));
    assert!((before - before_b).abs() < 1e-6 * before, "{before} {before_b}");
    assert!((after - after_b).abs() < 1e-2 * after, "{after} {after_b}");
}

/// The file's inputs and outputs are those of the input.
fn assert_same_ends(folder: &Path) {
    let ends = |path: &str| {
        let graph = Model::open(folder.join(path)).unwrap().proto().graph.clone().unwrap();
        (graph.input, graph.output)
    };
    assert_eq!(ends("model.onnx"), ends("run/model.onnx"));
}

#[test]
fn a_model_with_time_first_learns_what_one_with_samples_first_does() {
    let scratch = tempfile::tempdir().unwrap();
    let [first, time, silent] = ["first", "time", "silent"].map(|name| scratch.path().join(name));
    lay_out(&first, &layers(["batch_size", "steps"]), |rows| sequences(rows).into());
    lay_out(&time, &layers(["steps", "batch_size"]), |rows| sequences(rows).into());
    lay_out(&silent, &layers(["a", "b"]), |rows| sequences(rows).into());
    let reference = grow(&first, &[]);
    assert_alike(&grow(&time, &[]), &reference);
    assert_alike(&grow(&silent, &["--batch-axis", "x=1"]), &reference);
    assert_same_ends(&time);
    let evaluated = dendrite(&["evaluate", "run/model.onnx", "--data", "val.npz", "--json"], &time);
    let evaluated: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let after = losses(&serde_json::from_slice(&fs::read(time.join("run/summary.json")).unwrap()).unwrap())[1];
    assert!((number(&evaluated["metrics"]["loss"]["value"]) - after).abs() < 1e-5 * after, "{evaluated} {after}");
}

/// Sequences with a class for each step, some of them padding.
fn tagged(rows: usize) -> Vec<(&'static str, Values)> {
    let [x, _] = sequences(rows);
    let at = |i: usize| noise(i + rows);
    let class = move |i: usize| if i.is_multiple_of(7) { -100 } else { i64::from(at(i * 3) * at(i * 3 + 1) > 0.0) };
    vec![x, ("target", integers(&[rows, STEPS], class))]
}

/// [`layers`] with what lies between its scores and the output `s`.
fn scored(last: &[NodeProto], dims: &[&str]) -> ModelProto {
    let mut model = layers(["batch_size", "steps"]);
    let graph = model.graph.as_mut().unwrap();
    graph.node.extend_from_slice(last);
    graph.output = vec![symbolic("s", dims)];
    model
}

#[test]
fn classes_on_the_last_axis_learn_what_those_behind_the_samples_do() {
    let scratch = tempfile::tempdir().unwrap();
    let perm = Attributes::new().with("perm", &[0i64, 2, 1][..]);
    let models = [
        ("behind", scored(&[node("Transpose", &["y"], &["s"], perm)], &["batch_size", "2", "steps"])),
        ("last", layers(["batch_size", "steps"])),
        ("time", layers(["steps", "batch_size"])),
        ("softmax", scored(&[node("Softmax", &["y"], &["s"], Attributes::new())], &["batch_size", "steps", "2"])),
    ];
    for (name, model) in &models {
        lay_out(&scratch.path().join(name), model, tagged);
    }
    let run = |name: &str| grow(&scratch.path().join(name), &["--ignore-index", "-100"]);
    let reference = run("behind");
    let accuracy = |facts: &serde_json::Value| number(&facts["after"]["val"]["accuracy"]);
    assert!(accuracy(&reference) > 0.6, "{reference}");
    for name in ["last", "time", "softmax"] {
        let facts = run(name);
        assert_alike(&facts, &reference);
        assert!((accuracy(&facts) - accuracy(&reference)).abs() < 0.02, "{name}: {facts}");
        let config = fs::read_to_string(scratch.path().join(name).join("run/config.toml")).unwrap();
        assert!(config.contains("class-axis = 2"), "{config}");
    }
}

/// What a run found out stands in its config.toml, which goes on with it.
#[test]
fn a_killed_run_goes_on_by_its_own_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    lay_out(scratch.path(), &layers(["batch_size", "steps"]), tagged);
    let data = ["grow", "model.onnx", "--train", "train.npz", "--val", "val.npz", "-o", "run"];
    let options = "--ignore-index -100 --threads 1 --quiet --epochs 100000 --patience 100000 --dendrites 0 --lr 1e-3 \
                   --checkpoint-every 0s";
    let mut command = Command::new(env!("CARGO_BIN_EXE_dendrite"));
    command.args(data).args(options.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.current_dir(scratch.path()).spawn().unwrap();
    let log = scratch.path().join("run/metrics.csv");
    while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let config = fs::read_to_string(scratch.path().join("run/config.toml")).unwrap();
    assert!(config.contains("class-axis = 2"), "{config}");
    let again = ["--config", "run/config.toml", "--resume", "--budget", "1s", "--quiet"];
    let resumed = dendrite(&[&data[..], &again].concat(), scratch.path());
    assert_ne!(resumed.status.code(), Some(2), "{resumed:?}");
    assert!(scratch.path().join("run/summary.json").exists());
}

#[test]
fn an_axis_of_classes_can_be_said_where_two_could_be_meant() {
    let scratch = tempfile::tempdir().unwrap();
    let square = |rows: usize| {
        let x = |i: usize| noise(i + rows);
        let class = move |i: usize| i64::from(x(i * 3) * x(i * 3 + 1) > 0.0);
        vec![("x", floats(&[rows, 2, 3], x)), ("target", integers(&[rows, 2], class))]
    };
    let [behind, last] = ["behind", "last"].map(|name| scratch.path().join(name));
    let perm = Attributes::new().with("perm", &[0i64, 2, 1][..]);
    lay_out(&behind, &scored(&[node("Transpose", &["y"], &["s"], perm)], &["batch_size", "2", "steps"]), square);
    let mut fixed = layers(["batch_size", "2"]);
    fixed.graph.as_mut().unwrap().output = vec![symbolic("y", &["batch_size", "2", "2"])];
    lay_out(&last, &fixed, square);
    let reference = grow(&behind, &[]);
    assert_alike(&grow(&last, &["--class-axis", "-1"]), &reference);
    let plain = dendrite(&["evaluate", "model.onnx", "--data", "val.npz", "--json"], &last);
    let plain: serde_json::Value = serde_json::from_slice(&plain.stdout).unwrap();
    // Taken over positions the loss is another.
    assert!((number(&plain["metrics"]["loss"]["value"]) - losses(&reference)[0]).abs() > 1e-3);
}

/// One number for each sample, without an axis of its own.
#[test]
fn an_output_of_one_axis_learns_as_one_of_two_does() {
    let scratch = tempfile::tempdir().unwrap();
    let rows = |rows: usize| {
        let x = |i: usize| noise(i + rows);
        vec![("x", floats(&[rows, 3], x)), ("target", floats(&[rows], |i| x(i * 3) * x(i * 3 + 1)))]
    };
    let column = |last: &[NodeProto], output: ValueInfoProto| {
        let mut nodes = vec![
            node("MatMul", &["x", "w1"], &["h"], Attributes::new()),
            node("Relu", &["h"], &["r"], Attributes::new()),
            node("MatMul", &["r", "w2"], &["y"], Attributes::new()),
        ];
        nodes.extend_from_slice(last);
        let weights = [("w1", weights(&[3, 6])), ("w2", weights(&[6, 1])), ("one", Tensor::int64s(&[1]))];
        model(vec![symbolic("x", &["n", "3"])], nodes, &weights, vec![output])
    };
    let squeezed = [node("Squeeze", &["y", "one"], &["s"], Attributes::new())];
    let [two, one] = ["two", "one"].map(|name| scratch.path().join(name));
    lay_out(&two, &column(&[], symbolic("y", &["n", "1"])), rows);
    lay_out(&one, &column(&squeezed, symbolic("s", &["n"])), rows);
    assert_alike(&grow(&one, &[]), &grow(&two, &[]));
}

/// A recurrent layer that starts from the input `h0`, made for one sample; time first from there on.
fn recurrent() -> ModelProto {
    let perm = Attributes::new().with("perm", &[1i64, 0, 2][..]);
    model(
        vec![symbolic("x", &["batch_size", "steps", "3"]), symbolic("h0", &["1", "1", "4"])],
        vec![
            node("Transpose", &["x"], &["t"], perm),
            node("RNN", &["t", "w", "r", "", "", "h0"], &["s", ""], Attributes::new().with("hidden_size", 4i64)),
            node("Squeeze", &["s", "one"], &["q"], Attributes::new()),
            node("MatMul", &["q", "v"], &["y"], Attributes::new()),
        ],
        &[
            ("w", weights(&[1, 4, 3])),
            ("r", weights(&[1, 4, 4])),
            ("v", weights(&[4, 2])),
            ("one", Tensor::int64s(&[1])),
        ],
        vec![symbolic("y", &["steps", "batch_size", "2"])],
    )
}

#[test]
fn a_state_made_for_one_sample_is_that_of_every_sample() {
    let scratch = tempfile::tempdir().unwrap();
    lay_out(scratch.path(), &recurrent(), |rows| {
        let state = ("h0", floats(&[1, 1, 4], |i| 0.3 - 0.2 * i as f32));
        sequences(rows).into_iter().chain([state]).collect()
    });
    // The copy whose state is spread is held against the file, sample for sample, before anything trains.
    let facts = grow(scratch.path(), &[]);
    assert!(losses(&facts)[1] < losses(&facts)[0]);
    assert_same_ends(scratch.path());
}

/// Rows of 5 vectors with their mean product as the target.
fn bags(rows: usize) -> Vec<(&'static str, Values)> {
    let x = |i: usize| noise(i + rows);
    let target = move |i: usize| {
        let products = (0..STEPS).map(|step| x((i / 2 * STEPS + step) * 3) * x((i / 2 * STEPS + step) * 3 + 1 + i % 2));
        products.sum::<f32>() / STEPS as f32
    };
    vec![("x", floats(&[rows, STEPS, 3], x)), ("target", floats(&[rows, 2], target))]
}

/// Two layers over vectors and the mean over them.
fn pooled(input: &[&str], output: &[&str]) -> ModelProto {
    let axis = Tensor::int64s(&[input.len() as i64 - 2]);
    let mean = Attributes::new().with("keepdims", 0i64);
    let mut nodes: Vec<NodeProto> = layers(["a", "b"]).graph.unwrap().node;
    nodes[2].output = vec!["z".to_owned()];
    nodes.push(node("ReduceMean", &["z", "axis"], &["y"], mean));
    let tensors = [("w1", weights(&[3, 6])), ("w2", weights(&[6, 2])), ("axis", axis)];
    let mut model = model(vec![symbolic("x", input)], nodes, &tensors, vec![symbolic("y", output)]);
    model.opset_import[0].version = Some(18);
    model
}

#[test]
fn whole_inputs_one_at_a_time_learn_what_batches_do() {
    let scratch = tempfile::tempdir().unwrap();
    let [batched, whole] = ["batched", "whole"].map(|name| scratch.path().join(name));
    lay_out(&batched, &pooled(&["batch", "n", "3"], &["batch", "2"]), bags);
    lay_out(&whole, &pooled(&["n", "3"], &["2"]), bags);
    let reference = grow(&batched, &["--connect", "layer", "--method", "gd"]);
    assert_alike(&grow(&whole, &["--one-at-a-time", "--connect", "layer", "--method", "gd"]), &reference);
    assert_same_ends(&whole);
    // Without being told so, the data do not fit.
    let refused = dendrite(&["grow", "model.onnx", "--train", "train.npz", "--val", "val.npz", "-o", "again"], &whole);
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("--one-at-a-time"), "{message}");
}

/// A model made for one sample, whose axis is gone when the scores are put together.
fn made_for_one() -> ModelProto {
    model(
        vec![symbolic("x", &["batch_size", "3"]), symbolic("shift", &["1", "1", "6"])],
        vec![
            node("Gemm", &["x", "w1"], &["h"], Attributes::new()),
            node("Relu", &["h"], &["r"], Attributes::new()),
            node("Unsqueeze", &["r", "zero"], &["u"], Attributes::new()),
            node("Concat", &["u", "shift"], &["c"], Attributes::new().with("axis", 2i64)),
            node("MatMul", &["c", "w2"], &["z"], Attributes::new()),
            node("Squeeze", &["z"], &["s"], Attributes::new()),
            node("Slice", &["s", "zero", "two"], &["y"], Attributes::new()),
        ],
        &[
            ("w1", weights(&[3, 6])),
            ("w2", weights(&[12, 4])),
            ("zero", Tensor::int64s(&[0])),
            ("two", Tensor::int64s(&[2])),
        ],
        vec![symbolic("y", &["2"])],
    )
}

#[test]
fn a_model_made_for_one_sample_is_passed_one() {
    let scratch = tempfile::tempdir().unwrap();
    lay_out(scratch.path(), &made_for_one(), |rows| {
        let x = |i: usize| noise(i + rows);
        vec![
            ("x", floats(&[rows, 3], x)),
            ("shift", floats(&[1, 1, 6], |i| 0.1 * i as f32)),
            ("target", floats(&[rows, 2], move |i| x(i / 2 * 3) * x(i / 2 * 3 + 1 + i % 2))),
        ]
    });
    let facts = grow(scratch.path(), &[]);
    assert!(losses(&facts)[1] < losses(&facts)[0]);
    assert_same_ends(scratch.path());
}

#[test]
fn a_batch_of_one_is_not_squeezed_away() {
    let scratch = tempfile::tempdir().unwrap();
    let pieces = |named: bool| {
        let mut nodes = layers(["N", "1"]).graph.unwrap().node;
        nodes[2].output = vec!["z".to_owned()];
        let axes: &[&str] = if named { &["z", "one"] } else { &["z"] };
        nodes.push(node("Squeeze", axes, &["y"], Attributes::new()));
        let tensors = [("w1", weights(&[3, 6])), ("w2", weights(&[6, 2])), ("one", Tensor::int64s(&[1]))];
        let folder = scratch.path().join(if named { "named" } else { "all" });
        let model = model(vec![symbolic("x", &["N", "1", "3"])], nodes, &tensors, vec![symbolic("y", &["N", "2"])]);
        lay_out(&folder, &model, |rows| {
            let x = |i: usize| noise(i + rows);
            let target = move |i: usize| x(i / 2 * 3) * x(i / 2 * 3 + 1 + i % 2);
            vec![("x", floats(&[rows, 1, 3], x)), ("target", floats(&[rows, 2], target))]
        });
        grow(&folder, &["--micro-batch", "1"])
    };
    assert_alike(&pieces(false), &pieces(true));
}

#[test]
fn a_sigmoid_whose_numbers_are_moved_afterwards_is_still_one() {
    let scratch = tempfile::tempdir().unwrap();
    let ended = |moved: bool| {
        let sigmoid = if moved { "p" } else { "y" };
        let mut nodes = layers(["N", "steps"]).graph.unwrap().node;
        nodes[2].output = vec!["z".to_owned()];
        nodes.push(node("Sigmoid", &["z"], &[sigmoid], Attributes::new()));
        if moved {
            nodes.push(node("Reshape", &["p", "shape"], &["y"], Attributes::new()));
        }
        let tensors = [("w1", weights(&[3, 6])), ("w2", weights(&[6, 2])), ("shape", Tensor::int64s(&[0, -1]))];
        let output: &[&str] = if moved { &["N", "10"] } else { &["N", "5", "2"] };
        model(vec![symbolic("x", &["N", "5", "3"])], nodes, &tensors, vec![symbolic("y", output)])
    };
    let loss = |moved: bool| {
        let folder = scratch.path().join(if moved { "moved" } else { "plain" });
        lay_out(&folder, &ended(moved), |rows| {
            let shape: &[usize] = if moved { &[rows, 10] } else { &[rows, 5, 2] };
            let [x, _] = sequences(rows);
            vec![x, ("target", floats(shape, |i| (noise(i) + 1.0) / 2.0))]
        });
        let evaluated = dendrite(&["evaluate", "model.onnx", "--data", "val.npz", "--json"], &folder);
        let facts: serde_json::Value = serde_json::from_slice(&evaluated.stdout).expect("facts");
        number(&facts["metrics"]["loss"]["value"])
    };
    let [moved, plain] = [true, false].map(loss);
    assert!((moved - plain).abs() < 1e-6 * plain, "{moved} {plain}");
}
