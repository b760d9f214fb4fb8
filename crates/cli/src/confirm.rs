//! Asking before something that cannot be taken back.

use std::io::{BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64;

/// Goes on only if the person says yes. Without a terminal nobody can, so the caller must have said `--yes`.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "not_confirmed",
            format!("nobody is there to answer \"{question}\""),
            "Add --yes if you mean it",
        )
        .asked_wrongly());
    }
    let mut stderr = std::io::stderr();
    drop(write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()));
    let mut answer = String::new();
    let read =
        std::io::Read::take(std::io::stdin().lock(), ANSWER_BYTES_MAX).read_line(&mut answer);
    let agreed = read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if agreed {
        Ok(())
    } else {
        Err(Failure::new(
            "not_confirmed",
            "you did not agree, so nothing was done",
            "Run it again if you change your mind",
        ))
    }
}
