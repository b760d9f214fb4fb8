//! The head of a GGUF file, with the lists that a vocabulary is made of.
//!
//! A file comes from a stranger: every count and length is checked against a bound and against what the file has before
//! anything is taken for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use thiserror::Error;

/// The longest head that is read, in bytes: all but the tensor data.
const HEAD_BYTES_MAX: u64 = 64 << 20;
/// The most keys of a file.
const KEYS_MAX: u64 = 4_096;
/// The most tensors of a file: nine for each of 256 layers, and three.
const TENSORS_MAX: u64 = 2_307;
/// The longest key, in bytes.
const KEY_BYTES_MAX: u64 = 1_024;
/// The longest text that is kept, in bytes; longer ones are passed over.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// The longest name of a tensor, in bytes.
const NAME_BYTES_MAX: u64 = 63;
const ALIGNMENT_MAX: u64 = 1 << 16;
/// Bytes of a key or a name that an error repeats.
const SHOWN_CHARACTERS: usize = 100;

/// A head cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Reading failed.
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
    /// It begins with other bytes, or is of another version.
    #[error("the file is no GGUF file of version 2 or 3")]
    NotGguf,
    /// It ends too early.
    #[error("the file ends within its head")]
    CutOff,
    /// More of something than is read.
    #[error("the file states more {0} than any model of the family has")]
    TooMany(&'static str),
    /// A key that cannot be.
    #[error("the key {0:?} is there twice, or has a value that cannot be")]
    Key(String),
    /// A tensor that cannot be.
    #[error("the tensor {0:?} is there twice, or is stated in a way that cannot be")]
    Tensor(String),
}

/// The value of a key, as far as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kept {
    Whole(u64),
    Number(f64),
    Truth(bool),
    Text(String),
    Texts(Vec<String>),
    Signed(Vec<i32>),
    /// A list, or a text that is too long: nothing that a model of the family needs.
    Passed,
}

/// A tensor as the head states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The fastest first.
    pub(super) dimensions: Vec<u64>,
    /// The number of its format.
    pub(super) format: u32,
    /// From the begin of the data.
    pub(super) offset: u64,
}

/// What a head says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) keys: BTreeMap<String, Kept>,
    pub(super) tensors: BTreeMap<String, Entry>,
    /// Where the data begins, in bytes from the begin of the file.
    pub(super) data_begin: u64,
}

/// Keys whose lists are kept.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";

/// The most elements of a list that is kept.
const LIST_MAX: u64 = 1 << 20;

/// Reads a head from the begin of a file of `file_bytes` bytes.
pub(super) fn read(source: impl Read, file_bytes: u64) -> Result<Head, HeadError> {
    let mut source = Source {
        reader: source,
        position: 0,
        end: file_bytes.min(HEAD_BYTES_MAX),
    };
    let magic = source.array::<4>()?;
    let version = source.u32()?;
    if magic != *b"GGUF" || !(2..=3).contains(&version) {
        return Err(HeadError::NotGguf);
    }
    let tensor_count = source.count("tensors", TENSORS_MAX)?;
    let key_count = source.count("keys", KEYS_MAX)?;
    let mut keys = BTreeMap::new();
    for _ in 0..key_count {
        let key = source.text(KEY_BYTES_MAX)?;
        let key = key.ok_or_else(|| HeadError::Key(String::new()))?;
        let value = source.value(&key)?;
        if let Some(value) = value
            && !keys.contains_key(&key)
        {
            keys.insert(key, value);
        } else {
            return Err(HeadError::Key(shown(&key)));
        }
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..tensor_count {
        let name = source.text(NAME_BYTES_MAX)?;
        let name = name.ok_or_else(|| HeadError::Tensor(String::new()))?;
        let entry = source.entry()?;
        if let Some(entry) = entry
            && !tensors.contains_key(&name)
        {
            tensors.insert(name, entry);
        } else {
            return Err(HeadError::Tensor(shown(&name)));
        }
    }
    let alignment = match keys.get("general.alignment") {
        None => super::file::ALIGNMENT as u64,
        Some(Kept::Whole(value)) if value.is_power_of_two() && *value <= ALIGNMENT_MAX => *value,
        Some(_) => return Err(HeadError::Key("general.alignment".to_owned())),
    };
    Ok(Head {
        keys,
        tensors,
        data_begin: source.position.next_multiple_of(alignment),
    })
}

/// As much of a name as an error repeats.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARACTERS).collect()
}

struct Source<R> {
    reader: R,
    position: u64,
    end: u64,
}

impl<R: Read> Source<R> {
    /// Whether so many bytes more can be there at all.
    fn expect(&self, bytes: u64) -> Result<(), HeadError> {
        let there = self.end - self.position;
        (bytes <= there).then_some(()).ok_or(HeadError::CutOff)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), HeadError> {
        self.expect(out.len() as u64)?;
        self.reader
            .read_exact(out)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => HeadError::CutOff,
                _ => HeadError::Io(error),
            })?;
        self.position += out.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeadError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, HeadError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, HeadError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, what: &'static str, most: u64) -> Result<u64, HeadError> {
        let count = self.u64()?;
        let fits = count <= most;
        fits.then_some(count).ok_or(HeadError::TooMany(what))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), HeadError> {
        self.expect(bytes)?;
        let mut rest = bytes;
        while rest > 0 {
            let mut piece = [0; 4_096];
            let length = rest.min(piece.len() as u64) as usize;
            self.fill(&mut piece[..length])?;
            rest -= length as u64;
        }
        Ok(())
    }

    /// A text, or nothing where it is longer than `most` or no UTF-8.
    fn text(&mut self, most: u64) -> Result<Option<String>, HeadError> {
        let length = self.u64()?;
        self.expect(length)?;
        if length > most {
            self.skip(length)?;
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes).ok())
    }

    /// The value of a key, or nothing where its kind is none.
    fn value(&mut self, key: &str) -> Result<Option<Kept>, HeadError> {
        let kind = self.u32()?;
        Ok(Some(match kind {
            0 => Kept::Whole(self.array::<1>()?[0].into()),
            2 => Kept::Whole(u16::from_le_bytes(self.array()?).into()),
            4 => Kept::Whole(self.u32()?.into()),
            10 => Kept::Whole(self.u64()?),
            1 => signed(i8::from_le_bytes(self.array()?).into()),
            3 => signed(i16::from_le_bytes(self.array()?).into()),
            5 => signed(i32::from_le_bytes(self.array()?).into()),
            11 => signed(i64::from_le_bytes(self.array()?)),
            6 => Kept::Number(f32::from_le_bytes(self.array()?).into()),
            12 => Kept::Number(f64::from_le_bytes(self.array()?)),
            7 => Kept::Truth(self.array::<1>()?[0] != 0),
            8 => self.text(TEXT_BYTES_MAX)?.map_or(Kept::Passed, Kept::Text),
            9 => return self.list(key),
            _ => return Ok(None),
        }))
    }

    fn list(&mut self, key: &str) -> Result<Option<Kept>, HeadError> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            // A text has at least its length.
            8 | 10..=12 => 8,
            _ => return Ok(None),
        };
        let bytes = count.checked_mul(size).ok_or(HeadError::CutOff)?;
        self.expect(bytes)?;
        let kept = [TOKENS, MERGES, TOKEN_TYPES].contains(&key);
        if kept && count > LIST_MAX {
            return Err(HeadError::TooMany("tokens and merges"));
        }
        if kind == 8 {
            return self.texts(kept, count).map(Some);
        }
        if !(kept && kind == 5) {
            self.skip(bytes)?;
            return Ok(Some(Kept::Passed));
        }
        let mut numbers = Vec::with_capacity(count as usize);
        for _ in 0..count {
            numbers.push(i32::from_le_bytes(self.array()?));
        }
        Ok(Some(Kept::Signed(numbers)))
    }

    fn texts(&mut self, kept: bool, count: u64) -> Result<Kept, HeadError> {
        let mut texts = Vec::new();
        let mut all = kept;
        for _ in 0..count {
            let text = self.text(if kept { TEXT_BYTES_MAX } else { 0 })?;
            match text {
                Some(text) if kept => texts.push(text),
                _ => all = false,
            }
        }
        Ok(if all {
            Kept::Texts(texts)
        } else {
            Kept::Passed
        })
    }

    fn entry(&mut self) -> Result<Option<Entry>, HeadError> {
        let count = self.u32()?;
        if !(1..=4).contains(&count) {
            return Ok(None);
        }
        let mut dimensions = Vec::new();
        for _ in 0..count {
            dimensions.push(self.u64()?);
        }
        let (format, offset) = (self.u32()?, self.u64()?);
        Ok(Some(Entry {
            dimensions,
            format,
            offset,
        }))
    }
}

/// A whole number that may not be negative; below zero it is nothing that a model has.
fn signed(number: i64) -> Kept {
    u64::try_from(number).map_or(Kept::Passed, Kept::Whole)
}

/// The texts of the list under `key`, each of them once.
pub(super) fn distinct(texts: &[String]) -> bool {
    let mut seen = BTreeSet::new();
    texts.iter().all(|text| seen.insert(text))
}
