//! Bytes that are serialized in one piece, and lists that end.
//!
//! `Vec<u8>` is serialized one element at a time, which takes a tenth of a second for the words of a
//! large vocabulary.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::gguf::VOCABULARY_MAX;

/// Bytes that are serialized in one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Packed(pub(crate) Vec<u8>);

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Packed;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Packed, E> {
                Ok(Packed(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// Reads a list with an entry for each token, up to the largest vocabulary.
///
/// An entry can take more memory than it takes bytes in a frame, so the bound on a frame does not bound the memory.
pub(crate) fn tokens<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Tokens<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Tokens<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {VOCABULARY_MAX} tokens")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if list.len() as u64 >= VOCABULARY_MAX {
                    return Err(A::Error::custom("too many tokens"));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Tokens(PhantomData))
}
