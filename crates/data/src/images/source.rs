//! Reading images as rows, with a cache of decoded and resized pixels.

use std::{
    num::NonZero,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{ImageList, Plan, decode::decode};
use crate::error::Result;

/// Images of a data set as rows of an input.
#[derive(Debug)]
pub(crate) struct ImageSource {
    list: Arc<ImageList>,
    plan: Plan,
    cached: Vec<OnceLock<Box<[u8]>>>,
    /// Images that may still be cached.
    room: AtomicUsize,
}

impl ImageSource {
    /// Read `list` by `plan`, keeping up to `cache` bytes of pixels.
    pub(crate) fn new(list: Arc<ImageList>, plan: Plan, cache: usize) -> Self {
        let cached = (0..list.len()).map(|_| OnceLock::new()).collect();
        let room = AtomicUsize::new(cache / plan.pixel_bytes().max(1));
        ImageSource { list, plan, cached, room }
    }

    pub(crate) fn list(&self) -> &ImageList {
        &self.list
    }

    /// Read `rows` into `out`. Images that are not cached are decoded on as many threads as there are cores, up to four.
    pub(crate) fn read(&self, rows: &[usize], out: &mut [u8]) -> Result<()> {
        let width = self.plan.row_bytes().max(1);
        let missing = rows.iter().filter(|row| self.cached.get(**row).is_none_or(|slot| slot.get().is_none())).count();
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = cores.min(4).min(missing);
        if threads < 2 {
            return self.read_here(rows, out);
        }
        let share = rows.len().div_ceil(threads);
        thread::scope(|scope| {
            let parts = rows.chunks(share).zip(out.chunks_mut(share * width));
            let handles: Vec<_> = parts.map(|(rows, out)| scope.spawn(move || self.read_here(rows, out))).collect();
            handles.into_iter().try_for_each(|handle| match handle.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn read_here(&self, rows: &[usize], out: &mut [u8]) -> Result<()> {
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(self.plan.row_bytes().max(1))) {
            match self.cached.get(*row) {
                Some(slot) => self.read_row(*row, slot, out)?,
                None => self.plan.write(&self.decoded(*row)?, out),
            }
        }
        Ok(())
    }

    fn read_row(&self, row: usize, slot: &OnceLock<Box<[u8]>>, out: &mut [u8]) -> Result<()> {
        if let Some(pixels) = slot.get() {
            self.plan.write(pixels, out);
            return Ok(());
        }
        let pixels = self.decoded(row)?;
        self.plan.write(&pixels, out);
        let take = |room: usize| room.checked_sub(1);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            && slot.set(pixels.into_boxed_slice()).is_err()
        {
            // Another thread was faster.
            self.room.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn decoded(&self, row: usize) -> Result<Vec<u8>> {
        Ok(self.plan.pixels(decode(&self.list.path(row), self.plan.channels())?))
    }
}
