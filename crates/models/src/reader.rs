//! A small process that reads what strangers wrote.
//!
//! Heads of model files, chat templates, texts and grammars come from strangers, and what reads
//! them is C++ that ends its process at what it did not expect, or a search whose work a stranger
//! chooses. So this program starts itself again as a *reader*: with limits on memory, without its
//! environment, its files and the network, and with a time limit for each request. When a reader
//! breaks or takes too much, it is killed, and only whoever asked for that gets an error.
//!
//! A process has one [`Role`]. For prompts it holds the vocabulary and the template of one model
//! ([`Prompts`]); for grammars it holds the words of one vocabulary, and follows one grammar at a
//! time ([`Grammars`]); for a trial it runs a whole model once ([`try_out`]). They speak in frames over the standard input
//! and output (`wire`). A reader may have been taken over by what it read, so every reply is checked before it is used.
//!
//! What is not here: what is read, and how (`prompt`, `grammar`, `gguf`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::vocabulary::Vocabulary;

mod confine;
mod grammars;
mod pool;
mod process;
mod prompts;
mod schemas;
mod serve;
#[cfg(test)]
mod tests;
mod trial;
mod wire;

pub(crate) use grammars::{CompileError, GrammarSession, Grammars};
pub use prompts::{Prompts, ReadError};
pub use schemas::SchemaChecker;
pub use serve::is_reader;
pub(crate) use serve::serve;
pub use trial::try_out;

/// What tells a process that it is a reader, and which; nothing else is in its environment.
const ROLE_VARIABLE: &str = "HEARTH_READER";

/// How long one request may take a reader.
const REQUEST_MAX: Duration = Duration::from_secs(6);
/// How long a grammar may take to be compiled. A provider compiles it after the payer checked it; both together end
/// before the asker gives up.
const COMPILE_MAX: Duration = Duration::from_secs(4);
/// What must be left of an asker's time when a reader is free at last: with less, others are to blame for what takes
/// too long.
const OWN_TIME_MIN: Duration = Duration::from_secs(2);
/// How long whoever asks waits at most: for a reader that is free, its start, and its answer.
pub(crate) const ASKING_MAX: Duration = Duration::from_secs(9);
/// How long a reader is kept while nobody asks: its memory is the device's, and another is there within
/// a fraction of a second.
const IDLE_TIME_MAX: Duration = Duration::from_secs(300);
/// How long a reader of grammars may take for one token.
const TOKEN_MAX: Duration = Duration::from_secs(2);

/// How a program starts itself as a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// What it is called with, so that it calls [`serve_as_reader`](crate::serve_as_reader).
    pub arguments: Vec<OsString>,
}

impl Launcher {
    /// This very program, called with `arguments`.
    ///
    /// # Errors
    /// When the system does not say where the program is.
    pub fn this_program<A: Into<OsString>>(
        arguments: impl IntoIterator<Item = A>,
    ) -> std::io::Result<Self> {
        // The program that runs, also when a newer one has taken its place on the disk since.
        let running = PathBuf::from("/proc/self/exe");
        let program = if running.exists() {
            running
        } else {
            std::env::current_exe()?
        };
        Ok(Self {
            program,
            arguments: arguments.into_iter().map(Into::into).collect(),
        })
    }
}

/// Whether what a reader says makes sense, by all that is checked before it is used: it may have been
/// taken over by what it read. For fuzzing.
pub fn is_sound_reply(bytes: &[u8]) -> bool {
    match wire::reply(bytes) {
        None => false,
        Some(wire::Reply::Opened(Ok(Some(parts)))) => Vocabulary::try_from(parts).is_ok(),
        Some(_) => true,
    }
}

/// What a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The head of a model's file, then prompts for that model.
    Prompts,
    /// Grammars over the words of a vocabulary.
    Grammars,
    /// A whole model, run for a few tokens.
    Trial,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Grammars => "grammars",
            Self::Trial => "trial",
        }
    }

    /// The memory that it may take beyond what it starts with, and beyond a model's weights, in bytes.
    fn memory_bytes(self) -> u64 {
        match self {
            Self::Prompts => 1 << 30,
            Self::Grammars => 384 << 20,
            Self::Trial => 2 << 30,
        }
    }

    /// How many processes may do this for one model at the same time.
    fn processes_max(self) -> usize {
        match self {
            Self::Prompts => 3,
            Self::Grammars => 8,
            Self::Trial => 1,
        }
    }

    /// How many of them read for strangers: the others are for the household.
    fn strangers_max(self) -> usize {
        match self {
            Self::Prompts => 2,
            Self::Grammars => 6,
            Self::Trial => 0,
        }
    }

    /// How many of them are kept while nobody asks.
    fn idle_max(self) -> usize {
        match self {
            Self::Prompts => 1,
            Self::Grammars => 2,
            Self::Trial => 0,
        }
    }
}
