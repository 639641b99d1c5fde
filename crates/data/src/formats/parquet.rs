//! `.parquet`: columns of numbers, of lists of numbers of equal length, and of texts; decoded when they are asked for.

use std::{io::BufReader, sync::Arc};

use bytes::Bytes;
use dendrite_onnx::ElementType;
use parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::reader::{ColumnReader, get_typed_column_reader},
    data_type::{
        BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
    },
    errors::{ParquetError, Result as ParquetResult},
    file::{
        reader::{ChunkReader, FileReader, Length},
        serialized_reader::SerializedFileReader,
    },
    schema::types::ColumnDescriptor,
};

use crate::{
    array::{Array, Origin},
    column::{Coded, Coder, Column, Content, Numbers, Text},
    error::{Error, Result},
    spool::{Budget, Spool},
    storage::{DataFile, Storage, StorageReader},
};

pub(crate) const MAGIC: &[u8] = b"PAR1";
const AGAIN: &str = "save the table again as parquet";
/// Numbers that are decoded at a time.
const BATCH: usize = 1 << 16;

/// The file as the decoder reads it.
struct Chunks(Storage);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<StorageReader>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let rest = self.0.part(start, self.0.len().saturating_sub(start));
        Ok(BufReader::new(rest.ok_or_else(|| outside(start))?.reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // Checked against the file before anything is allocated.
        let part = self.0.part(start, length as u64).ok_or_else(|| outside(start))?;
        let mut bytes = vec![0; length];
        part.read_at(0, &mut bytes)?;
        Ok(bytes.into())
    }
}

fn outside(start: u64) -> ParquetError {
    ParquetError::EOF(format!("the file ends before what is said to lie at byte {start}"))
}

/// An open file.
struct Table {
    file: Arc<DataFile>,
    reader: SerializedFileReader<Chunks>,
    rows: usize,
}

/// One leaf column of a table.
#[derive(Clone)]
struct Leaf {
    table: Arc<Table>,
    index: usize,
    origin: Origin,
    /// Numbers of a row, where each row is a list.
    list: Option<usize>,
}

/// What a column holds.
enum Kind {
    Numbers(ElementType),
    Text,
    Other(String),
}

pub(crate) fn columns(file: &Arc<DataFile>) -> Result<Vec<Column>> {
    let damaged = |e: ParquetError| {
        let text = e.to_string();
        let text = text.strip_prefix("Parquet error: ").unwrap_or(&text);
        Error::data(file.path(), format!("damaged .parquet: {text}"), AGAIN)
    };
    let reader = SerializedFileReader::new(Chunks(Storage::whole(file.clone()))).map_err(damaged)?;
    let metadata = reader.metadata().file_metadata();
    let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
    let schema = metadata.schema_descr_ptr();
    let table = Arc::new(Table { file: file.clone(), reader, rows });
    let mut columns: Vec<Column> = Vec::new();
    for (index, leaf) in schema.columns().iter().enumerate() {
        let name = schema.get_column_root(index).name().to_owned();
        let root = schema.get_column_root_idx(index);
        let leaves = (0..schema.num_columns()).filter(|i| schema.get_column_root_idx(*i) == root).count();
        let nested =
            leaves > 1 || leaf.max_rep_level() > 1 || (leaf.max_rep_level() == 0 && leaf.path().parts().len() > 1);
        if nested {
            if columns.last().is_none_or(|c| c.name != name) {
                let reason = format!("column '{name}' holds nested values");
                columns.push(Column::unusable(name, reason, "save plain numbers, or lists of numbers of equal length"));
            }
            continue;
        }
        let origin = Origin::new(file.path(), &name);
        let leaf_column = Leaf { table: table.clone(), index, origin, list: None };
        columns.push(column(leaf_column, leaf, name)?);
    }
    if rows == 0 || columns.is_empty() {
        return Err(Error::data(file.path(), "it holds no sample", "save at least one row"));
    }
    Ok(columns)
}

fn column(mut leaf: Leaf, descr: &ColumnDescriptor, name: String) -> Result<Column> {
    let rows = leaf.table.rows;
    let lists = descr.max_rep_level() == 1;
    match kind(descr) {
        Kind::Numbers(element_type) => {
            let mut shape = vec![rows];
            if lists && rows > 0 {
                let length = leaf.first_length(descr)?;
                leaf.list = Some(length);
                shape.push(length);
            }
            let of = shape.clone();
            let load = move |budget: &mut Budget| leaf.numbers(element_type, of.clone(), budget);
            Ok(Column::numbers(name, Numbers::deferred(element_type, shape, load)))
        }
        Kind::Text if !lists => {
            let text = Text::new(rows, None, move || leaf.texts());
            Ok(Column { name, aliases: Vec::new(), content: Content::Text(text) })
        }
        Kind::Text => Ok(Column::unusable(
            name.clone(),
            format!("column '{name}' holds lists of texts"),
            "save numbers, or one text a row for classes",
        )),
        Kind::Other(what) => Ok(Column::unusable(
            name.clone(),
            format!("column '{name}' holds {what}"),
            "save it as numbers: float32, or int64 for classes",
        )),
    }
}

fn kind(descr: &ColumnDescriptor) -> Kind {
    use ConvertedType as C;
    let other = || {
        let logical = descr.logical_type_ref().map(|l| format!(" ({l:?})")).unwrap_or_default();
        Kind::Other(format!("{}{logical}", descr.physical_type()))
    };
    let integer = |signed, unsigned| match (descr.logical_type_ref(), descr.converted_type()) {
        (Some(LogicalType::Integer(t)), _) => Kind::Numbers(if t.is_signed { signed } else { unsigned }),
        (None, C::NONE | C::INT_8 | C::INT_16 | C::INT_32 | C::INT_64) => Kind::Numbers(signed),
        (None, C::UINT_8 | C::UINT_16 | C::UINT_32 | C::UINT_64) => Kind::Numbers(unsigned),
        _ => other(),
    };
    match (descr.physical_type(), descr.logical_type_ref()) {
        (Type::BOOLEAN, _) => Kind::Numbers(ElementType::Bool),
        (Type::INT32, _) => integer(ElementType::Int32, ElementType::Uint32),
        (Type::INT64, _) => integer(ElementType::Int64, ElementType::Uint64),
        (Type::FLOAT, None) => Kind::Numbers(ElementType::Float),
        (Type::DOUBLE, None) => Kind::Numbers(ElementType::Double),
        (Type::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Float16)) => Kind::Numbers(ElementType::Float16),
        (Type::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Enum)) => Kind::Text,
        (Type::BYTE_ARRAY, None) if matches!(descr.converted_type(), C::UTF8 | C::ENUM) => Kind::Text,
        _ => other(),
    }
}

impl Leaf {
    fn damaged(&self, e: ParquetError) -> Error {
        self.origin.error(&format!("cannot be decoded: {e}"), AGAIN)
    }

    fn row_group(&self, group: usize) -> Result<ColumnReader> {
        let group = self.table.reader.get_row_group(group).map_err(|e| self.damaged(e))?;
        group.get_column_reader(self.index).map_err(|e| self.damaged(e))
    }

    /// The length of the first row's list.
    fn first_length(&self, descr: &ColumnDescriptor) -> Result<usize> {
        let (mut defined, mut repeated) = (Vec::new(), Vec::new());
        let reader = self.row_group(0)?;
        macro_rules! first {
            ($type:ty) => {
                get_typed_column_reader::<$type>(reader).read_records(
                    1,
                    Some(&mut defined),
                    Some(&mut repeated),
                    &mut Vec::new(),
                )
            };
        }
        let read = match descr.physical_type() {
            Type::BOOLEAN => first!(BoolType),
            Type::INT32 => first!(Int32Type),
            Type::INT64 => first!(Int64Type),
            Type::FLOAT => first!(FloatType),
            Type::DOUBLE => first!(DoubleType),
            _ => first!(FixedLenByteArrayType),
        };
        let (_, values, levels) = read.map_err(|e| self.damaged(e))?;
        if values == 0 || values != levels {
            return Err(self.missing(0));
        }
        Ok(values)
    }

    fn missing(&self, row: usize) -> Error {
        self.origin.error(&format!("has no value in row {row}"), "fill it, or remove the row")
    }

    fn numbers(&self, element_type: ElementType, shape: Vec<usize>, budget: &mut Budget) -> Result<Array> {
        let mut spool = Spool::new(budget, self.table.file.path());
        let mut row = 0;
        for group in 0..self.table.reader.num_row_groups() {
            let reader = self.row_group(group)?;
            let word = |v: &i32| v.to_le_bytes();
            match reader {
                ColumnReader::BoolColumnReader(_) => {
                    self.decode::<BoolType, 1>(reader, &mut row, |v| [u8::from(*v)], &mut spool)?;
                }
                ColumnReader::Int32ColumnReader(_) => {
                    self.decode::<Int32Type, 4>(reader, &mut row, word, &mut spool)?
                }
                ColumnReader::Int64ColumnReader(_) => {
                    self.decode::<Int64Type, 8>(reader, &mut row, |v| v.to_le_bytes(), &mut spool)?;
                }
                ColumnReader::FloatColumnReader(_) => {
                    self.decode::<FloatType, 4>(reader, &mut row, |v| v.to_le_bytes(), &mut spool)?;
                }
                ColumnReader::DoubleColumnReader(_) => {
                    self.decode::<DoubleType, 8>(reader, &mut row, |v| v.to_le_bytes(), &mut spool)?;
                }
                _ => {
                    let half = |v: &parquet::data_type::FixedLenByteArray| {
                        v.data().first_chunk::<2>().copied().unwrap_or_default()
                    };
                    self.decode::<FixedLenByteArrayType, 2>(reader, &mut row, half, &mut spool)?;
                }
            }
        }
        Array::new(self.origin.clone(), element_type, shape, false, spool.finish()?)
    }

    /// Decode a row group; `row` counts on.
    fn decode<T: DataType, const N: usize>(
        &self,
        reader: ColumnReader,
        row: &mut usize,
        bytes: impl Fn(&T::T) -> [u8; N],
        spool: &mut Spool,
    ) -> Result<()> {
        let mut out = Vec::new();
        self.each::<T>(reader, row, |values| {
            out.clear();
            values.iter().for_each(|v| out.extend(bytes(v)));
            spool.push(&out)
        })
    }

    /// Hand the values of a row group to `sink`, after checking that every row has as many as it should.
    fn each<T: DataType>(
        &self,
        reader: ColumnReader,
        row: &mut usize,
        mut sink: impl FnMut(&[T::T]) -> Result<()>,
    ) -> Result<()> {
        let mut reader = get_typed_column_reader::<T>(reader);
        let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let records = (BATCH / self.list.unwrap_or(1).max(1)).max(1);
        loop {
            defined.clear();
            repeated.clear();
            values.clear();
            let read = reader.read_records(records, Some(&mut defined), Some(&mut repeated), &mut values);
            let (records, count, levels) = read.map_err(|e| self.damaged(e))?;
            if records == 0 {
                return Ok(());
            }
            if count != levels {
                // The highest level says that a value is there.
                let highest = defined.iter().max().copied().unwrap_or(0).max(1);
                let place = defined.iter().position(|level| *level < highest).unwrap_or(0);
                let lists = repeated.iter().take(place + 1).filter(|r| **r == 0).count();
                return Err(self.missing(*row + if self.list.is_some() { lists.saturating_sub(1) } else { place }));
            }
            if let Some(length) = self.list {
                self.check_lists(*row, length, &repeated)?;
            }
            sink(&values)?;
            *row += records;
        }
    }

    fn check_lists(&self, row: usize, length: usize, repeated: &[i16]) -> Result<()> {
        let starts: Vec<usize> = repeated.iter().enumerate().filter(|(_, r)| **r == 0).map(|(i, _)| i).collect();
        let ends = starts.iter().skip(1).copied().chain([repeated.len()]);
        for (index, (start, end)) in starts.iter().zip(ends).enumerate() {
            if end - start != length {
                return Err(self.origin.error(
                    &format!("holds a list of {} in row {}, the first row's has {length}", end - start, row + index),
                    "give every row as many numbers, padding shorter ones",
                ));
            }
        }
        Ok(())
    }

    fn texts(&self) -> Result<Coded> {
        let mut coder = Coder::new(self.table.file.path());
        let mut row = 0;
        for group in 0..self.table.reader.num_row_groups() {
            let reader = self.row_group(group)?;
            self.each::<ByteArrayType>(reader, &mut row, |values| {
                values.iter().try_for_each(|v| coder.push(String::from_utf8_lossy(v.data()).trim()))
            })?;
        }
        if row != self.table.rows {
            return Err(self.origin.error(&format!("has {row} rows, the file says {}", self.table.rows), AGAIN));
        }
        Ok(coder.finish())
    }
}
