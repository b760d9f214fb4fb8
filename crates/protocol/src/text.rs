//! Text that people type and read: compared by what it says, not by its bytes.
//!
//! The same letter can be written in several ways: `é` as one code point or as two, a space as one of
//! a dozen. Keyboards and systems differ in which they produce, so what is compared is brought into
//! one form first. And a name that is shown can hold what nobody sees: characters that turn the
//! direction of writing, or that have no width. Such a name looks like another one, so it is refused
//! where it enters.

use std::borrow::Cow;

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

/// Canonical composition (Unicode, form NFC).
pub fn nfc(text: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(text)
}

/// Canonical decomposition (Unicode, form NFD).
pub fn nfd(text: &str) -> Cow<'_, str> {
    DecomposingNormalizerBorrowed::new_nfd().normalize(text)
}

/// Compatibility decomposition (Unicode, form NFKD), by which letters of full width are letters.
pub fn nfkd(text: &str) -> Cow<'_, str> {
    DecomposingNormalizerBorrowed::new_nfkd().normalize(text)
}

/// Whether a character is a space of Unicode (category Zs), of whatever width.
pub fn is_space(char: char) -> bool {
    matches!(
        char,
        ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// Whether a character is there and not seen: without width, or a command to turn the direction of
/// writing. The joiner and the selectors of variants that emoji are made of are not among them.
pub fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Whether a text may be shown as a name: nothing in it is unseen, and it neither begins nor ends
/// with a space. Whether it is too long is for the place to say.
pub fn is_name(text: &str) -> bool {
    let is_seen = |char: char| !char.is_control() && !is_invisible(char);
    let at_edge = |char: Option<char>| char.is_some_and(is_space);
    !text.is_empty()
        && text.chars().all(is_seen)
        && !at_edge(text.chars().next())
        && !at_edge(text.chars().next_back())
}

/// Whether two names say the same, in whatever case and form they are written.
pub fn is_same_name(one: &str, other: &str) -> bool {
    let folded = |text: &str| nfc(&nfc(text).to_lowercase()).into_owned();
    one == other || folded(one) == folded(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::Value;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../vectors/text.json")).unwrap()
    }

    fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
        let list = vectors[name].as_array().unwrap();
        assert!(!list.is_empty(), "{name}");
        list
    }

    #[test]
    fn what_says_the_same_is_the_same_name() {
        let vectors = vectors();
        let is_same =
            |pair: &Value| is_same_name(pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        for pair in list(&vectors, "sameNames") {
            assert!(is_same(pair), "{pair}");
        }
        for pair in list(&vectors, "differentNames") {
            assert!(!is_same(pair), "{pair}");
        }
    }

    #[test]
    fn what_is_not_seen_is_no_part_of_a_name() {
        let vectors = vectors();
        for name in list(&vectors, "names") {
            assert!(is_name(name.as_str().unwrap()), "{name}");
        }
        for name in list(&vectors, "noNames") {
            assert!(!is_name(name.as_str().unwrap()), "{name}");
        }
    }
}
