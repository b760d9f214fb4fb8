//! The engine with a real model.
//!
//! `HEARTH_TEST_MODEL` names the file; `cargo xtask test` fetches it and sets the variable.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use hearth_models::reader::{self, Launcher};

#[path = "model/answers.rs"]
mod answers;
#[path = "model/forms.rs"]
mod forms;
#[path = "model/reading.rs"]
mod reading;
#[path = "model/words.rs"]
mod words;

/// The model that tests run.
fn model_path() -> PathBuf {
    let path = std::env::var_os("HEARTH_TEST_MODEL");
    path.expect("HEARTH_TEST_MODEL names the test model").into()
}

/// This test program, as a reader. With one thread, or it says after a minute that a test is slow.
fn launcher() -> Launcher {
    let arguments = [
        "--exact",
        "serves_as_a_reader",
        "--nocapture",
        "--test-threads=1",
    ];
    Launcher::this_program(arguments).unwrap()
}

/// Not a test: what a process does that was started by [`launcher`].
#[test]
fn serves_as_a_reader() {
    if reader::is_reader() {
        hearth_models::reading::serve();
        std::process::exit(0);
    }
}
