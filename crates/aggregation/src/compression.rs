//! How a contribution's values are written, and how many bytes that takes (spec: aggregation, section 3).

use crate::shape::{CHUNK_VALUES, TensorShape};

/// Bytes of a bfloat16 level or scale.
pub(crate) const LEVEL_BYTES: usize = 2;
/// Values of 4 bits that share a scale.
pub(crate) const GROUP_VALUES: usize = 64;

/// How values are written. The run's manifest chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The `k` largest of each 4,096 values, with indices of 12 bits and values of 2.
    TopK {
        /// How many of a full chunk's values are kept, 1 to 4,096. Shorter chunks keep the same share, rounded up.
        k: u16,
    },
    /// All values in 8 bits, with a scale for each chunk.
    Dense8,
    /// All values in 4 bits, with a scale for each 64.
    Dense4,
}

impl Compression {
    /// Returns the number that the header names it by.
    pub(crate) fn scheme(self) -> u16 {
        match self {
            Self::TopK { .. } => 1,
            Self::Dense8 => 2,
            Self::Dense4 => 3,
        }
    }

    /// Returns the header's `k`: 0 where all values are sent.
    pub(crate) fn k(self) -> u16 {
        match self {
            Self::TopK { k } => k,
            Self::Dense8 | Self::Dense4 => 0,
        }
    }

    /// Returns the bytes of a tensor's section.
    pub(crate) fn section_bytes(self, shape: TensorShape) -> u64 {
        let chunks: u64 = shape
            .chunk_lengths()
            .into_iter()
            .map(|(values, count)| count * self.chunk_bytes(values))
            .sum();
        match self {
            Self::TopK { .. } => 2 * LEVEL_BYTES as u64 + chunks,
            Self::Dense8 | Self::Dense4 => chunks,
        }
    }

    /// Returns the bytes of a chunk with this many values.
    fn chunk_bytes(self, values: u64) -> u64 {
        match self {
            Self::TopK { k } => {
                let kept = kept(k, values);
                (kept * 12).div_ceil(8) + (kept * 2).div_ceil(8)
            }
            Self::Dense8 => LEVEL_BYTES as u64 + values,
            Self::Dense4 => {
                let group = GROUP_VALUES as u64;
                let (full, rest) = (values / group, values % group);
                let level = LEVEL_BYTES as u64;
                let last = if rest > 0 {
                    level + rest.div_ceil(2)
                } else {
                    0
                };
                full * (level + group / 2) + last
            }
        }
    }
}

/// Returns how many of a chunk's values are kept: the share `k / 4096`, rounded up.
pub(crate) fn kept(k: u16, values: u64) -> u64 {
    (u64::from(k) * values).div_ceil(CHUNK_VALUES as u64)
}

/// The same for the length of a chunk that is in memory.
pub(crate) fn kept_of(k: u16, values: usize) -> usize {
    (usize::from(k) * values).div_ceil(CHUNK_VALUES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_takes_the_bits_that_the_specification_says() {
        let cases = [
            (Compression::TopK { k: 64 }, 4_096, 112),
            (Compression::TopK { k: 64 }, 1, 3),
            (Compression::TopK { k: 64 }, 65, 4),
            (Compression::TopK { k: 4_096 }, 3, 6),
            (Compression::Dense8, 4_096, 4_098),
            (Compression::Dense4, 4_096, 64 * 34),
            (Compression::Dense4, 67, 34 + 2 + 2),
        ];
        for (compression, values, bytes) in cases {
            assert_eq!(
                compression.chunk_bytes(values),
                bytes,
                "{compression:?}, {values}"
            );
        }
    }

    #[test]
    fn a_ragged_chunk_keeps_the_same_share_rounded_up() {
        let cases = [
            (64, 4_096, 64),
            (64, 4_095, 64),
            (64, 64, 1),
            (64, 65, 2),
            (4_096, 9, 9),
        ];
        for (k, values, expected) in cases {
            assert_eq!(kept(k, values), expected, "{k} of {values}");
            assert_eq!(kept_of(k, values as usize) as u64, expected);
        }
    }
}
