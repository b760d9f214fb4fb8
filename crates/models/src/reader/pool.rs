//! The readers of one model for one role: a few at most, and one that is ready.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use thiserror::Error;

use super::process::{ExchangeError, Patience, Process};
use super::{IDLE_TIME_MAX, Launcher, REQUEST_MAX, Role};
use crate::asker::Asker;

/// How many may wait for a reader: as many of the household as may wait for an engine, and strangers.
const WAITING_MAX: usize = 176;
/// How many of them may be strangers.
const STRANGERS_WAITING_MAX: usize = 48;
/// How many requests a reader answers before another takes its place: what it kept of them goes.
const ANSWERED_MAX: u32 = 1_000_000;

/// Why there is no reader.
#[derive(Debug, Error)]
pub(super) enum TakeError {
    /// All are at work, and stay so, or too many wait already.
    #[error("all readers are busy")]
    Busy,
    /// It could not be started, or did not take what it is for.
    #[error("a reader could not begin")]
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
    idle: Vec<Idle>,
    /// Those that are at work, and those that are being started.
    out: Count,
    waiting: Count,
    /// Whether a thread looks for those that nobody asks.
    is_watched: bool,
}

/// A reader that nobody asks now.
struct Idle {
    process: Process,
    since: Instant,
}

/// How many there are, and how many of those are for strangers.
#[derive(Clone, Copy, Default)]
struct Count {
    all: usize,
    strangers: usize,
}

impl Count {
    fn add(&mut self, for_stranger: bool) {
        self.all += 1;
        self.strangers += usize::from(for_stranger);
    }

    fn subtract(&mut self, for_stranger: bool) {
        self.all -= 1;
        self.strangers -= usize::from(for_stranger);
    }

    /// Whether one more stays within these bounds.
    fn has_place(self, for_stranger: bool, most: usize, strangers_most: usize) -> bool {
        self.all < most && (!for_stranger || self.strangers < strangers_most)
    }
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
        self.lock()
            .idle
            .iter()
            .map(|one| one.process.id())
            .collect()
    }

    /// How many readers are at work.
    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        self.lock().out.all
    }

    /// Adds a reader that was started elsewhere.
    pub(super) fn put(self: &Arc<Self>, process: Process) {
        let mut state = self.lock();
        if state.idle.len() >= self.role.idle_max() {
            return;
        }
        let since = Instant::now();
        state.idle.push(Idle { process, since });
        if !state.is_watched {
            let pool = Arc::downgrade(self);
            let thread = std::thread::Builder::new().name("hearth-idle".to_owned());
            // Without a thread the next reader that is put back is watched.
            state.is_watched = thread.spawn(move || watch(&pool)).is_ok();
        }
    }

    /// Ends readers that nobody has asked for long. Returns whether any is kept.
    pub(super) fn end_unasked(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let is_kept = |one: &mut Idle| now.saturating_duration_since(one.since) < IDLE_TIME_MAX;
        let ended: Vec<Idle> = state.idle.extract_if(.., |one| !is_kept(one)).collect();
        state.is_watched = !state.idle.is_empty();
        let kept = state.is_watched;
        drop(state);
        drop(ended);
        kept
    }

    /// A reader for one asker, who waits while all that are for its kind are at work.
    pub(super) fn take(
        self: &Arc<Self>,
        asker: Asker,
        patience: Patience<'_>,
    ) -> Result<Lease, TakeError> {
        let for_stranger = asker.is_stranger();
        let (most, strangers_most) = (self.role.processes_max(), self.role.strangers_max());
        let mut dead = Vec::new();
        let mut state = self.lock();
        let waiting = state.waiting;
        if !waiting.has_place(for_stranger, WAITING_MAX, STRANGERS_WAITING_MAX) {
            return Err(TakeError::Busy);
        }
        state.waiting.add(for_stranger);
        let found = loop {
            if state.out.has_place(for_stranger, most, strangers_most) {
                let Some(Idle { mut process, .. }) = state.idle.pop() else {
                    break Ok(None);
                };
                if process.runs() {
                    break Ok(Some(process));
                }
                dead.push(process);
                continue;
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
        state.waiting.subtract(for_stranger);
        if found.is_ok() {
            state.out.add(for_stranger);
        }
        drop(state);
        drop(dead);
        let process = found?;
        let mut lease = Lease {
            was_kept: process.is_some(),
            for_stranger,
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
        if !state.idle.is_empty() || state.out.all >= self.role.processes_max() {
            return;
        }
        state.out.add(false);
        drop(state);
        let lease = Lease {
            was_kept: false,
            for_stranger: false,
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
                asker_left: &left,
            };
            lease.process = lease.pool.start(patience).ok();
            lease.give_back();
        }));
    }
}

/// Ends readers that nobody asks, while there are any.
fn watch(pool: &Weak<Pool>) {
    loop {
        std::thread::sleep(IDLE_TIME_MAX / 5);
        let Some(pool) = pool.upgrade() else {
            return;
        };
        if !pool.end_unasked(Instant::now()) {
            return;
        }
    }
}

/// A reader that one asker has. Dropping it kills the reader: what it read may have broken it.
#[derive(Debug)]
pub(super) struct Lease {
    /// Whether the reader was there before the asker came: what ends it then may have nothing to do with the asker.
    pub(super) was_kept: bool,
    for_stranger: bool,
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
        self.pool.lock().out.subtract(self.for_stranger);
        // All are woken, because the first in the line may be a stranger whose share is used up.
        self.pool.freed.notify_all();
        if broken {
            self.pool.warm();
        }
    }
}
