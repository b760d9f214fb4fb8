//! Questions as a household asks them, and answers as they come back.
//!
//! The surfaces (`http`), the terminal and later the agent ask through [`Answerer`]; behind it stand
//! this device's own models and the providers of the network. Text is here; token ids, payments
//! and providers are not: whoever asks sees one answer, wherever it comes from.

mod keeping;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use hearth_api::money::Money;
use hearth_protocol::answer::request::RequestField;
use hearth_protocol::answer::{AnswerId, Grammar, Sampling, SignedReceipt, StopReason};
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::spending::day;
use hearth_protocol::time::Timestamp;
use serde_json::Value;
use thiserror::Error;

pub use keeping::{Keeping, Kept, NotKept};

/// How far a prompt may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Tier {
    /// It stays on this device.
    Device,
    /// To devices of the same household.
    Household,
    /// To any provider.
    #[default]
    Network,
}

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// Instructions.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who said it.
    pub speaker: Speaker,
    /// What was said.
    pub text: String,
    /// The calls that the model asked for with it.
    pub calls: Vec<ToolCall>,
    /// Of a tool's message: the call that it answers.
    pub call_id: Option<String>,
    /// The name of the one who said it, or of the tool.
    pub name: Option<String>,
}

impl Message {
    /// Words, and nothing else.
    pub fn said(speaker: Speaker, text: String) -> Self {
        Self {
            speaker,
            text,
            calls: Vec::new(),
            call_id: None,
            name: None,
        }
    }
}

/// A call that the model asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Its name among the calls of a conversation.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Its arguments, a JSON object.
    pub arguments: Value,
}

/// A tool that the model may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A conversation, for the model's chat template.
    Chat {
        /// The messages, the oldest first.
        messages: Vec<Message>,
        /// The tools that the model is told of.
        tools: Vec<Tool>,
    },
    /// Text that is continued as it is.
    Text {
        /// The text.
        text: String,
        /// Whether the names of control tokens in the text become those tokens: only where its
        /// owner says so.
        special: bool,
    },
    /// Token ids of the model.
    Ids(Vec<u32>),
}

impl Input {
    /// Text in which nothing is a control token.
    pub fn text(text: String) -> Self {
        Self::Text {
            text,
            special: false,
        }
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The model's name, as the one who asks writes it.
    pub model: String,
    /// What is asked.
    pub input: Input,
    /// How tokens are chosen. Its grammar is filled in from `grammar`.
    pub sampling: Sampling,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
    /// The most tokens that are wanted; what the model's context leaves if nothing is said.
    pub output_tokens_max: Option<u32>,
    /// Texts at which the answer ends; they are not part of it.
    pub stops: Vec<String>,
    /// The same seed and question give the same answer on the same provider.
    pub seed: Option<u64>,
    /// How many alternatives to tell the log-probabilities of.
    pub logprobs: Option<u8>,
    /// How far the prompt may travel.
    pub tier: Tier,
    /// The most that the answer may cost, one entry an asset; zero where nothing may be spent. An
    /// asset that is not named is bounded by the household's own limits only.
    pub ceilings: Vec<(AssetId, Amount)>,
    /// Who asks: the name of an API key, by which budgets are kept.
    pub asked_by: String,
    /// Where what is promised for the answer is counted.
    pub promised: Promises,
}

/// What was promised for an answer: whoever holds a promise can claim it, whatever it states. Clones share it: the one
/// who answers counts, the one who keeps budgets reads, whatever became of the answer.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    counted: Arc<Mutex<Counted>>,
    /// What must be on disk first, and the number of the reservation there.
    reserved: Option<(Keeping, u64)>,
}

#[derive(Debug, Default)]
struct Counted {
    sums: BTreeMap<AssetId, Amount>,
    closed: bool,
}

impl Promises {
    /// Those that count on the reservation of this number, once it is on disk.
    pub fn on(keeping: Keeping, number: u64) -> Self {
        Self {
            counted: Arc::default(),
            reserved: Some((keeping, number)),
        }
    }

    /// Waits until a crash would count what may be promised at `now`. Nothing may be promised before.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn kept(&self, now: Timestamp) -> Result<(), NotKept> {
        match &self.reserved {
            Some((keeping, number)) => keeping.wait(*number, day(now)).await,
            None => Ok(()),
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // A map of sums is whole after any panic.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a promise. Returns whether it may leave: it may not once the sums were read for the last time.
    #[must_use]
    pub fn add(&self, asset: AssetId, amount: Amount) -> bool {
        let mut counted = self.counted();
        if counted.closed {
            return false;
        }
        let sum = counted.sums.entry(asset).or_default();
        *sum = sum.saturating_add(amount);
        true
    }

    /// The sums, for the last time: nothing more may be promised.
    pub fn close(&self) -> BTreeMap<AssetId, Amount> {
        let mut counted = self.counted();
        counted.closed = true;
        counted.sums.clone()
    }
}

impl PartialEq for Promises {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counted, &other.counted)
    }
}

impl Eq for Promises {}

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This device's own model.
    Device,
    /// Another device; its id, and whether it belongs to this household.
    Peer {
        /// The device.
        device: String,
        /// Whether it belongs to this household.
        household: bool,
    },
}

/// The log-probability of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    /// The token's bytes; they need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm.
    pub logprob: f32,
    /// The likeliest alternatives with theirs.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// What an answer did cost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of those, how many were still known from an earlier question.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// What was charged, one entry an asset; empty if nothing was.
    pub charged: Vec<Money>,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Someone has taken the question and works on it. Comes again when another provider goes on.
    Source(Source),
    /// The prompt is read; comes at most once, before the first text.
    Read {
        /// How many of its tokens were still known from an earlier question.
        cached_tokens: u32,
    },
    /// The next piece of text: whole characters.
    Text {
        /// The text; may be empty where tokens made no whole character yet.
        text: String,
        /// How many tokens of the answer came with it.
        tokens: u32,
        /// Of the tokens that the text is made of, if they were asked for.
        logprobs: Vec<Logprob>,
    },
    /// It has ended. Nothing follows.
    Ended {
        /// Why.
        stop: Ending,
        /// What it did cost.
        usage: Usage,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As the provider signed it.
    Model(StopReason),
    /// One of the question's stop texts came.
    Stop(String),
    /// Nobody was left to go on; what came before it stands.
    Broken(AskError),
}

/// An answer on its way.
pub struct Answer {
    /// Its name; receipts are kept under it.
    pub id: AnswerId,
    /// The model's name, as the network knows it.
    pub model: String,
    /// Tokens of the prompt, as it was rendered.
    pub prompt_tokens: u32,
    /// Its parts, in order. Dropping the stream cancels the answer.
    pub parts: BoxStream<'static, Part>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("id", &self.id)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// Its name.
    pub name: String,
    /// The hash of its weights.
    pub weights: String,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Whether this device serves it.
    pub here: bool,
    /// Who serves it beside this device.
    pub providers: u32,
    /// When it was first seen, in seconds since 1970.
    pub created_s: u64,
}

/// The embeddings of some inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedded {
    /// One for each input, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all inputs together.
    pub tokens: u32,
}

/// The part of a question that is at fault, whatever an API calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The model's name.
    Model,
    /// What is asked: messages, text or ids.
    Prompt,
    /// What the answer must look like.
    Grammar,
    /// How tokens are chosen.
    Sampling,
    /// The most tokens that are wanted.
    OutputTokens,
    /// How many alternatives are told.
    Logprobs,
}

impl From<RequestField> for Field {
    fn from(field: RequestField) -> Self {
        match field {
            RequestField::Prompt => Self::Prompt,
            RequestField::Grammar => Self::Grammar,
            RequestField::Sampling => Self::Sampling,
            RequestField::OutputTokens => Self::OutputTokens,
            RequestField::Logprobs => Self::Logprobs,
        }
    }
}

/// Why a question is not answered. Exhaustive, so that each surface decides on each cause
/// (`docs/adr/0020-causes.md`).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AskError {
    /// No such model.
    #[error("no model {0:?} is served here or offered by a peer")]
    NoModel(String),
    /// The model is known, but nobody within the tier serves it.
    #[error("nobody within the tier {tier} serves {model:?}")]
    BeyondTier {
        /// The model.
        model: String,
        /// The tier.
        tier: String,
    },
    /// Embeddings are computed by this device's own models only.
    #[error("embeddings are computed on this device only, and it does not run {0:?}")]
    NotHere(String),
    /// The question makes no sense: asking again would change nothing.
    #[error("{reason}")]
    Senseless {
        /// The part that is at fault.
        field: Field,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is longer than any that is turned into tokens.
    #[error("the prompt has more than {bytes_max} bytes")]
    TextTooLong {
        /// How many it may have.
        bytes_max: usize,
    },
    /// It does not fit.
    #[error("the prompt has {prompt_tokens} tokens, and the model's context has {context_tokens}")]
    TooLong {
        /// Of the prompt.
        prompt_tokens: u32,
        /// Of the context.
        context_tokens: u32,
    },
    /// A budget would be exceeded.
    #[error("{0}")]
    Budget(String),
    /// Everybody is busy. May be asked again.
    #[error("everybody who serves the model is busy")]
    Busy {
        /// When to ask again, in seconds.
        retry_after_s: u32,
    },
    /// Nobody could be reached, or everybody failed.
    #[error("no provider could answer: {0}")]
    NoProvider(String),
    /// Something broke here.
    #[error("something broke: {0}")]
    Failed(String),
}

/// Why a JSON Schema was not found sound. Exhaustive, so that the surface decides on each case.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchemaFault {
    /// No answer can follow it, whichever model gives it; says why.
    #[error("{0}")]
    Refused(String),
    /// It could not be looked at now. Whoever answers will.
    #[error("the schema could not be checked in time")]
    Unchecked,
}

/// Answers questions.
pub trait Answerer: Send + Sync + 'static {
    /// The models that can be asked now, by name.
    fn models(&self) -> BTreeMap<String, ModelCard>;

    /// Answers a question. An error comes before the first part; later it is the last part.
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, AskError>>;

    /// How many tokens the prompt of a question has.
    fn count_tokens(&self, model: String, input: Input) -> BoxFuture<'_, Result<u32, AskError>>;

    /// Checks in this time whether answers can follow a JSON Schema, whichever model gives them.
    fn check_schema(
        &self,
        schema: String,
        within: Duration,
    ) -> BoxFuture<'_, Result<(), SchemaFault>>;

    /// The embeddings of some texts or token ids.
    fn embed(&self, model: String, inputs: Vec<Input>)
    -> BoxFuture<'_, Result<Embedded, AskError>>;

    /// The receipts of an answer, one for each provider that took part in it, in order; none
    /// where the answer is unknown or came from this device.
    fn receipts(&self, answer: AnswerId) -> BoxFuture<'_, Result<Vec<SignedReceipt>, AskError>>;
}
