//! The two hashes of a file: BLAKE3, by which devices name and verify it, and SHA-256, which Croissant asks for.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// 32 bytes of a hash, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash32(pub [u8; 32]);

/// Why a text is not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a hash has 64 lower-case hex digits")]
pub struct HashError;

impl Hash32 {
    /// Returns the BLAKE3 hash of `bytes`.
    pub fn blake3(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the SHA-256 hash of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash32({self})")
    }
}

impl FromStr for Hash32 {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(HashError);
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(HashError),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// What a manifest says of a file, by which its bytes are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSeal {
    /// Its BLAKE3 hash.
    pub blake3: Hash32,
    /// Its SHA-256 hash.
    pub sha256: Hash32,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// How bytes differ from what a manifest says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// Another length.
    #[error("it has {found} bytes, and the manifest says {stated}")]
    Length {
        /// What is there.
        found: u64,
        /// What the manifest says.
        stated: u64,
    },
    /// Another BLAKE3 hash.
    #[error("its BLAKE3 hash is {found}, and the manifest says {stated}")]
    Blake3 {
        /// What is there.
        found: Hash32,
        /// What the manifest says.
        stated: Hash32,
    },
    /// Another SHA-256 hash.
    #[error("its SHA-256 hash is {found}, and the manifest says {stated}")]
    Sha256 {
        /// What is there.
        found: Hash32,
        /// What the manifest says.
        stated: Hash32,
    },
}

impl FileSeal {
    /// Returns what a manifest says of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            blake3: Hash32::blake3(bytes),
            sha256: Hash32::sha256(bytes),
            bytes: bytes.len() as u64,
        }
    }

    /// Checks the length and the BLAKE3 hash, which suffice for what is read.
    ///
    /// # Errors
    /// What differs first.
    pub fn check(&self, bytes: &[u8]) -> Result<(), SealError> {
        let (found, stated) = (bytes.len() as u64, self.bytes);
        if found != stated {
            return Err(SealError::Length { found, stated });
        }
        let (found, stated) = (Hash32::blake3(bytes), self.blake3);
        if found != stated {
            return Err(SealError::Blake3 { found, stated });
        }
        Ok(())
    }

    /// Checks both hashes.
    ///
    /// # Errors
    /// What differs first.
    pub fn check_all(&self, bytes: &[u8]) -> Result<(), SealError> {
        self.check(bytes)?;
        let (found, stated) = (Hash32::sha256(bytes), self.sha256);
        if found != stated {
            return Err(SealError::Sha256 { found, stated });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_as_it_was_written_and_in_no_other_form() {
        let hash = Hash32::blake3(b"hearth");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let upper = hash.to_string().to_uppercase();
        for wrong in ["", "00", &*upper, &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<Hash32>(), Err(HashError), "{wrong}");
        }
    }

    #[test]
    fn the_hashes_are_those_of_the_standards() {
        assert_eq!(
            Hash32::sha256(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            Hash32::blake3(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
