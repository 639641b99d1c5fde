//! Where bytes lie: in memory, or in a range of a file that is read by position.
//!
//! Files are read by position and not mapped: what was read stays in the page cache, where the system may drop it, and a
//! file cut off while it is in use is an error instead of a signal.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::error::{Error, Result};

/// An open file that many threads read by position.
#[derive(Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    len: u64,
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl DataFile {
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>> {
        let file = File::open(path).map_err(Error::io(path))?;
        Self::from_file(file, path)
    }

    /// Take over an open file; `path` stands for it in messages.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Arc<Self>> {
        let len = file.metadata().map_err(Error::io(path))?.len();
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Ok(Arc::new(DataFile { path: path.to_owned(), len, file }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    #[cfg(unix)]
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}

/// A run of bytes.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File {
        /// The file.
        file: Arc<DataFile>,
        /// Its first byte there.
        offset: u64,
        /// The number of bytes.
        len: u64,
    },
}

impl Storage {
    /// All of a file.
    pub(crate) fn whole(file: Arc<DataFile>) -> Self {
        let len = file.len();
        Storage::File { file, offset: 0, len }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Storage::Memory(bytes) => bytes.len() as u64,
            Storage::File { len, .. } => *len,
        }
    }

    /// The part of `len` bytes from `start`, if it lies inside.
    pub(crate) fn part(&self, start: u64, len: u64) -> Option<Self> {
        let end = start.checked_add(len).filter(|end| *end <= self.len())?;
        match self {
            Storage::Memory(bytes) => {
                Some(Storage::Memory(bytes.slice(usize::try_from(start).ok()?..usize::try_from(end).ok()?)))
            }
            Storage::File { file, offset, .. } => {
                Some(Storage::File { file: file.clone(), offset: offset.checked_add(start)?, len })
            }
        }
    }

    /// The bytes from `start`, if they are in memory.
    pub(crate) fn slice(&self, start: u64, len: usize) -> Option<&[u8]> {
        match self {
            Storage::Memory(bytes) => {
                let start = usize::try_from(start).ok()?;
                bytes.get(start..start.checked_add(len)?)
            }
            Storage::File { .. } => None,
        }
    }

    /// Fill `out` with the bytes from `start`.
    pub(crate) fn read_at(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        let inside = start.checked_add(out.len() as u64).is_some_and(|end| end <= self.len());
        if !inside {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match self {
            Storage::Memory(_) => {
                let from = self.slice(start, out.len()).ok_or(ErrorKind::UnexpectedEof)?;
                out.copy_from_slice(from);
                Ok(())
            }
            Storage::File { file, offset, .. } => file.read_exact_at(offset + start, out),
        }
    }

    /// Whether the bytes are in memory.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, Storage::Memory(_))
    }

    /// A reader from the first byte on.
    pub(crate) fn reader(&self) -> StorageReader {
        StorageReader { storage: self.clone(), position: 0 }
    }
}

/// Reads a [`Storage`] front to back, with seeking.
#[derive(Debug, Clone)]
pub(crate) struct StorageReader {
    storage: Storage,
    position: u64,
}

impl Read for StorageReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.storage.len().saturating_sub(self.position);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let Some(out) = out.get_mut(..count) else { return Ok(0) };
        self.storage.read_at(self.position, out)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for StorageReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => self.storage.len().checked_add_signed(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
        };
        self.position = position.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
