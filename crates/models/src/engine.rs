//! A model at work: many answers at once, one token at a time.
//!
//! An [`Engine`] is a handle to a thread that owns the weights and the context of llama.cpp. The
//! thread computes batches that the `scheduler` composes, chooses tokens by `sampling`, and sends
//! them to whoever asked. Everything that may change the bits of the logits is fixed when the
//! engine is loaded, and told by [`Engine::description`].
//!
//! The end token of an answer is delivered like any other, so that what was chosen can be checked
//! to the end; its shown bytes are empty.
//!
//! What is not here: payment, which reaches the engine only as an allowance of tokens, and text,
//! which is made of ids by the `vocabulary`.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::asker::Asker;
use crate::backend::OpenError;
use crate::grammar::{GrammarError, GrammarSource};
use crate::reader::{ASKING_MAX, CompileError, GrammarSession, Grammars, Launcher, Prompts};
use crate::sampling::{NoiseKey, Rule, Sampler, TokenLogprobs};
use crate::scheduler::{Capacity, Full, Scheduler, Work, WorkId};
use crate::vocabulary::{UnknownBias, Vocabulary};

mod embedder;
mod load;
mod shared;
pub(crate) mod trial;
mod worker;

pub use load::{ENGINE, EngineDescription, EngineOptions, LoadError};

use shared::{Answer, Embedding, Rows, Shared, State, Task, Ticket};

/// The most tokens of one answer.
pub const OUTPUT_TOKENS_MAX: u32 = 65_536;
/// The most alternatives whose log-probabilities are told.
pub const LOGPROBS_MAX: u8 = 20;
/// The most texts that wait to be embedded.
pub const EMBEDDINGS_WAITING_MAX: usize = 256;

/// An answer to compute.
#[derive(Debug, Clone)]
pub struct Job {
    /// The prompt, then what was already answered.
    pub ids: Vec<u32>,
    /// How many of `ids` are already answered: the position of the first token that is chosen.
    pub output_position_first: u32,
    /// The most tokens to choose. Fewer are chosen where the context ends before.
    pub output_tokens_max: u32,
    /// How tokens are chosen.
    pub rule: Rule,
    /// What the noise is drawn with.
    pub noise_key: NoiseKey,
    /// What the output must look like, from its very beginning.
    pub grammar: Option<GrammarSource>,
    /// How many alternatives to tell the log-probabilities of, with that of the chosen token;
    /// nothing means none at all.
    pub logprobs: Option<u8>,
    /// The one who asks. Askers take turns.
    pub asker: Asker,
    /// Tokens that may be chosen before [`Generation::allow`] raises the figure. An answer that
    /// may not go on keeps its place and computes nothing.
    pub allowance: u32,
}

/// Looks at a position and the logits of what follows it.
pub type VisitLogits = Box<dyn FnMut(u32, &[f32]) + Send>;

/// A figure of a job that has bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// The sampling rule.
    Rule,
    /// How many tokens are asked for.
    OutputTokens,
    /// How many alternatives are told.
    Logprobs,
    /// A position whose logits are shown.
    Position,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rule => "the sampling rule",
            Self::OutputTokens => "the length of the output",
            Self::Logprobs => "the number of log-probabilities",
            Self::Position => "a position",
        })
    }
}

/// Why a job is not taken. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The queue is full. May be tried again.
    #[error("everything is busy: try again in {retry_after_ms} ms")]
    Busy {
        /// When a place may be free, by the time that answers took lately.
        retry_after_ms: u64,
    },
    /// The ids leave no room for an answer.
    #[error("{tokens} tokens are too many: this engine reads {tokens_max} at most")]
    TooLong {
        /// How many there are.
        tokens: u64,
        /// How many there may be.
        tokens_max: u32,
    },
    /// There is nothing to read.
    #[error("the prompt is empty")]
    Empty,
    /// An id is not in the vocabulary.
    #[error("the token {0} is not in the model's vocabulary")]
    UnknownToken(u32),
    /// A figure of the job is beyond its bounds.
    #[error("{0} is beyond its bounds")]
    Figure(Figure),
    /// A bias is for a token that the model does not have.
    #[error(transparent)]
    Bias(#[from] UnknownBias),
    /// The grammar cannot be followed.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The engine has stopped.
    #[error("the engine has stopped: load the model again")]
    Stopped,
}

impl SubmitError {
    /// Whether the same job may be taken later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The model ended it; the last token is the one that ended it.
    EndOfText,
    /// As many tokens as were asked for, or as the context holds.
    Length,
    /// The grammar allows nothing more.
    Grammar,
    /// The grammar takes too much to follow from here on.
    Unfollowed(GrammarError),
    /// The engine was stopped.
    Cancelled,
    /// Something broke here; what it was, for a log.
    Failed(String),
}

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// It is taken on; always the first event.
    Started {
        /// Work that has to get a slot before.
        waiting: u32,
    },
    /// A part of the ids is read.
    Prompt {
        /// How many of them are read so far.
        tokens_read: u32,
        /// How many of those had been read before, for another answer.
        cached: u32,
    },
    /// The next token.
    Token {
        /// Its id.
        id: u32,
        /// As asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// No more comes.
    Ended(EndReason),
}

/// The right to what a generation computes: dropping it cancels the rest.
pub trait Allowance: std::fmt::Debug + Send + Sync {
    /// Lets the answer have up to so many tokens in all. A lower figure than before changes nothing.
    fn allow(&self, output_tokens: u32);
}

/// The events of a generation, and the way to let it go on.
pub(crate) type GenerationParts = (mpsc::UnboundedReceiver<Event>, Box<dyn Allowance>);

/// An answer in the making. Dropping it cancels what is not computed yet.
///
/// Events that nobody fetches wait; there are at most two for each token of the job.
#[derive(Debug)]
pub struct Generation {
    events: mpsc::UnboundedReceiver<Event>,
    allowance: Box<dyn Allowance>,
}

impl Generation {
    pub(crate) fn new((events, allowance): GenerationParts) -> Self {
        Self { events, allowance }
    }

    /// The next event; nothing after [`Event::Ended`], or when the engine broke.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// The next event, for a thread that may wait.
    ///
    /// # Panics
    /// When called from within an asynchronous task.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// Lets the answer have up to `output_tokens` tokens in all, counted from the first that this
    /// engine chooses. A lower figure than before changes nothing.
    pub fn allow(&self, output_tokens: u32) {
        self.allowance.allow(output_tokens);
    }
}

/// Why a text has no embedding. Exhaustive, as [`SubmitError`] is.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// There is nothing to read.
    #[error("the text is empty")]
    Empty,
    /// There are more tokens than the engine embeds.
    #[error("{tokens} tokens are too many: this engine embeds {tokens_max} at most")]
    TooLong {
        /// How many there are.
        tokens: u64,
        /// How many there may be.
        tokens_max: u32,
    },
    /// An id is not in the vocabulary.
    #[error("the token {0} is not in the model's vocabulary")]
    UnknownToken(u32),
    /// Too many texts wait. May be tried again.
    #[error("everything is busy: try again in {retry_after_ms} ms")]
    Busy {
        /// When a place may be free, by the time that answers took lately.
        retry_after_ms: u64,
    },
    /// The engine could not compute it; what went wrong, for a log.
    #[error("the embedding could not be computed: {0}")]
    Failed(String),
    /// The engine has stopped.
    #[error("the engine has stopped: load the model again")]
    Stopped,
}

/// A model at work. Cheap to clone; the model leaves memory with the last clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    prompts: Prompts,
    grammars: Grammars,
    description: EngineDescription,
    embedding_tokens_max: u32,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    /// Stops the thread after the batch that it is computing, and waits for it.
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already, and has nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// Loads a model file. The weights are mapped into memory, not read, so this takes little
    /// time; it blocks. Where graphics processors compute, the weights are copied to them; if they have too little
    /// memory for all layers, some layers stay on the processor.
    ///
    /// The head of the file is read by a reader process first, which `launcher` starts: what breaks
    /// llama.cpp never gets into this process.
    ///
    /// # Errors
    /// When the file is no model, the options make no sense, or there is too little memory.
    pub fn load(
        path: &Path,
        options: EngineOptions,
        launcher: &Launcher,
    ) -> Result<Self, LoadError> {
        Self::load_with(path, None, &options, launcher)
    }

    /// Loads a model file with a low-rank adapter over it, which a GGUF file of its own has.
    ///
    /// llama.cpp reads the adapter's file in this process, so it must be one that this device wrote or checked. The
    /// description does not name the adapter.
    ///
    /// # Errors
    /// Those of [`Engine::load`]; also when the file is not an adapter of this model.
    pub fn load_adapted(
        path: &Path,
        adapter: &Path,
        options: EngineOptions,
        launcher: &Launcher,
    ) -> Result<Self, LoadError> {
        Self::load_with(path, Some(adapter), &options, launcher)
    }

    fn load_with(
        path: &Path,
        adapter: Option<&Path>,
        options: &EngineOptions,
        launcher: &Launcher,
    ) -> Result<Self, LoadError> {
        let prompts = Prompts::load(launcher, path)?;
        let mut placement = load::Placement::first(options);
        loop {
            match Self::load_placed((path, adapter), options, &placement, &prompts) {
                Ok(engine) => {
                    let description = engine.description();
                    tracing::info!(path = %path.display(), runs_on = description.runs_on, "a model is loaded");
                    return Ok(engine);
                }
                Err(error) => placement = placement.fewer(path, &error).ok_or(error)?,
            }
        }
    }

    /// Loads a model file with its layers where `placement` says.
    fn load_placed(
        (path, adapter): (&Path, Option<&Path>),
        options: &EngineOptions,
        placement: &load::Placement,
        prompts: &Prompts,
    ) -> Result<Self, LoadError> {
        let (model, adapter) = load::open_adapted(path, adapter, placement)?;
        let vocabulary = prompts.vocabulary();
        let plan = load::plan(&model, options, placement)?;
        if plan.description.vocabulary_tokens as usize != vocabulary.len() {
            return Err(LoadError::Open(OpenError::Refused {
                path: path.display().to_string(),
                reason: "it has changed while it was read".to_owned(),
            }));
        }
        let scheduler = Scheduler::new(Capacity {
            slots: plan.sequences,
            queue: options.queue_max,
            batch_tokens: plan.batch_tokens,
            forgets_ends: plan.forgets_ends,
            on_grid: plan.description.gpu_layers > 0,
        });
        let shared = Arc::new(Shared::new(State::new(scheduler)));
        let thread = worker::start(
            (model, adapter),
            vocabulary.clone(),
            plan.clone(),
            shared.clone(),
        )?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                grammars: Grammars::new(prompts.launcher(), vocabulary),
                prompts: prompts.clone(),
                description: plan.description,
                embedding_tokens_max: plan.embedding_tokens,
                thread: Some(thread),
            }),
        })
    }

    /// What computes, and how.
    pub fn description(&self) -> &EngineDescription {
        &self.inner.description
    }

    /// The model's vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        self.inner.prompts.vocabulary()
    }

    /// What turns prompts for the model into ids.
    pub fn prompts(&self) -> &Prompts {
        &self.inner.prompts
    }

    /// How busy the engine is.
    pub fn load_now(&self) -> Load {
        let state = self.inner.shared.lock();
        Load {
            slots: self.inner.description.sequences_max,
            busy: state.scheduler.busy(),
            waiting: state.scheduler.waiting(),
        }
    }

    /// Takes a job on.
    ///
    /// # Errors
    /// When the job makes no sense, is too long, or too much waits already.
    pub async fn submit(&self, job: Job) -> Result<Generation, SubmitError> {
        self.submit_within(job, ASKING_MAX).await
    }

    /// The same for one who waits so long for a process that follows the grammar, where others keep them busy: each
    /// follows one grammar, to the end of its answer. Dropping the future gives the place in the line away.
    ///
    /// # Errors
    /// As those of [`Engine::submit`].
    pub async fn submit_within(
        &self,
        job: Job,
        grammar_within: Duration,
    ) -> Result<Generation, SubmitError> {
        self.check(&job)?;
        let (_, answered) = job
            .ids
            .split_at(job.ids.len() - job.output_position_first as usize);
        let mut sampler =
            Sampler::new(job.rule, job.noise_key).map_err(|_| SubmitError::Figure(Figure::Rule))?;
        answered.iter().for_each(|id| sampler.accept(*id));
        let grammar = match job.grammar {
            Some(source) => {
                let asked = (job.asker, grammar_within);
                Some(self.follow(asked, source, answered.to_vec()).await?)
            }
            None => None,
        };
        let room = self.inner.description.context_tokens - job.ids.len() as u32;
        let (sender, events) = mpsc::unbounded_channel();
        let task = Task::Answer(Box::new(Answer {
            sampler,
            grammar,
            logprobs: job.logprobs,
            position: u64::from(job.output_position_first),
            remaining: job.output_tokens_max.min(room),
            begun: false,
            cached: 0,
            events: sender,
        }));
        let work = Work {
            id: WorkId(0),
            asker: job.asker,
            prompt: job.ids,
            output_max: job.output_tokens_max.min(room),
            allowance: job.allowance,
            reuse: self.inner.description.reuses_prefixes,
        };
        let ticket = self.take_on(work, task)?;
        Ok(Generation::new((events, Box::new(ticket))))
    }

    /// Begins to follow a grammar, for one who waits so long.
    async fn follow(
        &self,
        (asker, within): (Asker, Duration),
        source: GrammarSource,
        answered: Vec<u32>,
    ) -> Result<GrammarSession, SubmitError> {
        let shared = Arc::clone(&self.inner.shared);
        let wake = move || {
            // The lock, so that the engine's thread either sees what was learned or waits already.
            drop(shared.lock());
            shared.wake();
        };
        let compiled = self
            .inner
            .grammars
            .compile_within(within, asker, source, answered, wake)
            .await;
        compiled.map_err(|error| match error {
            CompileError::Grammar(error) => SubmitError::Grammar(error),
            CompileError::Busy => SubmitError::Busy {
                retry_after_ms: self.inner.shared.lock().retry_after_ms(0),
            },
        })
    }

    /// Reads ids, and shows the logits at some positions of them: `visit` gets a position and the
    /// logits of what follows it, in the order of the positions, on the engine's own thread, so it
    /// must be quick. Nothing that was read before is reused. Dropping the future cancels.
    ///
    /// # Errors
    /// When the ids make no sense, a position is none of theirs, or too much waits already.
    pub async fn logits(
        &self,
        asker: Asker,
        ids: Vec<u32>,
        mut positions: Vec<u32>,
        visit: VisitLogits,
    ) -> Result<(), SubmitError> {
        self.check_ids(&ids, self.inner.description.context_tokens)?;
        positions.sort_unstable();
        positions.dedup();
        if positions
            .last()
            .is_some_and(|last| *last as usize >= ids.len())
        {
            return Err(SubmitError::Figure(Figure::Position));
        }
        let (done, finished) = oneshot::channel();
        let task = Task::Rows(Rows {
            positions,
            visit,
            done: Some(done),
        });
        let work = Work {
            id: WorkId(0),
            asker,
            prompt: ids,
            output_max: 0,
            allowance: 0,
            reuse: false,
        };
        let _ticket = self.take_on(work, task)?;
        finished.await.map_err(|_| SubmitError::Stopped)
    }

    /// The meaning of a text as a vector of length one: the mean of what the model's last layer
    /// says of its tokens.
    ///
    /// # Errors
    /// When the ids make no sense, too much waits already, or there is too little memory.
    pub async fn embed(&self, ids: Vec<u32>) -> Result<Vec<f32>, EmbedError> {
        let tokens_max = self.inner.embedding_tokens_max;
        match self.check_ids(&ids, tokens_max) {
            Err(SubmitError::Empty) => return Err(EmbedError::Empty),
            Err(SubmitError::UnknownToken(id)) => return Err(EmbedError::UnknownToken(id)),
            Err(_) => {
                return Err(EmbedError::TooLong {
                    tokens: ids.len() as u64,
                    tokens_max,
                });
            }
            Ok(()) => {}
        }
        let (done, finished) = oneshot::channel();
        {
            let mut state = self.inner.shared.lock();
            if state.stopped {
                return Err(EmbedError::Stopped);
            }
            if state.embeddings.len() >= EMBEDDINGS_WAITING_MAX {
                let waiting = u32::try_from(state.embeddings.len()).unwrap_or(u32::MAX);
                let retry_after_ms = state.retry_after_ms(waiting);
                return Err(EmbedError::Busy { retry_after_ms });
            }
            state.embeddings.push_back(Embedding { ids, done });
        }
        self.inner.shared.wake();
        finished.await.unwrap_or(Err(EmbedError::Stopped))
    }

    fn check(&self, job: &Job) -> Result<(), SubmitError> {
        // One token of the context is left for the answer.
        self.check_ids(&job.ids, self.inner.description.context_tokens - 1)?;
        if job.output_position_first as usize >= job.ids.len() {
            return Err(SubmitError::Empty);
        }
        if !(1..=OUTPUT_TOKENS_MAX).contains(&job.output_tokens_max) {
            return Err(SubmitError::Figure(Figure::OutputTokens));
        }
        if job.logprobs.is_some_and(|count| count > LOGPROBS_MAX) {
            return Err(SubmitError::Figure(Figure::Logprobs));
        }
        let biases = &job.rule.logit_bias_millionths;
        Ok(self.vocabulary().check_biases(biases)?)
    }

    fn check_ids(&self, ids: &[u32], tokens_max: u32) -> Result<(), SubmitError> {
        if ids.is_empty() {
            return Err(SubmitError::Empty);
        }
        if ids.len() > tokens_max as usize {
            return Err(SubmitError::TooLong {
                tokens: ids.len() as u64,
                tokens_max,
            });
        }
        let unknown = ids.iter().find(|id| !self.vocabulary().contains(**id));
        unknown.map_or(Ok(()), |id| Err(SubmitError::UnknownToken(*id)))
    }

    fn take_on(&self, mut work: Work, task: Task) -> Result<Ticket, SubmitError> {
        let shared = &self.inner.shared;
        let mut state = shared.lock();
        if state.stopped {
            return Err(SubmitError::Stopped);
        }
        let id = state.next_id();
        work.id = id;
        let waiting = match state.scheduler.enqueue(work) {
            Ok(waiting) => waiting,
            Err(Full { before }) => {
                let retry_after_ms = state.retry_after_ms(before);
                return Err(SubmitError::Busy { retry_after_ms });
            }
        };
        task.say(Event::Started { waiting });
        state.arrived.push((id, task));
        drop(state);
        shared.wake();
        Ok(Ticket::new(shared.clone(), id))
    }
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Answers that it computes at the same time at most.
    pub slots: u32,
    /// Answers that it computes now.
    pub busy: u32,
    /// Answers that wait.
    pub waiting: u32,
}
