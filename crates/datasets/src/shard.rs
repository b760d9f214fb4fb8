//! Shards: files of a fixed number of tokens, little endian, named by their BLAKE3 hash. spec: 15, section 3.

use thiserror::Error;

use crate::hash::{FileSeal, SealError};

/// The tokens of a shard that is not the last of its part, unless the importer says otherwise.
pub const SHARD_TOKENS: u32 = 1 << 20;
/// The most tokens that a shard may have.
pub const SHARD_TOKENS_MAX: u32 = 1 << 24;

/// How many bytes a token takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWidth {
    /// Two bytes, for vocabularies of at most 65,536 tokens.
    Two,
    /// Four bytes, for larger ones.
    Four,
}

/// Why bytes are not the shard that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// Other bytes than those that the manifest names.
    #[error("these are not the bytes that the manifest names")]
    Seal(#[from] SealError),
    /// A part of a token at the end.
    #[error("{bytes} bytes are not a whole number of tokens of {width} bytes")]
    Broken {
        /// The length.
        bytes: usize,
        /// The bytes of a token.
        width: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {place} is {token}, and the vocabulary ends before {vocabulary}")]
    Token {
        /// Which one, from 0.
        place: usize,
        /// What it is.
        token: u32,
        /// How many there are.
        vocabulary: u32,
    },
}

impl TokenWidth {
    /// Returns the width that a vocabulary of so many tokens has.
    pub fn of(vocabulary: u32) -> Self {
        if vocabulary <= 1 << 16 {
            Self::Two
        } else {
            Self::Four
        }
    }

    /// Returns the width in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Returns the bytes of `tokens`, each of which fits.
    pub fn encode(self, tokens: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(tokens.len() * self.bytes());
        for token in tokens {
            bytes.extend_from_slice(&token.to_le_bytes()[..self.bytes()]);
        }
        bytes
    }
}

/// Returns the tokens of a shard, after its hash was compared.
///
/// # Errors
/// When the bytes differ from what `seal` says, or are not tokens of the vocabulary.
pub fn tokens(bytes: &[u8], seal: &FileSeal, vocabulary: u32) -> Result<Vec<u32>, ShardError> {
    seal.check(bytes)?;
    let width = TokenWidth::of(vocabulary).bytes();
    if !bytes.len().is_multiple_of(width) {
        let bytes = bytes.len();
        return Err(ShardError::Broken { bytes, width });
    }
    let mut tokens = Vec::with_capacity(bytes.len() / width);
    for (place, token) in bytes.chunks_exact(width).enumerate() {
        let mut four = [0; 4];
        four[..width].copy_from_slice(token);
        let token = u32::from_le_bytes(four);
        if token >= vocabulary {
            return Err(ShardError::Token {
                place,
                token,
                vocabulary,
            });
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_read_back_as_they_were_written(
            vocabulary in 1_u32..200_000, seeds in prop::collection::vec(any::<u32>(), 0..200),
        ) {
            let written: Vec<u32> = seeds.iter().map(|seed| seed % vocabulary).collect();
            let bytes = TokenWidth::of(vocabulary).encode(&written);
            let read = tokens(&bytes, &FileSeal::of(&bytes), vocabulary);
            prop_assert_eq!(read, Ok(written));
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0_usize..64, change in 1_u8..) {
            let mut bytes = TokenWidth::Two.encode(&[5; 32]);
            let seal = FileSeal::of(&bytes);
            bytes[at] ^= change;
            let different = matches!(tokens(&bytes, &seal, 65_536), Err(ShardError::Seal(_)));
            prop_assert!(different);
        }
    }

    #[test]
    fn what_is_not_a_row_of_tokens_is_refused() {
        let of = |bytes: &[u8], vocabulary| tokens(bytes, &FileSeal::of(bytes), vocabulary);
        let broken = ShardError::Broken { bytes: 3, width: 2 };
        assert_eq!(of(&[0, 0, 0], 300), Err(broken));
        let outside = ShardError::Token {
            place: 1,
            token: 300,
            vocabulary: 300,
        };
        assert_eq!(of(&[0, 0, 44, 1], 300), Err(outside));
        assert_eq!(TokenWidth::of(65_536), TokenWidth::Two);
        assert_eq!(TokenWidth::of(65_537), TokenWidth::Four);
    }
}
