//! Who earns what by a run's books (spec: runs, section 8).
//!
//! Everything here follows from recorded books, the beacons of their records and the emission, so that all validators
//! come to the same tree of rewards, and anyone can say why somebody earned or did not.
//!
//! An epoch's Ember is divided by work: nine tenths among contributions, by steps times what a step of the run costs;
//! one tenth among replays. Pay for a contribution vests over so many rounds that a trainer has more at stake than it can
//! gain by false work until that is replayed. Work that was drawn for an audit vests nothing before the audit is decided.
//! What a cheat has not been paid by then is never paid to anyone.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};

use super::book::RoundBook;
use super::history::{History, HistoryError, RunRules};
use super::message::AuditOutcome;
use crate::ledger::emission;
use crate::money::Amount;
use crate::offer::DeviceId;

/// What contributions earn of an epoch's Ember, in parts of a thousand; replays earn the rest.
pub const CONTRIBUTIONS_PER_MILLE: u64 = 900;
/// Seconds without a round after which a run pays out all of its work so far, decided or not: a week.
pub const SETTLED_AFTER_S: u64 = 7 * 86_400;
/// The fewest epochs that this is.
const SETTLED_EPOCHS_MIN: u64 = 3;
/// Caps that one record can give, when earlier epochs have none (contract `Rewards`).
pub const CARRIED_EPOCHS: u64 = 7;

/// A recorded round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidRound {
    /// The epoch in which its record's block was made.
    pub epoch: u64,
    /// The hash of that block.
    pub beacon: B256,
    /// Its book.
    pub book: RoundBook,
}

/// A run whose work is paid for.
#[derive(Debug, Clone)]
pub struct PaidRun {
    /// How it is played.
    pub rules: RunRules,
    /// What a step counts beside steps of other runs: parameters times tokens.
    pub step_cost: u64,
    /// Its rounds, from the first, and the books of audits after the last.
    pub rounds: Vec<PaidRound>,
}

impl PaidRun {
    /// The last recorded round, whose record leads to the newest weights; books of audits come after it.
    #[must_use]
    pub fn last_round(&self) -> Option<&PaidRound> {
        let books = self.rounds.len().try_into().unwrap_or(u64::MAX);
        let rounds = usize::try_from(self.rules.rounds_of(books)).unwrap_or(usize::MAX);
        self.rounds.get(rounds.checked_sub(1)?)
    }
}

/// Why something is paid, or not yet, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayState {
    /// It is drawn for an audit that is not decided.
    Audited,
    /// Parts of it come with the rounds that follow.
    Vesting {
        /// How many rounds have to follow yet.
        rounds_left: u64,
    },
    /// All of it is paid.
    Vested,
    /// The audit found other bytes, or could not be made.
    Refused(AuditOutcome),
    /// The trainer was found to cheat in another round, or withheld what its replay starts from.
    Forfeited,
}

/// What somebody earned by one contribution, or by one replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// The run.
    pub run: B256,
    /// The round: of the contribution, or of the book that reports the replay.
    pub index: u64,
    /// The epoch whose Ember it is of.
    pub epoch: u64,
    /// Whose work it was.
    pub trainer: DeviceId,
    /// Whether it is for the replay of that work, and not for the work.
    pub is_replay: bool,
    /// Who earns.
    pub account: Address,
    /// All that it can come to.
    pub whole: Amount,
    /// What of it is paid by now.
    pub vested: Amount,
    /// Why.
    pub state: PayState,
}

/// Somebody's part of the work of an epoch.
struct Claim {
    credit: Credit,
    /// Steps times what they cost.
    work: u128,
}

/// All that was earned in epochs up to `through`, one for each contribution and each auditor of a replay.
///
/// Rounds of later epochs are not looked at.
///
/// # Errors
/// Where the books of a run do not follow each other.
pub fn credits(runs: &[PaidRun], through: u64, epoch_s: u64) -> Result<Vec<Credit>, HistoryError> {
    let mut claims = Vec::new();
    for run in runs {
        claim_of_run(run, through, epoch_s, &mut claims)?;
    }
    let mut work: BTreeMap<(u64, bool), u128> = BTreeMap::new();
    for claim in &claims {
        let all = work
            .entry((claim.credit.epoch, claim.credit.is_replay))
            .or_default();
        *all = all.saturating_add(claim.work);
    }
    let credits = claims.into_iter().map(|claim| {
        let mut credit = claim.credit;
        let all = work[&(credit.epoch, credit.is_replay)];
        let pot = pot(credit.epoch, epoch_s, credit.is_replay);
        credit.whole = part(pot, claim.work, all);
        credit.vested = match credit.state {
            PayState::Vested => credit.whole,
            PayState::Audited | PayState::Refused(_) => Amount::ZERO,
            // The vested parts of a thousand were left here by `claim_of_run`.
            PayState::Vesting { .. } | PayState::Forfeited => {
                part(credit.whole, credit.vested.units(), VESTING_PARTS)
            }
        };
        credit
    });
    Ok(credits.collect())
}

/// Vested shares are kept in so many parts until the whole is known.
const VESTING_PARTS: u128 = 1 << 32;

fn pot(epoch: u64, epoch_s: u64, is_replay: bool) -> Amount {
    let cap = emission::ember_cap(epoch, epoch_s);
    let trained = part(cap, u128::from(CONTRIBUTIONS_PER_MILLE), 1_000);
    match is_replay {
        true => Amount::new(cap.units().saturating_sub(trained.units())),
        false => trained,
    }
}

/// `whole * share / all`, rounded down; nothing where `all` is.
fn part(whole: Amount, share: u128, all: u128) -> Amount {
    let product = U256::from(whole.units()) * U256::from(share);
    let part = product.checked_div(U256::from(all)).unwrap_or_default();
    Amount::new(u128::try_from(part).unwrap_or(u128::MAX))
}

fn claim_of_run(
    run: &PaidRun,
    through: u64,
    epoch_s: u64,
    claims: &mut Vec<Claim>,
) -> Result<(), HistoryError> {
    let rounds: Vec<&PaidRound> = run
        .rounds
        .iter()
        .take_while(|round| round.epoch <= through)
        .collect();
    let facts = Facts::of(run.rules, &rounds, through, epoch_s)?;
    for round in &rounds {
        let book = &round.book;
        for member in &book.members {
            let (state, vested) = facts.vesting(book.index, member.trainer);
            claims.push(Claim {
                work: u128::from(member.work.steps) * u128::from(run.step_cost),
                credit: Credit {
                    run: run.rules.run,
                    index: book.index,
                    epoch: round.epoch,
                    trainer: member.trainer,
                    is_replay: false,
                    account: member.account,
                    whole: Amount::ZERO,
                    vested: Amount::new(vested),
                    state,
                },
            });
        }
        claim_replays(run, &rounds, round, claims);
    }
    Ok(())
}

/// What decides how much of a contribution's pay has vested.
struct Facts {
    history: History,
    /// What books say of audits, and in which round.
    decided: BTreeMap<(u64, DeviceId), (AuditOutcome, u64)>,
    /// The books that say that a trainer cheated, or withheld what a replay needs; with each, the rounds before the first
    /// one of which a replay was still to be reported, and that one: those after them vested nothing of it.
    forfeits: BTreeMap<DeviceId, Vec<(u64, u64)>>,
    /// The run has all its rounds, and no audit is open.
    is_over: bool,
    /// Where so long a time without rounds began that all rounds before are settled, whatever came later; ascending.
    settled: Vec<u64>,
}

impl Facts {
    fn of(
        rules: RunRules,
        rounds: &[&PaidRound],
        through: u64,
        epoch_s: u64,
    ) -> Result<Self, HistoryError> {
        let mut history = History::new(rules);
        let mut decided = BTreeMap::new();
        let mut forfeits: BTreeMap<DeviceId, Vec<(u64, u64)>> = BTreeMap::new();
        let mut settled = Vec::new();
        let gap = (SETTLED_AFTER_S / epoch_s.max(1)).max(SETTLED_EPOCHS_MIN);
        for (place, round) in rounds.iter().enumerate() {
            let index = round.book.index;
            for audit in &round.book.audits {
                let key = (audit.index, audit.trainer);
                decided.insert(key, (audit.outcome, index));
                if audit.outcome != AuditOutcome::Same
                    && let Some(until) = vests_until(&history, audit.trainer)
                {
                    let found = forfeits.entry(audit.trainer).or_default();
                    found.push((index, until));
                }
            }
            history.apply(&round.book, round.beacon)?;
            let next = rounds.get(place.saturating_add(1));
            let next = next.map_or(through, |next| next.epoch);
            if next >= round.epoch.saturating_add(gap) {
                settled.push(index.saturating_add(1));
            }
        }
        let is_past = rounds.last().is_some_and(|last| through > last.epoch);
        let is_full = !history.has_rounds_left();
        Ok(Self {
            is_over: is_full && is_past && history.open_audits().is_empty(),
            history,
            decided,
            forfeits,
            settled,
        })
    }

    /// The state of a trainer's pay for a round, and its vested parts of [`VESTING_PARTS`].
    fn vesting(&self, round: u64, trainer: DeviceId) -> (PayState, u128) {
        let key = (round, trainer);
        let settled = self.settled.iter().find(|until| round < **until);
        let is_settled = settled.is_some();
        // What was found after a round was settled changes nothing about it.
        let counts = |found_in: &u64| settled.is_none_or(|until| found_in < until);
        let outcome = self
            .decided
            .get(&key)
            .filter(|(_, found_in)| counts(found_in));
        if let Some((outcome, _)) = outcome
            && *outcome != AuditOutcome::Same
        {
            return (PayState::Refused(*outcome), 0);
        }
        if !is_settled && self.history.open_audits().contains_key(&key) {
            return (PayState::Audited, 0);
        }
        let over = self.history.rules().vesting_rounds();
        let forfeits = self.forfeits.get(&trainer).into_iter().flatten();
        let forfeits = forfeits.filter(|(found_in, _)| *found_in > round && counts(found_in));
        let forfeited = forfeits.map(|(_, until)| *until).min();
        // What a trainer has at stake when its work is drawn, it has at stake until that is decided.
        let open = vests_until(&self.history, trainer).filter(|_| !is_settled);
        let all = self.history.rules().rounds_of(self.history.index());
        let until = [forfeited, open].into_iter().flatten().fold(all, u64::min);
        let followed = until.saturating_sub(round.saturating_add(1)).min(over);
        let parts = VESTING_PARTS * u128::from(followed) / u128::from(over);
        if forfeited.is_some() {
            return (PayState::Forfeited, parts);
        }
        if self.is_over || is_settled || followed == over {
            return (PayState::Vested, VESTING_PARTS);
        }
        let rounds_left = over - followed;
        (PayState::Vesting { rounds_left }, parts)
    }
}

/// How many rounds count for the vesting of a trainer's pay while work of it is to be replayed: those up to the first such
/// work. Nothing where there is none.
fn vests_until(history: &History, trainer: DeviceId) -> Option<u64> {
    let mut open = history.open_audits().keys();
    let first = open.find(|(_, whose)| *whose == trainer);
    first.map(|(round, _)| round.saturating_add(1))
}

/// Replays that a book reports are paid at once, each auditor alike.
fn claim_replays(run: &PaidRun, rounds: &[&PaidRound], round: &PaidRound, claims: &mut Vec<Claim>) {
    for audit in &round.book.audits {
        if audit.outcome == AuditOutcome::Unavailable {
            continue;
        }
        let audited = usize::try_from(audit.index)
            .ok()
            .and_then(|index| rounds.get(index))
            .and_then(|round| {
                let mut members = round.book.members.iter();
                members.find(|member| member.trainer == audit.trainer)
            });
        let Some(member) = audited else { continue };
        for account in &audit.auditors {
            claims.push(Claim {
                work: u128::from(member.work.steps) * u128::from(run.step_cost),
                credit: Credit {
                    run: run.rules.run,
                    index: round.book.index,
                    epoch: round.epoch,
                    trainer: audit.trainer,
                    is_replay: true,
                    account: *account,
                    whole: Amount::ZERO,
                    vested: Amount::ZERO,
                    state: PayState::Vested,
                },
            });
        }
    }
}

/// What each account was given up to an epoch, in one asset.
pub type Earned = BTreeMap<Address, Amount>;

/// What each account has earned in all.
#[must_use]
pub fn earned(credits: &[Credit]) -> Earned {
    let mut earned = Earned::new();
    for credit in credits {
        if credit.vested.units() > 0 {
            let sum = earned.entry(credit.account).or_default();
            *sum = Amount::new(sum.units().saturating_add(credit.vested.units()));
        }
    }
    earned
}

/// The tree of Ember for an epoch that follows `base`, the final record of an earlier one: what was earned, or what the
/// emission allows of it, in proportion to what is due. What is left over is due in the next epoch.
#[must_use]
pub fn ember_tree(
    earned: &Earned,
    base: Option<(u64, &Earned)>,
    epoch: u64,
    epoch_s: u64,
) -> Earned {
    let epochs = match base {
        Some((before, _)) => epoch.saturating_sub(before),
        None => epoch.saturating_add(1),
    };
    let cap = emission::ember_cap(epoch, epoch_s).units();
    let allowed = cap.saturating_mul(u128::from(epochs.min(CARRIED_EPOCHS)));
    let mut tree = base.map(|(_, tree)| tree.clone()).unwrap_or_default();
    let due = |account: &Address, sum: &Amount| {
        let before = tree.get(account).copied().unwrap_or_default();
        sum.units().saturating_sub(before.units())
    };
    let dues: BTreeMap<Address, u128> = earned
        .iter()
        .map(|(account, sum)| (*account, due(account, sum)))
        .filter(|(_, due)| *due > 0)
        .collect();
    let all = dues
        .values()
        .fold(0, |all: u128, due| all.saturating_add(*due));
    for (account, due) in dues {
        let now = if all <= allowed {
            due
        } else {
            part(Amount::new(allowed), due, all).units()
        };
        let sum = tree.entry(account).or_default();
        *sum = Amount::new(sum.units().saturating_add(now));
    }
    tree.retain(|_, sum| sum.units() > 0);
    tree
}

/// The tree of Voice beside a tree of Ember: what was earned since the base, at the end of the epoch.
#[must_use]
pub fn voice_tree(
    ember: &Earned,
    base: Option<(&Earned, &Earned)>,
    epoch: u64,
    epoch_s: u64,
) -> Earned {
    // In parts of the epoch's cap: however they are rounded, all together are not more than the contract takes.
    let most = emission::voice_cap(epoch, epoch_s);
    let cap = emission::ember_cap(epoch, epoch_s).units();
    let (ember_before, mut tree) = match base {
        Some((ember, voice)) => (Some(ember), voice.clone()),
        None => (None, Earned::new()),
    };
    for (account, sum) in ember {
        let before = ember_before.and_then(|before| before.get(account));
        let since = sum
            .units()
            .saturating_sub(before.copied().unwrap_or_default().units());
        let votes = (most * U256::from(since)).checked_div(U256::from(cap));
        let votes = votes.unwrap_or_default();
        let votes = u128::try_from(votes).unwrap_or(u128::MAX);
        if votes > 0 {
            let sum = tree.entry(*account).or_default();
            *sum = Amount::new(sum.units().saturating_add(votes));
        }
    }
    tree
}

#[cfg(test)]
#[path = "pay_tests.rs"]
mod tests;
