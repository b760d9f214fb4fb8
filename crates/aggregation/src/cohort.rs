//! The admitted contributions of a round, and their sum (spec: aggregation, section 7).
//!
//! A device goes over the contributions twice: once for the norms, of which it keeps one number for each tensor, and
//! once, tensor by tensor, to add them up. So it holds one tensor's sums and one contribution's section at a time,
//! however many contributions there are.

use std::fmt;

use thiserror::Error;

use crate::layout::Layout;
use crate::section::Section;

/// The most contributions of a round.
pub const MEMBERS_MAX: usize = 4_096;

/// Names a trainer; contributions are added in the ascending order of these bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrainerId(pub [u8; 32]);

impl fmt::Debug for TrainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TrainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is known of a contribution before any is added.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Who sent it.
    pub trainer: TrainerId,
    /// The local steps that it is made of: its weight is their share of the run's.
    pub steps: u32,
    /// The norm of each tensor ([`crate::Contribution::norms`]).
    pub norms: Vec<f64>,
}

/// The contributions of a round, in the order in which they are added.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    layout: Layout,
    members: Vec<Member>,
    steps: u32,
    /// The median norm of each tensor.
    medians: Vec<f64>,
}

/// Why contributions are not a round's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CohortError {
    /// The number of contributions is out of bounds.
    #[error("there are {0} contributions; a round has 1 to {MEMBERS_MAX}")]
    Members(usize),
    /// Two are of one trainer.
    #[error("trainer {0} has two contributions")]
    Twice(TrainerId),
    /// One is made of no steps, or of more than the run has in a round.
    #[error("trainer {trainer} states {steps} steps; a round has 1 to {of}")]
    Steps {
        /// Who sent it.
        trainer: TrainerId,
        /// What was stated.
        steps: u32,
        /// The run's steps in a round.
        of: u32,
    },
    /// The norms are not of the layout's tensors, or not finite.
    #[error("the norms of trainer {0} are not those of the run's tensors")]
    Norms(TrainerId),
}

impl Cohort {
    /// Puts the contributions of a round in order. `steps` is the number of local steps that the run has in a round; in
    /// which order the members come does not matter.
    ///
    /// # Errors
    /// Returns the first contribution that is not one of such a round.
    pub fn new(layout: Layout, steps: u32, mut members: Vec<Member>) -> Result<Self, CohortError> {
        if !(1..=MEMBERS_MAX).contains(&members.len()) {
            return Err(CohortError::Members(members.len()));
        }
        members.sort_by_key(|member| member.trainer);
        if let Some(pair) = members
            .windows(2)
            .find(|pair| pair[0].trainer == pair[1].trainer)
        {
            return Err(CohortError::Twice(pair[0].trainer));
        }
        let tensors = layout.tensors().len();
        for member in &members {
            let trainer = member.trainer;
            if !(1..=steps).contains(&member.steps) {
                let (steps, of) = (member.steps, steps);
                return Err(CohortError::Steps { trainer, steps, of });
            }
            let is_norm = |norm: &f64| norm.is_finite() && *norm >= 0.0;
            if member.norms.len() != tensors || !member.norms.iter().all(is_norm) {
                return Err(CohortError::Norms(trainer));
            }
        }
        let median_of = |tensor: usize| {
            let norms = members.iter().map(|member| member.norms[tensor]);
            lower_median(norms.collect())
        };
        let medians = (0..tensors).map(median_of).collect();
        Ok(Self {
            layout,
            members,
            steps,
            medians,
        })
    }

    /// Returns the contributions in the order in which they are added.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the norm that no contribution of a tensor exceeds after clipping.
    ///
    /// # Panics
    /// Panics when the layout has no such tensor.
    pub fn median(&self, tensor: usize) -> f64 {
        self.medians[tensor]
    }

    /// Returns what a member's values of a tensor are multiplied by: its share of the run's steps, times what brings
    /// its norm down to the median. At most 1.
    ///
    /// # Panics
    /// Panics when there is no such member or tensor.
    pub fn factor(&self, member: usize, tensor: usize) -> f32 {
        let member = &self.members[member];
        let share = f64::from(member.steps) / f64::from(self.steps);
        let (norm, median) = (member.norms[tensor], self.medians[tensor]);
        let clip = if norm > median { median / norm } else { 1.0 };
        #[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
        let factor = (share * clip) as f32;
        factor
    }
}

/// Returns the median; of an even number of norms, the lower of the two in the middle.
fn lower_median(mut norms: Vec<f64>) -> f64 {
    let middle = (norms.len() - 1) / 2;
    let (_, median, _) = norms.select_nth_unstable_by(middle, f64::total_cmp);
    *median
}

/// The sum of one tensor over a cohort.
#[derive(Debug)]
pub struct TensorSum<'a> {
    cohort: &'a Cohort,
    tensor: usize,
    added: usize,
    sums: Vec<f32>,
}

/// Why a contribution cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SumError {
    /// Another trainer's contribution comes first.
    #[error("the contribution of trainer {expected} is to be added, not that of {got}")]
    Order {
        /// Whose contribution is next.
        expected: TrainerId,
        /// Whose came.
        got: TrainerId,
    },
    /// All contributions were added already.
    #[error("the contribution of trainer {0} comes after the last one")]
    Complete(TrainerId),
    /// A contribution is missing.
    #[error("the contribution of trainer {0} was not added")]
    Missing(TrainerId),
    /// The section is not of the tensor that is summed.
    #[error("the section of trainer {0} is of another tensor")]
    Tensor(TrainerId),
}

impl<'a> TensorSum<'a> {
    /// Begins with zeros. `room` is used again, so that a device needs the room of its largest tensor only.
    ///
    /// # Panics
    /// Panics when the layout has no such tensor.
    pub fn new(cohort: &'a Cohort, tensor: usize, mut room: Vec<f32>) -> Self {
        let values = cohort.layout.tensors()[tensor].values();
        room.clear();
        room.resize(
            usize::try_from(values).expect("a layout fits the memory"),
            0.0,
        );
        Self {
            cohort,
            tensor,
            added: 0,
            sums: room,
        }
    }

    /// Adds what the next trainer's contribution says of the tensor.
    ///
    /// # Errors
    /// Returns why this is not the next section; nothing is added then.
    pub fn add(&mut self, trainer: TrainerId, section: &Section<'_>) -> Result<(), SumError> {
        let Some(next) = self.cohort.members.get(self.added) else {
            return Err(SumError::Complete(trainer));
        };
        if next.trainer != trainer {
            let (expected, got) = (next.trainer, trainer);
            return Err(SumError::Order { expected, got });
        }
        // The norm is that of the values, so that it also tells sections of equal shape apart.
        let is_same = section.shape() == self.cohort.layout.tensors()[self.tensor]
            && section.norm().to_bits() == next.norms[self.tensor].to_bits();
        if !is_same {
            return Err(SumError::Tensor(trainer));
        }
        section.add_to(self.cohort.factor(self.added, self.tensor), &mut self.sums);
        self.added += 1;
        Ok(())
    }

    /// Divides by the number of contributions, and returns the mean.
    ///
    /// # Errors
    /// Returns [`SumError::Missing`] when one was not added.
    pub fn mean(mut self) -> Result<Vec<f32>, SumError> {
        if let Some(missing) = self.cohort.members.get(self.added) {
            return Err(SumError::Missing(missing.trainer));
        }
        let members = u16::try_from(self.added).expect("a cohort has at most 4,096 members");
        let members = f32::from(members);
        for sum in &mut self.sums {
            *sum /= members;
        }
        Ok(self.sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::Compression;
    use crate::shape::TensorShape;

    fn layout() -> Layout {
        let shape = TensorShape::Vector { values: 2 };
        Layout::new(vec![shape], Compression::Dense8).unwrap()
    }

    fn member(trainer: u8, steps: u32, norm: f64) -> Member {
        Member {
            trainer: TrainerId([trainer; 32]),
            steps,
            norms: vec![norm],
        }
    }

    #[test]
    fn a_norm_is_clipped_to_the_median_and_weighted_by_steps() {
        let members = vec![member(3, 10, 8.0), member(1, 5, 1.0), member(2, 10, 2.0)];
        let cohort = Cohort::new(layout(), 10, members).unwrap();
        assert_eq!(cohort.median(0), 2.0);
        let factors = [0, 1, 2].map(|member| cohort.factor(member, 0));
        assert_eq!(factors, [0.5, 1.0, 0.25]);
    }

    #[test]
    fn of_an_even_number_the_lower_median_counts() {
        assert_eq!(lower_median(vec![4.0, 1.0]), 1.0);
        assert_eq!(lower_median(vec![4.0, 1.0, 9.0, 3.0]), 3.0);
        assert_eq!(lower_median(vec![7.0]), 7.0);
        let cohort = Cohort::new(layout(), 1, vec![member(1, 1, 0.0), member(2, 1, 5.0)]);
        assert_eq!(cohort.unwrap().factor(1, 0), 0.0, "half of a round is zero");
    }

    #[test]
    fn contributions_that_are_not_a_rounds_are_refused() {
        let one = TrainerId([1; 32]);
        let of = 10;
        let cases = [
            (vec![], CohortError::Members(0)),
            (
                vec![member(1, 1, 1.0); MEMBERS_MAX + 1],
                CohortError::Members(MEMBERS_MAX + 1),
            ),
            (
                vec![member(1, 1, 1.0), member(1, 2, 1.0)],
                CohortError::Twice(one),
            ),
            (
                vec![member(1, 0, 1.0)],
                CohortError::Steps {
                    trainer: one,
                    steps: 0,
                    of,
                },
            ),
            (
                vec![member(1, 11, 1.0)],
                CohortError::Steps {
                    trainer: one,
                    steps: 11,
                    of,
                },
            ),
            (vec![member(1, 1, f64::NAN)], CohortError::Norms(one)),
            (vec![member(1, 1, -1.0)], CohortError::Norms(one)),
        ];
        for (members, error) in cases {
            assert_eq!(Cohort::new(layout(), of, members), Err(error));
        }
    }

    #[test]
    fn sections_are_added_in_order_and_all() {
        let layout = layout();
        let of = |values: &[f32]| crate::contribution::encode(&layout, &[values]).unwrap();
        let (first, second) = (of(&[127.0, 0.0]), of(&[0.0, -127.0]));
        let section = |bytes| Section::read(&layout, 0, bytes).unwrap();
        let (first, second) = (section(&first[24..]), section(&second[24..]));
        let members = vec![member(1, 1, first.norm()), member(2, 1, second.norm())];
        let cohort = Cohort::new(layout.clone(), 1, members).unwrap();
        let (one, two) = (TrainerId([1; 32]), TrainerId([2; 32]));
        let mut sum = TensorSum::new(&cohort, 0, vec![9.0; 7]);
        let (expected, got) = (one, two);
        assert_eq!(
            sum.add(two, &second),
            Err(SumError::Order { expected, got })
        );
        let other = of(&[1.0, 0.0]);
        assert_eq!(
            sum.add(one, &section(&other[24..])),
            Err(SumError::Tensor(one))
        );
        assert_eq!(sum.add(one, &first), Ok(()));
        let early = TensorSum::new(&cohort, 0, Vec::new());
        assert_eq!(early.mean(), Err(SumError::Missing(one)));
        assert_eq!(sum.add(two, &second), Ok(()));
        assert_eq!(sum.add(two, &second), Err(SumError::Complete(two)));
        assert_eq!(sum.mean(), Ok(vec![63.5, -63.5]));
    }
}
