//! The passphrase that seals the keystore.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::advice::Advice;

/// The longest passphrase, in bytes of UTF-8.
pub const PASSPHRASE_BYTES_MAX: usize = 1_024;
/// The shortest passphrase that may be chosen for a new keystore, in characters.
pub const PASSPHRASE_CHARS_MIN: usize = 8;

/// A passphrase. Wiped from memory when dropped; `Debug` shows nothing of it.
pub struct Passphrase(Zeroizing<String>);

/// Why a text is not a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// Nothing was given.
    #[error("the passphrase is empty")]
    Empty,
    /// Fewer than [`PASSPHRASE_CHARS_MIN`] characters, for a new keystore.
    #[error("the passphrase is shorter than {PASSPHRASE_CHARS_MIN} characters")]
    Short,
    /// More than [`PASSPHRASE_BYTES_MAX`] bytes.
    #[error("the passphrase is longer than {PASSPHRASE_BYTES_MAX} bytes")]
    Long,
}

impl Advice for PassphraseError {
    fn code(&self) -> &str {
        "bad_passphrase"
    }

    fn next_step(&self) -> String {
        match self {
            Self::Empty => "Give the passphrase of the keystore".to_owned(),
            Self::Short => "Choose a longer one; four unrelated words are good".to_owned(),
            Self::Long => {
                "Check that the passphrase file holds the passphrase and nothing else".to_owned()
            }
        }
    }
}

impl Passphrase {
    /// A passphrase as it was typed, to open what it once sealed.
    ///
    /// # Errors
    /// Where it is empty or absurdly long.
    pub fn entered(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        if text.is_empty() {
            return Err(PassphraseError::Empty);
        }
        if text.len() > PASSPHRASE_BYTES_MAX {
            return Err(PassphraseError::Long);
        }
        Ok(Self(text))
    }

    /// A passphrase for something new, which must not be short.
    ///
    /// # Errors
    /// As [`Passphrase::entered`], and where it has fewer than [`PASSPHRASE_CHARS_MIN`] characters.
    pub fn chosen(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        let passphrase = Self::entered(text)?;
        if passphrase.0.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(PassphraseError::Short);
        }
        Ok(passphrase)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_passphrase_must_be_long() {
        let text = |text: &str| Zeroizing::new(text.to_owned());
        assert!(Passphrase::entered(text("short")).is_ok());
        assert_eq!(
            Passphrase::chosen(text("short")).err(),
            Some(PassphraseError::Short)
        );
        assert!(Passphrase::chosen(text("ächt län")).is_ok());
        assert_eq!(
            Passphrase::entered(text("")).err(),
            Some(PassphraseError::Empty)
        );
        let long = "x".repeat(PASSPHRASE_BYTES_MAX + 1);
        assert_eq!(
            Passphrase::chosen(text(&long)).err(),
            Some(PassphraseError::Long)
        );
    }
}
