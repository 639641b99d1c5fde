//! A data set as it lies: its kind, told by content, and its named columns.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dendrite_onnx::{Model, Tensor};

use crate::{
    array::{Array, Origin},
    column::{Column, Content, Numbers},
    error::{Error, Result},
    formats,
    images::folder,
    matching,
    preprocess::Preprocess,
    request::Request,
    samples::Samples,
    spool::Budget,
    storage::{DataFile, Storage},
};

/// What a data set may keep in memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of arrays; what does not fit is read from the file, or from a temporary one.
    pub arrays: u64,
    /// Bytes of decoded and resized images; others are decoded each time.
    pub images: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { arrays: 256 << 20, images: 512 << 20 }
    }
}

/// A data set before it is matched to a model.
#[derive(Debug)]
pub struct DataSet {
    pub(crate) path: PathBuf,
    pub(crate) kind: &'static str,
    pub(crate) columns: Vec<Column>,
    pub(crate) classes: Option<Vec<String>>,
    /// Whether several columns of numbers may make up one input.
    pub(crate) table: bool,
    pub(crate) limits: Limits,
    /// What reading the columns left of the memory.
    pub(crate) left: u64,
}

const HINT: &str = "data may be .npz, .safetensors, .parquet or .csv files, folders of .npy files, folders of images by \
                    class (FOLDER/CLASS/*.jpg), or folders with test_data_set_0, ...";

impl DataSet {
    /// Open a file or folder. Its kind is told by its content; headers are read and checked, arrays not yet.
    pub fn open(path: impl AsRef<Path>, preprocess: &Preprocess) -> Result<Self> {
        Self::open_with(path, preprocess, Limits::default())
    }

    /// [`Self::open`] with other limits.
    pub fn open_with(path: impl AsRef<Path>, preprocess: &Preprocess, limits: Limits) -> Result<Self> {
        let path = path.as_ref();
        let mut budget = Budget::new(limits.arrays);
        let (kind, columns, classes) = if fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            open_folder(path, preprocess, &mut budget)?
        } else {
            let (kind, columns) = open_file(path, &mut budget)?;
            (kind, columns, None)
        };
        let table = matches!(kind, "csv" | "parquet");
        Ok(DataSet { path: path.to_owned(), kind, columns, classes, table, limits, left: budget.remaining() })
    }

    /// A data set in memory. `name` stands for the file in messages.
    pub fn from_arrays(name: &str, arrays: Vec<(String, Tensor)>) -> Result<Self> {
        let path = PathBuf::from(name);
        let column = |(array, tensor): &(String, Tensor)| {
            let array = Array::from_tensor(Origin::new(&path, array), tensor)?;
            Ok(Column::numbers(&*array.origin.name.clone(), Numbers::ready(array)))
        };
        let columns = arrays.iter().map(column).collect::<Result<_>>()?;
        let limits = Limits::default();
        Ok(DataSet { path, kind: "memory", columns, classes: None, table: false, limits, left: limits.arrays })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is: "npz", "npy folder", "safetensors", "parquet", "csv", "image folder", "test data" or "memory".
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|c| c.name.as_str())
    }

    /// The classes, where folders name them.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// What each column holds: its name, and "float32[100, 3]", "text", "images" or what is wrong with it.
    pub fn describe(&self) -> Vec<(String, String)> {
        let what = |content: &Content| match content {
            Content::Numbers(numbers) => format!("{numbers:?}"),
            Content::Text(text) => format!("{text:?}"),
            Content::Images(images) => format!("images[{}]", images.len()),
            Content::Unusable { reason, .. } => reason.clone(),
        };
        self.columns.iter().map(|c| (c.name.clone(), what(&c.content))).collect()
    }

    /// The columns that `request` asks for, matched to the model's inputs and checked.
    pub fn samples(&self, request: &Request) -> Result<Samples> {
        matching::samples(self, request)
    }

    pub(crate) fn error(&self, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::data(&self.path, reason, hint)
    }
}

/// Open the data set in `path` and match it to what `request` asks.
pub fn open(path: impl AsRef<Path>, request: &Request) -> Result<Samples> {
    DataSet::open(path, &request.preprocess)?.samples(request)
}

fn open_file(path: &Path, budget: &mut Budget) -> Result<(&'static str, Vec<Column>)> {
    let file = DataFile::open(path)?;
    let fail = |reason: &str, hint: &str| Err(Error::data(path, reason, hint));
    let mut start = vec![0u8; 4096.min(file.len()) as usize];
    Storage::whole(file.clone()).read_at(0, &mut start).map_err(Error::io(path))?;
    let begins = |magic: &[u8]| start.starts_with(magic);
    if start.is_empty() {
        return fail("the file is empty", HINT);
    }
    if begins(b"PK\x03\x04") || begins(b"PK\x05\x06") {
        return Ok(("npz", formats::npz::columns(&file)?));
    }
    if formats::safetensors::is(&start, file.len()) {
        return Ok(("safetensors", formats::safetensors::columns(&file)?));
    }
    if begins(formats::parquet::MAGIC) {
        return Ok(("parquet", formats::parquet::columns(&file)?));
    }
    if begins(formats::npy::MAGIC) {
        return fail(
            "a single .npy file holds one array without a name",
            "put the .npy files, named like the model's inputs and 'target', into a folder and name the folder, or save \
             them together with numpy.savez",
        );
    }
    if begins(b"version https://git-lfs") {
        return fail("it is a Git LFS pointer", "fetch the file itself: git lfs pull");
    }
    if matches!(start.as_slice(), [0x80, 2..=5, ..]) {
        let hint = "save the arrays with numpy.savez, named after the model's inputs, and the targets as 'target'";
        return fail("Python pickles are not read, since they can run code", hint);
    }
    if begins(b"\x1f\x8b") {
        return fail("the file is packed with gzip", "unpack it first: gunzip");
    }
    if begins(b"\x89HDF") {
        return fail("HDF5 files are not read", "save the arrays with numpy.savez, named after the model's inputs");
    }
    if begins(b"ARROW1") {
        return fail("Arrow and Feather files are not read", "save the table as parquet");
    }
    if begins(b"\xff\xfe") || begins(b"\xfe\xff") {
        return fail("the file is text in UTF-16", "save it as UTF-8");
    }
    if formats::csv::is(&start) {
        return Ok(("csv", formats::csv::columns(&file, &start, budget)?));
    }
    if Model::open(path).is_ok() {
        return fail("it is an ONNX model, no data", HINT);
    }
    fail("not a data set that can be read", HINT)
}

type Opened = (&'static str, Vec<Column>, Option<Vec<String>>);

fn open_folder(path: &Path, preprocess: &Preprocess, budget: &mut Budget) -> Result<Opened> {
    let (folders, files) = folder::entries(path)?;
    let mut sets = formats::test_data::sets(&folders);
    if sets.is_empty() && formats::test_data::is_set(&files) {
        sets.push(path.to_owned());
    }
    if !sets.is_empty() {
        return Ok(("test data", formats::test_data::columns(path, &sets, budget)?, None));
    }
    let arrays: Vec<PathBuf> = files.iter().filter(|f| f.extension().is_some_and(|e| e == "npy")).cloned().collect();
    if !arrays.is_empty() {
        return Ok(("npy folder", formats::npy_folder::columns(path, &arrays)?, None));
    }
    if folders.iter().any(|f| folder::holds_images(f, 1)) {
        let (columns, classes) = folder::columns(path, preprocess)?;
        return Ok(("image folder", columns, Some(classes)));
    }
    if files.iter().any(|f| folder::looks_like_image(f)) {
        return Err(Error::data(
            path,
            "the images lie in the folder itself",
            "sort them by class: FOLDER/CLASS/*.jpg, one folder for each class",
        ));
    }
    let holds = |name: &str| files.iter().any(|f| f.file_name().is_some_and(|n| n == name));
    if holds("events.jsonl") && holds("metrics.csv") {
        return Err(Error::data(
            path,
            "it is the folder of a run, no data",
            "give the data; a run's result is its model.onnx",
        ));
    }
    let sets = |f: &&PathBuf| {
        f.extension().is_some_and(|e| ["npz", "safetensors", "parquet", "csv", "tsv"].iter().any(|k| e == *k))
    };
    if let Some(file) = files.iter().find(sets) {
        return Err(Error::data(
            path,
            "the folder holds files that are data sets themselves",
            format!("name one of them, such as {}", file.display()),
        ));
    }
    Err(Error::data(path, "the folder holds no data that can be read", HINT))
}
