//! What must hold once a run has all its rounds: the audits of the last ones are decided, and all pay with them.

use hearth_protocol::content::ContentHash;
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, History};
use hearth_protocol::run::message::AuditOutcome;
use hearth_protocol::run::pay::{Credit, PaidRound, PaidRun, PayState, credits};

use super::trainer::Diligence;
use super::validator::Candor;
use super::world::TrainingWorld;
use crate::invariant::{Broken, ensure};

/// Seconds of an epoch, as pay counts them: so few that a run which rests is settled after a thousand epochs.
pub(super) const EPOCH_S: u64 = 600;

impl TrainingWorld {
    /// The recorded books, as pay reads them.
    pub(super) fn paid(&self) -> PaidRun {
        let finals = self.chain.finals.iter();
        let rounds = finals.filter_map(|one| {
            let name = ContentHash(one.record?.contributions.0);
            Some(PaidRound {
                epoch: one.epoch,
                beacon: one.head.beacon,
                book: self.books.get(&name)?.clone(),
            })
        });
        PaidRun {
            rules: self.rules,
            step_cost: 1,
            rounds: rounds.collect(),
            funding: None,
        }
    }

    /// The run as its books have it.
    fn recorded(&self) -> Result<History, Broken> {
        let mut history = History::new(self.rules);
        for round in self.paid().rounds {
            if let Err(error) = history.apply(&round.book, round.beacon) {
                self.broken_history(0, error)?;
            }
        }
        Ok(history)
    }

    /// Once nothing goes wrong any more, the audits that were open after the last round are decided.
    pub(super) fn settle(&mut self) -> Result<(), Broken> {
        let lying = self.validators.iter();
        let lying = lying.filter(|side| side.candor != Candor::Honest).count();
        // One validator after the other may have to replay, each that lies may have its turn, and those who have just
        // come wait for two.
        let attempts = u64::try_from(2 * (self.validators.len() + lying) + 6).unwrap_or(0);
        let mut left = attempts;
        while left > 0 && !self.recorded()?.open_audits().is_empty() {
            left -= 1;
            let until = self.scene.now.plus_ms(self.rules.attempt_ms);
            self.live_until(until)?;
        }
        let history = self.recorded()?;
        let open: Vec<_> = history.open_audits().keys().collect();
        ensure(open.is_empty(), "the-last-audits-are-decided", || {
            format!("{open:?} after {attempts} attempts")
        })?;
        let most = AUDIT_ROUNDS_MAX * u64::from(self.rules.trainers_max);
        ensure(self.tally.ends <= most, "books-of-audits-end", || {
            format!("{} of them", self.tally.ends)
        })?;
        self.check_pay()
    }

    /// All that was earned is paid at once, and nothing of what was found to be false.
    fn check_pay(&self) -> Result<(), Broken> {
        let paid = self.paid();
        let Some(last) = paid.rounds.last().map(|round| round.epoch) else {
            return Ok(());
        };
        // The next epoch: a run that rests is settled much later.
        let credits = match credits(std::slice::from_ref(&paid), last + 1, EPOCH_S) {
            Ok(credits) => credits,
            Err(error) => return self.broken_history(0, error),
        };
        for credit in credits.iter().filter(|credit| !credit.is_replay) {
            self.check_credit(credit)?;
        }
        Ok(())
    }

    fn check_credit(&self, credit: &Credit) -> Result<(), Broken> {
        let is_excluded = self.ledger.excluded.contains(&credit.trainer);
        let is_settled = match credit.state {
            PayState::Vested => !is_excluded,
            PayState::Refused(AuditOutcome::Unavailable) => true,
            PayState::Refused(_) => is_excluded,
            PayState::Forfeited => is_excluded || self.ledger.withheld.contains(&credit.trainer),
            PayState::Audited | PayState::Vesting { .. } => false,
        };
        let whose = || format!("{} in round {}: {credit:?}", credit.trainer, credit.index);
        ensure(is_settled, "a-run-that-is-over-is-paid", whose)?;
        let is_last = credit.index + 1 == self.rules.rounds;
        let is_paid = credit.vested.units() > 0;
        ensure(
            !(is_last && is_excluded && is_paid),
            "who-cheats-in-the-last-round-forfeits",
            whose,
        )?;
        let mut sides = self.trainers.iter().enumerate();
        let is_honest = sides.any(|(place, side)| {
            self.devices[place].id == credit.trainer && side.diligence == Diligence::Honest
        });
        let is_whole = credit.vested == credit.whole || credit.state != PayState::Vested;
        ensure(
            !is_honest || is_whole && !is_excluded,
            "honest-work-is-paid",
            whose,
        )
    }
}
