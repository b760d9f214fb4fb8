//! Reading prompts: what turns a conversation into a model's ids and ids into text.
//!
//! Whoever asks renders the prompt itself, so that the ids are what both sides sign. For that the
//! head of the model's file is enough: vocabulary and template.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_models::engine::Engine;
use hearth_models::template::{ChatTemplate, Conversation, Message, TemplateError};
use hearth_models::tools::{Tool, ToolCall};
use hearth_models::vocabulary::{EncodeError, Vocabulary};
use hearth_protocol::content::ContentHash;
use hearth_protocol::time::Timestamp;
use thiserror::Error;

use crate::answers::{Input, Speaker};

/// Models whose readers are kept.
const READERS_MAX: usize = 16;

/// Why a prompt cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing of the model is here.
    #[error("the model's tokenizer is not here; get the model with `hearth models get`")]
    Missing,
    /// The file cannot be used.
    #[error("the model's file cannot be used: {0}")]
    File(String),
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
#[derive(Debug)]
pub struct Reader {
    /// Ids and bytes.
    pub vocabulary: Vocabulary,
    template: Option<ChatTemplate>,
}

/// A model's file that is on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// What people call it.
    pub name: String,
    /// The hash of the weights' file.
    pub weights: ContentHash,
    /// Where it, or its head, is.
    pub path: PathBuf,
}

/// The readers of the models that were used lately.
#[derive(Debug, Default)]
pub struct Readers {
    files: Mutex<Vec<ModelFile>>,
    ready: Mutex<BTreeMap<ContentHash, Arc<Reader>>>,
}

impl Readers {
    /// Readers for these files.
    pub fn new(files: Vec<ModelFile>) -> Self {
        Self {
            files: Mutex::new(files),
            ready: Mutex::default(),
        }
    }

    /// Adds a file, or the head of one.
    pub fn add(&self, file: ModelFile) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|known| known.weights != file.weights);
        files.push(file);
    }

    /// The name and the weights of the file that is called `name`.
    pub fn weights_of(&self, name: &str) -> Option<(String, ContentHash)> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.iter().find(|file| {
            file.name.eq_ignore_ascii_case(name) || file.weights.to_string() == name
        })?;
        Some((found.name.clone(), found.weights))
    }

    /// The reader of a model that an engine runs here.
    ///
    /// # Errors
    /// When its template cannot be read.
    pub fn of_engine(
        &self,
        weights: ContentHash,
        engine: &Engine,
    ) -> Result<Arc<Reader>, ReadError> {
        if let Some(reader) = self.known(&weights) {
            return Ok(reader);
        }
        Ok(self.keep(weights, Reader::new(engine.vocabulary().clone())?))
    }

    /// The reader of a model of which the file or its head is here.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub async fn of_weights(&self, weights: ContentHash) -> Result<Arc<Reader>, ReadError> {
        if let Some(reader) = self.known(&weights) {
            return Ok(reader);
        }
        let path = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let file = files.iter().find(|file| file.weights == weights);
            file.map(|file| file.path.clone())
                .ok_or(ReadError::Missing)?
        };
        let loaded = tokio::task::spawn_blocking(move || Vocabulary::load(&path)).await;
        let vocabulary = loaded
            .map_err(|error| ReadError::File(error.to_string()))?
            .map_err(|error| ReadError::File(error.to_string()))?;
        Ok(self.keep(weights, Reader::new(vocabulary)?))
    }

    fn known(&self, weights: &ContentHash) -> Option<Arc<Reader>> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.get(weights).cloned()
    }

    fn keep(&self, weights: ContentHash, reader: Reader) -> Arc<Reader> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() >= READERS_MAX {
            ready.pop_first();
        }
        Arc::clone(ready.entry(weights).or_insert_with(|| Arc::new(reader)))
    }
}

impl Reader {
    fn new(vocabulary: Vocabulary) -> Result<Self, ReadError> {
        let template = match ChatTemplate::of(&vocabulary) {
            Ok(template) => Some(template),
            Err(TemplateError::Missing) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            vocabulary,
            template,
        })
    }

    /// The ids of a prompt; `now` is for templates that tell the date.
    ///
    /// # Errors
    /// When the model takes no such prompt.
    pub fn ids(&self, input: &Input, now: Timestamp) -> Result<Vec<u32>, ReadError> {
        match input {
            Input::Ids(ids) => {
                let unknown = ids.iter().find(|id| !self.vocabulary.contains(**id));
                unknown.map_or(Ok(ids.clone()), |id| Err(ReadError::UnknownToken(*id)))
            }
            Input::Text { text, special } => Ok(self.vocabulary.encode(text, *special)?),
            Input::Chat { messages, tools } => {
                let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
                let messages: Vec<_> = messages.iter().map(message).collect();
                let tools: Vec<_> = tools.iter().map(tool).collect();
                let text = template.render(&Conversation {
                    messages: &messages,
                    tools: &tools,
                    add_generation_prompt: true,
                    now_s: now.as_secs(),
                })?;
                Ok(self.vocabulary.encode(&text, true)?)
            }
        }
    }
}

fn message(message: &crate::answers::Message) -> Message {
    Message {
        role: match message.speaker {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
            Speaker::Tool => "tool",
        }
        .to_owned(),
        content: message.text.clone(),
        tool_calls: message
            .calls
            .iter()
            .map(|call| ToolCall {
                id: Some(call.id.clone()),
                name: call.tool.clone(),
                arguments: call.arguments.clone(),
            })
            .collect(),
        name: message.name.clone(),
        tool_call_id: message.call_id.clone(),
    }
}

fn tool(tool: &crate::answers::Tool) -> Tool {
    Tool {
        name: tool.name.clone(),
        description: Some(tool.description.clone()).filter(|text| !text.is_empty()),
        parameters: tool.parameters.clone(),
    }
}
