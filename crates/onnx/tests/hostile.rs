//! Broken and hostile files are refused or reported, each with its reason, and never crash the reader.
//!
//! The files under `fixtures/hostile` are generated here; `UPDATE_FIXTURES=1 cargo test -p dendrite-onnx --test hostile`
//! rewrites them and their index.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use common::{float, node, sample, with_unknown_fields};
use dendrite_onnx::{
    Attributes, Graph, Model, Patch, Severity, check,
    proto::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
        TensorProto,
    },
};
use proptest::prelude::*;
use prost::Message;

/// What finds the fault.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Open,
    Error,
    Warning,
}

struct Case {
    name: &'static str,
    what: &'static str,
    by: By,
    /// Part of the message.
    says: &'static str,
    bytes: Vec<u8>,
}

fn case(name: &'static str, what: &'static str, by: By, says: &'static str, bytes: impl Into<Vec<u8>>) -> Case {
    Case { name, what, by, says, bytes: bytes.into() }
}

fn edited(edit: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut proto = sample();
    edit(&mut proto);
    proto.encode_to_vec()
}

fn graph(edit: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    edited(|m| edit(m.graph.as_mut().unwrap()))
}

fn weight(edit: impl FnOnce(&mut TensorProto)) -> Vec<u8> {
    graph(|g| edit(&mut g.initializer[0]))
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }
}

fn external(name: &str, location: &str, offset: &str, length: &str) -> TensorProto {
    TensorProto {
        dims: vec![2, 2],
        data_type: Some(1),
        name: Some(name.to_owned()),
        data_location: Some(1),
        external_data: vec![entry("location", location), entry("offset", offset), entry("length", length)],
        ..Default::default()
    }
}

fn external_weight(location: &str, offset: &str, length: &str) -> Vec<u8> {
    graph(|g| g.initializer[0] = external("w", location, offset, length))
}

fn nested(levels: usize) -> Vec<u8> {
    let mut inner = GraphProto { name: Some("g".into()), ..Default::default() };
    for _ in 0..levels {
        let mut holder = node("If", &["x"], "y");
        let branch =
            AttributeProto { name: Some("then_branch".into()), r#type: Some(5), g: Some(inner), ..Default::default() };
        holder.attribute = vec![branch];
        inner = GraphProto { name: Some("g".into()), node: vec![holder], ..Default::default() };
    }
    edited(|m| m.graph = Some(inner))
}

fn function(name: &str, calls: &str) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![NodeProto { domain: Some("local".into()), ..node(calls, &["a"], "b") }],
        opset_import: vec![OperatorSetIdProto { domain: Some("local".into()), version: Some(1) }],
        ..Default::default()
    }
}

fn cases() -> Vec<Case> {
    use By::{Error, Open, Warning};
    let whole = sample().encode_to_vec();
    let mut not_text = whole.clone();
    let at = not_text.windows(6).position(|w| w == b"MatMul").unwrap();
    not_text[at] = 0xff;
    let with_function = |functions: Vec<FunctionProto>| edited(|m| m.functions = functions);
    vec![
        case("empty", "no byte at all", Open, "the file is empty", ""),
        case("text", "not protobuf", Open, "not an ONNX model", "this is not a model\n"),
        case(
            "lfs-pointer",
            "a Git LFS pointer",
            Open,
            "Git LFS pointer",
            "version https://git-lfs.github.com/spec/v1\n",
        ),
        case("truncated", "the end is missing", Open, "longer than what remains", &whole[..whole.len() * 6 / 10]),
        case("no-graph", "a model without a graph", Open, "no graph", edited(|m| m.graph = None)),
        case("endless-number", "a varint of 16 bytes", Open, "too long", [0xff; 16]),
        case(
            "length-bomb",
            "a string of 2^60 bytes",
            Open,
            "longer than",
            *b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x10a",
        ),
        case(
            "group-bomb",
            "a thousand open groups",
            Open,
            "nested too deeply",
            [0xa3; 1].map(|_| [0xf3u8, 0x3f]).concat().repeat(500),
        ),
        case("deep-nesting", "30 graphs in one another", Open, "nested too deeply", nested(30)),
        case("not-utf8", "an operator that is not text", Open, "not UTF-8", not_text),
        case(
            "huge-dims",
            "dimensions whose product overflows",
            Error,
            "overflows",
            weight(|t| t.dims = vec![1 << 40, 1 << 40]),
        ),
        case(
            "missing-data",
            "4 TiB declared, 16 bytes there",
            Error,
            "the file holds 16",
            weight(|t| t.dims = vec![1 << 40]),
        ),
        case("negative-dims", "a negative dimension", Error, "negative dimension -2", weight(|t| t.dims = vec![-2, 2])),
        case(
            "wrong-raw-length",
            "15 bytes for 4 floats",
            Error,
            "takes 16 bytes",
            weight(|t| t.raw_data = Some(vec![0; 15].into())),
        ),
        case("unknown-type", "element type 99", Error, "unknown element type 99", weight(|t| t.data_type = Some(99))),
        case(
            "two-storages",
            "raw and typed elements",
            Error,
            "more than one field",
            weight(|t| t.float_data = vec![0.0; 4]),
        ),
        case(
            "cycle",
            "two nodes read one another",
            Error,
            "depend on their own output",
            graph(|g| {
                g.node.push(node("Neg", &["b"], "a"));
                g.node.push(node("Neg", &["a"], "b"));
            }),
        ),
        case("disorder", "a node before its input", Error, "read before it is computed", graph(|g| g.node.swap(0, 2))),
        case(
            "dangling-input",
            "a value from nowhere",
            Error,
            "'nothing' is defined nowhere",
            graph(|g| g.node[2].input[0] = "nothing".into()),
        ),
        case(
            "undefined-output",
            "an output nobody computes",
            Error,
            "'z' is defined nowhere",
            graph(|g| g.output[0].name = Some("z".into())),
        ),
        case(
            "duplicate-value",
            "two nodes write one value",
            Error,
            "'h' is defined more than once",
            graph(|g| {
                g.node[2].output[0] = "h".into();
            }),
        ),
        case(
            "duplicate-initializer",
            "two initializers of one name",
            Error,
            "another initializer",
            graph(|g| {
                g.initializer.push(g.initializer[0].clone());
            }),
        ),
        case(
            "unnamed-initializer",
            "an initializer without a name",
            Error,
            "it has no name",
            weight(|t| t.name = None),
        ),
        case(
            "external-traversal",
            "external data above the folder",
            Error,
            "leaves the model's folder",
            external_weight("../../../../etc/passwd", "0", "16"),
        ),
        case(
            "external-absolute",
            "external data at an absolute path",
            Error,
            "leaves the model's folder",
            external_weight("/etc/passwd", "0", "16"),
        ),
        case(
            "external-missing",
            "external data that is not there",
            Error,
            "nowhere.bin",
            external_weight("nowhere.bin", "0", "16"),
        ),
        case("external-folder", "external data in a folder", Error, "names no file", external_weight(".", "0", "16")),
        case(
            "external-past-end",
            "external data past the end",
            Error,
            "reach past its 24 bytes",
            external_weight("data.bin", "16", "16"),
        ),
        case(
            "external-overflow",
            "an offset that overflows",
            Error,
            "reach past",
            external_weight("data.bin", "18446744073709551615", "16"),
        ),
        case(
            "external-not-a-number",
            "an offset that is no number",
            Error,
            "not a number",
            external_weight("data.bin", "-8", "16"),
        ),
        case(
            "external-short",
            "external data of the wrong length",
            Error,
            "takes 16 bytes",
            external_weight("data.bin", "0", "12"),
        ),
        case(
            "external-overlap",
            "external tensors that overlap",
            Warning,
            "shares bytes",
            graph(|g| {
                g.initializer = vec![external("w", "data.bin", "0", "16"), external("u", "data.bin", "8", "16")];
            }),
        ),
        case(
            "future-ir",
            "IR version 99",
            Error,
            "IR version 99 is not supported",
            edited(|m| m.ir_version = Some(99)),
        ),
        case(
            "future-opset",
            "opset 99",
            Error,
            "opset 99 is not supported",
            edited(|m| m.opset_import[0].version = Some(99)),
        ),
        case(
            "no-import",
            "a domain that is not imported",
            Error,
            "'com.example' is not imported",
            graph(|g| {
                g.node[0].domain = Some("com.example".into());
            }),
        ),
        case(
            "ir3-not-input",
            "IR 3 with an initializer that is no input",
            Error,
            "must also be an input",
            edited(|m| m.ir_version = Some(3)),
        ),
        case(
            "attribute-type",
            "an attribute of another type than it says",
            Error,
            "its type is INT",
            graph(|g| g.node[1].attribute[0].r#type = Some(2)),
        ),
        case(
            "recursive-function",
            "functions that call one another",
            Error,
            "calls itself",
            with_function(vec![function("f", "g"), function("g", "f")]),
        ),
        case(
            "shadowing",
            "a sub-graph that hides an outer value",
            Warning,
            "hides one",
            graph(|g| {
                let mut holder = node("If", &["x"], "c");
                let branch =
                    GraphProto { name: Some("b".into()), node: vec![node("Neg", &["x"], "h")], ..Default::default() };
                holder.attribute = vec![AttributeProto {
                    name: Some("then_branch".into()),
                    r#type: Some(5),
                    g: Some(branch),
                    ..Default::default()
                }];
                g.node.push(holder);
            }),
        ),
        case(
            "outer-scope-dangling",
            "a sub-graph that reads from nowhere",
            Error,
            "'nothing' is defined nowhere",
            graph(|g| {
                let mut holder = node("If", &["x"], "c");
                let branch = GraphProto {
                    name: Some("b".into()),
                    node: vec![node("Add", &["h", "nothing"], "q")],
                    ..Default::default()
                };
                holder.attribute = vec![AttributeProto {
                    name: Some("then_branch".into()),
                    r#type: Some(5),
                    g: Some(branch),
                    ..Default::default()
                }];
                g.node.push(holder);
            }),
        ),
        case(
            "duplicate-metadata",
            "a metadata key twice",
            Warning,
            "more than once",
            edited(|m| m.metadata_props.push(entry("origin", "there"))),
        ),
        case("unknown-fields", "fields no version of ONNX has", Warning, "field 1010", with_unknown_fields(&sample())),
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hostile")
}

fn index(cases: &[Case]) -> String {
    let mut text = String::from(
        "# Hostile files\n\nGenerated by `crates/onnx/tests/hostile.rs`. Opening refuses a file, or `check` reports an error or a \
         warning\nwhose message contains the last column. `data.bin` is the external data of some.\n\n\
         | file | what is wrong | found by | message |\n|---|---|---|---|\n",
    );
    for case in cases {
        let by = match case.by {
            By::Open => "open",
            By::Error => "check, error",
            By::Warning => "check, warning",
        };
        text += &format!("| {}.onnx | {} | {by} | {} |\n", case.name, case.what, case.says);
    }
    text
}

#[test]
fn fixtures_are_current() {
    let cases = cases();
    let mut files: Vec<(String, Vec<u8>)> =
        cases.iter().map(|c| (format!("{}.onnx", c.name), c.bytes.clone())).collect();
    files.push(("data.bin".to_owned(), float(&[6], 1.0).bytes().to_vec()));
    files.push(("README.md".to_owned(), index(&cases).into_bytes()));
    for (name, bytes) in &files {
        let path = folder().join(name);
        if env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(&path, bytes).unwrap();
        }
        assert!(fs::read(&path).is_ok_and(|b| b == *bytes), "{name} is stale; run with UPDATE_FIXTURES=1");
        assert!(bytes.len() < 2048 || name == "README.md", "{name} takes {} bytes", bytes.len());
    }
    assert_eq!(fs::read_dir(folder()).unwrap().count(), files.len(), "a fixture without a case");
}

#[test]
fn each_file_is_refused_or_reported() {
    for case in cases() {
        let name = case.name;
        match Model::open(folder().join(format!("{name}.onnx"))) {
            Err(error) => {
                assert!(case.by == By::Open, "{name}: {error}");
                assert!(error.to_string().contains(case.says), "{name}: {error}");
                assert!(error.to_string().contains(name), "{name}: the message names the file: {error}");
                assert!(error.hint().is_some(), "{name}");
            }
            Ok(model) => {
                let findings = check(&model);
                let severity = if case.by == By::Warning { Severity::Warning } else { Severity::Error };
                let hit = findings.iter().find(|f| f.severity == severity && f.message.contains(case.says));
                assert!(case.by != By::Open && hit.is_some(), "{name}: {findings:#?}");
                assert!(findings.iter().all(|f| !f.place.is_empty()), "{name}: {findings:#?}");
                let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
                assert!(case.by != By::Warning || errors == 0, "{name}: {findings:#?}");
                exercise(&model);
            }
        }
    }
}

#[test]
fn a_valid_model_has_no_finding() {
    assert_eq!(check(&Model::from_bytes(sample().encode_to_vec()).unwrap()), []);
    let inside = graph(|g| {
        let mut holder = node("If", &["x"], "c");
        let mut branch =
            GraphProto { name: Some("b".into()), node: vec![node("Add", &["h", "own"], "q")], ..Default::default() };
        branch.initializer = vec![float(&[1], 1.0).to_proto("own")];
        let mut attributes = Attributes::new().as_slice().to_vec();
        attributes.push(AttributeProto {
            name: Some("then_branch".into()),
            r#type: Some(5),
            g: Some(branch),
            ..Default::default()
        });
        holder.attribute = attributes;
        g.node.push(holder);
    });
    assert_eq!(check(&Model::from_bytes(inside).unwrap()), []);
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret.bin"), [0; 16]).unwrap();
    symlink(outside.path().join("secret.bin"), inside.path().join("link.bin")).unwrap();
    symlink(outside.path(), inside.path().join("folder")).unwrap();
    for location in ["link.bin", "folder/secret.bin", "./folder/./secret.bin"] {
        let path = inside.path().join("model.onnx");
        fs::write(&path, external_weight(location, "0", "16")).unwrap();
        let model = Model::open(&path).unwrap();
        let error = model.tensor(&model.graph().initializer[0]).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(error.hint().unwrap().contains("cp -rL"));
        assert!(check(&model).iter().any(|f| f.message.contains("symbolic link")));
    }
}

#[test]
fn a_missing_file_and_a_folder_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = Model::open(folder.path().join("none.onnx")).unwrap_err();
    assert!(error.to_string().contains("none.onnx") && error.hint() == Some("check the path"), "{error}");
    assert!(Model::open(folder.path()).is_err());
}

/// Everything that reads a model whose bytes nobody vouches for. Errors are fine, panics are not.
fn exercise(model: &Model) {
    check(model);
    let _ = model.support();
    if let Ok(graph) = Graph::from_model(model) {
        let _ = graph.topological_order();
        let _ = graph.to_model();
    }
    let mut patch = Patch::new();
    patch.set_metadata("k", "v").add_initializer("new", float(&[1], 0.0)).require_ir(9).require_opset("", 17);
    patch.insert_nodes_before(0, vec![node("Neg", &["x"], "new_y")]);
    let _ = patch.apply(model).map(|bytes| Model::from_bytes_in(bytes, ".").map(|m| drop(check(&m))));
    for tensor in &model.graph().initializer {
        if let Ok(contents) = model.tensor(tensor) {
            let zeros = vec![0; contents.bytes().len()];
            if let Ok(zeros) = dendrite_onnx::Tensor::new(contents.element_type(), contents.shape().to_vec(), zeros) {
                let _ = Patch::new().replace_initializer(tensor.name(), zeros).apply(model);
            }
        }
    }
}

/// Bytes with something of everything: typed and external tensors, sub-graphs, functions, unknown fields.
fn rich() -> Vec<u8> {
    let mut proto = sample();
    proto.functions = vec![function("f", "g"), function("g", "f")];
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.push(TensorProto {
        raw_data: None,
        float_data: vec![1.0; 4],
        name: Some("t".into()),
        ..graph.initializer[0].clone()
    });
    graph.initializer.push(external("e", "data.bin", "0", "16"));
    graph.value_info.push(common::value("h", &[1, 2]));
    let mut holder = node("If", &["x"], "c");
    let branch = GraphProto { name: Some("b".into()), node: vec![node("Add", &["h", "k"], "q")], ..Default::default() };
    holder.attribute = vec![AttributeProto {
        name: Some("then_branch".into()),
        r#type: Some(5),
        g: Some(branch),
        ..Default::default()
    }];
    graph.node.push(holder);
    with_unknown_fields(&proto)
}

/// More with `PROPTEST_CASES`.
fn case_count() -> u32 {
    env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: case_count(), failure_persistence: None, ..Default::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in prop::option::weighted(0.1, any::<prop::sample::Index>())) {
        let mut bytes = rich();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(model) = Model::from_bytes_in(bytes, folder()) {
            exercise(&model);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(model) = Model::from_bytes_in(bytes, folder()) {
            exercise(&model);
        }
    }
}
