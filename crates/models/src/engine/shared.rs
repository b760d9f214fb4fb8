//! What the handles and the thread of an engine share.
//!
//! The lock is held for planning and book-keeping only, never while something is computed.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::{Allowance, EmbedError, EndReason, Event};
use crate::reader::GrammarSession;
use crate::sampling::Sampler;
use crate::scheduler::{Scheduler, WorkId};

/// The shortest and the longest time that is told to whoever finds everything busy.
const RETRY_MS: std::ops::RangeInclusive<u64> = 500..=60_000;
/// How long an answer is assumed to take before any has ended.
const FIRST_WORK_MS: u64 = 5_000;

pub(super) struct Answer {
    pub(super) sampler: Sampler,
    pub(super) grammar: Option<GrammarSession>,
    pub(super) logprobs: Option<u8>,
    /// Of the next token in the whole answer.
    pub(super) position: u64,
    /// Tokens that may still be chosen.
    pub(super) remaining: u32,
    /// Whether a token was chosen.
    pub(super) begun: bool,
    /// Tokens of the prompt that were read before.
    pub(super) cached: u32,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

pub(super) struct Rows {
    pub(super) positions: Vec<u32>,
    pub(super) visit: super::VisitLogits,
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// What is done with the logits of some work.
pub(super) enum Task {
    Answer(Box<Answer>),
    Rows(Rows),
}

impl Task {
    /// Tells whoever asked; one who does not listen has cancelled.
    pub(super) fn say(&self, event: Event) {
        if let Self::Answer(answer) = self {
            let _ = answer.events.send(event);
        }
    }
}

pub(super) struct Embedding {
    pub(super) ids: Vec<u32>,
    pub(super) done: oneshot::Sender<Result<Vec<f32>, EmbedError>>,
}

pub(super) struct State {
    pub(super) scheduler: Scheduler,
    /// Taken on since the thread last looked; no more than the scheduler has.
    pub(super) arrived: Vec<(WorkId, Task)>,
    /// Cancelled since the thread last looked; no more than were taken on.
    pub(super) cancelled: Vec<WorkId>,
    pub(super) embeddings: VecDeque<Embedding>,
    pub(super) stopped: bool,
    last_id: u64,
    /// How long work had a slot, on average of the last few.
    work_ms: u64,
}

impl State {
    pub(super) fn new(scheduler: Scheduler) -> Self {
        Self {
            scheduler,
            arrived: Vec::new(),
            cancelled: Vec::new(),
            embeddings: VecDeque::new(),
            stopped: false,
            last_id: 0,
            work_ms: FIRST_WORK_MS,
        }
    }

    pub(super) fn next_id(&mut self) -> WorkId {
        self.last_id += 1;
        WorkId(self.last_id)
    }

    pub(super) fn took(&mut self, duration_ms: u64) {
        self.work_ms = (self.work_ms.saturating_mul(7).saturating_add(duration_ms)) / 8;
    }

    /// When one of `before` answers may have made room.
    pub(super) fn retry_after_ms(&self, before: u32) -> u64 {
        let slots = u64::from(self.scheduler.busy().max(1));
        let turns = u64::from(before) / slots / 2 + 1;
        let estimate = self.work_ms.saturating_mul(turns);
        estimate.clamp(*RETRY_MS.start(), *RETRY_MS.end())
    }
}

pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Whoever panicked with the lock left a state that is whole, because nothing panics between
    /// two changes that belong together.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits until something changes.
    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing more on, and ends what there is.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.embeddings.clear();
        for (_, task) in state.arrived.drain(..) {
            task.say(Event::Ended(EndReason::Cancelled));
        }
        drop(state);
        self.wake();
    }
}

/// The right to an answer: without it, it is not computed.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    id: WorkId,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, id: WorkId) -> Self {
        Self { shared, id }
    }
}

impl Allowance for Ticket {
    fn allow(&self, output_tokens: u32) {
        self.shared.lock().scheduler.allow(self.id, output_tokens);
        self.shared.wake();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.scheduler.end(self.id);
        if !state.stopped {
            state.cancelled.push(self.id);
        }
        drop(state);
        self.shared.wake();
    }
}
