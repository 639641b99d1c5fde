//! Files as bytes without copying them.

use std::{fs::File, io};

use bytes::Bytes;
use memmap2::Mmap;

/// The contents of a file, mapped read-only.
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new()); // an empty mapping is an error on some systems
    }
    // SAFETY: the mapping is private and read-only, and `Bytes` keeps it alive as long as any slice of it. What the
    // type system cannot rule out is another process truncating the file in the meantime. This program never does: it
    // replaces files by renaming over them, which leaves the mapped ones as they are.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
