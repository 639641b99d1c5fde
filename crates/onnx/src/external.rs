//! External data: where a tensor's bytes lie beside the model, resolved without leaving the model's folder.
//!
//! A location is a relative path of plain names. Absolute paths, `..` and symbolic links are refused, since a model is
//! untrusted and must not make this program read a file of its choosing. Offset and length are checked against the file
//! before it is mapped; each file is mapped once.

use std::{
    collections::HashMap,
    fs::File,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    map,
    proto::{TensorProto, tensor_proto::DataLocation},
};

/// Where a tensor's bytes lie, as its message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The file, relative to the model's folder: plain names, no `.` or `..`.
    pub location: PathBuf,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes; to the end of the file where the message does not say.
    pub length: Option<u64>,
}

/// Whether the tensor's bytes lie outside the model file.
pub fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

/// The reference of an external tensor. The location is checked to be contained, the file is not looked at.
pub fn reference(tensor: &TensorProto) -> Result<Reference> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
    let fail = |reason: String| Error::Tensor { name: tensor.name().to_owned(), reason };
    let number = |key: &str| -> Result<Option<u64>> {
        let Some(text) = entry(key).map(str::trim).filter(|t| !t.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| fail(format!("external {key} '{text}' is not a number of bytes")))
    };
    let location = entry("location").filter(|l| !l.is_empty());
    let location = location.ok_or_else(|| fail("external data without a location".to_owned()))?;
    let mut plain = PathBuf::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused(tensor, location, "leaves the model's folder"));
            }
        }
    }
    if plain.as_os_str().is_empty() || location.contains('\0') {
        return Err(refused(tensor, location, "names no file"));
    }
    Ok(Reference { location: plain, offset: number("offset")?.unwrap_or(0), length: number("length")? })
}

fn refused(tensor: &TensorProto, location: &str, reason: &str) -> Error {
    Error::External {
        name: tensor.name().to_owned(),
        location: location.to_owned(),
        reason: reason.to_owned(),
        hint: "keep external data in files beside the model or below it, referred to by a relative path".to_owned(),
    }
}

/// The external files of one model's folder, mapped as they are needed.
#[derive(Debug)]
pub(crate) struct ExternalData {
    folder: PathBuf,
    files: Mutex<HashMap<PathBuf, Bytes>>,
}

impl ExternalData {
    pub(crate) fn new(folder: PathBuf) -> Self {
        ExternalData { folder, files: Mutex::default() }
    }

    /// The folder that locations are relative to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bytes of an external tensor.
    pub(crate) fn bytes(&self, tensor: &TensorProto) -> Result<Bytes> {
        let reference = reference(tensor)?;
        let (_, file) = self.file(tensor, &reference.location)?;
        let fail = |reason: String| Error::External {
            name: tensor.name().to_owned(),
            location: reference.location.display().to_string(),
            reason,
            hint: "the data file does not belong to this model or is truncated; copy both again".to_owned(),
        };
        let size = file.len() as u64;
        let length = match reference.length {
            Some(length) => length,
            None => size.checked_sub(reference.offset).ok_or_else(|| fail(format!("offset lies after byte {size}")))?,
        };
        let end = reference.offset.checked_add(length).filter(|end| *end <= size).ok_or_else(|| {
            fail(format!("{length} bytes at offset {} reach past its {size} bytes", reference.offset))
        })?;
        // Both fit usize: they are at most the length of a mapped file.
        Ok(file.slice(reference.offset as usize..end as usize))
    }

    /// The file at `location`, to which `tensor` refers, and its contents.
    pub(crate) fn file(&self, tensor: &TensorProto, location: &Path) -> Result<(PathBuf, Bytes)> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = files.get(location) {
            return Ok((self.folder.join(location), bytes.clone()));
        }
        let path = contained(&self.folder, location).map_err(|problem| match problem {
            Problem::Io(path, source) => Error::External {
                name: tensor.name().to_owned(),
                location: location.display().to_string(),
                reason: if path.ends_with(location) {
                    source.to_string()
                } else {
                    format!("{}: {source}", path.display())
                },
                hint: "the model's data file belongs into the same folder; copy it there".to_owned(),
            },
            Problem::Link(path) => Error::External {
                name: tensor.name().to_owned(),
                location: location.display().to_string(),
                reason: format!("{} is a symbolic link", path.display()),
                hint: "links are not followed; copy the model's folder with links resolved (cp -rL)".to_owned(),
            },
            Problem::NotAFile(path) => {
                refused(tensor, &location.display().to_string(), &format!("{} is not a file", path.display()))
            }
        })?;
        let bytes = File::open(&path)
            .and_then(|file| map::map(&file))
            .map_err(|source| Error::Io { path: path.clone(), source })?;
        files.insert(location.to_owned(), bytes.clone());
        Ok((path, bytes))
    }
}

/// Why a location is not a file inside a folder.
#[derive(Debug)]
enum Problem {
    Io(PathBuf, std::io::Error),
    Link(PathBuf),
    NotAFile(PathBuf),
}

/// The path of `location` in `folder`, none of whose steps below the folder is a link.
fn contained(folder: &Path, location: &Path) -> Result<PathBuf, Problem> {
    let mut path = folder.to_owned();
    for name in location.components() {
        path.push(name);
        let kind = path.symlink_metadata().map_err(|e| Problem::Io(path.clone(), e))?.file_type();
        if kind.is_symlink() {
            return Err(Problem::Link(path));
        }
    }
    let canonical = |p: &Path| p.canonicalize().map_err(|e| Problem::Io(p.to_owned(), e));
    let root = if folder.as_os_str().is_empty() { canonical(Path::new("."))? } else { canonical(folder)? };
    if !canonical(&path)?.starts_with(&root) {
        return Err(Problem::Link(path));
    }
    if !path.metadata().map_err(|e| Problem::Io(path.clone(), e))?.is_file() {
        return Err(Problem::NotAFile(path));
    }
    Ok(path)
}
