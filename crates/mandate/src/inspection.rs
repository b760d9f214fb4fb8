//! What may be learned of a variable: a model without tools sees it alone, and its answer is held to a form.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::variable::{NoVariable, VariablesFull};

/// The most answers that a choice has.
pub const CHOICES_MAX: usize = 64;
/// The longest quote, in characters.
pub const QUOTE_CHARS_MAX: usize = 400;

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "form")]
pub enum Form {
    /// Yes or no.
    Flag,
    /// One of these.
    Choice {
        /// What can be chosen.
        of: Vec<String>,
    },
    /// A number.
    Number,
    /// A part of what was read.
    Quote,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InspectError {
    /// There is nothing to read.
    #[error(transparent)]
    NoVariable(#[from] NoVariable),
    /// It has another form.
    #[error("the answer has not the form that was asked for")]
    Form,
    /// There are no choices, or too many.
    #[error("a choice is among 2 to {CHOICES_MAX}")]
    Choices,
    /// Nothing more can be kept.
    #[error(transparent)]
    Full(#[from] VariablesFull),
    /// So many answers were shown that they could spell a text.
    #[error(
        "too much was read of texts that strangers wrote: show one of them, or begin a new chat"
    )]
    Spelt,
}

impl Form {
    /// How much a model learns of what was read, in bits, where that is little; nothing where the answer is a stranger's text.
    #[must_use]
    pub fn bits(&self) -> Option<u32> {
        match self {
            Self::Flag => Some(1),
            Self::Choice { of } => Some(usize::BITS - of.len().saturating_sub(1).leading_zeros()),
            Self::Number | Self::Quote => None,
        }
    }

    /// The JSON Schema that an answer follows.
    #[must_use]
    pub fn schema(&self) -> Value {
        match self {
            Self::Flag => json!({"type": "boolean"}),
            Self::Choice { of } => json!({"type": "string", "enum": of}),
            Self::Number => json!({"type": "number"}),
            Self::Quote => json!({"type": "string", "maxLength": QUOTE_CHARS_MAX}),
        }
    }

    /// Checks that an answer has the form.
    ///
    /// # Errors
    /// When it has not, or nobody can choose so.
    pub fn check(&self, answer: &Value) -> Result<(), InspectError> {
        let is_fit = match self {
            Self::Flag => answer.is_boolean(),
            Self::Choice { of } => {
                if !(2..=CHOICES_MAX).contains(&of.len()) {
                    return Err(InspectError::Choices);
                }
                of.iter().any(|one| answer.as_str() == Some(one))
            }
            Self::Number => answer.is_number(),
            Self::Quote => {
                let text = answer.as_str();
                text.is_some_and(|text| text.chars().count() <= QUOTE_CHARS_MAX)
            }
        };
        match is_fit {
            true => Ok(()),
            false => Err(InspectError::Form),
        }
    }
}
