//! What a ledger's contract says when it refuses, as a type and in words.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolInterface;
use thiserror::Error;

use crate::bindings::{Devices, Ember, Rewards, Runs, Validators};
use crate::client::Revert;

/// The bytes of a signature that a set of signatures has for each seat of its mask.
const SIGNATURE_BYTES: u64 = 65;

/// Why one of the ledger's contracts refused a call: its own error in words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LedgerRefusal {
    /// A session key is registered once and for all.
    #[error("a device with the session key {0} is registered already")]
    DeviceExists(Address),
    /// No device has this session key.
    #[error("no device with the session key {0} is registered")]
    DeviceUnknown(Address),
    /// The device takes no part any more, or its household does not for now.
    #[error(
        "the device with the session key {0} is retired, expelled or excluded, or its household is barred"
    )]
    DeviceInactive(Address),
    /// Only the device or its household may do this.
    #[error("{0} is neither the device nor its household")]
    NotOfDevice(Address),
    /// Somebody else signed, or something else was signed.
    #[error("the signature is not by {0}")]
    InvalidSignature(Address),
    /// No key can have made it.
    #[error("a signature is malformed")]
    MalformedSignature,
    /// Nothing, or more than there is.
    #[error("the amount {0} is zero, or more than there is")]
    InvalidAmount(U256),
    /// Nothing of the bond was asked back.
    #[error("nothing of the bond is on its way out")]
    NothingLeaves,
    /// What was asked back has to wait.
    #[error("the bond can be taken from second {leaves_at_s} of Unix time on")]
    BondLeavesAt {
        /// Unix seconds.
        leaves_at_s: u64,
    },
    /// A verdict takes a quarter of a stake at most.
    #[error("{amount} is zero or more than {most}, the most that one verdict takes")]
    ExcessiveSlash {
        /// Atomic units asked for.
        amount: U256,
        /// A quarter of the stake.
        most: U256,
    },
    /// Two equal statements prove nothing.
    #[error("both statements say the same")]
    SameStatement,
    /// Enrollment is open from the second second of an epoch to the end of its first quarter.
    #[error(
        "epoch {0} takes no enrollments now: it does in its first quarter, after its first second"
    )]
    EnrollmentClosed(u64),
    /// One device of a household enrolls in an epoch.
    #[error("a device of the household {0} has enrolled in this epoch already")]
    AlreadyEnrolled(Address),
    /// The household has earned no votes.
    #[error("the household {0} had no votes when the epoch began")]
    NoWeight(Address),
    /// All seats have quicker holders.
    #[error("the household {0} was not drawn: all seats of the epoch have quicker holders")]
    NotDrawn(Address),
    /// The set of validators can still change.
    #[error("the validators of epoch {0} are not fixed yet")]
    NotSealed(u64),
    /// Too few enrolled, so that the epoch has no validators.
    #[error(
        "epoch {epoch} has no validators: those who enrolled weigh {weight}, and {due} are due"
    )]
    NoQuorum {
        /// The epoch.
        epoch: u64,
        /// What its seats weigh.
        weight: U256,
        /// What they would have to weigh.
        due: U256,
    },
    /// A seat that does not belong to the set, or that did not sign this.
    #[error("seat {0} does not belong to the set, or signed something else")]
    NotSigned(U256),
    /// Not a signature for each seat of the mask.
    #[error("{bytes} bytes are not {SIGNATURE_BYTES} for each seat of the mask")]
    InvalidSignatures {
        /// Their length.
        bytes: U256,
    },
    /// Less than two thirds signed.
    #[error("those who signed count for {weight} of {total}, which is less than two thirds")]
    TooLittleWeight {
        /// What the signers count for.
        weight: U256,
        /// What the whole set counts for.
        total: U256,
    },
    /// The set that signed decides no more, or not yet.
    #[error("the validators of epoch {epoch} are not in office: those of epoch {in_office} are")]
    NotInOffice {
        /// Whose signatures were given.
        epoch: u64,
        /// Whose set is in office.
        in_office: u64,
    },
    /// An evidence counts once.
    #[error("there is a verdict on the evidence {evidence} against {device} already")]
    VerdictExists {
        /// The session key of the device.
        device: Address,
        /// Hash of what proves it.
        evidence: B256,
    },
    /// Records are made once the epoch is over.
    #[error("epoch {0} is not over")]
    EpochNotOver(u64),
    /// The first record of an epoch and asset counts.
    #[error("epoch {0} has a record in this asset already")]
    RecordExists(u64),
    /// There is no record.
    #[error("epoch {0} has no record in this asset")]
    RecordMissing(u64),
    /// The record can be challenged still, or was revoked.
    #[error("the record of epoch {0} is not final: it can still be challenged, or was revoked")]
    NotFinal(u64),
    /// The challenge window is over, or the record was revoked.
    #[error("the record of epoch {0} can be challenged no more")]
    NotChallengeable(u64),
    /// The base is not an earlier final record.
    #[error("the base is not an earlier record of this asset")]
    InvalidBase,
    /// The total is below the base's, or above what can have been earned.
    #[error(
        "the total {total} is not between {least}, that of the base, and {most}, what can have been earned"
    )]
    InvalidTotal {
        /// What was stated.
        total: U256,
        /// Of the base.
        least: U256,
        /// The base's with the emission and what arrived since.
        most: U256,
    },
    /// The leaf or node is not where it is said to be.
    #[error("the proof does not lead to the root of the record")]
    InvalidProof,
    /// What was shown is right.
    #[error("what was shown is not a fault of the record")]
    NoFault,
    /// The records that can be claimed from do not allow it.
    #[error("{0} are more than the final records leave to claim")]
    ExcessiveClaim(U256),
    /// Nothing of the token arrived.
    #[error("nothing of this token has arrived that is not counted yet")]
    InvalidFunding,
    /// Terms that no run can have.
    #[error("no run can have these terms")]
    InvalidTerms,
    /// The deadline passed, or the run takes no pledges.
    #[error("the run {0} takes no pledges, or none any more")]
    PledgesClosed(B256),
    /// The soft cap was reached and the run has not ended.
    #[error("the pledges for the run {0} are bound until it ends")]
    PledgesBound(B256),
    /// The round has a record, or its number leaps too far.
    #[error(
        "round {round} is recorded already or too far ahead: the next is {next_round} or later"
    )]
    InvalidRound {
        /// What was stated.
        round: u64,
        /// The lowest number that the next round can have.
        next_round: u64,
    },
    /// The round does not start where the run is.
    #[error("the round starts from the state {parent}, and the run is at {state}")]
    InvalidParent {
        /// What the round starts from.
        parent: B256,
        /// The state of the run.
        state: B256,
    },
    /// No checkpoint waits for its part.
    #[error("no checkpoint of the run {0} waits for its part of the pledges")]
    NothingToRelease(B256),
    /// The owner of the tokens allowed less.
    #[error("the token may move {allowance} for {spender}, and {needed} are needed")]
    TooLittleAllowed {
        /// The contract that takes them.
        spender: Address,
        /// Atomic units allowed.
        allowance: U256,
        /// Atomic units needed.
        needed: U256,
    },
    /// The owner of the tokens has less.
    #[error("{owner} holds {balance} of the token, and {needed} are needed")]
    TooLittleHeld {
        /// Whose they are.
        owner: Address,
        /// Atomic units held.
        balance: U256,
        /// Atomic units needed.
        needed: U256,
    },
    /// The token said no.
    #[error("the token {0} did not move")]
    TokenFailed(Address),
    /// Anything else, as the chain words it.
    #[error("{0}")]
    Other(String),
}

impl LedgerRefusal {
    /// Reads what a contract of the ledger, or a token that it called, said.
    #[must_use]
    pub fn of(revert: &Revert) -> Self {
        let data = &revert.data;
        of_devices(data)
            .or_else(|| of_validators(data))
            .or_else(|| of_rewards(data))
            .or_else(|| of_runs(data))
            .or_else(|| of_token(data))
            .unwrap_or_else(|| Self::Other(revert.to_string()))
    }
}

fn of_devices(data: &[u8]) -> Option<LedgerRefusal> {
    use Devices::DevicesErrors as Said;
    use LedgerRefusal as Is;
    Some(match Said::abi_decode(data).ok()? {
        Said::DeviceExists(error) => Is::DeviceExists(error.sessionKey),
        Said::DeviceUnknown(error) => Is::DeviceUnknown(error.sessionKey),
        Said::DeviceInactive(error) => Is::DeviceInactive(error.sessionKey),
        Said::NotOfDevice(error) => Is::NotOfDevice(error.account),
        Said::InvalidSignature(error) => Is::InvalidSignature(error.signer),
        Said::ECDSAInvalidSignature(_)
        | Said::ECDSAInvalidSignatureLength(_)
        | Said::ECDSAInvalidSignatureS(_) => Is::MalformedSignature,
        Said::InvalidAmount(error) => Is::InvalidAmount(error.amount),
        Said::BondLeavesAt(error) if error.leavesAt == 0 => Is::NothingLeaves,
        Said::BondLeavesAt(error) => Is::BondLeavesAt {
            leaves_at_s: error.leavesAt,
        },
        Said::ExcessiveSlash(error) => Is::ExcessiveSlash {
            amount: error.amount,
            most: error.most,
        },
        Said::SameStatement(_) => Is::SameStatement,
        Said::SafeERC20FailedOperation(error) => Is::TokenFailed(error.token),
        Said::ReentrancyGuardReentrantCall(_) | Said::SafeCastOverflowedUintDowncast(_) => {
            return None;
        }
    })
}

fn of_validators(data: &[u8]) -> Option<LedgerRefusal> {
    use LedgerRefusal as Is;
    use Validators::ValidatorsErrors as Said;
    Some(match Said::abi_decode(data).ok()? {
        Said::EnrollmentClosed(error) => Is::EnrollmentClosed(error.epoch),
        Said::AlreadyEnrolled(error) => Is::AlreadyEnrolled(error.household),
        Said::NoWeight(error) => Is::NoWeight(error.household),
        Said::NotDrawn(error) => Is::NotDrawn(error.household),
        Said::NotSealed(error) => Is::NotSealed(error.epoch),
        Said::NoQuorum(error) => Is::NoQuorum {
            epoch: error.epoch,
            weight: error.weight,
            due: error.due,
        },
        Said::NotSigned(error) => Is::NotSigned(error.seat),
        Said::InvalidSignatures(error) => Is::InvalidSignatures {
            bytes: error.length,
        },
        Said::TooLittleWeight(error) => Is::TooLittleWeight {
            weight: error.weight,
            total: error.total,
        },
        Said::NotInOffice(error) => Is::NotInOffice {
            epoch: error.epoch,
            in_office: error.inOffice,
        },
        Said::VerdictExists(error) => Is::VerdictExists {
            device: error.device,
            evidence: error.evidence,
        },
        // The rest has the selectors of errors that were read before, or is of the constructor alone.
        _ => return None,
    })
}

fn of_rewards(data: &[u8]) -> Option<LedgerRefusal> {
    use LedgerRefusal as Is;
    use Rewards::RewardsErrors as Said;
    Some(match Said::abi_decode(data).ok()? {
        Said::EpochNotOver(error) => Is::EpochNotOver(error.epoch),
        Said::RecordExists(error) => Is::RecordExists(error.epoch),
        Said::RecordMissing(error) => Is::RecordMissing(error.epoch),
        Said::NotFinal(error) => Is::NotFinal(error.epoch),
        Said::NotChallengeable(error) => Is::NotChallengeable(error.epoch),
        Said::InvalidBase(_) => Is::InvalidBase,
        Said::InvalidTotal(error) => Is::InvalidTotal {
            total: error.total,
            least: error.least,
            most: error.most,
        },
        Said::InvalidProof(_) | Said::InvalidPath(_) => Is::InvalidProof,
        Said::NoFault(_) => Is::NoFault,
        Said::ExcessiveClaim(error) => Is::ExcessiveClaim(error.amount),
        Said::InvalidFunding(_) => Is::InvalidFunding,
        _ => return None,
    })
}

fn of_runs(data: &[u8]) -> Option<LedgerRefusal> {
    use LedgerRefusal as Is;
    use Runs::RunsErrors as Said;
    Some(match Said::abi_decode(data).ok()? {
        Said::InvalidTerms(_) => Is::InvalidTerms,
        Said::PledgesClosed(error) => Is::PledgesClosed(error.run),
        Said::PledgesBound(error) => Is::PledgesBound(error.run),
        Said::InvalidRound(error) => Is::InvalidRound {
            round: error.round,
            next_round: error.nextRound,
        },
        Said::InvalidParent(error) => Is::InvalidParent {
            parent: error.parent,
            state: error.state,
        },
        Said::NothingToRelease(error) => Is::NothingToRelease(error.run),
        _ => return None,
    })
}

/// The errors of ERC-6093, which most tokens have.
fn of_token(data: &[u8]) -> Option<LedgerRefusal> {
    use Ember::EmberErrors as Said;
    Some(match Said::abi_decode(data).ok()? {
        Said::ERC20InsufficientAllowance(error) => LedgerRefusal::TooLittleAllowed {
            spender: error.spender,
            allowance: error.allowance,
            needed: error.needed,
        },
        Said::ERC20InsufficientBalance(error) => LedgerRefusal::TooLittleHeld {
            owner: error.sender,
            balance: error.balance,
            needed: error.needed,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Bytes;
    use alloy_sol_types::SolError;

    use super::*;

    fn said(error: impl SolError) -> LedgerRefusal {
        let data: Bytes = error.abi_encode().into();
        LedgerRefusal::of(&Revert::decode(data, "execution reverted"))
    }

    #[test]
    fn each_contracts_error_is_said_in_words() {
        let device = Address::repeat_byte(7);
        let refused = said(Devices::DeviceExists { sessionKey: device });
        assert_eq!(refused, LedgerRefusal::DeviceExists(device));
        assert!(refused.to_string().contains("registered already"));
        let refused = said(Validators::TooLittleWeight {
            weight: U256::from(1),
            total: U256::from(3),
        });
        assert!(refused.to_string().contains("1 of 3"), "{refused}");
        let refused = said(Rewards::NotFinal { epoch: 4 });
        assert_eq!(refused, LedgerRefusal::NotFinal(4));
        let refused = said(Runs::InvalidRound {
            round: 2,
            nextRound: 3,
        });
        assert!(matches!(
            refused,
            LedgerRefusal::InvalidRound { round: 2, .. }
        ));
        let refused = said(Ember::ERC20InsufficientAllowance {
            spender: device,
            allowance: U256::ZERO,
            needed: U256::from(5),
        });
        assert!(matches!(refused, LedgerRefusal::TooLittleAllowed { .. }));
        assert_eq!(
            said(Devices::BondLeavesAt { leavesAt: 0 }),
            LedgerRefusal::NothingLeaves
        );
    }

    #[test]
    fn what_is_not_known_is_shown_as_the_chain_words_it() {
        let named = said(Runs::ReentrancyGuardReentrantCall {});
        assert_eq!(
            named,
            LedgerRefusal::Other("ReentrancyGuardReentrantCall".to_owned())
        );
        let strange = Revert::decode(Bytes::from_static(&[1, 2, 3, 4, 5]), "");
        let strange = LedgerRefusal::of(&strange).to_string();
        assert!(strange.contains("0x01020304"), "{strange}");
    }
}
