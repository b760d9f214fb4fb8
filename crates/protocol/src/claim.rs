//! When a provider claims, and what (spec: payments, section 8).
//!
//! A claim costs gas, so it waits until the gas is a small share of what it brings, or until
//! waiting is dangerous: the payer has begun to withdraw, or the voucher has become old. The rows of
//! one claim share chain, receiver authorizer and, so that one settlement follows, receiver and
//! token.

use alloy_primitives::Address;

use crate::channel::provider::Record;
use crate::eip712::{ClaimEntry, SettlementDomain};
use crate::id::ChannelId;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::ClaimRow;

/// The most rows of one claim: about 1.1 million gas.
pub const CLAIM_ROWS_MAX: usize = 50;
/// Gas of a claim's first row, with the transaction itself (docs/benchmarks.md).
pub const CLAIM_GAS_FIRST: u64 = 66_000;
/// Gas of each further row.
pub const CLAIM_GAS_ROW: u64 = 22_000;

/// When claiming is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimPolicy {
    /// What one unit of gas costs, in atomic units of the token, times 10^9; 0 where gas is free.
    pub gas_price_nano: u128,
    /// Claim when the gas costs at most this share of the claim, in millionths (10,000 = 1%).
    pub gas_share_ppm: u32,
    /// Claim whatever is older than this, in milliseconds.
    pub age_ms_max: u64,
    /// Do not claim less than this.
    pub amount_min: Amount,
    /// Claim at once where the payer's withdrawal ends within this many seconds.
    pub withdrawal_margin_s: u64,
}

/// Why a channel is claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimReason {
    /// The payer has begun to withdraw.
    Withdrawal,
    /// The last voucher has become old.
    Age,
    /// Gas is a small share of it.
    Worth,
    /// The owner asked.
    Asked,
}

/// One claim, for channels that share everything a claim must share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimBatch {
    /// Who is paid.
    pub receiver: Address,
    /// In which token.
    pub token: Address,
    /// The key that signs the claim.
    pub receiver_authorizer: Address,
    /// The channels, with their rows.
    pub rows: Vec<(ChannelId, ClaimRow)>,
    /// The most urgent reason.
    pub reason: ClaimReason,
}

impl ClaimBatch {
    /// What a receiver's authorizer signs for this claim.
    pub fn entries(&self) -> Vec<ClaimEntry> {
        entries(&self.rows)
    }

    /// What the claim brings, given what is already claimed of each channel.
    pub fn amount(&self, claimed: impl Fn(ChannelId) -> Amount) -> Amount {
        self.rows.iter().fold(Amount::ZERO, |sum, (channel, row)| {
            sum.saturating_add(row.total_claimed.saturating_sub(claimed(*channel)))
        })
    }
}

/// The entries that a claim's signature covers.
pub fn entries(rows: &[(ChannelId, ClaimRow)]) -> Vec<ClaimEntry> {
    rows.iter()
        .map(|(channel, row)| ClaimEntry {
            channel: *channel,
            max_claimable: row.voucher.max_claimable_amount,
            total_claimed: row.total_claimed,
        })
        .collect()
}

/// The channel that a row claims from.
pub fn row_channel(domain: &SettlementDomain, row: &ClaimRow) -> ClaimEntry {
    ClaimEntry {
        channel: domain.channel_id(&row.voucher.channel),
        max_claimable: row.voucher.max_claimable_amount,
        total_claimed: row.total_claimed,
    }
}

/// Chooses what to claim now.
///
/// `asked` claims everything that is due. Channels with the most urgent reasons come first, so that
/// a long list cannot push them out of the first batch.
pub fn plan<'a>(
    records: impl Iterator<Item = (ChannelId, &'a Record)>,
    policy: &ClaimPolicy,
    now: Timestamp,
    asked: bool,
) -> Vec<ClaimBatch> {
    let mut groups: std::collections::BTreeMap<_, Vec<(Option<ClaimReason>, _, _, _)>> =
        std::collections::BTreeMap::new();
    for (channel, record) in records {
        let Some(row) = record.claim_row() else {
            continue;
        };
        let config = &record.config;
        let key = (config.receiver, config.token, config.receiver_authorizer);
        let reason = if asked {
            Some(ClaimReason::Asked)
        } else {
            urgency(record, policy, now)
        };
        groups
            .entry(key)
            .or_default()
            .push((reason, record.unclaimed(), channel, row));
    }
    let mut batches = Vec::new();
    for ((receiver, token, receiver_authorizer), mut due) in groups {
        due.sort_by_key(|(reason, amount, channel, _)| {
            (
                reason.is_none(),
                *reason,
                std::cmp::Reverse(*amount),
                *channel,
            )
        });
        for chunk in due.chunks(CLAIM_ROWS_MAX) {
            let urgent = chunk.iter().filter_map(|(reason, ..)| *reason).min();
            let (reason, rows) = match urgent {
                // Rows that are not urgent ride along where the first one pays for the transaction.
                Some(reason) => (reason, worth_a_row(chunk, policy)),
                None => match worth(chunk, policy) {
                    Some(rows) => (ClaimReason::Worth, rows),
                    None => continue,
                },
            };
            batches.push(ClaimBatch {
                receiver,
                token,
                receiver_authorizer,
                rows,
                reason,
            });
        }
    }
    batches.sort_by_key(|batch| batch.reason);
    batches
}

type Due = (Option<ClaimReason>, Amount, ChannelId, ClaimRow);

fn urgency(record: &Record, policy: &ClaimPolicy, now: Timestamp) -> Option<ClaimReason> {
    let requested = record
        .onchain
        .map_or(0, |onchain| onchain.withdraw_requested_at);
    if requested != 0 {
        let ends = requested.saturating_add(record.config.withdraw_delay);
        if now.as_secs().saturating_add(policy.withdrawal_margin_s) >= ends {
            return Some(ClaimReason::Withdrawal);
        }
    }
    let old = now.ms_since(record.last_paid_at) >= policy.age_ms_max;
    (old && record.unclaimed() >= policy.amount_min).then_some(ClaimReason::Age)
}

fn gas_cost(policy: &ClaimPolicy, gas: u64) -> Amount {
    Amount::new(
        policy
            .gas_price_nano
            .saturating_mul(u128::from(gas))
            .div_ceil(1_000_000_000),
    )
}

/// Whether `gas` is a small enough share of `amount`.
fn pays(policy: &ClaimPolicy, amount: Amount, gas: u64) -> bool {
    let cost = gas_cost(policy, gas).units().saturating_mul(1_000_000);
    amount >= policy.amount_min
        && cost
            <= amount
                .units()
                .saturating_mul(u128::from(policy.gas_share_ppm))
}

fn worth_a_row(due: &[Due], policy: &ClaimPolicy) -> Vec<(ChannelId, ClaimRow)> {
    due.iter()
        .filter(|(reason, amount, ..)| reason.is_some() || pays(policy, *amount, CLAIM_GAS_ROW))
        .map(|(_, _, channel, row)| (*channel, *row))
        .collect()
}

fn worth(due: &[Due], policy: &ClaimPolicy) -> Option<Vec<(ChannelId, ClaimRow)>> {
    let rows = worth_a_row(due, policy);
    let amount = due
        .iter()
        .filter(|(_, amount, ..)| pays(policy, *amount, CLAIM_GAS_ROW))
        .fold(Amount::ZERO, |sum, (_, amount, ..)| {
            sum.saturating_add(*amount)
        });
    let further = u64::try_from(rows.len())
        .unwrap_or(u64::MAX)
        .saturating_sub(1);
    let gas = CLAIM_GAS_FIRST.saturating_add(CLAIM_GAS_ROW.saturating_mul(further));
    (!rows.is_empty() && pays(policy, amount, gas)).then_some(rows)
}
