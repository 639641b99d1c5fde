//! Batches, made ahead of the consumer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use crate::{
    augment::{Augment, Augmenter},
    error::{Error, Result},
    order::Order,
    samples::Samples,
};

/// Batches that wait for the consumer.
const AHEAD: usize = 2;

/// A batch of samples. Its buffers are used again when it is dropped.
#[derive(Debug, Default)]
pub struct Batch {
    /// The samples' numbers: as many as the batch size. The last batch is filled up with its first sample, or with others.
    pub rows: Vec<usize>,
    /// How many of them are no filling.
    pub count: usize,
    /// The bytes of each input, as [`Samples::read`] gives them; empty for inputs that are the same for every batch.
    pub fields: Vec<Vec<u8>>,
    /// The bytes of the target; empty where there is none.
    pub target: Vec<u8>,
    /// The weight of each sample; 0 for filling.
    pub weights: Vec<f32>,
    pool: Option<Pool>,
}

/// Batches whose buffers wait to be used again.
type Pool = Arc<Mutex<Vec<Batch>>>;

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let batch = std::mem::take(self);
            pool.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
        }
    }
}

/// An iterator over the batches of one pass through samples.
///
/// Where rows are no more than copies of memory and nothing is augmented, batches are made when they are asked for; else
/// one thread makes them ahead. Dropping the loader stops the thread.
#[derive(Debug)]
pub struct Loader {
    source: Making,
}

#[derive(Debug)]
enum Making {
    Here(Box<Producer>),
    Thread { batches: Option<Receiver<Result<Batch>>>, thread: Option<JoinHandle<()>>, left: usize },
}

impl Loader {
    /// Batches of `batch` samples in the `order` given. `augment` is what changes them, a seed, and the epoch.
    pub fn new(
        samples: &Samples,
        batch: usize,
        order: impl Into<Order>,
        augment: Option<(&Augment, u64, u64)>,
    ) -> Result<Self> {
        Self::filled(samples, batch, order, Vec::new(), augment)
    }

    /// As [`Loader::new`], the last batch filled up with the first of `filling`: where a network takes statistics over a
    /// batch, copies of one sample would falsify them. Filling has no weight all the same, and nothing changes it.
    pub fn filled(
        samples: &Samples,
        batch: usize,
        order: impl Into<Order>,
        filling: Vec<usize>,
        augment: Option<(&Augment, u64, u64)>,
    ) -> Result<Self> {
        if batch == 0 {
            return Err(Error::option("a batch holds no sample", "give a batch size of 1 or more"));
        }
        let augmenter = augment
            .filter(|(augment, ..)| !augment.is_off())
            .map(|(augment, seed, epoch)| Augmenter::new(augment, samples, seed, epoch))
            .transpose()?;
        let here = samples.is_resident() && augmenter.is_none();
        let order = order.into();
        let left = order.len().div_ceil(batch);
        let path = samples.path().to_owned();
        let (samples, pool) = (samples.clone(), Pool::default());
        let mut producer = Producer { samples, batch, order, filling, at: 0, augmenter, pool };
        if here {
            return Ok(Loader { source: Making::Here(Box::new(producer)) });
        }
        let (send, receive): (SyncSender<_>, _) = sync_channel(AHEAD);
        let thread = thread::Builder::new().name("data".to_owned()).spawn(move || {
            // Sending fails when the loader has been dropped.
            while let Some(batch) = producer.next() {
                let failed = batch.is_err();
                if send.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        let thread = Some(thread.map_err(Error::io(path))?);
        Ok(Loader { source: Making::Thread { batches: Some(receive), thread, left } })
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Making::Here(producer) => producer.next(),
            Making::Thread { batches, thread, left } => {
                *left = left.checked_sub(1)?;
                let batch = batches.as_ref().and_then(|batches| batches.recv().ok());
                if matches!(batch, Some(Ok(_))) {
                    return batch;
                }
                *left = 0;
                // Nothing more comes, though a batch is missing: the thread has panicked, and so does this one.
                if batch.is_none()
                    && let Some(Err(panic)) = thread.take().map(JoinHandle::join)
                {
                    std::panic::resume_unwind(panic);
                }
                batch
            }
        }
    }
}

impl Loader {
    /// The number of batches that are still to come.
    pub fn remaining(&self) -> usize {
        match &self.source {
            Making::Here(producer) => producer.order.len().saturating_sub(producer.at).div_ceil(producer.batch),
            Making::Thread { left, .. } => *left,
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Making::Thread { batches, thread, .. } = &mut self.source {
            // The thread must find the channel closed before it is waited for.
            drop(batches.take());
            if let Some(thread) = thread.take() {
                // A panic there has been passed on by `next`, or concerns a batch that nobody asked for.
                let _ = thread.join();
            }
        }
    }
}

#[derive(Debug)]
struct Producer {
    samples: Samples,
    batch: usize,
    order: Order,
    filling: Vec<usize>,
    at: usize,
    augmenter: Option<Augmenter>,
    pool: Pool,
}

impl Producer {
    fn next(&mut self) -> Option<Result<Batch>> {
        let mut rows = self.order.iter_from(self.at);
        let first = rows.next()?;
        let mut batch = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        batch.rows.clear();
        batch.rows.push(first);
        batch.rows.extend(rows.take(self.batch - 1));
        let count = batch.rows.len();
        batch.rows.extend(self.filling.iter().take(self.batch - count));
        batch.rows.resize(self.batch, first);
        batch.count = count;
        let filled = self.fill(&mut batch);
        batch.pool = Some(self.pool.clone());
        match filled {
            Ok(()) => {
                self.at += count;
                Some(Ok(batch))
            }
            Err(e) => {
                self.at = self.order.len();
                Some(Err(e))
            }
        }
    }

    fn fill(&self, batch: &mut Batch) -> Result<()> {
        let Batch { rows, count, fields, target, weights, .. } = batch;
        fields.resize_with(self.samples.fields().len(), Vec::new);
        for (index, (field, bytes)) in self.samples.fields().iter().zip(fields.iter_mut()).enumerate() {
            if field.per_sample {
                bytes.resize(field.row_bytes() * self.batch, 0);
                self.samples.read(index, rows, bytes)?;
            }
        }
        if let Some(field) = self.samples.target() {
            target.resize(field.row_bytes() * self.batch, 0);
            self.samples.read_target(rows, target)?;
        }
        self.samples.read_weights(rows, weights)?;
        weights.iter_mut().skip(*count).for_each(|w| *w = 0.0);
        if let Some(augmenter) = &self.augmenter {
            augmenter.apply(rows.get(..*count).unwrap_or_default(), fields, target);
        }
        Ok(())
    }
}
