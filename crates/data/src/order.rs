//! The order in which samples are visited.

use std::ops::Range;

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::random::mix;

/// So many samples are shuffled in a list; the order of more is computed, so that it takes no memory.
const LISTED: usize = 1 << 20;

/// Rows of samples in the order in which they are visited.
#[derive(Debug, Clone)]
pub struct Order {
    rows: Rows,
    start: usize,
    end: usize,
}

#[derive(Debug, Clone)]
enum Rows {
    /// Each at its own place.
    Sequence,
    Listed(Vec<usize>),
    Permuted(Permutation),
}

impl Order {
    /// The rows 0 to `len`, shuffled; the order of more than 2^20 is a permutation with keys that `rng` draws.
    pub fn shuffled(len: usize, rng: &mut ChaCha8Rng) -> Self {
        if len > LISTED {
            return Order { rows: Rows::Permuted(Permutation::new(len, rng)), start: 0, end: len };
        }
        let mut rows: Vec<usize> = (0..len).collect();
        rows.shuffle(rng);
        rows.into()
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Only the first `rows`, or all where there are no more.
    #[must_use]
    pub fn first(mut self, rows: usize) -> Self {
        self.end = self.start + rows.min(self.len());
        if let Rows::Listed(rows) = &mut self.rows {
            rows.truncate(self.end);
            rows.shrink_to_fit();
        }
        self
    }

    /// All but the first `rows`.
    #[must_use]
    pub fn after(mut self, rows: usize) -> Self {
        self.start += rows.min(self.len());
        self
    }

    /// The rows from place `from` on.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        (self.start.saturating_add(from)..self.end).map_while(|place| match &self.rows {
            Rows::Sequence => Some(place),
            Rows::Listed(rows) => rows.get(place).copied(),
            Rows::Permuted(permutation) => Some(permutation.at(place)),
        })
    }

    /// The rows.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.iter_from(0)
    }
}

impl From<Vec<usize>> for Order {
    fn from(rows: Vec<usize>) -> Self {
        let end = rows.len();
        Order { rows: Rows::Listed(rows), start: 0, end }
    }
}

impl From<Range<usize>> for Order {
    fn from(Range { start, end }: Range<usize>) -> Self {
        Order { rows: Rows::Sequence, start, end: end.max(start) }
    }
}

/// A permutation of the numbers below `len`, computed place by place: a Feistel network over the next power of four, through
/// which a place goes again until it comes out below `len`.
#[derive(Debug, Clone)]
struct Permutation {
    len: u64,
    /// Bits of one half.
    half: u32,
    keys: [u64; 4],
}

impl Permutation {
    fn new(len: usize, rng: &mut ChaCha8Rng) -> Self {
        let bits = u64::BITS - (len as u64).saturating_sub(1).leading_zeros();
        Permutation { len: len as u64, half: bits.div_ceil(2).max(1), keys: rng.random() }
    }

    fn at(&self, place: usize) -> usize {
        let mask = (1 << self.half) - 1;
        let mut number = place as u64;
        loop {
            let (mut left, mut right) = (number >> self.half, number & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            number = (left << self.half) | right;
            if number < self.len {
                return number as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator;

    #[test]
    fn permutations_hold_every_number_once() {
        for len in [1, 2, 3, 17, 1000, 4096, 5000] {
            let permutation = Permutation::new(len, &mut generator(1, &[len as u64]));
            let mut rows: Vec<usize> = (0..len).map(|place| permutation.at(place)).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn computed_orders_are_as_random_as_listed_ones() {
        let len = 2 * LISTED + 3;
        let order = Order::shuffled(len, &mut generator(0, &[1]));
        assert!(matches!(order.rows, Rows::Permuted(_)));
        let other = Order::shuffled(len, &mut generator(0, &[2]));
        let same = order.iter().zip(other.iter()).filter(|(a, b)| a == b).count();
        assert!(same < 20, "{same} rows at the same place under another seed");
        // Rank correlation with the place, and of neighbours: with so many rows both spread by 7e-4 around 0.
        let scaled: Vec<f64> = order.iter().map(|row| row as f64 / len as f64 - 0.5).collect();
        let correlation = |a: &mut dyn Iterator<Item = f64>| a.sum::<f64>() / len as f64 * 12.0;
        let place = correlation(&mut scaled.iter().enumerate().map(|(i, r)| (i as f64 / len as f64 - 0.5) * r));
        let next = correlation(&mut scaled.windows(2).map(|pair| pair[0] * pair[1]));
        assert!(place.abs() < 4e-3 && next.abs() < 4e-3, "{place} {next}");
    }

    #[test]
    fn parts_of_an_order_are_those_of_its_list() {
        for order in [Order::from(0..10), Order::shuffled(10, &mut generator(3, &[]))] {
            let all: Vec<usize> = order.iter().collect();
            let part = order.clone().after(3).first(4);
            assert_eq!(part.iter().collect::<Vec<_>>(), all[3..7]);
            assert_eq!(part.iter_from(2).collect::<Vec<_>>(), all[5..7]);
            assert_eq!((part.len(), part.is_empty(), order.after(20).len()), (4, false, 0));
        }
    }
}
