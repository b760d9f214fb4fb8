//! What an agent may spend: budgets of a day, a chat, a task, a provider and a tool, all of which a purchase must fit.
//!
//! What a purchase may cost at most is set aside in every line at once before anything is signed, and what it did cost takes its
//! place. So two tasks and a chat that meet one budget at the same time never exceed it. After a crash all that was set
//! aside counts as spent: a budget may be stricter than the truth, never looser. The node's purse has its own limits beside these.

use std::collections::BTreeMap;
use std::fmt;

use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{Book, Reservation, ReserveError};
use hearth_protocol::time::Timestamp;
use thiserror::Error;

use crate::tool::ToolName;

/// The most lines that one purchase counts in, beside that of the day.
pub const LINES_MAX: usize = 8;
/// What is not of a day is counted in a book whose day never ends.
const ALWAYS: Timestamp = Timestamp(0);

/// A line of a budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// All that an agent spends.
    All,
    /// A chat.
    Chat(String),
    /// A task that is done by itself.
    Task(String),
    /// Who is paid.
    Provider(String),
    /// What is paid for.
    Tool(ToolName),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("the agent"),
            Self::Chat(chat) => write!(f, "the chat {chat}"),
            Self::Task(task) => write!(f, "the task {task}"),
            Self::Provider(provider) => write!(f, "the provider {provider}"),
            Self::Tool(tool) => write!(f, "the tool {tool}"),
        }
    }
}

/// For how long a limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// Each day from midnight to midnight UTC.
    Day,
    /// For good: a chat or a task has so much, and no more.
    Whole,
}

/// A line in one asset.
type Account = (Line, AssetId);

/// Something that may cost money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// What it is paid with.
    pub asset: AssetId,
    /// The most that it costs, in atomic units.
    pub most: Amount,
    /// The lines that it counts in, beside [`Line::All`].
    pub lines: Vec<Line>,
}

/// Why a purchase does not happen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// Nobody said what the agent may spend in a day.
    #[error("no budget is set for an agent in this asset")]
    NoBudget,
    /// A line leaves less.
    #[error("it may cost {asked}, and the budget of {line} leaves {left}")]
    Exhausted {
        /// The line.
        line: Line,
        /// What the purchase may cost.
        asked: Amount,
        /// What is left.
        left: Amount,
    },
    /// Too much goes on at once, or it counts in too many lines.
    #[error("too many purchases are in progress at once")]
    Full,
}

/// What is set aside for a purchase in all its lines. It goes back to the budgets that gave it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is set aside stays counted until it is settled or released"]
pub struct SetAside {
    daily: Vec<Reservation<Account>>,
    whole: Vec<Reservation<Account>>,
}

/// What was counted, for a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// The day of the daily sums, counted from 1970 in UTC.
    pub day: u64,
    /// What counts on that day, with all that is set aside.
    pub daily: BTreeMap<(Line, AssetId), Amount>,
    /// What counts for good, with all that is set aside.
    pub whole: BTreeMap<(Line, AssetId), Amount>,
}

/// The budgets of a household's agent.
#[derive(Debug, Clone, Default)]
pub struct Budgets {
    limits: BTreeMap<(Account, Period), Amount>,
    ask_above: BTreeMap<AssetId, Amount>,
    daily: Book<Account>,
    whole: Book<Account>,
}

impl Budgets {
    /// Budgets that go on with what was counted.
    #[must_use]
    pub fn restore(sums: Sums) -> Self {
        Self {
            daily: Book::restore(sums.day, sums.daily),
            whole: Book::restore(0, sums.whole),
            ..Self::default()
        }
    }

    /// Sets a limit, in atomic units.
    pub fn limit(&mut self, line: Line, asset: AssetId, period: Period, amount: Amount) {
        self.limits.insert(((line, asset), period), amount);
    }

    /// Has the owner asked about each purchase that may cost more than this, in atomic units.
    pub fn ask_above(&mut self, asset: AssetId, amount: Amount) {
        self.ask_above.insert(asset, amount);
    }

    /// Whether the owner is asked about a purchase because of what it may cost. Where no threshold is set each is.
    #[must_use]
    pub fn is_asked_about(&self, purchase: &Purchase) -> bool {
        let threshold = self.ask_above.get(&purchase.asset);
        purchase.most > threshold.copied().unwrap_or(Amount::ZERO)
    }

    /// Sets aside what a purchase may cost, in all its lines or in none.
    ///
    /// # Errors
    /// When a line leaves less, no daily limit is set for the agent, or too much is open.
    pub fn reserve(
        &mut self,
        purchase: &Purchase,
        now: Timestamp,
    ) -> Result<SetAside, BudgetError> {
        if purchase.lines.len() > LINES_MAX {
            return Err(BudgetError::Full);
        }
        let all = (Line::All, purchase.asset);
        if !self.limits.contains_key(&(all.clone(), Period::Day)) {
            return Err(BudgetError::NoBudget);
        }
        let mut accounts = vec![all];
        for line in &purchase.lines {
            let account = (line.clone(), purchase.asset);
            // A line that is named twice counts once.
            if !accounts.contains(&account) {
                accounts.push(account);
            }
        }
        let mut aside = SetAside {
            daily: Vec::new(),
            whole: Vec::new(),
        };
        for account in accounts {
            if let Err(error) = self.reserve_in(&account, purchase.most, now, &mut aside) {
                self.release(aside);
                return Err(match error {
                    ReserveError::Exhausted { asked, left } => BudgetError::Exhausted {
                        line: account.0,
                        asked,
                        left,
                    },
                    _ => BudgetError::Full,
                });
            }
        }
        Ok(aside)
    }

    fn reserve_in(
        &mut self,
        account: &Account,
        most: Amount,
        now: Timestamp,
        aside: &mut SetAside,
    ) -> Result<(), ReserveError> {
        let limit = |period| {
            let limit = self.limits.get(&(account.clone(), period));
            // A line without a limit is counted all the same, so that it can be shown.
            limit.copied().unwrap_or(Amount::new(u128::MAX))
        };
        let (per_day, in_all) = (limit(Period::Day), limit(Period::Whole));
        let daily = self.daily.reserve(account.clone(), most, per_day, now)?;
        aside.daily.push(daily);
        let whole = self.whole.reserve(account.clone(), most, in_all, ALWAYS)?;
        aside.whole.push(whole);
        Ok(())
    }

    /// Puts what a purchase came to in the place of what was set aside. It may be more, which counts too.
    pub fn settle(&mut self, aside: SetAside, charged: Amount, now: Timestamp) {
        for reservation in aside.daily {
            self.daily.settle(reservation, charged, now);
        }
        for reservation in aside.whole {
            self.whole.settle(reservation, charged, ALWAYS);
        }
    }

    /// Gives back what was set aside: nothing was signed.
    pub fn release(&mut self, aside: SetAside) {
        for reservation in aside.daily {
            self.daily.release(reservation);
        }
        for reservation in aside.whole {
            self.whole.release(reservation);
        }
    }

    /// What a line has spent, with all that is set aside.
    pub fn spent(&mut self, line: Line, asset: AssetId, period: Period, now: Timestamp) -> Amount {
        match period {
            Period::Day => self.daily.spent_today(&(line, asset), now),
            Period::Whole => self.whole.spent_today(&(line, asset), ALWAYS),
        }
    }

    /// What a store must have, so that nothing is forgotten by a crash.
    pub fn sums(&mut self, now: Timestamp) -> Sums {
        Sums {
            daily: self.daily.sums(now),
            day: self.daily.day(now),
            whole: self.whole.sums(ALWAYS),
        }
    }
}
