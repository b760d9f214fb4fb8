//! A validator of an epoch, as a machine: what was earned goes to the chain (spec: runs, section 8).
//!
//! When an epoch is over, those who validate in the next one take turns to propose what everybody has earned. Each
//! computes it too, signs what it would have proposed, and sends what two thirds have signed. An epoch is signed once:
//! where there is no agreement it stays without a record, and the next one carries what was due. Who cannot compute now
//! neither proposes nor signs a part: it computes again a little later.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use super::committee::RunCommittee;
use crate::content::ContentHash;
use crate::ledger::statement::{EpochStatement, LedgerDomain};
use crate::money::Amount;
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// The most runs of a proposal.
pub const RUNS_MAX: usize = 256;
/// The most trees of a proposal, and the most that one seat is heard to sign in an epoch: Ember, Voice, and what each run
/// was funded in.
pub const TREES_MAX: usize = RUNS_MAX + 2;

/// A tree of what was earned, by its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TreeFacts {
    /// Ember, Voice, or what a run was funded in.
    pub asset: Address,
    /// The epoch whose final record of this asset it follows; nothing where it follows none.
    pub base: Option<u64>,
    /// Root of the sum tree.
    pub root: B256,
    /// Its sum.
    pub total: Amount,
    /// Name of the bytes that the tree was built from.
    pub data: ContentHash,
}

/// What validators of an epoch tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EpochMessage {
    /// What the sender would record.
    Proposal(EpochProposal),
    /// The sender's signature.
    Endorsement(EpochEndorsement),
}

/// See [`EpochMessage::Proposal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochProposal {
    /// The epoch that is over.
    pub epoch: u64,
    /// The newest epoch with final records of Ember and of Voice; nothing before the first.
    pub base: Option<u64>,
    /// The runs that are counted, in ascending order.
    pub runs: Vec<B256>,
    /// A tree for each asset.
    pub trees: Vec<TreeFacts>,
}

/// See [`EpochMessage::Endorsement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEndorsement {
    /// The epoch that is over.
    pub epoch: u64,
    /// The newest epoch with final records of Ember and of Voice; nothing before the first.
    pub base: Option<u64>,
    /// The tree.
    pub tree: TreeFacts,
    /// By the validator's session key, over the statement of the epoch.
    pub signature: Signature,
}

/// An epoch that is over and has no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEpoch {
    /// The epoch.
    pub epoch: u64,
    /// The newest epoch with final records of Ember and of Voice.
    pub base: Option<u64>,
    /// For each other asset that was released to be earned, the newest epoch with a final record.
    pub pledge_bases: BTreeMap<Address, Option<u64>>,
    /// Those who decide: the set of the epoch after it.
    pub committee: RunCommittee,
    /// When they could begin.
    pub opened_at: Timestamp,
    /// Runs that this device counts.
    pub runs: BTreeSet<B256>,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum EpochEvent {
    /// An epoch waits for its record, or what is known of it has changed.
    Due(DueEpoch),
    /// The epoch has its record in this asset, whoever sent it.
    Recorded {
        /// The epoch.
        epoch: u64,
        /// The asset.
        asset: Address,
    },
    /// A device said something.
    Heard {
        /// The device, whose signature was checked.
        from: DeviceId,
        /// What it said.
        message: EpochMessage,
    },
    /// The trees were computed ([`EpochEffect::Compute`]).
    Computed {
        /// The epoch.
        epoch: u64,
        /// Which runs were counted.
        runs: Vec<B256>,
        /// The trees, none at all where nothing is due; nothing where something cannot be read now.
        trees: Option<Vec<TreeFacts>>,
    },
    /// A tree was signed ([`EpochEffect::Sign`]), or must not be.
    Signed {
        /// What was to be signed.
        statement: EpochStatement,
        /// The signature, durable.
        signature: Option<Signature>,
    },
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum EpochEffect {
    /// Tell everybody.
    Say(EpochMessage),
    /// Compute the trees, keep and serve their data, and answer with [`EpochEvent::Computed`].
    Compute {
        /// The epoch.
        epoch: u64,
        /// The epoch that the trees of Ember and of Voice follow.
        base: Option<u64>,
        /// For each other asset that was released to be earned, the epoch that its tree follows.
        pledge_bases: BTreeMap<Address, Option<u64>>,
        /// The runs to count.
        runs: Vec<B256>,
    },
    /// Sign a tree, unless another one was signed for its epoch and asset, and answer with [`EpochEvent::Signed`].
    Sign(EpochStatement),
    /// Send a tree to the chain.
    Record {
        /// The tree.
        statement: EpochStatement,
        /// The epoch that it follows.
        base: Option<u64>,
        /// The seats that signed it.
        mask: u32,
        /// Their signatures, in the order of seats.
        signatures: Vec<Signature>,
    },
}

/// What is known of the trees of some runs.
#[derive(Debug)]
enum Computation {
    /// They are being computed.
    Asked,
    /// They could not be, and are asked for again from this time on.
    Again(Timestamp),
    /// These they are.
    Done(Vec<TreeFacts>),
}

/// The machine of one validator, for all epochs one after the other.
#[derive(Debug)]
pub struct EpochValidator {
    device: DeviceId,
    domain: LedgerDomain,
    rewards: Address,
    attempt_ms: u64,
    /// How long it waits before it computes again what could not be computed.
    again_ms: u64,
    due: Option<DueEpoch>,
    computed: BTreeMap<Vec<B256>, Computation>,
    proposals: Vec<(DeviceId, EpochProposal)>,
    /// The trees of the one proposal that it signs; none before.
    endorsed: Vec<TreeFacts>,
    endorsements: BTreeMap<TreeFacts, BTreeMap<Address, Signature>>,
    /// Assets that have their record, and when this device sent one.
    recorded: BTreeSet<Address>,
    sent: BTreeMap<Address, u64>,
}

impl EpochValidator {
    /// A validator of epochs of `epoch_s` seconds.
    #[must_use]
    pub fn new(device: DeviceId, domain: LedgerDomain, rewards: Address, epoch_s: u64) -> Self {
        let attempt_ms = (epoch_s.saturating_mul(1_000) / 8).clamp(500, 600_000);
        Self {
            device,
            domain,
            rewards,
            attempt_ms,
            again_ms: (attempt_ms / 8).clamp(250, 10_000),
            due: None,
            computed: BTreeMap::new(),
            proposals: Vec::new(),
            endorsed: Vec::new(),
            endorsements: BTreeMap::new(),
            recorded: BTreeSet::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Takes an event, and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, event: EpochEvent) -> Vec<EpochEffect> {
        let mut effects = Vec::new();
        match event {
            EpochEvent::Due(due) => self.begin(due),
            EpochEvent::Recorded { epoch, asset } => {
                if self.due.as_ref().is_some_and(|due| due.epoch == epoch) {
                    self.recorded.insert(asset);
                }
            }
            EpochEvent::Heard { from, message } => self.hear(now, from, message),
            EpochEvent::Computed { epoch, runs, trees } => {
                if self.due.as_ref().is_some_and(|due| due.epoch == epoch) {
                    let again = Computation::Again(now.plus_ms(self.again_ms));
                    self.computed
                        .insert(runs, trees.map_or(again, Computation::Done));
                }
            }
            EpochEvent::Signed {
                statement,
                signature,
            } => self.endorse(now, &statement, signature, &mut effects),
            EpochEvent::Tick => {}
        }
        if let Some(due) = self.due.take() {
            self.propose(now, &due, &mut effects);
            self.consider(now, &due, &mut effects);
            self.record(now, &due, &mut effects);
            self.due = Some(due);
        }
        effects
    }

    fn begin(&mut self, due: DueEpoch) {
        let is_same = self.due.as_ref().is_some_and(|known| {
            let bases = known.pledge_bases == due.pledge_bases;
            known.epoch == due.epoch && known.base == due.base && bases
        });
        if !is_same {
            self.computed.clear();
            self.proposals.clear();
            self.endorsements.clear();
            self.recorded.clear();
            self.sent.clear();
            self.endorsed.clear();
        }
        self.due = Some(due);
    }

    fn attempt(&self, now: Timestamp, due: &DueEpoch) -> u64 {
        now.ms_since(due.opened_at) / self.attempt_ms
    }

    fn is_turn(&self, attempt: u64, due: &DueEpoch, device: DeviceId) -> bool {
        let seat = due.committee.proposer(turn_of(due.epoch), attempt);
        seat.is_some_and(|seat| seat.device == device)
    }

    fn hear(&mut self, now: Timestamp, from: DeviceId, message: EpochMessage) {
        let Some(due) = self.due.take() else { return };
        match message {
            EpochMessage::Proposal(proposal) => {
                let attempt = self.attempt(now, &due);
                let mut near = attempt.saturating_sub(1)..=attempt.saturating_add(1);
                let is_turn = near.any(|attempt| self.is_turn(attempt, &due, from));
                let is_new = self.proposals.iter().all(|(device, _)| *device != from);
                let is_ordered = proposal.runs.is_sorted_by(|a, b| a < b);
                let is_short = proposal.runs.len() <= RUNS_MAX && proposal.trees.len() <= TREES_MAX;
                let fits = proposal.epoch == due.epoch && is_short;
                if is_turn && is_new && is_ordered && fits {
                    self.proposals.push((from, proposal));
                }
            }
            EpochMessage::Endorsement(said) if said.epoch == due.epoch && said.base == due.base => {
                self.hear_endorsement(&due, from, &said);
            }
            EpochMessage::Endorsement(_) => {}
        }
        self.due = Some(due);
    }

    /// Takes what a seat signed: its newest tree of each asset, of as many assets as there can be. Nobody speaks for another,
    /// so that who repeats a signature with another base takes nothing away from its signer.
    fn hear_endorsement(&mut self, due: &DueEpoch, from: DeviceId, said: &EpochEndorsement) {
        let Some(seat) = due.committee.seat_of(from) else {
            return;
        };
        let (session, asset) = (seat.seat.device, said.tree.asset);
        let others = self.endorsements.iter();
        let others =
            others.filter(|(tree, signers)| tree.asset != asset && signers.contains_key(&session));
        let statement = statement(said.epoch, &said.tree).for_rewards(self.rewards);
        let digest = self.domain.statement_digest(&statement);
        if others.count() >= TREES_MAX || said.signature.signer(digest) != Ok(session) {
            return;
        }
        self.endorsements.retain(|tree, signers| {
            if tree.asset == asset {
                signers.remove(&session);
            }
            !signers.is_empty()
        });
        let signers = self.endorsements.entry(said.tree).or_default();
        signers.insert(session, said.signature);
    }

    fn propose(&mut self, now: Timestamp, due: &DueEpoch, effects: &mut Vec<EpochEffect>) {
        let has_proposed = self
            .proposals
            .iter()
            .any(|(device, _)| *device == self.device);
        if has_proposed
            || !self.endorsed.is_empty()
            || !self.is_turn(self.attempt(now, due), due, self.device)
        {
            return;
        }
        let runs: Vec<B256> = due.runs.iter().copied().take(RUNS_MAX).collect();
        // An epoch in which nobody earned needs no record: the next one follows the same base.
        let trees = self.trees_of(now, due, &runs, effects);
        let Some(trees) = trees.filter(|trees| !trees.is_empty()) else {
            return;
        };
        let proposal = EpochProposal {
            epoch: due.epoch,
            base: due.base,
            runs,
            trees,
        };
        self.proposals.push((self.device, proposal.clone()));
        effects.push(EpochEffect::Say(EpochMessage::Proposal(proposal)));
    }

    /// The trees of these runs; nothing, and they are asked for, where they are not known.
    fn trees_of(
        &mut self,
        now: Timestamp,
        due: &DueEpoch,
        runs: &[B256],
        effects: &mut Vec<EpochEffect>,
    ) -> Option<Vec<TreeFacts>> {
        match self.computed.get(runs) {
            Some(Computation::Done(trees)) => return Some(trees.clone()),
            Some(Computation::Asked) => return None,
            Some(Computation::Again(from)) if now < *from => return None,
            Some(Computation::Again(_)) | None => {}
        }
        self.computed.insert(runs.to_vec(), Computation::Asked);
        effects.push(EpochEffect::Compute {
            epoch: due.epoch,
            base: due.base,
            pledge_bases: due.pledge_bases.clone(),
            runs: runs.to_vec(),
        });
        None
    }

    /// Signs the first proposal that this device would have made of the same runs.
    fn consider(&mut self, now: Timestamp, due: &DueEpoch, effects: &mut Vec<EpochEffect>) {
        for (_, proposal) in self.proposals.clone() {
            let counted = proposal.runs.iter().all(|run| due.runs.contains(run));
            let is_empty = proposal.trees.is_empty();
            if !self.endorsed.is_empty() || is_empty || !counted || proposal.base != due.base {
                continue;
            }
            let trees = self.trees_of(now, due, &proposal.runs, effects);
            if trees.as_ref() == Some(&proposal.trees) {
                self.endorsed.clone_from(&proposal.trees);
                let sign = proposal.trees.iter();
                effects.extend(sign.map(|tree| EpochEffect::Sign(statement(due.epoch, tree))));
            }
        }
    }

    fn endorse(
        &mut self,
        now: Timestamp,
        statement: &EpochStatement,
        signature: Option<Signature>,
        effects: &mut Vec<EpochEffect>,
    ) {
        let due = self.due.as_ref().filter(|due| due.epoch == statement.epoch);
        // A statement does not say the base: other proposals may have the same with another one.
        let mut trees = self.endorsed.iter();
        let tree = trees.find(|tree| self::statement(statement.epoch, tree) == *statement);
        let (Some(due), Some(tree), Some(signature)) = (due, tree, signature) else {
            return;
        };
        let endorsement = EpochEndorsement {
            epoch: statement.epoch,
            base: due.base,
            tree: *tree,
            signature,
        };
        let message = EpochMessage::Endorsement(endorsement);
        effects.push(EpochEffect::Say(message.clone()));
        self.hear(now, self.device, message);
    }

    /// Sends what enough have signed: the one whose turn it is at once, and again in each of its turns.
    fn record(&mut self, now: Timestamp, due: &DueEpoch, effects: &mut Vec<EpochEffect>) {
        let attempt = self.attempt(now, due);
        if !self.is_turn(attempt, due, self.device) {
            return;
        }
        for (tree, endorsements) in &self.endorsements {
            let (mask, is_decided) = due.committee.count(endorsements.keys());
            let is_sent = self.sent.get(&tree.asset) == Some(&attempt);
            if !is_decided || is_sent || self.recorded.contains(&tree.asset) {
                continue;
            }
            self.sent.insert(tree.asset, attempt);
            effects.push(EpochEffect::Record {
                statement: statement(due.epoch, tree),
                base: tree.base,
                mask,
                signatures: due.committee.in_order(mask, |key| endorsements.get(&key)),
            });
        }
    }
}

fn statement(epoch: u64, tree: &TreeFacts) -> EpochStatement {
    EpochStatement {
        epoch,
        asset: tree.asset,
        root: tree.root,
        total: tree.total,
        data: tree.data,
    }
}

/// What the order of proposers of an epoch is drawn by.
fn turn_of(epoch: u64) -> B256 {
    B256::left_padding_from(&epoch.to_be_bytes())
}

#[cfg(test)]
#[path = "epochs_tests.rs"]
mod tests;
