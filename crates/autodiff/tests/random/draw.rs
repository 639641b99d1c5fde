//! Seeded draws: shapes, axes, numbers.

use std::collections::HashMap;

use dendrite_onnx::{ElementType, Tensor};

use crate::case::{Array, Input};

/// No input has more elements than this.
const MOST_ELEMENTS: usize = 60;

/// The splitmix64 generator.
pub(crate) struct Draw(u64);

impl Draw {
    /// The same draws for the same operator and number, on every machine.
    pub(crate) fn new(operator: &str, number: usize) -> Self {
        let hash = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        Draw(operator.bytes().chain(number.to_le_bytes()).fold(0xCBF2_9CE4_8422_2325, hash))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0, 1, ... `count` - 1.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.next() >> 16) as usize % count
    }

    /// A size from `least` to `most`.
    pub(crate) fn size(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most + 1 - least)
    }

    /// An integer from `least` to `most`.
    pub(crate) fn int(&mut self, least: i64, most: i64) -> i64 {
        least + self.below((most + 1 - least) as usize) as i64
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn flag(&mut self) -> i64 {
        self.int(0, 1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Between two numbers, a multiple of 2^-12: exact in float32, whatever small is added.
    pub(crate) fn number(&mut self, low: f64, high: f64) -> f64 {
        exact(low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// The same as an attribute.
    pub(crate) fn float(&mut self, low: f64, high: f64) -> f32 {
        self.number(low, high) as f32
    }

    pub(crate) fn sizes(&mut self, count: usize, least: usize, most: usize) -> Vec<usize> {
        (0..count).map(|_| self.size(least, most)).collect()
    }

    pub(crate) fn ints(&mut self, count: usize, least: i64, most: i64) -> Vec<i64> {
        (0..count).map(|_| self.int(least, most)).collect()
    }

    /// 0, 1, ... in a random order.
    pub(crate) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    // ---- shapes -------------------------------------------------------------------------------------------------

    /// A shape without empty axes.
    pub(crate) fn full(&mut self, least_rank: usize, most_rank: usize) -> Vec<usize> {
        let rank = self.size(least_rank, most_rank);
        let mut shape = self.sizes(rank, 1, if rank > 3 { 3 } else { 4 });
        while shape.iter().product::<usize>() > MOST_ELEMENTS {
            let longest = (0..rank).max_by_key(|axis| shape[*axis]).unwrap_or(0);
            shape[longest] -= 1;
        }
        shape
    }

    /// A shape, one in twelve with an empty axis.
    pub(crate) fn shape(&mut self, least_rank: usize, most_rank: usize) -> Vec<usize> {
        let mut shape = self.full(least_rank, most_rank);
        if !shape.is_empty() && self.once_in(12) {
            let axis = self.below(shape.len());
            shape[axis] = 0;
        }
        shape
    }

    /// A shape that broadcasts to `shape`.
    pub(crate) fn narrower(&mut self, shape: &[usize]) -> Vec<usize> {
        let left_out = if self.once_in(2) { 0 } else { self.size(0, shape.len()) };
        shape[left_out..].iter().map(|n| if self.once_in(3) { 1 } else { *n }).collect()
    }

    /// Shapes that broadcast against each other.
    pub(crate) fn together(&mut self, count: usize) -> Vec<Vec<usize>> {
        let all = self.shape(0, 4);
        (0..count).map(|_| if self.once_in(3) { all.clone() } else { self.narrower(&all) }).collect()
    }

    /// One of `rank` axes, counted from the front or the end: as it is said, and from the front.
    pub(crate) fn axis(&mut self, rank: usize) -> (i64, usize) {
        let front = self.below(rank);
        (self.said(front, rank), front)
    }

    /// An axis counted from either side.
    pub(crate) fn said(&mut self, front: usize, rank: usize) -> i64 {
        front as i64 - if self.once_in(2) { rank as i64 } else { 0 }
    }

    /// Some of `rank` axes, at least `least`, in any order.
    pub(crate) fn axes(&mut self, rank: usize, least: usize) -> Vec<usize> {
        let count = self.size(least, rank);
        self.order(rank).into_iter().take(count).collect()
    }

    // ---- numbers ------------------------------------------------------------------------------------------------

    /// Numbers between `low` and `high`, evenly spread and shuffled, so that no two are close.
    pub(crate) fn between(&mut self, shape: &[usize], low: f64, high: f64) -> Array {
        self.apart(&[shape.to_vec()], low, high).remove(0)
    }

    /// Numbers between -2 and 2.
    pub(crate) fn floats(&mut self, shape: &[usize]) -> Array {
        self.between(shape, -2.0, 2.0)
    }

    /// Several arrays of which no two numbers are close.
    pub(crate) fn apart(&mut self, shapes: &[Vec<usize>], low: f64, high: f64) -> Vec<Array> {
        let counts: Vec<usize> = shapes.iter().map(|s| s.iter().product()).collect();
        let total: usize = counts.iter().sum();
        let mut places = self.order(total).into_iter();
        let mut arrays = Vec::new();
        for (shape, count) in shapes.iter().zip(counts) {
            let place = |at: usize, r: &mut Draw| low + (high - low) * (at as f64 + r.number(0.3, 0.7)) / total as f64;
            let own: Vec<usize> = places.by_ref().take(count).collect();
            let values = own.into_iter().map(|at| exact(place(at, self))).collect();
            arrays.push(Array { shape: shape.clone(), values });
        }
        arrays
    }

    /// Numbers of either sign whose magnitude is between `low` and `high`.
    pub(crate) fn away(&mut self, shape: &[usize], low: f64, high: f64) -> Array {
        let mut array = self.between(shape, low, high);
        array.values.iter_mut().for_each(|v| *v *= if self.once_in(2) { -1.0 } else { 1.0 });
        array
    }

    /// A directional derivative's direction: every component is one of -1, -1/2, 1/2 and 1.
    pub(crate) fn direction(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.pick(&[-1.0, -0.5, 0.5, 1.0])).collect()
    }

    // ---- inputs that are not differentiated ----------------------------------------------------------------------

    /// A constant of the model, or one in three an input of it.
    pub(crate) fn given(&mut self, tensor: Tensor) -> Input {
        if self.once_in(3) { Input::Fed(tensor) } else { Input::Constant(tensor) }
    }

    pub(crate) fn truths(&mut self, shape: &[usize]) -> Tensor {
        let bytes: Vec<u8> = (0..shape.iter().product::<usize>()).map(|_| u8::from(self.once_in(2))).collect();
        Tensor::new(ElementType::Bool, shape.to_vec(), bytes).unwrap()
    }

    /// Places along an axis of `size` elements, some counted from the end.
    pub(crate) fn places(&mut self, shape: &[usize], size: usize) -> Vec<i64> {
        let count = shape.iter().product::<usize>();
        (0..count).map(|_| self.int(-(size as i64), size as i64 - 1)).collect()
    }

    /// Integers as int64 or int32.
    pub(crate) fn integers(&mut self, shape: &[usize], values: &[i64]) -> Tensor {
        if self.once_in(2) { int32s(shape, values) } else { Tensor::from_i64(shape, values) }
    }

    /// Letters' sizes: 1 to 3 each.
    pub(crate) fn lettered(&mut self, letters: &str) -> HashMap<char, usize> {
        letters.chars().map(|l| (l, self.size(1, 3))).collect()
    }
}

/// Rounded to a multiple of 2^-12.
pub(crate) fn exact(v: f64) -> f64 {
    (v * 4096.0).round() / 4096.0
}

pub(crate) fn int32s(shape: &[usize], values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
    Tensor::new(ElementType::Int32, shape.to_vec(), bytes).unwrap()
}

/// Sizes as an attribute or input.
pub(crate) fn said(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|n| *n as i64).collect()
}
