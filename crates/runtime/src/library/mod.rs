//! The shared library of ONNX Runtime: where it is looked for, and what is known of it before it is loaded.
//!
//! Looked for in this order: the environment variable `ORT_DYLIB_PATH`; beside the program; the user's cache; the Python
//! package. Where none has the pinned version, the wheel of the Python package is fetched into the cache
//! ([`mod@install`]). Nothing is ever fetched when the program is built.

pub mod install;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use install::install;

use crate::{
    environment,
    error::{Error, Result},
};

/// The version this program was tested with and fetches.
pub const VERSION: &str = "1.31.1";

/// The environment variable that names the library.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The oldest minor version whose interface has all that is used.
const OLDEST_MINOR: u32 = ort::MINOR_VERSION;

/// Where a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The environment variable names it.
    Environment,
    /// It lies beside the program, or in `lib` there.
    Program,
    /// It was fetched into the user's cache.
    Cache,
    /// It belongs to the Python package.
    Python,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Origin::Environment => VARIABLE,
            Origin::Program => "beside the program",
            Origin::Cache => "user cache",
            Origin::Python => "Python package",
        })
    }
}

/// A library file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The file.
    pub path: PathBuf,
    /// Where it was found.
    pub origin: Origin,
    /// The version, where names tell it.
    pub version: Option<String>,
    /// Whether the CUDA provider lies beside it.
    pub gpu: bool,
}

impl Library {
    fn new(path: PathBuf, origin: Origin) -> Self {
        let gpu = path.parent().is_some_and(|folder| folder.join(provider_name("cuda")).exists());
        Library { version: version_of(&path), gpu, path, origin }
    }

    fn is_pinned(&self) -> bool {
        self.version.as_deref() == Some(VERSION)
    }

    /// Whether the version is known to be too old.
    fn is_too_old(&self) -> bool {
        let minor = |v: &str| v.split('.').nth(1)?.parse::<u32>().ok();
        self.version.as_deref().and_then(minor).is_some_and(|m| m < OLDEST_MINOR)
    }
}

/// Where to look: everything that [`find`] depends on, so that it can be tried without touching the process.
pub(crate) struct Places<'a> {
    /// The value of the environment variable.
    pub(crate) variable: Option<PathBuf>,
    /// The program's folder.
    pub(crate) program: Option<PathBuf>,
    /// The folder under which libraries are cached.
    pub(crate) cache: Option<PathBuf>,
    /// The Python package's folder; asked for only when the others hold nothing, since it starts an interpreter.
    pub(crate) python: &'a dyn Fn() -> Option<PathBuf>,
}

/// The library to load, and whether it should rather be replaced by the pinned version.
pub(crate) fn find(places: &Places) -> Result<Option<Library>> {
    if let Some(path) = &places.variable {
        let file = if path.is_dir() { in_folder(path) } else { path.is_file().then(|| path.clone()) };
        let file = file.ok_or_else(|| Error::Library {
            path: path.clone(),
            reason: format!("{VARIABLE} names no ONNX Runtime library"),
        })?;
        return Ok(Some(Library::new(file, Origin::Environment)));
    }
    if let Some(program) = &places.program {
        let found = [program.clone(), program.join("lib")].iter().find_map(|folder| in_folder(folder));
        if let Some(library) = found.map(|f| Library::new(f, Origin::Program)).filter(|l| !l.is_too_old()) {
            return Ok(Some(library));
        }
    }
    if let Some(cache) = &places.cache {
        // What the user asked for with --gpu also serves the CPU.
        let found = [true, false].iter().find_map(|gpu| in_folder(&cache.join(cached_name(*gpu))));
        if let Some(file) = found {
            return Ok(Some(Library::new(file, Origin::Cache)));
        }
    }
    let python = (places.python)().and_then(|package| in_folder(&package.join("capi")));
    Ok(python.map(|file| Library::new(file, Origin::Python)).filter(|l| !l.is_too_old()))
}

/// The library that would be loaded, without fetching any.
pub fn locate() -> Result<Option<Library>> {
    find(&Places {
        variable: std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from),
        program: std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())),
        cache: cache_folder(),
        python: &python_package,
    })
}

/// The library to load, fetched if need be. Says in one line on standard error when it fetches, and when it makes do with
/// another version than the pinned one.
pub(crate) fn find_or_install() -> Result<Library> {
    let found = locate()?;
    match found {
        Some(library) if library.origin != Origin::Python || library.is_pinned() => Ok(library),
        Some(other) => install(false).or_else(|_| {
            let version = other.version.as_deref().unwrap_or("an unknown version");
            eprintln!("using ONNX Runtime {version} of {}; {VERSION} could not be fetched", other.path.display());
            Ok(other)
        }),
        None => install(false),
    }
}

/// What is used, and what could be.
#[derive(Debug, Clone)]
pub struct Status {
    /// The library in use or to be used; `None` where it would have to be fetched.
    pub library: Option<Library>,
    /// What the library says of its build, its version in it; `None` where none could be loaded.
    pub build: Option<String>,
    /// The devices a session can ask for.
    pub devices: Vec<String>,
    /// The folder that [`install()`] fills.
    pub cache: Option<PathBuf>,
}

/// Find the library, load it and list its devices. Nothing is fetched.
pub fn status() -> Result<Status> {
    let library = match environment::library_in_use() {
        Some(library) => Some(library),
        None => locate()?,
    };
    let mut status = Status { library, build: None, devices: Vec::new(), cache: cache_folder() };
    if status.library.is_some() {
        environment::get()?;
        status.build = Some(ort::info().to_owned());
        status.devices.push("cpu".to_owned());
        if cuda_works() {
            status.devices.push("cuda".to_owned());
        }
    }
    Ok(status)
}

/// Whether a session for the first CUDA device can be made: an empty graph is enough to find out.
fn cuda_works() -> bool {
    use crate::session::{Device, Session, SessionOptions};
    use dendrite_onnx::{Attributes, ElementType, Graph, Shape};
    let mut graph = Graph::new("probe", 17);
    let input = graph.add_input("x", ElementType::Float, Shape::known(&[1]));
    let output = graph.op("Neg", "y", &[input], Attributes::new());
    graph.set_type(output, Some(ElementType::Float), Some(Shape::known(&[1])));
    graph.outputs.push(output);
    Session::from_graph(&graph, &SessionOptions { device: Device::Cuda(0), ..Default::default() }).is_ok()
}

/// The folder that holds fetched libraries: `onnx-dendrite` in the user's cache.
pub fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = folder("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) { folder("LOCALAPPDATA") } else { folder("HOME").map(|home| home.join(".cache")) }
    })?;
    Some(base.join("onnx-dendrite"))
}

/// The name of a fetched library's folder in the cache.
fn cached_name(gpu: bool) -> String {
    format!("onnxruntime{}-{VERSION}", if gpu { "-gpu" } else { "" })
}

/// The folder of the Python package `onnxruntime`, found without importing it.
fn python_package() -> Option<PathBuf> {
    const ASK: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
                       print(next(iter(s.submodule_search_locations or []), '') if s else '')";
    let output = install::python()?.arg("-c").arg(ASK).output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(text.trim())).filter(|p| p.is_absolute())
}

/// The library in a folder. Of several, the pinned version, else the one whose name sorts last.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_library_name) && path.is_file())
        .collect();
    found.sort();
    found.iter().find(|p| version_of(p).as_deref() == Some(VERSION)).cloned().or_else(|| found.pop())
}

/// Whether a file is called as the library is: `libonnxruntime.so`, with or without a version after it,
/// `libonnxruntime.1.31.1.dylib`, `onnxruntime.dll`. The providers beside it are not.
pub(crate) fn is_library_name(name: &str) -> bool {
    let versioned = |rest: &str| rest.is_empty() || rest.starts_with('.');
    if cfg!(windows) {
        name.eq_ignore_ascii_case("onnxruntime.dll")
    } else if cfg!(target_os = "macos") {
        name.strip_prefix("libonnxruntime").and_then(|n| n.strip_suffix(".dylib")).is_some_and(versioned)
    } else {
        name.strip_prefix("libonnxruntime.so").is_some_and(versioned)
    }
}

fn provider_name(provider: &str) -> String {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    format!("{prefix}onnxruntime_providers_{provider}{suffix}")
}

/// The version in the file's name, in its folder's, or in that of the Python package's metadata.
fn version_of(path: &Path) -> Option<String> {
    let is_version = |v: &str| v.split('.').count() == 3 && v.split('.').all(|n| n.parse::<u32>().is_ok());
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".dylib").unwrap_or(name);
    if let Some(version) = name.find(|c: char| c.is_ascii_digit()).map(|i| &name[i..]).filter(|v| is_version(v)) {
        return Some(version.to_owned());
    }
    let folder = path.parent()?;
    if let Some((_, version)) = folder.file_name()?.to_str()?.rsplit_once('-').filter(|(_, v)| is_version(v)) {
        return Some(version.to_owned());
    }
    let site_packages = folder.parent()?.parent()?;
    std::fs::read_dir(site_packages).ok()?.find_map(|entry| {
        let name = entry.ok()?.file_name();
        let stem = name.to_str()?.strip_suffix(".dist-info")?;
        let (package, version) = stem.split_once('-')?;
        matches!(package, "onnxruntime" | "onnxruntime_gpu").then(|| version.to_owned())
    })
}
