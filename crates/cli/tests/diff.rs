//! `dendrite diff` through the command a user types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Model, Patch, Shape, Tensor,
    bodies::{Place, Step},
    proto::ModelProto,
};
use prost::Message;
use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn model(name: &str) -> PathBuf {
    repository(&format!("models/{name}.onnx"))
}

fn dendrite(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dendrite"));
    command.args(args).current_dir(folder).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// What `diff a b` prints, and its exit code.
fn diff(folder: &Path, args: &[&str]) -> (String, i32) {
    let output = dendrite(folder, &[&["diff"], args].concat());
    assert!(output.stderr.is_empty(), "{output:?}");
    (String::from_utf8(output.stdout.clone()).unwrap(), code(&output))
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let (text, _) = diff(folder, &[args, &["--json"]].concat());
    assert!(text.starts_with("{\n  \"schema_version\": 1,"), "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Copies of a bundled model as `a.onnx` and, edited, as `b.onnx`.
fn edited(name: &str, edit: impl FnOnce(&mut ModelProto)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model(name), folder.path().join("a.onnx")).unwrap();
    let mut proto = Model::open(model(name)).unwrap().proto().clone();
    edit(&mut proto);
    fs::write(folder.path().join("b.onnx"), proto.encode_to_vec()).unwrap();
    folder
}

fn insert(folder: &Path, input: &str, output: &str, options: &[&str]) {
    let done = dendrite(folder, &[&["insert", input, "-o", output], options].concat());
    assert_eq!(code(&done), 0, "{done:?}");
}

fn grow(folder: &Path, model: &str, run: &str, options: &[&str]) {
    let data = |part: &str| repository(&format!("fixtures/letters/{part}.npz")).display().to_string();
    let (train, val) = (data("train"), data("val"));
    let args = ["grow", model, "--train", &train, "--val", &val, "-o", run, "--threads", "1", "--quiet"];
    let short = ["--method", "gd", "--lr", "0.01", "--epochs", "12"];
    let done = dendrite(folder, &[&args[..], &short, options].concat());
    assert_eq!(code(&done), 0, "{done:?}");
}

#[test]
fn the_same_file_and_the_same_model_are_equal() {
    // The weights in the other of the two fields that may hold them, and the nodes in another order.
    let folder = edited("letters", |proto| {
        let graph = proto.graph.as_mut().unwrap();
        let w = &mut graph.initializer[0];
        let tensor = Tensor::from_proto(w).unwrap();
        match w.raw_data.take() {
            Some(_) => w.float_data = tensor.to_f32().unwrap(),
            None => *w = tensor.to_proto(w.name()),
        }
        graph.node.reverse();
    });
    let same = "the files are the same, byte for byte\n".to_owned();
    assert_eq!(diff(folder.path(), &["a.onnx", "a.onnx"]), (same, 0));
    let equal = "the files hold the same model, written in another form\n".to_owned();
    assert_eq!(diff(folder.path(), &["a.onnx", "b.onnx"]), (equal, 0));
    let facts = json(folder.path(), &["a.onnx", "a.onnx"]);
    assert_eq!((&facts["equal"], &facts["identical"]), (&Value::Bool(true), &Value::Bool(true)));
}

#[test]
fn inserted_dendrites_are_told_as_what_was_inserted() {
    let variants: [&[&str]; 4] = [
        &["--connect", "neuron"],
        &["--connect", "neuron", "--dendrites", "3"],
        &["--connect", "layer", "--width", "4"],
        &["--connect", "layer", "--width", "4", "--dendrites", "3", "--activation", "tanh"],
    ];
    for name in ["letters", "mnist8", "jv_cnn4", "jv_gru8"] {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(model(name), folder.path().join("a.onnx")).unwrap();
        for options in variants {
            let done = dendrite(
                folder.path(),
                &[&["insert", "a.onnx", "-o", "b.onnx", "--force", "--json"], options].concat(),
            );
            let inserted: Value = serde_json::from_slice(&done.stdout).unwrap();
            let facts = json(folder.path(), &["a.onnx", "b.onnx"]);
            let added = facts["dendrites"]["added"].as_array().unwrap();
            let parameters: u64 = added.iter().map(|g| g["parameters"].as_u64().unwrap()).sum();
            assert_eq!(Value::from(parameters), inserted["parameters_added"], "{name} {options:?}");
            if options[1] == "neuron" {
                let sets = if options.contains(&"3") { 3 } else { 1 };
                assert!(added.iter().all(|g| g["sets"].as_array().unwrap().len() == sets), "{name}: {facts}");
            }
            assert!(added.iter().all(|g| g["untrained"] == true && g["sets"][0]["connection"] == options[1]));
            assert!(options[1] == "neuron" || added.iter().all(|g| g["sets"][0]["width"] == 4), "{facts}");
            for nothing in ["format", "metadata", "inputs", "outputs", "nodes", "constants", "other"] {
                assert_eq!(facts[nothing], Value::Array(Vec::new()), "{name} {options:?}: {nothing}");
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model("letters"), folder.path().join("a.onnx")).unwrap();
    insert(folder.path(), "a.onnx", "b.onnx", variants[1]);
    let told = "b.onnx is a.onnx with dendrites at 2 sites (2,394 parameters)\n\
                dendrites   + add_result: 3 dendrites a neuron (relu), 912 parameters, untrained\n\
                dendrites   + add_result1: 3 dendrites a neuron (relu), 1,482 parameters, untrained\n";
    assert_eq!(diff(folder.path(), &["a.onnx", "b.onnx"]), (told.to_owned(), 1));
    let (back, _) = diff(folder.path(), &["b.onnx", "a.onnx"]);
    assert!(back.starts_with("a.onnx is b.onnx without dendrites at 2 sites (2,394 parameters)\n"), "{back}");
}

#[test]
fn a_grown_model_and_one_grown_again_are_told_with_their_lineage() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    fs::copy(model("letters"), folder.join("a.onnx")).unwrap();
    grow(folder, "a.onnx", "once", &["--connect", "layer", "--width", "8", "--dendrites", "1"]);
    let (text, exit) = diff(folder, &["a.onnx", "once/model.onnx"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(exit, 1);
    assert_eq!(
        lines[..4],
        [
            "once/model.onnx is a.onnx with dendrites at 2 sites (608 parameters), 4 of 4 weights changed",
            "lineage     it says it was grown from this very file by gd, seed 0",
            "dendrites   + add_result: 8 dendrites for the layer (relu), 264 parameters",
            "dendrites   + add_result1: 8 dendrites for the layer (relu), 344 parameters",
        ]
    );
    assert!(lines[4].starts_with("weights     4 of 4 changed, by 0."), "{text}");
    assert!(lines[4].ends_with(" of their size in the median; -v lists them") && lines.len() == 5, "{text}");
    let (verbose, _) = diff(folder, &["a.onnx", "once/model.onnx", "-v"]);
    assert!(verbose.contains("\n coefficient   float32[16, 16]       256    100 % "), "{verbose}");

    grow(folder, "once/model.onnx", "twice", &["--connect", "neuron", "--dendrites", "2", "--seed", "5"]);
    let (text, _) = diff(folder, &["once/model.onnx", "twice/model.onnx"]);
    assert!(text.contains("\nlineage     it says it was grown from this very file by gd, seed 5\n"), "{text}");
    assert!(text.contains("\ndendrites   + add_result/main: 2 dendrites a neuron (relu), "), "{text}");
    assert!(text.contains("\ndendrites   + add_result/dendrite_0/"), "dendrites on dendrites: {text}");
    assert!(text.contains(" weights changed\n") && !text.contains("\nnode"), "{text}");
    let facts = json(folder, &["a.onnx", "twice/model.onnx"]);
    assert_eq!(facts["lineage"]["parent_is_a"], false);
    assert_eq!(facts["nodes"], Value::Array(Vec::new()), "both growths are recognised");
    let (text, _) = diff(folder, &["a.onnx", "twice/model.onnx"]);
    assert!(text.contains("it says it was grown from another file (SHA-256 "), "{text}");
}

#[test]
fn a_changed_weight_is_told_by_its_size() {
    let folder = edited("letters", |proto| {
        let w = proto.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.name() == "intercepts1").unwrap();
        let mut values = Tensor::from_proto(w).unwrap().to_f32().unwrap();
        values[3] += 0.5;
        *w = Tensor::from_f32(&[1, 26], &values).to_proto("intercepts1");
    });
    let (text, exit) = diff(folder.path(), &["a.onnx", "b.onnx"]);
    assert_eq!(exit, 1);
    assert!(text.starts_with("b.onnx is a.onnx with 1 of 4 weights changed\nweights     1 of 4 changed\n"), "{text}");
    assert!(text.contains("\n intercepts1  float32[1, 26]        26      4 % "), "{text}");
    let facts = json(folder.path(), &["a.onnx", "b.onnx"]);
    assert_eq!(facts["weights"]["changed"], 1);
    assert_eq!(facts["constants"][0]["values"]["changed"], 1);
}

#[test]
fn ordinary_changes_are_listed_by_kind() {
    let folder = edited("jv_cnn4", |proto| {
        proto.ir_version = Some(9);
        let graph = proto.graph.as_mut().unwrap();
        let relu = graph.node.iter().position(|n| n.output[0] == "/f/f.2/Relu_output_0").unwrap();
        let read = graph.node.remove(relu).input[0].clone();
        let reader = graph.node.iter_mut().find(|n| n.input[0] == "/f/f.2/Relu_output_0").unwrap();
        reader.input[0] = read;
    });
    let told = "b.onnx differs from a.onnx: 1 change of format, 2 nodes\n\
                format      ~ IR version: 8 -> 9\n\
                node        - /f/f.2/Relu_output_0: Relu /f/f.2/Relu\n\
                node        ~ /f/f.3/Conv_output_0: Conv /f/f.3/Conv\n\
                node            input 0: /f/f.2/Relu_output_0 -> /f/f.0/Conv_output_0\n";
    assert_eq!(diff(folder.path(), &["a.onnx", "b.onnx"]), (told.to_owned(), 1));
}

#[test]
fn dendrites_by_name_alone_are_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    fs::copy(model("jv_cnn4"), folder.join("a.onnx")).unwrap();
    insert(folder, "a.onnx", "b.onnx", &["--connect", "layer"]);
    let mut proto = Model::open(folder.join("b.onnx")).unwrap().proto().clone();
    let nodes = &mut proto.graph.as_mut().unwrap().node;
    nodes.iter_mut().find(|n| n.output[0] == "y/dendrite_0/activation").unwrap().op_type = Some("Abs".to_owned());
    fs::write(folder.join("b.onnx"), proto.encode_to_vec()).unwrap();
    let (text, exit) = diff(folder, &["a.onnx", "b.onnx"]);
    assert_eq!(exit, 1);
    assert!(text.starts_with("b.onnx differs from a.onnx: dendrites at 3 sites ("), "{text}");
    assert!(text.contains("\ndendrites   ? y: nodes named like dendrites that are wired otherwise\n"), "{text}");
    assert!(text.contains("\nnode        + y/dendrite_0/activation: Abs y/dendrite_0/activation\n"), "{text}");
    assert!(text.contains("\nconstant    + y/dendrite_0/weight: float32["), "{text}");
}

#[test]
fn any_two_models_can_be_held_against_each_other() {
    let scratch = tempfile::tempdir().unwrap();
    let paths: Vec<String> = ["letters", "mnist8", "jv_gru8"].map(|name| model(name).display().to_string()).to_vec();
    for a in &paths {
        for b in &paths {
            assert_eq!(diff(scratch.path(), &[a, b]).1, i32::from(a != b));
        }
    }
}

/// y = linear(a branch of x w, of which each has its own w).
fn branched() -> Graph {
    let weight = |graph: &mut Graph, name: &str, shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
        graph.add_constant(name, Tensor::from_f32(shape, &numbers))
    };
    let rows = |width: usize| Shape(vec![Dim::Symbol("n".to_owned()), Dim::Known(width)]);
    let branch = |op: &str| {
        let mut body = Graph::new("branch", 17);
        let x = body.capture("x", Some(ElementType::Float), Some(rows(4)));
        let w = weight(&mut body, "w", &[4, 3]);
        let h = body.op("MatMul", &format!("{op}/h"), &[x, w], Attributes::new());
        let h = body.op(op, &format!("{op}/y"), &[h], Attributes::new());
        body.set_type(h, Some(ElementType::Float), Some(rows(3)));
        body.outputs = vec![h];
        body.to_body().unwrap()
    };
    let mut graph = Graph::new("branched", 17);
    let x = graph.add_input("x", ElementType::Float, rows(4));
    let largest = graph.op("ReduceMax", "largest", &[x], Attributes::new().with("keepdims", 0));
    let bound = graph.add_constant("bound", Tensor::from_f32(&[], &[1.0]));
    let small = graph.op("Less", "small", &[largest, bound], Attributes::new());
    let branches = Attributes::new().with("then_branch", branch("Tanh")).with("else_branch", branch("Sin"));
    let h = graph.op("If", "h", &[small], branches);
    let (w, b) = (weight(&mut graph, "head.w", &[3, 2]), weight(&mut graph, "head.b", &[2]));
    let y = graph.op("Gemm", "y", &[h, w, b], Attributes::new());
    graph.set_type(y, Some(ElementType::Float), Some(rows(2)));
    graph.outputs = vec![y];
    graph
}

#[test]
fn weights_of_sub_graphs_count_and_are_told_by_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.onnx"), branched().to_model().unwrap().encode_to_vec()).unwrap();
    let model = Model::open(path("a.onnx")).unwrap();
    let step = Step { output: "h".to_owned(), attribute: "then_branch".to_owned() };
    let mut patch = Patch::new();
    patch.replace_in_body(&Place::new(&[step], "w"), Tensor::from_f32(&[4, 3], &[0.5; 12]));
    fs::write(path("b.onnx"), patch.apply(&model).unwrap()).unwrap();
    let (told, code) = diff(folder.path(), &["a.onnx", "b.onnx"]);
    assert_eq!(code, 1);
    assert!(told.starts_with("b.onnx is a.onnx with 1 of 5 weights changed\n"), "{told}");
    assert!(told.contains("h/then_branch/w"), "{told}");
    for command in ["inspect", "plan"] {
        let output = dendrite(folder.path(), &[command, "a.onnx", "--json"]);
        let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = &facts[if command == "plan" { "parameters_before" } else { "parameters" }];
        assert_eq!(*count, 2 * 12 + 6 + 2, "{command}: {facts}");
    }
}
