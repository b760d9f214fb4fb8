//! From a round's state and its admitted contributions to the next state (spec: 13 aggregation, sections 7 and 8; 16 runs,
//! section 2.5).
//!
//! Contributions are gone over twice: once for their norms, once tensor by tensor. So one contribution and one tensor are in
//! memory at a time, however many trainers a round has.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use hearth_aggregation::{
    Cohort, CohortError, Contribution, Member, ReadError, Section, SectionFault, SumError,
    TensorSum, TrainerId,
};
use hearth_training::{Weights, WeightsError};
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::progress::{StepProgress, Watch};
use crate::workshop::Workshop;

/// Where the bytes of a contribution are.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    /// In memory.
    Bytes(&'a [u8]),
    /// In a file, which does not change while it is read.
    File(&'a Path),
}

/// A contribution that was admitted to a round.
#[derive(Debug, Clone, Copy)]
pub struct Admitted<'a> {
    /// Who sent it.
    pub trainer: TrainerId,
    /// The steps that it is made of.
    pub steps: u32,
    /// What it says.
    pub contribution: Stored<'a>,
}

/// Why there is no next state.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// The round cannot begin from that state.
    #[error("round {round} cannot begin from the state before round {next_round}")]
    Round {
        /// The round.
        round: u32,
        /// The lowest that begins from the state.
        next_round: u32,
    },
    /// More or fewer contributions than a round of this run has.
    #[error("there are {found} contributions, and a round of this run has 1 to {most}")]
    Members {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: u32,
    },
    /// Fewer steps than a trainer of this run takes.
    #[error(
        "the contribution of trainer {trainer} is made of {steps} steps, and this run has at least {least}"
    )]
    Steps {
        /// Whose it is.
        trainer: TrainerId,
        /// Its steps.
        steps: u32,
        /// The fewest.
        least: u32,
    },
    /// A file.
    #[error("the contribution {} cannot be read", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A contribution that should not have been admitted.
    #[error("what trainer {trainer} sent is no contribution to this run")]
    Contribution {
        /// Whose it is.
        trainer: TrainerId,
        /// What is wrong.
        #[source]
        source: ReadError,
    },
    /// A contribution that changed while it was read.
    #[error("the contribution of trainer {trainer} changed while it was read")]
    Changed {
        /// Whose it is.
        trainer: TrainerId,
        /// What is wrong now.
        #[source]
        source: SectionFault,
    },
    /// Contributions that are not a round's together.
    #[error("the contributions are not a round's")]
    Cohort(#[from] CohortError),
    /// A contribution that changed while it was read, into another one.
    #[error("the contributions cannot be added up")]
    Sum(#[from] SumError),
    /// Weights that are not numbers any more.
    #[error("the round would leave weights that are not finite")]
    Diverged(#[source] WeightsError),
    /// A velocity that is none any more.
    #[error("the round would leave a velocity that is not finite")]
    DivergedVelocity,
    /// The caller stopped it.
    #[error("the work was stopped")]
    Stopped,
}

impl Admitted<'_> {
    /// Reads all of it, and not more than it may have.
    fn all(&self, expected: usize) -> Result<Vec<u8>, AggregateError> {
        match self.contribution {
            Stored::Bytes(bytes) => Ok(bytes.to_vec()),
            Stored::File(path) => {
                let mut bytes = Vec::with_capacity(expected + 1);
                let file = File::open(path).map_err(failed(path))?;
                let most = expected as u64 + 1;
                let read = file.take(most).read_to_end(&mut bytes);
                read.map_err(failed(path))?;
                Ok(bytes)
            }
        }
    }

    /// Reads the part of one tensor.
    fn part(&self, range: Range<usize>, room: &mut Vec<u8>) -> Result<(), AggregateError> {
        room.clear();
        match self.contribution {
            Stored::Bytes(bytes) => room.extend_from_slice(&bytes[range]),
            Stored::File(path) => {
                room.resize(range.len(), 0);
                let mut read = || {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(range.start as u64))?;
                    file.read_exact(room)
                };
                read().map_err(failed(path))?;
            }
        }
        Ok(())
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AggregateError {
    move |source| AggregateError::Io {
        path: path.to_owned(),
        source,
    }
}

impl Workshop {
    /// Makes the state after a round of the state before and the admitted contributions, in whatever order they came.
    ///
    /// # Errors
    /// When something that was admitted is not a round's of this run, a file cannot be read, or `watch` stops it.
    pub fn aggregate(
        &self,
        parent: Checkpoint,
        round: u32,
        admitted: &[Admitted<'_>],
        watch: Watch<'_>,
    ) -> Result<Checkpoint, AggregateError> {
        let next_round = parent.next_round;
        if round < next_round || round >= self.settings.manifest.rounds {
            return Err(AggregateError::Round { round, next_round });
        }
        let mut ordered = admitted.to_vec();
        ordered.sort_by_key(|one| one.trainer);
        let cohort = self.cohort(&ordered)?;
        let tensors = self.settings.trained().list();
        let mut progress = StepProgress {
            done: 0,
            total: u32::try_from(tensors.len()).expect("a model has few tensors"),
            loss: None,
        };
        let mut velocity = parent.velocity;
        let mut weights = parent.trained.into_values();
        let (mut room, mut bytes) = (Vec::new(), Vec::new());
        for (number, tensor) in tensors.iter().enumerate() {
            if let ControlFlow::Break(()) = watch(progress) {
                return Err(AggregateError::Stopped);
            }
            let mean = self.mean(&cohort, &ordered, number, room, &mut bytes)?;
            let velocity = velocity.as_mut().map(|all| &mut all[tensor.range()]);
            let weights = &mut weights[tensor.range()];
            self.settings.outer.apply(&mean, weights, velocity);
            room = mean;
            progress.done += 1;
        }
        let trained = Weights::new(self.settings.trained(), weights);
        let trained = trained.map_err(AggregateError::Diverged)?;
        let is_finite = |values: &Vec<f32>| values.iter().all(|value| value.is_finite());
        if !velocity.as_ref().is_none_or(is_finite) {
            return Err(AggregateError::DivergedVelocity);
        }
        let next = round + 1;
        Ok(Checkpoint::new(&self.settings, next, trained, velocity))
    }

    /// Goes over the contributions for their norms.
    fn cohort(&self, ordered: &[Admitted<'_>]) -> Result<Cohort, AggregateError> {
        let round = &self.settings.manifest.round;
        let (found, most) = (ordered.len(), round.trainers_max);
        if found == 0 || found > most as usize {
            return Err(AggregateError::Members { found, most });
        }
        let sections = &self.settings.sections;
        let member = |one: &Admitted<'_>| {
            let trainer = one.trainer;
            let (steps, least) = (one.steps, round.steps_min);
            if steps < least {
                return Err(AggregateError::Steps {
                    trainer,
                    steps,
                    least,
                });
            }
            let bytes = one.all(sections.bytes())?;
            let read = Contribution::read(sections, &bytes)
                .map_err(|source| AggregateError::Contribution { trainer, source })?;
            Ok(Member {
                trainer,
                steps,
                norms: read.norms(),
            })
        };
        let members = ordered.iter().map(member).collect::<Result<_, _>>()?;
        Ok(Cohort::new(sections.clone(), round.steps, members)?)
    }

    /// Adds one tensor up.
    fn mean(
        &self,
        cohort: &Cohort,
        ordered: &[Admitted<'_>],
        tensor: usize,
        room: Vec<f32>,
        bytes: &mut Vec<u8>,
    ) -> Result<Vec<f32>, AggregateError> {
        let sections = &self.settings.sections;
        let mut sum = TensorSum::new(cohort, tensor, room);
        for one in ordered {
            one.part(sections.section(tensor), bytes)?;
            let trainer = one.trainer;
            let section = Section::read(sections, tensor, bytes)
                .map_err(|source| AggregateError::Changed { trainer, source })?;
            sum.add(trainer, &section)?;
        }
        Ok(sum.mean()?)
    }
}
