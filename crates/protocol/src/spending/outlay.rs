//! What a household has signed that strangers can turn into its money, and what of it counts today.
//!
//! **Channels.** What counts is the highest voucher that was ever signed: its holder can claim
//! all of it, whatever was delivered or stated. A new voucher therefore counts with what it is above
//! the highest one before, on the day on which it is signed; over all days the counted sum of a
//! channel is its highest voucher. What a provider states lets the next voucher be lower; it gives
//! nothing back by itself. Only the chain does: vouchers are worth no more than the channel holds,
//! once no deposit can arrive any more.
//!
//! **One-off payments.** An authorization counts until the chain has passed its end without its use.
//!
//! **Deposits** are bounded by day and by the sum that is locked in escrow at once.
//!
//! Every change comes back as a row to be made durable before what was signed leaves. (spec:
//! payments, section 10)

use std::collections::BTreeMap;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use super::book::{Book, Reservation, ReserveError};
use super::{AssetLimit, Declined, TIMEOUT_S_MAX};
use crate::id::{AssetId, ChannelId};
use crate::money::Amount;
use crate::time::Timestamp;

/// The most one-off payments that are remembered at once.
pub const AUTHORIZATIONS_MAX: usize = 65_536;

/// What tokens leave an account for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To be spent.
    Payment,
    /// To be locked in escrow.
    Deposit,
}

/// A limit of the day: of one token, for one purpose.
pub type Account = (AssetId, Purpose);

/// What one channel has cost and can still cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOutlay {
    /// The token.
    pub asset: AssetId,
    /// The day of `today` and `deposited_today`.
    pub day: u64,
    /// What counts of the payments of `day`.
    pub today: Amount,
    /// Up to where the channel's vouchers are counted, over all days.
    pub level: Amount,
    /// What counts of the deposits of `day`.
    pub deposited_today: Amount,
    /// What is in the channel and was not charged.
    pub locked: Amount,
    /// Deposits that were signed and may still arrive.
    pub pending: Amount,
    /// Until when they may, in seconds of the chain's time.
    pub pending_until_s: u64,
}

/// A one-off payment that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationOutlay {
    /// The token.
    pub asset: AssetId,
    /// The day on which it counts.
    pub day: u64,
    /// How much.
    pub amount: Amount,
    /// Until when it can be used, in seconds of the chain's time.
    pub valid_before_s: u64,
}

/// What is about to be signed on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promised {
    /// The channel.
    pub channel: ChannelId,
    /// The token.
    pub asset: AssetId,
    /// The highest voucher that was signed before.
    pub signed: Amount,
    /// The voucher that is to be signed.
    pub max_claimable: Amount,
    /// What is deposited with it.
    pub deposit: Option<Amount>,
}

/// Room for a promise on a channel: what it adds to the limits is counted.
#[derive(Debug)]
#[must_use = "what is reserved stays counted until it is signed or released"]
pub struct PromiseReservation {
    promised: Promised,
    level: Amount,
    payment: Reservation<Account>,
    deposit: Option<Reservation<Account>>,
}

impl PromiseReservation {
    /// What the promise adds to what can be taken.
    pub fn amount(&self) -> Amount {
        self.payment.amount()
    }
}

/// Room for a one-off payment: it is counted.
#[derive(Debug)]
#[must_use = "what is reserved stays counted until it is signed or released"]
pub struct AuthorizationReservation(Reservation<Account>);

/// What the chain has of a channel, as of a block that no longer goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenChannel {
    /// Everything that was put in, less what went back.
    pub balance: Amount,
    /// What of it was not charged, as its payer knows.
    pub locked: Amount,
    /// The time of that block, in seconds.
    pub at_s: u64,
}

/// Everything that was signed, and what counts of it.
#[derive(Debug, Clone, Default)]
pub struct Outlays {
    book: Book<Account>,
    channels: BTreeMap<ChannelId, ChannelOutlay>,
    authorizations: BTreeMap<B256, AuthorizationOutlay>,
}

impl Outlays {
    /// Goes on with the rows of a store. `before` is what was counted on a day by other means.
    pub fn restore(
        channels: BTreeMap<ChannelId, ChannelOutlay>,
        authorizations: BTreeMap<B256, AuthorizationOutlay>,
        before: (u64, BTreeMap<AssetId, Amount>),
    ) -> Self {
        let days = channels.values().map(|row| row.day);
        let days = days.chain(authorizations.values().map(|row| row.day));
        let day = days.max().unwrap_or_default().max(before.0);
        let of_channels = channels.values().filter(|row| row.day == day);
        let of_channels = of_channels.flat_map(|row| {
            [
                ((row.asset, Purpose::Payment), row.today),
                ((row.asset, Purpose::Deposit), row.deposited_today),
            ]
        });
        let of_authorizations = authorizations.values().filter(|row| row.day == day);
        let of_authorizations =
            of_authorizations.map(|row| ((row.asset, Purpose::Payment), row.amount));
        let before = Some(before).filter(|before| before.0 == day);
        let before = before.into_iter().flat_map(|before| before.1);
        let before = before.map(|(asset, amount)| ((asset, Purpose::Payment), amount));
        let counted = of_channels.chain(of_authorizations).chain(before);
        Self {
            book: Book::restore(day, counted.collect::<Vec<_>>()),
            channels,
            authorizations,
        }
    }

    /// What counts as spent today of a token.
    pub fn spent_today(&mut self, asset: AssetId, now: Timestamp) -> Amount {
        self.book.spent_today(&(asset, Purpose::Payment), now)
    }

    /// What is locked in escrow of a token, or may yet be. A deposit that arrived counts twice until the
    /// chain is read after its end: a provider's word for it gives nothing back.
    pub fn locked(&self, asset: AssetId) -> Amount {
        let rows = self.channels.values().filter(|row| row.asset == asset);
        let locked = rows.fold(Amount::ZERO, |sum, row| {
            sum.saturating_add(row.locked).saturating_add(row.pending)
        });
        locked.saturating_add(self.book.set_aside(&(asset, Purpose::Deposit)))
    }

    /// Finds room for a promise within the limits, and counts it.
    ///
    /// # Errors
    /// When a limit leaves less.
    pub fn reserve_promise(
        &mut self,
        promised: Promised,
        limit: &AssetLimit,
        now: Timestamp,
    ) -> Result<PromiseReservation, Declined> {
        let known = self.channels.get(&promised.channel);
        let before = known.map_or(promised.signed, |row| row.level);
        let level = promised.max_claimable.max(promised.signed).max(before);
        let adds = level.saturating_sub(before);
        let account = (promised.asset, Purpose::Payment);
        let payment = self.book.reserve(account, adds, limit.per_day, now);
        let payment = payment.map_err(per_day)?;
        let deposit = promised.deposit;
        let deposit = match deposit.map(|asked| self.reserve_deposit(&promised, asked, limit, now))
        {
            None => None,
            Some(Ok(deposit)) => Some(deposit),
            Some(Err(declined)) => {
                self.book.release(payment);
                return Err(declined);
            }
        };
        Ok(PromiseReservation {
            promised,
            level,
            payment,
            deposit,
        })
    }

    fn reserve_deposit(
        &mut self,
        promised: &Promised,
        asked: Amount,
        limit: &AssetLimit,
        now: Timestamp,
    ) -> Result<Reservation<Account>, Declined> {
        if asked > limit.per_deposit {
            let limit = limit.per_deposit;
            return Err(Declined::PerDeposit { asked, limit });
        }
        let left = limit.locked.saturating_sub(self.locked(promised.asset));
        if asked > left {
            return Err(Declined::Locked { asked, left });
        }
        let account = (promised.asset, Purpose::Deposit);
        let reserved = self
            .book
            .reserve(account, asked, limit.deposits_per_day, now);
        reserved.map_err(|error| match error {
            ReserveError::Exhausted { asked, left } => Declined::DepositsPerDay { asked, left },
            ReserveError::Full => Declined::TooMany,
        })
    }

    /// Counts a promise that was signed, for good. The row must be durable before the promise leaves.
    pub fn promised(&mut self, reserved: PromiseReservation, now: Timestamp) -> ChannelOutlay {
        let PromiseReservation {
            promised,
            level,
            payment,
            deposit,
        } = reserved;
        let day = self.book.day(now);
        let row = self.channels.entry(promised.channel);
        let row = row.or_insert_with(|| ChannelOutlay::new(&promised, day));
        row.turn(day);
        row.level = level;
        let adds = payment.amount();
        row.today = row.today.saturating_add(adds);
        if let Some(deposit) = &deposit {
            let amount = deposit.amount();
            row.deposited_today = row.deposited_today.saturating_add(amount);
            row.pending = row.pending.saturating_add(amount);
            // It was signed before now, and stands no longer than that from then on.
            let until_s = now.as_secs().saturating_add(TIMEOUT_S_MAX);
            row.pending_until_s = row.pending_until_s.max(until_s);
        }
        let row = *row;
        self.book.settle(payment, adds, now);
        if let Some(deposit) = deposit {
            let amount = deposit.amount();
            self.book.settle(deposit, amount, now);
        }
        row
    }

    /// Gives the room for a promise back: nothing was signed.
    pub fn release_promise(&mut self, reserved: PromiseReservation) {
        self.book.release(reserved.payment);
        if let Some(deposit) = reserved.deposit {
            self.book.release(deposit);
        }
    }

    /// Takes what the payer's side of a channel knows: what is left in it. Returns the row where there is one.
    pub fn keep(&mut self, channel: ChannelId, locked: Amount) -> Option<ChannelOutlay> {
        let row = self.channels.get_mut(&channel)?;
        row.locked = locked;
        Some(*row)
    }

    /// Takes what the chain has of a channel: its vouchers are worth no more than it holds, unless a
    /// deposit may still arrive. Returns the row where it changed.
    pub fn observe(&mut self, channel: ChannelId, seen: SeenChannel) -> Option<ChannelOutlay> {
        let row = self.channels.get_mut(&channel)?;
        // Whatever was stated of it: a deposit that was signed may arrive until its end.
        let may_arrive = seen.at_s <= row.pending_until_s;
        if may_arrive || (row.level <= seen.balance && row.pending.is_zero()) {
            return None;
        }
        // What the channel does not hold never arrived, and nothing of it is locked now or later.
        let never = row.pending.saturating_sub(seen.locked);
        let back = never.min(row.deposited_today);
        row.locked = seen.locked;
        row.deposited_today = row.deposited_today.saturating_sub(back);
        row.pending = Amount::ZERO;
        self.book
            .lower(&(row.asset, Purpose::Deposit), row.day, back);
        let back = row.level.saturating_sub(seen.balance).min(row.today);
        row.level = row.level.min(seen.balance);
        row.today = row.today.saturating_sub(back);
        self.book
            .lower(&(row.asset, Purpose::Payment), row.day, back);
        Some(*row)
    }

    /// The channels of a token of which the chain may say that less counts.
    pub fn recountable(&self, asset: AssetId) -> Vec<ChannelId> {
        let counts = |row: &ChannelOutlay| {
            row.asset == asset
                && !(row.today.is_zero() && row.pending.is_zero() && row.locked.is_zero())
        };
        let rows = self.channels.iter().filter(|(_, row)| counts(row));
        rows.map(|(channel, _)| *channel).collect()
    }

    /// Finds room for a one-off payment within the limits, and counts it.
    ///
    /// # Errors
    /// When the day leaves less, or too many are outstanding.
    pub fn reserve_authorization(
        &mut self,
        asset: AssetId,
        amount: Amount,
        limit: &AssetLimit,
        now: Timestamp,
    ) -> Result<AuthorizationReservation, Declined> {
        if self.authorizations.len() >= AUTHORIZATIONS_MAX {
            return Err(Declined::TooMany);
        }
        let account = (asset, Purpose::Payment);
        let reserved = self.book.reserve(account, amount, limit.per_day, now);
        reserved.map(AuthorizationReservation).map_err(per_day)
    }

    /// Counts a one-off payment that was signed, for good. The row must be durable before it leaves. With it comes whose
    /// rows may be removed in the same step: of earlier days, which the new row shows to be over.
    pub fn authorized(
        &mut self,
        reserved: AuthorizationReservation,
        nonce: B256,
        valid_before_s: u64,
        now: Timestamp,
    ) -> (AuthorizationOutlay, Vec<B256>) {
        let AuthorizationReservation(reserved) = reserved;
        let amount = reserved.amount();
        let row = AuthorizationOutlay {
            asset: reserved.account().0,
            day: self.book.day(now),
            amount,
            valid_before_s,
        };
        self.authorizations.insert(nonce, row);
        self.book.settle(reserved, amount, now);
        (row, self.prune(now))
    }

    /// Gives the room for a one-off payment back: nothing was signed.
    pub fn release_authorization(&mut self, reserved: AuthorizationReservation) {
        self.book.release(reserved.0);
    }

    /// Takes that the chain had a one-off payment as unused at `at_s`. Returns whether it is over: then
    /// it counts no more, and its row is to be removed.
    pub fn unused(&mut self, nonce: B256, at_s: u64) -> bool {
        let Some(row) = self.authorizations.get(&nonce).copied() else {
            return false;
        };
        // A transfer holds in blocks before `valid_before_s`.
        if at_s < row.valid_before_s {
            return false;
        }
        self.authorizations.remove(&nonce);
        let account = (row.asset, Purpose::Payment);
        self.book.lower(&account, row.day, row.amount);
        true
    }

    /// The one-off payments of a token that may yet be used, as far as is known.
    pub fn outstanding(&self, asset: AssetId) -> Vec<(B256, AuthorizationOutlay)> {
        let rows = self.authorizations.iter();
        let rows = rows.filter(|(_, row)| row.asset == asset);
        rows.map(|(nonce, row)| (*nonce, *row)).collect()
    }

    /// Forgets one-off payments of earlier days whose time is over. Returns whose rows are to be removed.
    fn prune(&mut self, now: Timestamp) -> Vec<B256> {
        let (day, now_s) = (self.book.day(now), now.as_secs());
        let over = |row: &AuthorizationOutlay| row.day < day && row.valid_before_s < now_s;
        let rows = self.authorizations.iter();
        let gone: Vec<_> = rows
            .filter(|(_, row)| over(row))
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in &gone {
            self.authorizations.remove(nonce);
        }
        gone
    }
}

impl ChannelOutlay {
    fn new(promised: &Promised, day: u64) -> Self {
        Self {
            asset: promised.asset,
            day,
            today: Amount::ZERO,
            level: promised.signed,
            deposited_today: Amount::ZERO,
            locked: Amount::ZERO,
            pending: Amount::ZERO,
            pending_until_s: 0,
        }
    }

    fn turn(&mut self, day: u64) {
        if self.day != day {
            self.day = day;
            self.today = Amount::ZERO;
            self.deposited_today = Amount::ZERO;
        }
    }
}

fn per_day(error: ReserveError) -> Declined {
    match error {
        ReserveError::Exhausted { asked, left } => Declined::PerDay { asked, left },
        ReserveError::Full => Declined::TooMany,
    }
}

#[cfg(test)]
#[path = "outlay_tests.rs"]
mod tests;
