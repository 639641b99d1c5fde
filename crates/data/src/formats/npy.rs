//! NumPy's array format: a header as a Python literal, then the elements.
//!
//! The header is parsed here, since it is the file's word against its size: a hostile shape must be an error, in every
//! build, and a length in the header must not allocate.

use std::io::{self, Read};

use dendrite_onnx::ElementType;

use crate::{
    array::{Array, Origin, byte_len},
    column::{Column, Numbers},
    error::{Error, Result},
    spool::{Budget, Spool},
    storage::Storage,
    transpose::rows_first,
};

/// The longest header that is read; NumPy itself refuses longer ones than 10,000 bytes by default.
const LONGEST_HEADER: usize = 1 << 16;

pub(crate) const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// What a header says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    /// NumPy's type description, `<f4`.
    pub(crate) descr: String,
    pub(crate) fortran: bool,
    pub(crate) shape: Vec<usize>,
    /// Bytes before the first element.
    pub(crate) len: u64,
}

impl Header {
    /// Read a header; the reader then stands at the first element.
    pub(crate) fn read(reader: &mut (impl Read + ?Sized)) -> Result<Self, String> {
        let cut = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => "is cut off in its header".to_owned(),
            _ => format!("cannot be read: {e}"),
        };
        let mut start = [0u8; 10];
        reader.read_exact(&mut start).map_err(cut)?;
        let [a, b, c, d, e, f, major, _, low, high] = start;
        if [a, b, c, d, e, f] != *MAGIC {
            return Err("does not begin like a .npy file".to_owned());
        }
        let (len, before) = match major {
            1 => (usize::from(u16::from_le_bytes([low, high])), 10),
            2 | 3 => {
                let mut rest = [0u8; 2];
                reader.read_exact(&mut rest).map_err(cut)?;
                (u32::from_le_bytes([low, high, rest[0], rest[1]]) as usize, 12)
            }
            other => return Err(format!("is of version {other} of the .npy format, 1 to 3 are known")),
        };
        if len > LONGEST_HEADER {
            return Err(format!("has a header of {len} bytes"));
        }
        let mut text = vec![0u8; len];
        reader.read_exact(&mut text).map_err(cut)?;
        let text = String::from_utf8_lossy(&text);
        let broken = || format!("has a header that cannot be read: {}", text.trim());
        let descr = value_of(&text, "descr").ok_or_else(broken)?;
        let fortran = match value_of(&text, "fortran_order").ok_or_else(broken)? {
            v if v.starts_with("True") => true,
            v if v.starts_with("False") => false,
            _ => return Err(broken()),
        };
        let shape = value_of(&text, "shape").and_then(tuple).ok_or_else(broken)?;
        Ok(Header { descr: quoted(descr), fortran, shape, len: (before + len) as u64 })
    }

    /// The element type and whether it is big-endian, if the elements are numbers.
    fn element_type(&self) -> Option<(ElementType, bool)> {
        use ElementType::*;
        let mut chars = self.descr.chars();
        let big = match chars.next()? {
            '<' | '|' => false,
            '>' => true,
            '=' => cfg!(target_endian = "big"),
            _ => return None,
        };
        let element_type = match chars.as_str() {
            "f2" => Float16,
            "f4" => Float,
            "f8" => Double,
            "i1" => Int8,
            "i2" => Int16,
            "i4" => Int32,
            "i8" => Int64,
            "u1" => Uint8,
            "u2" => Uint16,
            "u4" => Uint32,
            "u8" => Uint64,
            "b1" => Bool,
            _ => return None,
        };
        Some((element_type, big))
    }

    /// What elements that are no numbers are, and how to save them so that they are.
    fn not_numbers(&self) -> (String, &'static str) {
        match self.descr.trim_start_matches(['<', '>', '|', '=']).chars().next() {
            Some('U' | 'S') => (
                format!("holds texts ({})", self.descr),
                "save numbers with array.astype(numpy.float32), classes as integers 0, 1, ... in the order of the model's outputs: numpy.unique(labels, return_inverse=True)[1]",
            ),
            Some('O') => (
                "holds Python objects".to_owned(),
                "save it as numbers, array.astype(numpy.float32) or numpy.int64; rows of unequal length must be padded first",
            ),
            _ => (
                format!("has elements of type {}, which are no numbers", self.descr),
                "save it as numbers: array.astype(numpy.float32), or numpy.int64 for classes; a structured array field by field",
            ),
        }
    }
}

/// The text behind `'key':`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let at = [format!("'{key}'"), format!("\"{key}\"")].iter().find_map(|k| Some(text.find(k.as_str())? + k.len()))?;
    text.get(at..)?.trim_start().strip_prefix(':').map(str::trim_start)
}

/// What stands between the quotes at the start of `text`; the start of `text` where there are none.
fn quoted(text: &str) -> String {
    let mut parts = text.splitn(3, ['\'', '"']);
    match (parts.next(), parts.next()) {
        (Some(""), Some(inner)) => inner.to_owned(),
        _ => text.chars().take(40).collect(),
    }
}

/// A tuple of dimensions.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inner, _) = text.strip_prefix('(')?.split_once(')')?;
    let parts = inner.split(',').map(|p| p.trim().trim_end_matches('L')).filter(|p| !p.is_empty());
    parts.map(|p| p.parse().ok()).collect()
}

/// Where the bytes of a `.npy` file lie.
pub(crate) enum Place {
    /// In a storage, header first.
    Stored(Storage),
    /// In something that has to be unpacked.
    Packed(Packed),
}

/// Lets a visitor read from the header on, anew with each call.
pub(crate) type Packed = Box<dyn Fn(&mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> + Send + Sync>;

/// The column of a `.npy` file.
pub(crate) fn column(origin: Origin, place: Place) -> Result<Column> {
    let name = origin.name.to_string();
    let damaged = |reason: String| origin.error(&reason, "the file is damaged: save it again with numpy");
    let header = match &place {
        Place::Stored(storage) => Header::read(&mut storage.reader()),
        Place::Packed(with_reader) => {
            let mut header = Err("is empty".to_owned());
            with_reader(&mut |reader| {
                header = Header::read(reader);
                Ok(())
            })?;
            header
        }
    };
    let header = header.map_err(damaged)?;
    let Some((element_type, big_endian)) = header.element_type() else {
        let (reason, hint) = header.not_numbers();
        return Ok(Column::unusable(name, format!("array '{}' {reason}", origin.name), hint));
    };
    let shape = header.shape.clone();
    let Some(len) = byte_len(element_type, &shape) else {
        return Err(damaged(format!("has shape {shape:?}, which overflows")));
    };
    let numbers = match place {
        Place::Stored(storage) => {
            let held = storage.len().saturating_sub(header.len);
            let Some(elements) = storage.part(header.len, len).filter(|_| held == len) else {
                return Err(damaged(format!("of shape {shape:?} takes {len} bytes, the file holds {held}")));
            };
            if header.fortran && shape.len() > 1 {
                let settings = (origin, element_type, shape.clone(), big_endian);
                Numbers::deferred(element_type, shape, move |budget| {
                    let (origin, element_type, shape, big_endian) = settings.clone();
                    let storage = rows_first(&elements, element_type, &shape, &origin, budget)?;
                    Array::new(origin, element_type, shape, big_endian, storage)
                })
            } else {
                Numbers::ready(Array::new(origin, element_type, shape, big_endian, elements)?)
            }
        }
        Place::Packed(with_reader) => Numbers::deferred(element_type, shape, move |budget| {
            let mut unpacked = None;
            with_reader(&mut |reader| {
                Header::read(reader).map_err(|e| origin.error(&e, "the file changed while it was read"))?;
                unpacked = Some(unpack(reader, len, &origin, budget)?);
                Ok(())
            })?;
            let mut storage = unpacked.unwrap_or_else(|| Storage::Memory(Default::default()));
            if header.fortran && header.shape.len() > 1 {
                let packed = if storage.is_memory() { storage.len() } else { 0 };
                storage = rows_first(&storage, element_type, &header.shape, &origin, budget)?;
                budget.give(packed);
            }
            Array::new(origin.clone(), element_type, header.shape.clone(), big_endian, storage)
        }),
    };
    Ok(Column::numbers(name, numbers))
}

/// Read to the end, no more than one byte beyond `len`.
fn unpack(reader: &mut dyn Read, len: u64, origin: &Origin, budget: &mut Budget) -> Result<Storage> {
    let mut reader = reader.take(len.saturating_add(1));
    let mut spool = Spool::new(budget, &origin.path);
    let mut block = vec![0u8; 1 << 20];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return spool.finish(),
            Ok(n) => spool.push(block.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // What the system did not say, the decoder did.
            Err(e) if e.raw_os_error().is_none() => {
                return Err(origin.error(&format!("cannot be unpacked: {e}"), "the file is damaged: save it again"));
            }
            Err(e) => return Err(Error::io(&*origin.path)(e)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Header, String> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        Header::read(&mut bytes.as_slice())
    }

    #[test]
    fn headers_of_every_spelling_are_read() {
        let found = header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }\n").unwrap();
        assert_eq!((found.descr.as_str(), found.fortran, found.shape), ("<f4", false, vec![3, 4]));
        let found = header("{\"shape\": (3L,), \"fortran_order\": True, \"descr\": \"|b1\"}").unwrap();
        assert_eq!((found.descr.as_str(), found.fortran, found.shape), ("|b1", true, vec![3]));
        assert_eq!(header("{'descr': '<f4', 'fortran_order': False, 'shape': ()}").unwrap().shape, Vec::<usize>::new());
    }

    #[test]
    fn hostile_headers_are_errors() {
        assert!(header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}").is_err());
        assert!(header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}").is_err());
        assert!(header("{}").is_err());
        let mut long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
        long.push(b'{');
        assert!(Header::read(&mut long.as_slice()).unwrap_err().contains("header of 4294967295 bytes"));
        let shape = vec![usize::MAX / 2, 3];
        let found = Header { descr: "<f8".to_owned(), fortran: false, shape, len: 0 };
        assert_eq!(byte_len(found.element_type().unwrap().0, &found.shape), None);
    }
}
