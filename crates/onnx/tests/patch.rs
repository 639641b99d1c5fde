//! Patches change what they name and nothing else; what they write is read by an independent reader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::{float, node, reread, sample, value, with_unknown_fields};
use dendrite_onnx::{
    Error, Graph, Model, Patch, Tensor,
    bodies::{Place, Step},
    file,
    proto::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto},
};
use prost::Message;

fn model(proto: &ModelProto) -> Model {
    Model::from_bytes(proto.encode_to_vec()).unwrap()
}

#[test]
fn an_empty_patch_is_the_identity() {
    let bytes = with_unknown_fields(&sample());
    let model = Model::from_bytes(bytes.clone()).unwrap();
    assert_eq!(Patch::new().apply(&model).unwrap(), bytes);
    assert_eq!(model.unknown_fields().len(), 4);
}

#[test]
fn untouched_bytes_stay() {
    let bytes = with_unknown_fields(&sample());
    let model = Model::from_bytes(bytes.clone()).unwrap();
    let mut patch = Patch::new();
    patch.set_metadata("origin", "elsewhere").replace_initializer("w", float(&[2, 2], 7.0));
    let once = Model::from_bytes(patch.apply(&model).unwrap()).unwrap();
    assert_eq!(once.unknown_fields(), model.unknown_fields());
    let mut back = Patch::new();
    back.set_metadata("origin", "here").replace_initializer("w", float(&[2, 2], 1.0));
    assert_eq!(back.apply(&once).unwrap(), bytes);
}

#[test]
fn nodes_are_inserted_renamed_and_replaced() {
    let model = model(&sample());
    let mut patch = Patch::new();
    patch
        .rename_node_output(0, 0, "h_main")
        .insert_nodes_after(0, vec![node("Tanh", &["h_main"], "t"), node("Add", &["h_main", "t"], "h")])
        .insert_nodes_before(2, vec![node("Neg", &["s"], "n")])
        .insert_nodes_before(3, vec![node("Identity", &["y"], "z")])
        .replace_node(2, node("Sigmoid", &["n"], "y"));
    let bytes = patch.apply(&model).unwrap();
    let ops: Vec<(String, Vec<String>)> =
        reread(&bytes).graph.node.iter().map(|n| (n.op_type.clone(), n.output.clone())).collect();
    let expected = [("MatMul", "h_main"), ("Tanh", "t"), ("Add", "h"), ("Constant", "k")];
    let expected: Vec<_> = expected.iter().map(|(op, out)| ((*op).to_owned(), vec![(*out).to_owned()])).collect();
    assert_eq!(ops[..4], expected);
    assert_eq!(
        ops.iter().map(|(op, _)| op.as_str()).collect::<Vec<_>>(),
        ["MatMul", "Tanh", "Add", "Constant", "Neg", "Sigmoid", "Identity"]
    );
}

/// An input reads another value, everything else of its node stays, whether the node is edited, replaced or renamed as well.
#[test]
fn inputs_are_redirected() {
    let model = model(&sample());
    let before = reread(model.bytes()).graph;
    let mut patch = Patch::new();
    patch
        .insert_nodes_before(0, vec![node("Neg", &["x"], "n")])
        .redirect_node_input(0, 0, "n")
        .rename_node_output(0, 0, "h_main")
        .insert_nodes_after(0, vec![node("Abs", &["h_main"], "h")])
        .replace_node(2, node("Add", &["h", "s"], "y"))
        .redirect_node_input(2, 1, "k");
    let after = reread(&patch.apply(&model).unwrap()).graph;
    let mut expected = before.node[0].clone();
    (expected.input[0], expected.output[0]) = ("n".to_owned(), "h_main".to_owned());
    assert_eq!(after.node[1], expected);
    assert_eq!((after.node[4].input.clone(), after.node[4].op_type.as_str()), (vec!["h".into(), "k".into()], "Add"));
    assert!(after.node[3] == before.node[1]);
}

#[test]
fn new_initializers_metadata_and_versions() {
    let model = model(&sample());
    let mut patch = Patch::new();
    patch
        .add_initializer("v", float(&[3], 0.0))
        .add_value_info(ValueInfoProto { name: Some("h".into()), ..Default::default() })
        .set_metadata("dendrite.lineage", "1")
        .set_metadata("origin", "changed")
        .require_ir(9)
        .require_opset("", 16)
        .require_opset("com.example", 2);
    let read = reread(&patch.apply(&model).unwrap());
    assert_eq!(read.ir_version, 9);
    let opsets: Vec<_> = read.opset_import.iter().map(|o| (o.domain.clone(), o.version)).collect();
    assert_eq!(opsets, [(String::new(), 17), ("com.example".to_owned(), 2)]);
    let names: Vec<_> = read.graph.initializer.iter().map(|t| t.name.clone()).collect();
    assert_eq!(names, ["w", "v"]);
    assert_eq!(read.graph.input.len(), 1, "only IR 3 lists initializers as inputs");
    let metadata: Vec<_> = read.metadata_props.iter().map(|e| (e.key.clone(), e.value.clone())).collect();
    assert_eq!(metadata, [("origin".into(), "changed".into()), ("dendrite.lineage".into(), "1".into())]);
}

#[test]
fn in_ir_3_new_initializers_are_inputs_too() {
    let mut proto = sample();
    proto.ir_version = Some(3);
    let mut patch = Patch::new();
    patch.add_initializer("v", float(&[3], 0.0));
    let read = reread(&patch.apply(&model(&proto)).unwrap());
    let inputs: Vec<_> = read.graph.input.iter().map(|i| i.name.clone()).collect();
    assert_eq!(inputs, ["x", "v"]);
}

#[test]
fn constants_are_replaced_in_every_form() {
    use dendrite_onnx::{Attributes, attributes::AttributeValue, graph::constant_node_tensor};
    let forms: [(&str, AttributeValue, Tensor); 5] = [
        ("value", Tensor::from_f32(&[1], &[1.0]).into(), Tensor::from_f32(&[1], &[2.0])),
        ("value_float", 1.0f32.into(), Tensor::from_f32(&[], &[2.0])),
        ("value_floats", vec![1.0f32, 2.0].into(), Tensor::from_f32(&[2], &[3.0, 4.0])),
        ("value_int", 1i64.into(), Tensor::from_i64(&[], &[-5])),
        ("value_ints", vec![1i64, 2].into(), Tensor::int64s(&[3, -4])),
    ];
    for (name, old, new) in forms {
        let mut proto = sample();
        proto.graph.as_mut().unwrap().node[1].attribute = Attributes::new().with(name, old).as_slice().to_vec();
        let before = model(&proto);
        let original = constant_node_tensor(&before.graph().node[1], &before).unwrap().unwrap();
        let mut patch = Patch::new();
        patch.replace_constant("k", new.clone());
        let after = Model::from_bytes(patch.apply(&before).unwrap()).unwrap();
        assert_eq!(constant_node_tensor(&after.graph().node[1], &after).unwrap(), Some(new), "{name}");
        let mut back = Patch::new();
        back.replace_constant("k", original);
        assert_eq!(back.apply(&after).unwrap(), before.bytes().to_vec(), "{name}");
    }
}

#[test]
fn contents_stay_in_their_field() {
    let proto = |data_type: i32, fill: &dyn Fn(&mut TensorProto)| {
        let mut t =
            TensorProto { dims: vec![2], data_type: Some(data_type), name: Some("w".into()), ..Default::default() };
        t.doc_string = Some("kept".into());
        fill(&mut t);
        t
    };
    let tensors = [
        proto(1, &|t| t.float_data = vec![1.0, -2.0]),
        proto(11, &|t| t.double_data = vec![1.0, -2.0]),
        proto(7, &|t| t.int64_data = vec![1, -2]),
        proto(6, &|t| t.int32_data = vec![1, -2]),
        proto(10, &|t| t.int32_data = vec![0x3c00, 0xc000]),
        proto(16, &|t| t.int32_data = vec![0x3f80, 0xc000]),
        proto(3, &|t| t.int32_data = vec![1, -2]),
        proto(12, &|t| t.uint64_data = vec![1, 4_000_000_000]),
        proto(13, &|t| t.uint64_data = vec![1, u64::MAX]),
        proto(8, &|t| t.string_data = vec!["a".into(), "b".into()]),
        proto(1, &|t| t.raw_data = Some(vec![0; 8].into())),
    ];
    for old in tensors {
        let mut whole = sample();
        let graph = whole.graph.as_mut().unwrap();
        graph.initializer.insert(0, TensorProto { name: Some("other".into()), ..old.clone() });
        graph.initializer[1] = old.clone();
        let before = model(&whole);
        let original = before.tensor(&old).unwrap();
        let new = if let Some(strings) = original.strings() {
            let reversed: Vec<_> = strings.iter().rev().cloned().collect();
            Tensor::from_proto(&TensorProto { string_data: reversed, ..old.clone() }).unwrap()
        } else {
            let mut bytes = original.bytes().to_vec();
            let half = bytes.len() / 2;
            bytes.rotate_left(half);
            bytes[0] ^= 1;
            Tensor::new(original.element_type(), vec![2], bytes).unwrap()
        };
        let mut patch = Patch::new();
        patch.replace_initializer("w", new.clone());
        let after = Model::from_bytes(patch.apply(&before).unwrap()).unwrap();
        let stored = after.initializers()["w"];
        assert_eq!(after.tensor(stored).unwrap(), new, "{old:?}");
        assert_eq!(stored.raw_data.is_some(), old.raw_data.is_some());
        assert_eq!(stored.doc_string(), "kept");
        let mut back = Patch::new();
        back.replace_initializer("w", original);
        assert_eq!(back.apply(&after).unwrap(), before.bytes().to_vec(), "{old:?}");
    }
}

#[test]
fn unpacked_numbers_stay_unpacked() {
    // name "w", type float, dims [2] and float_data as two fields of their own
    let tensor = b"\x08\x02\x10\x01\x25\0\0\x80\x3f\x25\0\0\0\x40\x42\x01w";
    let mut graph = b"\x2a\x11".to_vec();
    graph.extend_from_slice(tensor);
    let mut bytes = vec![0x08, 0x08, 0x3a, graph.len() as u8];
    bytes.extend_from_slice(&graph);
    let before = Model::from_bytes(bytes.clone()).unwrap();
    let mut patch = Patch::new();
    patch.replace_initializer("w", Tensor::from_f32(&[2], &[3.0, 4.0]));
    let after = patch.apply(&before).unwrap();
    assert_eq!(after.len(), bytes.len());
    let mut back = Patch::new();
    back.replace_initializer("w", Tensor::from_f32(&[2], &[1.0, 2.0]));
    assert_eq!(back.apply(&Model::from_bytes(after).unwrap()).unwrap(), bytes);
}

#[test]
fn a_graph_in_pieces_is_one_graph() {
    let whole = sample();
    let mut second = whole.clone();
    let mut first = ModelProto { graph: whole.graph.clone(), ..Default::default() };
    let graph = first.graph.as_mut().unwrap();
    graph.node.truncate(1);
    graph.output.clear();
    graph.input.clear();
    graph.initializer.clear();
    second.graph.as_mut().unwrap().node.remove(0);
    let mut bytes = first.encode_to_vec();
    bytes.extend(second.encode_to_vec());
    let model = Model::from_bytes(bytes).unwrap();
    assert_eq!(model.graph().node, whole.graph.as_ref().unwrap().node);
    let mut patch = Patch::new();
    patch
        .insert_nodes_after(0, vec![node("Tanh", &["h"], "t")])
        .insert_nodes_before(3, vec![node("Neg", &["y"], "z")])
        .add_initializer("v", float(&[1], 1.0))
        .replace_initializer("w", float(&[2, 2], 3.0));
    let after = Model::from_bytes(patch.apply(&model).unwrap()).unwrap();
    let ops: Vec<&str> = after.graph().node.iter().map(|n| n.op_type()).collect();
    assert_eq!(ops, ["MatMul", "Tanh", "Constant", "Add", "Neg"]);
    assert_eq!(after.tensor(after.initializers()["w"]).unwrap(), float(&[2, 2], 3.0));
    assert!(after.initializers().contains_key("v"));
}

#[test]
fn edits_that_do_not_fit_are_refused() {
    let model = model(&sample());
    let refused = |edit: &dyn Fn(&mut Patch)| {
        let mut patch = Patch::new();
        edit(&mut patch);
        let error = patch.apply(&model).unwrap_err();
        assert!(matches!(error, Error::Edit { .. }), "{error}");
        assert!(error.hint().is_some());
        error.to_string()
    };
    assert!(
        refused(&|p| {
            p.replace_initializer("nobody", float(&[1], 0.0));
        })
        .contains("'nobody'")
    );
    assert!(
        refused(&|p| {
            p.replace_initializer("w", float(&[4], 0.0));
        })
        .contains("float32[2, 2]")
    );
    assert!(
        refused(&|p| {
            p.replace_constant("h", float(&[1], 0.0));
        })
        .contains("no Constant")
    );
    assert!(
        refused(&|p| {
            p.rename_node_output(9, 0, "a");
        })
        .contains("no node 9")
    );
    assert!(
        refused(&|p| {
            p.rename_node_output(0, 1, "a");
        })
        .contains("no output 1")
    );
    assert!(
        refused(&|p| {
            p.redirect_node_input(0, 2, "a");
        })
        .contains("no input 2")
    );
    assert!(
        refused(&|p| {
            p.add_initializer("h", float(&[1], 0.0));
        })
        .contains("'h' would be defined twice")
    );
    assert!(
        refused(&|p| {
            p.insert_nodes_after(0, vec![node("Neg", &["x"], "y")]);
        })
        .contains("'y'")
    );
}

/// The sample and z = If(c): y + inner, where `inner` is made by `nodes` or an initializer of the branch.
fn branched(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> ModelProto {
    let branch = |nodes: Vec<NodeProto>, initializers: Vec<TensorProto>| {
        let sum = node("Add", &["y", "inner"], "sum");
        GraphProto {
            name: Some("branch".into()),
            node: nodes.into_iter().chain([sum]).collect(),
            initializer: initializers,
            output: vec![value("sum", &[1, 2])],
            ..Default::default()
        }
    };
    let other = branch(vec![], vec![float(&[2], 9.0).to_proto("inner")]);
    let mut choice = node("If", &["c"], "z");
    choice.attribute = dendrite_onnx::Attributes::new()
        .with("then_branch", branch(nodes, initializers))
        .with("else_branch", other)
        .as_slice()
        .to_vec();
    let mut proto = sample();
    proto.graph.as_mut().unwrap().node.push(choice);
    proto
}

fn inner() -> Place {
    let step = Step { output: "z".into(), attribute: "then_branch".into() };
    Place::new(&[step], "inner")
}

/// What a model holds at [`inner`].
fn held(model: &Model) -> Tensor {
    let mut graph = Graph::from_model(model).unwrap();
    let id = graph.hoist(&inner()).unwrap();
    assert_eq!(graph.name_of(id), "z/then_branch/inner");
    graph.constant(id).unwrap().clone()
}

#[test]
fn constants_of_sub_graphs_are_replaced_in_every_form() {
    use dendrite_onnx::{Attributes, attributes::AttributeValue};
    let forms: [(&str, AttributeValue, Tensor); 3] = [
        ("value", float(&[2], 1.0).into(), float(&[2], 2.0)),
        ("value_float", 1.0f32.into(), float(&[], 2.0)),
        ("value_floats", vec![1.0f32, 1.0].into(), float(&[2], 2.0)),
    ];
    let mut models = vec![(branched(vec![], vec![float(&[2], 1.0).to_proto("inner")]), float(&[2], 2.0))];
    for (name, old, new) in forms {
        let mut constant = node("Constant", &[], "inner");
        constant.attribute = Attributes::new().with(name, old).as_slice().to_vec();
        models.push((branched(vec![constant], vec![]), new));
    }
    for (proto, new) in models {
        let before = model(&proto);
        let old = held(&before);
        let mut patch = Patch::new();
        patch.replace_in_body(&inner(), old.clone());
        assert_eq!(patch.apply(&before).unwrap(), before.bytes().to_vec(), "the same contents");
        patch.replace_in_body(&inner(), new.clone()).replace_initializer("w", float(&[2, 2], 5.0));
        let after = Model::from_bytes(patch.apply(&before).unwrap()).unwrap();
        assert_eq!(held(&after), new);
        assert_eq!(after.tensor(after.initializers()["w"]).unwrap(), float(&[2, 2], 5.0));
        let mut back = Patch::new();
        back.replace_in_body(&inner(), old).replace_initializer("w", float(&[2, 2], 1.0));
        assert_eq!(back.apply(&after).unwrap(), before.bytes().to_vec());
        // Together with other edits of the node.
        let mut both = Patch::new();
        both.replace_in_body(&inner(), new.clone()).rename_node_output(3, 0, "renamed").redirect_node_input(3, 0, "d");
        let after = Model::from_bytes(both.apply(&before).unwrap()).unwrap();
        let choice = &after.graph().node[3];
        assert_eq!((choice.output[0].as_str(), choice.input[0].as_str()), ("renamed", "d"));
        let mut named = Patch::new();
        named.rename_node_output(3, 0, "z").redirect_node_input(3, 0, "c");
        assert_eq!(held(&Model::from_bytes(named.apply(&after).unwrap()).unwrap()), new);
    }
}

#[test]
fn a_sub_graph_in_pieces_is_one_graph() {
    let whole = branched(vec![node("Neg", &["y"], "unused")], vec![float(&[2], 1.0).to_proto("inner")]);
    // The branch in two fields of its attribute, a field that ONNX does not have between them.
    let put = |out: &mut Vec<u8>, number: u8, message: &[u8]| {
        out.push(number << 3 | 2);
        prost::encoding::encode_varint(message.len() as u64, out);
        out.extend_from_slice(message);
    };
    let mut proto = whole.clone();
    let graph = proto.graph.as_mut().unwrap();
    let mut choice = graph.node.pop().unwrap();
    let mut attribute = choice.attribute.remove(0);
    let mut first = attribute.g.take().unwrap();
    let second = GraphProto { node: first.node.split_off(1), ..Default::default() };
    let mut pieces = attribute.encode_to_vec();
    put(&mut pieces, 6, &first.encode_to_vec());
    pieces.extend_from_slice(b"\x92\x3f\x02\x01\x02");
    put(&mut pieces, 6, &second.encode_to_vec());
    let mut bytes = choice.encode_to_vec();
    put(&mut bytes, 5, &pieces);
    let mut inside = graph.encode_to_vec();
    put(&mut inside, 1, &bytes);
    proto.graph = None;
    let mut bytes = proto.encode_to_vec();
    put(&mut bytes, 7, &inside);
    let before = Model::from_bytes(bytes).unwrap();
    let mut patch = Patch::new();
    patch.replace_in_body(&inner(), float(&[2], 2.0));
    let after = Model::from_bytes(patch.apply(&before).unwrap()).unwrap();
    assert_eq!((held(&before), held(&after)), (float(&[2], 1.0), float(&[2], 2.0)));
    let mut back = Patch::new();
    back.replace_in_body(&inner(), float(&[2], 1.0));
    assert_eq!(back.apply(&after).unwrap(), before.bytes().to_vec());
}

#[test]
fn places_that_are_not_there_are_refused() {
    let model = model(&branched(vec![], vec![float(&[2], 1.0).to_proto("inner")]));
    let refused = |place: &Place, tensor: Tensor| {
        let mut patch = Patch::new();
        patch.replace_in_body(place, tensor);
        patch.apply(&model).unwrap_err().to_string()
    };
    let step = |output: &str, attribute: &str| Step { output: output.into(), attribute: attribute.into() };
    assert!(refused(&inner(), float(&[3], 0.0)).contains("'z/then_branch/inner' is float32[2]"));
    let nobody = Place::new(&inner().steps, "nobody");
    assert!(refused(&nobody, float(&[2], 0.0)).contains("no constant 'z/then_branch/nobody'"));
    for wrong in [step("y", "then_branch"), step("z", "body")] {
        assert!(refused(&Place::new(&[wrong], "inner"), float(&[2], 0.0)).contains("no constant"));
    }
    assert!(refused(&Place::new(&[], "w"), float(&[2, 2], 0.0)).contains("no constant 'w'"));
    let mut patch = Patch::new();
    patch.replace_in_body(&inner(), float(&[2], 2.0)).replace_node(3, node("Neg", &["y"], "z"));
    assert!(patch.apply(&model).unwrap_err().to_string().contains("node 3 is replaced"));
}

fn external_model(folder: &std::path::Path) -> Model {
    let mut proto = sample();
    let reference = |name: &str, offset: usize| {
        let entry = |k: &str, v: String| StringStringEntryProto { key: Some(k.into()), value: Some(v) };
        TensorProto {
            dims: vec![2, 2],
            data_type: Some(1),
            name: Some(name.into()),
            data_location: Some(1),
            external_data: vec![
                entry("location", "data/weights.bin".into()),
                entry("offset", offset.to_string()),
                entry("length", "16".into()),
            ],
            ..Default::default()
        }
    };
    proto.graph.as_mut().unwrap().initializer = vec![reference("w", 64), reference("u", 0)];
    fs::create_dir_all(folder.join("data")).unwrap();
    let mut data = vec![0xab; 100];
    data[64..80].copy_from_slice(float(&[2, 2], 1.0).bytes());
    fs::write(folder.join("data/weights.bin"), data).unwrap();
    fs::write(folder.join("model.onnx"), proto.encode_to_vec()).unwrap();
    Model::open(folder.join("model.onnx")).unwrap()
}

#[test]
fn external_data_keeps_its_layout() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = external_model(from.path());
    assert_eq!(model.tensor(model.initializers()["w"]).unwrap(), float(&[2, 2], 1.0));
    let original = fs::read(from.path().join("data/weights.bin")).unwrap();

    let mut patch = Patch::new();
    patch.replace_initializer("w", float(&[2, 2], 5.0)).add_initializer("v", float(&[1], 2.0));
    assert!(patch.apply(&model).is_err(), "the bytes alone cannot hold the new weights");
    assert!(
        file::write(&model, &patch, from.path().join("other.onnx")).is_err(),
        "the input's data is not overwritten"
    );
    assert!(file::write(&model, &patch, from.path().join("data/weights.bin")).is_err());
    assert_eq!(fs::read(from.path().join("data/weights.bin")).unwrap(), original);

    file::write(&model, &patch, to.path().join("model.onnx")).unwrap();
    let written = Model::open(to.path().join("model.onnx")).unwrap();
    assert_eq!(written.tensor(written.initializers()["w"]).unwrap(), float(&[2, 2], 5.0));
    assert_eq!(written.tensor(written.initializers()["v"]).unwrap(), float(&[1], 2.0));
    let mut expected = original.clone();
    expected[64..80].copy_from_slice(float(&[2, 2], 5.0).bytes());
    assert_eq!(fs::read(to.path().join("data/weights.bin")).unwrap(), expected);
    assert_eq!(fs::read(from.path().join("data/weights.bin")).unwrap(), original);
    let left: Vec<_> = fs::read_dir(to.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");

    let mut beside = Patch::new();
    beside.set_metadata("k", "v");
    file::write(&model, &beside, from.path().join("other.onnx")).unwrap();
    assert_eq!(fs::read(from.path().join("data/weights.bin")).unwrap(), original);
}

#[test]
fn shared_external_bytes_are_not_overwritten() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut proto = external_model(from.path()).proto().clone();
    proto.graph.as_mut().unwrap().initializer[1].external_data[1].value = Some("60".into());
    fs::write(from.path().join("model.onnx"), proto.encode_to_vec()).unwrap();
    let model = Model::open(from.path().join("model.onnx")).unwrap();
    let mut patch = Patch::new();
    patch.replace_initializer("w", float(&[2, 2], 5.0));
    let error = file::write(&model, &patch, to.path().join("model.onnx")).unwrap_err();
    assert!(error.to_string().contains("shared"), "{error}");
}

#[test]
fn a_model_is_written_over_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, sample().encode_to_vec()).unwrap();
    let model = Model::open(&path).unwrap();
    let mut patch = Patch::new();
    patch.replace_initializer("w", float(&[2, 2], 9.0));
    file::write(&model, &patch, &path).unwrap();
    assert_eq!(model.tensor(model.initializers()["w"]).unwrap(), float(&[2, 2], 1.0), "the open model is the old file");
    let new = Model::open(&path).unwrap();
    assert_eq!(new.tensor(new.initializers()["w"]).unwrap(), float(&[2, 2], 9.0));
    assert!(file::write_bytes(folder.path(), b"x").is_err(), "a folder is not overwritten");
}

#[test]
fn the_data_of_another_model_are_not_replaced() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = external_model(from.path());
    let mut patch = Patch::new();
    patch.replace_initializer("w", float(&[2, 2], 5.0));
    fs::create_dir_all(to.path().join("data")).unwrap();
    fs::write(to.path().join("data/weights.bin"), b"another model's").unwrap();
    let target = to.path().join("model.onnx");
    let error = file::write(&model, &patch, &target).unwrap_err();
    assert!(error.to_string().contains("weights.bin holds other data"), "{error}");
    assert_eq!(fs::read(to.path().join("data/weights.bin")).unwrap(), b"another model's");
    assert!(!target.exists());

    // Data that were written for this very model, before the process ended, are no other model's.
    let mut data = fs::read(from.path().join("data/weights.bin")).unwrap();
    data[64..80].copy_from_slice(float(&[2, 2], 5.0).bytes());
    fs::write(to.path().join("data/weights.bin"), &data).unwrap();
    file::write(&model, &patch, &target).unwrap();
    fs::remove_file(&target).unwrap();
    data[64] ^= 1;
    fs::write(to.path().join("data/weights.bin"), data).unwrap();
    assert!(file::write(&model, &patch, &target).is_err());

    // A model that is replaced takes its data with it.
    fs::remove_file(to.path().join("data/weights.bin")).unwrap();
    file::write(&model, &patch, &target).unwrap();
    patch.replace_initializer("w", float(&[2, 2], 7.0));
    file::write(&model, &patch, &target).unwrap();
    let written = Model::open(&target).unwrap();
    assert_eq!(written.tensor(written.initializers()["w"]).unwrap(), float(&[2, 2], 7.0));
}
