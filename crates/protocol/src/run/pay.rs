//! Who earns what by a run's books (spec: runs, section 8).
//!
//! Everything here follows from recorded books, the beacons of their records and the emission, so that all validators
//! come to the same tree of rewards, and anyone can say why somebody earned or did not.
//!
//! An epoch's Ember is divided by work: nine tenths among contributions, by steps times what a step of the run costs;
//! one tenth among replays. Pay for a contribution vests over so many rounds that a trainer has more at stake than it can
//! gain by false work until that is replayed. Work that was drawn for an audit vests nothing before the audit is decided.
//! What a cheat has not been paid by then is never paid to anyone.
//!
//! What was pledged to a run, and released by its checkpoints, is divided in the same way: the part of a checkpoint among
//! the contributions to its rounds. It gives no votes.

use std::collections::{BTreeMap, BTreeSet};

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
    /// What was pledged to it; nothing where it takes no pledges.
    pub funding: Option<RunFunding>,
}

/// What was released of the pledges to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFunding {
    /// The ERC-20 of the pledges.
    pub token: Address,
    /// Recorded rounds of a checkpoint, one at least.
    pub rounds_per_checkpoint: u32,
    /// What was released, in the order of the chain.
    pub releases: Vec<PledgeRelease>,
}

/// A release of the parts of some checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PledgeRelease {
    /// The epoch of the release's block.
    pub epoch: u64,
    /// How many checkpoints have been released with it.
    pub checkpoints: u32,
    /// What of it arrived to be earned.
    pub arrived: Amount,
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
    /// The epoch of the round's record, whose Ember it is of.
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
        let all = work[&(claim.credit.epoch, claim.credit.is_replay)];
        let pot = pot(claim.credit.epoch, epoch_s, claim.credit.is_replay);
        claim.divide(pot, all)
    });
    Ok(credits.collect())
}

/// What contributions to the runs that are paid in `token` earned of the pledges that were released in epochs up to
/// `through`, one for each contribution.
///
/// The part of each checkpoint is divided among the contributions to its rounds by their work, and vests as their Ember
/// does. What a cheat is not paid stays where it is: nobody gains by a verdict.
///
/// # Errors
/// Where the books of a run do not follow each other.
pub fn pledge_credits(
    runs: &[PaidRun],
    token: Address,
    through: u64,
    epoch_s: u64,
) -> Result<Vec<Credit>, HistoryError> {
    let mut credits = Vec::new();
    for run in runs {
        let Some(funding) = (run.funding.as_ref()).filter(|funding| funding.token == token) else {
            continue;
        };
        let mut claims = Vec::new();
        claim_of_run(run, through, epoch_s, &mut claims)?;
        claims.retain(|claim| !claim.credit.is_replay);
        let checkpoint_of = |claim: &Claim| {
            let rounds = u64::from(funding.rounds_per_checkpoint);
            claim.credit.index.checked_div(rounds)
        };
        let mut work: BTreeMap<u64, u128> = BTreeMap::new();
        for claim in &claims {
            if let Some(checkpoint) = checkpoint_of(claim) {
                let all = work.entry(checkpoint).or_default();
                *all = all.saturating_add(claim.work);
            }
        }
        let pots: BTreeMap<u64, (Amount, u128)> = (work.into_iter())
            .filter_map(|(checkpoint, all)| {
                let pot = funding.released_for(checkpoint, through)?;
                Some((checkpoint, (pot, all)))
            })
            .collect();
        let divided = claims.into_iter().filter_map(|claim| {
            let (pot, all) = *pots.get(&checkpoint_of(&claim)?)?;
            Some(claim.divide(pot, all))
        });
        credits.extend(divided);
    }
    Ok(credits)
}

/// The tokens that the runs are funded in, as far as something was released in an epoch up to `through`.
#[must_use]
pub fn released_tokens(runs: &[PaidRun], through: u64) -> BTreeSet<Address> {
    let fundings = runs.iter().filter_map(|run| run.funding.as_ref());
    let released = fundings.filter(|funding| {
        let mut releases = funding.releases.iter();
        releases.any(|release| release.epoch <= through)
    });
    released.map(|funding| funding.token).collect()
}

impl RunFunding {
    /// What a checkpoint has to be earned, of the releases in epochs up to `through`; nothing where it was not released. A
    /// release of several checkpoints gives each of them the same.
    fn released_for(&self, checkpoint: u64, through: u64) -> Option<Amount> {
        let mut first = 0;
        for release in &self.releases {
            let until = u64::from(release.checkpoints);
            if (first..until).contains(&checkpoint) && release.epoch <= through {
                let (place, count) = (u128::from(checkpoint - first), u128::from(until - first));
                let before = part(release.arrived, place, count).units();
                let with = part(release.arrived, place + 1, count).units();
                return Some(Amount::new(with.saturating_sub(before)));
            }
            first = first.max(until);
        }
        None
    }
}

impl Claim {
    /// The credit for this share of `all` the work that is paid out of `pot`.
    fn divide(self, pot: Amount, all: u128) -> Credit {
        let mut credit = self.credit;
        credit.whole = part(pot, self.work, all);
        credit.vested = match credit.state {
            PayState::Vested => credit.whole,
            PayState::Audited | PayState::Refused(_) => Amount::ZERO,
            // The vested parts were left here by `claim_of_run`.
            PayState::Vesting { .. } | PayState::Forfeited => {
                part(credit.whole, credit.vested.units(), VESTING_PARTS)
            }
        };
        credit
    }
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
        add(&mut earned, credit.account, credit.vested.units());
    }
    earned
}

/// What each account earned of pledges in one asset: up to an epoch, and up to the epoch of the record that it follows.
#[derive(Debug, Clone, Copy)]
pub struct PledgesEarned<'a> {
    /// Up to the epoch.
    pub now: &'a Earned,
    /// Up to the base.
    pub at_base: &'a Earned,
}

/// The tree of Ember for an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmberTree {
    /// What each account was given in all.
    pub sums: Earned,
    /// By how much it grew through the emission: what votes are given for.
    pub emitted: Earned,
}

/// The tree of Ember for an epoch that follows `base`, the final record of an earlier one: what was earned, or what the
/// emission allows of it, in proportion to what is due. What is left over is due in the next epoch. What was earned of
/// pledges in Ember comes on top.
#[must_use]
pub fn ember_tree(
    earned: &Earned,
    pledges: PledgesEarned<'_>,
    base: Option<(u64, &Earned)>,
    epoch: u64,
    epoch_s: u64,
) -> EmberTree {
    let epochs = match base {
        Some((before, _)) => epoch.saturating_sub(before),
        None => epoch.saturating_add(1),
    };
    let cap = emission::ember_cap(epoch, epoch_s).units();
    let allowed = cap.saturating_mul(u128::from(epochs.min(CARRIED_EPOCHS)));
    let mut sums = base.map(|(_, sums)| sums.clone()).unwrap_or_default();
    // What the base has is what it gave of pledges, all that was earned of them by then, and of the emission.
    let before = sums.clone();
    let pledged_before =
        |account: &Address| sum_of(pledges.at_base, account).min(sum_of(&before, account));
    let due = |(account, sum): (&Address, &Amount)| {
        let emitted = sum_of(&before, account).saturating_sub(pledged_before(account));
        (*account, sum.units().saturating_sub(emitted))
    };
    let dues: BTreeMap<Address, u128> = (earned.iter().map(due))
        .filter(|(_, due)| *due > 0)
        .collect();
    let all = dues
        .values()
        .fold(0, |all: u128, due| all.saturating_add(*due));
    let mut emitted = Earned::new();
    for (account, due) in dues {
        let now = if all <= allowed {
            due
        } else {
            part(Amount::new(allowed), due, all).units()
        };
        add(&mut sums, account, now);
        add(&mut emitted, account, now);
    }
    for account in pledges.now.keys() {
        let now = sum_of(pledges.now, account).saturating_sub(pledged_before(account));
        add(&mut sums, *account, now);
    }
    EmberTree { sums, emitted }
}

/// The tree of what was earned of pledges in another asset than Ember, which follows `base`, the tree of the final record
/// of an earlier epoch.
#[must_use]
pub fn pledge_tree(earned: &Earned, base: Option<&Earned>) -> Earned {
    let mut tree = base.cloned().unwrap_or_default();
    for account in earned.keys() {
        let now = sum_of(earned, account).saturating_sub(sum_of(&tree, account));
        add(&mut tree, *account, now);
    }
    tree
}

fn sum_of(earned: &Earned, account: &Address) -> u128 {
    earned.get(account).map_or(0, |sum| sum.units())
}

fn add(earned: &mut Earned, account: Address, more: u128) {
    if more > 0 {
        let sum = earned.entry(account).or_default();
        *sum = Amount::new(sum.units().saturating_add(more));
    }
}

/// The tree of Voice beside a tree of Ember: votes for what the emission gave since the base, at the end of the epoch.
#[must_use]
pub fn voice_tree(emitted: &Earned, base: Option<&Earned>, epoch: u64, epoch_s: u64) -> Earned {
    // In parts of the epoch's cap: however they are rounded, all together are not more than the contract takes.
    let most = emission::voice_cap(epoch, epoch_s);
    let cap = emission::ember_cap(epoch, epoch_s).units();
    let mut tree = base.cloned().unwrap_or_default();
    for (account, since) in emitted {
        let votes = (most * U256::from(since.units())).checked_div(U256::from(cap));
        let votes = votes.unwrap_or_default();
        add(
            &mut tree,
            *account,
            u128::try_from(votes).unwrap_or(u128::MAX),
        );
    }
    tree
}

#[cfg(test)]
#[path = "pay_tests.rs"]
mod tests;
