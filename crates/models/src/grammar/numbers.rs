//! Numbers of a bounded length.
//!
//! JSON has numbers of any length, and a model that begins one may write digits to the end of its
//! answer. After [`NUMBER_BYTES_MAX`] bytes no token may go on with the number, wherever the grammar
//! has anything else to offer.

use toktrie::SimpleVob;

use crate::vocabulary::Vocabulary;

/// The longest number outside of strings, in bytes, before it must end.
const NUMBER_BYTES_MAX: usize = 32;

/// The tokens that go on with a number that ends in a digit.
#[derive(Debug, Clone)]
pub(super) struct NumberTokens(SimpleVob);

impl NumberTokens {
    pub(super) fn of(vocabulary: &Vocabulary) -> Self {
        let mut tokens = SimpleVob::alloc(vocabulary.len());
        let count = u32::try_from(vocabulary.len()).unwrap_or(u32::MAX);
        for id in 0..count {
            let first = vocabulary.shown_bytes(id).first();
            if first.is_some_and(|byte| byte.is_ascii_digit() || b".eE".contains(byte)) {
                tokens.allow_token(id);
            }
        }
        Self(tokens)
    }
}

/// How far a text of JSON has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NumberGuard {
    in_string: bool,
    escaped: bool,
    /// The bytes of the number at the end.
    length: usize,
    ends_in_digit: bool,
}

impl NumberGuard {
    /// Goes on by the bytes of a token.
    pub(super) fn accept(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                self.in_string = self.escaped || *byte != b'"';
                self.escaped = !self.escaped && *byte == b'\\';
                continue;
            }
            self.in_string = *byte == b'"';
            self.escaped = false;
            let of_number = byte.is_ascii_digit() || b".eE+-".contains(byte);
            self.length = if of_number { self.length + 1 } else { 0 };
            self.ends_in_digit = byte.is_ascii_digit();
        }
    }

    /// Takes away the tokens that would go on with a number that is long enough, unless there are
    /// no others.
    pub(super) fn limit(&self, mask: &mut SimpleVob, tokens: &NumberTokens) {
        if self.length < NUMBER_BYTES_MAX || !self.ends_in_digit {
            return;
        }
        let mut limited = mask.clone();
        limited.sub(&tokens.0);
        if !limited.is_zero() {
            *mask = limited;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> NumberTokens {
        let mut tokens = SimpleVob::alloc(4);
        tokens.allow_token(1);
        NumberTokens(tokens)
    }

    fn allows_more(text: &str, also: &[u32]) -> bool {
        let mut guard = NumberGuard::default();
        guard.accept(text.as_bytes());
        let mut mask = SimpleVob::alloc(4);
        for id in also.iter().chain([&1]) {
            mask.allow_token(*id);
        }
        guard.limit(&mut mask, &tokens());
        mask.is_allowed(1)
    }

    #[test]
    fn a_number_ends_where_it_may() {
        let long = "9".repeat(40);
        assert!(!allows_more(&long, &[2]));
        assert!(!allows_more(&format!("{{\"a\": {long}"), &[2]));
        assert!(!allows_more(&format!("[0.{long}"), &[2]));
        // Where nothing else may come, it goes on.
        assert!(allows_more(&long, &[]));
        assert!(allows_more("[1, 22, 333", &[2]));
        // In a string digits are words.
        assert!(allows_more(&format!("{{\"a\": \"{long}"), &[2]));
        assert!(allows_more(&format!("{{\"a\\\"{long}"), &[2]));
        assert!(!allows_more(&format!("{{\"a\\\\\": {long}"), &[2]));
        assert!(allows_more(&format!("{long}.{long}e"), &[2]));
        assert!(allows_more(&format!("{long}, 1"), &[2]));
    }
}
