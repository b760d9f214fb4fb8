//! Who validates an epoch or a run, and the signatures of those who do, in the form that the contracts take.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use hearth_protocol::id::DeviceId;
use hearth_protocol::ledger::draw::{self, Committee, SEATS, Seat};
use hearth_protocol::signature::Signature;

/// A taken seat, and the device that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatHolder {
    /// Session key, household and weight.
    pub seat: Seat,
    /// How the network knows the device.
    pub device: DeviceId,
}

/// The seats of an epoch in the contract's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochSeats {
    /// Which epoch.
    pub epoch: u64,
    /// What its races are run with; zero before anyone enrolled.
    pub beacon: B256,
    /// The holders of the seats, at most [`SEATS`].
    pub holders: Vec<SeatHolder>,
}

/// The validators of one run in an epoch, or of the whole epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCommittee {
    run: B256,
    seats: EpochSeats,
    set: Committee,
}

/// Signatures of a set, as the contracts take them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureSet {
    /// Bit i is set where seat i signed.
    pub mask: u32,
    /// Their signatures, in the order of seats.
    pub signatures: Vec<Signature>,
}

impl EpochSeats {
    /// The set of `run`, or of the whole epoch where `run` is zero, as it is drawn from these seats.
    #[must_use]
    pub fn committee(self, run: B256) -> RunCommittee {
        let set = draw::committee(self.beacon, run, &self.seats());
        RunCommittee {
            run,
            seats: self,
            set,
        }
    }

    fn seats(&self) -> Vec<Seat> {
        self.holders.iter().map(|holder| holder.seat).collect()
    }
}

impl RunCommittee {
    /// The epoch whose seats these are.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.seats.epoch
    }

    /// The run; zero for the whole epoch.
    #[must_use]
    pub fn run(&self) -> B256 {
        self.run
    }

    /// All seats of the epoch.
    #[must_use]
    pub fn seats(&self) -> &EpochSeats {
        &self.seats
    }

    /// Mask, cap and total, as the contract seals them.
    #[must_use]
    pub fn set(&self) -> Committee {
        self.set
    }

    /// The seats of this set with their numbers, in order.
    pub fn members(&self) -> impl Iterator<Item = (usize, &SeatHolder)> {
        let holders = self.seats.holders.iter().take(SEATS).enumerate();
        holders.filter(|(seat, _)| self.set.mask >> seat & 1 == 1)
    }

    /// The number of the seat that signs with this key, if it belongs to this set.
    #[must_use]
    pub fn seat_of(&self, session_key: Address) -> Option<usize> {
        let mut members = self.members();
        let found = members.find(|(_, holder)| holder.seat.device == session_key);
        found.map(|(seat, _)| seat)
    }

    /// Puts signatures of `digest` in the order of seats. Left out is what is not of a member, or does not fit the digest:
    /// one wrong signature would have all refused.
    #[must_use]
    pub fn gather(&self, digest: B256, given: &BTreeMap<Address, Signature>) -> SignatureSet {
        let mut gathered = SignatureSet::default();
        for (seat, holder) in self.members() {
            let key = holder.seat.device;
            let signature = given.get(&key);
            let fits = |signature: &&Signature| signature.signer(digest) == Ok(key);
            if let Some(signature) = signature.filter(fits) {
                gathered.mask |= 1 << seat;
                gathered.signatures.push(*signature);
            }
        }
        gathered
    }

    /// Whether the seats of a mask decide: two thirds of what the set counts for.
    #[must_use]
    pub fn is_decided_by(&self, mask: u32) -> bool {
        self.set.mask != 0 && self.set.is_decided_by(mask, &self.seats.seats())
    }
}

impl SignatureSet {
    /// The signatures behind each other: 65 bytes each.
    #[must_use]
    pub fn concatenated(&self) -> Vec<u8> {
        let signatures = self.signatures.iter();
        signatures.flat_map(|one| *one.as_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;
    use alloy_signer::SignerSync;
    use alloy_signer_local::PrivateKeySigner;

    use super::*;

    fn key(seed: u8) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(seed)).unwrap()
    }

    fn sign(seed: u8, digest: B256) -> (Address, Signature) {
        let signer = key(seed);
        let signed = signer.sign_hash_sync(&digest).unwrap();
        let signature = Signature::from_bytes(&signed.as_bytes()).unwrap();
        (signer.address(), signature)
    }

    fn epoch(seats: u8) -> EpochSeats {
        let holder = |seed: u8| SeatHolder {
            seat: Seat {
                device: key(seed).address(),
                household: Address::repeat_byte(seed),
                weight: 1_000,
            },
            device: DeviceId([seed; 32]),
        };
        EpochSeats {
            epoch: 5,
            beacon: B256::repeat_byte(9),
            holders: (1..=seats).map(holder).collect(),
        }
    }

    #[test]
    fn signatures_stand_in_the_order_of_seats_and_strangers_are_left_out() {
        let committee = epoch(3).committee(B256::ZERO);
        let digest = keccak256("what is stated");
        let mut given = BTreeMap::from([sign(3, digest), sign(1, digest), sign(8, digest)]);
        // Seat 1 signed something else.
        given.extend([sign(2, keccak256("something else"))]);
        let gathered = committee.gather(digest, &given);
        assert_eq!(gathered.mask, 0b101);
        let expected = [sign(1, digest).1, sign(3, digest).1];
        assert_eq!(gathered.signatures, expected);
        assert_eq!(gathered.concatenated().len(), 130);
        assert!(committee.is_decided_by(gathered.mask));
        assert!(!committee.is_decided_by(0b100));
    }

    #[test]
    fn a_run_asks_only_those_who_were_drawn_for_it() {
        let committee = epoch(32).committee(B256::repeat_byte(4));
        assert_eq!(committee.members().count(), 16);
        let digest = keccak256("a round");
        let given = (1..=32).map(|seed| sign(seed, digest)).collect();
        let gathered = committee.gather(digest, &given);
        assert_eq!(gathered.mask, committee.set().mask);
        assert_eq!(gathered.signatures.len(), 16);
        for seed in 1..=32 {
            let seat = committee.seat_of(key(seed).address());
            assert_eq!(seat.is_some(), gathered.mask >> (seed - 1) & 1 == 1);
        }
    }

    #[test]
    fn nobody_decides_where_nobody_has_a_seat() {
        let committee = epoch(0).committee(B256::ZERO);
        assert!(!committee.is_decided_by(0));
        assert!(!committee.is_decided_by(u32::MAX));
    }
}
