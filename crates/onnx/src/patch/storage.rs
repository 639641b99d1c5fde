//! New contents for tensor messages: written into the field that held the old ones, all other fields copied.

use crate::{
    error::Result,
    patch::edit,
    tensor::{ElementType, Tensor},
    wire::{Field, WireError, WireType, fields, put_bytes_field, put_varint},
};

const RAW_DATA: u32 = 9;

/// A tensor message with the elements of `tensor` in place of its own.
pub(super) fn with_contents(message: &[u8], tensor: &Tensor) -> Result<Vec<u8>> {
    let fields = all_fields(message)?;
    let typed = typed_field(tensor.element_type());
    let storage = if fields.iter().any(|f| f.number == RAW_DATA) { RAW_DATA } else { typed };
    Ok(with_field(message, &fields, storage, |out, packed| put_elements(out, storage, packed, tensor)))
}

/// An attribute of a `Constant` node with the elements of `tensor` in place of its own. `name` is the attribute's.
pub(super) fn attribute_with_contents(message: &[u8], name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let fields = all_fields(message)?;
    let number = match name {
        "value" => {
            const TENSOR: u32 = 5;
            let mut found = fields.iter().filter(|f| f.number == TENSOR);
            let (Some(field), None) = (found.next(), found.next()) else {
                return Err(edit(
                    "a Constant holds its tensor in several pieces",
                    "write the model anew with onnx.save",
                ));
            };
            let inner = with_contents(message.get(field.value.clone()).unwrap_or_default(), tensor)?;
            return Ok(with_field(message, &fields, TENSOR, |out, _| put_bytes_field(out, TENSOR, &inner)));
        }
        "value_float" => 2,
        "value_int" => 3,
        "value_floats" => 7,
        "value_ints" => 8,
        other => return Err(edit(format!("a Constant with attribute '{other}' cannot be replaced"), "use 'value'")),
    };
    Ok(with_field(message, &fields, number, |out, packed| match tensor.element_type() {
        ElementType::Float => put_fixed::<4>(out, number, packed, WireType::Fixed32, tensor),
        _ => put_varints(out, number, packed, &varints(tensor)),
    }))
}

/// The fields of a message that has been surveyed: an error is not expected, but not a panic either.
pub(super) fn all_fields(message: &[u8]) -> Result<Vec<Field>> {
    fields(message)
        .collect::<Result<_, _>>()
        .map_err(|WireError { at, reason }| edit(format!("{reason}, at byte {at} of a message"), "check the model"))
}

/// A message whose field `number` is written anew where it first stood (at the end if it had none), its other
/// occurrences dropped. `write` is told whether the old field was packed.
fn with_field(message: &[u8], fields: &[Field], number: u32, write: impl FnOnce(&mut Vec<u8>, bool)) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    let mut write = Some(write);
    for field in fields {
        if field.number != number {
            out.extend_from_slice(message.get(field.whole.clone()).unwrap_or_default());
        } else if let Some(write) = write.take() {
            write(&mut out, field.wire == WireType::Bytes);
        }
    }
    if let Some(write) = write {
        write(&mut out, true);
    }
    out
}

/// The typed field of a tensor message that holds elements of this type.
fn typed_field(element_type: ElementType) -> u32 {
    use ElementType::*;
    match element_type {
        Float | Complex64 => 4,
        Double | Complex128 => 10,
        Int64 => 7,
        Uint64 | Uint32 => 11,
        String => 6,
        _ => 5,
    }
}

fn put_elements(out: &mut Vec<u8>, number: u32, packed: bool, tensor: &Tensor) {
    match number {
        RAW_DATA => put_bytes_field(out, number, tensor.bytes()),
        4 => put_fixed::<4>(out, number, packed, WireType::Fixed32, tensor),
        10 => put_fixed::<8>(out, number, packed, WireType::Fixed64, tensor),
        6 => tensor.strings().unwrap_or_default().iter().for_each(|s| put_bytes_field(out, number, s)),
        _ => put_varints(out, number, packed, &varints(tensor)),
    }
}

fn put_fixed<const N: usize>(out: &mut Vec<u8>, number: u32, packed: bool, wire: WireType, tensor: &Tensor) {
    if packed {
        return put_bytes_field(out, number, tensor.bytes());
    }
    let code = if wire == WireType::Fixed64 { 1 } else { 5 };
    for element in tensor.bytes().as_chunks::<N>().0 {
        put_varint(out, u64::from(number) << 3 | code);
        out.extend_from_slice(element);
    }
}

fn put_varints(out: &mut Vec<u8>, number: u32, packed: bool, values: &[u64]) {
    if packed {
        let mut inner = Vec::new();
        values.iter().for_each(|v| put_varint(&mut inner, *v));
        return put_bytes_field(out, number, &inner);
    }
    for value in values {
        put_varint(out, u64::from(number) << 3);
        put_varint(out, *value);
    }
}

/// The elements as protobuf writes them: signed ones sign-extended, half floats by their bits.
fn varints(tensor: &Tensor) -> Vec<u64> {
    use ElementType::*;
    let bytes = tensor.bytes();
    match tensor.element_type() {
        Int64 | Uint64 => bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect(),
        Int32 => bytes.as_chunks::<4>().0.iter().map(|c| i64::from(i32::from_le_bytes(*c)) as u64).collect(),
        Uint32 => bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c).into()).collect(),
        Int16 => bytes.as_chunks::<2>().0.iter().map(|c| i64::from(i16::from_le_bytes(*c)) as u64).collect(),
        Uint16 | Float16 | Bfloat16 => bytes.as_chunks::<2>().0.iter().map(|c| u16::from_le_bytes(*c).into()).collect(),
        Int8 => bytes.iter().map(|b| i64::from(*b as i8) as u64).collect(),
        _ => bytes.iter().map(|b| u64::from(*b)).collect(),
    }
}
