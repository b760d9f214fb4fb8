//! One reader, seen by whoever asks it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use thiserror::Error;

use super::wire::{self, Reply, Request};
use super::{Launcher, ROLE_VARIABLE, Role, is_reader};

/// How often a wait looks whether the asker has left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much is read at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// What a reader's environment has besides its role: settings of llama.cpp that keep it from
/// starting a debugger when it breaks, and from taking graphics processors.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("GGML_NO_BACKTRACE", "1"),
    ("CUDA_VISIBLE_DEVICES", "-1"),
    ("GGML_VK_VISIBLE_DEVICES", ""),
];
/// Where libraries are found that the program needs to start at all: the only thing that a reader
/// gets of its parent's environment.
const LIBRARIES_VARIABLE: &str = "LD_LIBRARY_PATH";

/// Why there is no reply. The process is of no use afterwards.
#[derive(Debug, Error)]
pub(super) enum ExchangeError {
    /// It could not be started.
    #[error("it could not be started")]
    Start(#[source] io::Error),
    /// It ended: it took too much memory, or broke.
    #[error("it ended")]
    Died,
    /// It took too long.
    #[error("it took too long")]
    TooSlow,
    /// Whoever asked has left.
    #[error("the asker has left")]
    Left,
    /// It replied what makes no sense.
    #[error("its reply made no sense")]
    Senseless,
    /// The request cannot be sent.
    #[error("the request is too long")]
    TooLong,
}

/// How long whoever asks waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    /// Until then.
    pub(super) deadline: Instant,
    /// Or until this is set.
    pub(super) asker_left: &'a AtomicBool,
}

impl Patience<'_> {
    /// At most so long from now.
    pub(super) fn at_most(self, time: Duration) -> Self {
        let deadline = self.deadline.min(Instant::now() + time);
        Self { deadline, ..self }
    }

    /// How long is left.
    pub(super) fn left(self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// How long to wait before looking again.
    pub(super) fn slice(self) -> Result<Duration, ExchangeError> {
        if self.asker_left.load(Ordering::Acquire) {
            return Err(ExchangeError::Left);
        }
        let rest = self.left();
        if rest.is_zero() {
            return Err(ExchangeError::TooSlow);
        }
        Ok(rest.min(LOOK_EVERY))
    }
}

/// A reader. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// What came and is not a whole reply yet.
    arrived: Vec<u8>,
    /// How many requests it has answered.
    pub(super) answered: u32,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts one.
    pub(super) fn start(
        launcher: &Launcher,
        role: Role,
        patience: Patience<'_>,
    ) -> Result<Self, ExchangeError> {
        if is_reader() {
            let error = io::Error::other("a reader does not start another");
            return Err(ExchangeError::Start(error));
        }
        let mut command = Command::new(&launcher.program);
        command
            .args(&launcher.arguments)
            .env_clear()
            .env(ROLE_VARIABLE, role.name())
            .envs(ENVIRONMENT)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What interrupts the node in a terminal does not end what it still reads.
            .process_group(0);
        if let Some(libraries) = std::env::var_os(LIBRARIES_VARIABLE) {
            command.env(LIBRARIES_VARIABLE, libraries);
        }
        let mut child = command.spawn().map_err(ExchangeError::Start)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ExchangeError::Died);
        };
        let mut process = Self {
            child,
            input,
            output,
            arrived: Vec::new(),
            answered: 0,
        };
        let set = fcntl_setfl(&process.input, OFlags::NONBLOCK)
            .and_then(|()| fcntl_setfl(&process.output, OFlags::NONBLOCK));
        set.map_err(|error| ExchangeError::Start(error.into()))?;
        process.skip_preamble(patience)?;
        Ok(process)
    }

    /// The number by which the system knows it.
    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks, and waits for the reply, of which at most `bytes_max` are read.
    pub(super) fn exchange(
        &mut self,
        request: &Request<'_>,
        bytes_max: usize,
        patience: Patience<'_>,
    ) -> Result<Reply, ExchangeError> {
        let frame = wire::frame(request, wire::REQUEST_BYTES_MAX);
        self.send(&frame.ok_or(ExchangeError::TooLong)?, patience)?;
        self.receive(4, patience)?;
        let length = self.arrived.first_chunk::<4>().copied().unwrap_or_default();
        let length = u32::from_le_bytes(length) as usize;
        if length > bytes_max {
            return Err(ExchangeError::Senseless);
        }
        self.receive(4 + length, patience)?;
        let reply = wire::reply(&self.arrived[4..]);
        self.arrived.clear();
        self.arrived.shrink_to(PIECE_BYTES);
        self.answered = self.answered.saturating_add(1);
        reply.ok_or(ExchangeError::Senseless)
    }

    fn skip_preamble(&mut self, patience: Patience<'_>) -> Result<(), ExchangeError> {
        loop {
            let windows = self.arrived.windows(wire::PREAMBLE.len());
            if let Some(start) = { windows }.position(|window| window == wire::PREAMBLE) {
                self.arrived.drain(..start + wire::PREAMBLE.len());
                return Ok(());
            }
            if self.arrived.len() > wire::PREAMBLE_END_MAX {
                return Err(ExchangeError::Senseless);
            }
            self.receive(self.arrived.len() + 1, patience)?;
        }
    }

    fn send(&mut self, mut bytes: &[u8], patience: Patience<'_>) -> Result<(), ExchangeError> {
        while !bytes.is_empty() {
            match self.input.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.input, PollFlags::OUT, patience)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ExchangeError::Died),
            }
        }
        Ok(())
    }

    /// Reads until at least so many bytes have arrived.
    fn receive(&mut self, bytes: usize, patience: Patience<'_>) -> Result<(), ExchangeError> {
        while self.arrived.len() < bytes {
            let before = self.arrived.len();
            let piece = (bytes - before).clamp(1, PIECE_BYTES);
            self.arrived.resize(before + piece, 0);
            let read = self.output.read(&mut self.arrived[before..]);
            self.arrived
                .truncate(before + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Err(ExchangeError::Died),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.output, PollFlags::IN, patience)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ExchangeError::Died),
            }
        }
        Ok(())
    }
}

/// Waits until something can be done with a pipe.
fn wait(pipe: &impl AsFd, what: PollFlags, patience: Patience<'_>) -> Result<(), ExchangeError> {
    loop {
        let slice = patience.slice()?;
        let slice = Timespec {
            tv_sec: 0,
            tv_nsec: slice.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(pipe, what)];
        match poll(&mut fds, Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(_) => return Err(ExchangeError::Died),
        }
    }
}
