//! Reading images between their pixels: rows of channels gathered at whole positions and weighted.

use dendrite_onnx::ElementType;

use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

/// Images of which pixels are read.
pub(super) struct Image<'b> {
    /// The pixels of all images, a row of channels each.
    rows: V<'b>,
    /// [batch, channels, spatial axes...]
    x: V<'b>,
    rank: usize,
}

impl<'b> Image<'b> {
    pub(super) fn new(c: &Ctx<'b>, x: V<'b>) -> Result<Self> {
        let rank = c.rank(x)?;
        let channels_last: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
        let rows = x.transpose(&channels_last).reshape(&[Size::Rest, Size::Of(x, 1)]);
        Ok(Image { rows, x, rank })
    }

    /// How many spatial axes there are.
    pub(super) fn axes(&self) -> usize {
        self.rank - 2
    }

    /// The size of a spatial axis as a number of the image's type.
    pub(super) fn size(&self, axis: usize) -> V<'b> {
        match self.x.known_dim(axis + 2) {
            Some(n) => self.x.scalar(n as f64),
            None => self.x.dim(axis + 2).squeeze(&[0]).cast(self.x.element_type()),
        }
    }

    /// The index of the last element along a spatial axis.
    pub(super) fn last(&self, axis: usize) -> V<'b> {
        self.size(axis) - 1.0
    }

    /// The number of each sample, [batch, 1].
    pub(super) fn samples(&self) -> V<'b> {
        self.x.builder().range(self.x, 0).unsqueeze(&[1])
    }

    /// The pixels at whole positions, [samples, points, channels]. A position has a coordinate for each spatial axis,
    /// [samples, points]; those outside are moved to the border.
    pub(super) fn at(&self, samples: V<'b>, position: &[V<'b>]) -> V<'b> {
        let mut row = samples;
        for (axis, coordinate) in position.iter().enumerate() {
            let inside = clamp(*coordinate, self.x.scalar(0.0), self.last(axis));
            row = row * self.x.dim(axis + 2) + inside.cast(ElementType::Int64);
        }
        self.rows.gather(row, 0)
    }

    /// Whether whole positions are inside, as numbers: [samples, points].
    pub(super) fn inside(&self, position: &[V<'b>]) -> Option<V<'b>> {
        let of_axis = |(axis, v): (usize, &V<'b>)| {
            let inside = v.compare_to("GreaterOrEqual", 0.0).and(v.compare("LessOrEqual", self.last(axis)));
            inside.cast(self.x.element_type())
        };
        position.iter().enumerate().map(of_axis).reduce(|a, b| a * b)
    }
}

/// Between two numbers.
pub(super) fn clamp<'b>(v: V<'b>, low: V<'b>, high: V<'b>) -> V<'b> {
    let at_least = v.binary("Max", low);
    at_least.binary("Min", high)
}

/// For each spatial axis the taps that a point takes, as (position, weight); every combination of them once.
pub(super) fn combinations<'b>(axes: &[Vec<(V<'b>, V<'b>)>]) -> Vec<(Vec<V<'b>>, Vec<V<'b>>)> {
    axes.iter().fold(vec![(Vec::new(), Vec::new())], |all, taps| {
        all.iter()
            .flat_map(|(positions, weights)| {
                taps.iter().map(|(position, weight)| {
                    (
                        positions.iter().copied().chain([*position]).collect(),
                        weights.iter().copied().chain([*weight]).collect(),
                    )
                })
            })
            .collect()
    })
}

/// The two neighbours of a coordinate, each weighted by how near it is.
pub(super) fn linear_taps<'b>(coordinate: V<'b>) -> Vec<(V<'b>, V<'b>)> {
    let low = coordinate.unary("Floor");
    let above = coordinate - low;
    vec![(low, 1.0 - above), (low + 1.0, above)]
}

/// The weighted sum over the taps, those outside counted as zeros: [samples, points, channels].
pub(super) fn interpolated<'b>(image: &Image<'b>, samples: V<'b>, axes: &[Vec<(V<'b>, V<'b>)>]) -> Option<V<'b>> {
    let parts: Vec<V<'b>> = combinations(axes)
        .into_iter()
        .filter_map(|(position, weights)| {
            let weight = weights.into_iter().chain(image.inside(&position)).reduce(|a, b| a * b)?;
            Some(image.at(samples, &position) * weight.unsqueeze(&[2]))
        })
        .collect();
    image.rows.builder().sum(&parts)
}
