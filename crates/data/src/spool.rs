//! Bytes that come out of a decoder: kept in memory up to a budget, in an unlinked temporary file beyond it.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use crate::{
    error::{Error, Result},
    storage::{DataFile, Storage},
};

/// The bytes a data set may still keep in memory.
#[derive(Debug)]
pub(crate) struct Budget {
    remaining: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Budget { remaining: bytes }
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Reserve `bytes`, if they are there.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.remaining;
        if fits {
            self.remaining -= bytes;
        }
        fits
    }

    /// Hand `bytes` back.
    pub(crate) fn give(&mut self, bytes: u64) {
        self.remaining = self.remaining.saturating_add(bytes);
    }
}

/// Takes bytes one after another and ends as a [`Storage`].
pub(crate) struct Spool<'a> {
    budget: &'a mut Budget,
    path: &'a Path,
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
}

impl<'a> Spool<'a> {
    /// A spool within `budget`; `path` is the data set that an error concerns.
    pub(crate) fn new(budget: &'a mut Budget, path: &'a Path) -> Self {
        Spool { budget, path, memory: Vec::new(), file: None }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.file.is_none() && (self.memory.len() + bytes.len()) as u64 > self.budget.remaining() {
            let mut file = BufWriter::new(tempfile::tempfile().map_err(Error::io(std::env::temp_dir()))?);
            file.write_all(&self.memory).map_err(Error::io(std::env::temp_dir()))?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(Error::io(std::env::temp_dir())),
            None => {
                self.memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Whether nothing was pushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none() && self.memory.is_empty()
    }

    pub(crate) fn finish(self) -> Result<Storage> {
        match self.file {
            Some(file) => {
                let file = file.into_inner().map_err(|e| Error::io(std::env::temp_dir())(e.into_error()))?;
                Ok(Storage::whole(DataFile::from_file(file, self.path)?))
            }
            None => {
                // What was pushed stayed within the budget, so that this always fits.
                self.budget.take(self.memory.len() as u64);
                Ok(Storage::Memory(self.memory.into()))
            }
        }
    }
}
