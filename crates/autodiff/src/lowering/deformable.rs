//! Convolution whose taps are moved by offsets: each tap is read between pixels, then one product.

use super::{
    one,
    sampling::{Image, interpolated, linear_taps},
};
use crate::{
    error::Result,
    expr::{Size, V},
    rules::Ctx,
};

pub(super) fn convolution<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    let (x, w, offset) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let known = |v: V<'b>, from: usize| c.known_dims(v, from);
    let ([outputs, per_group, kernel @ ..], [height, width]) = (&known(w, 0)?[..], &known(offset, 2)?[..]) else {
        return Err(c.stop("more than two spatial axes", "only images are run by the runtime"));
    };
    let [rows, columns] = kernel else { return Err(c.no_rank(w)) };
    let channels = known(x, 1)?[0];
    let (taps, positions) = (rows * columns, height * width);
    let of = |name: &str| c.int(name, 1).max(1) as usize;
    let (group, groups_of_offsets) = (of("group"), of("offset_group"));
    let list = |name: &str, default: i64| -> [f64; 2] {
        match c.node.attributes.ints(name) {
            Some([a, b, ..]) => [*a as f64, *b as f64],
            _ => [default as f64; 2],
        }
    };
    let (strides, dilations, pads) = (list("strides", 1), list("dilations", 1), list("pads", 0));

    // A sample for each group of channels that is moved together.
    let shared = channels / groups_of_offsets;
    let spatial = [2, 3].map(|axis| Size::Of(x, axis));
    let image = Image::new(c, x.reshape(&[Size::Rest, Size::Is(shared), spatial[0], spatial[1]]))?;
    let moved = offset.reshape(&[Size::Rest, Size::Is(taps), Size::Is(2), Size::Is(positions)]);
    let coordinate = |axis: usize| -> Vec<(V<'b>, V<'b>)> {
        let at = (0..taps).flat_map(|tap| (0..positions).map(move |position| (tap, position)));
        let at = at.map(|(tap, position)| {
            let (tap, step) =
                if axis == 0 { (tap / columns, position / width) } else { (tap % columns, position % width) };
            step as f64 * strides[axis] - pads[axis] + tap as f64 * dilations[axis]
        });
        let base = c.b.floats(x.element_type(), &[1, taps, positions], &at.collect::<Vec<_>>());
        let own = moved.slice(&[(2, axis as i64, axis as i64 + 1, 1)]).squeeze(&[2]);
        linear_taps((own + base).reshape(&[Size::Rest, Size::Is(taps * positions)]))
    };
    // [samples * groups of offsets, taps * positions, channels]
    let Some(mut read) = interpolated(&image, image.samples(), &[coordinate(0), coordinate(1)]) else {
        return Err(c.no_rank(x));
    };
    if let Some(mask) = c.opt(4) {
        read = read * mask.reshape(&[Size::Rest, Size::Is(taps * positions), Size::Is(1)]);
    }
    let split = [groups_of_offsets, taps, positions, shared].map(Size::Is);
    let joined = [group, per_group * taps, positions].map(Size::Is);
    let batch = |sizes: &[Size<'b>]| [Size::Of(x, 0)].iter().chain(sizes).copied().collect::<Vec<_>>();
    let columns = read.reshape(&batch(&split)).transpose(&[0, 1, 4, 2, 3]).reshape(&batch(&joined));
    let weights = w.reshape(&[group, outputs / group, per_group * taps].map(Size::Is));
    let y = weights.matmul(columns).reshape(&batch(&[*outputs, *height, *width].map(Size::Is)));
    one(c.opt(3).map_or(y, |bias| y + bias.unsqueeze(&[1, 2])))
}
