//! The stored models: fixtures/backend/*.cases.z, written by scripts/backend_gradients.py.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    path::PathBuf,
};

use dendrite_onnx::{Model, Tensor, proto::ModelProto};
use flate2::read::ZlibDecoder;
use prost::Message;

/// An input of more elements than this has derivatives along `DIRECTIONS` directions, not for each element.
pub(crate) const ELEMENTS: usize = 64;
pub(crate) const DIRECTIONS: usize = 4;
pub(crate) const WEIGHT_STREAM: u64 = 1000;

pub(crate) struct Case {
    pub(crate) name: String,
    /// The model as onnx makes it.
    pub(crate) model: ModelProto,
    pub(crate) values: Vec<(String, Tensor)>,
    pub(crate) references: HashMap<String, Tensor>,
    /// The weighted sum of the outputs.
    pub(crate) total: Option<f64>,
    /// Why nothing is known to compare with.
    pub(crate) none: Option<String>,
    /// The same for single inputs.
    pub(crate) none_for: BTreeMap<String, String>,
    /// The outputs that are left out of the sum.
    pub(crate) unweighted: Vec<usize>,
}

impl Case {
    fn new(bytes: &[u8]) -> Self {
        let mut model = ModelProto::decode(bytes).unwrap();
        let graph = model.graph.as_mut().unwrap();
        let (mut values, mut references, mut total) = (Vec::new(), HashMap::new(), None);
        graph.initializer.retain(|t| {
            let Some((role, name)) = t.name().split_once('/') else { return true };
            let tensor = || Tensor::from_proto(t).unwrap();
            match role {
                "value" => values.push((name.to_owned(), tensor())),
                "reference" => drop(references.insert(name.to_owned(), tensor())),
                "total" => total = tensor().to_f64().map(|v| v[0]),
                _ => return true,
            }
            false
        });
        let name = graph.name().to_owned();
        let properties = model.metadata_props.iter().map(|p| (p.key(), p.value().to_owned()));
        let properties: BTreeMap<&str, String> = properties.collect();
        let none = properties.get("none").cloned();
        let none_for =
            properties.iter().filter_map(|(k, v)| Some((k.strip_prefix("none/")?.to_owned(), v.clone()))).collect();
        let unweighted =
            properties.get("unweighted").iter().flat_map(|l| l.split(' ')).map(|i| i.parse().unwrap()).collect();
        Case { name, unweighted, values, references, total, none, none_for, model }
    }

    pub(crate) fn feeds(&self) -> Vec<(&str, &Tensor)> {
        self.values.iter().map(|(n, t)| (n.as_str(), t)).collect()
    }

    /// Whether an input is no tensor.
    pub(crate) fn takes_sequences(&self) -> bool {
        let graph = self.model.graph.as_ref().unwrap();
        graph.input.iter().any(|i| self.values.iter().all(|(n, _)| n != i.name()))
    }

    pub(crate) fn opened(&self) -> dendrite_onnx::Result<Model> {
        Model::from_bytes(self.model.encode_to_vec())
    }

    /// The operator that the model tests, with its domain where that is not the standard one.
    pub(crate) fn operator(&self) -> String {
        let nodes = &self.model.graph.as_ref().unwrap().node;
        // Constants and the like may come before it.
        let node = nodes.iter().find(|n| n.op_type() != "Constant").unwrap_or(&nodes[0]);
        match node.domain() {
            "" | "ai.onnx" => node.op_type().to_owned(),
            domain => format!("{domain}.{}", node.op_type()),
        }
    }
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/backend")
}

pub(crate) fn read_all() -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "z"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let mut bytes = Vec::new();
        ZlibDecoder::new(&std::fs::read(file).unwrap()[..]).read_to_end(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (case, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            cases.push(Case::new(case));
            rest = tail;
        }
    }
    cases
}

/// The script's reproducible numbers in -1..1.
pub(crate) fn numbers(size: usize, stream: u64) -> Vec<f64> {
    (1..=size as u64)
        .map(|i| {
            let mut x = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = x.wrapping_add(stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
            x ^= x >> 31;
            x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x ^= x >> 29;
            (x >> 40) as f64 / f64::from(1u32 << 23) - 1.0
        })
        .collect()
}
