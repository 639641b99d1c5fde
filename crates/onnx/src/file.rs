//! Files that are written whole or not at all, and models written so with their external data.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{Error, Result},
    external::{is_external, reference},
    model::Model,
    patch::{ExternalWrite, Patch},
};

/// Write the edited model to `path`, which may be the file it came from.
///
/// The external files that the model refers to are copied to the same relative places beside the output, with the bytes
/// of replaced tensors at their offsets; new initializers are embedded in the model file. The data files the model came
/// with are never changed: replacing a tensor that lies in one asks for an output in another folder. The model file is
/// written last, and each file is replaced in one step. Other data in the place of a data file are
/// replaced only if the model now at `path` refers to it; else it may be another model's, and nothing is written.
pub fn write(model: &Model, patch: &Patch, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let (bytes, writes) = patch.assemble(model)?;
    let folder = folder_of(path);
    let mut targets = vec![place(path)?];
    let files = external_files(model)?;
    refuse_foreign(path, &folder, &files, &writes)?;
    for (location, (source, contents)) in files {
        let target = folder.join(&location);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(io_error(parent))?;
        }
        let (from, to) = (place(&source)?, place(&target)?);
        let changes: Vec<&ExternalWrite> = writes.iter().filter(|w| w.location == location).collect();
        if targets.contains(&to) || targets.contains(&from) {
            return Err(edit(&format!("{} is one of the model's data files", path.display())));
        }
        if from == to {
            match changes.first() {
                Some(write) => {
                    return Err(edit(&format!("it would overwrite '{}' in {}", write.name, source.display())));
                }
                None => continue,
            }
        }
        write_with(&target, |file| {
            file.write_all(&contents)?;
            for change in &changes {
                file.seek(SeekFrom::Start(change.offset))?;
                file.write_all(&change.bytes)?;
            }
            Ok(())
        })?;
        targets.push(to);
    }
    write_bytes(path, &bytes)
}

/// Fail if a data file would replace one that neither holds the same, before or after `writes`, nor belongs to the model that
/// is being replaced. A process that ended between the data and the model leaves the data as they are after `writes`.
fn refuse_foreign(
    path: &Path,
    folder: &Path,
    files: &BTreeMap<PathBuf, (PathBuf, bytes::Bytes)>,
    writes: &[ExternalWrite],
) -> Result<()> {
    let differs = |location: &Path, (source, contents): &(PathBuf, bytes::Bytes)| -> Result<bool> {
        let target = folder.join(location);
        if !target.exists() || place(&target)? == place(source)? {
            return Ok(false);
        }
        if target.metadata().is_ok_and(|m| m.len() != contents.len() as u64) {
            return Ok(true);
        }
        let mut there = fs::read(&target).map_err(io_error(&target))?;
        if there == *contents {
            return Ok(false);
        }
        for write in writes.iter().filter(|w| w.location == location) {
            let start = usize::try_from(write.offset).unwrap_or(usize::MAX);
            let range = start..start.saturating_add(write.bytes.len());
            let (Some(found), Some(original)) = (there.get_mut(range.clone()), contents.get(range)) else {
                return Ok(true);
            };
            if *found == *write.bytes {
                found.copy_from_slice(original);
            }
        }
        Ok(there != *contents)
    };
    let mut replaced = None;
    for (location, file) in files {
        if !differs(location, file)? {
            continue;
        }
        // What lies at `path` may be no model at all, or one whose data are gone: then it owns nothing.
        let owned = replaced.get_or_insert_with(|| {
            Model::open(path).ok().and_then(|old| external_files(&old).ok()).unwrap_or_default()
        });
        if !owned.contains_key(location) {
            return Err(edit(&format!(
                "{} holds other data, perhaps another model's",
                folder.join(location).display()
            )));
        }
    }
    Ok(())
}

fn edit(reason: &str) -> Error {
    Error::Edit { reason: reason.to_owned(), hint: "write the model into another folder".to_owned() }
}

/// The external files a model refers to, by location: where they are and what they hold.
fn external_files(model: &Model) -> Result<BTreeMap<PathBuf, (PathBuf, bytes::Bytes)>> {
    let mut files = BTreeMap::new();
    let mut failed = None;
    model.visit_tensors(&mut |tensor| {
        if failed.is_some() || !is_external(tensor) {
            return;
        }
        let found = reference(tensor).and_then(|reference| {
            let file = model.external_file(tensor, &reference.location)?;
            files.insert(reference.location, file);
            Ok(())
        });
        failed = found.err();
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(files),
    }
}

/// Write `bytes` to `path`: into a temporary file of the same folder, flushed to disk and renamed.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Write a file by a function, as [`write_bytes`] does. What was at `path` stays until the new file is complete.
pub fn write_with(path: &Path, contents: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        let source = if path.is_dir() {
            io::ErrorKind::IsADirectory.into()
        } else {
            io::Error::other("exists and is not a regular file")
        };
        return Err(Error::Io { path: path.to_owned(), source });
    }
    let (temporary, mut file) = create_beside(path)?;
    let written = contents(&mut file).and_then(|()| file.sync_all());
    drop(file);
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = renamed {
        // The first error is the one to tell; a temporary file that cannot be removed is only untidy.
        let _ = fs::remove_file(&temporary);
        return Err(Error::Io { path: path.to_owned(), source });
    }
    sync_folder(&folder_of(path))
}

/// Whether a file is called like those that [`write_with`] writes to until they are whole. One that is there when nothing is
/// being written was left by a process that was killed.
pub fn is_temporary(name: &str) -> bool {
    let number = |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let mut parts = name.rsplit('.');
    name.starts_with('.') && parts.next() == Some("tmp") && number(parts.next()) && number(parts.next())
}

/// A new file under a name of its own in the folder of `path`.
fn create_beside(path: &Path) -> Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| Error::Io {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "names no file"),
    })?;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let temporary = path.with_file_name(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
        }
    }
}

/// Make a rename in `folder` survive a power cut. Only Unix systems can.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(io_error(folder))?;
    }
    Ok(())
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The path of a file that may not exist yet, its folder made canonical. A link in its own place is not followed, since
/// it would be replaced.
fn place(path: &Path) -> Result<PathBuf> {
    let folder = folder_of(path);
    let canonical = folder.canonicalize().map_err(io_error(&folder))?;
    Ok(canonical.join(path.file_name().unwrap_or_default()))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}
