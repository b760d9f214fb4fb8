//! One process at a time for each store.
//!
//! The lock is the operating system's, on a file beside the store: it ends with the process, however that ends. The
//! file holds the process's number for the message to the next one, and stays behind empty of meaning.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{FILE_MODE, HomeError, Part};

/// The longest process number that is read, in bytes.
const PID_BYTES_MAX: u64 = 20;

/// A store that this process has for itself. Dropping it gives the store back.
#[derive(Debug)]
pub struct HomeLock {
    /// Held open: closing it ends the lock.
    _file: File,
}

impl HomeLock {
    pub(super) fn take(root: &Path, part: Part) -> Result<Self, HomeError> {
        let path = root.join(format!("{}.lock", part.name()));
        let failed = |source| HomeError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HomeError::Busy {
                    part: part.name(),
                    path: root.to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The process that wrote its number into the file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if read.is_ok() && is_number {
        text
    } else {
        "unknown".to_owned()
    }
}
