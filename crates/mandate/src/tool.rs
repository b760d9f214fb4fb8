//! What a tool does to the world, as its owner has it, and not as the tool says.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::label::{Label, Tier};

/// The longest name of a tool, in characters.
pub const TOOL_NAME_CHARS_MAX: usize = 128;

/// A tool's name: letters, digits, `_`, `-`, `.` and `/`, with the server before the tool where it has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolName(String);

/// A name that no tool can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a tool's name has 1 to {TOOL_NAME_CHARS_MAX} letters, digits, and characters of \"_-./\"")]
pub struct ToolNameError;

impl ToolName {
    /// Takes a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn new(name: &str) -> Result<Self, ToolNameError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        let is_name = (1..=TOOL_NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(is_fit);
        match is_name {
            true => Ok(Self(name.to_owned())),
            false => Err(ToolNameError),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ToolName {
    type Error = ToolNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<ToolName> for String {
    fn from(name: ToolName) -> Self {
        name.0
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// It looks, and tells nobody.
    Read,
    /// It writes in the workspace, which is there for that.
    WriteInside,
    /// It reads what a host has under an address. The host sees the address, which can carry anything.
    Fetch,
    /// It pays.
    Pay,
    /// It lets more be spent, or more be done.
    RaiseLimit,
    /// It writes, moves or removes what is not in the workspace.
    WriteOutside,
    /// It tells a host or a person something.
    Send,
    /// It changes what is remembered.
    ChangeMemory,
    /// It changes what is done by itself.
    ChangeTasks,
    /// It changes how things are done.
    ChangeSkills,
}

impl Deed {
    /// Whether somebody has to stand behind it: a text that anybody may have written cannot.
    #[must_use]
    pub fn is_consequential(self) -> bool {
        !matches!(self, Self::Read | Self::WriteInside)
    }
}

/// What the owner lets a tool do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// It is not called.
    Never,
    /// Each call is shown first.
    Ask,
    /// It is called without a question, unless what it is called with or after calls for one.
    Always,
}

/// Which arguments say where a call goes, to whom and how much: a stranger must choose none of them without a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "arguments")]
pub enum Steering {
    /// Each of them may.
    All,
    /// These do; the others are only handed on, such as the words of a letter whose reader the owner chose.
    Named {
        /// The names.
        names: BTreeSet<String>,
    },
}

impl Steering {
    /// Whether the part of the arguments at a JSON Pointer steers.
    #[must_use]
    pub fn has(&self, pointer: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named { names } => {
                let first = pointer.split('/').nth(1);
                // The whole of the arguments, at the empty pointer, has all of them.
                first.is_none_or(|first| {
                    names.contains(&first.replace("~1", "/").replace("~0", "~"))
                })
            }
        }
    }
}

/// A tool, and what holds for its calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: ToolName,
    /// What a call does.
    pub deed: Deed,
    /// Which of its arguments steer.
    pub steering: Steering,
    /// Who sees what it is called with.
    pub reaches: Tier,
    /// What its owner lets it do.
    pub permission: Permission,
    /// What holds for what it returns, beside what holds for the call.
    pub returns: Label,
}
