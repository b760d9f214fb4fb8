//! A checkpoint: the shared state between two rounds, as one file whose BLAKE3 hash goes on chain (spec: 16 runs, section
//! 2.5).
//!
//! It is a safetensors file, so that other programs read its weights as they are. Its header follows from the manifest and
//! one number, so a reader writes it again and compares: no length is read from a stranger's file.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::sync::Arc;

use hearth_protocol::content::ContentHash;
use hearth_training::{Tensor, Tensors, Weights, WeightsError};
use thiserror::Error;

use crate::floats::{HashedReader, HashedWriter, Unread};
use crate::settings::Settings;

/// The form of the files that this program reads and writes.
pub const CHECKPOINT_FORM: &str = "hearth-state/1";
/// What stands in front of the name of a tensor of the outer velocity.
const VELOCITY: &str = "velocity.";
/// Where the number of the next round begins in a header.
const NEXT_ROUND: &str = "\"nextRound\":\"";
/// A header's length is a multiple of this.
const ALIGNMENT: usize = 8;
/// Digits of the largest round.
const ROUND_DIGITS_MAX: usize = 7;

/// The shared state between two rounds: what is trained, and what the outer momentum remembers.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(crate) next_round: u32,
    pub(crate) trained: Weights,
    pub(crate) velocity: Option<Vec<f32>>,
    pub(crate) hash: ContentHash,
}

/// Why bytes are not a checkpoint of the run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system.
    #[error("the checkpoint cannot be read")]
    Io(#[source] io::Error),
    /// It ends before it should.
    #[error("the checkpoint ends before its last number")]
    Short,
    /// It goes on after its last number.
    #[error("the checkpoint goes on after its last number")]
    Long,
    /// It is of another run, of another form, or no checkpoint.
    #[error("the file does not begin as a checkpoint of this run")]
    Header,
    /// The run has no round of that number.
    #[error("the checkpoint is of before round {next_round}, and the run has {rounds}")]
    Round {
        /// The round that would begin from it.
        next_round: u32,
        /// The rounds of the run.
        rounds: u32,
    },
    /// A weight is not a number.
    #[error("the checkpoint's numbers are not weights")]
    Numbers(#[source] WeightsError),
    /// A velocity is not a number.
    #[error("the checkpoint's velocity has numbers that are not finite")]
    Velocity,
}

impl From<Unread> for CheckpointError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Short => Self::Short,
            Unread::Io(error) => Self::Io(error),
        }
    }
}

impl Checkpoint {
    /// Takes numbers that are finite as the state before a round.
    pub(crate) fn new(
        settings: &Settings,
        next_round: u32,
        trained: Weights,
        velocity: Option<Vec<f32>>,
    ) -> Self {
        let mut checkpoint = Self {
            next_round,
            trained,
            velocity,
            hash: ContentHash::default(),
        };
        let written = checkpoint.written(settings, &mut io::sink());
        checkpoint.hash = written.expect("nothing fails where nothing is kept");
        checkpoint
    }

    /// Returns the lowest number of a round that begins from this state: zero for the first one.
    #[must_use]
    pub fn next_round(&self) -> u32 {
        self.next_round
    }

    /// Returns what is trained: the weights of the model, or of its adapter.
    #[must_use]
    pub fn trained(&self) -> &Weights {
        &self.trained
    }

    /// Returns the state's hash, which is that of its file.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    pub(crate) fn written(
        &self,
        settings: &Settings,
        to: &mut dyn Write,
    ) -> io::Result<ContentHash> {
        let mut to = HashedWriter::new(to);
        let header = header(settings, &self.next_round.to_string());
        to.bytes(&(header.len() as u64).to_le_bytes())?;
        to.bytes(header.as_bytes())?;
        to.floats(self.trained.values())?;
        if let Some(velocity) = &self.velocity {
            to.floats(velocity)?;
        }
        to.end()
    }

    pub(crate) fn read(settings: &Settings, from: &mut dyn Read) -> Result<Self, CheckpointError> {
        let mut from = HashedReader::new(from);
        let next_round = read_header(settings, &mut from)?;
        let tensors = settings.trained();
        let values = from.floats(tensors.len())?;
        let trained = Weights::new(tensors, values).map_err(CheckpointError::Numbers)?;
        let velocity = match settings.manifest.outer.momentum {
            Some(_) => Some(from.floats(tensors.len())?),
            None => None,
        };
        let is_finite = |values: &Vec<f32>| values.iter().all(|value| value.is_finite());
        if !velocity.as_ref().is_none_or(is_finite) {
            return Err(CheckpointError::Velocity);
        }
        let hash = from.end()?.ok_or(CheckpointError::Long)?;
        Ok(Self {
            next_round,
            trained,
            velocity,
            hash,
        })
    }
}

/// Returns the bytes of the longest checkpoint of a run.
pub(crate) fn bytes_max(settings: &Settings) -> u64 {
    let header = header(settings, &"0".repeat(ROUND_DIGITS_MAX)).len();
    let states = 1 + u64::from(settings.manifest.outer.momentum.is_some());
    (ALIGNMENT + header) as u64 + states * settings.trained().len() as u64 * 4
}

/// Reads the header, and returns the one number that it says.
fn read_header(settings: &Settings, from: &mut HashedReader) -> Result<u32, CheckpointError> {
    let least = header(settings, "0").len();
    let most = header(settings, &"0".repeat(ROUND_DIGITS_MAX)).len();
    let length = usize::try_from(from.number()?).unwrap_or(usize::MAX);
    if !(least..=most).contains(&length) {
        return Err(CheckpointError::Header);
    }
    let mut bytes = vec![0; length];
    from.fill(&mut bytes)?;
    let stated = std::str::from_utf8(&bytes).ok();
    let round = stated.and_then(|stated| {
        let digits = stated.split_once(NEXT_ROUND)?.1.split_once('"')?.0;
        digits.parse::<u32>().ok()
    });
    let next_round = round.ok_or(CheckpointError::Header)?;
    if header(settings, &next_round.to_string()).as_bytes() != bytes {
        return Err(CheckpointError::Header);
    }
    let rounds = settings.manifest.rounds;
    if next_round > rounds {
        return Err(CheckpointError::Round { next_round, rounds });
    }
    Ok(next_round)
}

/// Returns the header: metadata, then the tensors as they lie, then blanks up to a multiple of eight.
fn header(settings: &Settings, next_round: &str) -> String {
    // `format` is what `transformers` asks for before it loads weights.
    let mut text = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\",\"hearth\":\"{CHECKPOINT_FORM}\",\"manifest\":\"{}\",\
         {NEXT_ROUND}{next_round}\"}}",
        settings.name
    );
    let tensors: &Arc<Tensors> = settings.trained();
    let mut begin = 0;
    let mut state = |prefix: &str| {
        for tensor in tensors.list() {
            begin = entry(&mut text, prefix, tensor, begin);
        }
    };
    state("");
    if settings.manifest.outer.momentum.is_some() {
        state(VELOCITY);
    }
    text.push('}');
    let blanks = text.len().next_multiple_of(ALIGNMENT) - text.len();
    text.extend(std::iter::repeat_n(' ', blanks));
    text
}

/// Appends what a header says of a tensor, and returns where the tensor ends.
fn entry(text: &mut String, prefix: &str, tensor: &Tensor, begin: usize) -> usize {
    let end = begin + tensor.range().len() * 4;
    let shape: Vec<String> = tensor.shape().iter().map(ToString::to_string).collect();
    let (name, shape) = (&tensor.name, shape.join(","));
    write!(
        text,
        ",\"{prefix}{name}\":{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}"
    )
    .expect("a text takes what is written to it");
    end
}
