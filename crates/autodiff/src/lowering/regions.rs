//! Pooling of regions of interest.

use dendrite_onnx::{Attributes, Dim, ElementType, Shape};

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

/// Where regions are read along one axis.
struct Along<'b> {
    /// Bins times points, [regions, bins * points].
    coordinates: V<'b>,
    bins: usize,
    /// Points a bin.
    points: Size<'b>,
    /// Where every region has points of its own: how many, [regions, 1], and which of the coordinates they are.
    own: Option<(V<'b>, V<'b>)>,
}

impl<'b> Along<'b> {
    /// As many points in each bin of every region.
    fn fixed(start: V<'b>, size: V<'b>, bins: usize, points: usize) -> Self {
        let all = bins * points;
        let fractions: Vec<f64> = (0..all).map(|i| (i as f64 + 0.5) / all as f64).collect();
        let fractions = start.builder().floats(start.element_type(), &[1, all], &fractions);
        Along { coordinates: start + size * fractions, bins, points: Size::Is(points), own: None }
    }

    /// As many as a bin of the region spans elements, rounded up: rows of as many as the largest region takes.
    fn of_size(start: V<'b>, size: V<'b>, bins: usize) -> Self {
        let (b, float) = (start.builder(), start.element_type());
        let each = size / bins as f64;
        let count = each.unary("Ceil").binary("Max", start.scalar(0.0));
        let one = b.floats(float, &[1], &[1.0]);
        let most = b.concat(&[count.squeeze(&[1]), one], 0).reduce("ReduceMax", &[0], false).cast(ElementType::Int64);
        let bounds = [b.scalar(ElementType::Int64, 0.0), most, b.scalar(ElementType::Int64, 1.0)];
        let range = b.node("Range", &bounds, Attributes::new(), ElementType::Int64, Some(Shape(vec![Dim::Unknown])));
        let number = range.cast(float).unsqueeze(&[0, 1]);
        let within = (number + 0.5) / count.binary("Max", start.scalar(1.0)).unsqueeze(&[2]);
        let bin: Vec<f64> = (0..bins).map(|bin| bin as f64).collect();
        let bin = b.floats(float, &[1, bins, 1], &bin);
        // [regions, bins, points]
        let coordinates = start.unsqueeze(&[2]) + each.unsqueeze(&[2]) * (bin + within);
        let taken = (number + bin * 0.0).compare("Less", count.unsqueeze(&[2]));
        let flat = |v: V<'b>| v.reshape(&[Size::Of(start, 0), Size::Rest]);
        Along { coordinates: flat(coordinates), bins, points: Size::Of(range, 0), own: Some((count, flat(taken))) }
    }
}

/// Each bin of a region read at a grid of points between pixels, averaged; or the largest of the weighted pixels.
pub(super) fn align<'b>(c: &Ctx<'b>) -> Outputs<'b> {
    let (x, regions, samples) = (c.x(0)?, c.x(1)?, c.x(2)?.cast(ElementType::Int64));
    let image = Image::new(c, x)?;
    let half = c.node.attributes.str("coordinate_transformation_mode", "half_pixel") == "half_pixel";
    let bound = |place: i64| {
        let v = regions.slice(&[(1, place, place + 1, 1)]) * c.float("spatial_scale", 1.0);
        if half { v - 0.5 } else { v }
    };
    // Vertical first; regions are x1, y1, x2, y2.
    let along = [(0, "output_height"), (1, "output_width")].map(|(axis, bins)| {
        let bins = c.int(bins, 1).max(1) as usize;
        let (start, end) = (bound(1 - axis), bound(3 - axis));
        let size = if half { end - start } else { (end - start).binary("Max", x.scalar(1.0)) };
        match usize::try_from(c.int("sampling_ratio", 0)) {
            Ok(points) if points > 0 => Along::fixed(start, size, bins, points),
            _ => Along::of_size(start, size, bins),
        }
    });
    let [rows, columns] = &along;
    let plane = match (rows.coordinates.known_dim(1), columns.coordinates.known_dim(1)) {
        (Some(rows), Some(columns)) => Size::Is(rows * columns),
        _ => Size::Rest,
    };
    let all = [Size::Of(regions, 0), plane];
    // Every point of the plane: [regions, rows * columns].
    let plane = [0, 1].map(|axis: usize| {
        let other = Size::Of(along[1 - axis].coordinates, 1);
        let shape = if axis == 0 { [Size::Is(1), Size::Is(1), other] } else { [Size::Is(1), other, Size::Is(1)] };
        let wide = along[axis].coordinates.unsqueeze(&[2 - axis]) * c.b.filled(x.element_type(), &shape, 1.0);
        wide.reshape(&all)
    });
    let own = rows.own.zip(columns.own).map(|((height, of_rows), (width, of_columns))| {
        let taken = of_rows.unsqueeze(&[2]).and(of_columns.unsqueeze(&[1])).reshape(&all);
        // [regions, bins, bins, channels]
        (taken, (height * width).unsqueeze(&[2, 3]))
    });
    let mut valid = own.map(|(taken, _)| taken);
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
    let Some(mut points) = points else { return Err(c.no_rank(x)) };
    if let (true, Some((taken, _))) = (largest, own) {
        points = taken.unsqueeze(&[2]).choose(points, x.scalar(f64::from(f32::MIN)));
    }
    let split = [Size::Is(rows.bins), rows.points, Size::Is(columns.bins), columns.points];
    let sizes: Vec<Size<'b>> = [Size::Of(regions, 0)].into_iter().chain(split).chain([Size::Of(x, 1)]).collect();
    let points = points.reshape(&sizes);
    let pooled = match own {
        None if largest => points.reduce("ReduceMax", &[2, 4], false),
        None => points.mean(&[2, 4], false),
        // A region without extent has no points, and is 0.
        Some((_, count)) if largest => {
            points.reduce("ReduceMax", &[2, 4], false).only(count.compare_to("Greater", 0.0))
        }
        Some((_, count)) => points.sum(&[2, 4], false) / count.binary("Max", x.scalar(1.0)),
    };
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
