//! The one environment of the process.

use std::sync::{Arc, Mutex, PoisonError};

use ort::{environment::Environment, logging::LogLevel};

use crate::{
    error::{Error, Result},
    library::{self, Library},
};

/// The published builds report their use to their maker, from before the environment could forbid it on; this stops them.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

/// Set once and never dropped: ONNX Runtime does not survive a second environment in one process.
static LOADED: Mutex<Option<(Environment, Library)>> = Mutex::new(None);

/// The environment, made on the first call from the library found or installed then.
pub(crate) fn get() -> Result<Environment> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((environment, _)) = loaded.as_ref() {
        return Ok(environment.clone());
    }
    let library = library::find_or_install()?;
    let fail = |reason: String| Error::Library { path: library.path.clone(), reason };
    if std::env::var_os(NO_TELEMETRY).is_none() {
        // SAFETY: the lock above is held and the library, whose C code reads the variable, is not loaded yet; readers and
        // writers in Rust are serialised by the standard library.
        unsafe { std::env::set_var(NO_TELEMETRY, "1") };
    }
    let environment = ort::init_from(&library.path)
        .map_err(|e| fail(e.to_string()))?
        .with_name("dendrite")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|e| fail(e.to_string()))?;
    tracing::debug!(path = %library.path.display(), "ONNX Runtime loaded");
    *loaded = Some((environment.clone(), library));
    Ok(environment)
}

/// The library in use, if a session was made already.
pub(crate) fn library_in_use() -> Option<Library> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, library)| library.clone())
}

/// What ONNX Runtime has to say goes to the log. Its errors are also returned to the caller, so none is above debug here.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    if level >= LogLevel::Warning {
        tracing::debug!(target: "onnxruntime", ?level, category, location, "{message}");
    } else {
        tracing::trace!(target: "onnxruntime", ?level, category, location, "{message}");
    }
}
