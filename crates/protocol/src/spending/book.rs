//! A book of what may be spent in a day: it checks and counts in one step.
//!
//! [`Book::reserve`] compares what is asked with what is left and counts it before it returns, so two
//! payments side by side can never both pass where only one fits. A reservation that nobody brings
//! back stays counted: the book may be stricter than the truth, never looser.
//!
//! A day is a day by UTC. What is reserved when the day turns counts on the new day too, until it is
//! settled or released. A clock that goes back does not give the day anew: the book stays at the
//! latest day that it saw.

use std::collections::BTreeMap;

use thiserror::Error;

use super::day;
use crate::money::Amount;
use crate::time::Timestamp;

/// The most reservations that are open at once.
pub const RESERVATIONS_MAX: usize = 65_536;
/// The most accounts that have spent something on one day.
pub const ACCOUNTS_MAX: usize = 65_536;

/// Why nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The day's limit leaves less.
    #[error("{asked} is more than the {left} that may still be spent today")]
    Exhausted {
        /// What was asked for.
        asked: Amount,
        /// What is left.
        left: Amount,
    },
    /// [`RESERVATIONS_MAX`] or [`ACCOUNTS_MAX`] is reached.
    #[error("too many payments are in progress at once")]
    Full,
}

/// What is set aside of one account. It goes back to the book that gave it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is reserved stays counted until it is settled or released"]
pub struct Reservation<A> {
    account: A,
    amount: Amount,
}

impl<A> Reservation<A> {
    /// What is set aside.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// Whose it is.
    pub fn account(&self) -> &A {
        &self.account
    }
}

/// What the accounts of one day have spent, and what is set aside of them.
#[derive(Debug, Clone)]
pub struct Book<A> {
    day: u64,
    counted: BTreeMap<A, Amount>,
    open: BTreeMap<A, Amount>,
    reservations: usize,
}

impl<A> Default for Book<A> {
    fn default() -> Self {
        Self {
            day: 0,
            counted: BTreeMap::new(),
            open: BTreeMap::new(),
            reservations: 0,
        }
    }
}

impl<A: Ord + Clone> Book<A> {
    /// A book that goes on with what was counted on `day`.
    pub fn restore(day: u64, counted: impl IntoIterator<Item = (A, Amount)>) -> Self {
        let mut book = Self {
            day,
            ..Self::default()
        };
        for (account, amount) in counted {
            book.add(account, amount);
        }
        book
    }

    /// The day that is counted now: the latest that the book ever saw.
    pub fn day(&mut self, now: Timestamp) -> u64 {
        let today = day(now);
        if today > self.day {
            self.day = today;
            self.counted.clear();
        }
        self.day
    }

    /// Sets `amount` aside if the account's limit of the day leaves so much.
    ///
    /// # Errors
    /// When it does not, or too much is open.
    pub fn reserve(
        &mut self,
        account: A,
        amount: Amount,
        per_day: Amount,
        now: Timestamp,
    ) -> Result<Reservation<A>, ReserveError> {
        self.day(now);
        let left = per_day.saturating_sub(self.spent(&account));
        if amount > left {
            return Err(ReserveError::Exhausted {
                asked: amount,
                left,
            });
        }
        self.open(account, amount)
    }

    /// Sets aside `most`, or what is left of the day where that is less; that may be nothing.
    ///
    /// # Errors
    /// When too much is open.
    pub fn reserve_up_to(
        &mut self,
        account: A,
        most: Amount,
        per_day: Amount,
        now: Timestamp,
    ) -> Result<Reservation<A>, ReserveError> {
        self.day(now);
        let left = per_day.saturating_sub(self.spent(&account));
        self.open(account, most.min(left))
    }

    fn open(&mut self, account: A, amount: Amount) -> Result<Reservation<A>, ReserveError> {
        let is_new = !self.counted.contains_key(&account) && !self.open.contains_key(&account);
        let accounts = self.counted.len().saturating_add(self.open.len());
        if self.reservations >= RESERVATIONS_MAX || (is_new && accounts >= ACCOUNTS_MAX) {
            return Err(ReserveError::Full);
        }
        self.reservations = self.reservations.saturating_add(1);
        let sum = self.open.entry(account.clone()).or_default();
        *sum = sum.saturating_add(amount);
        Ok(Reservation { account, amount })
    }

    /// Puts what it came to in the place of a reservation. It counts today, and may be more than was set aside.
    pub fn settle(&mut self, reservation: Reservation<A>, charged: Amount, now: Timestamp) {
        self.day(now);
        let account = self.close(reservation);
        self.add(account, charged);
    }

    /// Gives a reservation back: nothing was signed for it.
    pub fn release(&mut self, reservation: Reservation<A>) {
        self.close(reservation);
    }

    fn close(&mut self, reservation: Reservation<A>) -> A {
        let Reservation { account, amount } = reservation;
        self.reservations = self.reservations.saturating_sub(1);
        if let Some(sum) = self.open.get_mut(&account) {
            *sum = sum.saturating_sub(amount);
            if sum.is_zero() {
                self.open.remove(&account);
            }
        }
        account
    }

    fn add(&mut self, account: A, amount: Amount) {
        if amount.is_zero() {
            return;
        }
        let sum = self.counted.entry(account).or_default();
        *sum = sum.saturating_add(amount);
    }

    /// Takes `amount` back of what was counted on `day`, because it can no longer be lost. What was
    /// counted on an earlier day gives nothing back today.
    pub fn lower(&mut self, account: &A, day: u64, amount: Amount) {
        if day != self.day {
            return;
        }
        if let Some(sum) = self.counted.get_mut(account) {
            *sum = sum.saturating_sub(amount);
        }
    }

    /// What an account has spent today, with all that is set aside.
    pub fn spent_today(&mut self, account: &A, now: Timestamp) -> Amount {
        self.day(now);
        self.spent(account)
    }

    fn spent(&self, account: &A) -> Amount {
        self.counted(account)
            .saturating_add(self.set_aside(account))
    }

    /// What was counted for good of an account, on the day that is counted now.
    pub fn counted(&self, account: &A) -> Amount {
        self.counted.get(account).copied().unwrap_or_default()
    }

    /// What is set aside of an account.
    pub fn set_aside(&self, account: &A) -> Amount {
        self.open.get(account).copied().unwrap_or_default()
    }

    /// What every account has spent today, with all that is set aside: what a store must have.
    pub fn sums(&mut self, now: Timestamp) -> BTreeMap<A, Amount> {
        self.day(now);
        let mut sums = self.counted.clone();
        for (account, open) in &self.open {
            let sum = sums.entry(account.clone()).or_default();
            *sum = sum.saturating_add(*open);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(86_400_000 * 20_000 + 43_200_000);
    const TOMORROW: Timestamp = Timestamp(NOON.0 + 86_400_000);

    fn amount(units: u128) -> Amount {
        Amount::new(units)
    }

    #[test]
    fn two_that_fit_alone_do_not_both_pass() {
        let mut book = Book::default();
        let first = book.reserve("a", amount(60), amount(100), NOON).unwrap();
        let second = book.reserve("a", amount(60), amount(100), NOON);
        let left = amount(40);
        let asked = amount(60);
        assert_eq!(second, Err(ReserveError::Exhausted { asked, left }));
        book.release(first);
        let third = book.reserve("a", amount(60), amount(100), NOON).unwrap();
        book.settle(third, amount(10), NOON);
        assert_eq!(book.spent_today(&"a", NOON), amount(10));
        assert!(book.reserve("b", amount(100), amount(100), NOON).is_ok());
    }

    #[test]
    fn what_is_open_at_midnight_counts_on_both_days() {
        let mut book = Book::default();
        let open = book.reserve("a", amount(60), amount(100), NOON).unwrap();
        assert!(
            book.reserve("a", amount(60), amount(100), TOMORROW)
                .is_err()
        );
        book.settle(open, amount(50), TOMORROW);
        assert_eq!(book.spent_today(&"a", TOMORROW), amount(50));
        let over = book.reserve("a", amount(51), amount(100), TOMORROW);
        assert!(over.is_err());
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_day_anew() {
        let mut book = Book::default();
        let spent = book.reserve("a", amount(100), amount(100), TOMORROW);
        book.settle(spent.unwrap(), amount(100), TOMORROW);
        for clock in [NOON, Timestamp(0), TOMORROW] {
            assert!(book.reserve("a", amount(1), amount(100), clock).is_err());
        }
        let after = Timestamp(TOMORROW.0 + 86_400_000);
        assert!(book.reserve("a", amount(1), amount(100), after).is_ok());
    }

    #[test]
    fn a_reservation_that_nobody_brings_back_stays_counted() {
        let mut book = Book::default();
        let lost = book.reserve("a", amount(60), amount(100), NOON).unwrap();
        drop(lost);
        assert_eq!(book.spent_today(&"a", NOON), amount(60));
        assert_eq!(book.sums(NOON)[&"a"], amount(60));
        let again = Book::restore(day(NOON), book.sums(NOON));
        assert_eq!(again.counted(&"a"), amount(60));
    }

    #[test]
    fn what_an_earlier_day_counted_gives_nothing_back_today() {
        let mut book = Book::default();
        let today = book.reserve("a", amount(100), amount(100), TOMORROW);
        book.settle(today.unwrap(), amount(100), TOMORROW);
        book.lower(&"a", day(NOON), amount(100));
        assert_eq!(book.counted(&"a"), amount(100));
        book.lower(&"a", day(TOMORROW), amount(30));
        assert_eq!(book.counted(&"a"), amount(70));
    }

    #[test]
    fn what_is_left_at_most_is_set_aside_and_sums_do_not_overflow() {
        let mut book = Book::default();
        let most = book
            .reserve_up_to("a", Amount::MAX, amount(7), NOON)
            .unwrap();
        assert_eq!(most.amount(), amount(7));
        let none = book.reserve_up_to("a", amount(1), amount(7), NOON).unwrap();
        assert!(none.amount().is_zero());
        book.settle(most, Amount::MAX, NOON);
        book.settle(none, Amount::MAX, NOON);
        assert_eq!(book.spent_today(&"a", NOON), Amount::MAX);
    }

    #[test]
    fn open_reservations_are_bounded() {
        let mut book = Book::default();
        for _ in 0..RESERVATIONS_MAX {
            let _kept = book.reserve_up_to("a", amount(0), amount(1), NOON).unwrap();
        }
        let full = book.reserve("a", amount(0), amount(1), NOON);
        assert_eq!(full, Err(ReserveError::Full));
    }
}
