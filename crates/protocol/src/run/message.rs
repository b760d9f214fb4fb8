//! What those who take part in a run say to each other (spec: runs, section 5).
//!
//! A message reaches the machines with the device that signed it; how it travels is not decided here.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use super::book::RoundBook;
use crate::content::ContentHash;
use crate::offer::DeviceId;
use crate::signature::Signature;

/// What separates commitments from all other hashes.
const COMMITMENT_CONTEXT: &str = "hearth run commitment 1";
/// What separates keys of losses from all other hashes.
const LOSSES_CONTEXT: &str = "hearth run losses 1";
/// What separates logs from all other hashes.
const LOG_CONTEXT: &str = "hearth run log 1";
/// What separates seals of a replay from all other hashes.
const SEAL_CONTEXT: &str = "hearth run replay 2";

/// A loss in nats a token, by the bits of its binary32 number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LossBits(pub u32);

impl LossBits {
    /// The bits of `loss`.
    #[must_use]
    pub fn of(loss: f32) -> Self {
        Self(loss.to_bits())
    }

    /// The number.
    #[must_use]
    pub fn loss(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// What a trainer says that it did in a round; a replay must give the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Work {
    /// Names the contribution.
    pub contribution: ContentHash,
    /// The loss of the first step, before it.
    pub first_loss: LossBits,
    /// The loss of the last step, before it.
    pub last_loss: LossBits,
    /// Names what the trainer keeps for its next round; nothing where the run carries nothing.
    pub local_end: Option<ContentHash>,
    /// Names what it kept from the round before; nothing where it began anew.
    pub local_start: Option<ContentHash>,
    /// Names the losses of all steps ([`LossKey::log`]).
    pub log: ContentHash,
    /// Local steps that were taken.
    pub steps: u32,
}

/// Where a round begins: what a commitment and a replay are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundStart {
    /// The run.
    pub run: B256,
    /// Rounds that were recorded before.
    pub index: u64,
    /// Hash of the weights.
    pub parent: B256,
}

impl Work {
    /// What a trainer commits to before anyone sees the work. It is of this trainer alone: copied by another, it fits nothing.
    #[must_use]
    pub fn commitment(
        &self,
        start: &RoundStart,
        trainer: DeviceId,
        account: Address,
    ) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key(COMMITMENT_CONTEXT);
        hasher.update(start.run.as_slice());
        hasher.update(&start.index.to_le_bytes());
        hasher.update(start.parent.as_slice());
        hasher.update(&trainer.0);
        hasher.update(account.as_slice());
        hasher.update(&self.contribution.0);
        hasher.update(&self.first_loss.0.to_le_bytes());
        hasher.update(&self.last_loss.0.to_le_bytes());
        for local in [self.local_end, self.local_start] {
            hasher.update(&[u8::from(local.is_some())]);
            hasher.update(&local.unwrap_or_default().0);
        }
        hasher.update(&self.log.0);
        hasher.update(&self.steps.to_le_bytes());
        ContentHash(*hasher.finalize().as_bytes())
    }
}

/// What only those know who computed the losses of all steps: a trainer and who replays its work.
///
/// A trainer commits to its [`LossKey::log`], which gives away neither; a validator seals its report with it, and shows
/// it when enough have reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LossKey(pub ContentHash);

impl LossKey {
    /// The key of the losses of all steps, in their order.
    #[must_use]
    pub fn of(losses: &[LossBits]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(LOSSES_CONTEXT);
        for loss in losses {
            hasher.update(&loss.0.to_le_bytes());
        }
        Self(ContentHash(*hasher.finalize().as_bytes()))
    }

    /// What names the losses in [`Work::log`].
    #[must_use]
    pub fn log(&self) -> ContentHash {
        ContentHash(blake3::derive_key(LOG_CONTEXT, &self.0.0))
    }

    /// What a validator seals its report with: it is of this validator alone.
    #[must_use]
    pub fn seal(&self, validator: DeviceId) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key(SEAL_CONTEXT);
        hasher.update(&validator.0);
        hasher.update(&self.0.0);
        ContentHash(*hasher.finalize().as_bytes())
    }
}

/// What a replay found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// The same bytes.
    Same,
    /// Other bytes.
    Different,
    /// What the replay starts from could not be had from the trainer.
    Unavailable,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunMessage {
    /// A trainer has done its work, and names it without showing it.
    Commit(Commit),
    /// The proposer of a round's number takes no more commitments: these may be shown now.
    Close(Close),
    /// A trainer shows what it committed to.
    Reveal(Reveal),
    /// The proposer says what the round is to be.
    Proposal(Box<Proposal>),
    /// A validator signs it.
    Endorsement(Endorsement),
    /// A validator has replayed a trainer's work.
    Report(Report),
    /// A validator shows what its report was sealed with.
    Opening(Opening),
}

/// See [`RunMessage::Commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Rounds that were recorded before.
    pub index: u64,
    /// Hash of the weights that the work starts from.
    pub parent: B256,
    /// The account that earns.
    pub account: Address,
    /// [`Work::commitment`].
    pub commitment: ContentHash,
}

/// See [`RunMessage::Close`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// Number of the round on the chain.
    pub number: u64,
    /// Hash of the weights that the round starts from.
    pub parent: B256,
    /// The epoch whose validators decide.
    pub epoch: u64,
    /// Trainers in ascending order, and what each committed to.
    pub commitments: Vec<(DeviceId, ContentHash)>,
}

/// See [`RunMessage::Reveal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reveal {
    /// Hash of the weights that the work started from.
    pub parent: B256,
    /// What was done.
    pub work: Work,
}

/// See [`RunMessage::Proposal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Number of the round on the chain.
    pub number: u64,
    /// The epoch whose validators decide.
    pub epoch: u64,
    /// Who contributed, and what audits found.
    pub book: RoundBook,
    /// Hash of the weights after the round.
    pub next: B256,
}

/// See [`RunMessage::Endorsement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    /// Number of the round on the chain.
    pub number: u64,
    /// Hash of the weights before.
    pub parent: B256,
    /// Name of the book.
    pub contributions: ContentHash,
    /// Hash of the weights after.
    pub next: B256,
    /// By the validator's session key, over the statement of the round.
    pub signature: Signature,
}

/// See [`RunMessage::Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The round in which the work was admitted: rounds that were recorded before it.
    pub index: u64,
    /// Who did the work.
    pub trainer: DeviceId,
    /// What came of the replay.
    pub outcome: AuditOutcome,
    /// [`LossKey::seal`] of the losses that the replay gave; nothing where there was no replay.
    pub seal: Option<ContentHash>,
}

/// See [`RunMessage::Opening`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The round in which the work was admitted: rounds that were recorded before it.
    pub index: u64,
    /// Who did the work.
    pub trainer: DeviceId,
    /// Of the losses that the replay gave.
    pub key: LossKey,
}
