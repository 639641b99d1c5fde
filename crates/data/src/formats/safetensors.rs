//! `.safetensors`: a JSON header, then tensors, read where they lie.

use std::sync::Arc;

use dendrite_onnx::ElementType;
use safetensors::{Dtype, tensor::Metadata};

use crate::{
    array::{Array, Origin},
    column::{Column, Numbers},
    error::{Error, Result},
    storage::{DataFile, Storage},
};

/// The longest header that is read, the format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;
const AGAIN: &str = "save the file again with safetensors";

/// Whether a file of `len` bytes that begins with `start` is of this kind.
pub(crate) fn is(start: &[u8], len: u64) -> bool {
    let Some((size, rest)) = start.split_first_chunk::<8>() else { return false };
    let size = u64::from_le_bytes(*size);
    size >= 2 && size <= LONGEST_HEADER.min(len.saturating_sub(8)) && rest.first() == Some(&b'{')
}

pub(crate) fn columns(file: &Arc<DataFile>) -> Result<Vec<Column>> {
    let damaged = |reason: String| Error::data(file.path(), format!("damaged .safetensors: {reason}"), AGAIN);
    let whole = Storage::whole(file.clone());
    let read = |start, out: &mut [u8]| whole.read_at(start, out).map_err(Error::io(file.path()));
    let mut size = [0u8; 8];
    read(0, &mut size)?;
    let len = u64::from_le_bytes(size);
    if len > LONGEST_HEADER || len > file.len().saturating_sub(8) {
        return Err(damaged(format!("its header takes {len} bytes, the file holds {}", file.len())));
    }
    let mut header = vec![0u8; len as usize];
    read(8, &mut header)?;
    // Reading it checks that the tensors follow each other and that offsets, shapes and types agree.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
    let mut columns = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let origin = Origin::new(file.path(), &name);
        let Some(element_type) = element_type(info.dtype) else {
            let reason = format!("array '{name}' has elements of type {}", info.dtype);
            columns.push(Column::unusable(&name, reason, "save it as float32, or int64 for classes"));
            continue;
        };
        let (start, end) = info.data_offsets;
        let part = whole.part(8 + len + start as u64, end.saturating_sub(start) as u64);
        let part = part.ok_or_else(|| origin.error("lies outside the file, which is cut off", AGAIN))?;
        let array = Array::new(origin, element_type, info.shape.clone(), false, part)?;
        columns.push(Column::numbers(&name, Numbers::ready(array)));
    }
    if columns.is_empty() {
        return Err(Error::data(file.path(), "it holds no array", AGAIN));
    }
    Ok(columns)
}

fn element_type(dtype: Dtype) -> Option<ElementType> {
    use ElementType::*;
    Some(match dtype {
        Dtype::BOOL => Bool,
        Dtype::U8 => Uint8,
        Dtype::I8 => Int8,
        Dtype::I16 => Int16,
        Dtype::U16 => Uint16,
        Dtype::F16 => Float16,
        Dtype::BF16 => Bfloat16,
        Dtype::I32 => Int32,
        Dtype::U32 => Uint32,
        Dtype::F32 => Float,
        Dtype::F64 => Double,
        Dtype::I64 => Int64,
        Dtype::U64 => Uint64,
        _ => return None,
    })
}
