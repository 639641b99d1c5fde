//! A node's attributes: the messages of the file with typed access.

use bytes::Bytes;

use crate::{
    proto::{AttributeProto, GraphProto, TensorProto, attribute_proto::AttributeType},
    tensor::Tensor,
};

/// The attributes of a node, in the order of the file. Sub-graphs and everything else a rule does not know stay as they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attributes(Vec<AttributeProto>);

impl Attributes {
    /// No attribute.
    pub fn new() -> Self {
        Self::default()
    }

    /// The messages.
    pub fn as_slice(&self) -> &[AttributeProto] {
        &self.0
    }

    /// Attribute `name`.
    pub fn get(&self, name: &str) -> Option<&AttributeProto> {
        self.0.iter().find(|a| a.name() == name)
    }

    /// Integer `name`, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.get(name).map_or(default, |a| a.i())
    }

    /// Integer `name`, if present.
    pub fn opt_int(&self, name: &str) -> Option<i64> {
        self.get(name).map(|a| a.i())
    }

    /// Integers `name`, if present.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.get(name).map(|a| a.ints.as_slice())
    }

    /// Float `name`, or `default`.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.get(name).map_or(default, |a| a.f())
    }

    /// Float `name`, if present.
    pub fn opt_float(&self, name: &str) -> Option<f32> {
        self.get(name).map(|a| a.f())
    }

    /// Floats `name`, if present.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.get(name).map(|a| a.floats.as_slice())
    }

    /// String `name`, or `default`. A string that is not UTF-8 reads as `default`.
    pub fn str<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.get(name).and_then(|a| std::str::from_utf8(a.s()).ok()).unwrap_or(default)
    }

    /// Tensor `name`, if present.
    pub fn tensor(&self, name: &str) -> Option<&TensorProto> {
        self.get(name).and_then(|a| a.t.as_ref())
    }

    /// The sub-graphs of all attributes, in order.
    pub fn graphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.0.iter().flat_map(|a| a.g.iter().chain(a.graphs.iter()))
    }

    /// Attribute `name`, for changing it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut AttributeProto> {
        self.0.iter_mut().find(|a| a.name() == name)
    }

    /// The sub-graphs of all attributes, in order, for changing them.
    pub fn graphs_mut(&mut self) -> impl Iterator<Item = &mut GraphProto> {
        self.0.iter_mut().flat_map(|a| a.g.iter_mut().chain(a.graphs.iter_mut()))
    }

    /// Set or replace an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<AttributeValue>) {
        let mut proto = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
        let kind = match value.into() {
            AttributeValue::Int(v) => {
                proto.i = Some(v);
                AttributeType::Int
            }
            AttributeValue::Ints(v) => {
                proto.ints = v;
                AttributeType::Ints
            }
            AttributeValue::Float(v) => {
                proto.f = Some(v);
                AttributeType::Float
            }
            AttributeValue::Floats(v) => {
                proto.floats = v;
                AttributeType::Floats
            }
            AttributeValue::String(v) => {
                proto.s = Some(Bytes::from(v.into_bytes()));
                AttributeType::String
            }
            AttributeValue::Tensor(v) => {
                proto.t = Some(v.to_proto(""));
                AttributeType::Tensor
            }
            AttributeValue::Graph(v) => {
                proto.g = Some(*v);
                AttributeType::Graph
            }
        };
        proto.r#type = Some(kind as i32);
        match self.0.iter_mut().find(|a| a.name() == name) {
            Some(slot) => *slot = proto,
            None => self.0.push(proto),
        }
    }

    /// Set or replace a list of strings.
    pub fn set_strings(&mut self, name: &str, values: &[&str]) {
        self.remove(name);
        self.0.push(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Strings as i32),
            strings: values.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect(),
            ..Default::default()
        });
    }

    /// The same attributes with `name` set, for building nodes in an expression.
    pub fn with(mut self, name: &str, value: impl Into<AttributeValue>) -> Self {
        self.set(name, value);
        self
    }

    /// Remove an attribute and return it.
    pub fn remove(&mut self, name: &str) -> Option<AttributeProto> {
        let index = self.0.iter().position(|a| a.name() == name)?;
        Some(self.0.remove(index))
    }
}

impl From<Vec<AttributeProto>> for Attributes {
    fn from(protos: Vec<AttributeProto>) -> Self {
        Attributes(protos)
    }
}

/// A value an attribute can be set to.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum AttributeValue {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Floats(Vec<f32>),
    String(String),
    Tensor(Tensor),
    Graph(Box<GraphProto>),
}

macro_rules! attribute_from {
    ($($from:ty => $variant:ident $convert:expr;)*) => {
        $(impl From<$from> for AttributeValue {
            fn from(v: $from) -> Self {
                let convert: fn($from) -> _ = $convert;
                AttributeValue::$variant(convert(v))
            }
        })*
    };
}

attribute_from! {
    i64 => Int |v| v;
    Vec<i64> => Ints |v| v;
    &[i64] => Ints |v| v.to_vec();
    f32 => Float |v| v;
    Vec<f32> => Floats |v| v;
    &str => String |v| v.to_owned();
    Tensor => Tensor |v| v;
    GraphProto => Graph |v| Box::new(v);
}
