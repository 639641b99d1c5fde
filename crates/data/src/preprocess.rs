//! How images become a model's input: the `[preprocess]` table of a configuration.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How images become a model's input.
///
/// An image is decoded, brought to its channels, resized, and turned into numbers: value = (pixel * scale - mean) / std,
/// where a pixel is 0 to 255. A photograph is first turned as its metadata say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Preprocess {
    /// The input that takes the images, where a model has several that could. Naming it also applies everything here to a
    /// uint8 array of images that stands for this input.
    pub input: Option<String>,
    /// How an image is brought to the input's height and width.
    pub resize: Resize,
    /// With [`Resize::Crop`]: the share of the resized image's side that is kept, above 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<f64>,
    /// Height and width in pixels, where the model does not say them: one number for both, or two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// What a pixel is multiplied by; 1/255 for a float input, 1 for an integer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// What is subtracted after scaling: one number, or one a channel, in the order of `channels`. 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<PerChannel>,
    /// What is divided by at last: one number, or one a channel. 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<PerChannel>,
    /// The order of the input's axes; by default the one whose channel axis holds 1 or 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// The channels; by default those that the input's channel axis has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// The classes in the order of the model's outputs, or the path of a file with one a line. By default a folder of
    /// images looks for `classes.txt` in itself and the folder above, and else sorts the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// How pixels are interpolated.
    pub filter: Filter,
}

/// How an image is brought to height and width.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// To exactly the size, whatever becomes of the proportions.
    Stretch,
    /// So that it covers the size, then the centre is cut out.
    #[default]
    Crop,
    /// So that it fits into the size, centred on black.
    Pad,
}

/// How pixels are interpolated. All but nearest average over the area when they shrink, as PIL does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Linear in both directions.
    #[default]
    Bilinear,
    /// Cubic in both directions, with a = -0.5.
    Bicubic,
}

/// The order of the axes of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Samples, channels, height, width.
    Nchw,
    /// Samples, height, width, channels.
    Nhwc,
}

/// The channels of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Luma (ITU-R 601).
    Gray,
}

impl Channels {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }
}

/// Height and width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the side in pixels, or [height, width]")]
pub enum Size {
    /// Both.
    Square(usize),
    /// Height, width.
    Sides([usize; 2]),
}

impl Size {
    /// Height and width.
    pub fn sides(self) -> [usize; 2] {
        match self {
            Size::Square(side) => [side, side],
            Size::Sides(sides) => sides,
        }
    }
}

/// One number for all channels, or one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected one number, or a list in brackets such as [0.5, 0.5, 0.5]")]
pub enum PerChannel {
    /// For all.
    All(f64),
    /// For each, in the order of the channels.
    Each(Vec<f64>),
}

/// The classes, or where they are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a file of names, or a list such as [\"ant\", \"bee\"]")]
pub enum Classes {
    /// A file with one name a line.
    File(PathBuf),
    /// The names.
    Names(Vec<String>),
}

impl Classes {
    /// The names in the file at `path`, one a line.
    pub(crate) fn read(path: &Path) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let given = path.to_string_lossy();
            if e.kind() == std::io::ErrorKind::NotFound && given.contains(',') {
                let names: Vec<String> = given.split(',').map(|name| format!("\"{}\"", name.trim())).collect();
                let hint =
                    format!("classes are listed in brackets and quotes: 'preprocess.classes=[{}]'", names.join(","));
                return Error::option(format!("preprocess.classes: there is no file '{given}'"), hint);
            }
            Error::io(path)(e)
        })?;
        Ok(text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect())
    }
}

impl PerChannel {
    /// The number for each of `count` channels; `name` is the option's.
    pub(crate) fn values(&self, count: usize, name: &str) -> Result<Vec<f64>> {
        let values = match self {
            PerChannel::All(value) => vec![*value; count],
            PerChannel::Each(values) if values.len() == 1 => values.repeat(count),
            PerChannel::Each(values) => values.clone(),
        };
        if values.len() != count {
            return Err(Error::option(
                format!("preprocess.{name} has {} numbers, the input has {count} channels", values.len()),
                "give one number, or one for each channel",
            ));
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::option(format!("preprocess.{name} is not finite"), "give finite numbers"));
        }
        Ok(values)
    }
}

impl Preprocess {
    /// The first option set that changes pixels, and so nothing where there is no image.
    pub fn of_pixels(&self) -> Option<&'static str> {
        let plain = Preprocess::default();
        let set = [
            ("resize", self.resize != plain.resize),
            ("crop", self.crop.is_some()),
            ("size", self.size.is_some()),
            ("scale", self.scale.is_some()),
            ("mean", self.mean.is_some()),
            ("std", self.std.is_some()),
            ("channels", self.channels.is_some()),
            ("filter", self.filter != plain.filter),
        ];
        set.into_iter().find(|(_, set)| *set).map(|(option, _)| option)
    }

    /// The kept share of a crop, checked.
    pub(crate) fn crop_fraction(&self) -> Result<f64> {
        let crop = self.crop.unwrap_or(1.0);
        if crop > 0.0 && crop <= 1.0 {
            return Ok(crop);
        }
        Err(Error::option(format!("preprocess.crop is {crop}"), "give the share that is kept, above 0 and up to 1"))
    }
}
