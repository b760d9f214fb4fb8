//! What devices sign for the ledger: typed data (EIP-712) of one type, whose content is typed data too
//! (spec: 14 ledger, section 1).
//!
//! Two statements of one device under one subject and sequence prove that it said two things; so nothing may ever be
//! signed here without having been written down first.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue};

use crate::content::ContentHash;
use crate::eip712::signing_digest;
use crate::id::{ChainId, DeviceId};
use crate::money::Amount;
use crate::signature::Signature;

/// The EIP-712 name of the contract that registers devices.
pub const LEDGER_DOMAIN_NAME: &str = "Hearth Devices";
/// The EIP-712 version of that contract.
pub const LEDGER_DOMAIN_VERSION: &str = "1";

mod solidity {
    //! The types as Solidity declares them; only their hashes leave this file.
    use alloy_sol_types::sol;

    sol! {
        struct Statement {
            bytes32 subject;
            uint64 sequence;
            bytes32 content;
        }

        struct Registration {
            bytes32 endpointKey;
            address household;
            address sessionKey;
        }

        struct Epoch {
            uint64 epoch;
            address asset;
            bytes32 root;
            uint256 total;
            bytes32 data;
        }

        struct Round {
            bytes32 run;
            uint64 round;
            bytes32 parent;
            bytes32 contributions;
            bytes32 next;
        }

        struct Verdict {
            address device;
            address token;
            uint256 amount;
            bytes32 evidence;
        }
    }
}

/// The EIP-712 domain of the `Devices` contract on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerDomain {
    separator: B256,
}

/// A statement: `content` under a subject and a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerStatement {
    /// What it is about and for which contract.
    pub subject: B256,
    /// Tells statements of one subject apart: an epoch or a round.
    pub sequence: u64,
    /// Hash of what is stated.
    pub content: B256,
}

/// A device said two things under one subject and sequence, which expels it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivocation {
    /// Session key of the device.
    pub device: Address,
    /// One of the two statements.
    pub first: LedgerStatement,
    /// What it says instead in the other one.
    pub other: B256,
    /// The device's signatures of both.
    pub signatures: [Signature; 2],
}

/// That a device belongs to a household: both sign it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// The device.
    pub device: DeviceId,
    /// The account of its household.
    pub household: Address,
    /// The account that the device signs with.
    pub session_key: Address,
}

/// What was earned by the end of an epoch, in one asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStatement {
    /// The epoch that is over.
    pub epoch: u64,
    /// Ember, Voice, or the token of a pledge.
    pub asset: Address,
    /// Root of the sum tree.
    pub root: B256,
    /// Its sum.
    pub total: Amount,
    /// Name of the bytes that the tree was built from.
    pub data: ContentHash,
}

/// One round of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundStatement {
    /// The run, by the hash of its terms on this chain.
    pub run: B256,
    /// Number of the round.
    pub round: u64,
    /// Hash of the weights before.
    pub parent: B256,
    /// Merkle root of the admitted contributions.
    pub contributions: B256,
    /// Hash of the weights after.
    pub next: B256,
}

/// What a run promises to those who fund it; its hash names the run on every chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTerms {
    /// Name of the run's manifest.
    pub manifest: ContentHash,
    /// Hash of the weights that the first round starts from.
    pub state: B256,
    /// ERC-20 of the pledges; zero where the run takes none.
    pub token: Address,
    /// Atomic units under which all pledges go back; zero where the run takes none.
    pub soft_cap: Amount,
    /// Unix seconds until which pledges are made and withdrawn.
    pub deadline_s: u64,
    /// Unix seconds after which what no checkpoint released goes back.
    pub end_s: u64,
    /// Parts that the pledges are released in.
    pub checkpoints: u32,
    /// Rounds that a checkpoint takes.
    pub rounds_per_checkpoint: u32,
}

/// That a device cheated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictStatement {
    /// The session key of the device.
    pub device: Address,
    /// Token of the bond that is burnt; any where `amount` is zero.
    pub token: Address,
    /// Atomic units to burn.
    pub amount: Amount,
    /// Hash of what proves it.
    pub evidence: B256,
}

impl LedgerDomain {
    /// The domain of the contract at `devices` on `chain`.
    #[must_use]
    pub fn new(chain: ChainId, devices: Address) -> Self {
        let domain = Eip712Domain::new(
            Some(LEDGER_DOMAIN_NAME.into()),
            Some(LEDGER_DOMAIN_VERSION.into()),
            Some(U256::from(chain.0)),
            Some(devices),
            None,
        );
        Self {
            separator: domain.separator(),
        }
    }

    /// The domain separator.
    #[must_use]
    pub fn separator(&self) -> B256 {
        self.separator
    }

    /// What a device signs.
    #[must_use]
    pub fn statement_digest(&self, statement: &LedgerStatement) -> B256 {
        let message = solidity::Statement {
            subject: statement.subject,
            sequence: statement.sequence,
            content: statement.content,
        };
        signing_digest(self.separator, &message)
    }

    /// What a household and a session key sign.
    #[must_use]
    pub fn registration_digest(&self, registration: &Registration) -> B256 {
        let message = solidity::Registration {
            endpointKey: registration.device.0.into(),
            household: registration.household,
            sessionKey: registration.session_key,
        };
        signing_digest(self.separator, &message)
    }
}

/// What a statement under `topic` for the contract `court` is about.
#[must_use]
pub fn subject(court: Address, topic: B256) -> B256 {
    keccak256((court, topic).abi_encode())
}

/// A kind of statement together with what it names.
fn topic(kind: &str, name: B256) -> B256 {
    keccak256((keccak256(kind), name).abi_encode())
}

impl LedgerStatement {
    /// That a device is there to validate in `epoch`; `validators` is that contract.
    #[must_use]
    pub fn enrollment(validators: Address, epoch: u64) -> Self {
        Self {
            subject: subject(validators, keccak256("hearth enrollment")),
            sequence: epoch,
            content: B256::ZERO,
        }
    }
}

impl EpochStatement {
    /// What statements about this asset have in common.
    #[must_use]
    pub fn topic(&self) -> B256 {
        topic("hearth epoch", self.asset.into_word())
    }

    /// The hash of what is stated.
    #[must_use]
    pub fn content(&self) -> B256 {
        let message = solidity::Epoch {
            epoch: self.epoch,
            asset: self.asset,
            root: self.root,
            total: U256::from(self.total.units()),
            data: self.data.0.into(),
        };
        message.eip712_hash_struct()
    }

    /// The statement for the contract `rewards`.
    #[must_use]
    pub fn for_rewards(&self, rewards: Address) -> LedgerStatement {
        LedgerStatement {
            subject: subject(rewards, self.topic()),
            sequence: self.epoch,
            content: self.content(),
        }
    }
}

impl RunTerms {
    /// The name of the run.
    #[must_use]
    pub fn run(&self) -> B256 {
        let terms = (
            B256::from(self.manifest.0),
            self.state,
            self.token,
            self.soft_cap.units(),
            self.deadline_s,
            self.end_s,
            self.checkpoints,
            self.rounds_per_checkpoint,
        );
        keccak256(terms.abi_encode())
    }
}

impl RoundStatement {
    /// What statements about this run have in common.
    #[must_use]
    pub fn topic(&self) -> B256 {
        topic("hearth round", self.run)
    }

    /// The hash of what is stated.
    #[must_use]
    pub fn content(&self) -> B256 {
        let message = solidity::Round {
            run: self.run,
            round: self.round,
            parent: self.parent,
            contributions: self.contributions,
            next: self.next,
        };
        message.eip712_hash_struct()
    }

    /// The statement for the contract `runs`.
    #[must_use]
    pub fn for_runs(&self, runs: Address) -> LedgerStatement {
        LedgerStatement {
            subject: subject(runs, self.topic()),
            sequence: self.round,
            content: self.content(),
        }
    }
}

impl VerdictStatement {
    /// What verdicts on this evidence have in common, whatever they burn.
    #[must_use]
    pub fn topic(&self) -> B256 {
        let name = (self.device, self.token, self.evidence).abi_encode();
        topic("hearth verdict", keccak256(name))
    }

    /// The hash of what is stated.
    #[must_use]
    pub fn content(&self) -> B256 {
        let message = solidity::Verdict {
            device: self.device,
            token: self.token,
            amount: U256::from(self.amount.units()),
            evidence: self.evidence,
        };
        message.eip712_hash_struct()
    }

    /// The statement for the contract `validators`.
    #[must_use]
    pub fn for_validators(&self, validators: Address) -> LedgerStatement {
        LedgerStatement {
            subject: subject(validators, self.topic()),
            sequence: 0,
            content: self.content(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch() -> EpochStatement {
        EpochStatement {
            epoch: 7,
            asset: Address::repeat_byte(1),
            root: B256::repeat_byte(2),
            total: Amount::new(3),
            data: ContentHash([4; 32]),
        }
    }

    #[test]
    fn a_statement_holds_on_one_chain_for_one_contract() {
        let devices = Address::repeat_byte(9);
        let rewards = Address::repeat_byte(8);
        let domain = LedgerDomain::new(ChainId(1), devices);
        let statement = epoch().for_rewards(rewards);
        let mut digests = vec![
            domain.statement_digest(&statement),
            LedgerDomain::new(ChainId(2), devices).statement_digest(&statement),
            LedgerDomain::new(ChainId(1), rewards).statement_digest(&statement),
            domain.statement_digest(&epoch().for_rewards(devices)),
        ];
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 4);
    }

    #[test]
    fn two_contents_of_one_epoch_have_one_subject_and_sequence() {
        let rewards = Address::repeat_byte(8);
        let first = epoch().for_rewards(rewards);
        let mut other = epoch();
        other.total = Amount::new(4);
        let second = other.for_rewards(rewards);
        assert_eq!(
            (first.subject, first.sequence),
            (second.subject, second.sequence)
        );
        assert_ne!(first.content, second.content);
        other.asset = Address::repeat_byte(5);
        assert_ne!(other.for_rewards(rewards).subject, first.subject);
    }
}
