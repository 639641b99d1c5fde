//! Arrays in Fortran's order, first axis fastest, brought to rows that lie together.

use dendrite_onnx::{ElementType, tensor::element_count};

use crate::{
    array::Origin,
    cast::size_of,
    error::{Error, Result},
    spool::{Budget, Spool},
    storage::Storage,
};

/// Bytes of rows that are put together at a time.
const BLOCK: usize = 32 << 20;

/// Rewrite `source`, which holds an array of `shape` with the first axis fastest, with the last axis fastest.
pub(crate) fn rows_first(
    source: &Storage,
    element_type: ElementType,
    shape: &[usize],
    origin: &Origin,
    budget: &mut Budget,
) -> Result<Storage> {
    let (Some((rows, row_shape)), Some(size)) = (shape.split_first(), size_of(element_type)) else {
        return Ok(source.clone());
    };
    let width = element_count(row_shape).unwrap_or(0);
    if row_shape.is_empty() || width == 0 {
        return Ok(source.clone());
    }
    let step = (BLOCK / (width * size).max(1)).clamp(1, (*rows).max(1));
    let mut spool = Spool::new(budget, &origin.path);
    let mut column = vec![0; step * size];
    let mut block = vec![0; step * size * width];
    for first in (0..*rows).step_by(step) {
        let count = step.min(rows - first);
        let column = column.get_mut(..count * size).unwrap_or_default();
        for index in 0..width {
            // One element of the row, for all rows of the block, lies together in the source.
            let place = (first_axis_fastest(index, row_shape) as u64 * *rows as u64 + first as u64) * size as u64;
            source.read_at(place, column).map_err(Error::io(&*origin.path))?;
            for (slot, element) in
                block.chunks_exact_mut(size).skip(index).step_by(width).zip(column.chunks_exact(size))
            {
                slot.copy_from_slice(element);
            }
        }
        spool.push(block.get(..count * size * width).unwrap_or_default())?;
    }
    spool.finish()
}

/// Where the element that is `index`-th with the last axis fastest stands with the first axis fastest.
fn first_axis_fastest(mut index: usize, shape: &[usize]) -> usize {
    let mut stride: usize = shape.iter().product();
    let mut place = 0;
    for n in shape.iter().rev() {
        stride /= n;
        place += index % n * stride;
        index /= n;
    }
    place
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn transposed(bytes: &[u8], shape: &[usize]) -> Vec<u8> {
        let source = Storage::Memory(bytes.to_vec().into());
        let origin = Origin::new(Path::new("x"), "x");
        let mut budget = Budget::new(1 << 20);
        let storage = rows_first(&source, ElementType::Uint8, shape, &origin, &mut budget).unwrap();
        storage.slice(0, bytes.len()).unwrap().to_vec()
    }

    #[test]
    fn rows_are_put_together() {
        // [[0, 1, 2], [3, 4, 5]] with the first axis fastest.
        assert_eq!(transposed(&[0, 3, 1, 4, 2, 5], &[2, 3]), [0, 1, 2, 3, 4, 5]);
        // Element [i, j, k] of [2, 2, 2] is 4 i + 2 j + k.
        assert_eq!(transposed(&[0, 4, 2, 6, 1, 5, 3, 7], &[2, 2, 2]), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(transposed(&[5, 6], &[2]), [5, 6]);
    }
}
