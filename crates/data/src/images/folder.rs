//! A folder of images by class: `ROOT/CLASS/**/*.jpg`.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use dendrite_onnx::Tensor;

use super::{ImageList, dimensions};
use crate::{
    array::{Array, Origin},
    column::{Column, Content, Numbers},
    error::{Error, Result},
    preprocess::{Classes, Preprocess},
};

/// Folders below a class that are walked into.
const DEPTH: usize = 8;
const KNOWN: [&str; 6] = ["jpg", "jpeg", "png", "bmp", "gif", "webp"];
const UNKNOWN: [&str; 9] = ["tif", "tiff", "heic", "heif", "avif", "jp2", "jxl", "svg", "psd"];
/// The list of classes beside or above the class folders.
const LIST: &str = "classes.txt";

/// Whether `path` is called like an image, of a kind that is read or not.
pub(crate) fn looks_like_image(path: &Path) -> bool {
    extension(path).is_some_and(|e| KNOWN.contains(&e.as_str()) || UNKNOWN.contains(&e.as_str()))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().first() == Some(&b'.'))
}

/// Folders and files in `folder`, each sorted, hidden ones left out. Links are followed.
pub(crate) fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let path = entry.path();
        if hidden(&path) {
            continue;
        }
        let kind = entry.file_type().map_err(Error::io(&path))?;
        // Only a link has to be looked up.
        let is_dir =
            if kind.is_symlink() { fs::metadata(&path).map_err(Error::io(&path))?.is_dir() } else { kind.is_dir() };
        if is_dir { folders.push(path) } else { files.push(path) }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

/// Whether any image lies in `folder` or below.
pub(crate) fn holds_images(folder: &Path, depth: usize) -> bool {
    let Ok((folders, files)) = entries(folder) else { return false };
    files.iter().any(|f| looks_like_image(f)) || (depth > 0 && folders.iter().any(|f| holds_images(f, depth - 1)))
}

/// The columns `image` and `target`, and the classes.
pub(crate) fn columns(root: &Path, preprocess: &Preprocess) -> Result<(Vec<Column>, Vec<String>)> {
    let (folders, _) = entries(root)?;
    let found: Vec<String> = folders.iter().filter_map(|f| Some(f.file_name()?.to_str()?.to_owned())).collect();
    if found.len() != folders.len() {
        return Err(Error::data(root, "a class folder's name is no Unicode text", "rename the folder"));
    }
    let classes = match listed(root, preprocess)? {
        Some((classes, source)) => {
            agree(root, &classes, &found, &source)?;
            classes
        }
        None => found,
    };
    let (mut files, mut targets) = (Vec::new(), Vec::new());
    for (index, class) in classes.iter().enumerate() {
        let before = files.len();
        collect(root, &root.join(class), DEPTH, &mut files)?;
        if files.len() == before {
            return Err(Error::data(
                root.join(class),
                "the class folder holds no image",
                format!("put JPEG, PNG, BMP, GIF or WebP files into it, or remove '{class}' from the classes"),
            ));
        }
        targets.resize(files.len(), index as i64);
    }
    check_headers(root, &files)?;
    let target = Tensor::from_i64(&[targets.len()], &targets);
    let target = Array::from_tensor(Origin::new(root, "target"), &target)?;
    let images = Content::Images(Arc::new(ImageList::new(root.to_owned(), files)));
    let columns = vec![
        Column { name: "image".to_owned(), aliases: Vec::new(), content: images },
        Column::numbers("target", Numbers::ready(target)),
    ];
    Ok((columns, classes))
}

/// Read the header of every image, on as many threads as there are cores; the error of the first in order is returned.
fn check_headers(root: &Path, files: &[PathBuf]) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(8);
    let check = |files: &[PathBuf]| files.iter().try_for_each(|file| dimensions(&root.join(file)).map(|_| ()));
    thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(threads).max(1));
        let handles: Vec<_> = parts.map(|part| scope.spawn(move || check(part))).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// The images in `folder` and below, relative to `root`.
fn collect(root: &Path, folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let (folders, files) = entries(folder)?;
    for file in files {
        match extension(&file) {
            Some(e) if KNOWN.contains(&e.as_str()) => found.push(file.strip_prefix(root).unwrap_or(&file).to_owned()),
            Some(e) if UNKNOWN.contains(&e.as_str()) => {
                return Err(Error::data(&file, format!(".{e} images are not read"), "convert it to PNG or JPEG"));
            }
            _ => {}
        }
    }
    for folder in folders {
        if depth == 0 {
            return Err(Error::data(
                &folder,
                "the folders are nested too deeply",
                "put the images nearer to the class",
            ));
        }
        collect(root, &folder, depth - 1, found)?;
    }
    Ok(())
}

/// The listed classes and what lists them.
fn listed(root: &Path, preprocess: &Preprocess) -> Result<Option<(Vec<String>, String)>> {
    if let Some(Classes::Names(names)) = &preprocess.classes {
        return Ok(Some((checked(root, names.clone(), "preprocess.classes")?, "preprocess.classes".to_owned())));
    }
    let absolute = fs::canonicalize(root).map_err(Error::io(root))?;
    let file = match &preprocess.classes {
        Some(Classes::File(path)) => Some(path.clone()),
        _ => {
            [Some(root.join(LIST)), absolute.parent().map(|p| p.join(LIST))].into_iter().flatten().find(|p| p.is_file())
        }
    };
    let Some(file) = file else { return Ok(None) };
    let names = Classes::read(&file)?;
    let name = file.display().to_string();
    Ok(Some((checked(&file, names, &name)?, name)))
}

/// Class names are plain, so that none leads out of the data set, and each occurs once.
fn checked(path: &Path, names: Vec<String>, source: &str) -> Result<Vec<String>> {
    let hint = "list each class folder's name once, in the order of the model's outputs";
    if names.is_empty() {
        return Err(Error::data(path, format!("{source} lists no class"), hint));
    }
    for (index, name) in names.iter().enumerate() {
        if name.contains(['/', '\\', '\0']) || name == "." || name == ".." {
            return Err(Error::data(path, format!("class '{name}' in {source} is no plain name of a folder"), hint));
        }
        if names.iter().take(index).any(|n| n == name) {
            return Err(Error::data(path, format!("class '{name}' stands twice in {source}"), hint));
        }
    }
    Ok(names)
}

fn agree(root: &Path, classes: &[String], found: &[String], source: &str) -> Result<()> {
    if let Some(extra) = found.iter().find(|f| !classes.contains(f)) {
        return Err(Error::data(
            root,
            format!("folder '{extra}' is not among the classes in {source}: {}", classes.join(", ")),
            "add it to the classes in the place of its output, or move the folder away",
        ));
    }
    if let Some(missing) = classes.iter().find(|c| !found.contains(c)) {
        return Err(Error::data(
            root,
            format!("{source} lists class '{missing}', there is no folder for it"),
            "every class needs a folder with images; a class without any cannot be learned or measured",
        ));
    }
    Ok(())
}
