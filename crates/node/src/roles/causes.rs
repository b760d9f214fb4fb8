//! A cause on its way: from whoever found it to whoever asked, without a change of its kind.
//!
//! What went wrong is found by an engine, a tokenizer, a template, a grammar or another device, and
//! told by one of the APIs. In between it keeps three things: whether the question is at fault, which part of
//! it, and when it is worth to ask again. No match here has a wildcard, so that a new cause does not
//! compile before somebody has decided what it means (`docs/adr/0020-causes.md`).

use hearth_models::engine::{EmbedError, Figure, SubmitError};
use hearth_models::grammar::GrammarError;
use hearth_models::prompt::PromptError;
use hearth_models::reader::ReadError as PromptReadError;
use hearth_models::template::{PROMPT_BYTES_MAX, TemplateError};
use hearth_models::vocabulary::{EncodeError, TEXT_BYTES_MAX, UnknownBias};
use hearth_protocol::answer::Refusal;
use hearth_protocol::answer::frame::RefusalCode;
use hearth_protocol::answer::payer::Departure;
use hearth_protocol::answer::request::{PROMPT_TOKENS_MAX, RequestError, RequestField};
use hearth_surface::answers::{AskError, Field};

use super::payer::ReadError;

/// What is told where nobody says when to come again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// What a cause means to a payer that could also ask somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The question is at fault: everybody else would find the same.
    Faulty,
    /// Somebody else may have room, a longer context, or simply work.
    Elsewhere,
}

fn senseless(field: Field, reason: &impl ToString) -> AskError {
    AskError::Senseless {
        field,
        reason: reason.to_string(),
    }
}

fn busy(retry_after_ms: u64) -> AskError {
    let seconds = retry_after_ms.div_ceil(1_000).max(1);
    AskError::Busy {
        retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX),
    }
}

fn figure(figure: Figure) -> RequestField {
    match figure {
        Figure::Rule => RequestField::Sampling,
        Figure::OutputTokens => RequestField::OutputTokens,
        Figure::Logprobs => RequestField::Logprobs,
        Figure::Position => RequestField::Prompt,
    }
}

/// Why this device's engine does not take a question, as it is told to the household.
pub(crate) fn of_submit(error: &SubmitError) -> (AskError, Verdict) {
    match error {
        SubmitError::Busy { retry_after_ms } => (busy(*retry_after_ms), Verdict::Elsewhere),
        SubmitError::TooLong { tokens, tokens_max } => {
            let error = AskError::TooLong {
                prompt_tokens: u32::try_from(*tokens).unwrap_or(u32::MAX),
                // One token is left for the answer.
                context_tokens: tokens_max.saturating_add(1),
            };
            (error, Verdict::Elsewhere)
        }
        SubmitError::Empty | SubmitError::UnknownToken(_) => {
            (senseless(Field::Prompt, error), Verdict::Faulty)
        }
        SubmitError::Figure(which) => (senseless(figure(*which).into(), error), Verdict::Faulty),
        SubmitError::Bias(bias) => (of_bias(bias), Verdict::Faulty),
        SubmitError::Grammar(grammar) => of_grammar(grammar),
        SubmitError::Stopped => {
            let error = AskError::NoProvider(error.to_string());
            (error, Verdict::Elsewhere)
        }
    }
}

/// A bias is for a token that the model does not have.
pub(crate) fn of_bias(error: &UnknownBias) -> AskError {
    senseless(Field::Sampling, error)
}

/// Why a grammar is not followed.
pub(crate) fn of_grammar(error: &GrammarError) -> (AskError, Verdict) {
    match error {
        GrammarError::TooLong
        | GrammarError::TooDeep
        | GrammarError::Refused(_)
        | GrammarError::TooSlow
        | GrammarError::TooMuch => (senseless(Field::Grammar, error), Verdict::Faulty),
        // The fault of whoever answered before, or of this device.
        GrammarError::Answered | GrammarError::Unavailable => {
            (AskError::NoProvider(error.to_string()), Verdict::Elsewhere)
        }
    }
}

/// The same, as it is told to another device.
pub(crate) fn to_refusal(error: &SubmitError) -> Refusal {
    let (code, field, retry_after_ms) = match error {
        SubmitError::Busy { retry_after_ms } => (RefusalCode::Busy, None, Some(*retry_after_ms)),
        SubmitError::TooLong { .. } => (RefusalCode::TooLong, Some(RequestField::Prompt), None),
        SubmitError::Empty | SubmitError::UnknownToken(_) => {
            (RefusalCode::BadRequest, Some(RequestField::Prompt), None)
        }
        SubmitError::Figure(which) => (RefusalCode::BadRequest, Some(figure(*which)), None),
        SubmitError::Bias(_) => (RefusalCode::BadRequest, Some(RequestField::Sampling), None),
        SubmitError::Grammar(grammar) => match grammar {
            GrammarError::TooLong
            | GrammarError::TooDeep
            | GrammarError::Refused(_)
            | GrammarError::TooSlow
            | GrammarError::TooMuch
            | GrammarError::Answered => {
                (RefusalCode::BadGrammar, Some(RequestField::Grammar), None)
            }
            GrammarError::Unavailable => (RefusalCode::Failed, None, Some(RETRY_MS)),
        },
        SubmitError::Stopped => (RefusalCode::Failed, None, None),
    };
    let message = match error {
        SubmitError::Grammar(grammar) => grammar.to_string(),
        other => other.to_string(),
    };
    Refusal::new(code, field, retry_after_ms, &message)
}

/// Why a question is not even sent.
pub(crate) fn of_request(error: RequestError, prompt_tokens: u32) -> AskError {
    match error {
        RequestError::PromptTooLong => AskError::TooLong {
            prompt_tokens,
            context_tokens: u32::try_from(PROMPT_TOKENS_MAX)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        },
        RequestError::Empty
        | RequestError::OutputLength
        | RequestError::Answered
        | RequestError::Sampling
        | RequestError::Grammar
        | RequestError::Logprobs => senseless(error.field().into(), &error),
    }
}

/// Why a prompt has no ids.
pub(crate) fn of_read(error: &ReadError) -> AskError {
    match error {
        ReadError::Missing | ReadError::File(_) => AskError::NoProvider(error.to_string()),
        ReadError::Prompt(prompt) => match prompt {
            PromptReadError::Prompt(prompt) => of_prompt(prompt),
            PromptReadError::TooSlow | PromptReadError::TooMuch => senseless(Field::Prompt, error),
            PromptReadError::Busy => busy(RETRY_MS),
            PromptReadError::Unavailable(_) => AskError::Failed(error.to_string()),
        },
    }
}

/// Why a model does not take a prompt.
fn of_prompt(error: &PromptError) -> AskError {
    match error {
        PromptError::UnknownToken(_) => senseless(Field::Prompt, error),
        PromptError::Encode(encode) => match encode {
            EncodeError::TooLong => AskError::TextTooLong {
                bytes_max: TEXT_BYTES_MAX,
            },
            EncodeError::NoWords => senseless(Field::Model, error),
            EncodeError::Unavailable => AskError::Failed(error.to_string()),
        },
        PromptError::Template(template) => match template {
            TemplateError::PromptTooLong => AskError::TextTooLong {
                bytes_max: PROMPT_BYTES_MAX,
            },
            // The model itself is at fault: another one answers.
            TemplateError::Missing | TemplateError::TooLong | TemplateError::Unreadable(_) => {
                senseless(Field::Model, error)
            }
            TemplateError::Refused(_)
            | TemplateError::NotContinued
            | TemplateError::OutOfFuel
            | TemplateError::Failed(_) => senseless(Field::Prompt, error),
        },
    }
}

/// Why a text has no embedding.
pub(crate) fn of_embed(error: &EmbedError) -> AskError {
    match error {
        EmbedError::Empty | EmbedError::UnknownToken(_) => senseless(Field::Prompt, error),
        EmbedError::TooLong { tokens, tokens_max } => AskError::TooLong {
            prompt_tokens: u32::try_from(*tokens).unwrap_or(u32::MAX),
            context_tokens: *tokens_max,
        },
        EmbedError::Busy { retry_after_ms } => busy(*retry_after_ms),
        EmbedError::Failed(why) => AskError::Failed(why.clone()),
        EmbedError::Stopped => AskError::NoProvider(error.to_string()),
    }
}

/// What a refusal of another device comes to, once nobody else is left.
///
/// Everything that can be at fault with a question was checked by this device before it was sent: a provider that
/// finds a fault nevertheless is not believed, and the question may be asked again.
pub(crate) fn of_refusal(refusal: &Refusal) -> AskError {
    let message = refusal.message.clone();
    match refusal.code {
        RefusalCode::Busy => busy(refusal.retry_after_ms.unwrap_or(RETRY_MS)),
        RefusalCode::BadRequest | RefusalCode::BadGrammar | RefusalCode::TooLong => {
            AskError::NoProvider(format!(
                "a provider does not take a question that is sound: {message}"
            ))
        }
        RefusalCode::ModelNotServed
        | RefusalCode::SpecDiffers
        | RefusalCode::NotNow
        | RefusalCode::PaymentRefused
        | RefusalCode::Failed => AskError::NoProvider(message),
    }
}

/// What is told where a provider was left and nobody else goes on.
pub(crate) fn of_departure(why: &Departure) -> AskError {
    match why {
        Departure::NotPaid(why) => AskError::Budget(why.clone()),
        Departure::Refused(refusal) => of_refusal(refusal),
        Departure::Distrusted(distrust) => AskError::NoProvider(distrust.to_string()),
        Departure::Faulty(why) => senseless(Field::Prompt, why),
        Departure::Lost | Departure::Done | Departure::Cancelled => AskError::NoProvider(
            "the last provider fell silent or broke off, and nobody else serves the model"
                .to_owned(),
        ),
    }
}

/// The cause that is told of two: one that whoever asks can act on before one that it cannot.
pub(crate) fn worthier(known: Option<AskError>, new: AskError) -> AskError {
    let Some(known) = known else { return new };
    if let (AskError::Busy { retry_after_s: a }, AskError::Busy { retry_after_s: b }) =
        (&known, &new)
    {
        return AskError::Busy {
            retry_after_s: *a.min(b),
        };
    }
    if rank(&known) > rank(&new) {
        known
    } else {
        new
    }
}

fn rank(error: &AskError) -> u8 {
    match error {
        AskError::Senseless { .. }
        | AskError::TextTooLong { .. }
        | AskError::NoModel(_)
        | AskError::BeyondTier { .. }
        | AskError::NotHere(_) => 4,
        // It is worth to wait for whoever is busy, whatever kept the others from answering.
        AskError::Busy { .. } => 3,
        AskError::TooLong { .. } | AskError::Budget(_) => 2,
        AskError::NoProvider(_) | AskError::Failed(_) => 1,
    }
}

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
