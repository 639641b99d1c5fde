//! Image files as pixels.

use std::{fs::File, io::BufReader, path::Path};

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, metadata::Orientation};

use crate::error::{Error, Result};

/// The longest side of an image that is decoded, in pixels.
const LONGEST_SIDE: u32 = 1 << 16;
/// Bytes that decoding one image may take.
const LARGEST: u64 = 1 << 30;

const HINT: &str = "repair or remove the file; images may be JPEG, PNG, BMP, GIF or WebP";

/// Pixels of 8 bits, row by row, channels last.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Picture {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// 1 or 3.
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

fn reader(path: &Path) -> Result<ImageReader<BufReader<File>>> {
    let reader = ImageReader::open(path).map_err(Error::io(path))?;
    let mut reader = reader.with_guessed_format().map_err(Error::io(path))?;
    reader.limits(limits());
    Ok(reader)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(LARGEST);
    limits
}

fn unreadable(path: &Path, e: &image::ImageError) -> Error {
    // Some decoders speak in several lines.
    let text = e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::data(path, format!("not an image that can be read: {text}"), HINT)
}

/// Height and width of the image in `path` as it lies in the file, from its header.
pub(crate) fn dimensions(path: &Path) -> Result<[usize; 2]> {
    let (width, height) = reader(path)?.into_dimensions().map_err(|e| unreadable(path, &e))?;
    if width == 0 || height == 0 || width > LONGEST_SIDE || height > LONGEST_SIDE {
        return Err(Error::data(path, format!("the image measures {width} x {height} pixels"), HINT));
    }
    Ok([height as usize, width as usize])
}

/// The image in `path` with 1 or 3 channels; transparency is dropped. It is turned as its EXIF orientation says: cameras store
/// what the sensor saw, and note how they were held.
pub(crate) fn decode(path: &Path, channels: usize) -> Result<Picture> {
    let fail = |e| unreadable(path, &e);
    let mut decoder = reader(path)?.into_decoder().map_err(fail)?;
    let mut limits = limits();
    limits.reserve(decoder.total_bytes()).map_err(fail)?;
    decoder.set_limits(limits).map_err(fail)?;
    // Where the note cannot be read, the image is taken as it lies.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(fail)?;
    image.apply_orientation(orientation);
    Ok(picture(image, channels))
}

fn picture(image: DynamicImage, channels: usize) -> Picture {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = match (channels, &image) {
        (1, DynamicImage::ImageLuma8(_) | DynamicImage::ImageLumaA8(_)) => image.into_luma8().into_raw(),
        (1, _) => image.into_rgb8().as_raw().as_chunks::<3>().0.iter().map(luma).collect(),
        _ => image.into_rgb8().into_raw(),
    };
    Picture { height, width, channels, pixels }
}

/// Luma by ITU-R 601 in fixed point, as PIL computes it.
fn luma(rgb: &[u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

impl Picture {
    /// The same picture with 1 or 3 channels.
    pub(crate) fn with_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (3, 1) => self.pixels.as_chunks::<3>().0.iter().map(luma).collect(),
            (1, 3) => self.pixels.iter().flat_map(|p| [*p; 3]).collect(),
            _ => return self,
        };
        Picture { channels, pixels, ..self }
    }
}
