//! The readers of one model for one role: a few at most, and one that is ready.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thiserror::Error;

use super::process::{ExchangeError, Patience, Process};
use super::{Launcher, REQUEST_MAX, Role};

/// How many may wait for a reader.
const WAITING_MAX: usize = 64;
/// How many requests a reader answers before another takes its place: what it kept of them goes.
const ANSWERED_MAX: u32 = 1_000_000;

/// Why there is no reader.
#[derive(Debug, Error)]
pub(super) enum TakeError {
    /// All are at work, and stay so, or too many wait already.
    #[error("all readers are busy")]
    Busy,
    /// It could not be started, or did not take what it is for.
    #[error("a reader could not begin: {0}")]
    Begin(#[source] ExchangeError),
}

/// Tells a new reader what it is for.
pub(super) type Open =
    Box<dyn Fn(&mut Process, Patience<'_>) -> Result<(), ExchangeError> + Send + Sync>;

/// Readers that were all told the same.
pub(super) struct Pool {
    launcher: Launcher,
    role: Role,
    open: Open,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Process>,
    /// Those that are at work, and those that are being started.
    out: usize,
    waiting: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let role = &self.role;
        f.debug_struct("Pool")
            .field("role", role)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(launcher: &Launcher, role: Role, open: Open) -> Arc<Self> {
        Arc::new(Self {
            launcher: launcher.clone(),
            role,
            open,
            state: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers by which the system knows the readers that wait.
    #[cfg(test)]
    pub(super) fn idle(&self) -> Vec<u32> {
        self.lock().idle.iter().map(Process::id).collect()
    }

    /// How many readers are at work.
    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        self.lock().out
    }

    /// Adds a reader that was started elsewhere.
    pub(super) fn put(&self, process: Process) {
        let mut state = self.lock();
        if state.idle.len() < self.role.idle_max() {
            state.idle.push(process);
        }
    }

    /// A reader for one asker, who waits while all are at work.
    pub(super) fn take(self: &Arc<Self>, patience: Patience<'_>) -> Result<Lease, TakeError> {
        let mut dead = Vec::new();
        let mut state = self.lock();
        if state.waiting >= WAITING_MAX {
            return Err(TakeError::Busy);
        }
        state.waiting += 1;
        let found = loop {
            if let Some(mut process) = state.idle.pop() {
                if process.runs() {
                    break Ok(Some(process));
                }
                dead.push(process);
                continue;
            }
            if state.out < self.role.processes_max() {
                break Ok(None);
            }
            match patience.slice() {
                Ok(slice) => {
                    let waited = self.freed.wait_timeout(state, slice);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(ExchangeError::TooSlow) => break Err(TakeError::Busy),
                Err(error) => break Err(TakeError::Begin(error)),
            }
        };
        state.waiting -= 1;
        if found.is_ok() {
            state.out += 1;
        }
        drop(state);
        drop(dead);
        let process = found?;
        let mut lease = Lease {
            was_kept: process.is_some(),
            process,
            pool: Arc::clone(self),
        };
        if lease.process.is_none() {
            let started = self.start(patience).map_err(TakeError::Begin)?;
            lease.process = Some(started);
        }
        Ok(lease)
    }

    fn start(&self, patience: Patience<'_>) -> Result<Process, ExchangeError> {
        let mut process = Process::start(&self.launcher, self.role, patience)?;
        (self.open)(&mut process, patience)?;
        process.answered = 0;
        Ok(process)
    }

    /// Has a reader started beside, so that whoever asks next need not wait for it.
    pub(super) fn warm(self: &Arc<Self>) {
        let mut state = self.lock();
        if !state.idle.is_empty() || state.out >= self.role.processes_max() {
            return;
        }
        state.out += 1;
        drop(state);
        let lease = Lease {
            was_kept: false,
            process: None,
            pool: Arc::clone(self),
        };
        let thread = std::thread::Builder::new().name("hearth-warm".to_owned());
        // Without a thread whoever asks next starts it.
        drop(thread.spawn(move || {
            let mut lease = lease;
            let left = AtomicBool::new(false);
            let patience = Patience {
                deadline: Instant::now() + REQUEST_MAX,
                left: &left,
            };
            lease.process = lease.pool.start(patience).ok();
            lease.give_back();
        }));
    }
}

/// A reader that one asker has. Dropping it kills the reader: what it read may have broken it.
#[derive(Debug)]
pub(super) struct Lease {
    /// Whether the reader was there before the asker came: what ends it then may have nothing to do with the asker.
    pub(super) was_kept: bool,
    /// Always there while the asker has it.
    process: Option<Process>,
    pool: Arc<Pool>,
}

impl Lease {
    /// The reader.
    pub(super) fn process(&mut self) -> Result<&mut Process, ExchangeError> {
        self.process.as_mut().ok_or(ExchangeError::Died)
    }

    /// Gives a reader back that is as good as before.
    pub(super) fn give_back(mut self) {
        if let Some(process) = self.process.take()
            && process.answered < ANSWERED_MAX
        {
            self.pool.put(process);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let broken = self.process.take().is_some();
        self.pool.lock().out -= 1;
        self.pool.freed.notify_one();
        if broken {
            self.pool.warm();
        }
    }
}
