//! Grammars over one vocabulary, followed by processes that may break.
//!
//! A grammar has a process of its own while an answer follows it, and a thread here that speaks
//! with it, so that the engine never waits for it for long.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use hearth_causes::WithCauses;
use tokio::sync::oneshot;

use super::pool::{Lease, Pool, TakeError};
use super::process::{ExchangeError, Patience, Process};
use super::wire::{MASK_BYTES_MAX, Reply, Request, Step};
use super::{COMPILE_MAX, Launcher, OWN_TIME_MIN, Role, TOKEN_MAX};
use crate::asker::Asker;
use crate::grammar::{GrammarError, GrammarSource, Mask};
use crate::vocabulary::Vocabulary;

/// The longest reason of a reader that is passed on, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// Why a grammar is not followed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CompileError {
    /// For a reason of its own.
    Grammar(GrammarError),
    /// Others keep the readers busy, or none could be started. May be tried again.
    Busy,
}

impl From<GrammarError> for CompileError {
    fn from(error: GrammarError) -> Self {
        Self::Grammar(error)
    }
}

/// Follows grammars over one vocabulary. Clones share their processes.
#[derive(Debug, Clone)]
pub(crate) struct Grammars {
    pool: Arc<Pool>,
    words: usize,
}

impl Grammars {
    pub(crate) fn new(launcher: &Launcher, vocabulary: &Vocabulary) -> Self {
        let words = vocabulary.len().div_ceil(32);
        let vocabulary = vocabulary.clone();
        let open = move |process: &mut Process, patience: Patience<'_>| {
            let request = Request::Words(Cow::Borrowed(vocabulary.parts()));
            match process.exchange(&request, MASK_BYTES_MAX, patience)? {
                Reply::Ready(Ok(())) => Ok(()),
                _ => Err(ExchangeError::Senseless),
            }
        };
        let pool = Pool::new(launcher, Role::Grammars, Box::new(open));
        Self { pool, words }
    }

    /// How many processes follow a grammar now.
    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        self.pool.at_work()
    }

    /// Compiles a grammar as [`Self::compile_within`] does, in the time that an asker has.
    #[cfg(test)]
    pub(crate) async fn compile(
        &self,
        asker: Asker,
        source: GrammarSource,
        answered: Vec<u32>,
        wake: impl Fn() + Send + 'static,
    ) -> Result<GrammarSession, CompileError> {
        self.compile_within(super::ASKING_MAX, asker, source, answered, wake)
            .await
    }

    /// Compiles a grammar, and goes on by what was already answered, all in this time, what waiting for a process
    /// takes included. `wake` is called when a further step is known. Dropping the future ends the work.
    pub(crate) async fn compile_within(
        &self,
        within: Duration,
        asker: Asker,
        source: GrammarSource,
        answered: Vec<u32>,
        wake: impl Fn() + Send + 'static,
    ) -> Result<GrammarSession, CompileError> {
        source.check()?;
        let slot = Arc::new(Slot::default());
        let (accepted, accepts) = mpsc::channel();
        let (done, compiled) = oneshot::channel();
        let follower = Follower {
            asker,
            deadline: Instant::now() + within,
            pool: Arc::clone(&self.pool),
            words: self.words,
            slot: Arc::clone(&slot),
        };
        // Before the thread is there, so that it ends however this future does.
        let mut session = GrammarSession {
            slot,
            accepted,
            mask: None,
        };
        let thread = std::thread::Builder::new().name("hearth-grammar".to_owned());
        let spawned = thread.spawn(move || follower.run(source, answered, done, &accepts, &wake));
        spawned.map_err(|_| CompileError::Busy)?;
        session.mask = Some(compiled.await.map_err(|_| CompileError::Busy)??);
        Ok(session)
    }
}

/// What came of a token.
pub(crate) enum Next {
    /// One of these may follow.
    Allowed(Mask),
    /// Nothing may follow.
    Stopped,
}

/// Where the thread that speaks with a process puts what it learned.
#[derive(Default)]
struct Slot {
    learned: Mutex<Option<Result<Next, GrammarError>>>,
    changed: Condvar,
    /// Whether whoever asked has left.
    left: AtomicBool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Result<Next, GrammarError>>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A grammar beside an answer, and how far the answer has come in it. Dropping it ends it.
pub(crate) struct GrammarSession {
    slot: Arc<Slot>,
    accepted: mpsc::Sender<u32>,
    /// Nothing while a token is being accepted, and after the end.
    mask: Option<Mask>,
}

impl Drop for GrammarSession {
    fn drop(&mut self) {
        self.slot.left.store(true, Ordering::Release);
    }
}

impl GrammarSession {
    /// The tokens that may come next, if they are known.
    pub(crate) fn mask(&self) -> Option<&Mask> {
        self.mask.as_ref()
    }

    /// Begins to go on by one token.
    pub(crate) fn accept(&mut self, id: u32) {
        self.mask = None;
        // A thread that has ended is noticed by whoever looks for what it learned.
        let _ = self.accepted.send(id);
    }

    /// Whether nothing may follow the token that was accepted; nothing while that is not known.
    /// Waits so long for it.
    pub(crate) fn learned(&mut self, wait: Duration) -> Option<Result<bool, GrammarError>> {
        let slot = Arc::clone(&self.slot);
        let waited = (slot.changed).wait_timeout_while(slot.lock(), wait, |known| known.is_none());
        let (mut known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match known.take()? {
            Ok(Next::Allowed(mask)) => {
                self.mask = Some(mask);
                Some(Ok(false))
            }
            Ok(Next::Stopped) => Some(Ok(true)),
            Err(error) => Some(Err(error)),
        }
    }
}

/// The thread beside a grammar.
struct Follower {
    asker: Asker,
    /// Until when the grammar must be compiled.
    deadline: Instant,
    pool: Arc<Pool>,
    words: usize,
    slot: Arc<Slot>,
}

impl Follower {
    fn run(
        self,
        source: GrammarSource,
        answered: Vec<u32>,
        done: oneshot::Sender<Result<Mask, CompileError>>,
        accepts: &mpsc::Receiver<u32>,
        wake: &impl Fn(),
    ) {
        let mut lease = match self.compile(source, answered) {
            Ok((lease, mask)) => {
                // Who has left drops the other end of `accepts` too.
                let _ = done.send(Ok(mask));
                lease
            }
            Err(error) => {
                let _ = done.send(Err(error));
                return;
            }
        };
        self.pool.warm();
        while let Ok(id) = accepts.recv() {
            let patience = Patience {
                deadline: Instant::now() + TOKEN_MAX,
                asker_left: &self.slot.left,
            };
            let learned = self.step(&mut lease, &Request::Accept(id), patience);
            let (learned, sound) = match learned {
                Ok(learned) => (learned, true),
                Err(error) => (Err(failure(&error)), false),
            };
            *self.slot.lock() = Some(learned);
            self.slot.changed.notify_all();
            wake();
            if !sound {
                return;
            }
        }
        lease.give_back();
    }

    fn compile(
        &self,
        source: GrammarSource,
        answered: Vec<u32>,
    ) -> Result<(Lease, Mask), CompileError> {
        let patience = Patience {
            deadline: self.deadline,
            asker_left: &self.slot.left,
        };
        let mut lease = self.pool.take(self.asker, patience).map_err(|error| {
            tracing::debug!(error = %error.with_causes(), "no process for a grammar");
            match error {
                TakeError::Busy | TakeError::Begin(ExchangeError::Start(_)) => CompileError::Busy,
                TakeError::Begin(_) => GrammarError::Unavailable.into(),
            }
        })?;
        if patience.left() < OWN_TIME_MIN {
            lease.give_back();
            return Err(CompileError::Busy);
        }
        let request = Request::Compile { source, answered };
        match self.step(&mut lease, &request, patience.at_most(COMPILE_MAX)) {
            Ok(Ok(Next::Allowed(mask))) => Ok((lease, mask)),
            Ok(Ok(Next::Stopped)) => Err(GrammarError::TooMuch.into()),
            Ok(Err(error)) => {
                lease.give_back();
                Err(error.into())
            }
            Err(error) => Err(failure(&error).into()),
        }
    }

    /// One request and what was learned; an error when the process is of no use any more.
    fn step(
        &self,
        lease: &mut Lease,
        request: &Request<'_>,
        patience: Patience<'_>,
    ) -> Result<Result<Next, GrammarError>, ExchangeError> {
        let reply = lease
            .process()?
            .exchange(request, MASK_BYTES_MAX, patience)?;
        match reply {
            Reply::Step(Ok(Step::Mask(bytes))) if bytes.0.len() == 4 * self.words => {
                let (words, _) = bytes.0.as_chunks::<4>();
                let words = words.iter().map(|word| u32::from_le_bytes(*word));
                Ok(Ok(Next::Allowed(Mask::new(words.collect()))))
            }
            Reply::Step(Ok(Step::Stopped)) => Ok(Ok(Next::Stopped)),
            Reply::Step(Err(error)) => Ok(Err(bounded(error))),
            _ => Err(ExchangeError::Senseless),
        }
    }
}

fn failure(error: &ExchangeError) -> GrammarError {
    match error {
        ExchangeError::TooSlow => GrammarError::TooSlow,
        _ => GrammarError::TooMuch,
    }
}

/// The same error, with no more text than a reader has reason to send.
fn bounded(error: GrammarError) -> GrammarError {
    match error {
        GrammarError::Refused(mut reason) => {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            GrammarError::Refused(reason)
        }
        error => error,
    }
}
