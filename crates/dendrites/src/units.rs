//! Where the weights of each unit lie in the weight operand of a pool.

use crate::{
    set::DendriteSet,
    sites::{Site, SiteKind},
};

/// How an array of weights is divided among the units of a pool: unit `p * width + k` is candidate p of dendrite k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitLayout {
    /// Elements of the axes before the one that counts units.
    outer: usize,
    /// The length of that axis.
    axis: usize,
    /// Elements of the axes behind it.
    inner: usize,
    /// Groups that divide the axes before it.
    groups: usize,
    /// Dendrites of a candidate.
    width: usize,
}

impl UnitLayout {
    /// That of a vector with one element a unit.
    pub fn of_vector(units: usize) -> Self {
        UnitLayout { outer: 1, axis: units, inner: 1, groups: 1, width: units.max(1) }
    }

    /// That of the weight operand of `candidates` sets like `set`.
    pub fn of_weight(site: &Site, set: &DendriteSet, candidates: usize) -> Self {
        let (axis, shape) = (site.weight_axis(), site.weight_shape_of(set.width * candidates));
        UnitLayout {
            outer: shape[..axis].iter().product(),
            axis: shape[axis],
            inner: shape[axis + 1..].iter().product(),
            groups: if site.kind == SiteKind::ConvTranspose { site.groups.max(1) } else { 1 },
            width: set.width.max(1),
        }
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.outer * self.axis * self.inner
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The unit that an element belongs to.
    pub fn unit(&self, element: usize) -> usize {
        let (outer, place, _) = self.split(element);
        if self.groups == 1 {
            return place;
        }
        // Candidates stand side by side on the axis, each with its dendrites of the group.
        let each = (self.width / self.groups).max(1);
        let group = outer * self.groups / self.outer.max(1);
        place / each * self.width + group * each + place % each
    }

    /// The element of `unit` that stands where `element` of `of` stands for its own unit.
    pub fn counterpart(&self, unit: usize, of: &UnitLayout, element: usize) -> usize {
        let (outer, _, inner) = of.split(element);
        let each = (self.width / self.groups).max(1);
        let place = if self.groups == 1 { unit } else { unit / self.width * each + unit % self.width % each };
        (outer * self.axis + place) * self.inner + inner
    }

    fn split(&self, element: usize) -> (usize, usize, usize) {
        let (row, inner) = (element / self.inner, element % self.inner);
        (row / self.axis, row % self.axis, inner)
    }
}
