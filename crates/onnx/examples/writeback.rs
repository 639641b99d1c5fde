//! Write every .onnx file below the given folders back without a change and say how many came back byte for byte:
//!
//!     cargo run --release -p dendrite-onnx --example writeback -- FOLDER...
//!
//! Each file goes four ways: decoded and encoded; through an empty patch to a file; through a patch that walks the whole
//! file and puts every initializer where it was; into a working copy (counted, since not every file is supported). Files
//! in which `check` finds errors are listed with the first one.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use dendrite_onnx::{Graph, Model, Patch, Severity, check, file};
use prost::Message;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut files = Vec::new();
    for folder in std::env::args_os().skip(1) {
        collect(Path::new(&folder), &mut files)?;
    }
    files.sort();
    let out = std::env::temp_dir().join(format!("writeback-{}", std::process::id()));
    fs::create_dir_all(&out)?;
    let (mut encoded, mut written, mut walked, mut graphs, mut valid) = (0, 0, 0, 0, 0);
    for path in &files {
        let original = fs::read(path)?;
        let model = match Model::open(path) {
            Ok(model) => model,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        let count = |name: &str, counter: &mut usize, same: bool| {
            *counter += usize::from(same);
            if !same {
                println!("{}: differs when {name}", path.display());
            }
        };
        count("decoded and encoded", &mut encoded, model.proto().encode_to_vec() == original);
        let target = out.join("model.onnx");
        file::write(&model, &Patch::new(), &target)?;
        count("written", &mut written, fs::read(&target)? == original);
        let mut patch = Patch::new();
        patch.require_ir(1);
        for tensor in &model.graph().initializer {
            if let Ok(contents) = model.tensor(tensor) {
                patch.replace_initializer(tensor.name(), contents);
            }
        }
        let same = patch.apply(&model).is_ok_and(|bytes| bytes == original);
        count("walked", &mut walked, same);
        match check(&model).into_iter().find(|f| f.severity == Severity::Error) {
            None => valid += 1,
            Some(finding) => println!("{}: {finding}", path.display()),
        }
        match Graph::from_model(&model) {
            Ok(_) => graphs += 1,
            Err(error) => println!("{}: no working copy: {error}", path.display()),
        }
    }
    fs::remove_dir_all(&out)?;
    let total = files.len();
    println!(
        "{total} files: {encoded} re-encoded, {written} written, {walked} walked byte for byte; {graphs} working \
         copies, {valid} without errors"
    );
    let all = total > 0 && [encoded, written, walked].iter().all(|n| *n == total);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else if path.extension().is_some_and(|e| e == "onnx") {
        files.push(path.to_owned());
    }
    Ok(())
}
