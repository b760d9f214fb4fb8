//! The validators of a run in an epoch, by device, and who does what when (spec: runs, sections 6 and 7).

use alloy_primitives::{Address, B256};

use super::history::RunRules;
use super::{Head, turn};
use crate::ledger::draw::{self, Seat};
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// What separates the order of proposers from all other hashes.
const PROPOSER_CONTEXT: &str = "hearth run proposer 1";
/// What separates the order of auditors from all other hashes.
const AUDITOR_CONTEXT: &str = "hearth run auditor 1";

/// A seat, with the device that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSeat {
    /// The device, as the network knows it.
    pub device: DeviceId,
    /// Its session key, its household and their weight.
    pub seat: Seat,
}

/// The validators that decide about a run in an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCommittee {
    /// The epoch.
    pub epoch: u64,
    /// All seats of the epoch, in the contract's order.
    seats: Vec<RunSeat>,
    drawn: draw::Committee,
    plain: Vec<Seat>,
}

impl RunCommittee {
    /// Draws the validators of `run` from the seats of `epoch`.
    #[must_use]
    pub fn draw(epoch: u64, beacon: B256, run: B256, mut seats: Vec<RunSeat>) -> Self {
        seats.truncate(draw::SEATS);
        let plain: Vec<Seat> = seats.iter().map(|seat| seat.seat).collect();
        Self {
            epoch,
            drawn: draw::committee(beacon, run, &plain),
            seats,
            plain,
        }
    }

    /// The seats of this run.
    pub fn members(&self) -> impl Iterator<Item = &RunSeat> {
        let mask = self.drawn.mask;
        let seats = self.seats.iter().enumerate();
        seats
            .filter(move |(place, _)| mask >> place & 1 == 1)
            .map(|(_, seat)| seat)
    }

    /// How many seats the run has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members().count()
    }

    /// Whether nobody validates.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.drawn.mask == 0
    }

    /// The seat of a device.
    #[must_use]
    pub fn seat_of(&self, device: DeviceId) -> Option<&RunSeat> {
        self.members().find(|seat| seat.device == device)
    }

    /// The seat of a session key.
    #[must_use]
    pub fn seat_of_key(&self, session: Address) -> Option<&RunSeat> {
        self.members().find(|seat| seat.seat.device == session)
    }

    /// The places of those who signed, one bit each, and whether they decide.
    #[must_use]
    pub fn count<'a>(&self, signers: impl Iterator<Item = &'a Address>) -> (u32, bool) {
        let signers: Vec<_> = signers.collect();
        let mask = self
            .plain
            .iter()
            .enumerate()
            .fold(0, |mask, (place, seat)| {
                mask | u32::from(signers.contains(&&seat.device)) << place
            })
            & self.drawn.mask;
        // Where nobody validates, two thirds of nothing decide nothing.
        let is_decided = mask != 0 && self.drawn.is_decided_by(mask, &self.plain);
        (mask, is_decided)
    }

    /// Whether these devices count for more than a third: if less than a third lie, one of them tells the truth.
    #[must_use]
    pub fn is_backed_by(&self, devices: &[DeviceId]) -> bool {
        let seats = self.seats.iter().enumerate();
        let mask = seats
            .filter(|(_, seat)| devices.contains(&seat.device))
            .fold(0, |mask, (place, _)| mask | 1_u32 << place);
        let weight = self.drawn.weight_of(mask, &self.plain);
        weight.saturating_mul(3) > self.drawn.total
    }

    /// The signatures of the seats in `mask`, in the order of seats, as a contract takes them.
    pub fn in_order<'a>(
        &'a self,
        mask: u32,
        signature: impl Fn(Address) -> Option<&'a Signature>,
    ) -> Vec<Signature> {
        let seats = self.plain.iter().enumerate();
        seats
            .filter(|(place, _)| mask >> place & 1 == 1)
            .filter_map(|(_, seat)| signature(seat.device).copied())
            .collect()
    }

    /// Who proposes attempt `attempt` of the round that starts from `parent`. Every seat has its turn.
    #[must_use]
    pub fn proposer(&self, parent: B256, attempt: u64) -> Option<&RunSeat> {
        let order = self.order(PROPOSER_CONTEXT, &[parent.as_slice()]);
        let turn = attempt.checked_rem(order.len() as u64)?;
        order.get(usize::try_from(turn).ok()?).copied()
    }

    /// Who replays the work of a trainer, the first one first. Nobody judges the work of its own household, unless
    /// there is nobody else.
    #[must_use]
    pub fn auditors(
        &self,
        beacon: B256,
        index: u64,
        trainer: DeviceId,
        account: Address,
    ) -> Vec<&RunSeat> {
        let facts = [beacon.as_slice(), &index.to_le_bytes(), &trainer.0];
        let order = self.order(AUDITOR_CONTEXT, &facts);
        let others: Vec<_> = order
            .iter()
            .filter(|seat| seat.seat.household != account)
            .copied()
            .collect();
        if others.is_empty() { order } else { others }
    }

    fn order(&self, context: &str, facts: &[&[u8]]) -> Vec<&RunSeat> {
        let mut order: Vec<_> = self.members().collect();
        order.sort_by_cached_key(|seat| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            for fact in facts {
                hasher.update(fact);
            }
            hasher.update(&seat.device.0);
            *hasher.finalize().as_bytes()
        });
        order
    }
}

/// The validators in office, and those before them, whose signatures the chain takes as well.
#[derive(Debug, Default)]
pub(super) struct InOffice(Vec<RunCommittee>);

impl InOffice {
    /// Takes a committee, whatever the order in which they come.
    pub(super) fn install(&mut self, committee: RunCommittee) {
        self.0.retain(|known| known.epoch != committee.epoch);
        self.0.push(committee);
        self.0.sort_by_key(|known| std::cmp::Reverse(known.epoch));
        self.0.truncate(2);
    }

    pub(super) fn newest(&self) -> Option<&RunCommittee> {
        self.0.first()
    }

    pub(super) fn of(&self, epoch: u64) -> Option<&RunCommittee> {
        self.0.iter().find(|known| known.epoch == epoch)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RunCommittee> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a device has a seat in one of them.
    pub(super) fn has_seat(&self, device: DeviceId) -> bool {
        self.iter().any(|known| known.seat_of(device).is_some())
    }

    /// Whether a session key has a seat in one of them.
    pub(super) fn has_key(&self, session: Address) -> bool {
        self.iter()
            .any(|known| known.seat_of_key(session).is_some())
    }

    /// The attempt that `number` stands for, if it is, or was a moment ago, the turn of `from` to propose it.
    pub(super) fn turn_of(
        &self,
        from: DeviceId,
        (number, epoch): (u64, u64),
        (head, rules): (&Head, &RunRules),
        now: Timestamp,
    ) -> Option<u64> {
        let attempt = turn::attempt_of(head, rules, number, now)?;
        let proposer = self.of(epoch)?.proposer(head.state, attempt)?;
        (proposer.device == from).then_some(attempt)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn seat(number: u8, weight: u128) -> RunSeat {
        RunSeat {
            device: DeviceId([number; 32]),
            seat: Seat {
                device: Address::repeat_byte(number),
                household: Address::repeat_byte(0x80 + number),
                weight,
            },
        }
    }

    pub(crate) fn committee(epoch: u64, numbers: std::ops::Range<u8>) -> RunCommittee {
        let seats = numbers.map(|number| seat(number, 1_000)).collect();
        RunCommittee::draw(epoch, B256::ZERO, B256::repeat_byte(0x77), seats)
    }

    #[test]
    fn where_nobody_validates_nothing_is_decided() {
        let nobody = committee(1, 0..0);
        let stranger = Address::repeat_byte(9);
        assert_eq!(nobody.count([stranger].iter()), (0, false));
        assert_eq!(nobody.count([].iter()), (0, false));
        assert!(nobody.proposer(B256::ZERO, 0).is_none());
    }

    #[test]
    fn more_than_a_third_of_the_weight_backs_a_report() {
        let six = committee(1, 1..7);
        let devices: Vec<DeviceId> = six.members().map(|seat| seat.device).collect();
        assert!(!six.is_backed_by(&devices[..2]), "a third may lie");
        assert!(six.is_backed_by(&devices[..3]));
        assert!(!six.is_backed_by(&[DeviceId([99; 32])]));
    }

    #[test]
    fn an_older_committee_that_comes_later_displaces_no_newer_one() {
        let mut known = InOffice::default();
        for epoch in [5, 4, 3, 6, 4] {
            known.install(committee(epoch, 1..4));
        }
        let epochs: Vec<u64> = known.iter().map(|committee| committee.epoch).collect();
        assert_eq!(epochs, [6, 5]);
    }

    #[test]
    fn nobody_judges_its_own_household_unless_it_is_alone() {
        let three = committee(1, 1..4);
        let own = Address::repeat_byte(0x81);
        let auditors = three.auditors(B256::ZERO, 0, DeviceId([50; 32]), own);
        assert_eq!(auditors.len(), 2);
        assert!(auditors.iter().all(|seat| seat.seat.household != own));
        let alone = committee(1, 1..2);
        assert_eq!(
            alone.auditors(B256::ZERO, 0, DeviceId([50; 32]), own).len(),
            1
        );
    }

    #[test]
    fn every_seat_has_its_turn() {
        let five = committee(1, 1..6);
        let turns = (0..5).filter_map(|attempt| five.proposer(B256::repeat_byte(3), attempt));
        let devices: std::collections::BTreeSet<DeviceId> = turns.map(|seat| seat.device).collect();
        assert_eq!(devices.len(), 5);
    }
}
