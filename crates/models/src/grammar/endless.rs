//! Output that means nothing, and goes on.
//!
//! JSON has numbers, lists, nesting and strings of any length, so a grammar alone lets a model write digits, blanks,
//! empty lists or the same few bytes to the end of its answer. A number ends after [`NUMBER_BYTES_MAX`] bytes. Once
//! [`BLANK_BYTES_MAX`] bytes say nothing, or [`REPEATED_BYTES_MAX`] bytes repeat the few before them, or brackets stand
//! [`DEPTH_MAX`] deep, the answer is brought to its end: the text, and each list and object, is closed as soon as the
//! grammar allows it. Where the grammar leaves no choice, it is followed.

use toktrie::SimpleVob;

use crate::vocabulary::Vocabulary;

/// The longest number outside of strings, in bytes, before it must end.
const NUMBER_BYTES_MAX: usize = 32;
/// The most bytes in a row that say nothing: brackets, quotes and commas, and white space in strings.
const BLANK_BYTES_MAX: usize = 256;
/// The most bytes in a row that repeat what stands up to [`PERIOD_MAX`] bytes before.
const REPEATED_BYTES_MAX: usize = 1_024;
/// The longest text whose repetition is noticed, in bytes: a number, and the white space that may stand around it.
const PERIOD_MAX: usize = 128;
/// How deep lists and objects may stand in one another. Programs that read answers have bounds of their own.
const DEPTH_MAX: usize = 48;

/// The tokens of a vocabulary that go on with a number, or bring an answer to its end.
#[derive(Debug, Clone)]
pub(super) struct EndTokens {
    /// Go on with a number that ends in a digit.
    number: SimpleVob,
    /// Close a string, and lists and objects with it.
    string: SimpleVob,
    /// Close lists and objects.
    brackets: SimpleVob,
    /// End the text.
    text: SimpleVob,
}

impl EndTokens {
    pub(super) fn of(vocabulary: &Vocabulary) -> Self {
        let none = || SimpleVob::alloc(vocabulary.len());
        let mut tokens = Self {
            number: none(),
            string: none(),
            brackets: none(),
            text: none(),
        };
        let closes = |bytes: &[u8]| bytes.iter().all(|byte| b"]}".contains(byte));
        let count = u32::try_from(vocabulary.len()).unwrap_or(u32::MAX);
        for id in 0..count {
            if vocabulary.is_end_of_text(id) {
                tokens.text.allow_token(id);
            }
            match vocabulary.shown_bytes(id) {
                [b'"', rest @ ..] if closes(rest) => tokens.string.allow_token(id),
                [first, ..] if first.is_ascii_digit() || b".eE".contains(first) => {
                    tokens.number.allow_token(id);
                }
                bytes @ [_, ..] if closes(bytes) => tokens.brackets.allow_token(id),
                _ => {}
            }
        }
        tokens
    }
}

/// An escape in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// After the backslash.
    Begun,
    /// Within the digits of `\u`: how many are to come, and what the others say.
    Digits(u8, u32),
}

/// How far a text of JSON has come.
#[derive(Debug, Clone)]
pub(super) struct EndlessGuard {
    in_string: bool,
    escape: Option<Escape>,
    /// The bytes of the number at the end.
    number: usize,
    ends_in_digit: bool,
    depth: usize,
    /// The bytes at the end that say nothing.
    blank: usize,
    /// The last bytes, each at its place modulo the length.
    last: [u8; PERIOD_MAX],
    /// For each period, how many bytes at the end are the same as those a period before.
    repeated: [usize; PERIOD_MAX],
    bytes: usize,
    /// Whether the answer is being brought to its end.
    ends: bool,
}

impl Default for EndlessGuard {
    fn default() -> Self {
        Self {
            in_string: false,
            escape: None,
            number: 0,
            ends_in_digit: false,
            depth: 0,
            blank: 0,
            last: [0; PERIOD_MAX],
            repeated: [0; PERIOD_MAX],
            bytes: 0,
            ends: false,
        }
    }
}

impl EndlessGuard {
    /// Goes on by the bytes of a token.
    pub(super) fn accept(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let says = if self.in_string {
                self.accept_in_string(*byte)
            } else {
                self.accept_outside(*byte)
            };
            self.blank = if says { 0 } else { self.blank + 1 };
            self.compare(*byte);
            self.ends |= self.blank >= BLANK_BYTES_MAX
                || self.depth >= DEPTH_MAX
                || self.repeated.iter().any(|run| *run >= REPEATED_BYTES_MAX);
        }
    }

    /// Whether a byte of a string says something.
    fn accept_in_string(&mut self, byte: u8) -> bool {
        match self.escape {
            None if byte == b'"' => {
                self.in_string = false;
                false
            }
            None if byte == b'\\' => {
                self.escape = Some(Escape::Begun);
                false
            }
            None => byte > b' ',
            Some(Escape::Begun) => {
                self.escape = (byte == b'u').then_some(Escape::Digits(4, 0));
                b"\"\\/".contains(&byte)
            }
            Some(Escape::Digits(left, code)) => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                let code = code * 16 + digit;
                self.escape = (left > 1).then_some(Escape::Digits(left - 1, code));
                // Halves of a pair are no character, and say something.
                let is_blank = |c: char| c.is_whitespace() || c.is_control();
                left == 1 && !char::from_u32(code).is_some_and(is_blank)
            }
        }
    }

    /// The same outside of strings.
    fn accept_outside(&mut self, byte: u8) -> bool {
        self.in_string = byte == b'"';
        let of_number = byte.is_ascii_digit() || b".eE+-".contains(&byte);
        self.number = if of_number { self.number + 1 } else { 0 };
        self.ends_in_digit = byte.is_ascii_digit();
        match byte {
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        byte.is_ascii_alphanumeric()
    }

    /// Compares a byte with those a period before, for each period.
    fn compare(&mut self, byte: u8) {
        for (index, run) in self.repeated.iter_mut().enumerate() {
            let period = index + 1;
            let is_same =
                self.bytes >= period && self.last[(self.bytes - period) % PERIOD_MAX] == byte;
            *run = if is_same { *run + 1 } else { 0 };
        }
        self.last[self.bytes % PERIOD_MAX] = byte;
        self.bytes += 1;
    }

    /// Takes away the tokens that would go on where there should be an end, unless there are no others.
    pub(super) fn limit(&self, mask: &mut SimpleVob, tokens: &EndTokens) {
        if self.ends {
            let closing = match self.in_string {
                true => &tokens.string,
                false => &tokens.brackets,
            };
            if only(mask, &tokens.text) || only(mask, closing) {
                return;
            }
        }
        if self.number < NUMBER_BYTES_MAX || !self.ends_in_digit {
            return;
        }
        let mut limited = mask.clone();
        limited.sub(&tokens.number);
        if !limited.is_zero() {
            *mask = limited;
        }
    }
}

/// Leaves only these tokens, if any of them is among the others.
fn only(mask: &mut SimpleVob, tokens: &SimpleVob) -> bool {
    let mut limited = mask.clone();
    limited.and(tokens);
    let found = !limited.is_zero();
    if found {
        *mask = limited;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of these meanings, by their ids: 1 is a digit, 3 closes a string, 4 a list, 5 ends the text.
    fn tokens() -> EndTokens {
        let of = |id| {
            let mut tokens = SimpleVob::alloc(6);
            tokens.allow_token(id);
            tokens
        };
        EndTokens {
            number: of(1),
            string: of(3),
            brackets: of(4),
            text: of(5),
        }
    }

    /// Which of these tokens may follow a text.
    fn may_follow(text: &str, among: &[u32]) -> Vec<u32> {
        let mut guard = EndlessGuard::default();
        guard.accept(text.as_bytes());
        let mut mask = SimpleVob::alloc(6);
        among.iter().for_each(|id| mask.allow_token(*id));
        guard.limit(&mut mask, &tokens());
        let allowed = |id: &u32| mask.is_allowed(*id);
        among.iter().copied().filter(allowed).collect()
    }

    #[test]
    fn a_number_ends_where_it_may() {
        let long = "9".repeat(40);
        let stops = |text: &str| may_follow(text, &[1, 2]) == [2];
        assert!(stops(&long));
        assert!(stops(&format!("{{\"a\": {long}")));
        assert!(stops(&format!("[0.{long}")));
        assert!(stops(&format!("{{\"a\\\\\": {long}")));
        // Where nothing else may come, it goes on.
        assert_eq!(may_follow(&long, &[1]), [1]);
        // In a string digits are words.
        for fine in [
            "[1, 22, 333".to_owned(),
            format!("{{\"a\": \"{long}"),
            format!("{{\"a\\\"{long}"),
            format!("{long}.{long}e"),
            format!("{long}, 1"),
        ] {
            assert!(!stops(&fine), "{fine}");
        }
    }

    #[test]
    fn what_says_nothing_is_brought_to_its_end() {
        let times =
            |begin: &str, unit: &str, count: usize| format!("{begin}{}", unit.repeat(count));
        for (text, expected) in [
            (times("[", "[],", 90), 4),
            (times("[", "\"\",", 90), 4),
            (times("", "[", DEPTH_MAX), 4),
            (times("", "{\"a\":", DEPTH_MAX), 4),
            (times("[\"", " ", 300), 3),
            (times("[\"", "\\n", 150), 3),
            (times("[\"", "\\u0000", 50), 3),
            (times("[\"", "\\u00A0", 50), 3),
            (times("[\"", "a", 2_100), 3),
            (times("[\"", "\\\"", 1_100), 3),
            (times("[", "0,", 1_100), 4),
            (times("[", "null, ", 400), 4),
            (times("[", &format!("{},", "7".repeat(32)), 70), 4),
        ] {
            let found = may_follow(&text, &[1, 2, 3, 4]);
            assert_eq!(found, [expected], "{text}");
            assert_eq!(may_follow(&text, &[1, 2, 4, 5]), [5], "{text}");
            // It stays so, whatever the grammar asks for in between.
            let more = format!("{text}\"], [\"and more");
            assert!(may_follow(&more, &[1, 2, 3, 4]).len() == 1, "{more}");
        }
    }

    #[test]
    fn what_says_something_goes_on() {
        let prose: String = (0..60)
            .map(|i| format!("Line {i} says: \\\"each of these differs from the last one\\\".\\n"))
            .collect();
        let numbered = |count: usize| {
            (0..count)
                .map(|i| format!("{{\"id\":{i}}},"))
                .collect::<String>()
        };
        let chinese: String = (0x4e00..0x4e80)
            .map(|code| format!("\\u{code:04x}"))
            .collect();
        for text in [
            format!("[\"{prose}"),
            format!("[{}", numbered(400)),
            format!("[\"{chinese}"),
            format!("[\"{}", "-".repeat(900)),
            format!("[{}", "0,".repeat(450)),
            format!("[{}", "[],".repeat(60)),
            "[".repeat(DEPTH_MAX - 1),
            format!("{}1{}", "[".repeat(40), "],[".repeat(40)),
        ] {
            assert_eq!(may_follow(&text, &[2, 3, 4, 5]), [2, 3, 4, 5], "{text}");
        }
    }
}
