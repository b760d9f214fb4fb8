//! Prompts of one model, read by processes that may break.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hearth_causes::WithCauses;
use thiserror::Error;

use super::pool::{Lease, Open, Pool, TakeError};
use super::process::{ExchangeError, Patience, Process};
use super::wire::{IDS_BYTES_MAX, Reply, Request, VOCABULARY_BYTES_MAX};
use super::{ASKING_MAX, Launcher, OWN_TIME_MIN, REQUEST_MAX, Role};
use crate::asker::Asker;
use crate::backend::OpenError;
use crate::packed::Packed;
use crate::prompt::{PromptError, PromptInput};
use crate::template::TemplateError;
use crate::vocabulary::Vocabulary;

/// The longest reason of a reader that is passed on, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 1_024;

/// Why a prompt has no ids. Exhaustive, so that what passes it on decides on each cause.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The model does not take it.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Reading it took too long.
    #[error(
        "the prompt takes more than {} s to read with this model's template and tokenizer: send less, or ask another model",
        REQUEST_MAX.as_secs()
    )]
    TooSlow,
    /// Reading it took too much memory, or broke what reads.
    #[error(
        "the prompt takes more than {} MiB of memory to read with this model's template and tokenizer, or breaks them: \
         send less, or ask another model",
        Role::Prompts.memory_bytes() >> 20
    )]
    TooMuch,
    /// Others keep the readers busy.
    #[error("too many prompts of this model are being read: try again")]
    Busy,
    /// No reader could be started.
    #[error("the process that reads prompts could not be started ({0}): try again")]
    Unavailable(String),
}

/// Reads prompts of one model. Cheap to clone; its processes end with the last clone.
#[derive(Debug, Clone)]
pub struct Prompts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    launcher: Launcher,
    vocabulary: Vocabulary,
    pool: Arc<Pool>,
}

impl Prompts {
    /// Reads the head of a model file, or of a sparse file that has its head and its length, and
    /// gets ready to read prompts.
    ///
    /// Takes a tenth of a second, and blocks.
    ///
    /// # Errors
    /// When the file is missing, is not a model, or takes too much to find that out.
    pub fn load(launcher: &Launcher, path: &Path) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        let path = path
            .canonicalize()
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| OpenError::Missing(shown.clone()))?;
        let left = AtomicBool::new(false);
        let patience = Patience {
            deadline: Instant::now() + ASKING_MAX,
            asker_left: &left,
        };
        let opened = Process::start(launcher, Role::Prompts, patience)
            .and_then(|mut process| Ok((open(&mut process, &path, true, patience)?, process)));
        let (opened, process) = opened.map_err(|error| unopened(&shown, error))?;
        let refused = |reason: String| OpenError::Refused {
            path: shown.clone(),
            reason,
        };
        let parts = opened.map_err(refused)?;
        let parts = parts.ok_or_else(|| refused("it has no vocabulary".to_owned()))?;
        let vocabulary = Vocabulary::try_from(parts).map_err(|error| refused(error.to_string()))?;
        let pool = Pool::new(launcher, Role::Prompts, reopen(path));
        pool.put(process);
        Ok(Self {
            inner: Arc::new(Inner {
                launcher: launcher.clone(),
                vocabulary,
                pool,
            }),
        })
    }

    /// The model's vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.inner.vocabulary
    }

    /// How readers are started.
    pub(crate) fn launcher(&self) -> &Launcher {
        &self.inner.launcher
    }

    /// The ids of a prompt; `now_s` is for templates that tell the date, in seconds since 1970,
    /// UTC. Must be called within a runtime of tokio. Dropping the future ends the work.
    ///
    /// # Errors
    /// When the model does not take it, or it takes too much.
    pub async fn ids(
        &self,
        asker: Asker,
        input: PromptInput,
        now_s: u64,
    ) -> Result<Vec<u32>, ReadError> {
        struct Leaves(Arc<AtomicBool>);

        impl Drop for Leaves {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }

        let leaves = Leaves(Arc::default());
        let (prompts, left) = (self.clone(), Arc::clone(&leaves.0));
        let read =
            tokio::task::spawn_blocking(move || prompts.read(asker, &input, now_s, &left)).await;
        read.unwrap_or_else(|error| Err(ReadError::Unavailable(error.to_string())))
    }

    /// The same for the household, in a thread that may wait.
    ///
    /// # Errors
    /// When the model does not take it, or it takes too much.
    pub fn blocking_ids(&self, input: &PromptInput, now_s: u64) -> Result<Vec<u32>, ReadError> {
        let asker = Asker::Household { name: 0 };
        self.read(asker, input, now_s, &AtomicBool::new(false))
    }

    fn read(
        &self,
        asker: Asker,
        input: &PromptInput,
        now_s: u64,
        left: &AtomicBool,
    ) -> Result<Vec<u32>, ReadError> {
        if let PromptInput::Ids(ids) = input {
            return Ok(self.known(ids).map(|()| ids.clone())?);
        }
        let patience = Patience {
            deadline: Instant::now() + ASKING_MAX,
            asker_left: left,
        };
        let input = serde_json::to_vec(input)
            .map_err(|error| TemplateError::Failed(error.to_string()))
            .map_err(PromptError::from)?;
        let request = Request::Prompt {
            input: Packed(input),
            now_s,
        };
        let (lease, reply) = self.exchange(asker, &request, patience)?;
        let Reply::Ids(ids) = reply else {
            return Err(ReadError::TooMuch);
        };
        if let Ok(ids) = &ids
            && self.known(ids).is_err()
        {
            return Err(ReadError::TooMuch);
        }
        lease.give_back();
        ids.map_err(|error| bounded(error).into())
    }

    /// Sends a request to a reader. A reader that was kept may have been ended by the system meanwhile, so another one is
    /// asked once.
    fn exchange(
        &self,
        asker: Asker,
        request: &Request<'_>,
        patience: Patience<'_>,
    ) -> Result<(Lease, Reply), ReadError> {
        let mut may_try_again = true;
        loop {
            let taken = self.inner.pool.take(asker, patience);
            let mut lease = taken.map_err(|error| match error {
                TakeError::Busy => ReadError::Busy,
                TakeError::Begin(error) => ReadError::Unavailable(error.with_causes().to_string()),
            })?;
            if patience.left() < OWN_TIME_MIN {
                lease.give_back();
                return Err(ReadError::Busy);
            }
            let reply = lease.process().and_then(|process| {
                process.exchange(request, IDS_BYTES_MAX, patience.at_most(REQUEST_MAX))
            });
            match reply {
                Ok(reply) => return Ok((lease, reply)),
                Err(ExchangeError::Died) if lease.was_kept && may_try_again => {
                    may_try_again = false;
                }
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    fn known(&self, ids: &[u32]) -> Result<(), PromptError> {
        let unknown = (ids.iter()).find(|id| !self.inner.vocabulary.contains(**id));
        unknown.map_or(Ok(()), |id| Err(PromptError::UnknownToken(*id)))
    }

    /// The numbers by which the system knows the processes that wait for a prompt.
    #[cfg(test)]
    pub(super) fn idle(&self) -> Vec<u32> {
        self.inner.pool.idle()
    }

    /// Ends processes as if it were `now`, as a thread does from time to time.
    #[cfg(test)]
    pub(super) fn end_unasked(&self, now: Instant) {
        self.inner.pool.end_unasked(now);
    }

    /// How many processes are at work.
    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        self.inner.pool.at_work()
    }
}

/// What a reader says of a file: its vocabulary if it is told, or why it is not a model.
type Opened = Result<Option<crate::vocabulary::VocabularyParts>, String>;

fn open(
    process: &mut Process,
    path: &Path,
    told: bool,
    patience: Patience<'_>,
) -> Result<Opened, ExchangeError> {
    let path = Packed(path.as_os_str().as_bytes().to_vec());
    let request = Request::Open { path, told };
    match process.exchange(&request, VOCABULARY_BYTES_MAX, patience)? {
        Reply::Opened(opened) => Ok(opened.map_err(|mut reason| {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            reason
        })),
        _ => Err(ExchangeError::Senseless),
    }
}

/// What it means for the file at `path` that the process which reads it says nothing.
pub(super) fn unopened(path: &str, error: ExchangeError) -> OpenError {
    match error {
        ExchangeError::Start(error) => OpenError::Reader(error.to_string()),
        error => OpenError::Broken {
            path: path.to_owned(),
            how: error.with_causes().to_string(),
        },
    }
}

/// Opens the same file in a further process.
fn reopen(path: PathBuf) -> Open {
    Box::new(move |process, patience| {
        let opened = open(process, &path, false, patience)?;
        opened.map(drop).map_err(|_| ExchangeError::Senseless)
    })
}

fn failure(error: &ExchangeError) -> ReadError {
    match error {
        ExchangeError::TooSlow => ReadError::TooSlow,
        ExchangeError::Start(_) | ExchangeError::Left => {
            ReadError::Unavailable(error.with_causes().to_string())
        }
        ExchangeError::Died | ExchangeError::Senseless | ExchangeError::TooLong => {
            ReadError::TooMuch
        }
    }
}

/// The same error, with no more text than a reader has reason to send.
fn bounded(error: PromptError) -> PromptError {
    let mut text = error.to_string();
    if text.len() <= REASON_BYTES_MAX {
        return error;
    }
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    TemplateError::Failed(text).into()
}
