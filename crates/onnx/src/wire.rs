//! The protobuf wire format, read and written field by field: what a message's bytes say before any schema is applied.

use std::ops::Range;

/// How deeply groups (an obsolete encoding that only unknown fields can have) may nest.
const MAX_GROUP_DEPTH: usize = 16;

/// How a field's value is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Bytes,
    Group,
    Fixed32,
}

/// One field of a message. Ranges are positions in the slice that was read.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// The field's number.
    pub(crate) number: u32,
    /// The encoding.
    pub(crate) wire: WireType,
    /// Key and value: what is copied to keep the field as it is.
    pub(crate) whole: Range<usize>,
    /// The value alone: the contents of a length-delimited field, the bytes of a varint or fixed one.
    pub(crate) value: Range<usize>,
}

/// Where and why bytes are not a message. `at` is a position in the slice that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireError {
    pub(crate) at: usize,
    pub(crate) reason: &'static str,
}

/// The fields of a message in the order of its bytes. After an error the iterator ends.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The fields of the message in `bytes`.
pub(crate) fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { bytes, at: 0 }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        match read_field(self.bytes, self.at, MAX_GROUP_DEPTH) {
            Ok(Some(field)) => {
                self.at = field.whole.end;
                Some(Ok(field))
            }
            Ok(None) => {
                let at = std::mem::replace(&mut self.at, self.bytes.len());
                Some(Err(WireError { at, reason: "a group ends that never began" }))
            }
            Err(error) => {
                self.at = self.bytes.len();
                Some(Err(error))
            }
        }
    }
}

/// The field at `start`; `None` if it is the end of a group.
fn read_field(bytes: &[u8], start: usize, groups: usize) -> Result<Option<Field>, WireError> {
    let fail = |at, reason| Err(WireError { at, reason });
    let (key, mut at) = read_varint(bytes, start)?;
    let number = match u32::try_from(key >> 3) {
        Ok(number) if number > 0 && number < 1 << 29 => number,
        _ => return fail(start, "a field number is out of range"),
    };
    let begin = at;
    let (wire, value) = match key & 7 {
        0 => {
            at = read_varint(bytes, at)?.1;
            (WireType::Varint, begin..at)
        }
        1 => {
            at += 8;
            (WireType::Fixed64, begin..at)
        }
        2 => {
            let (length, begin) = read_varint(bytes, at)?;
            let end = usize::try_from(length).ok().and_then(|n| begin.checked_add(n));
            let Some(end) = end.filter(|end| *end <= bytes.len()) else {
                return fail(start, "a field is longer than what remains of its message");
            };
            at = end;
            (WireType::Bytes, begin..end)
        }
        3 => {
            if groups == 0 {
                return fail(start, "groups are nested too deeply");
            }
            let end = loop {
                match read_field(bytes, at, groups - 1)? {
                    Some(field) => at = field.whole.end,
                    None => break at,
                }
            };
            let (close, after) = read_varint(bytes, end)?;
            if close >> 3 != key >> 3 {
                return fail(end, "a group ends under another number");
            }
            at = after;
            (WireType::Group, begin..end)
        }
        4 => return Ok(None),
        5 => {
            at += 4;
            (WireType::Fixed32, begin..at)
        }
        _ => return fail(start, "a field has no known encoding"),
    };
    if at > bytes.len() {
        return fail(start, "the bytes end within a field");
    }
    Ok(Some(Field { number, wire, whole: start..at, value }))
}

/// The varint at `at` and the position after it.
pub(crate) fn read_varint(bytes: &[u8], at: usize) -> Result<(u64, usize), WireError> {
    let mut value = 0u64;
    for (i, byte) in bytes.get(at..).unwrap_or_default().iter().take(10).enumerate() {
        if i == 9 && *byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, at + i + 1));
        }
    }
    let reason =
        if bytes.len().saturating_sub(at) < 10 { "the bytes end within a number" } else { "a number is too long" };
    Err(WireError { at, reason })
}

/// Append a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Append a varint field.
pub(crate) fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

/// Append a length-delimited field: a string, bytes, a message or packed numbers.
pub(crate) fn put_bytes_field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn fields_tile_the_message() {
        // 1: varint 300, 2: "ab", 3: fixed32, 4: fixed64, 5: group { 1: 0 }
        let bytes = b"\x08\xac\x02\x12\x02ab\x1d\0\0\0\0\x21\0\0\0\0\0\0\0\0\x2b\x08\0\x2c";
        let read: Vec<Field> = fields(bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read.iter().map(|f| f.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(read.iter().map(|f| f.whole.len()).sum::<usize>(), bytes.len());
        assert_eq!(&bytes[read[1].value.clone()], b"ab");
        assert_eq!(read_varint(bytes, read[0].value.start).unwrap().0, 300);
    }

    #[test]
    fn broken_bytes_are_errors() {
        for bytes in [&b"\x08"[..], b"\x12\x05ab", b"\x1d\0", b"\x2b\x08\0", b"\x2c", b"\0", b"\x0f", &[0xff; 12]] {
            assert!(fields(bytes).any(|f| f.is_err()), "{bytes:?}");
        }
    }

    #[test]
    fn varints_round_trip() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(read_varint(&out, 0).unwrap(), (value, out.len()));
        }
    }
}
