//! Whose turn it is: attempts at a round, and the numbers that the chain gives them (spec: runs, section 6).

use super::Head;
use super::history::RunRules;
use crate::time::Timestamp;

/// Numbers that one parent may take on the chain: the contract's leap.
const NUMBERS: u64 = 1_024;
/// Attempts that are over and still count, for those whose clocks or links are slow.
const PAST_ATTEMPTS: u64 = 2;

/// The attempt at the round that is being made, from 0.
#[must_use]
pub fn attempt(head: &Head, rules: &RunRules, now: Timestamp) -> u64 {
    now.ms_since(head.opened_at) / rules.attempt_ms.max(1)
}

/// Milliseconds that the attempt has left.
#[must_use]
pub fn left_ms(head: &Head, rules: &RunRules, now: Timestamp) -> u64 {
    let attempt_ms = rules.attempt_ms.max(1);
    attempt_ms - now.ms_since(head.opened_at) % attempt_ms
}

/// Milliseconds of an attempt that are over.
#[must_use]
pub fn gone_ms(head: &Head, rules: &RunRules, now: Timestamp) -> u64 {
    now.ms_since(head.opened_at) % rules.attempt_ms.max(1)
}

/// Milliseconds of an attempt that are for training. Three eighths: commitments are closed within half of an attempt, and
/// shown, added up and signed in the other.
#[must_use]
pub fn train_ms(rules: &RunRules) -> u64 {
    rules.attempt_ms / 8 * 3
}

/// The number of an attempt on the chain.
#[must_use]
pub fn number(head: &Head, attempt: u64) -> u64 {
    head.next_number.saturating_add(attempt % NUMBERS)
}

/// The attempt that a number stands for, if it is the present one or close to it.
#[must_use]
pub fn attempt_of(head: &Head, rules: &RunRules, number: u64, now: Timestamp) -> Option<u64> {
    let current = attempt(head, rules, now);
    let mut near = current.saturating_sub(PAST_ATTEMPTS)..=current.saturating_add(1);
    near.find(|attempt| self::number(head, *attempt) == number)
}
