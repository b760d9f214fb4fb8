//! The passphrase that seals the keystore.
//!
//! Keyboards and systems write the same letters in different bytes, so a passphrase is brought into one
//! form (RFC 8265, OpaqueString): every space of Unicode is U+0020, and the text is composed (NFC). What
//! was sealed before this rule was sealed with the bytes that were typed, so those are tried as well.

use hearth_protocol::text::{is_invisible, is_space, nfc, nfd};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::advice::Advice;

/// The longest passphrase, in bytes of UTF-8.
pub const PASSPHRASE_BYTES_MAX: usize = 1_024;
/// The shortest passphrase that may be chosen for a new keystore, in characters.
pub const PASSPHRASE_CHARS_MIN: usize = 8;

/// A passphrase. Wiped from memory when dropped; `Debug` shows nothing of it.
pub struct Passphrase {
    /// In the one form.
    text: Zeroizing<String>,
    /// The forms that an old keystore may have been sealed with, where they differ.
    older: Vec<Zeroizing<String>>,
}

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
    /// Something in it is not seen, for a new keystore.
    #[error("the passphrase holds a character that is not seen")]
    Unseen,
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
            Self::Unseen => {
                "Type it anew, without what was copied along: a tab, or a space without width"
                    .to_owned()
            }
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
        let mut spaced = Zeroizing::new(String::with_capacity(text.len()));
        spaced.extend(
            text.chars()
                .map(|char| if is_space(char) { ' ' } else { char }),
        );
        let normal = Zeroizing::new(nfc(&spaced).into_owned());
        let decomposed = Zeroizing::new(nfd(&text).into_owned());
        let mut older: Vec<Zeroizing<String>> = Vec::new();
        for form in [text, decomposed] {
            if *form != *normal && older.iter().all(|other| **other != *form) {
                older.push(form);
            }
        }
        Ok(Self {
            text: normal,
            older,
        })
    }

    /// A passphrase for something new, which must not be short.
    ///
    /// # Errors
    /// As [`Passphrase::entered`], and where it has fewer than [`PASSPHRASE_CHARS_MIN`] characters.
    pub fn chosen(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        let passphrase = Self::entered(text)?;
        if passphrase.text.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(PassphraseError::Short);
        }
        let is_unseen = |char: char| char.is_control() || is_invisible(char);
        if passphrase.text.chars().any(is_unseen) {
            return Err(PassphraseError::Unseen);
        }
        Ok(passphrase)
    }

    /// What a new keystore is sealed with.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// What a keystore may have been sealed with, the likeliest first.
    pub(super) fn forms(&self) -> impl Iterator<Item = &[u8]> {
        let older = self.older.iter().map(|text| text.as_bytes());
        std::iter::once(self.as_bytes()).chain(older)
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
        for unseen in [
            "correct\u{200b}horse",
            "correct\thorse",
            "\u{feff}correct horse",
        ] {
            assert_eq!(
                Passphrase::chosen(text(unseen)).err(),
                Some(PassphraseError::Unseen)
            );
            assert!(Passphrase::entered(text(unseen)).is_ok(), "an old one may");
        }
        let long = "x".repeat(PASSPHRASE_BYTES_MAX + 1);
        assert_eq!(
            Passphrase::chosen(text(&long)).err(),
            Some(PassphraseError::Long)
        );
    }

    #[test]
    fn the_same_letters_are_the_same_passphrase_however_they_are_written() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../../vectors/text.json")).unwrap();
        let all = vectors["passphrases"].as_array().unwrap();
        assert!(all.len() > 5);
        for one in all {
            let normal = one["normal"].as_str().unwrap();
            for typed in one["typed"].as_array().unwrap() {
                let typed = typed.as_str().unwrap();
                let entered = Passphrase::entered(Zeroizing::new(typed.to_owned())).unwrap();
                assert_eq!(entered.as_bytes(), normal.as_bytes(), "{typed:?}");
                let tried: Vec<_> = entered.forms().collect();
                assert!(tried.contains(&typed.as_bytes()), "{typed:?}");
                assert!(tried.len() <= 3);
            }
        }
        for pair in vectors["differentPassphrases"].as_array().unwrap() {
            let entered = |at: usize| {
                let text = pair[at].as_str().unwrap().to_owned();
                Passphrase::entered(Zeroizing::new(text)).unwrap()
            };
            assert_ne!(entered(0).as_bytes(), entered(1).as_bytes(), "{pair}");
        }
    }
}
