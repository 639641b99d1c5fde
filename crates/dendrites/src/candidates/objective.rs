//! What is made of activations and errors: the sums of [`statistics`], and the objective.

use dendrite_onnx::{Attributes, ValueId};

use super::{Builder, VARIANCE_FLOOR, statistics};
use crate::set::Connection;

impl Builder<'_> {
    /// Sum over rows of a matrix with `columns` columns, [1, columns].
    fn sum_rows(&mut self, value: ValueId, columns: usize) -> ValueId {
        let axes = self.ints(&[0]);
        self.typed("ReduceSum", &[value, axes], Attributes::new().with("keepdims", 1), &[1, columns])
    }

    /// E repeated for every candidate of a neuron.
    fn tile_errors(&mut self, e: ValueId) -> ValueId {
        let copies = self.ints(&[1, self.pool.size() as i64]);
        let shape = [self.row_count(), self.pool.units()];
        self.typed("Tile", &[e, copies], Attributes::new(), &shape)
    }

    fn product(&mut self, a: ValueId, e: ValueId) -> ValueId {
        let (units, channels) = (self.pool.units(), self.site.channels);
        match self.pool.set.connection {
            Connection::Neuron => {
                let e = self.tile_errors(e);
                let rows = self.row_count();
                let ae = self.typed("Mul", &[a, e], Attributes::new(), &[rows, units]);
                self.sum_rows(ae, units)
            }
            Connection::Layer => {
                let rows = self.row_count();
                let at = self.typed("Transpose", &[a], Attributes::new().with("perm", vec![1i64, 0]), &[units, rows]);
                self.typed("MatMul", &[at, e], Attributes::new(), &[units, channels])
            }
        }
    }

    pub(super) fn score(&mut self, z: ValueId, a: ValueId, e: ValueId, w: ValueId) {
        let (rows, units, channels) = (self.row_count(), self.pool.units(), self.site.channels);
        let mut sums = Vec::new();
        let mut weighted = Vec::new();
        for (value, columns) in [(z, units), (a, units), (e, channels)] {
            let first = self.typed("Mul", &[value, w], Attributes::new(), &[rows, columns]);
            let second = self.typed("Mul", &[first, value], Attributes::new(), &[rows, columns]);
            weighted.push(first);
            sums.push(self.sum_rows(first, columns));
            sums.push(self.sum_rows(second, columns));
        }
        let count = self.sum_rows(w, 1);
        let product = self.product(weighted[1], e);
        let names = [
            statistics::Z,
            statistics::ZZ,
            statistics::A,
            statistics::AA,
            statistics::E,
            statistics::EE,
            statistics::COUNT,
            statistics::AE,
        ];
        let values: Vec<ValueId> = sums.into_iter().chain([count, product]).collect();
        self.graph.outputs = names
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let (element_type, shape) = {
                    let v = self.graph.value(value);
                    (v.element_type, v.shape.clone())
                };
                let named = self.graph.op("Identity", name, &[value], Attributes::new());
                self.graph.set_type(named, element_type, shape);
                named
            })
            .collect();
    }

    /// Centred and divided by the standard deviation (guarded), rows by columns, weighted by `w`.
    fn standardise(&mut self, value: ValueId, columns: usize, w: ValueId, count: ValueId) -> ValueId {
        let rows = self.row_count();
        let wide = [rows, columns];
        let weighted = self.typed("Mul", &[value, w], Attributes::new(), &wide);
        let sum = self.sum_rows(weighted, columns);
        let mean = self.typed("Div", &[sum, count], Attributes::new(), &[1, columns]);
        let centred = self.typed("Sub", &[value, mean], Attributes::new(), &wide);
        let square = self.typed("Mul", &[centred, centred], Attributes::new(), &wide);
        let square = self.typed("Mul", &[square, w], Attributes::new(), &wide);
        let sum = self.sum_rows(square, columns);
        let variance = self.typed("Div", &[sum, count], Attributes::new(), &[1, columns]);
        let floor = self.scalar(VARIANCE_FLOOR);
        let guarded = self.typed("Add", &[variance, floor], Attributes::new(), &[1, columns]);
        let sigma = self.typed("Sqrt", &[guarded], Attributes::new(), &[1, columns]);
        self.typed("Div", &[centred, sigma], Attributes::new(), &wide)
    }

    /// J, a scalar.
    pub(super) fn objective(&mut self, a: ValueId, e: ValueId, w: ValueId) -> ValueId {
        let (rows, units, channels) = (self.row_count(), self.pool.units(), self.site.channels);
        let count = self.sum_rows(w, 1);
        let a = self.standardise(a, units, w, count);
        let e = match self.pool.set.connection {
            Connection::Neuron => self.standardise(e, channels, w, count),
            Connection::Layer => e,
        };
        let aw = self.typed("Mul", &[a, w], Attributes::new(), &[rows, units]);
        let cov = self.product(aw, e);
        let strengths = match self.pool.set.connection {
            Connection::Neuron => {
                let rho = self.typed("Div", &[cov, count], Attributes::new(), &[1, units]);
                self.typed("Abs", &[rho], Attributes::new(), &[1, units])
            }
            Connection::Layer => {
                let cov = self.typed("Div", &[cov, count], Attributes::new(), &[units, channels]);
                let square = self.typed("Mul", &[cov, cov], Attributes::new(), &[units, channels]);
                let axes = self.ints(&[1]);
                let sum = self.typed("ReduceSum", &[square, axes], Attributes::new().with("keepdims", 1), &[units, 1]);
                let floor = self.scalar(VARIANCE_FLOOR);
                let guarded = self.typed("Add", &[sum, floor], Attributes::new(), &[units, 1]);
                self.typed("Sqrt", &[guarded], Attributes::new(), &[units, 1])
            }
        };
        let axes = self.ints(&[0, 1]);
        let sum = self.typed("ReduceSum", &[strengths, axes], Attributes::new().with("keepdims", 0), &[]);
        self.typed("Neg", &[sum], Attributes::new(), &[])
    }
}
