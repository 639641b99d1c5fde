//! Data sets: named arrays read from a file, matched to a model's inputs and checked before training starts.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use dendrite_onnx::{Dim, ElementType, Graph, Shape, Tensor, ValueId};
use npyz::{NpyHeader, Order, TypeChar};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Named arrays as they lie in a file.
#[derive(Debug, Clone)]
pub struct DataSet {
    path: PathBuf,
    arrays: Vec<(String, Tensor)>,
}

impl DataSet {
    /// Read a data set. Its kind is told by its content; `.npz` is the kind known.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |reason: String, hint: &str| Error::Data { path: path.to_owned(), reason, hint: hint.to_owned() };
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut magic = [0u8; 4];
        let filled = file.read(&mut magic).map_err(Error::io(path))?;
        if &magic[..filled] != b"PK\x03\x04" {
            return Err(fail(
                "not a data set that can be read: it does not begin like an .npz file".to_owned(),
                "save the arrays with numpy.savez, named after the model's inputs, and the target as 'target'",
            ));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        Self::from_npz(path, BufReader::new(file))
    }

    /// Read an `.npz` from `reader`; `path` stands for it in messages.
    pub fn from_npz(path: impl AsRef<Path>, reader: impl Read + Seek) -> Result<Self> {
        let path = path.as_ref();
        let fail = |reason: String, hint: &str| Error::Data { path: path.to_owned(), reason, hint: hint.to_owned() };
        let broken = |e: std::io::Error| fail(format!("damaged .npz: {e}"), "save the file again with numpy.savez");
        let mut archive = npyz::npz::NpzArchive::new(reader).map_err(broken)?;
        let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
        let mut arrays = Vec::new();
        for name in names {
            let member = npyz::npz::file_name_from_array_name(&name);
            let mut reader = archive
                .zip_archive()
                .by_name(&member)
                .map_err(|e| fail(format!("array '{name}': {e}"), "save the file again with numpy.savez"))?;
            let tensor = read_npy(&mut reader)
                .map_err(|reason| fail(format!("array '{name}': {reason}"), "save it as numbers: classes as integers 0, 1, ... in the order of the model's outputs, everything else as floats"))?;
            arrays.push((name, tensor));
        }
        if arrays.is_empty() {
            return Err(fail("it holds no array".to_owned(), "save the arrays with numpy.savez"));
        }
        Ok(DataSet { path: path.to_owned(), arrays })
    }

    /// A data set in memory. `name` stands for the file in messages.
    pub fn from_arrays(name: &str, arrays: Vec<(String, Tensor)>) -> Self {
        DataSet { path: name.into(), arrays }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Array `name`.
    pub fn array(&self, name: &str) -> Option<&Tensor> {
        self.arrays.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// The names of the arrays.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.iter().map(|(n, _)| n.as_str())
    }

    fn error(&self, reason: String, hint: impl Into<String>) -> Error {
        Error::Data { path: self.path.clone(), reason, hint: hint.into() }
    }

    /// The array of each of `inputs`, and the target if it is asked for, checked against the graph's declarations and cast
    /// to the inputs' types. `map` gives the array of an input that is not called like it.
    pub fn samples(
        &self,
        graph: &Graph,
        inputs: &[ValueId],
        map: &[(String, String)],
        target: Option<&str>,
    ) -> Result<Samples> {
        if let Some((input, _)) = map.iter().find(|(i, _)| !inputs.iter().any(|v| graph.name_of(*v) == i.as_str())) {
            let names: Vec<&str> = inputs.iter().map(|v| graph.name_of(*v)).collect();
            return Err(Error::Option {
                reason: format!("--map names '{input}', the model's inputs are {}", names.join(", ")),
                hint: "say --map input=array with one of them".to_owned(),
            });
        }
        let mut fields = Vec::new();
        let mut count = None;
        for input in inputs {
            let value = graph.value(*input);
            let name =
                map.iter().find(|(i, _)| *i == value.name).map_or(value.name.as_str(), |(_, array)| array.as_str());
            let array = self.named(name, &format!("the model's input '{}'", value.name))?;
            let element_type = value.element_type.unwrap_or(ElementType::Float);
            self.check_shape(name, array, value.shape.as_ref())?;
            let rows = array.shape().first().copied().unwrap_or(0);
            self.check_rows(name, rows, &mut count)?;
            let array = cast(array, element_type).ok_or_else(|| {
                self.error(
                    format!("array '{name}' is {}, the model's input takes {element_type}", array.element_type()),
                    "save the array with the input's type",
                )
            })?;
            self.check_finite(name, &array)?;
            fields.push((value.name.clone(), array));
        }
        let target = match target {
            None => None,
            Some(name) => {
                let array = self.named(name, "the target")?;
                self.check_rows(name, array.shape().first().copied().unwrap_or(0), &mut count)?;
                let kind = if array.element_type().is_float() { ElementType::Float } else { ElementType::Int64 };
                let array = cast(array, kind).ok_or_else(|| {
                    self.error(format!("array '{name}' is {}", array.element_type()), "targets are numbers")
                })?;
                self.check_finite(name, &array)?;
                Some(array)
            }
        };
        let rows = count.unwrap_or(0);
        if rows == 0 {
            return Err(self.error("it holds no sample".to_owned(), "save at least one row"));
        }
        Ok(Samples { path: self.path.clone(), rows, fields, target })
    }

    fn named(&self, name: &str, role: &str) -> Result<&Tensor> {
        self.array(name).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            self.error(
                format!("no array '{name}' for {role}; the file holds {}", names.join(", ")),
                "name the array so, or say --map input=array (inputs) or --target array",
            )
        })
    }

    fn check_shape(&self, name: &str, array: &Tensor, declared: Option<&dendrite_onnx::Shape>) -> Result<()> {
        let Some(declared) = declared else { return Ok(()) };
        let fits = array.shape().len() == declared.rank()
            && declared.0.iter().zip(array.shape()).skip(1).all(|(d, n)| d.known().is_none_or(|d| d == *n));
        if fits {
            return Ok(());
        }
        Err(self.error(
            format!("array '{name}' has shape {:?}, the model's input takes {declared}", array.shape()),
            "the first axis counts samples; reshape the others to the input's",
        ))
    }

    fn check_rows(&self, name: &str, rows: usize, count: &mut Option<usize>) -> Result<()> {
        match *count {
            Some(n) if n != rows => Err(self.error(
                format!("array '{name}' has {rows} rows, the arrays before it {n}"),
                "every array needs one row a sample",
            )),
            _ => {
                *count = Some(rows);
                Ok(())
            }
        }
    }

    fn check_finite(&self, name: &str, array: &Tensor) -> Result<()> {
        if !array.element_type().is_float() {
            return Ok(());
        }
        let width = array.len() / array.shape().first().copied().unwrap_or(1).max(1);
        let bad = array.to_f32().and_then(|values| values.iter().position(|v| !v.is_finite()));
        match bad {
            Some(position) => Err(self.error(
                format!("array '{name}' holds NaN or infinity in row {}", position / width.max(1)),
                "remove or repair the row",
            )),
            None => Ok(()),
        }
    }
}

/// The arrays of one data set in the order and types of a model's inputs.
#[derive(Debug, Clone)]
pub struct Samples {
    path: PathBuf,
    rows: usize,
    fields: Vec<(String, Tensor)>,
    target: Option<Tensor>,
}

impl Samples {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none; never true for what [`DataSet::samples`] returns.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bring the target to the form that fits a prediction of this shape, where only its layout differs: classes in a
    /// column, numbers for a single output in a row or a column, 0 and 1 as integers for a single score.
    #[must_use]
    pub fn conformed(mut self, prediction: &Shape) -> Self {
        let Some(target) = &self.target else { return self };
        let flat = target.len() == self.rows;
        let single = prediction.rank() == 1 || (prediction.rank() == 2 && prediction.dim(1) == Some(&Dim::Known(1)));
        let conformed = match (flat, single) {
            (true, true) => {
                let shape: &[usize] = if prediction.rank() == 1 { &[self.rows] } else { &[self.rows, 1] };
                cast(target, ElementType::Float).and_then(|t| t.reshaped(shape))
            }
            (true, false) if target.element_type() == ElementType::Int64 => target.reshaped(&[self.rows]),
            _ => None,
        };
        self.target = conformed.or(self.target);
        self
    }

    /// SHA-256 over names, types, shapes and contents.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let target = self.target.iter().map(|t| ("target", t));
        for (name, array) in self.fields.iter().map(|(n, t)| (n.as_str(), t)).chain(target) {
            hash.update(format!("{name} {} {:?}", array.element_type(), array.shape()));
            hash.update(array.bytes());
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The file they came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Inputs with their arrays.
    pub fn fields(&self) -> &[(String, Tensor)] {
        &self.fields
    }

    /// The target.
    pub fn target(&self) -> Option<&Tensor> {
        self.target.as_ref()
    }

    /// An error about these data.
    pub fn error(&self, reason: String, hint: &str) -> Error {
        Error::Data { path: self.path.clone(), reason, hint: hint.to_owned() }
    }
}

/// Copy the rows `indices` of `array` into `out`, which holds at least that many; the rest of `out` keeps its bytes.
pub fn gather_rows(array: &Tensor, indices: &[usize], out: &mut [u8]) {
    let rows = array.shape().first().copied().unwrap_or(1).max(1);
    let width = array.bytes().len() / rows;
    for (slot, index) in out.chunks_exact_mut(width.max(1)).zip(indices) {
        slot.copy_from_slice(&array.bytes()[index * width..(index + 1) * width]);
    }
}

/// The same numbers in another type: any number to a float, integers to integers.
pub fn cast(array: &Tensor, to: ElementType) -> Option<Tensor> {
    if array.element_type() == to {
        return Some(array.clone());
    }
    match to {
        ElementType::Float => Some(Tensor::from_f32(array.shape(), &array.to_f32()?)),
        ElementType::Double => Some(Tensor::from_f64(array.shape(), &array.to_f64()?)),
        ElementType::Int64 => Some(Tensor::from_i64(array.shape(), &array.to_i64()?)),
        ElementType::Int32 => {
            let values = array.to_i64()?;
            let bytes: Option<Vec<[u8; 4]>> =
                values.iter().map(|v| Some(i32::try_from(*v).ok()?.to_le_bytes())).collect();
            Tensor::new(to, array.shape().to_vec(), bytes?.concat()).ok()
        }
        ElementType::Bool => {
            let values = array.to_i64()?;
            Tensor::new(to, array.shape().to_vec(), values.iter().map(|v| u8::from(*v != 0)).collect::<Vec<_>>()).ok()
        }
        ElementType::Float16 => {
            let values = array.to_f32()?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
            Tensor::new(to, array.shape().to_vec(), bytes).ok()
        }
        _ => None,
    }
}

/// One array in NumPy's format.
fn read_npy(reader: &mut impl Read) -> Result<Tensor, String> {
    let header = NpyHeader::from_reader(&mut *reader).map_err(|e| e.to_string())?;
    let npyz::DType::Plain(kind) = header.dtype() else { return Err("structured arrays are not supported".to_owned()) };
    let element_type = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 2) => ElementType::Float16,
        (TypeChar::Float, 4) => ElementType::Float,
        (TypeChar::Float, 8) => ElementType::Double,
        (TypeChar::Int, 1) => ElementType::Int8,
        (TypeChar::Int, 2) => ElementType::Int16,
        (TypeChar::Int, 4) => ElementType::Int32,
        (TypeChar::Int, 8) => ElementType::Int64,
        (TypeChar::Uint, 1) => ElementType::Uint8,
        (TypeChar::Uint, 2) => ElementType::Uint16,
        (TypeChar::Uint, 4) => ElementType::Uint32,
        (TypeChar::Uint, 8) => ElementType::Uint64,
        (TypeChar::Bool, _) => ElementType::Bool,
        _ => return Err(format!("element type {kind} is not a number")),
    };
    let shape: Vec<usize> = header.shape().iter().map(|d| *d as usize).collect();
    let size = (element_type.bits().unwrap_or(8) / 8).max(1);
    let expected = dendrite_onnx::tensor::element_count(&shape).and_then(|n| n.checked_mul(size));
    let expected = expected.ok_or_else(|| format!("shape {shape:?} overflows"))?;
    let mut bytes = Vec::new();
    // The header is not trusted with an allocation: what is read is bounded by what is there.
    reader.take(expected as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() != expected {
        return Err(format!("shape {shape:?} takes {expected} bytes, the file holds {}", bytes.len()));
    }
    if kind.endianness() == npyz::Endianness::Big {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if header.order() == Order::Fortran {
        bytes = rows_first(&bytes, &shape, size);
    }
    Tensor::new(element_type, shape, bytes).map_err(|e| e.to_string())
}

/// Elements of `size` bytes that lie with the first axis fastest (Fortran's order), brought to the last axis fastest.
fn rows_first(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(bytes.len());
    let mut index = vec![0usize; shape.len()];
    for _ in 0..bytes.len() / size.max(1) {
        let offset = index.iter().zip(shape).rev().fold(0, |offset, (i, n)| offset * n + i);
        ordered.extend_from_slice(&bytes[offset * size..(offset + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_in_fortran_order_read_as_they_are_meant() {
        // [[0, 1, 2], [3, 4, 5]] with the first axis fastest.
        assert_eq!(rows_first(&[0, 3, 1, 4, 2, 5], &[2, 3], 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows_first(&[0, 0, 1, 1], &[2], 2), [0, 0, 1, 1]);
    }
}
