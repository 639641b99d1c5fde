//! What a file holds, found on the wire before anything is decoded: whether it is well formed, how deep and how large it
//! is, and which fields this version of ONNX does not know. Tensor data is stepped over, not read.

use crate::wire::{Field, WireError, WireType, fields};

/// How deeply sub-graphs may nest. The decoder's own limit is near 33.
pub const MAX_SUBGRAPH_DEPTH: usize = 24;

/// How deeply messages of any kind may nest; the decoder refuses more than 100.
const MAX_MESSAGE_DEPTH: usize = 95;

/// How many messages a file may hold: a decoded message is up to two hundred times larger than its encoding.
const MAX_MESSAGES: usize = 8_000_000;

/// How many unknown fields are listed; the rest is only counted.
const MAX_LISTED: usize = 1000;

/// The kinds of messages a model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Segment,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    SequenceType,
    MapType,
    OptionalType,
    SparseTensorType,
    OpaqueType,
    Shape,
    Dimension,
    OperatorSet,
    Entry,
    Annotation,
    Function,
    TrainingInfo,
    DeviceConfiguration,
    NodeDeviceConfiguration,
    Sharding,
    ShardedDim,
    SimpleShardedDim,
    IntIntList,
}

/// What a known field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Numbers, one or many, packed or not.
    Number,
    /// UTF-8 text.
    Text,
    /// Bytes of any kind.
    Bytes,
    /// A message.
    Message(Kind),
}

/// The role of field `number` in messages of `kind`; `None` for an unknown field.
pub(crate) fn role(kind: Kind, number: u32) -> Option<Role> {
    use Kind::*;
    use Role::{Bytes, Message, Number, Text};
    Some(match (kind, number) {
        (Model, 1 | 5) => Number,
        (Model, 2 | 3 | 4 | 6) => Text,
        (Model, 7) => Message(Graph),
        (Model, 8) => Message(OperatorSet),
        (Model, 14) => Message(Entry),
        (Model, 20) => Message(TrainingInfo),
        (Model, 25) => Message(Function),
        (Model, 26) => Message(DeviceConfiguration),
        (Graph, 1) => Message(Node),
        (Graph, 2 | 10) => Text,
        (Graph, 5) => Message(Tensor),
        (Graph, 11..=13) => Message(ValueInfo),
        (Graph, 14) => Message(Annotation),
        (Graph, 15) => Message(SparseTensor),
        (Graph, 16) => Message(Entry),
        (Node, 1..=4 | 6..=8) => Text,
        (Node, 5) => Message(Attribute),
        (Node, 9) => Message(Entry),
        (Node, 10) => Message(NodeDeviceConfiguration),
        (Attribute, 1 | 13 | 21) => Text,
        (Attribute, 2 | 3 | 7 | 8 | 20) => Number,
        (Attribute, 4 | 9) => Bytes,
        (Attribute, 5 | 10) => Message(Tensor),
        (Attribute, 6 | 11) => Message(Graph),
        (Attribute, 14 | 15) => Message(Type),
        (Attribute, 22 | 23) => Message(SparseTensor),
        (Tensor, 1 | 2 | 4 | 5 | 7 | 10 | 11 | 14) => Number,
        (Tensor, 3) => Message(Segment),
        (Tensor, 6 | 9) => Bytes,
        (Tensor, 8 | 12) => Text,
        (Tensor, 13 | 16) => Message(Entry),
        (Segment, 1 | 2) => Number,
        (SparseTensor, 1 | 2) => Message(Tensor),
        (SparseTensor, 3) => Number,
        (ValueInfo, 1 | 3) => Text,
        (ValueInfo, 2) => Message(Type),
        (ValueInfo, 4) => Message(Entry),
        (Type, 1) => Message(TensorType),
        (Type, 4) => Message(SequenceType),
        (Type, 5) => Message(MapType),
        (Type, 6) => Text,
        (Type, 7) => Message(OpaqueType),
        (Type, 8) => Message(SparseTensorType),
        (Type, 9) => Message(OptionalType),
        (TensorType | SparseTensorType | MapType, 1) => Number,
        (TensorType | SparseTensorType, 2) => Message(Shape),
        (SequenceType | OptionalType, 1) | (MapType, 2) => Message(Type),
        (OpaqueType, 1 | 2) => Text,
        (Shape, 1) => Message(Dimension),
        (Dimension, 1) => Number,
        (Dimension, 2 | 3) => Text,
        (OperatorSet, 1) => Text,
        (OperatorSet, 2) => Number,
        (Entry, 1 | 2) => Text,
        (Annotation, 1) => Text,
        (Annotation, 2) => Message(Entry),
        (Function, 1 | 4..=6 | 8 | 10 | 13) => Text,
        (Function, 7) => Message(Node),
        (Function, 9) => Message(OperatorSet),
        (Function, 11) => Message(Attribute),
        (Function, 12) => Message(ValueInfo),
        (Function, 14) => Message(Entry),
        (TrainingInfo, 1 | 2) => Message(Graph),
        (TrainingInfo, 3 | 4) => Message(Entry),
        (DeviceConfiguration, 1 | 3) => Text,
        (DeviceConfiguration, 2) => Number,
        (NodeDeviceConfiguration, 1) => Text,
        (NodeDeviceConfiguration, 2) => Message(Sharding),
        (NodeDeviceConfiguration, 3) => Number,
        (Sharding, 1) => Text,
        (Sharding, 2) => Number,
        (Sharding, 3) => Message(IntIntList),
        (Sharding, 4) => Message(ShardedDim),
        (ShardedDim, 1) => Number,
        (ShardedDim, 2) => Message(SimpleShardedDim),
        (SimpleShardedDim, 1 | 3) => Number,
        (SimpleShardedDim, 2) => Text,
        (IntIntList, 1 | 2) => Number,
        _ => return None,
    })
}

impl Kind {
    /// What a message of this kind is called in messages, and the field that tells it from its like.
    fn label(self) -> (&'static str, Option<u32>) {
        match self {
            Kind::Model => ("model", None),
            Kind::Graph => ("graph", Some(2)),
            Kind::Node => ("node", Some(3)),
            Kind::Attribute => ("attribute", Some(1)),
            Kind::Tensor => ("tensor", Some(8)),
            Kind::SparseTensor => ("sparse tensor", None),
            Kind::ValueInfo => ("value", Some(1)),
            Kind::OperatorSet => ("opset", Some(1)),
            Kind::Entry => ("metadata", Some(1)),
            Kind::Annotation => ("quantization annotation", Some(1)),
            Kind::Function => ("function", Some(1)),
            Kind::TrainingInfo => ("training info", None),
            Kind::Dimension => ("dimension", None),
            Kind::Shape => ("shape", None),
            Kind::Segment => ("segment", None),
            Kind::DeviceConfiguration | Kind::NodeDeviceConfiguration => ("device configuration", Some(1)),
            Kind::Sharding | Kind::ShardedDim | Kind::SimpleShardedDim | Kind::IntIntList => ("sharding", None),
            Kind::Type
            | Kind::TensorType
            | Kind::SequenceType
            | Kind::MapType
            | Kind::OptionalType
            | Kind::SparseTensorType
            | Kind::OpaqueType => ("type", None),
        }
    }
}

/// A field of the file that this version of ONNX does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it is: `graph 'main', node 3 'conv1'`.
    pub place: String,
    /// Its number.
    pub number: u32,
    /// The bytes it takes.
    pub length: usize,
}

/// What was found in a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    /// The first unknown fields, at most a thousand.
    pub(crate) unknown: Vec<UnknownField>,
    messages: usize,
}

/// Walk the bytes of a model. The error says what is wrong, where.
pub(crate) fn survey(bytes: &[u8]) -> Result<Survey, String> {
    let mut walk = Walk { survey: Survey::default(), path: Vec::new(), graphs: 0 };
    walk.message(Kind::Model, 0, bytes, 0)?;
    Ok(walk.survey)
}

struct Walk<'a> {
    survey: Survey,
    path: Vec<(Kind, u32, &'a [u8])>,
    graphs: usize,
}

impl<'a> Walk<'a> {
    /// Walk message `index` of its kind, which begins `offset` bytes into the file.
    fn message(&mut self, kind: Kind, index: u32, bytes: &'a [u8], offset: usize) -> Result<(), String> {
        self.survey.messages += 1;
        if self.survey.messages > MAX_MESSAGES {
            return Err(format!("more than {MAX_MESSAGES} messages"));
        }
        self.path.push((kind, index, bytes));
        self.graphs += usize::from(kind == Kind::Graph);
        if self.graphs > MAX_SUBGRAPH_DEPTH || self.path.len() > MAX_MESSAGE_DEPTH {
            return Err(format!("messages nested too deeply at byte {offset} (sub-graphs: {} levels)", self.graphs));
        }
        let mut seen = [0u32; 32];
        for field in fields(bytes) {
            let field = field.map_err(|WireError { at, reason }| {
                format!("{reason}, at byte {} ({})", offset.saturating_add(at), self.place())
            })?;
            self.field(kind, &field, bytes, offset, &mut seen)?;
        }
        self.graphs -= usize::from(kind == Kind::Graph);
        self.path.pop();
        Ok(())
    }

    fn field(
        &mut self,
        kind: Kind,
        field: &Field,
        bytes: &'a [u8],
        offset: usize,
        seen: &mut [u32; 32],
    ) -> Result<(), String> {
        let value = bytes.get(field.value.clone()).unwrap_or_default();
        let at = offset + field.value.start;
        let wrong = |what: &str, place: String| Err(format!("field {} {what}, at byte {at} ({place})", field.number));
        match role(kind, field.number) {
            None => {
                if self.survey.unknown.len() < MAX_LISTED {
                    let unknown = UnknownField { place: self.place(), number: field.number, length: field.whole.len() };
                    self.survey.unknown.push(unknown);
                }
            }
            Some(Role::Number) => {
                if field.wire == WireType::Group {
                    return wrong("is a group", self.place());
                }
            }
            Some(_) if field.wire != WireType::Bytes => return wrong("is encoded as a number", self.place()),
            Some(Role::Text) => {
                if std::str::from_utf8(value).is_err() {
                    return wrong("is not UTF-8 text", self.place());
                }
            }
            Some(Role::Bytes) => {}
            Some(Role::Message(child)) => {
                let slot = seen.get_mut(field.number as usize);
                let index = slot.map_or(0, |n| std::mem::replace(n, n.saturating_add(1)));
                self.message(child, index, value, at)?;
            }
        }
        Ok(())
    }

    /// The way to the message that is being walked.
    fn place(&self) -> String {
        let steps: Vec<String> =
            self.path.iter().skip(1).map(|(kind, index, bytes)| step(*kind, *index, bytes)).collect();
        if steps.is_empty() { "model".to_owned() } else { steps.join(", ") }
    }
}

fn step(kind: Kind, index: u32, bytes: &[u8]) -> String {
    let (label, key) = kind.label();
    let name = key.and_then(|key| {
        let field = fields(bytes).filter_map(Result::ok).find(|f| f.number == key && f.wire == WireType::Bytes)?;
        Some(String::from_utf8_lossy(bytes.get(field.value)?).into_owned()).filter(|n| !n.is_empty())
    });
    match (name, kind) {
        (Some(name), Kind::Node) => format!("node {index} '{name}'"),
        (Some(name), _) => format!("{label} '{name}'"),
        (None, Kind::Graph | Kind::Type | Kind::TensorType | Kind::Shape) => label.to_owned(),
        (None, _) => format!("{label} {index}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::path::Path;

    use super::*;

    const KINDS: [(&str, Kind); 28] = [
        ("ModelProto", Kind::Model),
        ("GraphProto", Kind::Graph),
        ("NodeProto", Kind::Node),
        ("AttributeProto", Kind::Attribute),
        ("TensorProto", Kind::Tensor),
        ("TensorProto.Segment", Kind::Segment),
        ("SparseTensorProto", Kind::SparseTensor),
        ("ValueInfoProto", Kind::ValueInfo),
        ("TypeProto", Kind::Type),
        ("TypeProto.Tensor", Kind::TensorType),
        ("TypeProto.Sequence", Kind::SequenceType),
        ("TypeProto.Map", Kind::MapType),
        ("TypeProto.Optional", Kind::OptionalType),
        ("TypeProto.SparseTensor", Kind::SparseTensorType),
        ("TypeProto.Opaque", Kind::OpaqueType),
        ("TensorShapeProto", Kind::Shape),
        ("TensorShapeProto.Dimension", Kind::Dimension),
        ("OperatorSetIdProto", Kind::OperatorSet),
        ("StringStringEntryProto", Kind::Entry),
        ("TensorAnnotation", Kind::Annotation),
        ("FunctionProto", Kind::Function),
        ("TrainingInfoProto", Kind::TrainingInfo),
        ("DeviceConfigurationProto", Kind::DeviceConfiguration),
        ("NodeDeviceConfigurationProto", Kind::NodeDeviceConfiguration),
        ("ShardingSpecProto", Kind::Sharding),
        ("ShardedDimProto", Kind::ShardedDim),
        ("SimpleShardedDimProto", Kind::SimpleShardedDim),
        ("IntIntListEntryProto", Kind::IntIntList),
    ];

    #[test]
    fn roles_are_those_of_the_proto() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let files = protox::compile([root.join("onnx-ml.proto")], [&root]).unwrap();
        let mut messages = Vec::new();
        for message in &files.file[0].message_type {
            messages.push((message.name().to_owned(), message));
            messages.extend(message.nested_type.iter().map(|n| (format!("{}.{}", message.name(), n.name()), n)));
        }
        assert_eq!(messages.len(), KINDS.len());
        for (name, message) in messages {
            let kind = KINDS.iter().find(|(n, _)| *n == name).unwrap().1;
            for number in 0..64 {
                let declared = message.field.iter().find(|f| f.number() == number as i32);
                let expected = declared.map(|field| match field.type_name.as_deref() {
                    Some(target) => {
                        let target = target.trim_start_matches(".onnx.");
                        KINDS.iter().find(|(n, _)| *n == target).map_or(Role::Number, |(_, k)| Role::Message(*k))
                    }
                    None if field.r#type() as i32 == 9 => Role::Text,
                    None if field.r#type() as i32 == 12 => Role::Bytes,
                    None => Role::Number,
                });
                assert_eq!(role(kind, number), expected, "{name}, field {number}");
            }
        }
    }

    #[test]
    fn unknown_fields_are_found_where_they_are() {
        // model { 99: "x", graph { name "g", node { name "n", 77: 1 } } }
        let bytes = b"\x9a\x06\x01x\x3a\x0b\x12\x01g\x0a\x06\x1a\x01n\xe8\x04\x01";
        let found = survey(bytes).unwrap().unknown;
        let places: Vec<(&str, u32)> = found.iter().map(|u| (u.place.as_str(), u.number)).collect();
        assert_eq!(places, [("model", 99), ("graph 'g', node 0 'n'", 77)]);
    }

    #[test]
    fn errors_name_the_place() {
        let truncated = b"\x3a\x05\x12\x01g\x0a\x06";
        let error = survey(truncated).unwrap_err();
        assert!(error.contains("byte 5 (graph 'g')"), "{error}");
        let not_text = b"\x3a\x05\x12\x01g\x0a\x00\x12\x01\xff";
        assert!(survey(not_text).unwrap_err().contains("not UTF-8"));
    }
}
