//! Element types and dense tensors.
//!
//! A tensor's bytes are little-endian and may lie unaligned in a memory map: they are read by copying elements, never by
//! casting a pointer.

use bytes::Bytes;
use half::{bf16, f16};

use crate::{
    error::{Error, Result},
    proto::TensorProto,
};

/// The type of a tensor's elements, by its number in ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
#[allow(missing_docs)] // the names are ONNX's own
pub enum ElementType {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    Bfloat16 = 16,
    Float8E4M3Fn = 17,
    Float8E4M3Fnuz = 18,
    Float8E5M2 = 19,
    Float8E5M2Fnuz = 20,
    Uint4 = 21,
    Int4 = 22,
    Float4E2M1 = 23,
    Float8E8M0 = 24,
    Uint2 = 25,
    Int2 = 26,
}

impl ElementType {
    /// The type with ONNX's number `code`.
    pub fn from_code(code: i32) -> Option<Self> {
        use ElementType::*;
        const ALL: [ElementType; 26] = [
            Float,
            Uint8,
            Int8,
            Uint16,
            Int16,
            Int32,
            Int64,
            String,
            Bool,
            Float16,
            Double,
            Uint32,
            Uint64,
            Complex64,
            Complex128,
            Bfloat16,
            Float8E4M3Fn,
            Float8E4M3Fnuz,
            Float8E5M2,
            Float8E5M2Fnuz,
            Uint4,
            Int4,
            Float4E2M1,
            Float8E8M0,
            Uint2,
            Int2,
        ];
        ALL.into_iter().find(|t| *t as i32 == code)
    }

    /// Bits of one element in `raw_data`; `None` for strings, which have no raw form.
    pub fn bits(self) -> Option<usize> {
        use ElementType::*;
        Some(match self {
            String => return None,
            Uint2 | Int2 => 2,
            Uint4 | Int4 | Float4E2M1 => 4,
            Uint8 | Int8 | Bool | Float8E4M3Fn | Float8E4M3Fnuz | Float8E5M2 | Float8E5M2Fnuz | Float8E8M0 => 8,
            Uint16 | Int16 | Float16 | Bfloat16 => 16,
            Float | Int32 | Uint32 => 32,
            Int64 | Uint64 | Double | Complex64 => 64,
            Complex128 => 128,
        })
    }

    /// Bytes that `count` elements take in `raw_data`; `None` for strings and where the number does not fit.
    pub fn byte_len(self, count: usize) -> Option<usize> {
        Some(self.bits()?.checked_mul(count)?.div_ceil(8))
    }

    /// Whether gradients can flow through values of this type.
    pub fn is_float(self) -> bool {
        use ElementType::*;
        matches!(self, Float | Float16 | Bfloat16 | Double)
    }

    /// The name used in messages and text output: `float32`, `int64`, ...
    pub fn name(self) -> &'static str {
        use ElementType::*;
        match self {
            Float => "float32",
            Uint8 => "uint8",
            Int8 => "int8",
            Uint16 => "uint16",
            Int16 => "int16",
            Int32 => "int32",
            Int64 => "int64",
            String => "string",
            Bool => "bool",
            Float16 => "float16",
            Double => "float64",
            Uint32 => "uint32",
            Uint64 => "uint64",
            Complex64 => "complex64",
            Complex128 => "complex128",
            Bfloat16 => "bfloat16",
            Float8E4M3Fn => "float8e4m3fn",
            Float8E4M3Fnuz => "float8e4m3fnuz",
            Float8E5M2 => "float8e5m2",
            Float8E5M2Fnuz => "float8e5m2fnuz",
            Uint4 => "uint4",
            Int4 => "int4",
            Float4E2M1 => "float4e2m1",
            Float8E8M0 => "float8e8m0",
            Uint2 => "uint2",
            Int2 => "int2",
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A dense tensor: element type, shape, little-endian bytes in row-major order.
///
/// Cloning is cheap: the bytes are shared. Strings are kept as their own variant of data because they have no raw form.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    element_type: ElementType,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Debug, Clone, PartialEq)]
enum Data {
    Raw(Bytes),
    Strings(Vec<Bytes>),
}

impl Tensor {
    /// A tensor over `bytes`, which must be exactly as long as type and shape say.
    pub fn new(element_type: ElementType, shape: Vec<usize>, bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        let expected = element_count(&shape).and_then(|n| element_type.byte_len(n));
        if expected != Some(bytes.len()) {
            return Err(Error::Tensor {
                name: String::new(),
                reason: format!("{element_type}{shape:?} does not take {} bytes", bytes.len()),
            });
        }
        Ok(Tensor { element_type, shape, data: Data::Raw(bytes) })
    }

    /// A float32 tensor. `values.len()` must be the product of `shape`.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        Self::from_elements(ElementType::Float, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A float64 tensor. `values.len()` must be the product of `shape`.
    pub fn from_f64(shape: &[usize], values: &[f64]) -> Self {
        Self::from_elements(ElementType::Double, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An int64 tensor. `values.len()` must be the product of `shape`.
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Self {
        Self::from_elements(ElementType::Int64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A one-dimensional int64 tensor: the form that axes, pads and shapes take.
    pub fn int64s(values: &[i64]) -> Self {
        Self::from_i64(&[values.len()], values)
    }

    /// A rank-0 tensor of `element_type` holding `value` rounded to it.
    pub fn scalar(element_type: ElementType, value: f64) -> Self {
        Self::filled(element_type, &[], value)
    }

    /// A tensor whose every element is `value` rounded to `element_type`, which must be a float, an 8-, 32- or 64-bit
    /// integer or a bool; other types yield zeros.
    pub fn filled(element_type: ElementType, shape: &[usize], value: f64) -> Self {
        use ElementType::*;
        let one: Vec<u8> = match element_type {
            Float => (value as f32).to_le_bytes().to_vec(),
            Double => value.to_le_bytes().to_vec(),
            Float16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Bfloat16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Int64 => (value as i64).to_le_bytes().to_vec(),
            Int32 => (value as i32).to_le_bytes().to_vec(),
            Uint8 => vec![value as u8],
            Int8 => (value as i8).to_le_bytes().to_vec(),
            Bool => vec![u8::from(value != 0.0)],
            other => vec![0; other.bits().unwrap_or(8).div_ceil(8)],
        };
        let count: usize = shape.iter().product();
        Self::from_elements(element_type, shape, one.repeat(count))
    }

    fn from_elements(element_type: ElementType, shape: &[usize], bytes: Vec<u8>) -> Self {
        debug_assert_eq!(
            element_count(shape).and_then(|n| element_type.byte_len(n)),
            Some(bytes.len()),
            "elements and shape disagree"
        );
        Tensor { element_type, shape: shape.to_vec(), data: Data::Raw(bytes.into()) }
    }

    /// The element type.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The little-endian bytes; empty for a tensor of strings.
    pub fn bytes(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match &self.data {
            Data::Raw(bytes) => bytes,
            Data::Strings(_) => &EMPTY,
        }
    }

    /// The strings of a tensor of strings.
    pub fn strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(s) => Some(s),
            Data::Raw(_) => None,
        }
    }

    /// The same elements under another shape of equal size.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        (element_count(shape)? == self.len()).then(|| Tensor {
            element_type: self.element_type,
            shape: shape.to_vec(),
            data: self.data.clone(),
        })
    }

    /// The elements as float32, if the type is a float or an integer of at least 8 bits.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match self.element_type {
            ElementType::Float => Some(chunks::<4>(self.bytes()).map(f32::from_le_bytes).collect()),
            _ => Some(self.to_f64()?.into_iter().map(|v| v as f32).collect()),
        }
    }

    /// The elements as float64, if the type is a float, a bool or an integer of at least 8 bits.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        use ElementType::*;
        let b = self.bytes();
        Some(match self.element_type {
            Float => chunks::<4>(b).map(|c| f32::from_le_bytes(c).into()).collect(),
            Double => chunks::<8>(b).map(f64::from_le_bytes).collect(),
            Float16 => chunks::<2>(b).map(|c| f16::from_le_bytes(c).to_f64()).collect(),
            Bfloat16 => chunks::<2>(b).map(|c| bf16::from_le_bytes(c).to_f64()).collect(),
            _ => self.to_i64()?.into_iter().map(|v| v as f64).collect(),
        })
    }

    /// The elements as int64, if the type is a bool or an integer of at least 8 bits.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        use ElementType::*;
        let b = self.bytes();
        Some(match self.element_type {
            Int64 => chunks::<8>(b).map(i64::from_le_bytes).collect(),
            Uint64 => chunks::<8>(b).map(|c| u64::from_le_bytes(c) as i64).collect(),
            Int32 => chunks::<4>(b).map(|c| i32::from_le_bytes(c).into()).collect(),
            Uint32 => chunks::<4>(b).map(|c| u32::from_le_bytes(c).into()).collect(),
            Int16 => chunks::<2>(b).map(|c| i16::from_le_bytes(c).into()).collect(),
            Uint16 => chunks::<2>(b).map(|c| u16::from_le_bytes(c).into()).collect(),
            Int8 => b.iter().map(|c| i64::from(*c as i8)).collect(),
            Uint8 | Bool => b.iter().map(|c| i64::from(*c)).collect(),
            _ => return None,
        })
    }

    /// The tensor a message describes. External data must have been resolved by [`crate::Model`] first.
    pub fn from_proto(proto: &TensorProto) -> Result<Self> {
        let fail = |reason: String| Error::Tensor { name: proto.name().to_owned(), reason };
        let code = proto.data_type.unwrap_or(0);
        let element_type = ElementType::from_code(code).ok_or_else(|| fail(format!("unknown element type {code}")))?;
        let shape = proto
            .dims
            .iter()
            .map(|d| usize::try_from(*d).map_err(|_| fail(format!("negative dimension {d}"))))
            .collect::<Result<Vec<_>>>()?;
        let count = element_count(&shape).ok_or_else(|| fail(format!("shape {shape:?} overflows")))?;
        if proto.data_location == Some(1) {
            return Err(fail("external data was not loaded".to_owned()));
        }
        if element_type == ElementType::String {
            if proto.string_data.len() != count {
                return Err(fail(format!("{} strings for shape {shape:?}", proto.string_data.len())));
            }
            return Ok(Tensor { element_type, shape, data: Data::Strings(proto.string_data.clone()) });
        }
        let expected = element_type.byte_len(count).ok_or_else(|| fail(format!("shape {shape:?} overflows")))?;
        let bytes = match &proto.raw_data {
            Some(raw) => raw.clone(),
            None => typed_fields(proto, element_type).into(),
        };
        if bytes.len() != expected {
            return Err(fail(format!(
                "{element_type}{shape:?} takes {expected} bytes, the file holds {}",
                bytes.len()
            )));
        }
        Ok(Tensor { element_type, shape, data: Data::Raw(bytes) })
    }

    /// The message of this tensor under `name`, with its elements in `raw_data`.
    pub fn to_proto(&self, name: &str) -> TensorProto {
        let mut proto = TensorProto {
            dims: self.shape.iter().map(|d| *d as i64).collect(),
            data_type: Some(self.element_type as i32),
            name: (!name.is_empty()).then(|| name.to_owned()),
            ..Default::default()
        };
        match &self.data {
            Data::Raw(bytes) => proto.raw_data = Some(bytes.clone()),
            Data::Strings(strings) => proto.string_data = strings.clone(),
        }
        proto
    }
}

/// The product of the dimensions, if it fits.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// The elements of a tensor written in one of protobuf's typed fields, as little-endian bytes.
fn typed_fields(proto: &TensorProto, element_type: ElementType) -> Vec<u8> {
    use ElementType::*;
    match element_type {
        Float | Complex64 => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Double | Complex128 => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Int64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Uint64 => proto.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Uint32 => proto.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
        Int32 => proto.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Uint16 | Int16 | Float16 | Bfloat16 => {
            proto.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect()
        }
        // 8-bit types hold one element an entry; 4- and 2-bit types hold one packed byte an entry.
        _ => proto.int32_data.iter().map(|v| *v as u8).collect(),
    }
}
