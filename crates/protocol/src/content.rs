//! Content-addressed things: a BLAKE3 hash is the name of the bytes it was computed from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The BLAKE3 hash of some bytes, written as 64 lower-case hex digits.
///
/// In JSON it is a string; in compact encodings it is 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ContentHash(pub [u8; 32]);

/// Why a text is not a content hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("content is named by 64 hex digits (BLAKE3)")]
pub struct ContentHashError;

impl ContentHash {
    /// The name of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The name of a sequence of token ids: BLAKE3 over their little-endian 32-bit form.
    pub fn of_ids(ids: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy_primitives::hex::encode(self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = ContentHashError;

    fn from_str(text: &str) -> Result<Self, ContentHashError> {
        if text.len() != 64 {
            return Err(ContentHashError);
        }
        let mut bytes = [0; 32];
        alloy_primitives::hex::decode_to_slice(text, &mut bytes).map_err(|_| ContentHashError)?;
        Ok(Self(bytes))
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_as_it_was_written() {
        let hash = ContentHash::of(b"hearth");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<ContentHash>(&json).unwrap(), hash);
        for wrong in ["", "00", &"0x".repeat(32), &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(wrong.parse::<ContentHash>(), Err(ContentHashError));
        }
    }

    #[test]
    fn ids_are_hashed_in_their_order() {
        assert_ne!(ContentHash::of_ids(&[1, 2]), ContentHash::of_ids(&[2, 1]));
        assert_eq!(
            ContentHash::of_ids(&[1, 256]),
            ContentHash::of(&[1, 0, 0, 0, 0, 1, 0, 0])
        );
    }
}
