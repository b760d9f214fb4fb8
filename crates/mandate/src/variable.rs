//! Values that a model may hand on without having seen them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::label::Provenance;

/// The most variables of a context.
pub const VARIABLES_MAX: usize = 1_024;
/// The most bytes of JSON that all variables of a context have.
pub const VARIABLE_BYTES_MAX: usize = 16_777_216;

/// A value, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    value: Value,
    provenance: Provenance,
    bytes: usize,
}

impl Variable {
    /// The value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Where it came from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// How long it is, in bytes of JSON.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// There is no such variable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no variable {0}")]
pub struct NoVariable(pub String);

/// Nothing more can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a chat keeps at most {VARIABLES_MAX} results, and {VARIABLE_BYTES_MAX} bytes of them: begin a new one"
)]
pub struct VariablesFull;

/// The variables of a context, named `v1`, `v2` and so on in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variables {
    all: BTreeMap<String, Variable>,
    bytes: usize,
}

impl Variables {
    /// Keeps a value, and returns its name.
    ///
    /// # Errors
    /// When there is no room.
    pub fn keep(&mut self, value: Value, provenance: Provenance) -> Result<String, VariablesFull> {
        let bytes = value.to_string().len();
        let sum = self.bytes.saturating_add(bytes);
        if self.all.len() >= VARIABLES_MAX || sum > VARIABLE_BYTES_MAX {
            return Err(VariablesFull);
        }
        self.bytes = sum;
        let name = format!("v{}", self.all.len() + 1);
        let variable = Variable {
            value,
            provenance,
            bytes,
        };
        self.all.insert(name.clone(), variable);
        Ok(name)
    }

    /// The variable of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Variable> {
        self.all.get(name)
    }
}
