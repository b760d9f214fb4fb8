//! What API keys spend: a pure machine of reservations and charges.
//!
//! Before an answer begins, the most that it may cost is set aside; when it has ended, what was
//! promised for it or charged takes its place, whichever is more. So a key cannot exceed its budget by asking several things at once. An
//! answer whose end nobody saw counts with all that was set aside: a budget may be stricter than
//! the truth, never looser. What is set aside is on disk before anything is promised on it
//! ([`Keeping`]). A day runs from midnight to midnight UTC, and what was charged counts
//! on the day on which the answer ended.

use std::collections::BTreeMap;

use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{self, Book, day};
use hearth_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{ApiKey, Cap};
use crate::answers::{Keeping, Kept, Promises};

/// What a key has spent on one day in one asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The day, counted from 1970 in UTC.
    pub day: u64,
    /// The key's name.
    pub key: String,
    /// The asset.
    pub asset: AssetId,
    /// How much, with all that was set aside for answers in progress.
    pub amount: Amount,
}

/// A key's name, and an asset in which it spends.
type Account = (String, AssetId);

/// What all keys have spent today, and what is set aside for answers in progress.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    book: Book<Account>,
    in_progress: BTreeMap<String, u32>,
    /// The number of the newest reservation.
    begun: u64,
    keeping: Keeping,
}

/// What is set aside for one answer. It must come back to [`Budgets::end`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is set aside must come back"]
pub(super) struct Reservation {
    key: String,
    /// The most that the answer may cost, one entry an asset.
    pub(super) ceilings: Vec<(AssetId, Amount)>,
    held: Vec<spending::Reservation<Account>>,
    /// Where what is promised for the answer is counted.
    pub(super) promised: Promises,
}

/// The key has as many answers in progress as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyAtOnce;

impl Budgets {
    /// Goes on with what was spent before on the day of `now_s`, or on a later one where the clock has gone back since;
    /// other days count no more.
    pub(super) fn restore(
        spent: impl IntoIterator<Item = Spent>,
        now_s: u64,
        keeping: Keeping,
    ) -> Self {
        let spent: Vec<_> = spent.into_iter().collect();
        let latest = spent.iter().map(|spent| spent.day).max();
        let day = day(Timestamp::from_secs(now_s)).max(latest.unwrap_or_default());
        let spent = spent.into_iter().filter(|spent| spent.day == day);
        let counted = spent.map(|spent| ((spent.key, spent.asset), spent.amount));
        Self {
            book: Book::restore(day, counted),
            in_progress: BTreeMap::new(),
            begun: 0,
            keeping,
        }
    }

    /// What was spent on the day of `now_s`. What is set aside counts whole: whoever goes on with this after a crash
    /// has not seen how those answers ended.
    pub(super) fn spent(&mut self, now_s: u64) -> Vec<Spent> {
        let now = Timestamp::from_secs(now_s);
        let (day, sums) = (self.book.day(now), self.book.sums(now));
        let sums = sums.into_iter();
        sums.map(|((key, asset), amount)| Spent {
            day,
            key,
            asset,
            amount,
        })
        .collect()
    }

    /// What is on disk once [`Budgets::spent`] of the same moment is.
    pub(super) fn newest(&mut self, now_s: u64) -> Kept {
        Kept {
            number: self.begun,
            day: self.book.day(Timestamp::from_secs(now_s)),
        }
    }

    /// Where it is said what is on disk.
    pub(super) fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// Sets aside what an answer may cost: the cap for one request, or what is left of the day.
    ///
    /// Where nothing is left the ceiling is zero, because an answer may be free.
    ///
    /// # Errors
    /// When the key has too many answers in progress.
    pub(super) fn begin(&mut self, key: &ApiKey, now_s: u64) -> Result<Reservation, TooManyAtOnce> {
        let in_progress = self.in_progress.get(&key.name).copied();
        let in_progress = in_progress.unwrap_or_default();
        if in_progress >= key.answers_at_once {
            return Err(TooManyAtOnce);
        }
        let mut reservation = Reservation {
            key: key.name.clone(),
            ceilings: Vec::with_capacity(key.caps.len()),
            held: Vec::with_capacity(key.caps.len()),
            promised: Promises::default(),
        };
        for cap in &key.caps {
            let Some(held) = self.set_aside(key, cap, now_s) else {
                for held in reservation.held {
                    self.book.release(held);
                }
                return Err(TooManyAtOnce);
            };
            reservation.ceilings.push((cap.asset, held.amount()));
            reservation.held.push(held);
        }
        self.in_progress.insert(key.name.clone(), in_progress + 1);
        if !reservation.held.is_empty() {
            self.begun = self.begun.saturating_add(1);
            reservation.promised = Promises::on(self.keeping.clone(), self.begun);
        }
        Ok(reservation)
    }

    fn set_aside(
        &mut self,
        key: &ApiKey,
        cap: &Cap,
        now_s: u64,
    ) -> Option<spending::Reservation<Account>> {
        let account = (key.name.clone(), cap.asset);
        let now = Timestamp::from_secs(now_s);
        let held = self
            .book
            .reserve_up_to(account, cap.per_request, cap.per_day, now);
        held.ok()
    }

    /// An answer has ended: `charged` is what it did cost, or nothing is known of it. What was promised counts where
    /// it is more.
    pub(super) fn end(
        &mut self,
        reservation: Reservation,
        charged: Option<&[(AssetId, Amount)]>,
        now_s: u64,
    ) {
        let now = Timestamp::from_secs(now_s);
        let Reservation {
            key,
            held,
            promised,
            ..
        } = reservation;
        if let Some(in_progress) = self.in_progress.get_mut(&key) {
            *in_progress = in_progress.saturating_sub(1);
            if *in_progress == 0 {
                self.in_progress.remove(&key);
            }
        }
        let mut counts = promised.close();
        for (asset, amount) in charged.into_iter().flatten() {
            let count = counts.entry(*asset).or_default();
            *count = (*count).max(*amount);
        }
        for held in held {
            let count = counts.remove(&held.account().1).unwrap_or_default();
            let count = match charged {
                Some(_) => count,
                None => count.max(held.amount()),
            };
            self.book.settle(held, count, now);
        }
        // In what the key has no cap it spends all the same: a cap may be set today.
        for (asset, amount) in counts {
            let account = (key.clone(), asset);
            if let Ok(held) = self.book.reserve_up_to(account, Amount::ZERO, amount, now) {
                self.book.settle(held, amount, now);
            }
        }
    }

    /// What the budgets of a key are, for the one who hit them; `None` where it has none.
    pub(super) fn describe(&mut self, key: &ApiKey, now_s: u64) -> Option<String> {
        self.book.day(Timestamp::from_secs(now_s));
        let sentences: Vec<_> = key.caps.iter().map(|cap| self.sentence(key, cap)).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    fn sentence(&self, key: &ApiKey, cap: &Cap) -> String {
        let place = (key.name.clone(), cap.asset);
        format!(
            "the API key {:?} may spend {} {symbol} for one answer and {} {symbol} a day (UTC), of \
             which {} are spent and {} are set aside for answers in progress",
            key.name,
            cap.per_request.to_decimal(cap.decimals),
            cap.per_day.to_decimal(cap.decimals),
            self.book.counted(&place).to_decimal(cap.decimals),
            self.book.set_aside(&place).to_decimal(cap.decimals),
            symbol = cap.symbol,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u64 = 86_400;
    const NOON_S: u64 = DAY_S * 20_000 + DAY_S / 2;

    fn asset() -> AssetId {
        "eip155:402402/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E"
            .parse()
            .unwrap()
    }

    fn key(per_request: u128, per_day: u128) -> ApiKey {
        let cap = Cap {
            asset: asset(),
            symbol: "TUSD".to_owned(),
            decimals: 6,
            per_request: Amount::new(per_request),
            per_day: Amount::new(per_day),
        };
        ApiKey {
            caps: vec![cap],
            answers_at_once: 3,
            ..ApiKey::new("phone", "secret")
        }
    }

    fn restored(spent: Vec<Spent>, now_s: u64) -> Budgets {
        Budgets::restore(spent, now_s, Keeping::default())
    }

    fn ceiling(reservation: &Reservation) -> u128 {
        reservation.ceilings[0].1.units()
    }

    #[test]
    fn answers_at_once_share_what_is_left_of_the_day() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let first = budgets.begin(&key, NOON_S).unwrap();
        let second = budgets.begin(&key, NOON_S).unwrap();
        let third = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!([&first, &second, &third].map(ceiling), [60, 40, 0]);
        assert_eq!(budgets.begin(&key, NOON_S), Err(TooManyAtOnce));
        let charged = [(asset(), Amount::new(10))];
        budgets.end(first, Some(&charged), NOON_S);
        let fourth = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!(ceiling(&fourth), 50, "100 less 10 spent and 40 set aside");
        budgets.end(second, Some(&[]), NOON_S);
        budgets.end(third, Some(&[]), NOON_S);
        budgets.end(fourth, Some(&[]), NOON_S);
        assert_eq!(budgets.spent(NOON_S)[0].amount, Amount::new(10));
    }

    #[test]
    fn an_answer_whose_end_nobody_saw_counts_whole() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let lost = budgets.begin(&key, NOON_S).unwrap();
        budgets.end(lost, None, NOON_S);
        assert_eq!(budgets.spent(NOON_S)[0].amount, Amount::new(60));
        let next = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!(ceiling(&next), 40);
        budgets.end(next, Some(&[]), NOON_S);
    }

    #[test]
    fn a_new_day_forgets_what_was_spent_but_not_what_is_set_aside() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let first = budgets.begin(&key, NOON_S).unwrap();
        budgets.end(first, None, NOON_S);
        let over_midnight = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!(ceiling(&over_midnight), 40);
        let next = budgets.begin(&key, NOON_S + DAY_S).unwrap();
        assert_eq!(ceiling(&next), 60, "100 less 40 set aside");
        budgets.end(over_midnight, None, NOON_S + DAY_S);
        budgets.end(next, Some(&[]), NOON_S + DAY_S);
        assert_eq!(budgets.spent(NOON_S + DAY_S)[0].amount, Amount::new(40));
    }

    #[tokio::test]
    async fn a_promise_after_midnight_waits_until_its_day_is_on_disk() {
        let keeping = Keeping::default();
        keeping.begin();
        let mut budgets = Budgets::restore([], NOON_S, keeping.clone());
        let held = budgets.begin(&key(60, 100), NOON_S).unwrap();
        keeping.reached(budgets.newest(NOON_S));
        let today = held.promised.kept(Timestamp::from_secs(NOON_S));
        assert_eq!(today.await, Ok(()));
        let tomorrow_s = NOON_S + DAY_S;
        let mut waiting = Box::pin(held.promised.kept(Timestamp::from_secs(tomorrow_s)));
        assert!(futures::poll!(&mut waiting).is_pending());
        keeping.asked().await;
        keeping.reached(budgets.newest(tomorrow_s));
        assert_eq!(waiting.await, Ok(()));
        assert_eq!(budgets.spent(tomorrow_s)[0].amount, Amount::new(60));
        budgets.end(held, Some(&[]), tomorrow_s);
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_budget_anew() {
        let (mut budgets, key) = (Budgets::default(), key(60, 60));
        let first = budgets.begin(&key, NOON_S).unwrap();
        budgets.end(first, None, NOON_S);
        for clock_s in [NOON_S - DAY_S, 0, NOON_S] {
            let next = budgets.begin(&key, clock_s).unwrap();
            assert_eq!(ceiling(&next), 0, "{clock_s}");
            budgets.end(next, Some(&[]), clock_s);
            let mut again = restored(budgets.spent(clock_s), clock_s);
            let next = again.begin(&key, clock_s).unwrap();
            assert_eq!(ceiling(&next), 0, "{clock_s}, after a restart");
        }
    }

    #[test]
    fn what_was_promised_counts_whatever_was_stated() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let stated_less = budgets.begin(&key, NOON_S).unwrap();
        assert!(stated_less.promised.add(asset(), Amount::new(50)));
        let late = stated_less.promised.clone();
        let charged = [(asset(), Amount::new(1))];
        budgets.end(stated_less, Some(&charged), NOON_S);
        assert!(!late.add(asset(), Amount::new(1)), "nobody would count it");
        let broke_off = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!(ceiling(&broke_off), 50);
        assert!(broke_off.promised.add(asset(), Amount::new(50)));
        budgets.end(broke_off, Some(&[]), NOON_S);
        let next = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!(ceiling(&next), 0);
        budgets.end(next, Some(&[]), NOON_S);
    }

    #[test]
    fn more_than_was_set_aside_counts_whole() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let first = budgets.begin(&key, NOON_S).unwrap();
        budgets.end(first, Some(&[(asset(), Amount::new(90))]), NOON_S);
        let next = budgets.begin(&key, NOON_S).unwrap();
        assert_eq!(ceiling(&next), 10);
        budgets.end(next, Some(&[]), NOON_S);
    }

    #[test]
    fn what_was_spent_is_kept_over_a_restart_of_the_same_day() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let first = budgets.begin(&key, NOON_S).unwrap();
        budgets.end(first, None, NOON_S);
        let mut again = restored(budgets.spent(NOON_S), NOON_S + 1);
        let next = again.begin(&key, NOON_S + 1).unwrap();
        assert_eq!(ceiling(&next), 40);
        let said = again.describe(&key, NOON_S + 1).unwrap();
        assert!(said.contains("\"phone\""), "{said}");
        assert!(said.contains("0.00006 TUSD for one answer"), "{said}");
        assert!(said.contains("0.0001 TUSD a day"), "{said}");
        let crashed = again.spent(NOON_S + 1);
        assert_eq!(crashed[0].amount, Amount::new(100), "nobody saw its end");
        again.end(next, Some(&[]), NOON_S + 1);
        let tomorrow = restored(crashed, NOON_S + DAY_S).spent(NOON_S + DAY_S);
        assert_eq!(tomorrow, []);
    }
}
