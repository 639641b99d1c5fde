//! The user's file: decoded without copies, kept together with its bytes.
//!
//! Opening surveys the wire format first (bounds, nesting, text), so that a broken file is an error that says where, and
//! nothing is allocated on the word of a length field. Opening is lenient about versions, so that a model of any IR can be
//! inspected; [`Model::support`] says whether the rest of the product can work with it.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;

use crate::{
    error::{Error, Result},
    external::{ExternalData, is_external},
    map,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataLocation},
    survey::{UnknownField, survey},
    tensor::Tensor,
};

/// The IR versions that are read.
pub const SUPPORTED_IR: std::ops::RangeInclusive<i64> = 3..=13;

/// The opsets of the standard domain that are read.
pub const SUPPORTED_OPSET: std::ops::RangeInclusive<i64> = 7..=26;

/// The most bytes a protobuf message may have.
pub const MAX_MESSAGE: u64 = (1 << 31) - 1;

/// An ONNX model as it lies in a file.
#[derive(Debug, Clone)]
pub struct Model {
    path: Option<PathBuf>,
    bytes: Bytes,
    proto: ModelProto,
    unknown: Vec<UnknownField>,
    external: Option<Arc<ExternalData>>,
}

impl Model {
    /// Open a file. It is mapped, not read: tensors stay on disk until they are used.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let mut model = Self::decode(bytes, path, Some(folder))?;
        model.path = Some(path.to_owned());
        Ok(model)
    }

    /// Read a model from memory. It cannot refer to external data.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        Self::decode(bytes.into(), Path::new("<memory>"), None)
    }

    /// Read a model from memory whose external data lies in `folder`.
    pub fn from_bytes_in(bytes: impl Into<Bytes>, folder: impl Into<PathBuf>) -> Result<Self> {
        Self::decode(bytes.into(), Path::new("<memory>"), Some(folder.into()))
    }

    fn decode(bytes: Bytes, path: &Path, folder: Option<PathBuf>) -> Result<Self> {
        let fail = |reason: String, hint| Error::Decode { path: path.to_owned(), reason, hint };
        let damaged = |reason: String| fail(reason, AGAIN);
        if let Some((reason, hint)) = another_format(&bytes) {
            return Err(fail(reason.to_owned(), hint));
        }
        let survey = survey(&bytes)
            .map_err(|reason| if is_text(&bytes) { fail("it is text".to_owned(), EXPORT) } else { damaged(reason) })?;
        let proto = ModelProto::decode(bytes.clone()).map_err(|e| damaged(e.to_string()))?;
        if proto.graph.is_none() {
            return Err(damaged("it holds no graph".to_owned()));
        }
        let external = folder.map(|folder| Arc::new(ExternalData::new(folder)));
        Ok(Model { path: None, bytes, proto, unknown: survey.unknown, external })
    }

    /// Another model in the place of this one: its external data are those of this one.
    pub(crate) fn with_proto(&self, proto: ModelProto) -> Result<Self> {
        let path = self.path.clone().unwrap_or_else(|| PathBuf::from("<memory>"));
        let mut model = Self::decode(proto.encode_to_vec().into(), &path, None)?;
        (model.path, model.external) = (self.path.clone(), self.external.clone());
        Ok(model)
    }

    /// The file's path, if it came from one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The folder that external data is relative to, if there is one.
    pub fn folder(&self) -> Option<&Path> {
        self.external.as_ref().map(|e| e.folder())
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The decoded message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The main graph.
    pub fn graph(&self) -> &GraphProto {
        static EMPTY: std::sync::LazyLock<GraphProto> = std::sync::LazyLock::new(GraphProto::default);
        self.proto.graph.as_ref().unwrap_or(&EMPTY)
    }

    /// The IR version; 0 where the file has none.
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version()
    }

    /// The opset of a domain, whose empty name and `ai.onnx` are the same.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let standard = |d: &str| d.is_empty() || d == "ai.onnx";
        let same = |d: &str| d == domain || (standard(d) && standard(domain));
        self.proto.opset_import.iter().rev().find(|o| same(o.domain())).map(|o| o.version())
    }

    /// The fields of the file that this version of ONNX does not know (the first thousand). They are missing from
    /// [`Model::proto`], but not lost: a [`crate::Patch`] leaves them as they are.
    pub fn unknown_fields(&self) -> &[UnknownField] {
        &self.unknown
    }

    /// Whether IR version and opset are ones this product works with.
    pub fn support(&self) -> Result<()> {
        let unsupported = |what: String, hint: &str| Err(Error::Unsupported { what, hint: hint.to_owned() });
        let Some(ir) = self.proto.ir_version else {
            return unsupported("the model has no IR version".to_owned(), "export it again with a current exporter");
        };
        if !SUPPORTED_IR.contains(&ir) {
            return unsupported(
                format!("IR version {ir} is not supported ({} to {} are)", SUPPORTED_IR.start(), SUPPORTED_IR.end()),
                "convert the model with onnx.version_converter, or export it with another opset",
            );
        }
        match self.opset("") {
            Some(opset) if SUPPORTED_OPSET.contains(&opset) => Ok(()),
            Some(opset) => unsupported(
                format!(
                    "opset {opset} is not supported ({} to {} are)",
                    SUPPORTED_OPSET.start(),
                    SUPPORTED_OPSET.end()
                ),
                "convert the model with onnx.version_converter, or export it with another opset",
            ),
            None if self.graph().node.iter().all(|n| !matches!(n.domain(), "" | "ai.onnx")) => Ok(()),
            None => unsupported(
                "the model imports no opset of the standard domain".to_owned(),
                "export it again with a current exporter",
            ),
        }
    }

    /// The contents of one of the model's tensor messages, external data included.
    pub fn tensor(&self, proto: &TensorProto) -> Result<Tensor> {
        let fail = |reason: String| Error::Tensor { name: proto.name().to_owned(), reason };
        if !is_external(proto) {
            return match proto.data_location {
                None => Tensor::from_proto(proto),
                Some(location) if location == DataLocation::Default as i32 => Tensor::from_proto(proto),
                Some(location) => Err(fail(format!("unknown data location {location}"))),
            };
        }
        if proto.data_type == Some(crate::tensor::ElementType::String as i32) {
            return Err(fail("strings cannot be external data".to_owned()));
        }
        let bytes = self.external(proto)?.bytes(proto)?;
        Tensor::from_proto(&TensorProto { raw_data: Some(bytes), data_location: None, ..proto.clone() })
    }

    /// The external file at `location`, to which `tensor` refers: its path and contents.
    pub(crate) fn external_file(&self, tensor: &TensorProto, location: &Path) -> Result<(PathBuf, Bytes)> {
        self.external(tensor)?.file(tensor, location)
    }

    fn external(&self, tensor: &TensorProto) -> Result<&ExternalData> {
        let location = || tensor.external_data.iter().find(|e| e.key() == "location").map(|e| e.value().to_owned());
        self.external.as_deref().ok_or_else(|| Error::External {
            name: tensor.name().to_owned(),
            location: location().unwrap_or_default(),
            reason: "the model was read from memory, so there is no folder to look in".to_owned(),
            hint: "open the model from its file".to_owned(),
        })
    }

    /// The initializers of the main graph by name.
    pub fn initializers(&self) -> HashMap<&str, &TensorProto> {
        self.graph().initializer.iter().map(|t| (t.name(), t)).collect()
    }

    /// Call `visit` for every tensor message of the model, those of attributes, sub-graphs and functions included.
    pub fn visit_tensors<'a>(&'a self, visit: &mut dyn FnMut(&'a TensorProto)) {
        let proto = &self.proto;
        for graph in proto
            .graph
            .iter()
            .chain(proto.training_info.iter().flat_map(|t| t.initialization.iter().chain(&t.algorithm)))
        {
            visit_graph(graph, visit);
        }
        for function in &proto.functions {
            for node in &function.node {
                visit_node(node, visit);
            }
        }
    }
}

fn visit_graph<'a>(graph: &'a GraphProto, visit: &mut dyn FnMut(&'a TensorProto)) {
    graph.initializer.iter().for_each(&mut *visit);
    for sparse in &graph.sparse_initializer {
        sparse.values.iter().chain(&sparse.indices).for_each(&mut *visit);
    }
    for node in &graph.node {
        visit_node(node, visit);
    }
}

fn visit_node<'a>(node: &'a NodeProto, visit: &mut dyn FnMut(&'a TensorProto)) {
    for attribute in &node.attribute {
        visit_attribute(attribute, visit);
    }
}

/// Call `visit` for every tensor message of an attribute, those of its sub-graphs included.
pub(crate) fn visit_attribute<'a>(attribute: &'a AttributeProto, visit: &mut dyn FnMut(&'a TensorProto)) {
    attribute.t.iter().chain(&attribute.tensors).for_each(&mut *visit);
    for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
        sparse.values.iter().chain(&sparse.indices).for_each(&mut *visit);
    }
    for graph in attribute.g.iter().chain(&attribute.graphs) {
        visit_graph(graph, visit);
    }
}

/// The bytes of a model file: mapped, or read where the path is a pipe.
fn read(path: &Path) -> std::io::Result<Bytes> {
    let file = File::open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if kind.is_file() {
        return map::map(&file);
    }
    let mut bytes = Vec::new();
    file.take(MAX_MESSAGE + 1).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

const AGAIN: &str = "the file may be truncated or not ONNX; export or copy it again";
const EXPORT: &str = "give the exported .onnx file";
const FROM_TORCH: &str =
    "export the model from PyTorch first: torch.onnx.export(model, example_inputs, \"model.onnx\")";
const FROM_KERAS: &str = "convert it to ONNX first, with tf2onnx";

/// What the bytes are instead of a model, where that can be told from their beginning, and the remedy.
fn another_format(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.is_empty() {
        return Some(("the file is empty", AGAIN));
    }
    if bytes.len() as u64 > MAX_MESSAGE {
        return Some((
            "the file is larger than 2 GiB, the most a protobuf message can be",
            "export the model with external data",
        ));
    }
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    // The kind of a flatbuffer stands behind its first offset.
    let kind = bytes.get(4..8);
    if begins(b"version https://git-lfs") {
        return Some(("it is a Git LFS pointer", "fetch the file itself: git lfs pull"));
    }
    if begins(b"PK\x03\x04") {
        let start = &bytes[..bytes.len().min(4096)];
        let holds = |name: &[u8]| start.windows(name.len()).any(|window| window == name);
        if holds(b".npy") {
            return Some(("it is an .npz file of arrays", EXPORT));
        }
        if holds(b"/data.pkl") || holds(b"/version") {
            return Some(("it is a PyTorch file", FROM_TORCH));
        }
        return Some(("it is a zip archive", "unpack it, or give the exported .onnx file"));
    }
    if matches!(bytes, [0x80, 2..=5, ..]) {
        return Some(("it is a Python pickle, perhaps an old PyTorch file", FROM_TORCH));
    }
    if kind == Some(b"TFL3") {
        return Some(("it is a TensorFlow Lite model", "convert it to ONNX first, with tf2onnx --tflite"));
    }
    if kind == Some(b"ORTM") {
        return Some(("it is a model in ONNX Runtime's own format (.ort)", "give the .onnx file it was made from"));
    }
    if begins(b"\x89HDF") {
        return Some(("it is an HDF5 file, perhaps of Keras", FROM_KERAS));
    }
    if begins(b"\x93NUMPY") || begins(b"PAR1") {
        return Some(("it holds data, no model", EXPORT));
    }
    if begins(b"\x1f\x8b") {
        return Some(("it is packed with gzip", "unpack it first: gunzip"));
    }
    if begins(b"<!DOCTYPE") || begins(b"<html") {
        return Some(("it is a web page", "fetch the file itself: its address may need a login, or another link"));
    }
    None
}

/// Whether the beginning reads as text, which no model's does.
fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(256)];
    start.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~'))
}
