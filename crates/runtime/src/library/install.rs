//! Fetching the pinned library: the wheel of the Python package, by the user's own package installer, checked against the
//! hashes below and unpacked into the cache.
//!
//! The Python of the wheel's name is fixed, because the library in it does not depend on Python; so one wheel a platform
//! serves whatever interpreter the user has.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use super::{Library, Origin, VERSION, cache_folder, cached_name, in_folder, is_library_name};
use crate::error::{Error, Result};

/// A wheel that may be fetched.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    gpu: bool,
    /// The platform tag in its name.
    platform: &'static str,
    /// Its SHA-256.
    hash: &'static str,
}

const WHEELS: [Wheel; 7] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        gpu: false,
        platform: "manylinux_2_28_x86_64",
        hash: "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        gpu: false,
        platform: "manylinux_2_28_aarch64",
        hash: "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        gpu: false,
        platform: "macosx_14_0_arm64",
        hash: "60b6b69bfe580eab576cacc5d132a0e9cf2a37fcfd18d46dd191042b1d1ed0d7",
    },
    Wheel {
        os: "windows",
        arch: "x86_64",
        gpu: false,
        platform: "win_amd64",
        hash: "c3d91b5de31e2fc82d71bd65b2b22bddee8b49057a3a36338e9a868e0ea90c05",
    },
    Wheel {
        os: "windows",
        arch: "aarch64",
        gpu: false,
        platform: "win_arm64",
        hash: "93800007a7023b3ab26ad72e6463d0d57d84ead49a2f6341954d91438e046bc0",
    },
    Wheel {
        os: "linux",
        arch: "x86_64",
        gpu: true,
        platform: "manylinux_2_28_x86_64",
        hash: "e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6",
    },
    Wheel {
        os: "windows",
        arch: "x86_64",
        gpu: true,
        platform: "win_amd64",
        hash: "fd98341ba71c093153f0dcfc53eb69d57f706866fb45e94e5b0cde5d97a50dbf",
    },
];

/// The Python of the wheels' names.
const PYTHON: &str = "311";

/// Fetch the pinned library into the user's cache, or return the one that lies there already.
///
/// Says in one line on standard error what is fetched and where it goes. Programs may do this at the same time: each
/// unpacks into a folder of its own and renames it into place, and whoever comes second uses what is there.
pub fn install(gpu: bool) -> Result<Library> {
    let fail = |reason: String| Error::Install { version: VERSION, reason };
    let cache = cache_folder().ok_or_else(|| fail("there is no folder for a cache: HOME is not set".to_owned()))?;
    let folder = cache.join(cached_name(gpu));
    if let Some(file) = in_folder(&folder) {
        return Ok(Library::new(file, Origin::Cache));
    }
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = WHEELS.iter().find(|w| (w.os, w.arch, w.gpu) == (os, arch, gpu)).ok_or_else(|| {
        let what = if gpu { "with CUDA " } else { "" };
        fail(format!("there is no build {what}for {os} on {arch}"))
    })?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(&cache).map_err(io(&cache))?;
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&cache).map_err(io(&cache))?;
    eprintln!("fetching ONNX Runtime {VERSION} with pip into {}", folder.display());
    let file = download(wheel, work.path()).map_err(fail)?;
    verify(&file, wheel.hash)?;
    let unpacked = work.path().join("library");
    unpack(&file, &unpacked).map_err(|e| fail(format!("{}: {e}", file.display())))?;
    match fs::rename(&unpacked, &folder) {
        Ok(()) => {}
        // Another program was faster.
        Err(_) if in_folder(&folder).is_some() => {}
        Err(e) => return Err(io(&folder)(e)),
    }
    in_folder(&folder)
        .map(|file| Library::new(file, Origin::Cache))
        .ok_or_else(|| fail(format!("{} holds no library", folder.display())))
}

/// The user's Python.
pub(super) fn python() -> Option<Command> {
    let names: &[&str] = if cfg!(windows) { &["python", "python3", "py"] } else { &["python3", "python"] };
    names.iter().find_map(|name| {
        let works = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        works.is_ok_and(|s| s.success()).then(|| Command::new(name))
    })
}

/// Let pip fetch the wheel into `folder`, from the index and with the settings the user has configured.
fn download(wheel: &Wheel, folder: &Path) -> Result<PathBuf, String> {
    let mut pip = python().ok_or("there is no python3 to fetch it with")?;
    let package = if wheel.gpu { "onnxruntime-gpu" } else { "onnxruntime" };
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--implementation", "cp", "--python-version", PYTHON, "--abi"])
        .arg(format!("cp{PYTHON}"))
        .args(["--platform", wheel.platform, "--dest"])
        .arg(folder)
        .arg(format!("{package}=={VERSION}"))
        .stdin(Stdio::null());
    let output = pip.output().map_err(|e| format!("pip: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message").trim();
        return Err(format!("pip: {}", line.trim_start_matches("ERROR: ")));
    }
    let wheels = fs::read_dir(folder).map_err(|e| e.to_string())?.filter_map(|entry| Some(entry.ok()?.path()));
    wheels.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl")).ok_or("pip left no wheel".to_owned())
}

/// Whether the file is the one that was pinned.
fn verify(file: &Path, expected: &str) -> Result<()> {
    let io = |source| Error::Io { path: file.to_owned(), source };
    let mut reader = fs::File::open(file).map_err(io)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).map_err(io)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let found: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found == expected {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Err(Error::Install { version: VERSION, reason: format!("{name} has SHA-256 {found}, not {expected}") })
}

/// Take the library, its providers and its licences out of the wheel.
fn unpack(wheel: &Path, folder: &Path) -> std::io::Result<()> {
    let mut archive = zip::ZipArchive::new(fs::File::open(wheel)?)?;
    fs::create_dir_all(folder)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        let Some(name) = entry.name()?.strip_prefix("onnxruntime/").map(str::to_owned) else { continue };
        let name = match name.strip_prefix("capi/") {
            Some(file) if is_library_name(file) || file.contains("onnxruntime_providers_") => file.to_owned(),
            None if matches!(name.as_str(), "LICENSE" | "ThirdPartyNotices.txt") => name,
            _ => continue,
        };
        if name.contains(['/', '\\']) {
            continue;
        }
        let mut file = fs::File::create(folder.join(name))?;
        std::io::copy(&mut entry, &mut file)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_wheel_with_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.whl");
        fs::write(&file, b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(verify(&file, abc).is_ok());
        let error = verify(&file, WHEELS[0].hash).unwrap_err();
        assert!(error.to_string().contains("a.whl has SHA-256 ba7816"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn only_library_providers_and_licences_leave_the_wheel() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a.whl");
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let (library, provider) =
            (format!("{prefix}onnxruntime{suffix}"), format!("{prefix}onnxruntime_providers_cuda{suffix}"));
        let mut writer = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
        for name in [
            "onnxruntime/LICENSE",
            &format!("onnxruntime/capi/{library}"),
            &format!("onnxruntime/capi/{provider}"),
            "onnxruntime/capi/onnxruntime_pybind11_state.so",
            "onnxruntime/capi/../../onnxruntime_providers_evil",
            "onnxruntime/__init__.py",
            "onnxruntime-1.31.1.dist-info/METADATA",
        ] {
            writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        let out = folder.path().join("out");
        unpack(&wheel, &out).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let mut expected = vec!["LICENSE".to_owned(), library, provider];
        expected.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn every_pinned_hash_is_one() {
        for wheel in &WHEELS {
            assert!(wheel.hash.len() == 64 && wheel.hash.chars().all(|c| c.is_ascii_hexdigit()), "{}", wheel.platform);
        }
    }
}
