//! `.csv` and `.tsv`: a table of text with a header row.
//!
//! It is read twice: once to tell what each column holds and to find every cell that is no number, and once to turn the
//! numbers into records of 8 bytes a cell. Texts are read again when they are asked for.

use std::{
    collections::HashMap,
    io::{BufReader, Read, Seek, SeekFrom},
    sync::Arc,
};

use csv::{ByteRecord, ReaderBuilder};
use dendrite_onnx::ElementType;

use crate::{
    array::{Array, Origin},
    column::{Column, Content, Numbers, Text},
    error::{Error, Result},
    spool::{Budget, Spool},
    storage::{DataFile, Storage, StorageReader},
};

const HINT: &str = "write a header row and one row a sample, with a point in numbers: pandas' to_csv(index=False)";
/// Integers beyond this are not told apart in float64.
const EXACT: u64 = 1 << 53;

type Reader = csv::Reader<BufReader<StorageReader>>;

/// Whether a file that begins with `start` is text in lines.
pub(crate) fn is(start: &[u8]) -> bool {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // The last character may be cut.
        Err(e) if start.len() - e.valid_up_to() < 4 => {
            str::from_utf8(start.get(..e.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && !text.contains('\0') && text.contains(['\n', '\r', ',', ';', '\t'])
}

/// What a cell holds.
enum Cell {
    Integer(i64),
    Float(f64),
    Text,
}

fn cell(bytes: &[u8]) -> Cell {
    let Ok(text) = std::str::from_utf8(bytes) else { return Cell::Text };
    let text = text.trim();
    if let Ok(integer) = text.parse() {
        return Cell::Integer(integer);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Cell::Float(number),
        _ if text.eq_ignore_ascii_case("true") => Cell::Integer(1),
        _ if text.eq_ignore_ascii_case("false") => Cell::Integer(0),
        _ => Cell::Text,
    }
}

/// What the first pass finds out about a column.
#[derive(Default)]
struct Seen {
    numbers: bool,
    floats: bool,
    /// An integer that float64 does not hold.
    large: bool,
    /// The first cell that is no number, as messages call it.
    text: Option<String>,
    /// The first empty cell.
    empty: Option<String>,
}

impl Seen {
    fn element_type(&self) -> ElementType {
        if self.large && !self.floats { ElementType::Int64 } else { ElementType::Double }
    }
}

/// A table whose delimiter is known.
#[derive(Clone)]
struct Table {
    file: Arc<DataFile>,
    delimiter: u8,
}

impl Table {
    fn reader(&self) -> Reader {
        let storage = Storage::whole(self.file.clone());
        ReaderBuilder::new().delimiter(self.delimiter).from_reader(BufReader::with_capacity(1 << 18, storage.reader()))
    }

    fn error(&self, e: csv::Error) -> Error {
        match e.into_kind() {
            csv::ErrorKind::Io(e) => Error::io(self.file.path())(e),
            csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                let line = pos.map_or(0, |p| p.line());
                let cells = if len == 1 { "cell" } else { "cells" };
                // What is called otherwise may not have been meant as a table.
                let named = self.file.path().extension().is_some_and(|e| e == "csv" || e == "tsv");
                let read_as = if named { "" } else { "read as CSV, " };
                let reason = format!("{read_as}line {line} has {len} {cells}, the header has {expected_len}");
                Error::data(self.file.path(), reason, "repair the line; quote cells that hold the delimiter")
            }
            other => Error::data(self.file.path(), format!("damaged table: {other:?}"), HINT),
        }
    }

    /// The line where `record` stands, from 1.
    fn line(&self, record: &ByteRecord) -> u64 {
        let Some(position) = record.position() else { return 0 };
        // Empty lines before the record count as its beginning.
        let mut reader = Storage::whole(self.file.clone()).reader();
        if reader.seek(SeekFrom::Start(position.byte())).is_err() {
            return position.line();
        }
        let before = BufReader::new(reader).bytes().map_while(|b| b.ok().filter(|b| matches!(b, b'\r' | b'\n')));
        position.line() + before.filter(|b| *b == b'\n').count() as u64
    }

    fn each(&self, mut row: impl FnMut(usize, &ByteRecord) -> Result<()>) -> Result<usize> {
        let mut reader = self.reader();
        let mut record = ByteRecord::new();
        let mut rows = 0;
        while reader.read_byte_record(&mut record).map_err(|e| self.error(e))? {
            row(rows, &record)?;
            rows += 1;
        }
        Ok(rows)
    }
}

pub(crate) fn columns(file: &Arc<DataFile>, start: &[u8], budget: &mut Budget) -> Result<Vec<Column>> {
    let table = Table { file: file.clone(), delimiter: delimiter(start) };
    let names = header(&table)?;
    let mut seen: Vec<Seen> = names.iter().map(|_| Seen::default()).collect();
    let rows = table.each(|row, record| {
        let place = || format!("line {} (row {row})", table.line(record));
        seen.iter_mut().zip(record).for_each(|(seen, bytes)| seen.look(bytes, place));
        Ok(())
    })?;
    if rows == 0 {
        return Err(Error::data(file.path(), "it holds a header and no row", "save at least one row"));
    }
    let numeric: Vec<bool> = seen.iter().map(|s| s.numbers && s.text.is_none() && s.empty.is_none()).collect();
    let storage = records(&table, &seen, &numeric, budget)?;
    let stride = numeric.iter().filter(|n| **n).count() as u64 * 8;
    let mut offset = 0;
    let mut columns = Vec::new();
    for (index, ((name, seen), numeric)) in names.iter().zip(&seen).zip(numeric).enumerate() {
        if numeric {
            let origin = Origin::new(file.path(), name);
            let kind = seen.element_type();
            let array = Array::strided(origin, kind, vec![rows], false, storage.clone(), offset, stride)?;
            let numbers = Numbers::ready(array).whole(!seen.floats);
            columns.push(Column::numbers(name, numbers));
            offset += 8;
            continue;
        }
        columns.push(match (&seen.text, &seen.empty) {
            (Some(first), None) if !seen.numbers => {
                let table = table.clone();
                let text = Text::new(rows, Some(first.clone()), move || codes(&table, index));
                Column { name: name.clone(), aliases: Vec::new(), content: Content::Text(text) }
            }
            (_, Some(at)) => Column::unusable(
                name,
                format!("column '{name}' has an empty cell in {at}"),
                "fill the cell or remove the row",
            ),
            (first, _) => {
                let reason = format!("column '{name}' holds {} among numbers", first.as_deref().unwrap_or("nothing"));
                Column::unusable(name, reason, "repair the cell; numbers that name classes need a letter in every cell")
            }
        });
    }
    Ok(columns)
}

impl Seen {
    /// Take in a cell; `place` says where it stands.
    fn look(&mut self, bytes: &[u8], place: impl Fn() -> String) {
        match cell(bytes) {
            Cell::Integer(value) => {
                self.numbers = true;
                self.large |= value.unsigned_abs() > EXACT;
            }
            Cell::Float(_) => {
                self.numbers = true;
                self.floats = true;
            }
            Cell::Text if bytes.trim_ascii().is_empty() => {
                self.empty.get_or_insert_with(place);
            }
            Cell::Text => {
                self.text.get_or_insert_with(|| format!("'{}' in {}", shortened(bytes), place()));
            }
        }
    }
}

fn shortened(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(40).collect()
}

/// The delimiter that the header holds most of, outside quotes.
fn delimiter(start: &[u8]) -> u8 {
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    let mut quoted = false;
    for byte in start {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            _ if !quoted => counts.iter_mut().filter(|(d, _)| d == byte).for_each(|(_, n)| *n += 1),
            _ => {}
        }
    }
    // The first of equals, a comma where there is none of them.
    counts.iter().rev().max_by_key(|(_, n)| *n).map_or(b',', |(d, _)| *d)
}

fn header(table: &Table) -> Result<Vec<String>> {
    let mut reader = table.reader();
    let record = reader.byte_headers().map_err(|e| table.error(e))?;
    let fail = |reason: String, hint: &str| Err(Error::data(table.file.path(), reason, hint));
    if !record.is_empty() && record.iter().all(|name| !matches!(cell(name), Cell::Text)) {
        return fail("the first line holds numbers, no names of columns".to_owned(), HINT);
    }
    let names: Vec<String> = record.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
    let mut places = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return fail(
                format!("column {} has no name", index + 1),
                "name every column in the first line; pandas writes a column without one unless to_csv(index=False)",
            );
        }
        if let Some(first) = places.insert(name, index) {
            return fail(
                format!("columns {} and {} are both called '{name}'", first + 1, index + 1),
                "give each column its own name",
            );
        }
    }
    Ok(names)
}

/// The numeric columns as records, 8 bytes a cell.
fn records(table: &Table, seen: &[Seen], numeric: &[bool], budget: &mut Budget) -> Result<Storage> {
    let mut spool = Spool::new(budget, table.file.path());
    let mut line = Vec::new();
    table.each(|_, record| {
        line.clear();
        for ((bytes, seen), _) in record.iter().zip(seen).zip(numeric).filter(|(_, numeric)| **numeric) {
            let bytes = match (cell(bytes), seen.element_type()) {
                (Cell::Integer(value), ElementType::Int64) => value.to_le_bytes(),
                (Cell::Integer(value), _) => (value as f64).to_le_bytes(),
                (Cell::Float(value), _) => value.to_le_bytes(),
                (Cell::Text, _) => {
                    let hint = "leave the file as it is while it is read";
                    return Err(Error::data(table.file.path(), "the file changed while it was read", hint));
                }
            };
            line.extend(bytes);
        }
        spool.push(&line)
    })?;
    spool.finish()
}

/// The texts of column `index`, each as the number of its first occurrence among different ones.
fn codes(table: &Table, index: usize) -> Result<crate::column::Coded> {
    let mut coded = crate::column::Coder::new(table.file.path());
    table.each(|_, record| coded.push(String::from_utf8_lossy(record.get(index).unwrap_or_default()).trim()))?;
    Ok(coded.finish())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_are_told_from_the_header() {
        assert_eq!(delimiter(b"a,b\n1;2;3"), b',');
        assert_eq!(delimiter(b"a;b;\"c,d,e,f\"\n"), b';');
        assert_eq!(delimiter(b"a\tb\n"), b'\t');
        assert_eq!(delimiter(b"single\n1\n"), b',');
    }

    #[test]
    fn text_is_told_from_other_content() {
        assert!(is("a,b\n1,\u{e4}".as_bytes()));
        assert!(is(&"a,\u{e4}".as_bytes()[..3]));
        assert!(!is(b"a,b\0"));
        assert!(!is(b"\xff\xfe\xfd\xfc,\n"));
    }
}
