//! Work as hashes: the same order gives the same contribution and losses everywhere, and another order gives others.

use alloy_primitives::B256;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::message::{LossBits, LossKey, Work};

/// What a trainer computes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) run: B256,
    pub(super) index: u64,
    pub(super) parent: B256,
    pub(super) beacon: B256,
    pub(super) trainer: DeviceId,
    pub(super) local_start: Option<ContentHash>,
    pub(super) steps: u32,
    pub(super) carry: bool,
}

/// What an order gives: the work, and the key of the losses of all its steps.
pub(super) fn train(order: &Order) -> (Work, LossKey) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(order.run.as_slice());
    hasher.update(&order.index.to_le_bytes());
    hasher.update(order.parent.as_slice());
    hasher.update(order.beacon.as_slice());
    hasher.update(&order.trainer.0);
    hasher.update(&[u8::from(order.local_start.is_some())]);
    hasher.update(&order.local_start.unwrap_or_default().0);
    let base = *hasher.finalize().as_bytes();
    let losses: Vec<LossBits> = (0..order.steps)
        .map(|step| {
            let hash = derive(b"loss", &base, u64::from(step));
            LossBits(u32::from_le_bytes([hash.0[0], hash.0[1], hash.0[2], 0x40]))
        })
        .collect();
    let key = LossKey::of(&losses);
    let steps = u64::from(order.steps);
    let work = Work {
        contribution: derive(b"contribution", &base, steps),
        first_loss: losses.first().copied().unwrap_or(LossBits(0)),
        last_loss: losses.last().copied().unwrap_or(LossBits(0)),
        local_end: order.carry.then(|| derive(b"local", &base, steps)),
        local_start: order.local_start,
        log: key.log(),
        steps: order.steps,
    };
    (work, key)
}

fn derive(what: &[u8], base: &[u8; 32], number: u64) -> ContentHash {
    let mut hasher = blake3::Hasher::new_keyed(base);
    hasher.update(what);
    hasher.update(&number.to_le_bytes());
    ContentHash(*hasher.finalize().as_bytes())
}

/// The state after a book.
pub(super) fn add_up(book: &RoundBook) -> B256 {
    if let Some(own) = book.own_state() {
        return own;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"weights");
    hasher.update(book.parent.as_slice());
    for member in &book.members {
        hasher.update(&member.trainer.0);
        hasher.update(&member.work.contribution.0);
        hasher.update(&member.work.steps.to_le_bytes());
    }
    (*hasher.finalize().as_bytes()).into()
}
