//! Average pooling: a convolution with equal weights, each window divided by what it counts.

use dendrite_onnx::{Dim, Shape, Tensor};

use super::{Ctx, convolution, rules, window::Window};
use crate::{
    error::Result,
    expr::{Size, V},
};

rules! { RULES, exact, (c, dy, y);
    "GlobalAveragePool"(x) => [(dy / c.positions_count(x)?).expand_like(x)];
    "AveragePool"(x) => [average(c, dy, x)?];
}

impl<'b> Ctx<'b> {
    /// The number of spatial positions of `x`, as a float.
    fn positions_count(&self, x: V<'b>) -> Result<V<'b>> {
        let rank = self.rank(x)?;
        if let Some(sizes) = (2..rank).map(|a| x.known_dim(a)).collect::<Option<Vec<_>>>() {
            return Ok(x.scalar(sizes.iter().product::<usize>() as f64));
        }
        let sizes: Vec<V<'b>> = (2..rank).map(|a| x.dim(a)).collect();
        Ok(sizes.into_iter().reduce(|a, b| a * b).unwrap_or(self.b.ints(&[1])).cast(x.element_type()))
    }
}

fn average<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>) -> Result<V<'b>> {
    let window = Window::of_pooling(c, x)?;
    spread(c, dy / counts(c, dy, x, &window)?, x, &window)
}

/// What each window has, added to all of its elements.
pub(super) fn spread<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, window: &Window) -> Result<V<'b>> {
    let kernel = &window.kernel;
    // Channels are independent: they join the batch.
    let alone = |v: V<'b>| -> Vec<Size<'b>> {
        [Size::Rest, Size::Is(1)].into_iter().chain((2..kernel.len() + 2).map(|a| Size::Of(v, a))).collect()
    };
    let weights = c.b.constant(Tensor::filled(x.element_type(), &[&[1, 1], &kernel[..]].concat(), 1.0));
    let shape =
        x.shape().map(|s| Shape([Dim::Unknown, Dim::Known(1)].into_iter().chain(s.0.into_iter().skip(2)).collect()));
    let scaled = dy.reshape(&alone(dy));
    Ok(convolution::input_gradient(c, scaled, weights, (x, shape), window, 1)?.reshape_like(x))
}

/// How many elements each window averages.
fn counts<'b>(c: &Ctx<'b>, dy: V<'b>, x: V<'b>, window: &Window) -> Result<V<'b>> {
    let all: usize = window.kernel.iter().product();
    let padding = c.int("count_include_pad", 0) != 0;
    if (padding || !window.is_padded()) && c.int("ceil_mode", 0) == 0 {
        return Ok(x.scalar(all as f64));
    }
    let (sizes, steps) = (c.known_dims(x, 2)?, c.known_dims(dy, 2)?);
    let mut counts = vec![1.0];
    for axis in 0..steps.len() {
        let margin = |pad: usize| if padding { pad } else { 0 };
        let low = window.begin[axis] - margin(window.begin[axis]);
        let high = window.begin[axis] + sizes[axis] + margin(window.end[axis]);
        let count = |step: usize| {
            let taps = (0..window.kernel[axis]).map(|k| step * window.strides[axis] + k * window.dilations[axis]);
            taps.filter(|at| (low..high).contains(at)).count().max(1) as f64
        };
        let along: Vec<f64> = (0..steps[axis]).map(count).collect();
        counts = counts.iter().flat_map(|n| along.iter().map(move |m| n * m)).collect();
    }
    Ok(c.b.floats(x.element_type(), &steps, &counts))
}
