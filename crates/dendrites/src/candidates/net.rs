//! What the units of a pool compute: their net inputs and activations.

use dendrite_onnx::{Attributes, ElementType, Graph, Shape, ValueId};

use super::Builder;
use crate::{
    error::{Error, Result},
    set::{DendriteSet, Weights, tensor},
    sites::SiteKind,
};

impl Builder<'_> {
    /// z of all units, rows by units.
    pub(super) fn net_inputs(
        &mut self,
        source: &Graph,
        sets: &[DendriteSet],
        weights: &Weights,
        xs: &[ValueId],
    ) -> Result<ValueId> {
        let units = self.pool.units();
        let wide = DendriteSet { width: units, ..self.pool.set.clone() };
        let each = |b: &mut Self, of: &mut dyn FnMut(&mut Self, usize, ValueId) -> Result<ValueId>| {
            xs.iter().enumerate().map(|(index, x)| of(b, index, *x)).collect::<Result<Vec<_>>>()
        };
        let z = each(self, &mut |b, index, x| b.linear(source, &wide, index, x))?;
        let mut z = self.all_rows(&z, units);
        let rows = self.row_count();
        for from in wide.cascade(sets) {
            let earlier = each(self, &mut |b, index, x| b.frozen(source, sets, weights, from, index, x))?;
            let earlier = self.all_rows(&earlier, self.site.channels);
            // Every candidate of a neuron reads that neuron's earlier dendrite.
            let copies = self.ints(&[1, self.pool.size() as i64]);
            let tiled = self.typed("Tile", &[earlier, copies], Attributes::new(), &[rows, units]);
            let flat = self.ints(&[1, units as i64]);
            let c = self.input(&wide.cascade_path(from))?;
            let c = self.typed("Reshape", &[c, flat], Attributes::new(), &[1, units]);
            let scaled = self.typed("Mul", &[tiled, c], Attributes::new(), &[rows, units]);
            z = self.typed("Add", &[z, scaled], Attributes::new(), &[rows, units]);
        }
        Ok(z)
    }

    fn input(&self, name: &str) -> Result<ValueId> {
        self.graph
            .find(name)
            .ok_or_else(|| Error::Set { site: self.site.name.clone(), reason: format!("tensor '{name}' is missing") })
    }

    /// Op(x; W, b) with the tensors of `set`, in the site's layout. Grouped convolutions run one a candidate, so that each
    /// keeps the site's grouping.
    fn linear(&mut self, source: &Graph, set: &DendriteSet, application: usize, x: ValueId) -> Result<ValueId> {
        let weight = self.input(&set.path("weight"))?;
        let bias = if self.site.bias { Some(self.input(&set.path("bias"))?) } else { None };
        let mut shape = self.batches[application].error.clone();
        let axis = if self.site.kind.is_convolution() { 1 } else { shape.len() - 1 };
        shape[axis] = set.width;
        let attributes = source.node(self.site.applications[application].node).attributes.clone();
        Ok(match self.site.kind {
            kind if kind.is_convolution() && self.site.groups > 1 && set.width > self.pool.set.width => {
                self.grouped(set, x, weight, bias, &attributes, &shape)
            }
            SiteKind::Conv | SiteKind::ConvTranspose => {
                let inputs: Vec<ValueId> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
                self.typed(self.site.kind.op(), &inputs, attributes, &shape)
            }
            SiteKind::Gemm => {
                let attributes = Attributes::new().with("transB", i64::from(self.site.transposed));
                let inputs: Vec<ValueId> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
                self.typed("Gemm", &inputs, attributes, &shape)
            }
            SiteKind::MatMul | SiteKind::Recurrent { .. } => {
                let product = self.typed("MatMul", &[x, weight], Attributes::new(), &shape);
                match bias {
                    Some(bias) => self.typed("Add", &[product, bias], Attributes::new(), &shape),
                    None => product,
                }
            }
        })
    }

    fn grouped(
        &mut self,
        set: &DendriteSet,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        attributes: &Attributes,
        shape: &[usize],
    ) -> ValueId {
        let width = self.pool.set.width;
        let count = set.width / width;
        let split = |b: &mut Self, value: ValueId, axis: usize, shape: Vec<usize>| -> Vec<ValueId> {
            let attributes = Attributes::new().with("axis", axis as i64).with("num_outputs", count as i64);
            let parts = b.graph.add_node("Split", "split", &[Some(value)], attributes, count);
            for part in &parts {
                b.graph.set_type(*part, Some(ElementType::Float), Some(Shape::known(&shape)));
            }
            parts
        };
        let weights = split(self, weight, self.site.weight_axis(), self.site.weight_shape_of(width));
        let biases = bias.map(|b| split(self, b, 0, vec![width]));
        let mut one = shape.to_vec();
        one[1] = width;
        let parts: Vec<ValueId> = (0..count)
            .map(|p| {
                let mut inputs = vec![x, weights[p]];
                inputs.extend(biases.as_ref().map(|b| b[p]));
                self.typed(self.site.kind.op(), &inputs, attributes.clone(), &one)
            })
            .collect();
        self.typed("Concat", &parts, Attributes::new().with("axis", 1), shape)
    }

    /// The activations of an existing set, its tensors constants of this graph.
    fn frozen(
        &mut self,
        source: &Graph,
        sets: &[DendriteSet],
        weights: &Weights,
        set: &DendriteSet,
        application: usize,
        x: ValueId,
    ) -> Result<ValueId> {
        let name = set.path_at(&self.site.applications[application].name, "activation");
        if let Some(done) = self.graph.find(&name) {
            return Ok(done);
        }
        for (name, shape) in set.tensors(self.site, sets) {
            if self.graph.find(&name).is_none() {
                self.graph.add_constant(&name, tensor(weights, set, &name, &shape)?.clone());
            }
        }
        let mut z = self.linear(source, set, application, x)?;
        let shape = self.batches[application].error.clone();
        let earlier: Vec<DendriteSet> = set.cascade(sets).cloned().collect();
        for from in &earlier {
            let a = self.frozen(source, sets, weights, from, application, x)?;
            let c = self.input(&set.cascade_path(from))?;
            let scaled = self.typed("Mul", &[a, c], Attributes::new(), &shape);
            z = self.typed("Add", &[z, scaled], Attributes::new(), &shape);
        }
        let a = self.graph.op(set.activation.op(), &name, &[z], Attributes::new());
        self.graph.set_type(a, Some(ElementType::Float), Some(Shape::known(&shape)));
        Ok(a)
    }

    pub(super) fn activate(&mut self, z: ValueId) -> ValueId {
        let (rows, width) = (self.row_count(), self.pool.set.width);
        let groups = self.pool.groups.clone();
        if let [(activation, _)] = groups.as_slice() {
            return self.typed(activation.op(), &[z], Attributes::new(), &[rows, self.pool.units()]);
        }
        let sizes: Vec<i64> = groups.iter().map(|(_, n)| (n * width) as i64).collect();
        let split = self.ints(&sizes);
        let parts = self.graph.add_node(
            "Split",
            "groups",
            &[Some(z), Some(split)],
            Attributes::new().with("axis", 1),
            sizes.len(),
        );
        let mut activated = Vec::new();
        for (part, (activation, count)) in parts.into_iter().zip(&groups) {
            let shape = [rows, count * width];
            self.graph.set_type(part, Some(ElementType::Float), Some(Shape::known(&shape)));
            activated.push(self.typed(activation.op(), &[part], Attributes::new(), &shape));
        }
        self.typed("Concat", &activated, Attributes::new().with("axis", 1), &[rows, self.pool.units()])
    }
}
