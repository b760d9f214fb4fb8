//! What API keys spend: a pure machine of reservations and charges.
//!
//! Before an answer begins, the most that it may cost is set aside; when it has ended, what it did
//! cost takes its place. So a key cannot exceed its budget by asking several things at once. An
//! answer whose end nobody saw counts with all that was set aside: a budget may be stricter than
//! the truth, never looser. A day runs from midnight to midnight UTC, and what was charged counts
//! on the day on which the answer ended.

use std::collections::BTreeMap;

use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use serde::{Deserialize, Serialize};

use super::keys::{ApiKey, Cap};

/// Seconds of a day.
const DAY_S: u64 = 86_400;

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

/// What all keys have spent today, and what is set aside for answers in progress.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    day: u64,
    spent: BTreeMap<(String, AssetId), Amount>,
    reserved: BTreeMap<(String, AssetId), Amount>,
    in_progress: BTreeMap<String, u32>,
}

/// What is set aside for one answer. It must come back to [`Budgets::end`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is set aside must come back"]
pub(super) struct Reservation {
    key: String,
    /// The most that the answer may cost, one entry an asset.
    pub(super) ceilings: Vec<(AssetId, Amount)>,
}

/// The key has as many answers in progress as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyAtOnce;

impl Budgets {
    /// Goes on with what was spent before on the day of `now_s`; other days count no more.
    pub(super) fn restore(spent: impl IntoIterator<Item = Spent>, now_s: u64) -> Self {
        let day = now_s / DAY_S;
        let spent = spent.into_iter().filter(|spent| spent.day == day);
        Self {
            day,
            spent: spent
                .map(|spent| ((spent.key, spent.asset), spent.amount))
                .collect(),
            ..Self::default()
        }
    }

    /// What was spent on the day of `now_s`. What is set aside counts whole: whoever goes on with this after a crash
    /// has not seen how those answers ended.
    pub(super) fn spent(&mut self, now_s: u64) -> Vec<Spent> {
        self.turn_day(now_s);
        let mut sums = self.spent.clone();
        for (place, reserved) in &self.reserved {
            let sum = sums.entry(place.clone()).or_default();
            *sum = sum.saturating_add(*reserved);
        }
        let sums = sums.into_iter();
        sums.map(|((key, asset), amount)| Spent {
            day: self.day,
            key,
            asset,
            amount,
        })
        .collect()
    }

    /// Sets aside what an answer may cost: the cap for one request, or what is left of the day.
    ///
    /// Where nothing is left the ceiling is zero, because an answer may be free.
    ///
    /// # Errors
    /// When the key has too many answers in progress.
    pub(super) fn begin(&mut self, key: &ApiKey, now_s: u64) -> Result<Reservation, TooManyAtOnce> {
        self.turn_day(now_s);
        let in_progress = self.in_progress.entry(key.name.clone()).or_default();
        if *in_progress >= key.answers_at_once {
            return Err(TooManyAtOnce);
        }
        *in_progress += 1;
        let mut ceilings = Vec::with_capacity(key.caps.len());
        for cap in &key.caps {
            let ceiling = cap.per_request.min(self.left(&key.name, cap));
            let reserved = self.reserved.entry((key.name.clone(), cap.asset));
            let reserved = reserved.or_default();
            *reserved = reserved.saturating_add(ceiling);
            ceilings.push((cap.asset, ceiling));
        }
        Ok(Reservation {
            key: key.name.clone(),
            ceilings,
        })
    }

    /// An answer has ended: `charged` is what it did cost, or nothing is known of it.
    pub(super) fn end(
        &mut self,
        reservation: Reservation,
        charged: Option<&[(AssetId, Amount)]>,
        now_s: u64,
    ) {
        self.turn_day(now_s);
        let Reservation { key, ceilings } = reservation;
        if let Some(in_progress) = self.in_progress.get_mut(&key) {
            *in_progress = in_progress.saturating_sub(1);
            if *in_progress == 0 {
                self.in_progress.remove(&key);
            }
        }
        for (asset, amount) in charged.unwrap_or(&ceilings) {
            if !amount.is_zero() {
                let spent = self.spent.entry((key.clone(), *asset)).or_default();
                *spent = spent.saturating_add(*amount);
            }
        }
        for (asset, ceiling) in ceilings {
            let place = (key.clone(), asset);
            if let Some(reserved) = self.reserved.get_mut(&place) {
                *reserved = Amount::new(reserved.units().saturating_sub(ceiling.units()));
                if reserved.is_zero() {
                    self.reserved.remove(&place);
                }
            }
        }
    }

    /// What the budgets of a key are, for the one who hit them; `None` where it has none.
    pub(super) fn describe(&mut self, key: &ApiKey, now_s: u64) -> Option<String> {
        self.turn_day(now_s);
        let sentences: Vec<_> = key.caps.iter().map(|cap| self.sentence(key, cap)).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    fn sentence(&self, key: &ApiKey, cap: &Cap) -> String {
        let place = (key.name.clone(), cap.asset);
        let of = |book: &BTreeMap<_, Amount>| {
            let amount = book.get(&place).copied().unwrap_or_default();
            amount.to_decimal(cap.decimals)
        };
        format!(
            "the API key {:?} may spend {} {symbol} for one answer and {} {symbol} a day (UTC), of \
             which {} are spent and {} are set aside for answers in progress",
            key.name,
            cap.per_request.to_decimal(cap.decimals),
            cap.per_day.to_decimal(cap.decimals),
            of(&self.spent),
            of(&self.reserved),
            symbol = cap.symbol,
        )
    }

    fn left(&self, key: &str, cap: &Cap) -> Amount {
        let place = (key.to_owned(), cap.asset);
        let taken = |book: &BTreeMap<_, Amount>| book.get(&place).copied().unwrap_or_default();
        let taken = taken(&self.spent).saturating_add(taken(&self.reserved));
        Amount::new(cap.per_day.units().saturating_sub(taken.units()))
    }

    fn turn_day(&mut self, now_s: u64) {
        let day = now_s / DAY_S;
        if day > self.day {
            self.day = day;
            self.spent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_was_spent_is_kept_over_a_restart_of_the_same_day() {
        let (mut budgets, key) = (Budgets::default(), key(60, 100));
        let first = budgets.begin(&key, NOON_S).unwrap();
        budgets.end(first, None, NOON_S);
        let mut again = Budgets::restore(budgets.spent(NOON_S), NOON_S + 1);
        let next = again.begin(&key, NOON_S + 1).unwrap();
        assert_eq!(ceiling(&next), 40);
        let said = again.describe(&key, NOON_S + 1).unwrap();
        assert!(said.contains("\"phone\""), "{said}");
        assert!(said.contains("0.00006 TUSD for one answer"), "{said}");
        assert!(said.contains("0.0001 TUSD a day"), "{said}");
        let crashed = again.spent(NOON_S + 1);
        assert_eq!(crashed[0].amount, Amount::new(100), "nobody saw its end");
        again.end(next, Some(&[]), NOON_S + 1);
        let tomorrow = Budgets::restore(crashed, NOON_S + DAY_S).spent(NOON_S + DAY_S);
        assert_eq!(tomorrow, []);
    }
}
