//! What a trainer takes from one round into its next: its optimizer's moments, and what it has not sent yet (spec: 16 runs,
//! section 3).
//!
//! A validator replays a round from this file, so it comes from a stranger. The manifest gives every length in it.

use std::io::{self, Read, Write};

use hearth_aggregation::{TrainerId, VALUE_MAX};
use hearth_protocol::content::ContentHash;
use hearth_training::Moments;
use thiserror::Error;

use crate::floats::{HashedReader, HashedWriter, Unread};
use crate::settings::Settings;

/// The first bytes of the file: what it is, and the version of its form.
pub const LOCAL_STATE_DOMAIN: &[u8; 16] = b"hearth-local/1\0\0";
/// Bytes before the first number: the domain, the manifest, the trainer, the round, the steps.
const HEADER_BYTES: u64 = 16 + 32 + 32 + 8 + 8;

/// What a trainer has after a round.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalState {
    pub(crate) trainer: TrainerId,
    pub(crate) round: u32,
    pub(crate) moments: Moments,
    /// What was not sent, tensor by tensor.
    pub(crate) residuals: Vec<Vec<f32>>,
    pub(crate) hash: ContentHash,
}

/// Why bytes are not the state of a trainer of the run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalStateError {
    /// The system.
    #[error("the local state cannot be read")]
    Io(#[source] io::Error),
    /// The run carries none.
    #[error("trainers of this run carry nothing from round to round")]
    NotCarried,
    /// It ends before it should.
    #[error("the local state ends before its last number")]
    Short,
    /// It goes on after its last number.
    #[error("the local state goes on after its last number")]
    Long,
    /// It is of another run, of another form, or no such state.
    #[error("the file does not begin as a local state of this run")]
    Header,
    /// No trainer has such a count after such a round.
    #[error(
        "the local state has {steps} steps after round {round}, which no trainer of this run can have"
    )]
    Steps {
        /// Its round.
        round: u64,
        /// Its steps.
        steps: u64,
    },
    /// A number that no optimizer remembers, or that cannot be left over.
    #[error("the local state's {0} have numbers that no trainer can have")]
    Numbers(&'static str),
}

impl From<Unread> for LocalStateError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Short => Self::Short,
            Unread::Io(error) => Self::Io(error),
        }
    }
}

/// A state as it is written, from where its numbers lie.
pub(crate) struct LocalStateView<'a> {
    pub(crate) trainer: TrainerId,
    pub(crate) round: u32,
    pub(crate) moments: &'a Moments,
    pub(crate) residuals: &'a [Vec<f32>],
}

impl LocalStateView<'_> {
    pub(crate) fn written(
        &self,
        settings: &Settings,
        to: &mut dyn Write,
    ) -> io::Result<ContentHash> {
        let mut to = HashedWriter::new(to);
        to.bytes(LOCAL_STATE_DOMAIN)?;
        to.bytes(&settings.name.0)?;
        to.bytes(&self.trainer.0)?;
        to.bytes(&u64::from(self.round).to_le_bytes())?;
        to.bytes(&self.moments.steps.to_le_bytes())?;
        to.floats(&self.moments.first)?;
        to.floats(&self.moments.second)?;
        for residual in self.residuals {
            to.floats(residual)?;
        }
        to.end()
    }

    /// Whether a reader takes these numbers.
    pub(crate) fn check(&self) -> Result<(), LocalStateError> {
        let all = |values: &[f32], is_right: fn(f32) -> bool| values.iter().all(|v| is_right(*v));
        if !all(&self.moments.first, f32::is_finite) {
            return Err(LocalStateError::Numbers("first moments"));
        }
        if !all(&self.moments.second, |value| {
            value.is_finite() && value >= 0.0
        }) {
            return Err(LocalStateError::Numbers("second moments"));
        }
        let is_left = |residual: &Vec<f32>| all(residual, |value| value.abs() <= VALUE_MAX);
        if !self.residuals.iter().all(is_left) {
            return Err(LocalStateError::Numbers("residuals"));
        }
        Ok(())
    }
}

impl LocalState {
    /// Returns whose it is.
    #[must_use]
    pub fn trainer(&self) -> TrainerId {
        self.trainer
    }

    /// Returns the round after which it was left.
    #[must_use]
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Returns the steps that the optimizer has taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.moments.steps
    }

    /// Returns the hash of its file.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    pub(crate) fn read(settings: &Settings, from: &mut dyn Read) -> Result<Self, LocalStateError> {
        if !settings.manifest.round.carry {
            return Err(LocalStateError::NotCarried);
        }
        let mut from = HashedReader::new(from);
        if &from.array()? != LOCAL_STATE_DOMAIN || from.array()? != settings.name.0 {
            return Err(LocalStateError::Header);
        }
        let trainer = TrainerId(from.array()?);
        let (round, steps) = (from.number()?, from.number()?);
        let per_round = u64::from(settings.manifest.round.steps);
        let is_round = round < u64::from(settings.manifest.rounds);
        if !is_round || steps == 0 || steps > (round + 1) * per_round {
            return Err(LocalStateError::Steps { round, steps });
        }
        let first = from.floats(settings.trained().len())?;
        let second = from.floats(settings.second_len())?;
        let tensors = settings.trained().list().iter();
        let residuals = tensors.map(|tensor| from.floats(tensor.range().len()));
        let residuals = residuals.collect::<Result<Vec<_>, _>>()?;
        let hash = from.end()?.ok_or(LocalStateError::Long)?;
        let state = Self {
            trainer,
            round: u32::try_from(round).expect("a run has fewer rounds"),
            moments: Moments {
                steps,
                first,
                second,
            },
            residuals,
            hash,
        };
        state.view().check()?;
        Ok(state)
    }

    pub(crate) fn view(&self) -> LocalStateView<'_> {
        LocalStateView {
            trainer: self.trainer,
            round: self.round,
            moments: &self.moments,
            residuals: &self.residuals,
        }
    }
}

/// Returns the bytes of every local state of a run.
pub(crate) fn bytes(settings: &Settings) -> u64 {
    let floats = 2 * settings.trained().len() + settings.second_len();
    HEADER_BYTES + floats as u64 * 4
}
