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
    if agrees(question, false) {
        Ok(())
    } else {
        Err(Failure::new(
            "not_confirmed",
            "you did not agree, so nothing was done",
            "Run it again if you change your mind",
        ))
    }
}

/// Asks the person at the terminal; nothing said means `usual`.
pub(crate) fn agrees(question: &str, usual: bool) -> bool {
    let choices = if usual { "[Y/n]" } else { "[y/N]" };
    let mut stderr = std::io::stderr();
    drop(write!(stderr, "{question} {choices} ").and_then(|()| stderr.flush()));
    let mut answer = String::new();
    let read =
        std::io::Read::take(std::io::stdin().lock(), ANSWER_BYTES_MAX).read_line(&mut answer);
    match (read, answer.trim().to_ascii_lowercase().as_str()) {
        (Err(_) | Ok(0), _) => false,
        (Ok(_), "") => usual,
        (Ok(_), answer) => matches!(answer, "y" | "yes"),
    }
}
