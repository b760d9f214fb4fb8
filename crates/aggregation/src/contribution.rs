//! A contribution: a header, and a section for each tensor (spec: aggregation, section 3).

use thiserror::Error;

use crate::fault::{EncodeError, SectionFault};
use crate::layout::{HEADER_BYTES, Layout};
use crate::overlap::Overlap;
use crate::section::{self, Section};

/// One trainer's update of one round: bytes that were checked against the run's layout.
#[derive(Debug, Clone, Copy)]
pub struct Contribution<'a> {
    layout: &'a Layout,
    bytes: &'a [u8],
}

/// Why bytes are not a contribution to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The length is not the one that the layout gives.
    #[error("it has {got} bytes where the run's contributions have {expected}")]
    Length {
        /// What the layout gives.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// It begins as something else, or as another version.
    #[error("it does not begin as a contribution of this version")]
    Domain,
    /// The header names another compression or another number of tensors than the manifest.
    #[error("its header is not the run's")]
    Header,
    /// A section is not the one encoding of any values.
    #[error("the section of tensor {tensor} is refused")]
    Section {
        /// The tensor's number.
        tensor: usize,
        /// What is wrong with it.
        #[source]
        fault: SectionFault,
    },
}

impl<'a> Contribution<'a> {
    /// Checks the bytes of a contribution. Nothing is allocated, and nothing is looked at beyond the length that the
    /// layout gives.
    ///
    /// # Errors
    /// Returns why these bytes are not a contribution to this run, or not the only encoding of their values.
    pub fn read(layout: &'a Layout, bytes: &'a [u8]) -> Result<Self, ReadError> {
        if bytes.len() != layout.bytes() {
            let (expected, got) = (layout.bytes(), bytes.len());
            return Err(ReadError::Length { expected, got });
        }
        Self::check_header(layout, &bytes[..HEADER_BYTES])?;
        for tensor in 0..layout.tensors().len() {
            Section::read(layout, tensor, &bytes[layout.section(tensor)])
                .map_err(|fault| ReadError::Section { tensor, fault })?;
        }
        Ok(Self { layout, bytes })
    }

    /// Checks the first bytes of a contribution of which the sections are read one by one.
    ///
    /// # Errors
    /// Returns why these bytes do not begin a contribution to this run.
    pub fn check_header(layout: &Layout, bytes: &[u8]) -> Result<(), ReadError> {
        let header = layout.header();
        if bytes.len() != header.len() {
            let (expected, got) = (header.len(), bytes.len());
            return Err(ReadError::Length { expected, got });
        }
        let domain = crate::layout::DOMAIN.len();
        if bytes[..domain] != header[..domain] {
            return Err(ReadError::Domain);
        }
        if bytes != header {
            return Err(ReadError::Header);
        }
        Ok(())
    }

    /// Returns the layout that it was checked against.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Returns the bytes that were checked: the only ones with these values.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns what it says of a tensor.
    ///
    /// # Panics
    /// Panics when the layout has no such tensor.
    pub fn section(&self, tensor: usize) -> Section<'a> {
        let bytes = &self.bytes[self.layout.section(tensor)];
        Section::checked(self.layout, tensor, bytes)
    }

    /// Returns each section in the manifest's order.
    pub fn sections(&self) -> impl Iterator<Item = Section<'a>> {
        (0..self.layout.tensors().len()).map(|tensor| self.section(tensor))
    }

    /// Returns the norm of each tensor's values.
    pub fn norms(&self) -> Vec<f64> {
        self.sections().map(|section| section.norm()).collect()
    }

    /// Returns how much of what this one sends another one sends too. Nothing when they are of different layouts.
    pub fn overlap(&self, other: &Contribution<'_>) -> Option<Overlap> {
        if self.layout != other.layout {
            return None;
        }
        let mut overlap = Overlap::default();
        for (own, others) in self.sections().zip(other.sections()) {
            overlap.count(&own, &others);
        }
        Some(overlap)
    }
}

/// Compresses values, tensor by tensor in the layout's order. What a trainer sends goes through
/// [`crate::ErrorFeedback`], which keeps what is lost here.
///
/// # Errors
/// Returns the first tensor whose values do not fit the layout or cannot be sent.
pub fn encode(layout: &Layout, tensors: &[&[f32]]) -> Result<Vec<u8>, EncodeError> {
    let shapes = layout.tensors();
    if tensors.len() != shapes.len() {
        return Err(EncodeError::Values(tensors.len().min(shapes.len())));
    }
    let mut bytes = Vec::with_capacity(layout.bytes());
    bytes.extend(layout.header());
    for (tensor, values) in tensors.iter().enumerate() {
        section::write(layout, tensor, values, &mut bytes)?;
    }
    Ok(bytes)
}
