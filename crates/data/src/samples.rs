//! The samples of a data set as a model takes them.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use dendrite_onnx::{Dim, ElementType, Shape, Tensor, tensor::element_count};

use crate::{
    array::{Array, Origin},
    cast::{cast, size_of},
    dataset::DataSet,
    error::{Error, Result},
    images::{ImageSource, Picture, Plan},
    preprocess::Layout,
    request::Request,
};

/// Bytes of a block of targets.
const TARGET_BLOCK: usize = 1 << 20;

/// One input of the model, or the target, as the samples give it.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The name of the model's input; of the array for a target.
    pub name: String,
    /// The type in which rows are read.
    pub element_type: ElementType,
    /// The shape of one row; of the whole where the field is not per sample.
    pub row_shape: Vec<usize>,
    /// Whether there is a row for each sample. If not, it is the same for every batch: [`Samples::constant`].
    pub per_sample: bool,
    /// Whether it is a target, not something the model reads.
    pub target: bool,
}

impl Field {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        element_count(&self.row_shape).unwrap_or(0) * size_of(self.element_type).unwrap_or(1)
    }

    /// The shape of `batch` rows; the whole shape where the field is not per sample.
    pub fn batch_shape(&self, batch: usize) -> Vec<usize> {
        if self.per_sample { [&[batch], self.row_shape.as_slice()].concat() } else { self.row_shape.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Array(Array),
    Images(Arc<ImageSource>),
    /// A uint8 array of images of `stored` height, width and channels, channels first if `planar`.
    Pixels {
        array: Array,
        stored: [usize; 3],
        planar: bool,
        plan: Arc<Plan>,
    },
    Constant(Tensor),
}

/// A field and where its rows come from.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) field: Field,
    pub(crate) source: Source,
    pub(crate) layout: Option<Layout>,
    /// The rows of the source, where not all of them in order.
    pub(crate) selection: Option<Arc<[usize]>>,
}

impl Slot {
    pub(crate) fn new(field: Field, source: Source, layout: Option<Layout>) -> Self {
        Slot { field, source, layout, selection: None }
    }

    pub(crate) fn target(name: String, array: Array, element_type: ElementType) -> Self {
        let row_shape = array.shape.get(1..).unwrap_or_default().to_vec();
        let field = Field { name, element_type, row_shape, per_sample: true, target: true };
        Slot::new(field, Source::Array(array), None)
    }

    /// The rows of the source that stand behind `rows`.
    pub(crate) fn source_rows<'a>(&self, rows: &'a [usize]) -> Cow<'a, [usize]> {
        match &self.selection {
            None => Cow::Borrowed(rows),
            // A row beyond the selection stays beyond the source, whose reading says so.
            Some(map) => rows.iter().map(|row| map.get(*row).copied().unwrap_or(usize::MAX)).collect(),
        }
    }

    fn read(&self, path: &Path, samples: usize, rows: &[usize], out: &mut [u8]) -> Result<()> {
        let width = self.field.row_bytes();
        if let Some(row) = rows.iter().find(|row| **row >= samples) {
            return Err(Error::data(
                path,
                format!("there are {samples} samples, row {row} was asked for"),
                "rows count from 0",
            ));
        }
        if width.checked_mul(rows.len()) != Some(out.len()) {
            let reason = format!("{} rows of '{}' do not take {} bytes", rows.len(), self.field.name, out.len());
            return Err(Error::data(path, reason, "give a buffer of as many bytes as the rows take"));
        }
        if width == 0 {
            return Ok(());
        }
        let rows = self.source_rows(rows);
        match &self.source {
            Source::Array(array) => array.read(&rows, self.field.element_type, out),
            Source::Images(images) => images.read(&rows, out),
            Source::Pixels { array, stored: [height, width, channels], planar, plan } => {
                let mut stored = vec![0; height * width * channels];
                for (row, out) in rows.iter().zip(out.chunks_exact_mut(plan.row_bytes().max(1))) {
                    array.read(&[*row], ElementType::Uint8, &mut stored)?;
                    let pixels = if *planar { interleaved(&stored, *channels) } else { stored.clone() };
                    let picture = Picture { height: *height, width: *width, channels: *channels, pixels };
                    plan.write(&plan.pixels(picture), out);
                }
                Ok(())
            }
            Source::Constant(tensor) => {
                out.chunks_exact_mut(tensor.bytes().len().max(1)).for_each(|slot| slot.copy_from_slice(tensor.bytes()));
                Ok(())
            }
        }
    }

    fn is_resident(&self) -> bool {
        match &self.source {
            Source::Array(array) => array.is_resident(),
            Source::Constant(_) => true,
            Source::Images(_) | Source::Pixels { .. } => false,
        }
    }
}

/// Pixels of separate channels, put together.
fn interleaved(planes: &[u8], channels: usize) -> Vec<u8> {
    let area = planes.len() / channels.max(1);
    let mut pixels = vec![0; planes.len()];
    for (channel, plane) in planes.chunks_exact(area.max(1)).enumerate() {
        for (slot, p) in pixels.iter_mut().skip(channel).step_by(channels).zip(plane) {
            *slot = *p;
        }
    }
    pixels
}

#[derive(Debug, Clone)]
struct Inner {
    path: PathBuf,
    kind: &'static str,
    rows: usize,
    fields: Vec<Slot>,
    declared: Vec<Field>,
    target: Option<Slot>,
    weight: Option<Slot>,
    classes: Option<Vec<String>>,
}

/// The samples of one data set in the order and types of a model's inputs. Cloning is cheap; many threads may read.
#[derive(Debug, Clone)]
pub struct Samples {
    inner: Arc<Inner>,
}

impl Samples {
    pub(crate) fn new(
        path: PathBuf,
        kind: &'static str,
        rows: usize,
        fields: Vec<Slot>,
        target: Option<Slot>,
        weight: Option<Slot>,
        classes: Option<Vec<String>>,
    ) -> Self {
        let declared = fields.iter().map(|slot| slot.field.clone()).collect();
        Samples { inner: Arc::new(Inner { path, kind, rows, fields, declared, target, weight, classes }) }
    }

    /// Samples from arrays in memory. `name` stands for the file in messages.
    pub fn from_arrays(name: &str, arrays: Vec<(String, Tensor)>, request: &Request) -> Result<Self> {
        DataSet::from_arrays(name, arrays)?.samples(request)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.inner.rows
    }

    /// Whether there is none; only [`Self::select`] makes it so.
    pub fn is_empty(&self) -> bool {
        self.inner.rows == 0
    }

    /// The file or folder they came from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What it is, as [`DataSet::kind`] says.
    pub fn kind(&self) -> &'static str {
        self.inner.kind
    }

    /// The model's inputs, in the order of the request.
    pub fn fields(&self) -> &[Field] {
        &self.inner.declared
    }

    /// The target: int64 for integers and texts, float32 for floats.
    pub fn target(&self) -> Option<&Field> {
        self.inner.target.as_ref().map(|slot| &slot.field)
    }

    /// The weight of each sample, float32.
    pub fn weight(&self) -> Option<&Field> {
        self.inner.weight.as_ref().map(|slot| &slot.field)
    }

    /// The names of the classes, in the order of the target's numbers, where folders or texts name them. Where texts do,
    /// and nothing lists them, the order is this data set's own: give it to the other sets as `preprocess.classes`.
    pub fn classes(&self) -> Option<&[String]> {
        self.inner.classes.as_deref()
    }

    /// Whether reading any row is no more than copying memory.
    pub fn is_resident(&self) -> bool {
        self.slots().all(|(_, slot)| slot.is_resident())
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (&'static str, &Slot)> {
        let inner = &self.inner;
        let fields = inner.fields.iter().map(|slot| ("input", slot));
        let target = inner.target.iter().map(|slot| ("target", slot));
        fields.chain(target).chain(inner.weight.iter().map(|slot| ("weight", slot)))
    }

    pub(crate) fn slot(&self, field: usize) -> Result<&Slot> {
        self.inner.fields.get(field).ok_or_else(|| {
            let reason = format!("there are {} inputs, input {field} was asked for", self.inner.fields.len());
            self.error(reason, "inputs count from 0")
        })
    }

    /// Read `rows` of input `field` into `out`: little-endian row-major elements of the field's type, which must fill it.
    pub fn read(&self, field: usize, rows: &[usize], out: &mut [u8]) -> Result<()> {
        self.read_slot(self.slot(field)?, rows, out)
    }

    pub(crate) fn read_slot(&self, slot: &Slot, rows: &[usize], out: &mut [u8]) -> Result<()> {
        slot.read(&self.inner.path, self.inner.rows, rows, out)
    }

    fn target_slot(&self) -> Result<&Slot> {
        self.inner.target.as_ref().ok_or_else(|| self.error("it holds no target".to_owned(), "say --target"))
    }

    /// Read `rows` of the target into `out`, as [`Self::read`] does.
    pub fn read_target(&self, rows: &[usize], out: &mut [u8]) -> Result<()> {
        self.read_slot(self.target_slot()?, rows, out)
    }

    /// Read the weights of `rows` into `out`; all ones where the data set has none.
    pub fn read_weights(&self, rows: &[usize], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        let Some(slot) = &self.inner.weight else {
            out.resize(rows.len(), 1.0);
            return Ok(());
        };
        let mut bytes = vec![0; rows.len() * 4];
        self.read_slot(slot, rows, &mut bytes)?;
        out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        Ok(())
    }

    /// The array of input `field` where it is not per sample: it is the same for every batch.
    pub fn constant(&self, field: usize) -> Option<&Tensor> {
        match self.inner.fields.get(field)?.source {
            Source::Constant(ref tensor) => Some(tensor),
            _ => None,
        }
    }

    /// All rows of input `field`, read into memory.
    pub fn tensor(&self, field: usize) -> Result<Tensor> {
        self.whole(self.slot(field)?)
    }

    /// The whole target, read into memory.
    pub fn target_tensor(&self) -> Result<Tensor> {
        self.whole(self.target_slot()?)
    }

    /// The target in blocks of rows from first to last, each of about a megabyte, so that what is read at a time does not
    /// grow with the data.
    pub fn target_blocks(&self) -> impl Iterator<Item = Result<Tensor>> + '_ {
        let row_bytes = self.target().map_or(1, Field::row_bytes);
        let rows = (TARGET_BLOCK / row_bytes.max(1)).max(1);
        (0..self.len()).step_by(rows).map(move |first| {
            let rows: Vec<usize> = (first..self.len().min(first + rows)).collect();
            self.rows_of(self.target_slot()?, &rows)
        })
    }

    /// The weights of all samples, if the data set has any.
    pub fn weights(&self) -> Result<Option<Vec<f32>>> {
        let Some(slot) = &self.inner.weight else { return Ok(None) };
        Ok(self.whole(slot)?.to_f32())
    }

    fn whole(&self, slot: &Slot) -> Result<Tensor> {
        if let Source::Constant(tensor) = &slot.source {
            return Ok(tensor.clone());
        }
        let rows: Vec<usize> = (0..self.len()).collect();
        self.rows_of(slot, &rows)
    }

    fn rows_of(&self, slot: &Slot, rows: &[usize]) -> Result<Tensor> {
        let len = slot.field.row_bytes().checked_mul(rows.len());
        let len = len.ok_or_else(|| self.error(format!("'{}' is too large", slot.field.name), "read it in parts"))?;
        let mut bytes = vec![0; len];
        self.read_slot(slot, rows, &mut bytes)?;
        let shape = slot.field.batch_shape(rows.len());
        Tensor::new(slot.field.element_type, shape, bytes).map_err(|e| self.error(e.to_string(), "open it again"))
    }

    /// Whether an input is made of images.
    pub fn holds_images(&self) -> bool {
        self.inner.fields.iter().any(|slot| !matches!(slot.source, Source::Array(_) | Source::Constant(_)))
    }

    /// The samples `rows`, in this order; one may come several times.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        if let Some(row) = rows.iter().find(|row| **row >= self.len()) {
            let reason = format!("there are {} samples, row {row} was asked for", self.len());
            return Err(self.error(reason, "rows count from 0"));
        }
        let mut inner = Inner::clone(&self.inner);
        let Inner { fields, target, weight, .. } = &mut inner;
        for slot in fields.iter_mut().chain(target.as_mut()).chain(weight.as_mut()) {
            slot.selection = Some(slot.source_rows(rows).into());
        }
        inner.rows = rows.len();
        Ok(Samples { inner: Arc::new(inner) })
    }

    /// The same samples with another target: one row a sample, integers or floats.
    pub fn with_target(&self, target: Tensor) -> Result<Self> {
        let name = self.target().map_or("target", |t| t.name.as_str()).to_owned();
        let to = if target.element_type().is_float() { ElementType::Float } else { ElementType::Int64 };
        let array = Array::from_tensor(Origin::new(self.path(), &name), &target)?;
        if array.rows() != self.len() || target.shape().is_empty() {
            let reason = format!("the target has shape {:?}, there are {} samples", target.shape(), self.len());
            return Err(self.error(reason, "give one row for each sample"));
        }
        let mut bytes = vec![0; target.len() * size_of(to).unwrap_or(8)];
        cast(target.element_type(), target.bytes(), to, &mut bytes)
            .map_err(|_| self.error(format!("the target does not fit {to}"), "give smaller numbers"))?;
        let tensor = Tensor::new(to, target.shape().to_vec(), bytes).map_err(|e| self.error(e.to_string(), ""))?;
        let array = Array::from_tensor(array.origin, &tensor)?;
        let mut inner = Inner::clone(&self.inner);
        inner.target = Some(Slot::target(name, array, to));
        Ok(Samples { inner: Arc::new(inner) })
    }

    /// The same samples with other weights: one of 0 or more for each sample.
    pub fn with_weights(&self, weights: &[f32]) -> Result<Self> {
        if weights.len() != self.len() {
            let reason = format!("there are {} weights for {} samples", weights.len(), self.len());
            return Err(self.error(reason, "give one weight for each sample"));
        }
        if let Some(row) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err(self.error(format!("the weight of sample {row} is {}", weights[row]), "weights are 0 or more"));
        }
        let tensor = Tensor::from_f32(&[weights.len()], weights);
        let array = Array::from_tensor(Origin::new(self.path(), "weight"), &tensor)?;
        let mut inner = Inner::clone(&self.inner);
        inner.weight = Some(Slot::target("weight".to_owned(), array, ElementType::Float));
        Ok(Samples { inner: Arc::new(inner) })
    }

    /// Bring the target to the form that fits a prediction of this shape, where only its layout differs: classes in a
    /// column, numbers for a single output in a row or a column, 0 and 1 as integers for a single score.
    pub fn conformed(&self, prediction: &Shape) -> Result<Self> {
        let Some(field) = self.target() else { return Ok(self.clone()) };
        if element_count(&field.row_shape) != Some(1) {
            return Ok(self.clone());
        }
        let single = prediction.rank() == 1 || (prediction.rank() == 2 && prediction.dim(1) == Some(&Dim::Known(1)));
        let row: &[usize] = if single && prediction.rank() == 2 { &[1] } else { &[] };
        let float = field.element_type == ElementType::Float;
        if (!single && float) || (field.row_shape == row && float == single) {
            return Ok(self.clone());
        }
        // One number a row either way: it is only read in another type and shape.
        let mut inner = Inner::clone(&self.inner);
        if let Some(slot) = &mut inner.target {
            slot.field.row_shape = row.to_vec();
            if single {
                slot.field.element_type = ElementType::Float;
            }
        }
        Ok(Samples { inner: Arc::new(inner) })
    }

    /// An error about these data.
    pub fn error(&self, reason: impl Into<String>, hint: &str) -> Error {
        Error::data(self.path(), reason, hint)
    }
}
