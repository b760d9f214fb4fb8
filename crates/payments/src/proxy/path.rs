//! The one form of a path in which it is priced, kept and forwarded.
//!
//! Two programs that read one path differently are how a price is walked around: what is paid for
//! is `/public/../secret` to one and `/secret` to the other. So a path has one form here, and a
//! path that some program could take for another one is refused: dot segments however they are
//! written, separators that are coded or look alike, codings of codings, bytes that are not text.
//! Pure; fuzzed as `paths`.

use hearth_protocol::text::{is_invisible, nfkd};
use thiserror::Error;

/// Why a path is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathFault {
    /// It does not begin with a slash.
    #[error("it does not begin with a slash")]
    Relative,
    /// A segment is, or could be taken for, the same folder or the one above.
    #[error("it has a segment of dots")]
    Dots,
    /// A segment other than the last is empty.
    #[error("it has an empty segment")]
    Empty,
    /// A separator that is coded, turned round, or looks like one.
    #[error("it has a separator that is no plain slash")]
    Separator,
    /// A percent sign without two hexadecimal digits, or one that stands for another.
    #[error("it has a percent sign that can be read in two ways")]
    Escape,
    /// Bytes that are not text, or control characters.
    #[error("it has bytes that are no text")]
    NotText,
}

/// A byte of a segment, and whether it was coded.
#[derive(Clone, Copy)]
struct Byte {
    value: u8,
    is_coded: bool,
}

/// Brings a path into its one form: unreserved characters as they are, everything else that was
/// coded in upper case.
///
/// # Errors
/// See [`PathFault`].
pub fn canonical(path: &str) -> Result<String, PathFault> {
    let rest = path.strip_prefix('/').ok_or(PathFault::Relative)?;
    let mut form = String::with_capacity(path.len());
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        form.push('/');
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(PathFault::Empty);
            }
            continue;
        }
        let bytes = decode(segment)?;
        judge(&bytes)?;
        encode(&bytes, &mut form);
    }
    Ok(form)
}

fn decode(segment: &str) -> Result<Vec<Byte>, PathFault> {
    let mut rest = segment.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(Byte {
                value: *first,
                is_coded: false,
            });
            continue;
        }
        let [high, low, after @ ..] = after else {
            return Err(PathFault::Escape);
        };
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else {
            return Err(PathFault::Escape);
        };
        rest = after;
        bytes.push(Byte {
            value: high << 4 | low,
            is_coded: true,
        });
    }
    Ok(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// What is a separator, or looks like one: some programs bring a text into a form in which it is one.
const SEPARATORS: &str =
    "/\\\u{2044}\u{2215}\u{2216}\u{29f5}\u{29f8}\u{29f9}\u{fe68}\u{ff0f}\u{ff3c}";

/// Whether some program could take the segment for more than a name.
fn judge(bytes: &[Byte]) -> Result<(), PathFault> {
    let plain: Vec<u8> = bytes.iter().map(|byte| byte.value).collect();
    if has_code(&plain) {
        return Err(PathFault::Escape);
    }
    let text = std::str::from_utf8(&plain).map_err(|_| PathFault::NotText)?;
    if text.contains(['\u{ff05}', '\u{fe6a}']) {
        // Percent signs that are wide or small: some programs narrow them.
        return Err(PathFault::Escape);
    }
    if text.chars().any(char::is_control) {
        return Err(PathFault::NotText);
    }
    let is_separator = |c: char| SEPARATORS.contains(c);
    // Some programs bring letters of another width or form into the usual one: `℅` is `c/o` then.
    let usual = nfkd(text);
    if text.chars().any(is_separator) || usual.contains(['/', '\\']) {
        return Err(PathFault::Separator);
    }
    if has_code(usual.as_bytes()) {
        return Err(PathFault::Escape);
    }
    if is_dots(text) || is_dots(&usual) {
        return Err(PathFault::Dots);
    }
    Ok(())
}

/// Whether there is a percent sign with a code behind it.
fn has_code(plain: &[u8]) -> bool {
    let is_code = |after: &[u8]| match after {
        [b'u' | b'U', ..] => true,
        [high, low, ..] => hex(*high).is_some() && hex(*low).is_some(),
        _ => false,
    };
    let percents = plain.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    percents
        .into_iter()
        .any(|(at, _)| is_code(&plain[at + 1..]))
}

/// Whether some program could read nothing but dots.
fn is_dots(text: &str) -> bool {
    // Some programs cut off what follows a semicolon, or, where they decode before they look for a query, a question or
    // number sign; some drop blanks and what is not seen.
    let name = text.split([';', '?', '#']).next().unwrap_or_default();
    let is_dot = |c: char| {
        c.is_whitespace()
            || is_invisible(c)
            // What emoji are joined and chosen by: some file systems pass over it.
            || matches!(c, '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
            || ".\u{2024}\u{2025}\u{2026}\u{ff0e}\u{fe52}\u{ff61}\u{3002}".contains(c)
    };
    // Where the system's letters are Japanese or Korean ones, their signs of currency are backslashes.
    let mut pieces = name.split(['\u{a5}', '\u{20a9}', '\u{ffe5}', '\u{ffe6}']);
    let is_plain = pieces.clone().nth(1).is_none();
    pieces.any(|piece| piece.chars().all(is_dot) && (is_plain || !piece.is_empty()))
}

fn encode(bytes: &[Byte], form: &mut String) {
    for Byte { value, is_coded } in bytes {
        let is_unreserved = value.is_ascii_alphanumeric() || b"-._~".contains(value);
        let is_plain = is_unreserved || (!is_coded && b"!$&'()*+,;=:@".contains(value));
        if is_plain {
            form.push(char::from(*value));
        } else {
            form.push_str(&format!("%{value:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn plain_paths_keep_their_meaning() {
        for (path, form) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("/%61/%7E", "/a/~"),
            ("/a%20b", "/a%20b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a.b/..c/.well-known", "/a.b/..c/.well-known"),
            ("/100%25", "/100%25"),
            ("/x;v=1/y", "/x;v=1/y"),
            ("/x%3Bv/y", "/x%3Bv/y"),
            ("/a:b@c", "/a:b@c"),
            ("/why%3f", "/why%3F"),
            ("/c%23", "/c%23"),
            ("/100%c2%a5", "/100%C2%A5"),
            ("/1%c2%bd%ef%bc%9b", "/1%C2%BD%EF%BC%9B"),
            ("/%e2%9d%a4%ef%b8%8f", "/%E2%9D%A4%EF%B8%8F"),
            ("/{x}|\"", "/%7Bx%7D%7C%22"),
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(form), "{path}");
        }
    }

    #[test]
    fn what_could_be_another_path_is_refused() {
        use PathFault::*;
        for (path, fault) in [
            ("", Relative),
            ("*", Relative),
            ("a", Relative),
            ("/..", Dots),
            ("/.", Dots),
            ("/a/../secret", Dots),
            ("/a/./b", Dots),
            ("/%2e%2e/secret", Dots),
            ("/%2E./secret", Dots),
            ("/.%2e/secret", Dots),
            ("/..;/secret", Dots),
            ("/..;x=1/secret", Dots),
            ("/%2e%2e%3b/secret", Dots),
            ("/;/secret", Dots),
            ("/..%20/secret", Dots),
            ("/.../secret", Dots),
            ("/%ef%bc%8e%ef%bc%8e/secret", Dots),
            ("/%e2%80%a5/secret", Dots),
            ("//secret", Empty),
            ("/a//b", Empty),
            ("///", Empty),
            ("/a\\..\\b", Separator),
            ("/a%5c..%5cb", Separator),
            ("/a%2fb", Separator),
            ("/..%2fsecret", Separator),
            ("/%ef%bc%8fsecret", Separator),
            ("/%252e%252e/secret", Escape),
            ("/%25%32%65", Escape),
            ("/%25252e", Escape),
            ("/a%252fb", Escape),
            ("/%u002e", Escape),
            ("/%25u002e", Escape),
            ("/%", Escape),
            ("/%2", Escape),
            ("/%zz", Escape),
            ("/%+2e", Escape),
            ("/%00", NotText),
            ("/a%0d%0ab", NotText),
            ("/%c0%ae%c0%ae/secret", NotText),
            ("/%e0%80%ae", NotText),
            ("/%ff", NotText),
            ("/%c2%85", NotText),
        ] {
            assert_eq!(canonical(path), Err(fault), "{path}");
        }
    }

    #[test]
    fn what_only_some_programs_take_for_another_path_is_refused_too() {
        use PathFault::*;
        for (path, fault) in [
            ("/..%3f/secret", Dots),
            ("/..%3Fx=1/secret", Dots),
            ("/..%23/secret", Dots),
            ("/%2e%2e%23x/secret", Dots),
            ("/%3f/secret", Dots),
            ("/..%e2%80%8b/secret", Dots),
            ("/.%e2%81%a0./secret", Dots),
            ("/.%c2%ad./secret", Dots),
            ("/%ef%bd%a1%ef%bd%a1/secret", Dots),
            ("/..%c2%a0/secret", Dots),
            ("/..%ef%bc%9b/secret", Dots),
            ("/..%cd%be/secret", Dots),
            ("/..%ef%bc%9fx/secret", Dots),
            ("/..%ef%bc%83/secret", Dots),
            ("/%ef%b8%b0/secret", Dots),
            ("/%ef%b8%99/secret", Dots),
            ("/.%e2%80%8d./secret", Dots),
            ("/..%ef%b8%8f/secret", Dots),
            ("/a%e2%84%85", Separator),
            ("/%e2%84%80", Separator),
            ("/..%c2%a5secret", Dots),
            ("/a%e2%82%a9..%e2%82%a9secret", Dots),
            ("/a%ef%bf%a5..", Dots),
            ("/..\u{2216}secret", Separator),
            ("/..%e2%a7%b8secret", Separator),
            ("/..%e2%a7%b9secret", Separator),
            ("/%ed%a0%80", NotText),
            ("/%f8%80%80%80%ae", NotText),
            ("/%f0%80%80%ae", NotText),
            ("/a%7f", NotText),
            ("/%u2215secret", Escape),
            ("/%25%35%63", Escape),
            ("/%ef%bc%85%32%65", Escape),
        ] {
            assert_eq!(canonical(path), Err(fault), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_form_is_stable_and_no_address_changes_it(
            path in "(/|\\.|%2e|%2F|%25|%5c|;|[a-z%~]|%[0-9a-fA-F]{2}|\\PC){0,12}",
        ) {
            if let Ok(form) = canonical(&format!("/{path}")) {
                prop_assert_eq!(canonical(&form), Ok(form.clone()));
                let mut address = Url::parse("http://service/").unwrap();
                address.set_path(&form);
                prop_assert_eq!(address.path(), &form);
            }
        }
    }
}
