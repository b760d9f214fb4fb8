//! What is asked of a model, as its ids.
//!
//! Payers turn prompts into ids themselves, so that both sides sign the same. For that the head of
//! the model's file is enough: its vocabulary and its template. Everything here is synchronous, in
//! memory, and serializable, so that it can also run in a process of its own.
//!
//! What is not here: where the file comes from, and who asks.

use hearth_calls::Tool;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::template::{ChatTemplate, Conversation, Message, TemplateError};
use crate::vocabulary::{EncodeError, Encoder, Vocabulary};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptInput {
    /// Ids of the model.
    Ids(Vec<u32>),
    /// Text that is continued as it is.
    Text {
        /// The text.
        text: String,
        /// Whether the names of control tokens in the text become those tokens.
        special: bool,
    },
    /// A conversation, for the model's chat template.
    Chat {
        /// The messages, the oldest first.
        messages: Vec<Message>,
        /// What the assistant may call.
        tools: Vec<Tool>,
        /// Whether the last message, the assistant's own, is continued instead of closed.
        continue_last: bool,
    },
}

/// Why a prompt has no ids. Exhaustive, so that what passes it on decides on each cause.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum PromptError {
    /// The template does not take the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text cannot be turned into ids.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An id is none of the model's.
    #[error("the token {0} is not in the model's vocabulary")]
    UnknownToken(u32),
}

/// Reads prompts for one model.
#[derive(Debug, Clone)]
pub struct PromptReader {
    encoder: Encoder,
    template: Option<ChatTemplate>,
}

impl PromptReader {
    /// A reader with an encoder, and the template of the same file if it has one.
    ///
    /// # Errors
    /// When there is a template that cannot be read.
    pub fn new(encoder: Encoder) -> Result<Self, PromptError> {
        let template = match ChatTemplate::of(&encoder) {
            Ok(template) => Some(template),
            Err(TemplateError::Missing) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { encoder, template })
    }

    /// Ids and bytes.
    pub fn vocabulary(&self) -> &Vocabulary {
        self.encoder.vocabulary()
    }

    /// The ids of a prompt; `now_s` is for templates that tell the date, in seconds since 1970, UTC.
    ///
    /// # Errors
    /// When the model takes no such prompt.
    pub fn ids(&self, input: &PromptInput, now_s: u64) -> Result<Vec<u32>, PromptError> {
        match input {
            PromptInput::Ids(ids) => {
                let unknown = ids.iter().find(|id| !self.vocabulary().contains(**id));
                unknown.map_or(Ok(ids.clone()), |id| Err(PromptError::UnknownToken(*id)))
            }
            PromptInput::Text { text, special } => Ok(self.encoder.encode(text, *special)?),
            PromptInput::Chat {
                messages,
                tools,
                continue_last,
            } => {
                let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
                let parts = template.parts(&Conversation {
                    messages,
                    tools,
                    add_generation_prompt: !continue_last,
                    continue_last: *continue_last,
                    now_s,
                })?;
                Ok(self.encoder.encode_parts(&parts)?)
            }
        }
    }
}

#[cfg(test)]
mod tests;
