//! The validators of a run in an epoch, by device, and who does what when (spec: runs, sections 6 and 7).

use alloy_primitives::{Address, B256};

use crate::ledger::draw::{self, Seat};
use crate::offer::DeviceId;
use crate::signature::Signature;

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
        (mask, self.drawn.is_decided_by(mask, &self.plain))
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
