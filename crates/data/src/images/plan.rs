//! From a picture to the numbers of one input.

use dendrite_onnx::{Dim, ElementType};

use super::{decode::Picture, resize::resize};
use crate::{
    cast::{cast, size_of},
    error::{Error, Result},
    preprocess::{Channels, Filter, Layout, PerChannel, Preprocess, Resize},
    request::Input,
};

/// How a picture becomes one row of an input.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    height: usize,
    width: usize,
    channels: Channels,
    layout: Layout,
    resize: Resize,
    crop: f64,
    filter: Filter,
    element_type: ElementType,
    /// The bytes of the element for each pixel value, channel after channel.
    table: Vec<u8>,
}

impl Plan {
    /// The plan for `input`. `stored` is the height and width of pictures that all have the same.
    pub(crate) fn new(preprocess: &Preprocess, input: &Input, stored: Option<[usize; 2]>) -> Result<Self> {
        let dims: [Option<usize>; 3] = match &input.shape {
            Some(shape) if shape.rank() != 4 => {
                return Err(Error::option(
                    format!("images are given to input '{}' of shape {shape}", input.name),
                    "images need an input of 4 axes; name another with preprocess.input",
                ));
            }
            Some(shape) => [1, 2, 3].map(|axis| shape.dim(axis).and_then(Dim::known)),
            None => [None; 3],
        };
        let [first, second, third] = dims;
        let few = |n: Option<usize>| matches!(n, Some(1 | 3));
        let layout = match preprocess.layout {
            Some(layout) => layout,
            None if few(first) => Layout::Nchw,
            None if few(third) => Layout::Nhwc,
            None => {
                return Err(Error::option(
                    format!("it is not known which axis of input '{}' holds the channels", input.name),
                    "set preprocess.layout to \"nchw\" or \"nhwc\"",
                ));
            }
        };
        let (depth, height, width) = match layout {
            Layout::Nchw => (first, second, third),
            Layout::Nhwc => (third, first, second),
        };
        let channels = match (preprocess.channels, depth) {
            (Some(channels), None) => channels,
            (Some(channels), Some(depth)) if channels.count() == depth => channels,
            (None, Some(1)) => Channels::Gray,
            (None, Some(3) | None) => Channels::Rgb,
            (channels, Some(depth)) => {
                let asked = channels.map_or("rgb or gray images".to_owned(), |c| format!("{c:?}").to_lowercase());
                return Err(Error::option(
                    format!("input '{}' has {depth} channels, which does not go with {asked}", input.name),
                    "set preprocess.layout and preprocess.channels to those of the model",
                ));
            }
        };
        let size = preprocess.size.map(crate::preprocess::Size::sides);
        if let Some([high, wide]) = size
            && (height.is_some_and(|h| h != high) || width.is_some_and(|w| w != wide))
        {
            let side = |n: Option<usize>| n.map_or("?".to_owned(), |n| n.to_string());
            return Err(Error::option(
                format!(
                    "preprocess.size is {high} x {wide}, input '{}' takes {} x {}",
                    input.name,
                    side(height),
                    side(width)
                ),
                "leave preprocess.size out: it is for models that do not say how large their images are",
            ));
        }
        let side = |known: Option<usize>, at: usize| {
            known.or(size.and_then(|s| s.get(at).copied())).or(stored.and_then(|s| s.get(at).copied()))
        };
        let (Some(height), Some(width)) = (side(height, 0), side(width, 1)) else {
            return Err(Error::option(
                format!("the height and width of input '{}' are not known", input.name),
                "set preprocess.size to the side in pixels, or [height, width]",
            ));
        };
        if height == 0 || width == 0 || height.max(width) > 1 << 16 {
            return Err(Error::option(
                format!("input '{}' takes images of {height} x {width} pixels", input.name),
                "set preprocess.size to the side in pixels, or [height, width]",
            ));
        }
        Ok(Plan {
            height,
            width,
            channels,
            layout,
            resize: preprocess.resize,
            crop: preprocess.crop_fraction()?,
            filter: preprocess.filter,
            element_type: input.element_type,
            table: table(preprocess, channels.count(), input)?,
        })
    }

    pub(crate) fn row_shape(&self) -> Vec<usize> {
        let depth = self.channels.count();
        match self.layout {
            Layout::Nchw => vec![depth, self.height, self.width],
            Layout::Nhwc => vec![self.height, self.width, depth],
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels.count()
    }

    /// Bytes of a row before and after [`Self::write`].
    pub(crate) fn pixel_bytes(&self) -> usize {
        self.height * self.width * self.channels.count()
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.pixel_bytes() * size_of(self.element_type).unwrap_or(1)
    }

    /// The pixels of `picture` at the input's size: rows, columns, channels.
    pub(crate) fn pixels(&self, picture: Picture) -> Vec<u8> {
        let picture = picture.with_channels(self.channels.count());
        let (h, w) = (picture.height as f64, picture.width as f64);
        let to = [self.height, self.width];
        match self.resize {
            _ if [picture.height, picture.width] == to && self.crop == 1.0 => picture.pixels,
            Resize::Stretch => resize(&picture, to, 0..self.height, 0..self.width, self.filter).pixels,
            Resize::Crop => {
                let box_of = |side: usize| (side as f64 / self.crop).floor().max(1.0);
                let (high, wide) = (box_of(self.height), box_of(self.width));
                // The side that just covers gets the size, the other follows and is rounded down, as torchvision does.
                let (high, wide) = if w * high <= h * wide {
                    ((wide * h / w).floor().max(high), wide)
                } else {
                    (high, (high * w / h).floor().max(wide))
                };
                let start =
                    |outer: f64, inner: usize| ((outer - inner as f64) / 2.0).round_ties_even().max(0.0) as usize;
                let (top, left) = (start(high, self.height), start(wide, self.width));
                let (rows, columns) = (top..top + self.height, left..left + self.width);
                resize(&picture, [high as usize, wide as usize], rows, columns, self.filter).pixels
            }
            Resize::Pad => {
                let (high, wide) = if w * self.height as f64 >= h * self.width as f64 {
                    ((self.width as f64 * h / w).round().max(1.0) as usize, self.width)
                } else {
                    (self.height, (self.height as f64 * w / h).round().max(1.0) as usize)
                };
                let small = resize(&picture, [high, wide], 0..high, 0..wide, self.filter);
                self.centred(&small)
            }
        }
    }

    fn centred(&self, small: &Picture) -> Vec<u8> {
        let depth = small.channels;
        let mut pixels = vec![0; self.pixel_bytes()];
        let (top, left) = ((self.height - small.height) / 2, (self.width - small.width) / 2);
        let lines = pixels.chunks_exact_mut(self.width * depth).skip(top);
        for (line, source) in lines.zip(small.pixels.chunks_exact((small.width * depth).max(1))) {
            for (slot, p) in line.iter_mut().skip(left * depth).zip(source) {
                *slot = *p;
            }
        }
        pixels
    }

    /// The numbers of `pixels`, as [`Self::pixels`] returns them, as elements of the input.
    pub(crate) fn write(&self, pixels: &[u8], out: &mut [u8]) {
        match size_of(self.element_type) {
            Some(1) => self.write_elements::<1>(pixels, out),
            Some(2) => self.write_elements::<2>(pixels, out),
            Some(4) => self.write_elements::<4>(pixels, out),
            _ => self.write_elements::<8>(pixels, out),
        }
    }

    fn write_elements<const N: usize>(&self, pixels: &[u8], out: &mut [u8]) {
        let table = self.table.as_chunks::<N>().0;
        let out = out.as_chunks_mut::<N>().0;
        let depth = self.channels.count();
        let area = self.height * self.width;
        for (channel, table) in table.chunks_exact(256).enumerate() {
            let from = if self.channels == Channels::Bgr { depth - 1 - channel } else { channel };
            let source = pixels.iter().skip(from).step_by(depth).map(|p| table[usize::from(*p)]);
            match self.layout {
                Layout::Nchw => out.iter_mut().skip(channel * area).zip(source).for_each(|(slot, v)| *slot = v),
                Layout::Nhwc => out.iter_mut().skip(channel).step_by(depth).zip(source).for_each(|(slot, v)| *slot = v),
            }
        }
    }
}

/// The element for each pixel value, channel after channel.
fn table(preprocess: &Preprocess, depth: usize, input: &Input) -> Result<Vec<u8>> {
    let default = if input.element_type.is_float() { 1.0 / 255.0 } else { 1.0 };
    let scale = preprocess.scale.unwrap_or(default);
    let mean = preprocess.mean.as_ref().unwrap_or(&PerChannel::All(0.0)).values(depth, "mean")?;
    let std = preprocess.std.as_ref().unwrap_or(&PerChannel::All(1.0)).values(depth, "std")?;
    if std.contains(&0.0) {
        return Err(Error::option("preprocess.std is 0", "it is what is divided by: give numbers other than 0"));
    }
    if !scale.is_finite() {
        return Err(Error::option(format!("preprocess.scale is {scale}"), "give a finite number"));
    }
    let mut values = Vec::with_capacity(depth * 256);
    for (mean, std) in mean.iter().zip(&std) {
        values.extend((0..256).map(|pixel| (f64::from(pixel) * scale - mean) / std));
    }
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let size = size_of(input.element_type).ok_or_else(|| {
        Error::option(format!("input '{}' takes {}", input.name, input.element_type), "images need a number type")
    })?;
    let mut table = vec![0; values.len() * size];
    cast(ElementType::Double, &bytes, input.element_type, &mut table).map_err(|_| {
        Error::option(
            format!("pixels do not become whole numbers in the range of {}", input.element_type),
            "leave out preprocess.scale, mean and std where the input takes integers",
        )
    })?;
    Ok(table)
}
