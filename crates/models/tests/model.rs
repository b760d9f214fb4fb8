//! The engine with a real model.
//!
//! `HEARTH_TEST_MODEL` names the file; `cargo xtask test` fetches it and sets the variable.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

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
