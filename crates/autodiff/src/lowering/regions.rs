//! Pooling of regions of interest.

use dendrite_onnx::ElementType;

use super::{
    one,
    sampling::{Image, clamp, combinations},
};
use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

type Outputs<'b> = Result<Vec<Option<V<'b>>>>;

/// Each bin of a region read at a grid of points between pixels, averaged; or the largest of the weighted pixels.
pub(super) fn align<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (x, regions, samples) = (c.x(0)?, c.x(1)?, c.x(2)?.cast(ElementType::Int64));
    let grid = c.int("sampling_ratio", 0);
    if grid <= 0 {
        return Err(c.stop(
            "the gradient with a sampling ratio that depends on each region is not implemented",
            "set sampling_ratio to a number such as 2",
        ));
    }
    let grid = grid as usize;
    let bins = ["output_height", "output_width"].map(|name| c.int(name, 1).max(1) as usize);
    let image = Image::new(c, x)?;
    let half = c.node.attributes.str("coordinate_transformation_mode", "half_pixel") == "half_pixel";
    let bound = |place: i64| {
        let v = regions.slice(&[(1, place, place + 1, 1)]) * c.float("spatial_scale", 1.0);
        if half { v - 0.5 } else { v }
    };
    // Vertical first; regions are x1, y1, x2, y2. Each axis has a coordinate for every point along it: [regions, points].
    let mut along = Vec::new();
    for (axis, bins) in bins.iter().enumerate() {
        let (start, end) = (bound(1 - axis as i64), bound(3 - axis as i64));
        let size = if half { end - start } else { (end - start).binary("Max", x.scalar(1.0)) };
        let points = bins * grid;
        let fractions: Vec<f64> = (0..points).map(|i| (i as f64 + 0.5) / points as f64).collect();
        along.push(start + size * c.b.floats(x.element_type(), &[1, points], &fractions));
    }
    let counts = [bins[0] * grid, bins[1] * grid];
    // Every point of the plane: [regions, rows * columns].
    let plane: Vec<V<'b>> = (0..2)
        .map(|axis| {
            let other = [1, counts[1 - axis]];
            let ones = vec![1.0; counts[1 - axis]];
            let shape = if axis == 0 { [1, other[0], other[1]] } else { [1, other[1], other[0]] };
            let wide = along[axis].unsqueeze(&[2 - axis]) * c.b.floats(x.element_type(), &shape, &ones);
            wide.reshape(&[Size::Of(regions, 0), Size::Is(counts[0] * counts[1])])
        })
        .collect();
    let mut valid = None;
    let mut taps = Vec::new();
    for (axis, coordinate) in plane.into_iter().enumerate() {
        let inside =
            coordinate.compare_to("GreaterOrEqual", -1.0).and(coordinate.compare("LessOrEqual", image.size(axis)));
        valid = Some(valid.map_or(inside, |v: V<'b>| v.and(inside)));
        let coordinate = clamp(coordinate, x.scalar(0.0), image.last(axis));
        let low = coordinate.unary("Floor");
        let above = coordinate - low;
        taps.push(vec![(low, 1.0 - above), (low + 1.0, above)]);
    }
    let weighted: Vec<V<'b>> = combinations(&taps)
        .into_iter()
        .filter_map(|(position, weights)| {
            let weight = weights.into_iter().reduce(|a, b| a * b)?.only(valid?);
            Some(image.at(samples.unsqueeze(&[1]), &position) * weight.unsqueeze(&[2]))
        })
        .collect();
    let largest = c.node.attributes.str("mode", "avg") == "max";
    let points = if largest { weighted.into_iter().reduce(|a, b| a.binary("Max", b)) } else { c.b.sum(&weighted) };
    let Some(points) = points else { return Err(c.no_rank(x)) };
    let split = [bins[0], grid, bins[1], grid].map(Size::Is);
    let sizes: Vec<Size<'b>> = [Size::Of(regions, 0)].into_iter().chain(split).chain([Size::Of(x, 1)]).collect();
    let points = points.reshape(&sizes);
    let pooled = if largest { points.reduce("ReduceMax", &[2, 4], false) } else { points.mean(&[2, 4], false) };
    one(pooled.transpose(&[0, 3, 1, 2]))
}

/// The largest element of each bin, whose bounds are whole: first along the rows, then along the columns.
pub(super) fn max_pool<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (x, regions) = (c.x(0)?, c.x(1)?);
    let Some([rows, columns]) = c.node.attributes.ints("pooled_shape") else {
        return Err(c.stop("pooled_shape has not two sizes", "`dendrite check` lists every finding in the file"));
    };
    let float = x.element_type();
    let column = |place: i64| regions.slice(&[(1, place, place + 1, 1)]);
    let sample = column(0).squeeze(&[1]).cast(ElementType::Int64);
    let rounded = |place: i64| (column(place) * c.float("spatial_scale", 1.0) + 0.5).unary("Floor");
    // Which elements along an axis belong to which bin: [regions, bins, elements].
    let members = |first: i64, last: i64, bins: i64, axis: usize| {
        let (start, end) = (rounded(first), rounded(last));
        let size = (end - start + 1.0).binary("Max", x.scalar(1.0)) / bins as f64;
        let index = |from: f64| (0..bins).map(|bin| bin as f64 + from).collect::<Vec<_>>();
        let edge = |from: f64| size * c.b.floats(float, &[1, bins as usize], &index(from));
        let (low, high) = (edge(0.0).unary("Floor") + start, edge(1.0).unary("Ceil") + start);
        let at = c.b.range(x, axis).cast(float).unsqueeze(&[0, 1]);
        at.compare("GreaterOrEqual", low.unsqueeze(&[2])).and(at.compare("Less", high.unsqueeze(&[2])))
    };
    let (of_rows, of_columns) = (members(2, 4, *rows, 2), members(1, 3, *columns, 3));
    let lowest = x.scalar(f64::from(f32::MIN));
    let images = x.gather(sample, 0);
    // [regions, channels, rows of x, bins, columns of x]
    let by_column = of_columns.unsqueeze(&[1, 2]).choose(images.unsqueeze(&[3]), lowest);
    let by_column = by_column.reduce("ReduceMax", &[4], false);
    // [regions, channels, bins, rows of x, bins]
    let by_row = of_rows.unsqueeze(&[1, 4]).choose(by_column.unsqueeze(&[2]), lowest);
    let pooled = by_row.reduce("ReduceMax", &[3], false);
    // A bin without elements is 0.
    let any = |members: V<'b>| members.cast(float).reduce("ReduceMax", &[2], false);
    let filled = any(of_rows).unsqueeze(&[2]) * any(of_columns).unsqueeze(&[1]);
    one(pooled.only(filled.unsqueeze(&[1]).compare_to("Greater", 0.0)))
}
