//! What every device can see of a stranger's contribution without training (spec: 13 aggregation, sections 3 and 9).

use hearth_aggregation::{Contribution, Overlap, ReadError};
use hearth_protocol::content::ContentHash;
use thiserror::Error;

use crate::workshop::Workshop;

/// What a contribution looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct Looks {
    /// Its name.
    pub hash: ContentHash,
    /// The norm of each tensor.
    pub norms: Vec<f64>,
    /// The norm of all values.
    pub norm: f64,
}

/// Two contributions cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OverlapError {
    /// The first one is none.
    #[error("the first one is no contribution to this run")]
    First(#[source] ReadError),
    /// The second one is none.
    #[error("the second one is no contribution to this run")]
    Second(#[source] ReadError),
}

impl Workshop {
    /// Checks that bytes are a contribution to this run: their length, their form, and that no other bytes say the same.
    ///
    /// Its values are finite then, and none is beyond 2^40.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub fn check(&self, contribution: &[u8]) -> Result<Looks, ReadError> {
        let read = Contribution::read(&self.settings.sections, contribution)?;
        let norms = read.norms();
        let squares: f64 = norms.iter().map(|norm| norm * norm).sum();
        Ok(Looks {
            hash: ContentHash::of(contribution),
            norms,
            norm: squares.sqrt(),
        })
    }

    /// Counts what a contribution has in common with another one of its round: a copy shares nearly all.
    ///
    /// # Errors
    /// When one of them is no contribution to this run.
    pub fn overlap(&self, contribution: &[u8], other: &[u8]) -> Result<Overlap, OverlapError> {
        let sections = &self.settings.sections;
        let first = Contribution::read(sections, contribution).map_err(OverlapError::First)?;
        let second = Contribution::read(sections, other).map_err(OverlapError::Second)?;
        Ok(first
            .overlap(&second)
            .expect("both were read as contributions to one run"))
    }
}
