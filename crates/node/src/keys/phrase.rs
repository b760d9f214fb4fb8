//! The recovery phrase (BIP-39, English words).
//!
//! Errors name the position of a word, never the word.

use alloy_signer_local::coins_bip39::{English, Entropy, Mnemonic, Wordlist};
use hearth_environment::Environment;
use hearth_protocol::text::{is_invisible, nfkd};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::advice::Advice;

/// The longest phrase that is read: 24 words of 8 letters, with room for untidy spaces.
pub const PHRASE_BYTES_MAX: usize = 1_024;

/// How many words a new phrase has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WordCount {
    /// 128 bits.
    #[default]
    Twelve,
    /// 256 bits.
    TwentyFour,
}

impl WordCount {
    /// The kind of phrase with this many words, if a new one may have them.
    pub fn from_words(words: usize) -> Option<Self> {
        match words {
            12 => Some(Self::Twelve),
            24 => Some(Self::TwentyFour),
            _ => None,
        }
    }

    const fn entropy_bytes(self) -> usize {
        match self {
            Self::Twelve => 16,
            Self::TwentyFour => 32,
        }
    }
}

/// Why a text is not a recovery phrase, or why none could be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PhraseError {
    /// Not 12, 15, 18, 21 or 24 words.
    #[error("a recovery phrase has 12 or 24 words, not {found}")]
    WordCount {
        /// How many were given.
        found: usize,
    },
    /// A word that is not on the list.
    #[error("word {position} of the recovery phrase is not on the BIP-39 English list")]
    UnknownWord {
        /// Which one, counted from 1.
        position: usize,
    },
    /// All words are on the list, but they do not belong together.
    #[error("the words are all valid, but their checksum is not: one is wrong or two are swapped")]
    Checksum,
    /// More than [`PHRASE_BYTES_MAX`] bytes.
    #[error("the text is longer than {PHRASE_BYTES_MAX} bytes, so it is no recovery phrase")]
    Long,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
}

impl Advice for PhraseError {
    fn code(&self) -> &str {
        match self {
            Self::Randomness => "no_randomness",
            _ => "bad_phrase",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Randomness => "Try again; if it persists, the system is at fault".to_owned(),
            _ => "Compare with what you wrote down, word by word, in the same order".to_owned(),
        }
    }
}

/// Whether a character of what was copied is not seen, and does not part words.
fn is_hidden(char: char) -> bool {
    (is_invisible(char) || char == '\u{200d}') && !char.is_whitespace()
}

/// A valid recovery phrase. Wiped from memory when dropped; `Debug` shows nothing of it.
pub struct RecoveryPhrase {
    /// Lower-case words with single spaces between, whose checksum is right.
    words: Zeroizing<String>,
}

impl RecoveryPhrase {
    /// Draws a new phrase.
    ///
    /// # Errors
    /// [`PhraseError::Randomness`].
    pub fn generate(words: WordCount, environment: &dyn Environment) -> Result<Self, PhraseError> {
        let mut bytes = Zeroizing::new(vec![0; words.entropy_bytes()]);
        environment
            .fill(&mut bytes)
            .map_err(|_| PhraseError::Randomness)?;
        let entropy = Entropy::from_slice(&*bytes).expect("16 and 32 bytes are lengths of BIP-39");
        let mnemonic = Mnemonic::<English>::new_from_entropy(entropy);
        Ok(Self {
            words: Zeroizing::new(mnemonic.to_phrase()),
        })
    }

    /// Reads a phrase as a person types it: any spacing, any case.
    ///
    /// # Errors
    /// See [`PhraseError`].
    pub fn parse(text: &str) -> Result<Self, PhraseError> {
        if text.len() > PHRASE_BYTES_MAX {
            return Err(PhraseError::Long);
        }
        // Pages and scanners give letters of full width and characters that are not seen.
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        let seen = Zeroizing::new(nfkd(text).into_owned());
        plain.extend(seen.chars().filter(|char| !is_hidden(*char)));
        let text = plain.as_str();
        let found = text.split_whitespace().count();
        if !matches!(found, 12 | 15 | 18 | 21 | 24) {
            return Err(PhraseError::WordCount { found });
        }
        // Reserved at once, so that growing leaves no copy behind that is not wiped.
        let mut words = Zeroizing::new(String::with_capacity(text.len()));
        for (index, word) in text.split_whitespace().enumerate() {
            let word = Zeroizing::new(word.to_ascii_lowercase());
            if English::get_index(&word).is_err() {
                return Err(PhraseError::UnknownWord {
                    position: index.saturating_add(1),
                });
            }
            if index > 0 {
                words.push(' ');
            }
            words.push_str(&word);
        }
        // The library's error repeats the phrase, so it is dropped here.
        Mnemonic::<English>::new_from_phrase(&words).map_err(|_| PhraseError::Checksum)?;
        Ok(Self { words })
    }

    /// The words, separated by single spaces. Show them to nobody but the owner.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// How many words there are.
    pub fn word_count(&self) -> usize {
        self.words.split(' ').count()
    }

    pub(super) fn mnemonic(&self) -> Mnemonic<English> {
        Mnemonic::new_from_phrase(&self.words).expect("the phrase was checked on the way in")
    }
}

impl std::fmt::Debug for RecoveryPhrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecoveryPhrase({} words)", self.word_count())
    }
}

#[cfg(test)]
mod tests {
    use hearth_environment::SystemEnvironment;

    use super::*;

    const KNOWN: &str = "test test test test test test test test test test test junk";

    #[test]
    fn a_new_phrase_is_read_again_and_is_never_the_same() {
        for (count, words) in [(WordCount::Twelve, 12), (WordCount::TwentyFour, 24)] {
            let phrase = RecoveryPhrase::generate(count, &SystemEnvironment).unwrap();
            assert_eq!(phrase.word_count(), words);
            let again = RecoveryPhrase::parse(phrase.words()).unwrap();
            assert_eq!(again.words(), phrase.words());
            let other = RecoveryPhrase::generate(count, &SystemEnvironment).unwrap();
            assert_ne!(other.words(), phrase.words());
        }
    }

    #[test]
    fn spacing_and_case_do_not_matter() {
        let untidy = format!("  {}\n", KNOWN.to_uppercase().replace(' ', " \t "));
        assert_eq!(RecoveryPhrase::parse(&untidy).unwrap().words(), KNOWN);
        let wide: String = KNOWN
            .chars()
            .map(|char| match char {
                ' ' => '\u{3000}',
                letter => char::from_u32(u32::from(letter) + 0xfee0).unwrap(),
            })
            .collect();
        let copied = format!("\u{feff}{}\u{200b}", KNOWN.replace("test", "te\u{ad}st"));
        for same in [
            wide,
            copied,
            KNOWN.replace(' ', "\u{a0}"),
            KNOWN.replace(' ', "\u{2028}"),
        ] {
            assert_eq!(
                RecoveryPhrase::parse(&same).unwrap().words(),
                KNOWN,
                "{same:?}"
            );
        }
    }

    #[test]
    fn a_wrong_phrase_is_named_by_position_and_never_repeated() {
        let swapped = KNOWN.replace("junk", "test");
        let cases = [
            ("", PhraseError::WordCount { found: 0 }),
            ("test test", PhraseError::WordCount { found: 2 }),
            (
                &KNOWN.replace("junk", "jumk"),
                PhraseError::UnknownWord { position: 12 },
            ),
            (&swapped, PhraseError::Checksum),
            (&"test ".repeat(1_000), PhraseError::Long),
        ];
        for (text, expected) in cases {
            let error = RecoveryPhrase::parse(text).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("jumk"));
            assert!(!error.to_string().contains("test test"));
        }
    }
}
