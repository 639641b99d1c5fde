//! Between tensors and ONNX Runtime's values: bytes are copied once, whatever the element type.

use bytes::Bytes;
use dendrite_onnx::{Dim, ElementType, Shape, Tensor, proto::TensorProto};
use ort::{
    AsPointer,
    memory::{AllocationDevice, Allocator},
    value::{DynTensor, TensorElementType, ValueType},
};

use crate::error::{Error, Result};

/// Pairs of one element type's two names.
const TYPES: [(ElementType, TensorElementType); 26] = [
    (ElementType::Float, TensorElementType::Float32),
    (ElementType::Uint8, TensorElementType::Uint8),
    (ElementType::Int8, TensorElementType::Int8),
    (ElementType::Uint16, TensorElementType::Uint16),
    (ElementType::Int16, TensorElementType::Int16),
    (ElementType::Int32, TensorElementType::Int32),
    (ElementType::Int64, TensorElementType::Int64),
    (ElementType::String, TensorElementType::String),
    (ElementType::Bool, TensorElementType::Bool),
    (ElementType::Float16, TensorElementType::Float16),
    (ElementType::Double, TensorElementType::Float64),
    (ElementType::Uint32, TensorElementType::Uint32),
    (ElementType::Uint64, TensorElementType::Uint64),
    (ElementType::Complex64, TensorElementType::Complex64),
    (ElementType::Complex128, TensorElementType::Complex128),
    (ElementType::Bfloat16, TensorElementType::Bfloat16),
    (ElementType::Float8E4M3Fn, TensorElementType::Float8E4M3FN),
    (ElementType::Float8E4M3Fnuz, TensorElementType::Float8E4M3FNUZ),
    (ElementType::Float8E5M2, TensorElementType::Float8E5M2),
    (ElementType::Float8E5M2Fnuz, TensorElementType::Float8E5M2FNUZ),
    (ElementType::Uint4, TensorElementType::Uint4),
    (ElementType::Int4, TensorElementType::Int4),
    (ElementType::Float4E2M1, TensorElementType::Float4E2M1),
    (ElementType::Float8E8M0, TensorElementType::Float8E8M0),
    (ElementType::Uint2, TensorElementType::Uint2),
    (ElementType::Int2, TensorElementType::Int2),
];

/// Our name of ONNX Runtime's element type.
pub(crate) fn element_type(ty: TensorElementType) -> Option<ElementType> {
    TYPES.iter().find(|(_, theirs)| *theirs == ty).map(|(ours, _)| *ours)
}

/// ONNX Runtime's name of our element type.
fn ort_type(ty: ElementType) -> TensorElementType {
    TYPES.iter().find(|(ours, _)| *ours == ty).map_or(TensorElementType::Undefined, |(_, theirs)| *theirs)
}

/// Type and shape of a port; nothing for sequences and maps. A dimension without number and name is unknown.
pub(crate) fn port_type(ty: &ValueType) -> (Option<ElementType>, Option<Shape>) {
    let ValueType::Tensor { ty, shape, dimension_symbols } = ty else { return (None, None) };
    let dims = shape.iter().enumerate().map(|(i, d)| match usize::try_from(*d) {
        Ok(n) => Dim::Known(n),
        Err(_) => match dimension_symbols.get(i) {
            Some(symbol) if !symbol.is_empty() => Dim::Symbol(symbol.clone()),
            _ => Dim::Unknown,
        },
    });
    (element_type(*ty), Some(Shape(dims.collect())))
}

/// Whether output `index` of a session has a known rank. `ort` reports none and rank 0 alike.
pub(crate) fn output_has_shape(session: &ort::session::Session, index: usize) -> Result<bool> {
    let api = ort::api();
    let mut info = std::ptr::null_mut();
    // SAFETY: the session is alive and `index` is one of its outputs; on success `info` is a type that is ours to release.
    let status = unsafe { (api.SessionGetOutputTypeInfo)(session.ptr(), index, &mut info) };
    // SAFETY: the status comes from the call above and is used once.
    unsafe { ort::Error::result_from_status(status) }.map_err(Error::run)?;
    let mut tensor = std::ptr::null();
    // SAFETY: `info` is a valid type; `tensor` becomes a part of it, or null where it is no tensor's.
    let status = unsafe { (api.CastTypeInfoToTensorInfo)(info, &mut tensor) };
    // SAFETY: as above.
    let cast = unsafe { ort::Error::result_from_status(status) }.map_err(Error::run);
    // SAFETY: `tensor` is checked, and `info`, whose part it is, is released after its last use.
    let known = unsafe {
        let known = cast.is_ok() && !tensor.is_null() && (api.TensorTypeAndShape_HasShape)(tensor);
        (api.ReleaseTypeInfo)(info);
        known
    };
    cast.map(|()| known)
}

/// A tensor in the allocator's memory; zeros where that is the host's.
pub(crate) fn allocate(allocator: &Allocator, ty: ElementType, shape: &[usize]) -> Result<DynTensor> {
    DynTensor::new(allocator, ort_type(ty), shape).map_err(Error::run)
}

/// A copy of `tensor` that belongs to ONNX Runtime.
pub(crate) fn to_ort(name: &str, tensor: &Tensor) -> Result<DynTensor> {
    if let Some(strings) = tensor.strings() {
        let strings = strings
            .iter()
            .map(|s| String::from_utf8(s.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::port(name, "a string is not UTF-8"))?;
        let shape: Vec<i64> = tensor.shape().iter().map(|d| *d as i64).collect();
        let value = ort::value::Tensor::from_string_array((shape, strings.as_slice())).map_err(Error::run)?;
        return Ok(value.upcast());
    }
    let mut value = allocate(&Allocator::default(), tensor.element_type(), tensor.shape())?;
    write(name, &mut value, tensor.bytes())?;
    Ok(value)
}

/// Overwrite the contents of a tensor in host memory.
pub(crate) fn write(name: &str, value: &mut DynTensor, bytes: &[u8]) -> Result<()> {
    let expected = host_len(name, value)?;
    if expected != bytes.len() {
        let shape = value.shape().to_vec();
        let ty = element_type(*value.data_type()).map_or("?", ElementType::name);
        return Err(Error::port(name, format!("{ty}{shape:?} takes {expected} bytes, {} were given", bytes.len())));
    }
    if !bytes.is_empty() {
        // SAFETY: the tensor lies in host memory and holds exactly `expected` bytes (both checked by `host_len` and
        // above); it belongs to us alone while `value` is borrowed mutably and no run is under way.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.data_ptr_mut().cast::<u8>(), bytes.len()) };
    }
    Ok(())
}

/// Fill a tensor in host memory with zeros.
pub(crate) fn clear(name: &str, value: &mut DynTensor) -> Result<()> {
    let len = host_len(name, value)?;
    if len > 0 {
        // SAFETY: the tensor lies in host memory and holds `len` bytes (`host_len`), for which zeros are valid; it belongs to
        // us alone while `value` is borrowed mutably and no run is under way.
        unsafe { std::ptr::write_bytes(value.data_ptr_mut().cast::<u8>(), 0, len) };
    }
    Ok(())
}

/// The contents of a tensor in host memory.
pub(crate) fn host_bytes<'a>(name: &str, value: &'a DynTensor) -> Result<&'a [u8]> {
    let len = host_len(name, value)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: the tensor lies in host memory and holds `len` initialised bytes (`host_len`); it is not written while
    // `value` is borrowed.
    Ok(unsafe { std::slice::from_raw_parts(value.data_ptr().cast::<u8>(), len) })
}

/// The size in bytes of a tensor that lies in host memory and has a raw form.
fn host_len(name: &str, value: &DynTensor) -> Result<usize> {
    if !value.memory_info().is_cpu_accessible() {
        return Err(Error::port(name, "the tensor lies in device memory"));
    }
    let count = value.shape().iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?));
    element_type(*value.data_type())
        .zip(count)
        .and_then(|(ty, n)| ty.byte_len(n))
        .ok_or_else(|| Error::port(name, "the tensor's elements have no raw form"))
}

/// Type and shape of a value.
pub(crate) fn facts(name: &str, value: &DynTensor) -> Result<(ElementType, Vec<usize>)> {
    let shape = value.shape().iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
    let ty = element_type(*value.data_type()).ok_or_else(|| Error::port(name, "unknown element type"))?;
    Ok((ty, shape))
}

/// A copy of a value that belongs to us, fetched from the device if need be.
pub(crate) fn from_ort(name: &str, value: &DynTensor) -> Result<Tensor> {
    if !value.memory_info().is_cpu_accessible() {
        let host = value.to(AllocationDevice::CPU, 0).map_err(Error::run)?;
        return from_ort(name, &host);
    }
    let (ty, shape) = facts(name, value)?;
    if ty == ElementType::String {
        let (_, strings) = value.try_extract_strings().map_err(Error::run)?;
        let proto = TensorProto {
            dims: shape.iter().map(|d| *d as i64).collect(),
            data_type: Some(ty as i32),
            string_data: strings.into_iter().map(|s| Bytes::from(s.into_bytes())).collect(),
            ..Default::default()
        };
        return Ok(Tensor::from_proto(&proto)?);
    }
    Ok(Tensor::new(ty, shape, Bytes::copy_from_slice(host_bytes(name, value)?))?)
}
