//! The calls that change a ledger, as calldata: made from the protocol's types, neither signed nor sent.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::{
    EpochStatement, Equivocation, Registration, RoundStatement, RunTerms, VerdictStatement,
};
use hearth_protocol::ledger::sum_tree::{ShownLeaf, SumNode, SumProof};
use hearth_protocol::money::Amount;
use hearth_protocol::signature::Signature;

use super::committee::SignatureSet;
use crate::bindings::{Devices, IERC20, Rewards, Runs, Validators};
use crate::deployment::LedgerAddresses;

/// What stands for no base in the call of a record.
const NO_BASE: u64 = u64::MAX;

/// A call to one of the ledger's contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerCall {
    /// The function, for logs and names.
    pub what: &'static str,
    /// The contract.
    pub to: Address,
    /// The function with its arguments.
    pub data: Bytes,
    /// What the same call means when it is made again.
    pub again: Again,
}

/// What the same call means when it is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nothing: the contract refuses, or does nothing.
    Same,
    /// One more: another pledge, say.
    More,
}

/// What a bond is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BondPlace {
    /// Session key of the device.
    pub device: Address,
    /// The contract that may take it.
    pub court: Address,
    /// ERC-20.
    pub token: Address,
}

/// What is wrong with the record of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochFault {
    /// The sum of a node is not that of its children.
    Sum {
        /// The node.
        node: SumNode,
        /// Where it stands.
        proof: SumProof,
        /// Its left and right child.
        children: [SumNode; 2],
    },
    /// A leaf stands in the tree with another sum than its amount.
    Leaf {
        /// The leaf.
        leaf: ShownLeaf,
        /// The sum that it has there.
        sum: Amount,
    },
    /// Two leaves do not ascend by account.
    Order {
        /// The one that stands first.
        first: ShownLeaf,
        /// The one that stands later.
        second: ShownLeaf,
    },
    /// An account has less than in the base.
    Lower {
        /// Its leaf in the base.
        earlier: ShownLeaf,
        /// Its leaf in the record.
        later: ShownLeaf,
    },
    /// An account of the base has no leaf.
    Absent {
        /// Its leaf in the base.
        earlier: ShownLeaf,
        /// The leaves around where it would be; nothing at an end of the tree.
        neighbors: Box<[Option<ShownLeaf>; 2]>,
    },
}

fn call<C: SolCall>(what: &'static str, to: Address, again: Again, call: &C) -> LedgerCall {
    LedgerCall {
        what,
        to,
        data: call.abi_encode().into(),
        again,
    }
}

fn bytes(signature: &Signature) -> Bytes {
    signature.as_bytes().to_vec().into()
}

fn units(amount: Amount) -> U256 {
    U256::from(amount.units())
}

fn contract_terms(terms: &RunTerms) -> Runs::RunTerms {
    Runs::RunTerms {
        manifest: terms.manifest.0.into(),
        state: terms.state,
        token: terms.token,
        softCap: terms.soft_cap.units(),
        deadline: terms.deadline_s,
        end: terms.end_s,
        checkpoints: terms.checkpoints,
        roundsPerCheckpoint: terms.rounds_per_checkpoint,
    }
}

fn contract_node(node: SumNode) -> Rewards::Node {
    Rewards::Node {
        hash: node.hash,
        sum: units(node.sum),
    }
}

fn contract_path(proof: &SumProof) -> Rewards::Path {
    let siblings = proof.siblings.iter().copied();
    Rewards::Path {
        index: U256::from(proof.index),
        siblings: siblings.map(contract_node).collect(),
    }
}

fn contract_leaf(leaf: &ShownLeaf) -> Rewards::Leaf {
    Rewards::Leaf {
        account: leaf.account,
        cumulative: units(leaf.cumulative),
        path: contract_path(&leaf.proof),
    }
}

/// A leaf where there is one, and one that nothing looks at elsewhere.
fn neighbor(leaf: Option<&ShownLeaf>) -> (bool, Rewards::Leaf) {
    let nothing = || Rewards::Leaf {
        account: Address::ZERO,
        cumulative: U256::ZERO,
        path: Rewards::Path {
            index: U256::ZERO,
            siblings: Vec::new(),
        },
    };
    (leaf.is_some(), leaf.map_or_else(nothing, contract_leaf))
}

/// Devices and bonds.
impl LedgerAddresses {
    /// Registers a device, once and for all. A household that is a contract signs in a form of its own.
    #[must_use]
    pub fn register(
        &self,
        registration: &Registration,
        household_signature: Bytes,
        session_signature: &Signature,
    ) -> LedgerCall {
        let arguments = Devices::registerCall {
            endpointKey: registration.device.0.into(),
            household: registration.household,
            sessionKey: registration.session_key,
            householdSignature: household_signature,
            sessionSignature: bytes(session_signature),
        };
        call("register", self.devices, Again::Same, &arguments)
    }

    /// Takes a device out of service for good; for the device and its household.
    #[must_use]
    pub fn retire(&self, device: Address) -> LedgerCall {
        let arguments = Devices::retireCall { sessionKey: device };
        call("retire", self.devices, Again::Same, &arguments)
    }

    /// Lets `spender`, one of these contracts, take up to `amount` of the sender's `token`.
    #[must_use]
    pub fn approve(&self, token: Address, spender: Address, amount: Amount) -> LedgerCall {
        let arguments = IERC20::approveCall {
            spender,
            value: units(amount),
        };
        call("approve", token, Again::More, &arguments)
    }

    /// Puts up a bond out of what the sender allowed `Devices` to take.
    #[must_use]
    pub fn bond(&self, place: &BondPlace, amount: Amount) -> LedgerCall {
        let arguments = Devices::bondCall {
            device: place.device,
            court: place.court,
            token: place.token,
            amount: units(amount),
        };
        call("bond", self.devices, Again::More, &arguments)
    }

    /// Asks a part of a bond back; for the household.
    #[must_use]
    pub fn unbond(&self, place: &BondPlace, amount: Amount) -> LedgerCall {
        let arguments = Devices::unbondCall {
            device: place.device,
            court: place.court,
            token: place.token,
            amount: units(amount),
        };
        call("unbond", self.devices, Again::More, &arguments)
    }

    /// Pays what was asked back, and waited long enough, to the household.
    #[must_use]
    pub fn withdraw_bond(&self, place: &BondPlace) -> LedgerCall {
        let arguments = Devices::withdrawCall {
            device: place.device,
            court: place.court,
            token: place.token,
        };
        call("withdraw-bond", self.devices, Again::More, &arguments)
    }

    /// Has a device expelled that said two things.
    #[must_use]
    pub fn expel(&self, proof: &Equivocation) -> LedgerCall {
        let [first, second] = &proof.signatures;
        let arguments = Devices::expelCall {
            device: proof.device,
            subject: proof.first.subject,
            sequence: proof.first.sequence,
            contents: [proof.first.content, proof.other],
            firstSignature: bytes(first),
            secondSignature: bytes(second),
        };
        call("expel", self.devices, Again::Same, &arguments)
    }
}

/// Validators.
impl LedgerAddresses {
    /// Enrolls a device in the present epoch, by its signature of [`LedgerStatement::enrollment`].
    #[must_use]
    pub fn enroll(&self, device: Address, signature: &Signature) -> LedgerCall {
        let arguments = Validators::enrollCall {
            device,
            signature: bytes(signature),
        };
        call("enroll", self.validators, Again::Same, &arguments)
    }

    /// Fixes the set of an epoch and run; whatever needs it does so by itself.
    #[must_use]
    pub fn seal(&self, epoch: u64, run: B256) -> LedgerCall {
        let arguments = Validators::sealCall { epoch, run };
        call("seal", self.validators, Again::Same, &arguments)
    }

    /// Carries out a verdict that the set of (`epoch`, `run`) signed.
    #[must_use]
    pub fn verdict(
        &self,
        epoch: u64,
        run: B256,
        verdict: &VerdictStatement,
        signed: &SignatureSet,
    ) -> LedgerCall {
        let arguments = Validators::convictCall {
            epoch,
            run,
            device: verdict.device,
            token: verdict.token,
            amount: units(verdict.amount),
            evidence: verdict.evidence,
            mask: signed.mask,
            signatures: signed.concatenated().into(),
        };
        call("verdict", self.validators, Again::Same, &arguments)
    }
}

/// Rewards.
impl LedgerAddresses {
    /// Records what was earned by the end of an epoch, signed by the set of the epoch after it. `base` is the epoch of a
    /// final record to count from.
    #[must_use]
    pub fn record_epoch(
        &self,
        statement: &EpochStatement,
        base: Option<u64>,
        signed: &SignatureSet,
    ) -> LedgerCall {
        let arguments = Rewards::recordCall {
            asset: statement.asset,
            epoch: statement.epoch,
            base: base.unwrap_or(NO_BASE),
            root: statement.root,
            total: units(statement.total),
            data: statement.data.0.into(),
            mask: signed.mask,
            signatures: signed.concatenated().into(),
        };
        call("record-epoch", self.rewards, Again::Same, &arguments)
    }

    /// Pays an account what it has earned and not claimed, by a leaf of the final record of an epoch. Anyone may send it.
    #[must_use]
    pub fn claim(&self, asset: Address, epoch: u64, leaf: &ShownLeaf) -> LedgerCall {
        let arguments = Rewards::claimCall {
            asset,
            epoch,
            leaf: contract_leaf(leaf),
        };
        call("claim", self.rewards, Again::Same, &arguments)
    }

    /// Counts what arrived of a token for others to earn.
    #[must_use]
    pub fn fund(&self, asset: Address) -> LedgerCall {
        let arguments = Rewards::fundCall { asset };
        call("fund", self.rewards, Again::More, &arguments)
    }

    /// Revokes the record of an epoch by showing what is wrong with it, within its challenge window.
    #[must_use]
    pub fn revoke(&self, asset: Address, epoch: u64, fault: &EpochFault) -> LedgerCall {
        let to = self.rewards;
        let once = Again::Same;
        match fault {
            EpochFault::Sum {
                node,
                proof,
                children: [left, right],
            } => {
                let arguments = Rewards::challengeSumCall {
                    asset,
                    epoch,
                    node: contract_node(*node),
                    path: contract_path(proof),
                    left: contract_node(*left),
                    right: contract_node(*right),
                };
                call("revoke", to, once, &arguments)
            }
            EpochFault::Leaf { leaf, sum } => {
                let arguments = Rewards::challengeLeafCall {
                    asset,
                    epoch,
                    leaf: contract_leaf(leaf),
                    sum: units(*sum),
                };
                call("revoke", to, once, &arguments)
            }
            EpochFault::Order { first, second } => {
                let arguments = Rewards::challengeOrderCall {
                    asset,
                    epoch,
                    first: contract_leaf(first),
                    second: contract_leaf(second),
                };
                call("revoke", to, once, &arguments)
            }
            EpochFault::Lower { earlier, later } => {
                let arguments = Rewards::challengeLowerCall {
                    asset,
                    epoch,
                    earlier: contract_leaf(earlier),
                    later: contract_leaf(later),
                };
                call("revoke", to, once, &arguments)
            }
            EpochFault::Absent { earlier, neighbors } => {
                let [before, after] = &**neighbors;
                self.revoke_by_absence(asset, epoch, earlier, before.as_ref(), after.as_ref())
            }
        }
    }

    fn revoke_by_absence(
        &self,
        asset: Address,
        epoch: u64,
        earlier: &ShownLeaf,
        before: Option<&ShownLeaf>,
        after: Option<&ShownLeaf>,
    ) -> LedgerCall {
        let (has_before, before) = neighbor(before);
        let (has_after, after) = neighbor(after);
        let arguments = Rewards::challengeAbsenceCall {
            asset,
            epoch,
            earlier: contract_leaf(earlier),
            hasBefore: has_before,
            before,
            hasAfter: has_after,
            after_: after,
        };
        call("revoke", self.rewards, Again::Same, &arguments)
    }

    /// Has all devices expelled that signed a revoked record, by its data and the signatures that it came with.
    #[must_use]
    pub fn convict_signers(
        &self,
        asset: Address,
        epoch: u64,
        data: ContentHash,
        signed: &SignatureSet,
    ) -> LedgerCall {
        let arguments = Rewards::convictCall {
            asset,
            epoch,
            data: data.0.into(),
            signatures: signed.concatenated().into(),
        };
        call("convict-signers", self.rewards, Again::Same, &arguments)
    }
}

/// Runs.
impl LedgerAddresses {
    /// Pledges out of what the sender allowed `Runs` to take.
    #[must_use]
    pub fn pledge(&self, terms: &RunTerms, amount: Amount) -> LedgerCall {
        let arguments = Runs::pledgeCall {
            terms: contract_terms(terms),
            amount: units(amount),
        };
        call("pledge", self.runs, Again::More, &arguments)
    }

    /// Takes a part of the sender's pledge back, until the deadline.
    #[must_use]
    pub fn withdraw_pledge(&self, terms: &RunTerms, amount: Amount) -> LedgerCall {
        let arguments = Runs::withdrawCall {
            terms: contract_terms(terms),
            amount: units(amount),
        };
        call("withdraw-pledge", self.runs, Again::More, &arguments)
    }

    /// Pays a funder back what no checkpoint released, or everything under the soft cap. Anyone may send it.
    #[must_use]
    pub fn refund(&self, terms: &RunTerms, funder: Address) -> LedgerCall {
        let arguments = Runs::refundCall {
            terms: contract_terms(terms),
            funder,
        };
        call("refund", self.runs, Again::Same, &arguments)
    }

    /// Sends the parts of all accepted checkpoints to the rewards. Anyone may send it.
    #[must_use]
    pub fn release(&self, terms: &RunTerms) -> LedgerCall {
        let arguments = Runs::releaseCall {
            terms: contract_terms(terms),
        };
        call("release", self.runs, Again::More, &arguments)
    }

    /// Records a round that the set of (`epoch`, run) signed.
    #[must_use]
    pub fn record_round(
        &self,
        terms: &RunTerms,
        round: &RoundStatement,
        epoch: u64,
        signed: &SignatureSet,
    ) -> LedgerCall {
        let arguments = Runs::recordRoundCall {
            terms: contract_terms(terms),
            round: round.round,
            parent: round.parent,
            contributions: round.contributions,
            next: round.next,
            epoch,
            mask: signed.mask,
            signatures: signed.concatenated().into(),
        };
        call("record-round", self.runs, Again::Same, &arguments)
    }
}
