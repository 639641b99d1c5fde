//! The geometry of sliding windows, shared by convolutions and poolings.

use super::Ctx;
use crate::{error::Result, expr::V};

/// How a window moves over the spatial axes; one entry an axis.
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// Padding before the first and after the last element.
    pub(super) begin: Vec<usize>,
    pub(super) end: Vec<usize>,
}

impl Window {
    /// The window of a node that slides a kernel over the spatial axes of `x`.
    pub(super) fn of<'b>(c: &Ctx<'b>, kernel: Vec<usize>, x: V<'b>) -> Result<Self> {
        let axes = kernel.len();
        let list = |name: &str, default: usize| -> Vec<usize> {
            let given = c.node.attributes.ints(name).filter(|v| v.len() == axes);
            given.map_or(vec![default; axes], |v| v.iter().map(|n| (*n).max(0) as usize).collect())
        };
        let (strides, dilations) = (list("strides", 1), list("dilations", 1));
        if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
            return Err(c.stop("a stride, dilation or kernel size of 0", "`dendrite check` lists every finding"));
        }
        let mut window = Window { kernel, strides, dilations, begin: vec![0; axes], end: vec![0; axes] };
        match c.node.attributes.str("auto_pad", "NOTSET") {
            "VALID" => {}
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                for axis in 0..axes {
                    let total = window.same_padding(axis, x.known_dim(axis + 2)).ok_or_else(|| {
                        c.stop(
                            "auto_pad with a stride needs known spatial sizes",
                            "fix the model's input sizes, all but the batch",
                        )
                    })?;
                    let smaller = total / 2;
                    window.begin[axis] = if same == "SAME_UPPER" { smaller } else { total - smaller };
                    window.end[axis] = total - window.begin[axis];
                }
            }
            _ => {
                if let Some(pads) = c.node.attributes.ints("pads").filter(|p| p.len() == 2 * axes) {
                    if pads.iter().any(|p| *p < 0) {
                        return Err(c.stop("negative pads", "crop with a Slice instead"));
                    }
                    window.begin = pads[..axes].iter().map(|p| *p as usize).collect();
                    window.end = pads[axes..].iter().map(|p| *p as usize).collect();
                }
            }
        }
        Ok(window)
    }

    /// The window of a pooling node.
    pub(super) fn of_pooling<'b>(c: &Ctx<'b>, x: V<'b>) -> Result<Self> {
        let kernel = c.node.attributes.ints("kernel_shape").unwrap_or(&[]);
        let window = Window::of(c, kernel.iter().map(|k| (*k).max(0) as usize).collect(), x)?;
        if let same @ ("SAME_UPPER" | "SAME_LOWER") = c.node.attributes.str("auto_pad", "NOTSET") {
            for axis in 0..window.kernel.len() {
                // Where steps are wider than the window, the runtime's poolings pad by less than nothing.
                let Some(size) = x.known_dim(axis + 2) else { continue };
                let last = (size.div_ceil(window.strides[axis]).max(1) - 1) * window.strides[axis];
                let total = (last + window.extent(axis)) as i64 - size as i64;
                if (if same == "SAME_UPPER" { total } else { total + 1 }) / 2 < 0 {
                    return Err(c.stop("auto_pad that leaves out the first elements", "give pads instead"));
                }
            }
        }
        Ok(window)
    }

    /// How far a window reaches along an axis.
    pub(super) fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    fn same_padding(&self, axis: usize, size: Option<usize>) -> Option<usize> {
        let stride = self.strides[axis];
        match (stride, size) {
            (1, _) => Some(self.extent(axis) - 1),
            (_, Some(n)) => Some(((n.div_ceil(stride).max(1) - 1) * stride + self.extent(axis)).saturating_sub(n)),
            _ => None,
        }
    }

    /// Whether there is padding anywhere.
    pub(super) fn is_padded(&self) -> bool {
        self.begin.iter().chain(&self.end).any(|p| *p > 0)
    }

    /// Whether no element lies in two windows.
    pub(super) fn is_disjoint(&self) -> bool {
        (0..self.kernel.len()).all(|axis| self.strides[axis] >= self.extent(axis))
    }
}

/// Numbers as an attribute.
pub(super) fn ints(values: &[usize]) -> Vec<i64> {
    values.iter().map(|v| *v as i64).collect()
}
