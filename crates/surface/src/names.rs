//! What each API calls the parts of a question, so that an error names the field that its program wrote.

use serde_json::Value;

use crate::answers::Field;

/// What an API calls the parts of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    /// What is asked.
    pub(super) prompt: &'static str,
    /// What the answer's text must look like.
    pub(super) form: &'static str,
    /// The most tokens.
    pub(super) output_tokens: &'static str,
    /// How many alternatives are told.
    pub(super) logprobs: &'static str,
}

impl Names {
    pub(super) const CHAT: Self = Self {
        prompt: "messages",
        form: "response_format",
        output_tokens: "max_completion_tokens",
        logprobs: "top_logprobs",
    };
    pub(super) const RESPONSES: Self = Self {
        prompt: "input",
        form: "text.format",
        output_tokens: "max_output_tokens",
        logprobs: "top_logprobs",
    };
    pub(super) const COMPLETIONS: Self = Self {
        prompt: "prompt",
        form: "prompt",
        output_tokens: "max_tokens",
        logprobs: "logprobs",
    };
    pub(super) const EMBEDDINGS: Self = Self {
        prompt: "input",
        form: "input",
        output_tokens: "input",
        logprobs: "input",
    };
    pub(super) const MESSAGES: Self = Self {
        prompt: "messages",
        form: "output_config.format",
        output_tokens: "max_tokens",
        logprobs: "messages",
    };

    /// The name of a part.
    pub(super) fn of(&self, field: Field) -> &'static str {
        match field {
            Field::Model => "model",
            Field::Prompt => self.prompt,
            Field::Grammar => self.form,
            // The figures were checked one by one as they came: what remains concerns the ids of biases.
            Field::Sampling => "logit_bias",
            Field::OutputTokens => self.output_tokens,
            Field::Logprobs => self.logprobs,
        }
    }
}

/// A schema that an answer must follow, and the field that it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schema {
    pub(super) param: String,
    pub(super) schema: Value,
}

/// The field in which all of these schemas stand: that of one alone, or that of the tools. Nothing where there is
/// none, or where that of the text is among several.
pub(super) fn of_all(schemas: &[Schema]) -> Option<&str> {
    let list = |schema: &'_ Schema| schema.param.find(['[', '.']);
    match schemas {
        [only] => Some(&only.param),
        [first, .., last] if first.param.get(..list(first)?) == last.param.get(..list(last)?) => {
            first.param.get(..list(first)?)
        }
        _ => None,
    }
}
