//! Frames between a node and its readers, and what is in them.
//!
//! A frame is its length in four bytes, the lowest first, and so many bytes of postcard. A reader
//! writes [`PREAMBLE`] before its first frame, because a test program that serves as a reader says
//! other things before.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::grammar::{GrammarError, GrammarSource};
use crate::packed::Packed;
use crate::prompt::PromptError;
use crate::vocabulary::VocabularyParts;

/// What a reader says first.
pub(crate) const PREAMBLE: &[u8] = b"\nhearth reader 1\n";
/// Where that ends at the latest, in bytes.
pub(super) const PREAMBLE_END_MAX: usize = 4_096;
/// The longest request, in bytes: the largest vocabulary.
pub(crate) const REQUEST_BYTES_MAX: usize = 96 << 20;
/// The longest reply with a vocabulary, in bytes.
pub(crate) const VOCABULARY_BYTES_MAX: usize = 96 << 20;
/// The longest reply with ids, in bytes: an id of five bytes for each byte of the longest text.
pub(super) const IDS_BYTES_MAX: usize = 5 * crate::vocabulary::TEXT_BYTES_MAX + 4_096;
/// The longest reply with the tokens that may come next, in bytes: a bit for each, and an error.
pub(super) const MASK_BYTES_MAX: usize = (crate::gguf::VOCABULARY_MAX as usize) / 8 + 8_192;

/// The longest reply to a trial, in bytes.
pub(super) const TRIAL_BYTES_MAX: usize = 4_096;

/// What a reader is asked. The first request is `Open`, `Words` or `Try`, and is sent once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// Read the head of this file, and prompts for it from now on.
    Open {
        /// Where it is, as the system has it.
        path: Packed,
        /// Whether the vocabulary is told.
        told: bool,
    },
    /// Turn this into ids. In JSON, which the input of tools can be written in as it came.
    Prompt {
        /// A [`crate::prompt::PromptInput`].
        input: Packed,
        /// The time that a template may tell.
        now_s: u64,
    },
    /// Follow grammars over these words from now on.
    Words(Cow<'a, VocabularyParts>),
    /// Follow this grammar instead of the last one.
    Compile {
        /// The grammar.
        source: GrammarSource,
        /// What was already answered.
        answered: Vec<u32>,
    },
    /// Go on by one token.
    Accept(u32),
    /// Run the model in this file for a few tokens. Nothing is asked after it.
    Try {
        /// Where it is, as the system has it.
        path: Packed,
    },
}

/// What it replies, in the order of the requests.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// To `Open`: the vocabulary if it is told, or why the file is not a model.
    Opened(Result<Option<VocabularyParts>, String>),
    /// To `Prompt`.
    Ids(Result<Vec<u32>, PromptError>),
    /// To `Words`: whether grammars can be followed over them.
    Ready(Result<(), GrammarError>),
    /// To `Compile` and `Accept`.
    Step(Result<Step, GrammarError>),
    /// To `Try`: whether the model runs, or why it does not.
    Tried(Result<(), String>),
}

/// How far a grammar has come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// The tokens that may come next: bit `v % 32` of word `v / 32`, each word in four bytes, the
    /// lowest first.
    Mask(Packed),
    /// Nothing may follow.
    Stopped,
}

/// What a reader says, which may have been taken over; nothing where that makes no sense.
pub(super) fn reply(bytes: &[u8]) -> Option<Reply> {
    let (reply, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(reply)
}

/// A frame with this in it; nothing when it would be longer than `bytes_max`.
pub(crate) fn frame(message: &impl Serialize, bytes_max: usize) -> Option<Vec<u8>> {
    let frame = postcard::to_extend(message, vec![0; 4]).ok()?;
    let length = frame.len() - 4;
    if length > bytes_max {
        return None;
    }
    let mut frame = frame;
    frame[..4].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    Some(frame)
}
