//! Training for a round: a work order in, a contribution and the trainer's next local state out (spec: 16 runs, section 2).

use std::io::{self, Write};
use std::ops::ControlFlow;

use hearth_aggregation::{ErrorFeedback, FeedbackError, TrainerId};
use hearth_datasets::folder::WhichPart;
use hearth_datasets::windows::WindowSeed;
use hearth_protocol::content::ContentHash;
use hearth_training::{StartError, StepError, Trainer};
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::local_state::{LocalState, LocalStateError, LocalStateView};
use crate::progress::{StepProgress, Watch};
use crate::reading::{self, ReadingError};
use crate::workshop::Workshop;

/// The most rounds that may be passed over, as on chain.
const ROUND_LEAP: u32 = 1_024;

/// What one trainer is to do in one round. All of it is public.
#[derive(Debug)]
pub struct WorkOrder<'a> {
    /// The run's id on every chain.
    pub run: [u8; 32],
    /// The round's number.
    pub round: u32,
    /// The round's beacon.
    pub beacon: [u8; 32],
    /// Who trains.
    pub trainer: TrainerId,
    /// The state that the round begins from.
    pub parent: &'a Checkpoint,
    /// What the trainer took along from its round before; nothing in its first one, or where the run carries nothing.
    pub local: Option<LocalState>,
    /// The steps that it takes: fewer than the run's on a slow device.
    pub steps: u32,
}

/// A work order that is none of the run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The round cannot begin from that state.
    #[error(
        "round {round} cannot begin from the state before round {next_round}; the run has {rounds}"
    )]
    Round {
        /// The round.
        round: u32,
        /// The lowest that begins from the state.
        next_round: u32,
        /// The rounds of the run.
        rounds: u32,
    },
    /// The steps are out of bounds.
    #[error("{steps} steps are not in {least}..={most}")]
    Steps {
        /// The steps.
        steps: u32,
        /// The fewest.
        least: u32,
        /// The most.
        most: u32,
    },
    /// The local state is another trainer's.
    #[error("the local state is trainer {0}'s")]
    Trainer(TrainerId),
    /// The local state is not of a round before.
    #[error("the local state is of round {found}, and this is round {round}")]
    LocalRound {
        /// Its round.
        found: u32,
        /// The order's.
        round: u32,
    },
}

/// What was claimed of a trainer's round: everything that a replay gives again.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// BLAKE3 of the contribution.
    pub contribution: ContentHash,
    /// BLAKE3 of the local state after the round; none where the run carries nothing.
    pub local: Option<ContentHash>,
    /// Loss of the first step, in nats a token.
    pub first_loss: f32,
    /// Loss of the last step.
    pub last_loss: f32,
}

/// What a trainer has done in a round.
#[derive(Debug, Clone)]
pub struct Work {
    /// What it sends.
    pub contribution: Vec<u8>,
    /// What it says of it.
    pub claim: Claim,
    /// Tokens that were foretold.
    pub tokens: u64,
}

/// Why a round's work was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The order.
    #[error("the work order is none of this run")]
    Order(#[from] OrderError),
    /// The datasets.
    #[error("the round's windows cannot be read")]
    Reading(#[from] ReadingError),
    /// Starting.
    #[error("the training cannot start")]
    Start(#[from] StartError),
    /// A step, which diverged or whose data are at fault.
    #[error("the training stopped")]
    Step(#[from] StepError),
    /// The update cannot be sent: the training diverged.
    #[error("what was learned cannot be sent")]
    Compress(#[from] FeedbackError),
    /// The local state cannot be kept: the training diverged.
    #[error("what the trainer would keep cannot be kept")]
    Keep(#[source] LocalStateError),
    /// The local state cannot be written.
    #[error("the local state cannot be written")]
    Write(#[source] io::Error),
    /// The caller stopped it.
    #[error("the work was stopped")]
    Stopped,
}

impl TrainError {
    /// Whether everyone who does this work ends here: an honest trainer then sends nothing.
    #[must_use]
    pub fn is_of_the_work(&self) -> bool {
        match self {
            Self::Step(error) => matches!(error, StepError::Diverged { .. }),
            Self::Compress(_) | Self::Keep(_) => true,
            _ => false,
        }
    }
}

impl Workshop {
    /// Trains for a round. The trainer's next local state is written to `local_out`, where the run carries one.
    ///
    /// The bits depend on the order alone: neither on threads, memory or processor, nor on what was done before. Work that
    /// was stopped leaves nothing behind; done again, it gives the same.
    ///
    /// # Errors
    /// When the order is none of this run, data are missing, the training diverges, or `watch` stops it.
    pub fn train(
        &self,
        mut order: WorkOrder<'_>,
        local_out: &mut dyn Write,
        watch: Watch<'_>,
    ) -> Result<Work, TrainError> {
        self.check_order(&order)?;
        let tokens = self.round_tokens(&order)?;
        let (moments, residuals) = match order.local.take() {
            Some(local) => (Some(local.moments), Some(local.residuals)),
            None => (None, None),
        };
        let mut trainer = self.trainer(order.parent, order.round, moments)?;
        let losses = self.take_steps(&mut trainer, &tokens, order.steps, watch)?;
        drop(tokens);
        let decay = self.settings.manifest.compression.decay().get();
        let sections = self.settings.sections.clone();
        let mut feedback = match residuals {
            Some(residuals) => ErrorFeedback::resume(sections, decay, residuals)?,
            None => ErrorFeedback::new(sections, decay)?,
        };
        let contribution = self.compress(&mut feedback, order.parent, &trainer)?;
        let local = self.keep(&order, &trainer, &feedback, local_out)?;
        let inner = &self.settings.manifest.inner;
        Ok(Work {
            claim: Claim {
                contribution: ContentHash::of(&contribution),
                local,
                first_loss: losses.0,
                last_loss: losses.1,
            },
            contribution,
            tokens: u64::from(order.steps)
                * u64::from(inner.windows)
                * u64::from(inner.window_tokens),
        })
    }

    /// Checks that an order is one of the run's.
    pub(crate) fn check_order(&self, order: &WorkOrder<'_>) -> Result<(), OrderError> {
        let manifest = &self.settings.manifest;
        let (round, next_round) = (order.round, order.parent.next_round);
        let is_next = round >= next_round && round - next_round <= ROUND_LEAP;
        if !is_next || round >= manifest.rounds {
            return Err(OrderError::Round {
                round,
                next_round,
                rounds: manifest.rounds,
            });
        }
        let (least, most) = (manifest.round.steps_min, manifest.round.steps);
        if !(least..=most).contains(&order.steps) {
            return Err(OrderError::Steps {
                steps: order.steps,
                least,
                most,
            });
        }
        let Some(local) = &order.local else {
            return Ok(());
        };
        if local.trainer != order.trainer {
            return Err(OrderError::Trainer(local.trainer));
        }
        if local.round >= round {
            let found = local.round;
            return Err(OrderError::LocalRound { found, round });
        }
        Ok(())
    }

    /// Reads the tokens of all steps of an order.
    fn round_tokens(&self, order: &WorkOrder<'_>) -> Result<Vec<u32>, ReadingError> {
        let seed = WindowSeed {
            beacon: order.beacon,
            run: order.run,
            trainer: order.trainer.0,
            round: order.round.into(),
        };
        let places = reading::drawn(&self.settings, &self.sources, &seed, order.steps)?;
        reading::tokens(&self.sources, WhichPart::Training, &places)
    }

    /// Takes the steps, and returns the losses of the first and the last.
    fn take_steps(
        &self,
        trainer: &mut Trainer,
        tokens: &[u32],
        steps: u32,
        watch: Watch<'_>,
    ) -> Result<(f32, f32), TrainError> {
        let mut progress = StepProgress {
            done: 0,
            total: steps,
            loss: None,
        };
        go_on(watch, progress)?;
        let inner = &self.settings.manifest.inner;
        let a_step = inner.windows as usize * (inner.window_tokens as usize + 1);
        let mut first = None;
        let mut last = f32::NAN;
        for batch in tokens.chunks_exact(a_step) {
            last = trainer.step(batch)?.loss;
            first = first.or(Some(last));
            progress.done += 1;
            progress.loss = Some(last);
            go_on(watch, progress)?;
        }
        Ok((first.unwrap_or(last), last))
    }

    /// Compresses what the steps changed.
    fn compress(
        &self,
        feedback: &mut ErrorFeedback,
        parent: &Checkpoint,
        trainer: &Trainer,
    ) -> Result<Vec<u8>, FeedbackError> {
        let before = parent.trained.values().iter();
        let changed = before.zip(trainer.trained().values());
        let update: Vec<f32> = changed.map(|(before, after)| before - after).collect();
        let tensors = self.settings.trained().list().iter();
        let parts: Vec<&[f32]> = tensors.map(|tensor| &update[tensor.range()]).collect();
        feedback.compress(&parts)
    }

    /// Writes what the trainer takes along, where the run has it take something.
    fn keep(
        &self,
        order: &WorkOrder<'_>,
        trainer: &Trainer,
        feedback: &ErrorFeedback,
        to: &mut dyn Write,
    ) -> Result<Option<ContentHash>, TrainError> {
        if !self.settings.manifest.round.carry {
            return Ok(None);
        }
        let state = LocalStateView {
            trainer: order.trainer,
            round: order.round,
            moments: trainer.moments(),
            residuals: feedback.residuals(),
        };
        state.check().map_err(TrainError::Keep)?;
        let written = state.written(&self.settings, to);
        Ok(Some(written.map_err(TrainError::Write)?))
    }
}

fn go_on(
    watch: &mut dyn FnMut(StepProgress) -> ControlFlow<()>,
    progress: StepProgress,
) -> Result<(), TrainError> {
    match watch(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Stopped),
    }
}
