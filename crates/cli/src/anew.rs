//! How the program starts itself again with the environment that a node needs.
//!
//! What is read from the environment before the first line, and what everybody can read there afterwards, is settled
//! by running the same program again in the same process:
//!
//! - How long the threads of a model wait for each other before they sleep. They meet some thousand times for each
//!   token. With the usual setting of GNU's OpenMP they wait for milliseconds with the processor in their hands: as soon
//!   as another program of the owner computes, each meeting costs a turn of the scheduler, and a device answers much
//!   slower. With none at all they sleep and are woken at every meeting. (`cargo xtask bench waiting` shows what it
//!   does.)
//! - The passphrase. A variable would be there as long as the node runs, for every program that it starts and for
//!   whoever may look at `/proc`. It is handed over in a pipe, which holds it until it is read once.
//! - From which size on freed memory goes back to the system at once. GNU's C library raises it by itself, and then keeps
//!   large tensors that a trainer has freed: up to half as much again as the trainer said that it takes.
//! - That llama.cpp does not start a debugger when it breaks.

use std::io::{self, PipeReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use zeroize::Zeroizing;

use crate::secrets::{PASSPHRASE_PIPE_VARIABLE, PASSPHRASE_VARIABLE};

/// What an owner may have set of how threads wait, which is then left alone.
const WAITING: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];
/// Turns of the loop in which a thread waits before it sleeps.
const SPINS: &str = "1000";
/// From how many bytes on freed memory goes back to the system; an owner may have set it.
const GIVEN_BACK: &str = "MALLOC_MMAP_THRESHOLD_";
const GIVEN_BACK_BYTES: &str = "1048576";
/// Keeps llama.cpp from starting a debugger.
const NO_DEBUGGER: &str = "GGML_NO_BACKTRACE";
/// The longest passphrase that is handed over, in bytes: what a pipe holds at the very least.
const HANDED_BYTES_MAX: usize = 4_096;

/// Begins the program anew with that environment, unless it has it. Comes back where that is not needed or not possible.
pub(crate) fn settle() {
    let is_set = |name: &&str| std::env::var_os(name).is_some();
    // Elsewhere other libraries wait, which need no setting.
    let waits = !cfg!(target_os = "linux") || WAITING.iter().any(is_set);
    let gives_back = !cfg!(target_os = "linux") || is_set(&GIVEN_BACK);
    let passphrase = std::env::var(PASSPHRASE_VARIABLE).ok().map(Zeroizing::new);
    if waits && gives_back && passphrase.is_none() && is_set(&NO_DEBUGGER) {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else {
        return;
    };
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env(NO_DEBUGGER, "1");
    if !waits {
        command.env(WAITING[0], SPINS);
    }
    if !gives_back {
        command.env(GIVEN_BACK, GIVEN_BACK_BYTES);
    }
    let handed = passphrase.as_ref().map(|text| hand_over(text));
    if let Some(Ok(pipe)) = &handed {
        command
            .env_remove(PASSPHRASE_VARIABLE)
            .env(PASSPHRASE_PIPE_VARIABLE, pipe.as_raw_fd().to_string());
    }
    // It comes back only if it failed; then the node runs with the environment that it has.
    let _ = command.exec();
}

/// A pipe with a text in it, which the program that is run next inherits.
fn hand_over(text: &str) -> io::Result<PipeReader> {
    if text.len() > HANDED_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.as_bytes())?;
    fcntl_setfd(&reader, FdFlags::empty())?;
    Ok(reader)
}
