//! Fields that are a text or a list, read so that an error knows which element is wrong.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a text or a list; `expected` says in an error what may stand there.
pub(crate) fn read<'de, D, L, T>(
    deserializer: D,
    expected: &'static str,
    text: fn(String) -> T,
    list: fn(Vec<L>) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    L: Deserialize<'de>,
{
    deserializer.deserialize_any(TextOrList {
        expected,
        text,
        list,
        element: PhantomData,
    })
}

struct TextOrList<L, T> {
    expected: &'static str,
    text: fn(String) -> T,
    list: fn(Vec<L>) -> T,
    element: PhantomData<L>,
}

impl<'de, L: Deserialize<'de>, T> Visitor<'de> for TextOrList<L, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok((self.text)(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<T, E> {
        Ok((self.text)(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<T, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(elements)).map(self.list)
    }
}
