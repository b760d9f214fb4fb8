//! Fields that are an object, or a word in its place, read so that a list is neither.
//!
//! serde buffers what it reads for an enum without names, or with its name inside, and takes a list of the fields'
//! values then. No API means that.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a word or an object; `expected` says in an error what may stand there.
pub(crate) fn or_word<'de, D, W, O, T>(
    deserializer: D,
    expected: &'static str,
    word: fn(W) -> T,
    object: fn(O) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    W: Deserialize<'de>,
    O: Deserialize<'de>,
{
    deserializer.deserialize_any(OrWord {
        expected,
        word,
        object,
        read: PhantomData,
    })
}

/// Reads an object, or nothing where there is `null`.
pub(crate) fn optional<'de, D, O>(deserializer: D) -> Result<Option<O>, D::Error>
where
    D: Deserializer<'de>,
    O: Deserialize<'de>,
{
    deserializer.deserialize_any(Optional(PhantomData))
}

struct OrWord<W, O, T> {
    expected: &'static str,
    word: fn(W) -> T,
    object: fn(O) -> T,
    read: PhantomData<(W, O)>,
}

impl<'de, W: Deserialize<'de>, O: Deserialize<'de>, T> Visitor<'de> for OrWord<W, O, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
        W::deserialize(StrDeserializer::new(word)).map(self.word)
    }

    fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<T, A::Error> {
        O::deserialize(MapAccessDeserializer::new(pairs)).map(self.object)
    }
}

struct Optional<O>(PhantomData<O>);

impl<'de, O: Deserialize<'de>> Visitor<'de> for Optional<O> {
    type Value = Option<O>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a type")
    }

    fn visit_unit<E: Error>(self) -> Result<Option<O>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<Option<O>, A::Error> {
        O::deserialize(MapAccessDeserializer::new(pairs)).map(Some)
    }
}
