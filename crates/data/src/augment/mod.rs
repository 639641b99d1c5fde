//! Random changes of training data: the `[augment]` table of a configuration.

mod row;

use dendrite_onnx::ElementType;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    preprocess::Layout,
    random::{beta, generator},
    samples::Samples,
};
use row::Grid;

/// Random changes of training data, all off by default. They derive from the seed, the epoch and the sample's place in the
/// data set alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Augment {
    /// Mirror every second image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<Flip>,
    /// Shift images in both directions by up to this much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<Extent>,
    /// What fills the rim that a shift leaves.
    pub fill: Fill,
    /// Roll the last axis by up to this many elements in either direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_shift: Option<usize>,
    /// Multiply a row by a number drawn between these two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<[f64; 2]>,
    /// Add Gaussian noise of this standard deviation, in the input's units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// Add Gaussian noise at a ratio of signal to noise, in decibels, drawn between these two for each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_snr_db: Option<[f64; 2]>,
    /// Blend each row with another of its batch, inputs and targets alike (mixup), by a share drawn from the beta
    /// distribution with this parameter. Needs float targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<f64>,
    /// The inputs that are changed; all of float32 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<String>>,
}

/// Directions of mirroring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flip {
    /// Left and right.
    Horizontal,
    /// Up and down.
    Vertical,
    /// Each of them on its own.
    Both,
}

/// An extent along a side of an image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected whole pixels, or a share of the side below 1")]
pub enum Extent {
    /// In pixels: a whole number.
    Pixels(usize),
    /// As a share of the side, below 1.
    Fraction(f64),
}

impl Extent {
    fn of(self, side: usize) -> usize {
        match self {
            Extent::Pixels(pixels) => pixels.min(side),
            Extent::Fraction(share) => (share * side as f64).round() as usize,
        }
    }
}

/// What fills the rim that a shift leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// Zeros.
    #[default]
    Zero,
    /// The outermost pixels.
    Edge,
}

impl Augment {
    /// Whether nothing is changed.
    pub fn is_off(&self) -> bool {
        let Augment { flip, shift, fill: _, time_shift, gain, noise, noise_snr_db, mix, inputs: _ } = self;
        flip.is_none()
            && shift.is_none()
            && time_shift.is_none()
            && gain.is_none()
            && noise.is_none()
            && noise_snr_db.is_none()
            && mix.is_none()
    }

    /// Whether these changes are possible, and possible with `samples`.
    pub fn check(&self, samples: &Samples) -> Result<()> {
        Augmenter::new(self, samples, 0, 0).map(|_| ())
    }

    fn check_numbers(&self) -> Result<()> {
        let wrong =
            |name: &str, value: String, say: &str| Err(Error::option(format!("augment.{name} is {value}"), say));
        let pair = |r: &Option<[f64; 2]>| r.map(|r| format!("{r:?}")).unwrap_or_default();
        let range = |r: &Option<[f64; 2]>| r.is_none_or(|[a, b]| a.is_finite() && b.is_finite() && a <= b);
        if let Some(Extent::Fraction(share)) = self.shift
            && !(0.0..1.0).contains(&share)
        {
            return wrong("shift", share.to_string(), "give a share of the side from 0 to below 1, or whole pixels");
        }
        if let Some(noise) = self.noise
            && !(noise.is_finite() && noise >= 0.0)
        {
            return wrong("noise", noise.to_string(), "give a standard deviation of 0 or more");
        }
        if !range(&self.gain) {
            return wrong("gain", pair(&self.gain), "give [low, high]");
        }
        if !range(&self.noise_snr_db) {
            return wrong("noise-snr-db", pair(&self.noise_snr_db), "give [low, high] in decibels");
        }
        if let Some(alpha) = self.mix
            && !(alpha.is_finite() && alpha > 0.0)
        {
            return wrong("mix", alpha.to_string(), "give a number above 0, such as 0.2");
        }
        Ok(())
    }
}

/// An input that is changed.
#[derive(Debug)]
struct Changed {
    field: usize,
    row_bytes: usize,
    /// Images, where it holds them.
    grid: Option<Grid>,
    /// Elements of the last axis.
    last: usize,
    /// Whether it is only blended with others: a further target.
    only_mixed: bool,
}

/// Changes batches of one epoch.
#[derive(Debug)]
pub(crate) struct Augmenter {
    augment: Augment,
    seed: u64,
    epoch: u64,
    changed: Vec<Changed>,
    target_bytes: usize,
}

impl Augmenter {
    pub(crate) fn new(augment: &Augment, samples: &Samples, seed: u64, epoch: u64) -> Result<Self> {
        augment.check_numbers()?;
        let fields = samples.fields();
        if let Some(names) = &augment.inputs
            && let Some(name) = names.iter().find(|n| !fields.iter().any(|f| f.name == **n))
        {
            let known: Vec<&str> = fields.iter().map(|f| f.name.as_str()).collect();
            return Err(Error::option(
                format!("augment.inputs names '{name}', the model's inputs are {}", known.join(", ")),
                "name inputs of the model",
            ));
        }
        let mut changed = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            let named = augment.inputs.as_ref().map(|names| names.contains(&field.name));
            let fits = field.per_sample && field.element_type == ElementType::Float;
            if named == Some(true) && !fits {
                return Err(Error::option(
                    format!("augment.inputs names '{}', which takes {}", field.name, field.element_type),
                    "only float32 inputs with a row for each sample can be changed",
                ));
            }
            if field.target {
                if augment.mix.is_some() {
                    if !fits {
                        return Err(unblended());
                    }
                    changed.push(Changed {
                        field: index,
                        row_bytes: field.row_bytes(),
                        grid: None,
                        last: 0,
                        only_mixed: true,
                    });
                }
                continue;
            }
            if !fits || named == Some(false) {
                if augment.mix.is_some() && field.per_sample {
                    return Err(Error::option(
                        format!("augment.mix cannot blend input '{}'", field.name),
                        "mix needs float32 inputs, all of them; leave it out",
                    ));
                }
                continue;
            }
            let grid = grid(&field.row_shape, samples.slot(index)?.layout);
            if grid.is_none() && (augment.flip.is_some() || augment.shift.is_some()) {
                return Err(Error::option(
                    format!("input '{}' with rows of shape {:?} holds no images", field.name, field.row_shape),
                    "augment.flip and augment.shift are for images; name the inputs with augment.inputs",
                ));
            }
            let last = field.row_shape.last().copied().unwrap_or(1);
            changed.push(Changed { field: index, row_bytes: field.row_bytes(), grid, last, only_mixed: false });
        }
        let target = samples.target();
        if augment.mix.is_some() && target.is_none_or(|t| t.element_type != ElementType::Float) {
            return Err(unblended());
        }
        let target_bytes = target.map_or(0, |t| t.row_bytes());
        Ok(Augmenter { augment: augment.clone(), seed, epoch, changed, target_bytes })
    }

    /// Change a batch in place; `rows` are the samples in it.
    pub(crate) fn apply(&self, rows: &[usize], fields: &mut [Vec<u8>], target: &mut [u8]) {
        let mut values = Vec::new();
        for changed in self.changed.iter().filter(|c| !c.only_mixed) {
            let Some(bytes) = fields.get_mut(changed.field) else { continue };
            for (row, bytes) in rows.iter().zip(bytes.chunks_exact_mut(changed.row_bytes.max(1))) {
                let mut rng = generator(self.seed, &[self.epoch, *row as u64, changed.field as u64]);
                values.clear();
                values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
                row::change(&self.augment, changed.grid.as_ref(), changed.last, &mut values, &mut rng);
                write(&values, bytes);
            }
        }
        if let Some(alpha) = self.augment.mix {
            self.mix(alpha, rows, fields, target);
        }
    }

    fn mix(&self, alpha: f64, rows: &[usize], fields: &mut [Vec<u8>], target: &mut [u8]) {
        let draws: Vec<(f32, usize)> = rows
            .iter()
            .map(|row| {
                let mut rng = generator(self.seed, &[self.epoch, *row as u64, u64::MAX]);
                (beta(&mut rng, alpha) as f32, rng.random_range(0..rows.len().max(1)))
            })
            .collect();
        for changed in &self.changed {
            if let Some(bytes) = fields.get_mut(changed.field) {
                blend(&draws, changed.row_bytes, bytes);
            }
        }
        blend(&draws, self.target_bytes, target);
    }
}

fn unblended() -> Error {
    Error::option(
        "augment.mix needs float targets, which can be blended",
        "save the targets as one number for each class (one-hot, float32), or leave augment.mix out",
    )
}

/// Rows of float32, each blended with the row that its draw names.
fn blend(draws: &[(f32, usize)], row_bytes: usize, bytes: &mut [u8]) {
    let original = bytes.to_vec();
    let numbers = |row: usize| {
        let row = original.get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default();
        row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
    };
    for (index, ((share, partner), out)) in draws.iter().zip(bytes.chunks_exact_mut(row_bytes.max(1))).enumerate() {
        let blended: Vec<f32> =
            numbers(index).zip(numbers(*partner)).map(|(a, b)| share * a + (1.0 - share) * b).collect();
        write(&blended, out);
    }
}

fn write(values: &[f32], out: &mut [u8]) {
    for (slot, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *slot = value.to_le_bytes();
    }
}

/// How the pixels of a row lie, if its shape is that of images.
fn grid(row_shape: &[usize], layout: Option<Layout>) -> Option<Grid> {
    match (row_shape, layout) {
        ([c, h, w], Some(Layout::Nchw)) => Some(Grid { height: *h, width: *w, channels: *c, planar: true }),
        ([h, w, c], Some(Layout::Nhwc)) => Some(Grid { height: *h, width: *w, channels: *c, planar: false }),
        ([h, w], _) => Some(Grid { height: *h, width: *w, channels: 1, planar: true }),
        _ => None,
    }
}
