//! The bodies of requests at the APIs of OpenAI and Anthropic.
//!
//! Whatever a program sends is read or refused with a sentence, and what is read is within the bounds that all that
//! follows relies on.

use hearth_protocol::answer::request::{GRAMMAR_BYTES_MAX, OUTPUT_TOKENS_MAX};
use hearth_surface::answers::{Input, Question};
use hearth_surface::bodies::{Body, MESSAGES_MAX, read};

/// `/v1/chat/completions`.
pub fn chat(input: &[u8]) -> bool {
    body("/v1/chat/completions", input)
}

/// `/v1/responses`.
pub fn responses(input: &[u8]) -> bool {
    body("/v1/responses", input)
}

/// `/v1/messages`.
pub fn messages(input: &[u8]) -> bool {
    body("/v1/messages", input)
}

/// `/v1/completions`.
pub fn completions(input: &[u8]) -> bool {
    body("/v1/completions", input)
}

/// `/v1/embeddings`.
pub fn embeddings(input: &[u8]) -> bool {
    body("/v1/embeddings", input)
}

fn body(path: &str, input: &[u8]) -> bool {
    match read(path, input) {
        Ok(Body::Questions(questions)) => {
            assert!(!questions.is_empty());
            questions.iter().for_each(is_bounded);
            true
        }
        Ok(Body::Texts(texts)) => {
            assert!(!texts.is_empty() && !texts.iter().any(is_empty));
            true
        }
        Err(why) => {
            assert!(!why.trim().is_empty(), "a refusal says why");
            false
        }
    }
}

fn is_empty(input: &Input) -> bool {
    match input {
        Input::Text { text, .. } => text.is_empty(),
        Input::Ids(ids) => ids.is_empty(),
        Input::Chat { messages, .. } => messages.is_empty() || messages.len() > MESSAGES_MAX,
    }
}

fn is_bounded(question: &Question) {
    assert!(!is_empty(&question.input));
    assert!(question.sampling.is_sound(), "{:?}", question.sampling);
    let output = question.output_tokens_max;
    assert!(output.is_none_or(|most| (1..=OUTPUT_TOKENS_MAX).contains(&most)));
    let grammar = question.grammar.as_ref();
    assert!(grammar.is_none_or(|grammar| grammar.text().len() <= GRAMMAR_BYTES_MAX));
    assert!(question.stops.iter().all(|stop| !stop.is_empty()));
}
