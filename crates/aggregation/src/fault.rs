//! What is wrong with a section that a stranger sent, or with values that cannot be sent.

use thiserror::Error;

use crate::numerics::to_bfloat16;

/// The largest magnitude of a level, and of an accumulated value: 2^40. Far more than any update has, and so little
/// that no sum of a round overflows.
pub const VALUE_MAX: f32 = 1_099_511_627_776.0;

/// Returns the largest scale of codes up to `code_max`: the one that values up to [`VALUE_MAX`] give.
pub(crate) fn scale_max(code_max: i8) -> f32 {
    to_bfloat16(VALUE_MAX / f32::from(code_max))
}

/// Why a section is not the one encoding of any values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SectionFault {
    /// The section has another length than its tensor's shape gives.
    #[error("it has {got} bytes where {expected} are expected")]
    Length {
        /// What the shape and the compression give.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// A level or a scale is negative, not a number, not normal where it must be, or too large.
    #[error("a level or a scale is out of bounds")]
    Level,
    /// The high level is not above the low one.
    #[error("the high level is not above the low one")]
    LevelOrder,
    /// A level that is stated is used by no value.
    #[error("no value has one of the levels")]
    LevelUnused,
    /// A value uses the high level where none is stated.
    #[error("a value has the high level, which is not stated")]
    LevelMissing,
    /// The indices of a chunk do not ascend, or one stands twice.
    #[error("the indices of a chunk do not ascend")]
    IndexOrder,
    /// An index lies behind the chunk's end.
    #[error("an index lies behind its chunk's end")]
    IndexRange,
    /// Bits that pad the last byte are not zero.
    #[error("bits that mean nothing are not zero")]
    Padding,
    /// A value of zero has a sign.
    #[error("a value of zero is marked as negative")]
    ZeroSign,
    /// Values of zero are not at the lowest indices that are free.
    #[error("a value of zero is not at the lowest free index")]
    ZeroPlace,
    /// A code lies outside the symmetric range.
    #[error("a code lies outside its range")]
    CodeRange,
    /// No code of a group reaches the end of the range, so that a smaller scale says the same or more.
    #[error("no code of a group reaches the end of the range")]
    ScaleLoose,
    /// A group without a scale has codes other than zero.
    #[error("a group whose scale is zero has other codes than zero")]
    ZeroScale,
}

/// Why values cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// There are more or fewer values, or tensors, than the layout has.
    #[error("tensor {0} does not have the values that the layout gives it")]
    Values(usize),
    /// A value is infinite or not a number: the training diverged.
    #[error("tensor {0} has a value that is not finite")]
    NotFinite(usize),
    /// A level or a scale exceeds its bound: the training diverged.
    #[error("tensor {0} has values beyond 2^40")]
    TooLarge(usize),
}

/// The same, where the tensor's number is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsendable {
    NotFinite,
    TooLarge,
}

impl Unsendable {
    pub(crate) fn of_tensor(self, tensor: usize) -> EncodeError {
        match self {
            Self::NotFinite => EncodeError::NotFinite(tensor),
            Self::TooLarge => EncodeError::TooLarge(tensor),
        }
    }
}
