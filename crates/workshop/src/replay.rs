//! Doing a stranger's work again, and comparing (spec: 16 runs, section 2.4).

use std::io;

use crate::progress::Watch;
use crate::train::{Claim, TrainError, WorkOrder};
use crate::workshop::Workshop;

/// Something that a replay gave otherwise than it was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The contribution.
    Contribution,
    /// What the trainer took along.
    LocalState,
    /// The loss of the first step.
    FirstLoss,
    /// The loss of the last step.
    LastLoss,
    /// All of it: the work ends without a result for everyone who does it.
    NoResult,
}

/// What a replay found.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What the replay gave; nothing where the work ends without a result.
    pub found: Option<Claim>,
    /// Every difference; none where the work was done as it was claimed.
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// Whether the work was done as it was claimed.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Workshop {
    /// Does the work of an order again, on the way of [`Workshop::train`], and compares it with what was claimed.
    ///
    /// # Errors
    /// When this device cannot do the work; that says nothing about the trainer, unless the order itself is none.
    pub fn replay(
        &self,
        order: WorkOrder<'_>,
        claimed: &Claim,
        watch: Watch<'_>,
    ) -> Result<Verdict, TrainError> {
        let found = match self.train(order, &mut io::sink(), watch) {
            Ok(work) => work.claim,
            Err(error) if error.is_of_the_work() => {
                let differences = vec![Difference::NoResult];
                return Ok(Verdict {
                    found: None,
                    differences,
                });
            }
            Err(error) => return Err(error),
        };
        let bits = |loss: f32| loss.to_bits();
        let compared = [
            (
                Difference::Contribution,
                found.contribution == claimed.contribution,
            ),
            (Difference::LocalState, found.local == claimed.local),
            (
                Difference::FirstLoss,
                bits(found.first_loss) == bits(claimed.first_loss),
            ),
            (
                Difference::LastLoss,
                bits(found.last_loss) == bits(claimed.last_loss),
            ),
        ];
        let differences = compared.into_iter().filter(|(_, same)| !same);
        let differences = differences.map(|(difference, _)| difference).collect();
        Ok(Verdict {
            found: Some(found),
            differences,
        })
    }
}
