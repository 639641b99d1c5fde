//! Real models are read, checked, written back byte for byte, and edited so that an independent reader agrees.
//! `DENDRITE_MODELS=FOLDER cargo test -p dendrite-onnx --test models` adds every .onnx file below a folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use common::{float, node, reread};
use dendrite_onnx::{Graph, Model, Patch, Severity, check, file};
use prost::Message;

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), files));
    } else if path.extension().is_some_and(|e| e == "onnx") {
        files.push(path.to_owned());
    }
}

fn models() -> Vec<(PathBuf, Model)> {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), &mut files);
    assert_eq!(files.len(), 4);
    if let Some(folder) = env::var_os("DENDRITE_MODELS") {
        collect(Path::new(&folder), &mut files);
    }
    files.sort();
    files.into_iter().map(|path| (path.clone(), Model::open(path).unwrap())).collect()
}

#[test]
fn they_are_valid_and_have_a_working_copy() {
    for (path, model) in models() {
        let errors: Vec<_> = check(&model).into_iter().filter(|f| f.severity == Severity::Error).collect();
        assert_eq!(errors, [], "{}", path.display());
        assert_eq!(model.unknown_fields(), [], "{}", path.display());
        model.support().unwrap();
        let graph = Graph::from_model(&model).unwrap();
        assert_eq!(graph.topological_order().unwrap().len(), graph.nodes().count());
        reread(&graph.to_model().unwrap().encode_to_vec());
    }
}

#[test]
fn they_are_written_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (path, model) in models() {
        let original = fs::read(&path).unwrap();
        assert_eq!(model.proto().encode_to_vec(), original, "{}: decoded and encoded", path.display());
        let target = folder.path().join("model.onnx");
        file::write(&model, &Patch::new(), &target).unwrap();
        assert_eq!(fs::read(target).unwrap(), original, "{}: written", path.display());
        let mut same = Patch::new();
        for tensor in &model.graph().initializer {
            same.replace_initializer(tensor.name(), model.tensor(tensor).unwrap());
        }
        same.require_ir(1);
        assert_eq!(same.apply(&model).unwrap(), original, "{}: walked", path.display());
    }
}

#[test]
fn an_independent_reader_agrees_on_an_edited_model() {
    for (path, model) in models() {
        let before = reread(model.bytes());
        let output = model.graph().output[0].name().to_owned();
        let producer = model.graph().node.iter().position(|n| n.output.contains(&output)).unwrap();
        let position = model.graph().node[producer].output.iter().position(|o| *o == output).unwrap();
        let weight = model.graph().initializer.iter().find(|t| t.data_type == Some(1)).unwrap();
        let mut patch = Patch::new();
        let zeros = float(model.tensor(weight).unwrap().shape(), 0.0);
        patch
            .rename_node_output(producer, position, "output_main")
            .insert_nodes_after(producer, vec![node("Mul", &["output_main", "gain"], &output)])
            .add_initializer("gain", float(&[], 1.0))
            .replace_initializer(weight.name(), zeros)
            .set_metadata("dendrite.test", "yes");
        let bytes = patch.apply(&model).unwrap();
        let after = reread(&bytes);
        let name = path.display();

        let mut nodes = before.graph.node.clone();
        nodes[producer].output[position] = "output_main".to_owned();
        let added = after.graph.node[producer + 1].clone();
        assert_eq!((added.op_type.as_str(), &added.output[0]), ("Mul", &output), "{name}");
        nodes.insert(producer + 1, added);
        assert_eq!(after.graph.node, nodes, "{name}");

        let (old, new) = (&before.graph.initializer, &after.graph.initializer);
        assert_eq!(new.len(), old.len() + 1, "{name}");
        for (old, new) in old.iter().zip(new).filter(|(old, _)| old.name != weight.name()) {
            assert_eq!(old, new, "{name}");
        }
        let replaced = new.iter().find(|t| t.name == weight.name()).unwrap();
        assert!(replaced.raw_data.iter().all(|b| *b == 0) && replaced.float_data.iter().all(|v| *v == 0.0), "{name}");
        assert_eq!(new.last().unwrap().name, "gain", "{name}");
        let inputs = before.graph.input.len() + usize::from(model.ir_version() < 4);
        assert_eq!(after.graph.input.len(), inputs, "{name}: IR 3 lists initializers as inputs");
        assert_eq!(after.graph.output, before.graph.output, "{name}");
        assert_eq!(after.graph.value_info, before.graph.value_info, "{name}");
        assert_eq!(after.metadata_props.len(), before.metadata_props.len() + 1, "{name}");
        assert_eq!((after.ir_version, &after.opset_import), (before.ir_version, &before.opset_import), "{name}");

        let edited = Model::from_bytes(bytes).unwrap();
        let errors: Vec<_> = check(&edited).into_iter().filter(|f| f.severity == Severity::Error).collect();
        assert_eq!(errors, [], "{name}");
    }
}
