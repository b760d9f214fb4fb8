//! What a tool is called with: JSON in which variables may stand for values that the model has not seen.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::label::Provenance;
use crate::variable::Variables;

/// The key of an object that stands for a variable: `{"$variable": "v1"}`.
pub const VARIABLE_KEY: &str = "$variable";
/// How deep arguments may be nested.
pub const ARGUMENT_DEPTH_MAX: usize = 32;
/// The longest arguments once all variables are in place, in bytes of JSON.
pub const ARGUMENT_BYTES_MAX: usize = 1_048_576;

/// Why a tool cannot be called with this.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// There is no such variable.
    #[error("there is no variable {0}")]
    NoVariable(String),
    /// An object has the variable's key and is none.
    #[error("an object with the key {VARIABLE_KEY:?} has nothing else, and names a variable")]
    NotVariable,
    /// They are nested too deep.
    #[error("arguments are nested at most {ARGUMENT_DEPTH_MAX} deep")]
    Depth,
    /// They are too long.
    #[error(
        "arguments have at most {ARGUMENT_BYTES_MAX} bytes, also with what their variables stand for"
    )]
    Length,
}

/// A part of the arguments that a variable stood for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// Where it is, as a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// Where it came from.
    pub provenance: Provenance,
}

/// What a tool is really called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    value: Value,
    filled: Vec<Filled>,
}

impl Arguments {
    /// Puts what variables stand for in their places.
    ///
    /// # Errors
    /// When one is not known, or the arguments are too deep or too long.
    pub fn resolve(written: &Value, variables: &Variables) -> Result<Self, ArgumentError> {
        let mut filling = Filling {
            variables,
            filled: Vec::new(),
            bytes: 0,
        };
        let value = filling.fill(written, "", 0)?;
        Ok(Self {
            value,
            filled: filling.filled,
        })
    }

    /// The arguments, without variables.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// What variables stood for, in the order of the arguments.
    #[must_use]
    pub fn filled(&self) -> &[Filled] {
        &self.filled
    }

    /// What holds for them where everything else in them was written by somebody who saw `seen`.
    #[must_use]
    pub fn provenance(&self, seen: &Provenance) -> Provenance {
        let mut all = seen.clone();
        for filled in &self.filled {
            all.add(&filled.provenance);
        }
        all
    }
}

struct Filling<'a> {
    variables: &'a Variables,
    filled: Vec<Filled>,
    bytes: usize,
}

impl Filling<'_> {
    fn fill(&mut self, value: &Value, pointer: &str, depth: usize) -> Result<Value, ArgumentError> {
        if depth > ARGUMENT_DEPTH_MAX {
            return Err(ArgumentError::Depth);
        }
        match value {
            Value::Object(object) if object.contains_key(VARIABLE_KEY) => self.put(object, pointer),
            Value::Object(object) => {
                let mut all = Map::new();
                for (key, value) in object {
                    self.count(key.len() + 4)?;
                    let escaped = key.replace('~', "~0").replace('/', "~1");
                    let place = format!("{pointer}/{escaped}");
                    all.insert(key.clone(), self.fill(value, &place, depth + 1)?);
                }
                Ok(Value::Object(all))
            }
            Value::Array(values) => {
                let filled = values.iter().enumerate().map(|(index, value)| {
                    self.fill(value, &format!("{pointer}/{index}"), depth + 1)
                });
                filled.collect::<Result<_, _>>().map(Value::Array)
            }
            Value::String(text) => {
                self.count(text.len() + 3)?;
                Ok(value.clone())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.count(8)?;
                Ok(value.clone())
            }
        }
    }

    fn put(&mut self, object: &Map<String, Value>, pointer: &str) -> Result<Value, ArgumentError> {
        let name = object.get(VARIABLE_KEY).and_then(Value::as_str);
        let name = name.filter(|_| object.len() == 1);
        let name = name.ok_or(ArgumentError::NotVariable)?;
        let variable = self.variables.get(name);
        let variable = variable.ok_or_else(|| ArgumentError::NoVariable(name.to_owned()))?;
        self.count(variable.bytes())?;
        self.filled.push(Filled {
            pointer: pointer.to_owned(),
            provenance: variable.provenance().clone(),
        });
        Ok(variable.value().clone())
    }

    fn count(&mut self, bytes: usize) -> Result<(), ArgumentError> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > ARGUMENT_BYTES_MAX {
            true => Err(ArgumentError::Length),
            false => Ok(()),
        }
    }
}
