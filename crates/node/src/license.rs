//! How a license is named: an SPDX expression, or the address of its words.
//!
//! The same for what is imported and for what is made, so that a program that reads either knows what to do with it. Does
//! not know the list of SPDX: licenses come and go there, and `LicenseRef-` names any other.

/// What to do about a license that is not named so.
pub(crate) const ADVICE: &str = "Name it as SPDX does (such as CC0-1.0, Apache-2.0 or `MIT OR Apache-2.0`), as LicenseRef- \
     and a name of yours, or by the address of its words, which begins with https://";

/// The longest name or address, in bytes.
const BYTES_MAX: usize = 1_024;
/// The longest single identifier, in bytes.
const ID_BYTES_MAX: usize = 64;
/// The most characters of what is no license that an error shows.
const SHOWN_CHARS_MAX: usize = 64;
/// How deep parentheses may be.
const DEPTH_MAX: usize = 8;

/// Whether a license is named so that others find it.
pub(crate) fn is_license(text: &str) -> bool {
    (1..=BYTES_MAX).contains(&text.len()) && (is_address(text) || is_expression(text))
}

/// The beginning of what was named instead, for an error.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

fn is_address(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|char| char.is_ascii_graphic()))
}

/// Identifiers with AND, OR or WITH between each two of them, and parentheses that match.
fn is_expression(text: &str) -> bool {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let (mut depth, mut wants_id) = (0, true);
    for word in spaced.split(' ').filter(|word| !word.is_empty()) {
        match word {
            "(" if wants_id && depth < DEPTH_MAX => depth += 1,
            ")" if !wants_id && depth > 0 => depth -= 1,
            "AND" | "OR" | "WITH" if !wants_id => wants_id = true,
            "(" | ")" | "AND" | "OR" | "WITH" => return false,
            id if wants_id && is_id(id) => wants_id = false,
            _ => return false,
        }
    }
    !wants_id && depth == 0
}

fn is_id(word: &str) -> bool {
    let name = word.strip_suffix('+').unwrap_or(word);
    let is_plain = |char: char| char.is_ascii_alphanumeric() || ['.', '-', ':'].contains(&char);
    // No license is called by a number, or by less than two letters.
    let letters = name.chars().filter(char::is_ascii_alphabetic).count();
    letters >= 2 && name.len() <= ID_BYTES_MAX && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spdx_writes_and_addresses_are_licenses() {
        for license in [
            "CC0-1.0",
            "0BSD",
            "GPL-2.0+",
            "MIT OR Apache-2.0",
            "(MIT AND CC-BY-4.0) OR LicenseRef-village",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "DocumentRef-a:LicenseRef-b",
            "https://example.org/terms?of=use",
        ] {
            assert!(is_license(license), "{license}");
        }
    }

    #[test]
    fn any_other_line_is_none() {
        let (long, deep) = (
            "A".repeat(65),
            format!("{}MIT{}", "(".repeat(9), ")".repeat(9)),
        );
        for text in [
            "",
            " ",
            "-",
            "1.0",
            "all rights reserved",
            "MIT OR",
            "OR MIT",
            "MIT Apache-2.0",
            "(MIT",
            "MIT)",
            "()",
            "MIT\nApache-2.0",
            "<b>MIT</b>",
            "https://",
            "https://example.org/a b",
            "javascript:alert(1)",
            &long,
            &deep,
        ] {
            assert!(!is_license(text), "{text}");
        }
    }
}
