//! The committed codec is what `proto/onnx-ml.proto` generates.
//! `UPDATE_PROTO=1 cargo test -p dendrite-onnx --test proto_is_current` rewrites it after the proto changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{env, fs, path::Path};

#[test]
fn generated_code_matches_the_proto() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([root.join("proto/onnx-ml.proto")], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes(["."])
        .disable_comments(["."])
        .compile_fds(descriptors)
        .unwrap();
    let fresh = fs::read_to_string(out.path().join("onnx.rs")).unwrap();
    let committed = root.join("src/proto/generated.rs");
    if env::var_os("UPDATE_PROTO").is_some() {
        fs::write(&committed, &fresh).unwrap();
    }
    let current = fs::read_to_string(&committed).unwrap_or_default();
    assert!(current == fresh, "src/proto/generated.rs is stale; run with UPDATE_PROTO=1");
}
