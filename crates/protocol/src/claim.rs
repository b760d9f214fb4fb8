//! When a provider claims, and what (spec: payments, section 8).
//!
//! A claim costs gas, so it waits until the gas is a small share of what it brings, or until
//! waiting is dangerous: the payer has begun to withdraw, or the voucher has become old. A claim
//! that would cost more than it brings is made only when the owner asks. The rows of one claim share
//! chain, receiver authorizer and, so that one settlement follows, receiver and token.
//!
//! What a refund or somebody else's transaction claimed stays in the contract until it is
//! transferred; when that is worth it follows the same policy ([`settle_reason`]).

use std::collections::BTreeMap;

use alloy_primitives::Address;

use crate::channel::provider::ProviderRecord;
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
/// Gas of a transfer to the receiver alone (contracts/gas-snapshot.json, "settle").
pub const SETTLE_GAS: u64 = 46_300;
/// Gas of a deposit, at most (contracts/gas-snapshot.json, "deposit").
pub const DEPOSIT_GAS: u64 = 138_000;
/// Gas of a refund with a claim before it, at most.
pub const REFUND_GAS: u64 = 124_000;
/// Wei in one coin of a chain (10^18), over the 10^9 of [`ClaimPolicy::gas_price_nano`].
const WEI_PER_COIN_NANO: u128 = 1_000_000_000;

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

impl ClaimPolicy {
    /// Claims what is worth at least `amount_min` once its gas costs at most 1% of it, everything that is older than a day,
    /// and a quarter of an hour before a payer's withdrawal ends.
    pub const fn usual(amount_min: Amount) -> Self {
        Self {
            gas_price_nano: 0,
            gas_share_ppm: 10_000,
            age_ms_max: 24 * 60 * 60 * 1_000,
            amount_min,
            withdrawal_margin_s: 15 * 60,
        }
    }
}

/// What one unit of gas costs in a token, as [`ClaimPolicy::gas_price_nano`] has it, rounded up.
///
/// `gas_price_wei` is the chain's price of one unit of gas; `coin_worth` is what one whole coin of
/// the chain (10^18 wei) is worth, in atomic units of the token.
pub fn gas_price_nano(gas_price_wei: u128, coin_worth: Amount) -> u128 {
    gas_price_wei
        .saturating_mul(coin_worth.units())
        .div_ceil(WEI_PER_COIN_NANO)
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
    /// The account that is paid.
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
    records: impl Iterator<Item = (ChannelId, &'a ProviderRecord)>,
    policy: &ClaimPolicy,
    now: Timestamp,
    asked: bool,
) -> Vec<ClaimBatch> {
    let mut groups: BTreeMap<_, Vec<Due>> = BTreeMap::new();
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
        let due = (reason, record.unclaimed(), channel, row);
        groups.entry(key).or_default().push(due);
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
            let Some((reason, rows)) = choose(chunk, policy) else {
                continue;
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

/// The rows that make one claim now, and why.
fn choose(due: &[Due], policy: &ClaimPolicy) -> Option<(ClaimReason, Vec<(ChannelId, ClaimRow)>)> {
    let rows: Vec<&Due> = due
        .iter()
        .filter(|(reason, amount, ..)| match reason {
            Some(ClaimReason::Asked) => true,
            Some(_) => covers(policy, *amount, CLAIM_GAS_ROW),
            // Rows that are not urgent ride along where the first one pays for the transaction.
            None => pays(policy, *amount, CLAIM_GAS_ROW),
        })
        .collect();
    let further = u64::try_from(rows.len()).ok()?.checked_sub(1)?;
    let gas = CLAIM_GAS_FIRST.saturating_add(CLAIM_GAS_ROW.saturating_mul(further));
    let amount = rows.iter().fold(Amount::ZERO, |sum, (_, amount, ..)| {
        sum.saturating_add(*amount)
    });
    let urgent = rows.iter().filter_map(|(reason, ..)| *reason).min();
    let reason = match urgent {
        Some(ClaimReason::Asked) => ClaimReason::Asked,
        Some(reason) if covers(policy, amount, gas) => reason,
        None if pays(policy, amount, gas) => ClaimReason::Worth,
        _ => return None,
    };
    let rows = rows.iter().map(|(_, _, channel, row)| (*channel, *row));
    Some((reason, rows.collect()))
}

/// Why to transfer to its receiver now what was claimed before and is still in the contract, if
/// there is a reason. `since` is when it was first seen there.
pub fn settle_reason(
    unsettled: Amount,
    since: Timestamp,
    policy: &ClaimPolicy,
    now: Timestamp,
    asked: bool,
) -> Option<ClaimReason> {
    if unsettled.is_zero() {
        return None;
    }
    let is_old = now.ms_since(since) >= policy.age_ms_max && unsettled >= policy.amount_min;
    if asked {
        Some(ClaimReason::Asked)
    } else if is_old && covers(policy, unsettled, SETTLE_GAS) {
        Some(ClaimReason::Age)
    } else {
        pays(policy, unsettled, SETTLE_GAS).then_some(ClaimReason::Worth)
    }
}

fn urgency(record: &ProviderRecord, policy: &ClaimPolicy, now: Timestamp) -> Option<ClaimReason> {
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
    cost_of(gas, policy.gas_price_nano)
}

fn cost_of(gas: u64, gas_price_nano: u128) -> Amount {
    let nano = gas_price_nano.saturating_mul(u128::from(gas));
    Amount::new(nano.div_ceil(1_000_000_000))
}

/// Whether `gas` costs less than `amount` brings, or nothing.
fn covers(policy: &ClaimPolicy, amount: Amount, gas: u64) -> bool {
    let cost = gas_cost(policy, gas);
    cost.is_zero() || cost < amount
}

/// Whether a claim of one channel brings more than its gas costs, at `gas_price_nano`
/// ([`ClaimPolicy::gas_price_nano`]).
pub fn is_claim_covered(amount: Amount, gas_price_nano: u128) -> bool {
    let cost = cost_of(CLAIM_GAS_FIRST, gas_price_nano);
    cost.is_zero() || cost < amount
}

/// Whether `gas` is a small enough share of `amount`.
fn pays(policy: &ClaimPolicy, amount: Amount, gas: u64) -> bool {
    let ClaimPolicy {
        gas_price_nano,
        gas_share_ppm,
        ..
    } = *policy;
    amount >= policy.amount_min && is_worth(amount, gas, gas_price_nano, gas_share_ppm)
}

/// Whether `gas` costs at most `gas_share_ppm` millionths of `amount`, at `gas_price_nano`
/// ([`ClaimPolicy::gas_price_nano`]).
pub fn is_worth(amount: Amount, gas: u64, gas_price_nano: u128, gas_share_ppm: u32) -> bool {
    let cost = cost_of(gas, gas_price_nano).units();
    let share = amount.units().saturating_mul(u128::from(gas_share_ppm));
    cost.saturating_mul(1_000_000) <= share
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, U256};

    use super::*;
    use crate::channel::provider::Spread;
    use crate::channel::{OnchainState, Voucher};
    use crate::eip712::ChannelConfig;
    use crate::signature::Signature;

    const HOUR_MS: u64 = 3_600_000;
    const NOW: Timestamp = Timestamp(1_000 * HOUR_MS);

    /// A chain on which a claim of one channel costs 1,320 atomic units, and a further one 440.
    const POLICY: ClaimPolicy = ClaimPolicy {
        gas_price_nano: 20_000_000,
        gas_share_ppm: 10_000,
        age_ms_max: 24 * HOUR_MS,
        amount_min: Amount::new(50),
        withdrawal_margin_s: 3_600,
    };

    /// A channel on which `due` was charged and not claimed, `age_ms` after the last payment.
    fn record(due: u128, age_ms: u64) -> ProviderRecord {
        let charged = Amount::new(due);
        let mut signature = [1; 65];
        signature[64] = 27;
        ProviderRecord {
            config: ChannelConfig {
                payer: Address::repeat_byte(1),
                payer_authorizer: Address::repeat_byte(2),
                receiver: Address::repeat_byte(3),
                receiver_authorizer: Address::repeat_byte(4),
                token: Address::repeat_byte(5),
                withdraw_delay: 86_400,
                salt: B256::ZERO,
            },
            charged,
            told: charged,
            voucher: Some(Voucher {
                max_claimable: charged,
                signature: Signature::from_bytes(&signature).unwrap(),
            }),
            onchain: Some(OnchainState {
                balance: Amount::new(due),
                total_claimed: Amount::ZERO,
                withdraw_amount: Amount::ZERO,
                withdraw_requested_at: 0,
                refund_nonce: U256::ZERO,
            }),
            last_paid_at: Timestamp(NOW.0 - age_ms),
            spread: Spread::default(),
        }
    }

    /// The same, with a withdrawal that ends within the margin.
    fn leaving(due: u128) -> ProviderRecord {
        let mut record = record(due, 0);
        if let Some(onchain) = &mut record.onchain {
            onchain.withdraw_requested_at = NOW.as_secs() - 86_000;
        }
        record
    }

    /// The reasons and the numbers of rows of what is planned.
    fn planned(
        records: &[ProviderRecord],
        policy: &ClaimPolicy,
        asked: bool,
    ) -> Vec<(ClaimReason, usize)> {
        let records = records.iter().enumerate().map(|(number, record)| {
            let byte = u8::try_from(number).unwrap();
            (ChannelId(B256::repeat_byte(byte)), record)
        });
        plan(records, policy, NOW, asked)
            .iter()
            .map(|batch| (batch.reason, batch.rows.len()))
            .collect()
    }

    #[test]
    fn a_claim_waits_until_its_gas_is_the_share_allowed_to_the_unit() {
        assert_eq!(planned(&[record(131_999, 0)], &POLICY, false), []);
        let enough = planned(&[record(132_000, 0)], &POLICY, false);
        assert_eq!(enough, [(ClaimReason::Worth, 1)]);
        let dearer = ClaimPolicy {
            gas_price_nano: 20_000_001,
            ..POLICY
        };
        assert_eq!(planned(&[record(132_000, 0)], &dearer, false), []);
        let free = ClaimPolicy {
            gas_price_nano: 0,
            ..POLICY
        };
        assert_eq!(planned(&[record(49, 0)], &free, false), []);
        let dust = planned(&[record(50, 0)], &free, false);
        assert_eq!(dust, [(ClaimReason::Worth, 1)]);
    }

    #[test]
    fn channels_together_pay_for_a_claim_that_none_pays_for_alone() {
        let each = || record(88_000, 0);
        assert_eq!(planned(&[each()], &POLICY, false), []);
        let both = planned(&[each(), each()], &POLICY, false);
        assert_eq!(both, [(ClaimReason::Worth, 2)]);
        // A row that does not pay for its own gas stays out.
        let three = planned(&[each(), each(), record(43_999, 0)], &POLICY, false);
        assert_eq!(three, [(ClaimReason::Worth, 2)]);
    }

    #[test]
    fn nothing_is_claimed_at_a_loss_unless_the_owner_asks() {
        for at_a_loss in [record(1_320, 48 * HOUR_MS), leaving(1_320)] {
            let records = [at_a_loss];
            assert_eq!(planned(&records, &POLICY, false), []);
            assert_eq!(planned(&records, &POLICY, true), [(ClaimReason::Asked, 1)]);
        }
        let old = planned(&[record(1_321, 48 * HOUR_MS)], &POLICY, false);
        assert_eq!(old, [(ClaimReason::Age, 1)]);
        let going = planned(&[leaving(1_321), record(9, 48 * HOUR_MS)], &POLICY, false);
        assert_eq!(going, [(ClaimReason::Withdrawal, 1)]);
        let free = ClaimPolicy {
            gas_price_nano: 0,
            ..POLICY
        };
        assert_eq!(
            planned(&[leaving(1)], &free, false),
            [(ClaimReason::Withdrawal, 1)]
        );
    }

    #[test]
    fn what_is_left_in_the_contract_is_transferred_when_that_is_worth_it_old_or_asked() {
        // The transfer costs 926 atomic units.
        let reason = |units, age_ms, asked| {
            let since = Timestamp(NOW.0 - age_ms);
            settle_reason(Amount::new(units), since, &POLICY, NOW, asked)
        };
        assert_eq!(reason(92_599, 0, false), None);
        assert_eq!(reason(92_600, 0, false), Some(ClaimReason::Worth));
        assert_eq!(reason(927, 23 * HOUR_MS, false), None);
        assert_eq!(reason(927, 24 * HOUR_MS, false), Some(ClaimReason::Age));
        assert_eq!(reason(926, 24 * HOUR_MS, false), None);
        assert_eq!(reason(1, 0, true), Some(ClaimReason::Asked));
        assert_eq!(reason(0, 24 * HOUR_MS, true), None);
    }

    #[test]
    fn the_price_of_gas_follows_from_the_coins_worth() {
        // 0.1 gwei where a coin is worth 2,500 tokens of 6 decimals: a claim of 66,000 gas costs
        // 0.0165 tokens.
        let nano = gas_price_nano(100_000_000, Amount::new(2_500_000_000));
        let policy = ClaimPolicy {
            gas_price_nano: nano,
            ..POLICY
        };
        assert_eq!(gas_cost(&policy, CLAIM_GAS_FIRST), Amount::new(16_500));
        assert_eq!(gas_price_nano(0, Amount::MAX), 0);
        assert_eq!(gas_price_nano(1, Amount::new(1)), 1, "rounded up");
    }
}
