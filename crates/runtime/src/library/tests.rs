#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
};

use super::*;

/// The library's file name on this platform.
fn name(version: &str) -> String {
    if cfg!(windows) {
        "onnxruntime.dll".to_owned()
    } else if cfg!(target_os = "macos") {
        format!("libonnxruntime.{version}.dylib")
    } else {
        format!("libonnxruntime.so.{version}")
    }
}

/// A library file in a folder that says its version too, for platforms on which the file's name does not.
fn library(folder: &Path, version: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name(version));
    fs::write(&path, b"").unwrap();
    path
}

fn package(root: &Path, version: &str) -> PathBuf {
    let package = root.join("site-packages").join("onnxruntime");
    library(&package.join("capi"), version);
    fs::create_dir_all(root.join("site-packages").join(format!("onnxruntime-{version}.dist-info"))).unwrap();
    package
}

fn nowhere() -> Option<PathBuf> {
    None
}

#[test]
fn nothing_anywhere_is_nothing() {
    let places = Places { variable: None, program: None, cache: None, python: &nowhere };
    assert_eq!(find(&places).unwrap(), None);
}

#[test]
fn the_order_is_variable_program_cache_python() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let variable = library(&root.join("own"), "1.30.0");
    let program = library(&root.join("bin"), VERSION);
    let cache = library(&root.join("cache").join(cached_name(false)), VERSION);
    let python = package(root, VERSION);
    let asked = Cell::new(0);
    let ask = || {
        asked.set(asked.get() + 1);
        Some(python.clone())
    };
    let mut places = Places {
        variable: Some(variable.clone()),
        program: Some(root.join("bin")),
        cache: Some(root.join("cache")),
        python: &ask,
    };
    let expect = |places: &Places, path: &Path, origin: Origin| {
        let found = find(places).unwrap().unwrap();
        assert_eq!((found.path.as_path(), found.origin), (path, origin));
    };
    expect(&places, &variable, Origin::Environment);
    places.variable = Some(root.join("own"));
    expect(&places, &variable, Origin::Environment);
    places.variable = None;
    expect(&places, &program, Origin::Program);
    places.program = None;
    expect(&places, &cache, Origin::Cache);
    assert_eq!(asked.get(), 0, "no interpreter is started while the library is found elsewhere");
    places.cache = None;
    expect(&places, &python.join("capi").join(name(VERSION)), Origin::Python);
}

#[test]
fn a_variable_that_names_nothing_is_an_error_with_a_remedy() {
    let path = PathBuf::from("/nowhere/libonnxruntime.so");
    let places = Places { variable: Some(path), program: None, cache: None, python: &nowhere };
    let error = find(&places).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/libonnxruntime.so: ORT_DYLIB_PATH names no"), "{error}");
    assert!(error.hint().unwrap().contains("dendrite runtime install"));
}

#[test]
fn a_library_too_old_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let old = package(root.path(), "1.20.1");
    let ask = || Some(old.clone());
    assert_eq!(find(&Places { variable: None, program: None, cache: None, python: &ask }).unwrap(), None);
    let root = tempfile::tempdir().unwrap();
    let newer = package(root.path(), "1.27.0");
    let ask = || Some(newer.clone());
    let found = find(&Places { variable: None, program: None, cache: None, python: &ask }).unwrap().unwrap();
    assert_eq!(found.version.as_deref(), Some("1.27.0"));
    assert!(!found.is_pinned());
}

#[test]
fn the_cache_prefers_what_was_asked_for_with_gpu() {
    let root = tempfile::tempdir().unwrap();
    library(&root.path().join(cached_name(false)), VERSION);
    let gpu = library(&root.path().join(cached_name(true)), VERSION);
    fs::write(gpu.parent().unwrap().join(provider_name("cuda")), b"").unwrap();
    let places = Places { variable: None, program: None, cache: Some(root.path().to_owned()), python: &nowhere };
    let found = find(&places).unwrap().unwrap();
    assert_eq!(found, Library { path: gpu, origin: Origin::Cache, version: Some(VERSION.to_owned()), gpu: true });
}

#[test]
fn an_unfinished_fetch_is_not_taken_for_a_library() {
    let root = tempfile::tempdir().unwrap();
    library(&root.path().join(".fetch-abc").join("library"), VERSION);
    fs::create_dir_all(root.path().join(cached_name(false))).unwrap();
    let places = Places { variable: None, program: None, cache: Some(root.path().to_owned()), python: &nowhere };
    assert_eq!(find(&places).unwrap(), None);
}

#[test]
fn providers_and_bindings_are_no_library() {
    assert!(is_library_name(&name(VERSION)));
    for other in ["libonnxruntime_providers_shared.so", "onnxruntime_pybind11_state.so", "libonnxruntime.so2", "a.so"] {
        assert!(!is_library_name(other), "{other}");
    }
}
