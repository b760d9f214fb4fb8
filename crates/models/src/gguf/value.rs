//! The values of a head's keys.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;

use super::engine::EXPERTS_USED;
use super::source::Source;
use super::vocabulary::{
    Facts, MERGE_BYTES_MAX, MERGES, MERGES_MAX, SCORES, TOKEN_BYTES_MAX, TOKEN_TYPES, TOKENS,
};
use super::{GgufError, TEXT_BYTES_MAX, VOCABULARY_MAX};

/// What kind of value a key has, or the elements of its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// How many bytes a value has, or nothing where each has its own length.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number that is not negative, of any width.
    Unsigned(u64),
    /// A whole number of a signed kind.
    Signed(i64),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A text too long to be kept, or no UTF-8.
    Unread,
    /// A list, of which only this is kept.
    Array {
        /// What its elements are.
        kind: Kind,
        /// How many it has.
        count: u64,
    },
}

impl Value {
    /// The value as a whole number, where it is one and not negative.
    pub fn whole(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// Reads the value of `key`, and notes what a vocabulary's lists hold.
pub(super) fn read<R: Read>(
    source: &mut Source<R>,
    key: &str,
    facts: &mut Facts,
) -> Result<Value, GgufError> {
    const WHAT: &str = "the value of a key";
    Ok(match kind(source, key)? {
        Kind::U8 => Value::Unsigned(source.array::<1>(WHAT)?[0].into()),
        Kind::I8 => Value::Signed(i8::from_le_bytes(source.array(WHAT)?).into()),
        Kind::U16 => Value::Unsigned(u16::from_le_bytes(source.array(WHAT)?).into()),
        Kind::I16 => Value::Signed(i16::from_le_bytes(source.array(WHAT)?).into()),
        Kind::U32 => Value::Unsigned(source.u32(WHAT)?.into()),
        Kind::I32 => Value::Signed(i32::from_le_bytes(source.array(WHAT)?).into()),
        Kind::U64 => Value::Unsigned(source.u64(WHAT)?),
        Kind::I64 => Value::Signed(i64::from_le_bytes(source.array(WHAT)?)),
        Kind::F32 => Value::Float(f32::from_le_bytes(source.array(WHAT)?).into()),
        Kind::F64 => Value::Float(f64::from_le_bytes(source.array(WHAT)?)),
        Kind::Bool => Value::Bool(source.array::<1>(WHAT)?[0] != 0),
        Kind::Text => source
            .kept_text(WHAT, TEXT_BYTES_MAX)?
            .map_or(Value::Unread, Value::Text),
        Kind::Array => read_array(source, key, facts)?,
    })
}

fn kind<R: Read>(source: &mut Source<R>, key: &str) -> Result<Kind, GgufError> {
    let number = source.u32("the kind of a value")?;
    Kind::of(number)
        .ok_or_else(|| GgufError::key(key, format!("has a value of the unknown kind {number}")))
}

/// Passes over an array whose every element is checked to be in the file. Arrays of arrays are part of the format,
/// but no model has any and llama.cpp reads none.
fn read_array<R: Read>(
    source: &mut Source<R>,
    key: &str,
    facts: &mut Facts,
) -> Result<Value, GgufError> {
    const WHAT: &str = "an array";
    let kind = kind(source, key)?;
    let count = source.u64(WHAT)?;
    let too_long = || {
        GgufError::key(
            key,
            format!("states {count} elements, more than a head holds"),
        )
    };
    match (kind, kind.bytes()) {
        (_, Some(bytes)) => {
            let bytes = count.checked_mul(bytes).ok_or_else(too_long)?;
            source.expect(WHAT, bytes)?;
            match (key, kind) {
                (TOKEN_TYPES, Kind::I32) => {
                    for _ in 0..count {
                        facts.saw_type(i32::from_le_bytes(source.array(WHAT)?));
                    }
                }
                (SCORES, Kind::F32) => {
                    for index in 0..count {
                        facts.saw_score(index, f32::from_le_bytes(source.array(WHAT)?));
                    }
                }
                (key, Kind::U32 | Kind::I32) if key.ends_with(EXPERTS_USED) => {
                    for _ in 0..count {
                        facts.saw_experts_used(source.u32(WHAT)?);
                    }
                }
                _ => source.skip(WHAT, bytes)?,
            }
        }
        (Kind::Text, None) => {
            // Each has at least its length, so this bounds the loop before it begins.
            source.expect(WHAT, count.checked_mul(8).ok_or_else(too_long)?)?;
            if key == TOKENS {
                pass_tokens(source, count, facts)?;
            } else if key == MERGES {
                pass_merges(source, count, facts)?;
            } else {
                for _ in 0..count {
                    source.pass_text(WHAT, |_| ())?;
                }
            }
        }
        (_, None) => {
            return Err(GgufError::key(
                key,
                "is an array of arrays, which no engine reads",
            ));
        }
    }
    Ok(Value::Array { kind, count })
}

/// Passes over the vocabulary, whose tokens must all differ: llama.cpp ends the process where two are the same. They
/// are compared by a hash that nobody outside can foresee.
fn pass_tokens<R: Read>(
    source: &mut Source<R>,
    count: u64,
    facts: &mut Facts,
) -> Result<(), GgufError> {
    if count > VOCABULARY_MAX {
        let (what, most) = ("tokens", VOCABULARY_MAX);
        return Err(GgufError::TooMany { what, count, most });
    }
    let state = RandomState::new();
    let mut seen = HashSet::new();
    for index in 0..count {
        let mut hasher = state.build_hasher();
        let mut token = Vec::new();
        let length = source.pass_text("the vocabulary", |piece| {
            hasher.write(piece);
            keep(&mut token, piece, TOKEN_BYTES_MAX);
        })?;
        facts.saw_token(&token, length);
        if length == 0 {
            // The name that llama.cpp gives to an empty token.
            hasher.write(format!("[EMPTY_{index}]").as_bytes());
        }
        if !seen.insert(hasher.finish()) {
            return Err(GgufError::key(TOKENS, format!("has token {index} twice")));
        }
    }
    Ok(())
}

/// Passes over the merges, each of which is two tokens with a blank between them.
fn pass_merges<R: Read>(
    source: &mut Source<R>,
    count: u64,
    facts: &mut Facts,
) -> Result<(), GgufError> {
    if count > MERGES_MAX {
        let (what, most) = ("merges", MERGES_MAX);
        return Err(GgufError::TooMany { what, count, most });
    }
    for index in 0..count {
        let mut merge = Vec::new();
        let length = source.pass_text("the merges", |piece| {
            keep(&mut merge, piece, MERGE_BYTES_MAX);
        })?;
        facts.saw_merge(index, &merge, length);
    }
    Ok(())
}

/// Keeps of a text as much as it may have.
fn keep(kept: &mut Vec<u8>, piece: &[u8], most: usize) {
    let room = most.saturating_sub(kept.len());
    kept.extend_from_slice(&piece[..piece.len().min(room)]);
}
