//! How a command ends that could not do what was asked.

use std::io::Write;
use std::process::ExitCode;

use hearth_api::error::{AdvisedError, ErrorBody};
use hearth_causes::WithCauses;
use hearth_node::advice::Advice;

/// The exit code of a command that was understood and not done.
const NOT_DONE: u8 = 1;
/// The exit code of a command that was not understood.
const ASKED_WRONGLY: u8 = 2;

/// What went wrong, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    detail: AdvisedError,
    exit: u8,
}

impl Failure {
    /// A failure with a code of this crate.
    pub(crate) fn new(code: &str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            detail: AdvisedError {
                code: code.to_owned(),
                message: message.into(),
                next: Some(next.into()),
            },
            exit: NOT_DONE,
        }
    }

    /// The command was asked in a way that cannot be meant.
    pub(crate) fn asked_wrongly(mut self) -> Self {
        self.exit = ASKED_WRONGLY;
        self
    }

    /// Tells the person or the program, and gives the exit code.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        let Self { detail, exit } = self;
        let mut stderr = std::io::stderr().lock();
        let written = if json {
            let body = ErrorBody { error: detail };
            let text = serde_json::to_string(&body).expect("texts serialise");
            writeln!(stderr, "{text}")
        } else {
            let next = detail.next.unwrap_or_default();
            writeln!(stderr, "error: {}.\n{next}.", capital(&detail.message))
        };
        // Nobody is left to tell when the standard error is gone.
        drop(written);
        ExitCode::from(exit)
    }
}

/// Begins a sentence with a capital, unless it begins with a name that a person typed: a path or a model keeps its letters.
fn capital(sentence: &str) -> String {
    let word = sentence.split_whitespace().next().unwrap_or_default();
    let is_word = |letter: char| letter.is_alphabetic() || "'’-,".contains(letter);
    if !word.chars().all(is_word) {
        return sentence.to_owned();
    }
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

impl<E: Advice> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(
            error.code(),
            error.with_causes().to_string(),
            error.next_step(),
        )
    }
}

/// Arguments that make no sense, or a question for help.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if wants_json && error.use_stderr() {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        return Failure::new("usage", message, "See `hearth help` for how to ask")
            .asked_wrongly()
            .report(true);
    }
    // Help and version go to the standard output, mistakes to the standard error.
    drop(error.print());
    ExitCode::from(if error.use_stderr() { ASKED_WRONGLY } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::capital;

    #[test]
    fn a_sentence_begins_with_a_capital_and_a_typed_name_keeps_its_letters() {
        for (sentence, shown) in [
            ("the folder exists already", "The folder exists already"),
            ("one-off payments are off", "One-off payments are off"),
            (
                "d1/croissant.json is damaged",
                "d1/croissant.json is damaged",
            ),
            ("smollm2-135m is not here", "smollm2-135m is not here"),
            ("\"é\" is not a name", "\"é\" is not a name"),
            ("", ""),
        ] {
            assert_eq!(capital(sentence), shown);
        }
    }
}
