//! Edits of a model file that leave everything else as it lies.
/// Edits of a model file.
#[derive(Debug, Default)]
pub struct Patch {}
