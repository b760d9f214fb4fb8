//! Reading prompts: what turns a conversation into a model's ids and ids into text.
//!
//! Whoever asks renders the prompt itself, so that the ids are what both sides sign. For that the
//! head of the model's file is enough: vocabulary and template. Both are the work of strangers, so
//! processes of their own read them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hearth_calls::{Tool, ToolCall};
use hearth_causes::WithCauses;
use hearth_models::asker::Asker;
use hearth_models::grammar::GrammarError;
use hearth_models::prompt::PromptInput;
use hearth_models::reader::{self, Launcher, Prompts, SchemaChecker};
use hearth_models::template::Message;
use hearth_models::vocabulary::Vocabulary;
use hearth_protocol::content::ContentHash;
use hearth_protocol::time::Timestamp;
use hearth_surface::answers::{Input, SchemaFault, Speaker};
use thiserror::Error;

/// Models whose readers are kept.
const READERS_MAX: usize = 16;

/// Why a prompt cannot be read. Exhaustive, so that what passes it on decides on each cause.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Nothing of the model is here.
    #[error("the model's tokenizer is not here; get the model with `hearth models get`")]
    Missing,
    /// The file cannot be used.
    #[error("the model's file cannot be used: {0}")]
    File(String),
    /// The prompt has no ids.
    #[error(transparent)]
    Prompt(#[from] reader::ReadError),
}

/// Reads prompts for one model.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) prompts: Prompts,
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
#[derive(Debug)]
pub struct Readers {
    schemas: SchemaChecker,
    launcher: Launcher,
    files: Mutex<Vec<ModelFile>>,
    ready: Mutex<BTreeMap<ContentHash, Reader>>,
}

impl Readers {
    /// Readers for these files, in processes that `launcher` starts.
    pub fn new(files: Vec<ModelFile>, launcher: Launcher) -> Self {
        Self {
            schemas: SchemaChecker::new(&launcher),
            launcher,
            files: Mutex::new(files),
            ready: Mutex::default(),
        }
    }

    /// Checks in this time whether any model can follow a JSON Schema.
    ///
    /// # Errors
    /// When none can.
    pub async fn check_schema(&self, schema: String, within: Duration) -> Result<(), SchemaFault> {
        let checked = self.schemas.check(schema, within).await;
        checked.map_err(|error| match error {
            GrammarError::Unavailable => SchemaFault::Unchecked,
            refused => SchemaFault::Refused(refused.with_causes().to_string()),
        })
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

    /// The reader of a model of which the file or its head is here.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub async fn of_weights(&self, weights: ContentHash) -> Result<Reader, ReadError> {
        if let Some(reader) = self.known(&weights) {
            return Ok(reader);
        }
        let path = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let file = files.iter().find(|file| file.weights == weights);
            file.map(|file| file.path.clone())
                .ok_or(ReadError::Missing)?
        };
        let launcher = self.launcher.clone();
        let loaded = tokio::task::spawn_blocking(move || Prompts::load(&launcher, &path)).await;
        let prompts = loaded
            .map_err(|error| ReadError::File(error.with_causes().to_string()))?
            .map_err(|error| ReadError::File(error.with_causes().to_string()))?;
        Ok(self.keep(weights, Reader { prompts }))
    }

    fn known(&self, weights: &ContentHash) -> Option<Reader> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.get(weights).cloned()
    }

    fn keep(&self, weights: ContentHash, reader: Reader) -> Reader {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() >= READERS_MAX {
            ready.pop_first();
        }
        ready.entry(weights).or_insert(reader).clone()
    }
}

impl Reader {
    /// Ids and bytes.
    pub fn vocabulary(&self) -> &Vocabulary {
        self.prompts.vocabulary()
    }

    /// The ids of a prompt; `now` is for templates that tell the date.
    ///
    /// # Errors
    /// When the model takes no such prompt, or takes too much for it.
    pub async fn ids(
        &self,
        asker: Asker,
        input: Input,
        now: Timestamp,
    ) -> Result<Vec<u32>, ReadError> {
        let input = match input {
            Input::Ids(ids) => PromptInput::Ids(ids),
            Input::Text { text, special } => PromptInput::Text { text, special },
            Input::Chat { messages, tools } => PromptInput::Chat {
                // A turn of the assistant that is not followed by another one is begun, not over.
                continue_last: messages.last().is_some_and(|last| {
                    last.speaker == Speaker::Assistant && last.calls.is_empty()
                }),
                messages: messages.iter().map(message).collect(),
                tools: tools.iter().map(tool).collect(),
            },
        };
        Ok(self.prompts.ids(asker, input, now.as_secs()).await?)
    }
}

fn message(message: &hearth_surface::answers::Message) -> Message {
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

fn tool(tool: &hearth_surface::answers::Tool) -> Tool {
    Tool {
        name: tool.name.clone(),
        description: Some(tool.description.clone()).filter(|text| !text.is_empty()),
        parameters: tool.parameters.clone(),
    }
}
