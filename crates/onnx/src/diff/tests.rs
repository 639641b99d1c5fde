#![allow(clippy::unwrap_used)]

use prost::Message;

use super::*;
use crate::{
    Attributes, ElementType, Shape, Tensor,
    graph::tensor_type,
    proto::{
        GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
        tensor_proto::DataLocation,
    },
};

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let r#type = Some(tensor_type(ElementType::Float, Some(&Shape::known(shape))));
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..Default::default() }
}

/// `h = x w; y = h + k` with an initializer `w` and a Constant node `k`; no node has a name.
fn sample() -> ModelProto {
    let mut constant = node("Constant", &[], "k");
    constant.attribute = Attributes::new().with("value", Tensor::from_f32(&[1], &[0.5])).as_slice().to_vec();
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        metadata_props: vec![StringStringEntryProto { key: Some("origin".into()), value: Some("here".into()) }],
        graph: Some(GraphProto {
            node: vec![node("MatMul", &["x", "w"], "h"), constant, node("Add", &["h", "k"], "y")],
            initializer: vec![Tensor::from_f32(&[2, 2], &[3.0, 0.0, 0.0, 4.0]).to_proto("w")],
            input: vec![value("x", &[1, 2])],
            output: vec![value("y", &[1, 2])],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn model(proto: &ModelProto) -> Model {
    Model::from_bytes(proto.encode_to_vec()).unwrap()
}

fn changes(edit: impl FnOnce(&mut ModelProto)) -> Diff {
    let (a, mut b) = (sample(), sample());
    edit(&mut b);
    diff(&View::of(&model(&a)), &View::of(&model(&b))).unwrap()
}

fn graph_changes(edit: impl FnOnce(&mut GraphProto)) -> Diff {
    changes(|m| edit(m.graph.as_mut().unwrap()))
}

fn fact(name: &str, before: Option<&str>, after: Option<&str>) -> Fact {
    Fact { name: name.to_owned(), before: before.map(str::to_owned), after: after.map(str::to_owned) }
}

#[test]
fn a_model_equals_itself_in_any_order_and_form() {
    assert!(changes(|_| {}).is_empty());
    assert!(identical(&model(&sample()), &model(&sample())));
    let reordered = graph_changes(|g| {
        g.node.swap(0, 1);
        let w = &mut g.initializer[0];
        (w.raw_data, w.float_data) = (None, vec![3.0, 0.0, 0.0, 4.0]);
    });
    assert!(reordered.is_empty(), "{reordered:?}");
}

#[test]
fn format_and_metadata_are_told_by_name() {
    let found = changes(|m| {
        m.ir_version = Some(9);
        m.opset_import[0].version = Some(18);
        m.producer_name = Some("else".to_owned());
        m.metadata_props = vec![StringStringEntryProto { key: Some("more".into()), value: Some("1".into()) }];
    });
    let expected = [
        fact("IR version", Some("8"), Some("9")),
        fact("opset ai.onnx", Some("17"), Some("18")),
        fact("producer", None, Some("else")),
    ];
    assert_eq!(found.format, expected);
    assert_eq!(found.metadata, [fact("origin", Some("here"), None), fact("more", None, Some("1"))]);
    assert!(found.nodes.is_empty() && found.constants.is_empty());
}

#[test]
fn inputs_and_outputs_are_told_with_their_types() {
    let found = graph_changes(|g| {
        g.input[0] = value("x", &[1, 3]);
        g.output.insert(0, value("h", &[1, 2]));
    });
    assert_eq!(found.inputs, [fact("x", Some("float32[1, 2]"), Some("float32[1, 3]"))]);
    assert_eq!(found.outputs, [fact("h", None, Some("float32[1, 2]"))]);
    let mut a = sample();
    a.graph.as_mut().unwrap().output.push(value("h", &[1, 2]));
    let mut b = a.clone();
    b.graph.as_mut().unwrap().output.swap(0, 1);
    let swapped = diff(&View::of(&model(&a)), &View::of(&model(&b))).unwrap();
    assert_eq!(swapped.outputs, [fact("order", Some("y, h"), Some("h, y"))]);
}

#[test]
fn weights_are_told_by_how_much_they_changed() {
    let found = graph_changes(|g| g.initializer[0] = Tensor::from_f32(&[2, 2], &[3.0, 0.0, 0.0, 1.0]).to_proto("w"));
    assert_eq!((found.weights, found.changed_weights().count()), (2, 1));
    let values = found.constants[0].values.clone().unwrap();
    assert_eq!((values.changed, values.elements), (Some(1), 4));
    assert!((values.relative.unwrap() - 0.6).abs() < 1e-12);
    let from_zero = {
        let (mut a, b) = (sample(), sample());
        a.graph.as_mut().unwrap().initializer[0] = Tensor::from_f32(&[2, 2], &[0.0; 4]).to_proto("w");
        diff(&View::of(&model(&a)), &View::of(&model(&b))).unwrap()
    };
    assert_eq!(from_zero.constants[0].values.as_ref().unwrap().relative, None);
}

#[test]
fn changes_that_span_blocks_are_summed_over_all_of_them() {
    const N: usize = (1 << 16) + 3;
    let (mut a, mut b) = (sample(), sample());
    let set = |m: &mut ModelProto, last: f32| {
        let mut values = vec![1.0; N];
        values[N - 1] = last;
        m.graph.as_mut().unwrap().initializer.push(Tensor::from_f32(&[N], &values).to_proto("long"));
    };
    set(&mut a, 1.0);
    set(&mut b, 3.0);
    let found = diff(&View::of(&model(&a)), &View::of(&model(&b))).unwrap();
    let values = found.constants[0].values.as_ref().unwrap();
    assert_eq!(values.changed, Some(1));
    assert!((values.relative.unwrap() - 2.0 / (N as f64).sqrt()).abs() < 1e-12);
}

#[test]
fn constants_of_another_type_or_place_are_no_changed_weights() {
    let wider = graph_changes(|g| g.initializer[0] = Tensor::from_f32(&[2, 3], &[0.0; 6]).to_proto("w"));
    assert_eq!((wider.weights, wider.changed_weights().count(), wider.constants.len()), (1, 0, 1));
    assert_eq!(wider.constants[0].after.as_ref().unwrap().shape, [2, 3]);
    let moved = graph_changes(|g| {
        g.node.remove(1);
        g.initializer.push(Tensor::from_f32(&[1], &[0.5]).to_proto("k"));
    });
    assert!(moved.nodes.is_empty(), "{moved:?}");
    let storage = |c: &Option<Constant>| c.as_ref().unwrap().storage;
    let change = &moved.constants[0];
    assert_eq!((storage(&change.before), storage(&change.after)), (Storage::Node, Storage::Initializer));
    assert_eq!(change.values, None);
    let replaceable = graph_changes(|g| g.input.push(value("w", &[2, 2])));
    assert!(replaceable.inputs.is_empty(), "{replaceable:?}");
    assert_eq!(storage(&replaceable.constants[0].after), Storage::InitializerAndInput);
}

#[test]
fn nodes_are_matched_by_what_they_compute() {
    let found = graph_changes(|g| {
        g.node[0].input[1] = "w2".to_owned();
        g.node[0].attribute = Attributes::new().with("axis", 1i64).as_slice().to_vec();
        g.node[2].op_type = Some("Sub".to_owned());
        g.node.push(node("Relu", &["y"], "z"));
    });
    let [h, y, z] = found.nodes.as_slice() else { unreachable!("{:?}", found.nodes) };
    assert_eq!(h.inputs, [InputChange { index: 1, before: Some("w".into()), after: Some("w2".into()) }]);
    assert_eq!(h.attributes, [fact("axis", None, Some("1"))]);
    let operator = |facts: &Option<NodeFacts>| facts.as_ref().unwrap().operator.clone();
    assert_eq!((operator(&y.before).as_str(), operator(&y.after).as_str()), ("Add", "Sub"));
    assert_eq!((z.output.as_str(), &z.before), ("z", &None));
    let removed = graph_changes(|g| {
        g.node.remove(2);
    });
    assert_eq!((removed.nodes[0].output.as_str(), &removed.nodes[0].after), ("y", &None));
}

#[test]
fn attributes_that_read_alike_are_compared_by_content() {
    let with = |last: f32| {
        graph_changes(|g| {
            let tensor = Tensor::from_f32(&[1], &[last]);
            g.node[2].attribute = Attributes::new().with("table", tensor).as_slice().to_vec();
        })
    };
    let proto = |last: f32| {
        let mut proto = sample();
        let tensor = Tensor::from_f32(&[1], &[last]);
        let node = &mut proto.graph.as_mut().unwrap().node[2];
        node.attribute = Attributes::new().with("table", tensor).as_slice().to_vec();
        model(&proto)
    };
    assert_eq!(with(1.0).nodes[0].attributes, [fact("table", None, Some("float32[1]"))]);
    let (a, b) = (proto(1.0), proto(2.0));
    let found = diff(&View::of(&a), &View::of(&b)).unwrap();
    assert_eq!(found.nodes[0].attributes, [fact("table", Some("float32[1]"), Some("float32[1] of other contents"))]);
}

#[test]
fn a_view_leaves_out_and_renames() {
    let mut proto = sample();
    let graph = proto.graph.as_mut().unwrap();
    graph.node[2].output[0] = "y/main".to_owned();
    graph.node.push(node("Mul", &["y/main", "s"], "y"));
    graph.initializer.push(Tensor::from_f32(&[1], &[2.0]).to_proto("s"));
    let (a, b) = (model(&sample()), model(&proto));
    let mut view = View::of(&b);
    view.hide_node(3).hide_constant("s").rename_output(2, 0, "y");
    assert!(diff(&View::of(&a), &view).unwrap().is_empty());
    assert_eq!(diff(&View::of(&a), &View::of(&b)).unwrap().nodes.len(), 2);
}

#[test]
fn a_view_redirects_inputs() {
    let mut proto = sample();
    let graph = proto.graph.as_mut().unwrap();
    graph.node[0].input[0] = "wide".to_owned();
    graph.node.insert(0, node("Identity", &["x"], "wide"));
    let (a, b) = (model(&sample()), model(&proto));
    let mut view = View::of(&b);
    view.hide_node(0).redirect_input(1, 0, "x");
    assert!(diff(&View::of(&a), &view).unwrap().is_empty());
    let found = diff(&View::of(&a), &View::of(&b)).unwrap();
    assert_eq!((found.nodes.len(), found.nodes[0].inputs.len()), (2, 1));
}

#[test]
fn external_data_are_compared_by_content_and_not_read_twice() {
    let external = |offset: usize| -> TensorProto {
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        TensorProto {
            dims: vec![2, 2],
            data_type: Some(ElementType::Float as i32),
            name: Some("w".to_owned()),
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", "w.bin".to_owned()),
                entry("offset", offset.to_string()),
                entry("length", "16".to_owned()),
            ],
            ..Default::default()
        }
    };
    let write = |folder: &std::path::Path, values: [f32; 8]| {
        std::fs::write(folder.join("w.bin"), values.map(f32::to_le_bytes).concat()).unwrap();
    };
    let open = |folder: &std::path::Path, offset: usize| {
        let mut proto = sample();
        proto.graph.as_mut().unwrap().initializer[0] = external(offset);
        Model::from_bytes_in(proto.encode_to_vec(), folder).unwrap()
    };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(here.path(), [3.0, 0.0, 0.0, 4.0, 3.0, 0.0, 0.0, 4.0]);
    write(there.path(), [3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 4.0]);
    let (a, same, other) = (open(here.path(), 0), open(there.path(), 0), open(there.path(), 16));
    assert!(identical(&a, &open(here.path(), 0)));
    assert!(!identical(&a, &same), "equal bytes that refer to data elsewhere");
    let found = |b: &Model| diff(&View::of(&a), &View::of(b)).unwrap();
    assert!(found(&same).is_empty());
    assert_eq!(found(&other).changed_weights().count(), 1);
    assert!(found(&model(&sample())).is_empty(), "embedded and external are forms of the same");
    // The same place of the same file needs no file.
    std::fs::remove_file(here.path().join("w.bin")).unwrap();
    let (a, b) = (open(here.path(), 0), open(here.path(), 0));
    assert!(diff(&View::of(&a), &View::of(&b)).unwrap().is_empty());
}
