//! A digest of what samples hold, so that a resumed run can tell that its data are the same.

use std::{fs::File, io::Read};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    samples::{Samples, Slot, Source},
};

/// Bytes that are hashed at a time.
const BLOCK: usize = 4 << 20;

impl Samples {
    /// SHA-256 over names, types, shapes and contents; for images over paths within the data set, sizes and the files'
    /// bytes. Reads everything once, a few MiB at a time.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        let mut digest = Sha256::new();
        digest.update((self.len() as u64).to_le_bytes());
        for name in self.classes().unwrap_or_default() {
            text(&mut digest, name);
        }
        for (role, slot) in self.slots() {
            let field = &slot.field;
            text(&mut digest, role);
            text(&mut digest, &field.name);
            text(&mut digest, field.element_type.name());
            digest.update((field.row_shape.len() as u64).to_le_bytes());
            field.row_shape.iter().for_each(|n| digest.update((*n as u64).to_le_bytes()));
            self.content(slot, &mut digest)?;
        }
        Ok(digest.finalize().into())
    }

    fn content(&self, slot: &Slot, digest: &mut Sha256) -> Result<()> {
        let (array, to, width) = match &slot.source {
            Source::Constant(tensor) => {
                digest.update(tensor.bytes());
                return Ok(());
            }
            Source::Images(images) => {
                for row in 0..self.len() {
                    let row = slot.source_rows(&[row]).first().copied().unwrap_or(usize::MAX);
                    text(digest, &images.list().relative(row).to_string_lossy());
                    file(&images.list().path(row), digest)?;
                }
                return Ok(());
            }
            // The pixels as they are stored: what is made of them is an option, not data.
            Source::Pixels { array, stored, .. } => {
                (array, dendrite_onnx::ElementType::Uint8, stored.iter().product::<usize>())
            }
            Source::Array(array) => (array, slot.field.element_type, slot.field.row_bytes()),
        };
        let step = (BLOCK / width.max(1)).max(1);
        let mut block = Vec::new();
        for first in (0..self.len()).step_by(step) {
            let rows: Vec<usize> = (first..self.len().min(first + step)).collect();
            block.resize(width * rows.len(), 0);
            array.read(&slot.source_rows(&rows), to, &mut block)?;
            digest.update(&block);
        }
        Ok(())
    }
}

/// A text with its length before it, so that neighbours do not run together.
fn text(digest: &mut Sha256, text: &str) {
    digest.update((text.len() as u64).to_le_bytes());
    digest.update(text.as_bytes());
}

fn file(path: &std::path::Path, digest: &mut Sha256) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    digest.update(file.metadata().map_err(Error::io(path))?.len().to_le_bytes());
    let mut block = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut block).map_err(Error::io(path))?;
        if count == 0 {
            return Ok(());
        }
        digest.update(block.get(..count).unwrap_or_default());
    }
}
