//! Messages about a round that this device does not know yet: others may see the chain a moment earlier.

use std::collections::BTreeMap;

use super::message::RunMessage;
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// Messages of all devices, and of one.
pub(super) const EARLY_MAX: usize = 1_024;
const EARLY_OF_ONE_MAX: usize = 64;
/// Closings and proposals among them, which are long.
const LONG_MAX: usize = 64;
const LONG_OF_ONE_MAX: usize = 2;

/// How much a device's messages matter where there is no room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// A stranger.
    None,
    /// A trainer with a record, or a validator.
    Known,
}

#[derive(Debug)]
struct Held {
    at: Timestamp,
    weight: Weight,
    message: RunMessage,
}

/// What may become clear with the next record.
#[derive(Debug, Default)]
pub(super) struct Early {
    held: BTreeMap<DeviceId, Vec<Held>>,
}

impl Early {
    /// Keeps a message. Of one device the latest stay; where there is no room, strangers' go first.
    pub(super) fn keep(
        &mut self,
        now: Timestamp,
        from: DeviceId,
        weight: Weight,
        message: RunMessage,
    ) {
        let is_long = is_long(&message);
        let of_one_max = if is_long {
            LONG_OF_ONE_MAX
        } else {
            EARLY_OF_ONE_MAX
        };
        let of_one = self.held.entry(from).or_default();
        if of_one.iter().any(|held| held.message == message) {
            return;
        }
        let alike = |held: &Held| is_self_long(held) == is_long;
        if of_one.iter().filter(|held| alike(held)).count() >= of_one_max
            && let Some(oldest) = of_one.iter().position(alike)
        {
            of_one.remove(oldest);
        }
        let most = if is_long { LONG_MAX } else { EARLY_MAX };
        let all = self.held.values().flatten();
        let has_room = all.filter(|held| is_self_long(held) == is_long).count() < most;
        if has_room || self.make_room(is_long, weight) {
            let of_one = self.held.entry(from).or_default();
            let at = now;
            of_one.push(Held {
                at,
                weight,
                message,
            });
        }
        self.held.retain(|_, of_one| !of_one.is_empty());
    }

    /// Drops the oldest message of a stranger, if the new one matters more.
    fn make_room(&mut self, is_long: bool, weight: Weight) -> bool {
        let lesser = |held: &Held| held.weight < weight && is_self_long(held) == is_long;
        let candidates = self.held.iter().flat_map(|(device, of_one)| {
            let places = of_one.iter().enumerate();
            places
                .filter(|(_, held)| lesser(held))
                .map(|(place, held)| (held.at, *device, place))
        });
        let Some((_, device, place)) = candidates.min() else {
            return false;
        };
        if let Some(of_one) = self.held.get_mut(&device) {
            of_one.remove(place);
        }
        true
    }

    /// Takes out all that is not older than `oldest`, with the time at which it was heard; the rest is forgotten.
    pub(super) fn take(&mut self, oldest: Timestamp) -> Vec<(Timestamp, DeviceId, RunMessage)> {
        let held = std::mem::take(&mut self.held);
        let messages = held
            .into_iter()
            .flat_map(|(device, of_one)| of_one.into_iter().map(move |held| (device, held)));
        messages
            .filter(|(_, held)| held.at >= oldest)
            .map(|(device, held)| (held.at, device, held.message))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.held.values().map(Vec::len).sum()
    }
}

fn is_self_long(held: &Held) -> bool {
    is_long(&held.message)
}

fn is_long(message: &RunMessage) -> bool {
    matches!(message, RunMessage::Close(_) | RunMessage::Proposal(_))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256};

    use super::super::message::{Close, Commit};
    use super::*;
    use crate::content::ContentHash;

    fn commit(number: u64) -> RunMessage {
        RunMessage::Commit(Commit {
            index: number,
            parent: B256::repeat_byte(1),
            account: Address::ZERO,
            commitment: ContentHash::default(),
        })
    }

    fn device(number: u16) -> DeviceId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        DeviceId(bytes)
    }

    #[test]
    fn strangers_take_no_room_from_those_with_a_record() {
        let mut early = Early::default();
        for number in 0..2_000 {
            early.keep(Timestamp(1), device(number), Weight::None, commit(0));
        }
        assert_eq!(early.len(), EARLY_MAX);
        let known = device(5_000);
        early.keep(Timestamp(2), known, Weight::Known, commit(1));
        assert_eq!(early.len(), EARLY_MAX);
        let kept = early.take(Timestamp(0));
        assert!(kept.iter().any(|(_, from, _)| *from == known));
    }

    #[test]
    fn of_one_device_only_the_latest_stay_and_old_ones_are_forgotten() {
        let mut early = Early::default();
        for number in 0..100 {
            early.keep(Timestamp(number), device(1), Weight::Known, commit(number));
            let close = RunMessage::Close(Close {
                number,
                parent: B256::ZERO,
                epoch: 0,
                commitments: Vec::new(),
            });
            early.keep(Timestamp(number), device(1), Weight::Known, close);
        }
        assert_eq!(early.len(), EARLY_OF_ONE_MAX + LONG_OF_ONE_MAX);
        assert_eq!(early.take(Timestamp(98)).len(), 4);
        assert_eq!(early.len(), 0);
    }
}
