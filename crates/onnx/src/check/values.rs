//! Declared types of values, and attributes against their kind.

use super::Checker;
use crate::{
    proto::{
        AttributeProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
        tensor_shape_proto::dimension, type_proto::Value,
    },
    tensor::ElementType,
};

impl Checker<'_> {
    /// A declared value: its type, where it has one, is possible.
    pub(super) fn declared(&mut self, info: &ValueInfoProto, place: &str, needs_type: bool) {
        match &info.r#type {
            Some(r#type) => self.r#type(r#type, place, needs_type),
            None if needs_type => {
                self.warn(place, "its type is not declared", "declare it where the model is exported")
            }
            None => {}
        }
    }

    fn r#type(&mut self, r#type: &TypeProto, place: &str, needs_type: bool) {
        match &r#type.value {
            Some(Value::TensorType(t)) => self.tensor_type(t.elem_type(), t.shape.as_ref(), place),
            Some(Value::SparseTensorType(t)) => self.tensor_type(t.elem_type(), t.shape.as_ref(), place),
            Some(Value::SequenceType(t)) => {
                t.elem_type.iter().for_each(|inner| self.r#type(inner, place, needs_type));
            }
            Some(Value::OptionalType(t)) => {
                t.elem_type.iter().for_each(|inner| self.r#type(inner, place, needs_type));
            }
            Some(Value::MapType(t)) => {
                self.element_type(t.key_type(), place);
                t.value_type.iter().for_each(|inner| self.r#type(inner, place, needs_type));
            }
            Some(Value::OpaqueType(_)) => {}
            None if needs_type => self.warn(place, "its type is empty", "declare it where the model is exported"),
            None => {}
        }
    }

    fn tensor_type(&mut self, element_type: i32, shape: Option<&TensorShapeProto>, place: &str) {
        // 0 is written for values whose type was never inferred.
        if element_type != 0 {
            self.element_type(element_type, place);
        }
        for (axis, dim) in shape.iter().flat_map(|s| &s.dim).enumerate() {
            if let Some(dimension::Value::DimValue(n)) = dim.value
                && n < 0
            {
                let hint = "name the dimension, or leave it out, where its size is open";
                self.warn(place, format!("dimension {axis} is {n}"), hint);
            }
        }
    }

    fn element_type(&mut self, code: i32, place: &str) {
        if ElementType::from_code(code).is_none() {
            self.error(place, format!("unknown element type {code}"), "the model may need a newer release");
        }
    }

    /// An attribute holds what its type says. References to a function's attributes are allowed `in_function` only.
    pub(super) fn attribute(&mut self, attribute: &AttributeProto, place: &str, in_function: bool) {
        use AttributeType::*;
        if attribute.name().is_empty() {
            self.error(place, "it has no name", "");
        }
        if !attribute.ref_attr_name().is_empty() {
            if !in_function {
                let message = format!("it refers to attribute '{}' of a function", attribute.ref_attr_name());
                self.error(place, message, "only nodes of functions can do so");
            }
            return;
        }
        let present = [
            (Float, attribute.f.is_some()),
            (Int, attribute.i.is_some()),
            (String, attribute.s.is_some()),
            (Tensor, attribute.t.is_some()),
            (Graph, attribute.g.is_some()),
            (SparseTensor, attribute.sparse_tensor.is_some()),
            (TypeProto, attribute.tp.is_some()),
            (Floats, !attribute.floats.is_empty()),
            (Ints, !attribute.ints.is_empty()),
            (Strings, !attribute.strings.is_empty()),
            (Tensors, !attribute.tensors.is_empty()),
            (Graphs, !attribute.graphs.is_empty()),
            (SparseTensors, !attribute.sparse_tensors.is_empty()),
            (TypeProtos, !attribute.type_protos.is_empty()),
        ];
        let Ok(kind) = AttributeType::try_from(attribute.r#type.unwrap_or(0)) else {
            return self.error(place, format!("unknown attribute type {}", attribute.r#type.unwrap_or(0)), "");
        };
        for (other, _) in present.iter().filter(|(other, here)| *here && *other != kind && kind != Undefined) {
            let message = format!("its type is {}, but it holds {}", kind.as_str_name(), other.as_str_name());
            self.error(place, message, "");
        }
        // Numbers and strings may be left out where they are zero or empty; messages may not.
        let message = matches!(kind, Tensor | Graph | SparseTensor | TypeProto);
        if message && present.iter().any(|(other, here)| *other == kind && !here) {
            self.error(place, format!("its type is {}, but it holds none", kind.as_str_name()), "");
        }
    }
}
