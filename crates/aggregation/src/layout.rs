//! What a run's manifest says about its contributions: the tensors and the compression, and with them every
//! length and offset (spec: aggregation, section 3).

use std::ops::Range;

use thiserror::Error;

use crate::compression::Compression;
use crate::shape::{CHUNK_VALUES, TensorShape};

/// The first bytes of every contribution: what it is, and the version of its form.
pub const DOMAIN: &[u8; 16] = b"hearth-contrib/1";
/// Bytes before the first section: the domain, the scheme, `k` and the number of tensors.
pub const HEADER_BYTES: usize = DOMAIN.len() + 2 + 2 + 4;
/// The most tensors of a run.
pub const TENSORS_MAX: usize = 65_536;
/// The most values of a run.
pub const VALUES_MAX: u64 = 1 << 36;

/// The tensors of a run in the manifest's order, and how their values are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TensorShape>,
    compression: Compression,
    /// Where each section begins, and where the last one ends.
    offsets: Vec<usize>,
}

/// A manifest whose contributions cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The number of tensors is out of bounds.
    #[error("there are {0} tensors; a run has 1 to {TENSORS_MAX}")]
    Tensors(usize),
    /// A tensor has a dimension of zero.
    #[error("tensor {0} has no values")]
    NoValues(usize),
    /// There are more values than a run may have, or than this machine can address.
    #[error("the tensors up to number {0} have too many values for a run or for this machine")]
    TooManyValues(usize),
    /// `k` is out of bounds.
    #[error("k is {0}; it must be 1 to {CHUNK_VALUES}")]
    Kept(u16),
}

impl Layout {
    /// Puts together what the manifest says.
    ///
    /// # Errors
    /// Returns what is out of bounds.
    pub fn new(tensors: Vec<TensorShape>, compression: Compression) -> Result<Self, LayoutError> {
        if !(1..=TENSORS_MAX).contains(&tensors.len()) {
            return Err(LayoutError::Tensors(tensors.len()));
        }
        if let Compression::TopK { k } = compression
            && !(1..=CHUNK_VALUES).contains(&usize::from(k))
        {
            return Err(LayoutError::Kept(k));
        }
        let mut offsets = Vec::with_capacity(tensors.len() + 1);
        let mut end = HEADER_BYTES as u64;
        let mut values = 0;
        offsets.push(HEADER_BYTES);
        for (number, shape) in tensors.iter().enumerate() {
            if shape.values() == 0 {
                return Err(LayoutError::NoValues(number));
            }
            // One shape has less than 2^64 values, and the sum stays at most 2^36 before it is added.
            values = shape.values().saturating_add(values);
            if values > VALUES_MAX {
                return Err(LayoutError::TooManyValues(number));
            }
            end += compression.section_bytes(*shape);
            let fits = usize::try_from(shape.values()).is_ok();
            let offset = usize::try_from(end).ok().filter(|_| fits);
            offsets.push(offset.ok_or(LayoutError::TooManyValues(number))?);
        }
        Ok(Self {
            tensors,
            compression,
            offsets,
        })
    }

    /// Returns the tensors' shapes.
    pub fn tensors(&self) -> &[TensorShape] {
        &self.tensors
    }

    /// Returns how values are written.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Returns the number of values of all tensors.
    pub fn values(&self) -> u64 {
        self.tensors.iter().map(|shape| shape.values()).sum()
    }

    /// Returns the length of every contribution in bytes.
    pub fn bytes(&self) -> usize {
        *self.offsets.last().expect("a layout has the header's end")
    }

    /// Returns where the section of a tensor lies in a contribution, so that one tensor can be read from a file
    /// without the others.
    ///
    /// # Panics
    /// Panics when there is no such tensor.
    pub fn section(&self, tensor: usize) -> Range<usize> {
        self.offsets[tensor]..self.offsets[tensor + 1]
    }

    /// Returns what stands before the sections.
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let tensors =
            u32::try_from(self.tensors.len()).expect("a layout has at most 65,536 tensors");
        header[..16].copy_from_slice(DOMAIN);
        header[16..18].copy_from_slice(&self.compression.scheme().to_le_bytes());
        header[18..20].copy_from_slice(&self.compression.k().to_le_bytes());
        header[20..].copy_from_slice(&tensors.to_le_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP_64: Compression = Compression::TopK { k: 64 };

    fn vector(values: u32) -> TensorShape {
        TensorShape::Vector { values }
    }

    #[test]
    fn every_byte_is_accounted_for() {
        let layout = Layout::new(vec![vector(4_096), vector(1)], TOP_64).unwrap();
        assert_eq!(layout.section(0), 24..24 + 4 + 112);
        assert_eq!(layout.section(1), 140..140 + 4 + 3);
        assert_eq!(layout.bytes(), 147);
        assert_eq!(layout.values(), 4_097);
        assert_eq!(&layout.header(), b"hearth-contrib/1\x01\0\x40\0\x02\0\0\0");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let huge = TensorShape::Matrix {
            rows: u32::MAX,
            columns: u32::MAX,
        };
        let cases = [
            (vec![], TOP_64, LayoutError::Tensors(0)),
            (
                vec![vector(1); TENSORS_MAX + 1],
                TOP_64,
                LayoutError::Tensors(TENSORS_MAX + 1),
            ),
            (vec![vector(1), vector(0)], TOP_64, LayoutError::NoValues(1)),
            (
                vec![vector(1), huge],
                Compression::Dense8,
                LayoutError::TooManyValues(1),
            ),
            (
                vec![vector(1)],
                Compression::TopK { k: 0 },
                LayoutError::Kept(0),
            ),
            (
                vec![vector(1)],
                Compression::TopK { k: 4_097 },
                LayoutError::Kept(4_097),
            ),
        ];
        for (tensors, compression, error) in cases {
            assert_eq!(Layout::new(tensors, compression), Err(error));
        }
    }
}
