//! A chain with the settlement contract on it: blocks that may be undone, and channels.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{B256, U256};
use hearth_protocol::channel::OnchainState;
use hearth_protocol::id::ChannelId;
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;

use crate::random::Random;

/// The token's EIP-712 name.
pub(crate) const TOKEN_NAME: &str = "Simulated";
/// The token's EIP-712 version.
pub(crate) const TOKEN_VERSION: &str = "1";
/// Blocks after which a block stays, its own included.
pub(crate) const CONFIRMATIONS: usize = 3;
/// Seconds that a withdrawal takes.
pub(crate) const WITHDRAW_DELAY_S: u64 = 900;
/// A chain that makes blocks takes a transaction within this time, in milliseconds.
const INCLUDED_MS: u64 = 15_000;

/// What can be put into a block.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transaction {
    /// Tokens of the payer's go into a channel; a nonce works once, and for a time.
    Deposit {
        channel: ChannelId,
        amount: Amount,
        nonce: B256,
        valid_before_s: u64,
    },
    /// The payee is owed so much in all.
    Claim { channel: ChannelId, total: Amount },
    /// A claim, and then a part of the rest goes back.
    Refund {
        channel: ChannelId,
        claim: Option<Amount>,
        amount: Amount,
        nonce: U256,
    },
    /// The payer begins to take out all that is not claimed.
    BeginWithdrawal { channel: ChannelId },
    /// The payer takes it out, once the delay is over.
    EndWithdrawal { channel: ChannelId },
}

/// The number of a transaction that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TransactionNumber(usize);

#[derive(Debug)]
struct Sent {
    transaction: Transaction,
    /// Since when it waits for a block.
    since: Timestamp,
    /// The height at which it is, and whether it did what it should.
    landed: Option<(usize, bool)>,
}

#[derive(Debug, Clone)]
struct Block {
    at: Timestamp,
    channels: BTreeMap<ChannelId, OnchainState>,
    /// What was put into channels in this block.
    deposited: BTreeMap<ChannelId, Amount>,
    /// Tokens of the payer's that are in no channel.
    wallet: Amount,
    nonces: BTreeSet<B256>,
}

/// The chain.
#[derive(Debug)]
pub(crate) struct Chain {
    blocks: Vec<Block>,
    /// The newest block that was ever buried deep enough: it never goes away.
    sure: usize,
    sent: Vec<Sent>,
}

impl Block {
    /// Executes a transaction. Returns whether it did what it should; else it changed nothing.
    fn execute(&mut self, transaction: Transaction) -> bool {
        let before = self.clone();
        let works = match transaction {
            Transaction::Deposit {
                channel,
                amount,
                nonce,
                valid_before_s,
            } => self.at.as_secs() < valid_before_s && self.deposit(channel, amount, nonce),
            Transaction::Claim { channel, total } => self.claim(channel, total),
            Transaction::Refund {
                channel,
                claim,
                amount,
                nonce,
            } => {
                claim.is_none_or(|total| self.claim(channel, total))
                    && self.refund(channel, amount, nonce)
            }
            Transaction::BeginWithdrawal { channel } => self.begin_withdrawal(channel),
            Transaction::EndWithdrawal { channel } => self.end_withdrawal(channel),
        };
        if !works {
            *self = before;
        }
        works
    }

    fn deposit(&mut self, channel: ChannelId, amount: Amount, nonce: B256) -> bool {
        let Some(left) = self.wallet.checked_sub(amount) else {
            return false;
        };
        if !self.nonces.insert(nonce) {
            return false;
        }
        self.wallet = left;
        let state = self.channels.entry(channel).or_default();
        state.balance = state.balance.saturating_add(amount);
        let deposited = self.deposited.entry(channel).or_default();
        *deposited = deposited.saturating_add(amount);
        true
    }

    fn claim(&mut self, channel: ChannelId, total: Amount) -> bool {
        let Some(state) = self
            .channels
            .get_mut(&channel)
            .filter(|state| total <= state.balance)
        else {
            return false;
        };
        state.total_claimed = state.total_claimed.max(total);
        true
    }

    fn refund(&mut self, channel: ChannelId, amount: Amount, nonce: U256) -> bool {
        let Some(state) = self
            .channels
            .get_mut(&channel)
            .filter(|state| state.refund_nonce == nonce)
        else {
            return false;
        };
        state.refund_nonce += U256::from(1);
        let taken = give_back(state, amount);
        state.withdraw_amount = state.withdraw_amount.saturating_sub(taken);
        if state.withdraw_amount.is_zero() {
            state.withdraw_requested_at = 0;
        }
        self.wallet = self.wallet.saturating_add(taken);
        true
    }

    fn begin_withdrawal(&mut self, channel: ChannelId) -> bool {
        let at_s = self.at.as_secs();
        let Some(state) = self.channels.get_mut(&channel) else {
            return false;
        };
        let unclaimed = state.balance.saturating_sub(state.total_claimed);
        if state.withdraw_requested_at != 0 || unclaimed.is_zero() {
            return false;
        }
        (state.withdraw_amount, state.withdraw_requested_at) = (unclaimed, at_s);
        true
    }

    fn end_withdrawal(&mut self, channel: ChannelId) -> bool {
        let at_s = self.at.as_secs();
        let Some(state) = self.channels.get_mut(&channel) else {
            return false;
        };
        let since_s = state.withdraw_requested_at;
        if since_s == 0 || at_s < since_s + WITHDRAW_DELAY_S {
            return false;
        }
        let taken = give_back(state, state.withdraw_amount);
        (state.withdraw_amount, state.withdraw_requested_at) = (Amount::ZERO, 0);
        self.wallet = self.wallet.saturating_add(taken);
        true
    }
}

/// Takes what is unclaimed out of a channel, at most `most`.
fn give_back(state: &mut OnchainState, most: Amount) -> Amount {
    let unclaimed = state.balance.saturating_sub(state.total_claimed);
    let taken = most.min(unclaimed);
    state.balance = state.balance.saturating_sub(taken);
    taken
}

impl Chain {
    /// A chain whose payer has so many tokens.
    pub(crate) fn new(at: Timestamp, wallet: Amount) -> Self {
        let block = Block {
            at,
            channels: BTreeMap::new(),
            deposited: BTreeMap::new(),
            wallet,
            nonces: BTreeSet::new(),
        };
        Self {
            blocks: vec![block; CONFIRMATIONS],
            sure: 0,
            sent: Vec::new(),
        }
    }

    fn head(&self) -> &Block {
        &self.blocks[self.blocks.len() - 1]
    }

    /// Sends a transaction.
    pub(crate) fn send(&mut self, transaction: Transaction, now: Timestamp) -> TransactionNumber {
        self.sent.push(Sent {
            transaction,
            since: now,
            landed: None,
        });
        TransactionNumber(self.sent.len() - 1)
    }

    /// Whether a transaction is final, and whether it did what it should.
    pub(crate) fn outcome(&self, number: TransactionNumber) -> Option<bool> {
        let landed = self.sent[number.0].landed;
        landed
            .filter(|(height, _)| *height <= self.sure)
            .map(|(_, works)| works)
    }

    /// What a provider relies on: of the balance what is final, of all else the newest; and when the
    /// newest block was made.
    pub(crate) fn shown(&self, channel: ChannelId) -> (OnchainState, Timestamp) {
        self.shown_by(channel, self.blocks.len() - 1)
    }

    /// The same, by an endpoint that knows no block that was made after a time.
    pub(crate) fn shown_until(
        &self,
        channel: ChannelId,
        then: Timestamp,
    ) -> (OnchainState, Timestamp) {
        let height = self.blocks.iter().rposition(|block| block.at <= then);
        let height = height.unwrap_or(0).max(CONFIRMATIONS - 1);
        self.shown_by(channel, height.min(self.blocks.len() - 1))
    }

    fn shown_by(&self, channel: ChannelId, height: usize) -> (OnchainState, Timestamp) {
        let open = &self.blocks[height + 2 - CONFIRMATIONS..=height];
        let deposited = open
            .iter()
            .filter_map(|block| block.deposited.get(&channel));
        let newest = &self.blocks[height];
        let mut state = newest.channels.get(&channel).copied().unwrap_or_default();
        state.balance = deposited.fold(state.balance, |rest, one| rest.saturating_sub(*one));
        (state, newest.at)
    }

    /// A channel in the newest block.
    pub(crate) fn newest(&self, channel: ChannelId) -> OnchainState {
        self.head()
            .channels
            .get(&channel)
            .copied()
            .unwrap_or_default()
    }

    /// A channel in the newest block that stays, and when that was made.
    pub(crate) fn sure(&self, channel: ChannelId) -> (OnchainState, Timestamp) {
        let block = &self.blocks[self.sure];
        (
            block.channels.get(&channel).copied().unwrap_or_default(),
            block.at,
        )
    }

    /// The tokens of the newest block: the payer's own, and those in channels with what was claimed.
    pub(crate) fn totals(&self) -> (Amount, Amount) {
        let head = self.head();
        let held = head.channels.values().map(|state| state.balance);
        (head.wallet, held.fold(Amount::ZERO, Amount::saturating_add))
    }

    /// Makes a block.
    pub(crate) fn mine(&mut self, random: &mut Random, at: Timestamp) {
        let mut block = Block {
            at,
            deposited: BTreeMap::new(),
            ..self.head().clone()
        };
        let height = self.blocks.len();
        for sent in self.sent.iter_mut().filter(|sent| sent.landed.is_none()) {
            let is_due = at.ms_since(sent.since) >= INCLUDED_MS;
            if is_due || random.one_in(3) {
                // Whoever sends a refund on may have made it run out of gas.
                let is_refund = matches!(sent.transaction, Transaction::Refund { .. });
                let runs = !(is_refund && random.one_in(6));
                sent.landed = Some((height, runs && block.execute(sent.transaction)));
            }
        }
        self.blocks.push(block);
        let buried = self.blocks.len().saturating_sub(CONFIRMATIONS);
        self.sure = self.sure.max(buried);
    }

    /// Undoes the last blocks, and makes others in their place.
    pub(crate) fn reorganize(&mut self, random: &mut Random, now: Timestamp) {
        let undone = (1 + random.index(CONFIRMATIONS)).min(self.blocks.len() - 1 - self.sure);
        let height = self.blocks.len() - undone;
        self.blocks.truncate(height);
        for sent in &mut self.sent {
            if sent.landed.is_some_and(|(at, _)| at >= height) {
                (sent.landed, sent.since) = (None, now);
            }
        }
        let kept_at = self.head().at;
        let steps = u64::try_from(undone).unwrap_or(1);
        for step in 1..=steps {
            let passed_ms = now.ms_since(kept_at) * step / steps;
            self.mine(random, kept_at.plus_ms(passed_ms));
        }
    }
}
