//! Arrays whose first axis counts rows, lying anywhere.

use std::{path::Path, sync::Arc};

use dendrite_onnx::{ElementType, Tensor, tensor::element_count};

use crate::{
    cast::{cast, first_not_finite, size_of, swap_endianness},
    error::{Error, Result},
    spool::{Budget, Spool},
    storage::Storage,
};

/// Bytes that a scan holds at a time.
const BLOCK: usize = 4 << 20;

/// What messages call an array: its file and its name.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) path: Arc<Path>,
    pub(crate) name: Arc<str>,
}

impl Origin {
    pub(crate) fn new(path: &Path, name: &str) -> Self {
        Origin { path: path.into(), name: name.into() }
    }

    pub(crate) fn error(&self, reason: &str, hint: impl Into<String>) -> Error {
        Error::data(&self.path, format!("array '{}' {reason}", self.name), hint)
    }
}

/// A view of rows in a storage. Each row's elements lie together in row-major order; rows may lie apart.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub(crate) origin: Origin,
    pub(crate) element_type: ElementType,
    pub(crate) big_endian: bool,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    pub(crate) storage: Storage,
    /// The first row's place in the storage.
    offset: u64,
    /// Bytes from one row to the next.
    stride: u64,
    /// Elements, bytes of an element.
    row_len: usize,
    size: usize,
}

impl Array {
    /// An array whose rows lie one after another and fill `storage`.
    pub(crate) fn new(
        origin: Origin,
        element_type: ElementType,
        shape: Vec<usize>,
        big_endian: bool,
        storage: Storage,
    ) -> Result<Self> {
        let expected = byte_len(element_type, &shape);
        if expected != Some(storage.len()) {
            let expected = expected.map_or_else(|| "more than there can be".to_owned(), |n| n.to_string());
            return Err(origin.error(
                &format!("of shape {shape:?} takes {expected} bytes, the file holds {}", storage.len()),
                "the file is cut off or damaged: save it again",
            ));
        }
        let stride = byte_len(element_type, shape.get(1..).unwrap_or_default()).unwrap_or(0);
        Self::strided(origin, element_type, shape, big_endian, storage, 0, stride)
    }

    /// An array whose rows begin `stride` bytes apart, the first at `offset`.
    pub(crate) fn strided(
        origin: Origin,
        element_type: ElementType,
        shape: Vec<usize>,
        big_endian: bool,
        storage: Storage,
        offset: u64,
        stride: u64,
    ) -> Result<Self> {
        let size = size_of(element_type)
            .ok_or_else(|| origin.error(&format!("holds {element_type}"), "save it as integers or floats"))?;
        let row_len = element_count(shape.get(1..).unwrap_or_default()).unwrap_or(0);
        Ok(Array { origin, element_type, big_endian, shape, storage, offset, stride, row_len, size })
    }

    /// The array of a tensor.
    pub(crate) fn from_tensor(origin: Origin, tensor: &Tensor) -> Result<Self> {
        let storage = Storage::Memory(tensor.bytes().clone());
        Self::new(origin, tensor.element_type(), tensor.shape().to_vec(), false, storage)
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of a row.
    pub(crate) fn row_len(&self) -> usize {
        self.row_len
    }

    fn row_bytes(&self) -> usize {
        self.row_len * self.size
    }

    fn contiguous(&self) -> bool {
        self.stride == self.row_bytes() as u64
    }

    /// Whether reading is no more than copying memory.
    pub(crate) fn is_resident(&self) -> bool {
        self.storage.is_memory()
    }

    /// The same rows under another row shape of equal size.
    pub(crate) fn with_row_shape(mut self, row_shape: &[usize]) -> Self {
        debug_assert_eq!(element_count(row_shape), Some(self.row_len), "a row keeps its elements");
        self.shape = [&[self.rows()], row_shape].concat();
        self
    }

    /// `other`'s columns follow this array's in each record of the same storage: both as one array.
    pub(crate) fn joined(&self, other: &Array) -> Option<Array> {
        let (Storage::Memory(a), Storage::Memory(b)) = (&self.storage, &other.storage) else {
            let (Storage::File { file: a, .. }, Storage::File { file: b, .. }) = (&self.storage, &other.storage) else {
                return None;
            };
            return Arc::ptr_eq(a, b).then(|| self.followed_by(other)).flatten();
        };
        (a.as_ptr() == b.as_ptr()).then(|| self.followed_by(other)).flatten()
    }

    fn followed_by(&self, other: &Array) -> Option<Array> {
        let follows = self.offset + self.row_bytes() as u64 == other.offset
            && self.stride == other.stride
            && self.element_type == other.element_type
            && self.rows() == other.rows();
        follows.then(|| {
            let mut joined = self.clone();
            joined.row_len += other.row_len;
            joined.shape = vec![self.rows(), joined.row_len];
            joined
        })
    }

    /// Read `rows` into `out` as elements of `to`.
    pub(crate) fn read(&self, rows: &[usize], to: ElementType, out: &mut [u8]) -> Result<()> {
        let width = self.out_width(to, rows.len(), out)?;
        let mut scratch = Vec::new();
        let mut rest = out;
        let mut at = 0;
        while let Some(first) = rows.get(at) {
            let mut count = 1;
            while self.contiguous() && rows.get(at + count) == Some(&(first + count)) {
                count += 1;
            }
            let (piece, after) = rest.split_at_mut(width * count);
            self.read_run(*first, count, to, piece, &mut scratch)?;
            rest = after;
            at += count;
        }
        Ok(())
    }

    /// Read `count` rows from `first` on.
    pub(crate) fn read_range(&self, first: usize, count: usize, to: ElementType, out: &mut [u8]) -> Result<()> {
        let width = self.out_width(to, count, out)?;
        let mut scratch = Vec::new();
        if self.contiguous() {
            return self.read_run(first, count, to, out, &mut scratch);
        }
        if width == 0 || count == 0 {
            return Ok(());
        }
        // Rows that lie apart are read with what lies between them, in one go.
        let span = self.stride as usize * (count - 1) + self.row_bytes();
        let at = self.offset + self.stride * first as u64;
        let mut block = Vec::new();
        let source = match self.storage.slice(at, span) {
            Some(source) => source,
            None => {
                block.resize(span, 0);
                self.storage.read_at(at, &mut block).map_err(Error::io(&*self.origin.path))?;
                &block
            }
        };
        for (index, (row, slot)) in source.chunks(self.stride as usize).zip(out.chunks_exact_mut(width)).enumerate() {
            let row = row.get(..self.row_bytes()).unwrap_or_default();
            self.cast_rows(first + index, row, to, slot)?;
        }
        Ok(())
    }

    /// Bytes of a row as `to`; an error where `out` does not hold `count` of them.
    fn out_width(&self, to: ElementType, count: usize, out: &[u8]) -> Result<usize> {
        let width = size_of(to).and_then(|size| size.checked_mul(self.row_len));
        match width.filter(|w| w.checked_mul(count) == Some(out.len())) {
            Some(width) => Ok(width),
            None => Err(self.origin.error(
                &format!("cannot be read as {count} rows of {to} into {} bytes", out.len()),
                "give a buffer of as many bytes as the rows take",
            )),
        }
    }

    fn read_run(
        &self,
        first: usize,
        count: usize,
        to: ElementType,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<()> {
        if first.checked_add(count).is_none_or(|end| end > self.rows()) {
            return Err(self.origin.error(
                &format!("has {} rows, row {} was asked for", self.rows(), first + count - 1),
                "rows count from 0",
            ));
        }
        let len = self.row_bytes() * count;
        let at = self.offset + self.stride * first as u64;
        if !self.big_endian
            && let Some(source) = self.storage.slice(at, len)
        {
            return self.cast_rows(first, source, to, out);
        }
        let read = |buffer: &mut [u8]| {
            self.storage.read_at(at, buffer).map_err(Error::io(&*self.origin.path))?;
            if self.big_endian {
                swap_endianness(self.size, buffer);
            }
            Ok(())
        };
        if to == self.element_type {
            return read(out);
        }
        scratch.resize(len, 0);
        read(scratch)?;
        self.cast_rows(first, scratch, to, out)
    }

    fn cast_rows(&self, first: usize, source: &[u8], to: ElementType, out: &mut [u8]) -> Result<()> {
        cast(self.element_type, source, to, out).map_err(|unfit| {
            let row = first + unfit.index / self.row_len.max(1);
            self.origin.error(
                &format!("holds a number in row {row} that {to} cannot hold"),
                format!("save it in the range of {to}, or give the model's input another type"),
            )
        })
    }

    /// Hand all rows to `sink` as elements of `to`, a few MiB at a time, after checking that every float is finite.
    pub(crate) fn scan(&self, to: ElementType, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let width = size_of(to).unwrap_or(1) * self.row_len;
        let step = (BLOCK / width.max(self.stride as usize).max(1)).max(1);
        let mut block = Vec::new();
        for first in (0..self.rows()).step_by(step) {
            let count = step.min(self.rows() - first);
            block.resize(width * count, 0);
            self.read_range(first, count, to, &mut block)?;
            if self.element_type.is_float()
                && let Some(index) = first_not_finite(to, &block)
            {
                let row = first + index / self.row_len.max(1);
                return Err(self.origin.error(
                    &format!("holds NaN, infinity or a number too large for {to} in row {row}"),
                    "remove or repair the row",
                ));
            }
            sink(&block)?;
        }
        Ok(())
    }

    /// The array checked, and in memory as `to` if the budget allows: reading is then a copy. Else it stays where it is.
    pub(crate) fn settled(self, to: ElementType, budget: &mut Budget) -> Result<Array> {
        let as_it_is = self.element_type == to && self.contiguous() && !self.big_endian && self.is_resident();
        let width = (size_of(to).unwrap_or(1) as u64).checked_mul(self.row_len as u64);
        let len = width.and_then(|w| w.checked_mul(self.rows() as u64)).filter(|_| !as_it_is);
        let Some(len) = len.filter(|len| budget.take(*len)) else {
            self.scan(to, |_| Ok(()))?;
            return Ok(self);
        };
        // Sizes were checked against what the storage holds, so that this allocation is bounded by real bytes.
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        self.scan(to, |block| {
            bytes.extend_from_slice(block);
            Ok(())
        })?;
        if self.is_resident() {
            budget.give(self.own_bytes());
        }
        Array::new(self.origin.clone(), to, self.shape.clone(), false, Storage::Memory(bytes.into()))
    }

    /// The array with its rows in the order of `columns`' rows, side by side: `[rows, k]` as `to`.
    pub(crate) fn side_by_side(
        columns: &[Array],
        to: ElementType,
        origin: Origin,
        budget: &mut Budget,
    ) -> Result<Array> {
        let mut runs: Vec<Array> = Vec::new();
        for column in columns {
            match runs.last().and_then(|run| run.joined(column)) {
                Some(joined) => {
                    runs.pop();
                    runs.push(joined);
                }
                None => runs.push(column.clone()),
            }
        }
        if let [single] = runs.as_slice() {
            return Ok(Array { origin, ..single.clone() });
        }
        let rows = runs.first().map_or(0, Array::rows);
        let size = size_of(to).unwrap_or(1);
        let width: usize = runs.iter().map(|run| run.row_len * size).sum();
        let step = (BLOCK / width.max(1)).max(1);
        let path = origin.path.clone();
        let mut spool = Spool::new(budget, &path);
        let (mut block, mut part) = (Vec::new(), Vec::new());
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            block.resize(width * count, 0);
            let mut start = 0;
            for run in &runs {
                let len = run.row_len * size;
                part.resize(len * count, 0);
                run.read_range(first, count, to, &mut part)?;
                for (slot, row) in block.chunks_exact_mut(width).zip(part.chunks_exact(len.max(1))) {
                    if let Some(slot) = slot.get_mut(start..start + len) {
                        slot.copy_from_slice(row);
                    }
                }
                start += len;
            }
            spool.push(&block)?;
        }
        let storage = spool.finish()?;
        columns.iter().filter(|c| c.is_resident()).for_each(|c| budget.give(c.own_bytes()));
        Array::new(origin, to, vec![rows, width / size.max(1)], false, storage)
    }

    /// Bytes that are let go with this array: none where they are part of a table.
    fn own_bytes(&self) -> u64 {
        let own = self.stride.saturating_mul(self.rows() as u64);
        if own == self.storage.len() { own } else { 0 }
    }

    /// All of it as a tensor of `to`.
    pub(crate) fn tensor(&self, to: ElementType) -> Result<Tensor> {
        let mut bytes = Vec::new();
        self.scan(to, |block| {
            bytes.extend_from_slice(block);
            Ok(())
        })?;
        Tensor::new(to, self.shape.clone(), bytes).map_err(|e| self.origin.error(&e.to_string(), "save the file again"))
    }
}

/// Bytes that an array takes, if the number fits.
pub(crate) fn byte_len(element_type: ElementType, shape: &[usize]) -> Option<u64> {
    (element_count(shape)? as u64).checked_mul(size_of(element_type)? as u64)
}
