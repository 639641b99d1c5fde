//! Between tensors and tract's.

use dendrite_onnx::{ElementType, Tensor};
use half::f16;
use tract_onnx::prelude::{DatumType, Tensor as TractTensor, tract_ndarray::ArrayViewD};

use crate::error::{Error, Result};

/// A type that both sides hold as plain little-endian elements.
trait Element: tract_onnx::prelude::Datum + Copy {
    const SIZE: usize;
    fn read(bytes: &[u8]) -> Self;
    fn put(self, bytes: &mut Vec<u8>);
}

macro_rules! element {
    ($($ty:ty),*) => {
        $(impl Element for $ty {
            const SIZE: usize = std::mem::size_of::<$ty>();
            fn read(bytes: &[u8]) -> Self {
                bytes.try_into().map_or_else(|_| Default::default(), <$ty>::from_le_bytes)
            }
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}

element!(f32, f64, f16, u8, i8, u16, i16, u32, i32, u64, i64);

impl Element for bool {
    const SIZE: usize = 1;
    fn read(bytes: &[u8]) -> Self {
        bytes.first().is_some_and(|b| *b != 0)
    }
    fn put(self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self));
    }
}

/// tract's copy of a tensor.
pub(crate) fn to_tract(name: &str, tensor: &Tensor) -> Result<TractTensor> {
    fn make<T: Element>(tensor: &Tensor) -> Result<TractTensor, String> {
        let elements: Vec<T> = tensor.bytes().chunks_exact(T::SIZE).map(T::read).collect();
        TractTensor::from_shape(tensor.shape(), &elements).map_err(|e| format!("{e:#}"))
    }
    let make = match tensor.element_type() {
        ElementType::Float => make::<f32>,
        ElementType::Double => make::<f64>,
        ElementType::Float16 => make::<f16>,
        ElementType::Bool => make::<bool>,
        ElementType::Uint8 => make::<u8>,
        ElementType::Int8 => make::<i8>,
        ElementType::Uint16 => make::<u16>,
        ElementType::Int16 => make::<i16>,
        ElementType::Uint32 => make::<u32>,
        ElementType::Int32 => make::<i32>,
        ElementType::Uint64 => make::<u64>,
        ElementType::Int64 => make::<i64>,
        other => return Err(Error::Feed { name: name.to_owned(), reason: format!("tract takes no {other}") }),
    };
    make(tensor).map_err(|reason| Error::Feed { name: name.to_owned(), reason })
}

/// Our copy of a tensor of tract's. Its symbolic integers are int64.
pub(crate) fn from_tract(name: &str, tensor: &TractTensor) -> Result<Tensor> {
    fn bytes<T: Element>(tensor: &TractTensor) -> Result<Vec<u8>, String> {
        let view: ArrayViewD<T> = tensor.to_plain_array_view::<T>().map_err(|e| format!("{e:#}"))?;
        let mut bytes = Vec::with_capacity(view.len() * T::SIZE);
        view.iter().for_each(|v| v.put(&mut bytes));
        Ok(bytes)
    }
    let fail = |reason: String| Error::Feed { name: name.to_owned(), reason };
    let datum = tensor.datum_type();
    if datum == DatumType::TDim {
        let plain = tensor.cast_to::<i64>().map_err(|e| fail(format!("{e:#}")))?;
        return from_tract(name, &plain);
    }
    let (element_type, bytes) = match datum {
        DatumType::F32 => (ElementType::Float, bytes::<f32>(tensor)),
        DatumType::F64 => (ElementType::Double, bytes::<f64>(tensor)),
        DatumType::F16 => (ElementType::Float16, bytes::<f16>(tensor)),
        DatumType::Bool => (ElementType::Bool, bytes::<bool>(tensor)),
        DatumType::U8 => (ElementType::Uint8, bytes::<u8>(tensor)),
        DatumType::I8 => (ElementType::Int8, bytes::<i8>(tensor)),
        DatumType::U16 => (ElementType::Uint16, bytes::<u16>(tensor)),
        DatumType::I16 => (ElementType::Int16, bytes::<i16>(tensor)),
        DatumType::U32 => (ElementType::Uint32, bytes::<u32>(tensor)),
        DatumType::I32 => (ElementType::Int32, bytes::<i32>(tensor)),
        DatumType::U64 => (ElementType::Uint64, bytes::<u64>(tensor)),
        DatumType::I64 => (ElementType::Int64, bytes::<i64>(tensor)),
        other => return Err(fail(format!("tract returns {other:?}, which has no place in a model"))),
    };
    Ok(Tensor::new(element_type, tensor.shape().to_vec(), bytes.map_err(fail)?)?)
}
