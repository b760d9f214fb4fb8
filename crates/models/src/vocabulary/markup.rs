//! Markup: the tokens that a template writes and that words must never become.
//!
//! llama.cpp finds the names of special tokens in any text that it is given, those of the kind
//! "user defined" even where it is told to parse none. A message that spells such a name would so
//! become a turn of its own. Here the names are found by us, in what the template wrote alone, and
//! words are cut inside of each name that they spell before llama.cpp sees them.
//!
//! What is not here: which part of a prompt is whose, which the `template` knows.

use std::collections::{BTreeSet, HashMap, HashSet};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use thiserror::Error;

/// The most tokens of a vocabulary that can be markup.
const MARKUP_MAX: usize = 1 << 16;
/// The most bytes of the names of all markup.
const MARKUP_BYTES_MAX: usize = 4 << 20;
/// Stretches and pieces of one prompt: a request has no more ids, and each gives at least one.
pub(crate) const PIECES_MAX: usize = 1 << 17;
/// Characters that stand in names as well as in markup, and guard nothing.
const WEAK: [char; 8] = ['_', '-', '.', ':', '/', ',', '\'', '!'];
/// Brackets and bars: a token of the kind "user defined" that has one of them marks something.
const BRACKETS: [char; 12] = [
    '<', '>', '[', ']', '{', '}', '|', '｜', '⟨', '⟩', '【', '】',
];
/// The fewest characters of a token of the kind "user defined" that marks something.
const MARKER_CHARS_MIN: usize = 3;

/// What a special token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkupKind {
    /// Parsed on request only.
    Control,
    /// Found by llama.cpp in every text.
    UserDefined,
    /// Stands for what the vocabulary does not have, so that words may become it.
    Unknown,
}

/// A special token, as the vocabulary has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MarkupToken {
    /// Its id.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) text: String,
    /// What it is.
    pub(crate) kind: MarkupKind,
    /// Whether white space before it goes.
    pub(crate) strips_left: bool,
    /// Whether white space after it goes.
    pub(crate) strips_right: bool,
}

/// There is more markup than any known model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the vocabulary has more special tokens than any known model")]
pub(crate) struct TooMuchMarkup;

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stretch<'a> {
    /// A special token.
    Token(u32),
    /// Words between special tokens.
    Words(&'a str),
}

/// The special tokens of a vocabulary.
#[derive(Debug, Default)]
pub(crate) struct Markup {
    names: Option<AhoCorasick>,
    tokens: Vec<MarkupToken>,
    /// Names that llama.cpp would find in words.
    found_anyway: Option<AhoCorasick>,
    /// Ids that words must not become.
    forbidden: HashSet<u32>,
    /// Characters that make markup of a name.
    marks: BTreeSet<char>,
    /// What stands between such characters, in lower case.
    cores: HashSet<String>,
}

impl Markup {
    /// The markup among these tokens.
    ///
    /// # Errors
    /// When there is too much of it.
    pub(crate) fn new(
        tokens: impl IntoIterator<Item = MarkupToken>,
    ) -> Result<Self, TooMuchMarkup> {
        let (mut kept, mut bytes) = (Vec::new(), 0usize);
        let mut markup = Self::default();
        for token in tokens {
            if token.text.is_empty() || !is_markup(&token) {
                continue;
            }
            bytes = bytes.saturating_add(token.text.len());
            if kept.len() >= MARKUP_MAX || bytes > MARKUP_BYTES_MAX {
                return Err(TooMuchMarkup);
            }
            markup.learn(&token.text);
            if token.kind != MarkupKind::Unknown {
                markup.forbidden.insert(token.id);
            }
            kept.push(token);
        }
        let anyway = kept
            .iter()
            .filter(|token| token.kind == MarkupKind::UserDefined);
        markup.found_anyway = matcher(anyway)?;
        markup.names = matcher(kept.iter())?;
        markup.tokens = kept;
        Ok(markup)
    }

    /// What makes this name markup.
    fn learn(&mut self, name: &str) {
        let strong = |c: &char| !(c.is_alphanumeric() || is_plain(*c) || WEAK.contains(c));
        let weak = |c: &char| !(c.is_alphanumeric() || is_plain(*c));
        let before = self.marks.len();
        self.marks.extend(name.chars().filter(strong));
        if self.marks.len() == before && !name.chars().any(|c| strong(&c)) {
            self.marks.extend(name.chars().filter(weak));
        }
        let core = name.trim_matches(|c: char| !c.is_alphanumeric());
        if !core.is_empty() && !core.chars().any(|c| strong(&c)) {
            self.cores.insert(folded(core));
        }
    }

    /// Whether words must not become this id.
    pub(crate) fn forbids(&self, id: u32) -> bool {
        self.forbidden.contains(&id)
    }

    /// Whether a character makes markup of a name.
    pub(crate) fn is_mark(&self, character: char) -> bool {
        self.marks.contains(&character)
    }

    /// Whether a name without its marks is markup's.
    pub(crate) fn is_core(&self, name: &str) -> bool {
        !self.cores.is_empty() && self.cores.contains(&folded(name))
    }

    /// The special tokens of a text and the words between them.
    pub(crate) fn stretches<'a>(&self, text: &'a str) -> Vec<Stretch<'a>> {
        let Some(names) = &self.names else {
            return Vec::from([Stretch::Words(text)]);
        };
        let (mut stretches, mut from, mut strips) = (Vec::new(), 0, false);
        for found in names.find_iter(text) {
            let token = &self.tokens[found.pattern().as_usize()];
            let words = &text[from..found.start()];
            push_words(&mut stretches, words, strips, token.strips_left);
            stretches.push(Stretch::Token(token.id));
            from = found.end();
            strips = token.strips_right;
        }
        push_words(&mut stretches, &text[from..], strips, false);
        stretches
    }

    /// Words, cut inside of each name that llama.cpp would find in them.
    pub(crate) fn pieces<'a>(&self, words: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let (mut begin, mut from) = (0, 0);
        if let Some(names) = &self.found_anyway {
            while let Some(found) = names.find(Input::new(words).range(from..)) {
                let first = words[found.start()..].chars().next();
                let cut = found.start() + first.map_or(1, char::len_utf8);
                pieces.push(&words[begin..cut]);
                (begin, from) = (cut, cut);
            }
        }
        pieces.push(&words[begin..]);
        pieces
    }
}

fn push_words<'a>(stretches: &mut Vec<Stretch<'a>>, words: &'a str, left: bool, right: bool) {
    let space = |c: char| c.is_ascii_whitespace() || c == '\u{b}';
    let words = if left {
        words.trim_start_matches(space)
    } else {
        words
    };
    let words = if right {
        words.trim_end_matches(space)
    } else {
        words
    };
    if !words.is_empty() {
        stretches.push(Stretch::Words(words));
    }
}

fn matcher<'a>(
    tokens: impl Iterator<Item = &'a MarkupToken>,
) -> Result<Option<AhoCorasick>, TooMuchMarkup> {
    let names: Vec<&str> = tokens.map(|token| &*token.text).collect();
    if names.is_empty() {
        return Ok(None);
    }
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(names)
        .map(Some)
        .map_err(|_| TooMuchMarkup)
}

/// Whether a special token marks something. Runs of white space do not, and of the kind "user
/// defined" those alone do that look like it.
fn is_markup(token: &MarkupToken) -> bool {
    if token.text.chars().all(is_plain) {
        return false;
    }
    match token.kind {
        MarkupKind::Control | MarkupKind::Unknown => true,
        MarkupKind::UserDefined => {
            token.text.contains(BRACKETS) && token.text.chars().count() >= MARKER_CHARS_MIN
        }
    }
}

/// White space, and what JSON escapes.
fn is_plain(character: char) -> bool {
    character.is_whitespace() || character.is_control() || character == '"' || character == '\\'
}

/// Lower case, of what has it by way of upper case too.
fn folded(text: &str) -> String {
    let upper = text.chars().flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase).collect()
}

/// Words in which nothing is markup: each character that would make some is another one, which
/// stands in for it and occurs nowhere else.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    markup: &'a Markup,
    stand_ins: HashMap<char, char>,
    originals: HashMap<char, char>,
    used: HashSet<char>,
    next: u32,
}

/// The first and the last character that can stand in: the private planes, which no text of any
/// language has.
const STAND_INS: (u32, u32) = (0xF_0000, 0x10_FFFD);

/// There is no character left that can stand in for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the text has too many different characters")]
pub(crate) struct NoStandIn;

impl<'a> Guard<'a> {
    /// A guard for a text of these parts.
    pub(crate) fn new<'b>(markup: &'a Markup, text: impl IntoIterator<Item = &'b str>) -> Self {
        let characters = text.into_iter().flat_map(str::chars);
        Self {
            markup,
            stand_ins: HashMap::new(),
            originals: HashMap::new(),
            used: characters.filter(|c| *c as u32 >= STAND_INS.0).collect(),
            next: STAND_INS.1,
        }
    }

    /// A character that the text does not have.
    pub(crate) fn unused(&mut self) -> Result<char, NoStandIn> {
        while self.next >= STAND_INS.0 {
            let found = char::from_u32(self.next);
            self.next -= 1;
            if let Some(found) = found.filter(|found| !self.used.contains(found)) {
                return Ok(found);
            }
        }
        Err(NoStandIn)
    }

    fn stand_in(&mut self, character: char) -> Result<char, NoStandIn> {
        if let Some(stand_in) = self.stand_ins.get(&character) {
            return Ok(*stand_in);
        }
        let stand_in = self.unused()?;
        self.stand_ins.insert(character, stand_in);
        self.originals.insert(stand_in, character);
        Ok(stand_in)
    }

    /// The words as templates may see them.
    pub(crate) fn hide(&mut self, words: &str) -> Result<String, NoStandIn> {
        let mut hidden = String::with_capacity(words.len());
        let is_name = |c: char| c.is_alphanumeric() || WEAK.contains(&c);
        let mut rest = words;
        while let Some(first) = rest.chars().next() {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            if length == 0 {
                hidden.push(self.hide_mark(first)?);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let (name, after) = rest.split_at(length);
            self.hide_name(name, &mut hidden)?;
            rest = after;
        }
        Ok(hidden)
    }

    fn hide_mark(&mut self, character: char) -> Result<char, NoStandIn> {
        if self.markup.is_mark(character) {
            self.stand_in(character)
        } else {
            Ok(character)
        }
    }

    /// A name that markup is made of becomes none by its first letter.
    fn hide_name(&mut self, name: &str, hidden: &mut String) -> Result<(), NoStandIn> {
        let core = name.trim_matches(|c: char| !c.is_alphanumeric());
        let mut is_core = self.markup.is_core(core);
        for character in name.chars() {
            if is_core && character.is_alphanumeric() {
                hidden.push(self.stand_in(character)?);
                is_core = false;
            } else {
                hidden.push(self.hide_mark(character)?);
            }
        }
        Ok(())
    }

    /// The text with every character as it was.
    pub(crate) fn reveal(&self, text: &str) -> String {
        let original = |c: char| self.originals.get(&c).copied().unwrap_or(c);
        text.chars().map(original).collect()
    }
}

#[cfg(test)]
mod tests;
