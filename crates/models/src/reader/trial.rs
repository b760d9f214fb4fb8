//! A model's first run, in a process that may break.
//!
//! The head of a file does not tell all that llama.cpp expects: what each architecture's graph takes for granted is in
//! its code, and ends the process where it does not hold. So a file is run for a few tokens in a process of its own
//! before the node maps it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::process::{ExchangeError, Patience, Process};
use super::prompts::{REASON_BYTES_MAX, unopened};
use super::wire::{Reply, Request, TRIAL_BYTES_MAX};
use super::{Launcher, Role};
use crate::backend::OpenError;
use crate::packed::Packed;

/// How long a trial may take beside reading the file.
const TRIAL_MAX: Duration = Duration::from_secs(60);
/// How much of a file a slow disk reads in a second, in bytes.
const DISK_BYTES_PER_S: u64 = 32 << 20;

/// Runs the model in a file for a few tokens, on the processor, in a process of its own, which `launcher` starts.
///
/// Takes about as long as to read the file and to compute two tokens, and blocks.
///
/// # Errors
/// When the file is missing, or the model does not run, or breaks what runs it.
pub fn try_out(launcher: &Launcher, path: &Path) -> Result<(), OpenError> {
    let shown = path.display().to_string();
    let missing = |_| OpenError::Missing(shown.clone());
    let path = path.canonicalize().map_err(missing)?;
    let bytes = path.metadata().map_err(missing)?.len();
    let reading = Duration::from_secs(bytes / DISK_BYTES_PER_S);
    let patience = Patience {
        deadline: Instant::now() + TRIAL_MAX + reading,
        asker_left: &AtomicBool::new(false),
    };
    let request = Request::Try {
        path: Packed(path.as_os_str().as_bytes().to_vec()),
    };
    let tried =
        Process::start(launcher, Role::Trial, patience).and_then(|mut process| {
            match process.exchange(&request, TRIAL_BYTES_MAX, patience)? {
                Reply::Tried(tried) => Ok(tried),
                _ => Err(ExchangeError::Senseless),
            }
        });
    let tried = tried.map_err(|error| unopened(&shown, error))?;
    tried.map_err(|mut reason| {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        OpenError::Refused {
            path: shown.clone(),
            reason,
        }
    })
}
