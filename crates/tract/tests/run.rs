//! Models in tract: opsets, initializers that are inputs, missing operators.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Node, Shape, Tensor, proto::ValueInfoProto};
use dendrite_tract::{Error, run, run_graph, supported_cut};
use prost::Message;

/// y = Relu(x W), with a batch that has a name.
fn small(opset: i64) -> Graph {
    let mut graph = Graph::new("small", opset);
    let f = ElementType::Float;
    let x = graph.add_input("x", f, Shape(vec![Dim::Symbol("batch".into()), Dim::Known(2)]));
    let w = graph.add_constant("w", Tensor::from_f32(&[2, 2], &[1.0, -1.0, 2.0, 0.5]));
    let h = graph.op("MatMul", "h", &[x, w], Attributes::new());
    let y = graph.op("Relu", "y", &[h], Attributes::new());
    graph.set_type(y, Some(f), Some(Shape(vec![Dim::Symbol("batch".into()), Dim::Known(2)])));
    graph.outputs.push(y);
    graph
}

#[test]
fn a_batch_is_what_the_feed_says() {
    for opset in [8, 13, 21, dendrite_onnx::WORKING_OPSET] {
        let bytes = small(opset).to_model().unwrap().encode_to_vec();
        for n in [1, 3] {
            let x = Tensor::from_f32(&[n, 2], &[1.0, 2.0].repeat(n));
            let out = run(&bytes, &[("x", &x)]).unwrap();
            assert_eq!(out, [("y".to_owned(), Tensor::from_f32(&[n, 2], &[5.0, 0.0].repeat(n)))], "opset {opset}");
        }
    }
}

#[test]
fn initializers_that_are_inputs_need_no_feed() {
    let mut model = small(8).to_model().unwrap();
    model.ir_version = Some(3);
    let graph = model.graph.as_mut().unwrap();
    let r#type = dendrite_onnx::graph::tensor_type(ElementType::Float, Some(&Shape::known(&[2, 2])));
    graph.input.push(ValueInfoProto { name: Some("w".into()), r#type: Some(r#type), ..Default::default() });
    let x = Tensor::from_f32(&[1, 2], &[1.0, 2.0]);
    let out = run(&model.encode_to_vec(), &[("x", &x)]).unwrap();
    assert_eq!(out[0].1.to_f32().unwrap(), [5.0, 0.0]);
}

#[test]
fn an_intermediate_value_can_be_fed_and_fetched() {
    let graph = small(17);
    let h = Tensor::from_f32(&[1, 2], &[-4.0, 7.0]);
    let out = run_graph(&graph, &[("h", &h)], &graph.outputs).unwrap();
    assert_eq!(out[0].1.to_f32().unwrap(), [0.0, 7.0]);
    let x = Tensor::from_f32(&[1, 2], &[1.0, 2.0]);
    let out = run_graph(&graph, &[("x", &x)], &[graph.find("h").unwrap(), graph.find("y").unwrap()]).unwrap();
    assert_eq!(out[0].0, "h");
    assert_eq!(out[0].1.to_f32().unwrap(), [5.0, 0.0]);
}

#[test]
fn missing_and_unknown_feeds_are_named() {
    let graph = small(17);
    let error = run_graph(&graph, &[], &graph.outputs).unwrap_err();
    assert_eq!(error.to_string(), "'x': the input is missing");
    let x = Tensor::from_f32(&[1, 2], &[1.0, 2.0]);
    let error = run_graph(&graph, &[("z", &x)], &graph.outputs).unwrap_err();
    assert_eq!(error.to_string(), "'z': the graph has no such value");
    let wrong = Tensor::from_f32(&[1, 3], &[1.0, 2.0, 3.0]);
    assert!(matches!(run_graph(&graph, &[("x", &wrong)], &graph.outputs), Err(Error::Tract { .. })));
}

#[test]
fn a_scaler_is_where_the_cut_goes() {
    let mut graph = small(17);
    assert_eq!(supported_cut(&graph).fed, []);
    graph.opsets.insert("ai.onnx.ml".into(), 1);
    let x = graph.find("x").unwrap();
    let scaled = graph.add_value("scaled");
    graph.replace_uses(x, scaled);
    graph.push(Node {
        name: String::new(),
        domain: "ai.onnx.ml".into(),
        op: "Scaler".into(),
        inputs: vec![Some(x)],
        outputs: vec![Some(scaled)],
        attributes: Attributes::new().with("offset", 0.0f32),
    });
    let cut = supported_cut(&graph);
    assert_eq!(cut.fed, [scaled]);
    assert_eq!((cut.missing[0].node.as_str(), cut.missing[0].op.as_str()), ("scaled", "ai.onnx.ml.Scaler"));
    assert_eq!(cut.computed, graph.outputs);
    let fed = Tensor::from_f32(&[1, 2], &[1.0, 2.0]);
    let out = run_graph(&graph, &[("scaled", &fed)], &graph.outputs).unwrap();
    assert_eq!(out[0].1.to_f32().unwrap(), [5.0, 0.0]);
}

/// The files under `models/`, and those under the folder that `DENDRITE_MODELS` names, run in tract on zeros.
#[test]
fn every_model_runs_from_its_cut() {
    fn models(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                models(&path, found);
            } else if path.extension().is_some_and(|e| e == "onnx") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    models(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), &mut files);
    if let Some(more) = std::env::var_os("DENDRITE_MODELS") {
        models(std::path::Path::new(&more), &mut files);
    }
    for file in files {
        let graph = Graph::from_model(&Model::open(&file).unwrap()).unwrap();
        let cut = supported_cut(&graph);
        println!("{}: {:?}", file.display(), cut.missing);
        if !cut.fed.is_empty() {
            continue;
        }
        let feeds: Vec<(String, Tensor)> = graph
            .inputs
            .iter()
            .map(|input| {
                let value = graph.value(*input);
                let shape: Vec<usize> =
                    value.shape.as_ref().unwrap().0.iter().map(|d| d.known().unwrap_or(2)).collect();
                (value.name.clone(), Tensor::filled(value.element_type.unwrap(), &shape, 0.0))
            })
            .collect();
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let start = std::time::Instant::now();
        let out = run_graph(&graph, &feeds, &graph.outputs).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        println!("  {} outputs, {:?} {:?}", out.len(), out[0].1.shape(), start.elapsed());
    }
}
