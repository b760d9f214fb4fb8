//! What people say of a model.

use thiserror::Error;

/// The longest text of a label, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 2_048;

/// What people say of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// What it is, where there is something to say.
    pub description: Option<String>,
    /// Its license: an SPDX identifier, or the address of its text.
    pub license: String,
}

/// A text cannot stand in a model's file or manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the {0} has to be one line of 1 to {TEXT_BYTES_MAX} bytes, without blanks at its ends")]
pub struct LabelError(pub &'static str);

impl Label {
    /// Checks every text.
    ///
    /// # Errors
    /// Which text is empty, too long, or not one plain line.
    pub fn check(&self) -> Result<(), LabelError> {
        check_text("name", &self.name)?;
        check_text("license", &self.license)?;
        match &self.description {
            Some(description) => check_text("description", description),
            None => Ok(()),
        }
    }
}

/// Checks that a text is one plain line.
pub(crate) fn check_text(what: &'static str, text: &str) -> Result<(), LabelError> {
    let plain = (1..=TEXT_BYTES_MAX).contains(&text.len())
        && text.trim() == text
        && !text.chars().any(char::is_control);
    plain.then_some(()).ok_or(LabelError(what))
}
