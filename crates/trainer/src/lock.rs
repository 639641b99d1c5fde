//! One process at a time writes a run folder.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// The file in a run folder that is locked while a process writes the folder; it holds the process's number.
pub(crate) const LOCK: &str = ".lock";
/// Attempts at a file that its owner removes meanwhile.
const ATTEMPTS: usize = 16;

/// A locked run folder. The operating system holds the lock and ends it with the process, however that ends: a file that a
/// killed process left is no obstacle.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    /// `None` where the file system has no locks.
    file: Option<File>,
}

impl Lock {
    /// Lock `folder`, which must be there. An error names the process that has it.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        for _ in 0..ATTEMPTS {
            let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
            let mut file = opened.map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => {
                    file.set_len(0).map_err(Error::io(&path))?;
                    file.write_all(std::process::id().to_string().as_bytes()).map_err(Error::io(&path))?;
                    return Ok(Lock { path, file: Some(file) });
                }
                Err(TryLockError::WouldBlock) => return Err(in_use(folder, &mut file)),
                // Some network file systems: better an unguarded run than none.
                Err(TryLockError::Error(_)) => {
                    drop(file);
                    let _ = fs::remove_file(&path);
                    return Ok(Lock { path, file: None });
                }
            }
        }
        Err(in_use(folder, &mut std::io::empty()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Before the lock ends, so that the file of another process is never removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` still leads to `file`: its owner may have removed it between opening and locking.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(place) == fs::metadata(path).ok().map(place)
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

fn in_use(folder: &Path, file: &mut impl Read) -> Error {
    let mut text = String::new();
    let read = file.take(20).read_to_string(&mut text);
    let process = match text.trim().parse::<u32>() {
        Ok(number) if read.is_ok() => format!("process {number}"),
        _ => "another process".to_owned(),
    };
    Error::Option {
        reason: format!("{} is in use: {process} writes a run to it", folder.display()),
        hint:
            "wait until it has ended, stop it (Ctrl-C saves) and go on with --resume, or choose another folder with -o"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap_or_else(|e| unreachable!("{e}"))
    }

    #[test]
    fn a_folder_is_locked_once_and_free_again_afterwards() -> Result<()> {
        let folder = folder();
        let lock = Lock::take(folder.path())?;
        let Err(refused) = Lock::take(folder.path()) else { unreachable!("locked twice") };
        assert!(refused.to_string().contains(&format!("process {} writes", std::process::id())), "{refused}");
        assert!(refused.hint().is_some_and(|h| h.contains("--resume")));
        drop(lock);
        assert!(!folder.path().join(LOCK).exists());
        drop(Lock::take(folder.path())?);
        Ok(())
    }

    #[test]
    fn what_a_killed_process_left_is_no_obstacle() -> Result<()> {
        let folder = folder();
        let path = folder.path().join(LOCK);
        fs::write(&path, "1").map_err(Error::io(&path))?;
        let _lock = Lock::take(folder.path())?;
        assert_eq!(fs::read_to_string(&path).map_err(Error::io(&path))?, std::process::id().to_string());
        Ok(())
    }
}
