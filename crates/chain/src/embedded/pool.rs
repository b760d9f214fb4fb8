//! Transactions that no block holds yet.
//!
//! A pure structure: it is told the account of a sender and answers whether the transaction may wait. The
//! order of blocks is the order of arrival; there is no auction, since fees buy nothing here. What can be mined
//! next is *ready* and is kept until it is mined or replaced: it was promised. What waits for a missing nonce
//! is *gapped*: nothing makes it valid but its sender, so it has little room, gives way to what comes later, and
//! is dropped after a while. Keys are free, so no bound is per key alone; senders that the chain knows have room
//! that others cannot take (spec: 05 embedded chain, section 5).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy_consensus::transaction::Recovered;
use alloy_consensus::{Transaction, TxEnvelope};
use alloy_primitives::{Address, B256, Bytes, U256};

use super::limits::{
    GAP_EXPIRY_MS, MAX_GAPPED_BYTES, MAX_GAPPED_TRANSACTIONS, MAX_NONCE_AHEAD, MAX_POOL_BYTES,
    MAX_POOL_TRANSACTIONS, MAX_SENDER_BYTES, MAX_SENDER_GAPPED, MAX_UNKNOWN_BYTES,
    MAX_UNKNOWN_TRANSACTIONS, REPLACEMENT_BUMP_PERCENT,
};

/// A waiting transaction.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) transaction: Recovered<TxEnvelope>,
    pub(crate) hash: B256,
    pub(crate) raw: Bytes,
    /// Order of arrival, never used twice while the store lives.
    pub(crate) sequence: u64,
}

impl Pending {
    /// Sender and nonce of the transaction that may follow this one, if any can.
    pub(crate) fn next_nonce(&self) -> Option<(Address, u64)> {
        Some((
            self.transaction.signer(),
            self.transaction.nonce().checked_add(1)?,
        ))
    }
}

/// Why a transaction may not wait. Sending the same bytes again helps only where the variant says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AdmitError {
    #[error("already known")]
    AlreadyKnown,
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow { next: u64, nonce: u64 },
    #[error(
        "nonce too high: next nonce {next}, tx nonce {nonce}; at most {MAX_NONCE_AHEAD} may wait, send the missing ones first"
    )]
    NonceTooHigh { next: u64, nonce: u64 },
    #[error(
        "nonce too high: next nonce {next}, tx nonce {nonce}; {MAX_SENDER_GAPPED} transactions of this sender wait \
         for missing ones already, send the missing ones first"
    )]
    TooManyAhead { next: u64, nonce: u64 },
    /// Worth a retry once blocks were mined.
    #[error(
        "txpool is full: the waiting transactions of this sender have {MAX_SENDER_BYTES} bytes; wait until some are mined"
    )]
    SenderFull,
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, tx value {value}; gas is free on this chain, \
         so only the value counts: lower it or fund the account"
    )]
    InsufficientFunds { balance: U256, value: U256 },
    #[error(
        "replacement transaction underpriced: raise both fees of the waiting transaction by {REPLACEMENT_BUMP_PERCENT}%"
    )]
    Underpriced,
    /// Worth a retry once blocks were mined.
    #[error("txpool is full: wait until waiting transactions are mined, then send again")]
    Full,
}

/// The account of a sender, as the newest block left it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SenderState {
    pub(crate) nonce: u64,
    pub(crate) balance: U256,
}

impl SenderState {
    /// Whether the chain knows the account.
    fn is_known(&self) -> bool {
        self.nonce > 0 || !self.balance.is_zero()
    }
}

/// What admitting a transaction did.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) pending: Arc<Pending>,
    /// The transaction of the same sender and nonce that gave way.
    pub(crate) replaced: Option<Arc<Pending>>,
    /// Transactions with a missing nonce that were dropped to make room.
    pub(crate) dropped: Vec<Arc<Pending>>,
}

/// A transaction that waits for a missing nonce.
#[derive(Debug, Clone, Copy)]
struct Gapped {
    sender: Address,
    nonce: u64,
    since_ms: u64,
}

/// All waiting transactions.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    senders: BTreeMap<Address, BTreeMap<u64, Arc<Pending>>>,
    by_hash: HashMap<B256, Arc<Pending>>,
    bytes: usize,
    /// Those that wait for a missing nonce, by their order of arrival.
    gapped: BTreeMap<u64, Gapped>,
    gapped_bytes: usize,
    next_sequence: u64,
}

impl Pool {
    /// Takes in a transaction, or says why not and changes nothing.
    pub(crate) fn admit(
        &mut self,
        transaction: Recovered<TxEnvelope>,
        raw: Bytes,
        sender: SenderState,
        now_ms: u64,
    ) -> Result<Admitted, AdmitError> {
        let hash = *transaction.tx_hash();
        self.check(&transaction, sender)?;
        let (signer, nonce) = (transaction.signer(), transaction.nonce());
        let replaced = self.at(signer, nonce);
        if let Some(waiting) = &replaced
            && !outbids(&transaction, &waiting.transaction)
        {
            return Err(AdmitError::Underpriced);
        }
        let next = self.next_nonce(signer, sender.nonce);
        // A replacement lasts no longer than what it replaces.
        let gap = match &replaced {
            Some(waiting) => self.gapped.get(&waiting.sequence).copied(),
            None => (nonce > next).then_some(Gapped {
                sender: signer,
                nonce,
                since_ms: now_ms,
            }),
        };
        let freed = replaced.as_ref().map_or(0, |waiting| waiting.raw.len());
        self.check_room(signer, sender, &raw, replaced.is_some(), freed, gap)?;
        if let Some(waiting) = &replaced {
            self.remove(waiting);
        }
        let sequence = self.next_sequence;
        let pending = Arc::new(Pending {
            transaction,
            hash,
            raw,
            sequence,
        });
        self.insert(Arc::clone(&pending));
        let dropped = match gap {
            Some(gap) => {
                self.set_gapped(sequence, gap);
                self.drop_overflow(sequence)
            }
            None => {
                self.promote_from(signer, nonce);
                Vec::new()
            }
        };
        Ok(Admitted {
            pending,
            replaced,
            dropped,
        })
    }

    /// Checks what concerns the transaction and its account alone.
    fn check(
        &self,
        transaction: &Recovered<TxEnvelope>,
        sender: SenderState,
    ) -> Result<(), AdmitError> {
        let nonce = transaction.nonce();
        let next = sender.nonce;
        if self.by_hash.contains_key(transaction.tx_hash()) {
            return Err(AdmitError::AlreadyKnown);
        }
        if nonce < next {
            return Err(AdmitError::NonceTooLow { next, nonce });
        }
        if nonce.saturating_sub(next) >= MAX_NONCE_AHEAD {
            return Err(AdmitError::NonceTooHigh { next, nonce });
        }
        if transaction.value() > sender.balance {
            return Err(AdmitError::InsufficientFunds {
                balance: sender.balance,
                value: transaction.value(),
            });
        }
        Ok(())
    }

    /// Checks the bounds of the pool and of the sender. `freed` are the bytes of what is replaced.
    fn check_room(
        &self,
        signer: Address,
        sender: SenderState,
        raw: &Bytes,
        is_replacement: bool,
        freed: usize,
        gap: Option<Gapped>,
    ) -> Result<(), AdmitError> {
        let waiting = self.senders.get(&signer).into_iter().flatten();
        let of_sender: usize = waiting.map(|(_, pending)| pending.raw.len()).sum();
        if of_sender.saturating_sub(freed).saturating_add(raw.len()) > MAX_SENDER_BYTES {
            return Err(AdmitError::SenderFull);
        }
        if let Some(gap) = gap {
            let of_sender = self.gapped.values().filter(|one| one.sender == signer);
            if !is_replacement && of_sender.count() >= MAX_SENDER_GAPPED {
                let (next, nonce) = (self.next_nonce(signer, sender.nonce), gap.nonce);
                return Err(AdmitError::TooManyAhead { next, nonce });
            }
            return Ok(());
        }
        let (count_max, bytes_max) = if sender.is_known() {
            (
                MAX_POOL_TRANSACTIONS - MAX_GAPPED_TRANSACTIONS,
                MAX_POOL_BYTES - MAX_GAPPED_BYTES,
            )
        } else {
            (MAX_UNKNOWN_TRANSACTIONS, MAX_UNKNOWN_BYTES)
        };
        let ready = self.by_hash.len().saturating_sub(self.gapped.len());
        let count = ready.saturating_sub(usize::from(is_replacement));
        let bytes = self.bytes.saturating_sub(self.gapped_bytes);
        let bytes = bytes.saturating_sub(freed).saturating_add(raw.len());
        if count >= count_max || bytes > bytes_max {
            return Err(AdmitError::Full);
        }
        Ok(())
    }

    fn set_gapped(&mut self, sequence: u64, gap: Gapped) {
        let Some(pending) = self.at(gap.sender, gap.nonce) else {
            return;
        };
        if self.gapped.insert(sequence, gap).is_none() {
            self.gapped_bytes = self.gapped_bytes.saturating_add(pending.raw.len());
        }
    }

    fn set_ready(&mut self, pending: &Pending) {
        if self.gapped.remove(&pending.sequence).is_some() {
            self.gapped_bytes = self.gapped_bytes.saturating_sub(pending.raw.len());
        }
    }

    /// Makes those ready that waited for `nonce`.
    fn promote_from(&mut self, signer: Address, nonce: u64) {
        let mut next = nonce;
        while let Some(pending) = self.at(signer, next) {
            self.set_ready(&pending);
            next = next.saturating_add(1);
        }
    }

    /// Drops transactions with a missing nonce beyond the bounds, but not `newest`: the oldest of the sender that has
    /// the most.
    fn drop_overflow(&mut self, newest: u64) -> Vec<Arc<Pending>> {
        let mut dropped = Vec::new();
        while self.gapped.len() > MAX_GAPPED_TRANSACTIONS || self.gapped_bytes > MAX_GAPPED_BYTES {
            let mut counts: BTreeMap<Address, usize> = BTreeMap::new();
            for gap in self.gapped.values() {
                *counts.entry(gap.sender).or_default() += 1;
            }
            let others = self
                .gapped
                .iter()
                .filter(|(sequence, _)| **sequence != newest);
            let most = |gap: &Gapped| counts.get(&gap.sender).copied().unwrap_or(0);
            let victim =
                others.min_by_key(|(sequence, gap)| (std::cmp::Reverse(most(gap)), **sequence));
            let Some(victim) = victim.and_then(|(_, gap)| self.at(gap.sender, gap.nonce)) else {
                break;
            };
            self.remove(&victim);
            dropped.push(victim);
        }
        dropped
    }

    /// Rechecks everything after blocks were mined or the chain was opened: what can no longer be mined, waited
    /// for too long or has no room is dropped and returned. `accounts` are those of all senders.
    pub(crate) fn tidy(
        &mut self,
        now_ms: u64,
        accounts: &BTreeMap<Address, SenderState>,
    ) -> Vec<Arc<Pending>> {
        let mut dropped = Vec::new();
        for (sender, account) in accounts {
            let waiting: Vec<_> = self.senders.get(sender).into_iter().flatten().collect();
            let waiting: Vec<_> = waiting
                .into_iter()
                .map(|(_, one)| Arc::clone(one))
                .collect();
            let mut next = account.nonce;
            for pending in waiting {
                let nonce = pending.transaction.nonce();
                let since = self.gapped.get(&pending.sequence).map(|gap| gap.since_ms);
                let since_ms = since.unwrap_or(now_ms);
                let is_over = now_ms.saturating_sub(since_ms) >= GAP_EXPIRY_MS;
                let is_ready = nonce == next;
                if nonce < account.nonce
                    || pending.transaction.value() > account.balance
                    || (!is_ready && is_over)
                {
                    self.remove(&pending);
                    dropped.push(pending);
                } else if is_ready {
                    self.set_ready(&pending);
                    next = next.saturating_add(1);
                } else {
                    let sender = *sender;
                    self.set_gapped(
                        pending.sequence,
                        Gapped {
                            sender,
                            nonce,
                            since_ms,
                        },
                    );
                }
            }
        }
        dropped.extend(self.drop_overflow(u64::MAX));
        dropped
    }

    /// Puts back a transaction that was admitted before a restart.
    pub(crate) fn restore(
        &mut self,
        transaction: Recovered<TxEnvelope>,
        raw: Bytes,
        sequence: u64,
    ) {
        let hash = *transaction.tx_hash();
        self.insert(Arc::new(Pending {
            transaction,
            hash,
            raw,
            sequence,
        }));
    }

    fn insert(&mut self, pending: Arc<Pending>) {
        self.next_sequence = self.next_sequence.max(pending.sequence.saturating_add(1));
        self.bytes = self.bytes.saturating_add(pending.raw.len());
        let sender = self
            .senders
            .entry(pending.transaction.signer())
            .or_default();
        sender.insert(pending.transaction.nonce(), Arc::clone(&pending));
        self.by_hash.insert(pending.hash, pending);
    }

    /// Forgets a transaction that was mined, replaced or found invalid.
    pub(crate) fn remove(&mut self, pending: &Pending) {
        if self.by_hash.remove(&pending.hash).is_none() {
            return;
        }
        self.bytes = self.bytes.saturating_sub(pending.raw.len());
        self.set_ready(pending);
        let signer = pending.transaction.signer();
        if let Some(sender) = self.senders.get_mut(&signer) {
            sender.remove(&pending.transaction.nonce());
            if sender.is_empty() {
                self.senders.remove(&signer);
            }
        }
    }

    /// The waiting transaction with this hash.
    pub(crate) fn get(&self, hash: &B256) -> Option<Arc<Pending>> {
        self.by_hash.get(hash).cloned()
    }

    /// The waiting transaction of a sender with this nonce.
    pub(crate) fn at(&self, sender: Address, nonce: u64) -> Option<Arc<Pending>> {
        self.senders.get(&sender)?.get(&nonce).cloned()
    }

    /// The first nonce from `nonce` on that no waiting transaction of `sender` has.
    pub(crate) fn next_nonce(&self, sender: Address, nonce: u64) -> u64 {
        let mut next = nonce;
        if let Some(waiting) = self.senders.get(&sender) {
            for taken in waiting.range(nonce..).map(|(taken, _)| *taken) {
                if taken != next {
                    break;
                }
                next = next.saturating_add(1);
            }
        }
        next
    }

    /// Senders with something waiting.
    pub(crate) fn senders(&self) -> impl Iterator<Item = Address> + '_ {
        self.senders.keys().copied()
    }

    /// Transactions of `sender` whose nonce the chain has passed, which can never be mined.
    pub(crate) fn passed(&self, sender: Address, nonce: u64) -> Vec<Arc<Pending>> {
        let waiting = self.senders.get(&sender);
        waiting
            .into_iter()
            .flat_map(|waiting| waiting.range(..nonce))
            .map(|(_, pending)| Arc::clone(pending))
            .collect()
    }
}

#[cfg(test)]
impl Pool {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Recounts everything, and compares.
    pub(crate) fn check_counts(&self) {
        let all = || self.senders.values().flat_map(BTreeMap::values);
        assert_eq!(all().count(), self.by_hash.len());
        assert_eq!(all().map(|one| one.raw.len()).sum::<usize>(), self.bytes);
        let gapped = all().filter(|one| self.gapped.contains_key(&one.sequence));
        let (count, bytes) = gapped.fold((0, 0), |(count, bytes), one| {
            (count + 1, bytes + one.raw.len())
        });
        assert_eq!((count, bytes), (self.gapped.len(), self.gapped_bytes));
        assert!(count <= MAX_GAPPED_TRANSACTIONS && bytes <= MAX_GAPPED_BYTES);
    }
}

/// Whether `new` raises both fees of `old` by the bump, and at all.
fn outbids(new: &Recovered<TxEnvelope>, old: &Recovered<TxEnvelope>) -> bool {
    let priority = |transaction: &Recovered<TxEnvelope>| {
        transaction
            .max_priority_fee_per_gas()
            .unwrap_or_else(|| transaction.max_fee_per_gas())
    };
    raised(new.max_fee_per_gas(), old.max_fee_per_gas()) && raised(priority(new), priority(old))
}

fn raised(new: u128, old: u128) -> bool {
    let floor = old.saturating_add(old.saturating_mul(REPLACEMENT_BUMP_PERCENT).div_ceil(100));
    new > old && new >= floor
}

#[cfg(test)]
mod tests {
    use super::super::testing::{account, sign, unsigned};
    use super::*;
    use alloy_consensus::transaction::SignerRecoverable;
    use alloy_eips::eip2718::Decodable2718;
    use alloy_signer_local::PrivateKeySigner;

    const RICH: SenderState = SenderState {
        nonce: 10,
        balance: U256::MAX,
    };

    fn transaction(
        signer: &PrivateKeySigner,
        nonce: u64,
        fees: (u128, u128),
    ) -> (Recovered<TxEnvelope>, Bytes) {
        let mut transaction = unsigned(nonce, Address::ZERO.into(), 1, Bytes::new());
        (
            transaction.max_fee_per_gas,
            transaction.max_priority_fee_per_gas,
        ) = fees;
        let (_, raw) = sign(signer, transaction);
        (
            TxEnvelope::decode_2718_exact(&raw)
                .unwrap()
                .try_into_recovered()
                .unwrap(),
            raw,
        )
    }

    fn admit(
        pool: &mut Pool,
        signer: &PrivateKeySigner,
        nonce: u64,
        fees: (u128, u128),
    ) -> Result<Admitted, AdmitError> {
        let (transaction, raw) = transaction(signer, nonce, fees);
        pool.admit(transaction, raw, RICH, 0)
    }

    #[test]
    fn nonces_that_were_used_or_are_too_far_ahead_are_refused() {
        let mut pool = Pool::default();
        let payer = account(0);
        assert_eq!(
            admit(&mut pool, &payer, 9, (0, 0)).unwrap_err(),
            AdmitError::NonceTooLow { next: 10, nonce: 9 }
        );
        admit(&mut pool, &payer, 10 + MAX_NONCE_AHEAD - 1, (0, 0)).unwrap();
        let nonce = 10 + MAX_NONCE_AHEAD;
        assert_eq!(
            admit(&mut pool, &payer, nonce, (0, 0)).unwrap_err(),
            AdmitError::NonceTooHigh { next: 10, nonce }
        );
        admit(&mut pool, &payer, 10, (0, 0)).unwrap();
        assert_eq!(
            admit(&mut pool, &payer, 10, (0, 0)).unwrap_err(),
            AdmitError::AlreadyKnown
        );
    }

    #[test]
    fn a_replacement_must_raise_both_fees_by_a_tenth_and_at_all() {
        let cases = [
            ((0, 0), (0, 0), false),
            ((0, 0), (1, 0), false),
            ((0, 0), (1, 1), true),
            ((100, 10), (110, 11), true),
            ((100, 10), (109, 11), false),
            ((100, 10), (110, 10), false),
            ((5, 5), (6, 6), true),
            ((u128::MAX, 0), (u128::MAX, 1), false),
        ];
        for (old, new, replaces) in cases {
            let mut pool = Pool::default();
            admit(&mut pool, &account(0), 10, old).unwrap();
            let mut other = transaction(&account(0), 10, new);
            if old == new {
                // The same fees with another content.
                let mut changed = unsigned(10, Address::ZERO.into(), 2, Bytes::new());
                (changed.max_fee_per_gas, changed.max_priority_fee_per_gas) = new;
                let (_, raw) = sign(&account(0), changed);
                other = (
                    TxEnvelope::decode_2718_exact(&raw)
                        .unwrap()
                        .try_into_recovered()
                        .unwrap(),
                    raw,
                );
            }
            let hash = *other.0.tx_hash();
            let outcome = pool.admit(other.0, other.1, RICH, 0);
            assert_eq!(outcome.is_ok(), replaces, "{old:?} by {new:?}");
            assert_eq!(
                pool.at(account(0).address(), 10).unwrap().hash == hash,
                replaces
            );
            assert_eq!(pool.by_hash.len(), 1, "one transaction per nonce");
        }
    }

    #[test]
    fn the_next_nonce_stops_at_the_first_gap() {
        let mut pool = Pool::default();
        for nonce in [10, 11, 13] {
            admit(&mut pool, &account(0), nonce, (0, 0)).unwrap();
        }
        let payer = account(0).address();
        assert_eq!(pool.next_nonce(payer, 10), 12);
        assert_eq!(pool.next_nonce(payer, 12), 12);
        assert_eq!(pool.next_nonce(payer, 13), 14);
        assert_eq!(pool.next_nonce(account(1).address(), 5), 5);
        assert_eq!(pool.passed(payer, 12).len(), 2);
    }

    #[test]
    fn the_pool_is_bounded_and_empties() {
        let mut pool = Pool::default();
        let senders = (MAX_POOL_TRANSACTIONS - MAX_GAPPED_TRANSACTIONS) as u64 / MAX_NONCE_AHEAD;
        let mut all = Vec::new();
        for sender in 0..u8::try_from(senders).unwrap() {
            for nonce in 10..10 + MAX_NONCE_AHEAD {
                all.push(
                    admit(&mut pool, &account(sender), nonce, (0, 0))
                        .unwrap()
                        .pending,
                );
            }
        }
        assert_eq!(
            admit(&mut pool, &account(200), 10, (0, 0)).unwrap_err(),
            AdmitError::Full
        );
        admit(&mut pool, &account(0), 10, (1, 1)).expect("a replacement needs no room");
        for pending in &all {
            pool.remove(pending);
        }
        pool.remove(&pool.at(account(0).address(), 10).unwrap());
        assert_eq!(
            (pool.by_hash.len(), pool.senders.len(), pool.bytes),
            (0, 0, 0),
            "{pool:?}"
        );
    }

    #[test]
    fn arrival_numbers_go_on_after_a_restart() {
        let mut pool = Pool::default();
        let (old, raw) = transaction(&account(0), 10, (0, 0));
        pool.restore(old, raw, 41);
        let admitted = admit(&mut pool, &account(0), 11, (0, 0)).unwrap();
        assert_eq!(admitted.pending.sequence, 42);
    }
}
