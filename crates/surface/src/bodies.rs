//! What the body of a request asks, read as the routes read it: for those who try bodies without a node.

use super::failure::Failure;
use super::{chat, completions, embeddings, messages, request, responses};
use crate::answers::{Input, Question};

/// The most messages of a conversation.
pub const MESSAGES_MAX: usize = super::answering::MESSAGES_MAX;

/// What a body asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Questions for a model, each with an answer of its own.
    Questions(Vec<Question>),
    /// Texts to be embedded.
    Texts(Vec<Input>),
}

/// What the JSON of a request at `path` asks, or the sentence with which it is refused.
///
/// # Errors
/// With what is wrong, as the program that asked is told it.
pub fn read(path: &str, json: &[u8]) -> Result<Body, String> {
    let read = match path {
        "/v1/chat/completions" => request::parse(json).and_then(chat::question).map(one),
        "/v1/responses" => request::parse(json).and_then(responses::question).map(one),
        "/v1/messages" => request::parse(json).and_then(messages::question).map(one),
        "/v1/completions" => completions::read_body(json).map(Body::Questions),
        "/v1/embeddings" => embeddings::read(json).map(Body::Texts),
        _ => return Err(format!("there is nothing at {path}")),
    };
    read.map_err(|failure: Failure| failure.message)
}

fn one(asked: super::answering::Asked) -> Body {
    Body::Questions(vec![asked.question])
}
