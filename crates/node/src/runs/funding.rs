//! Pledges to a run: what its terms promise to funders, what stands on chain, and what this household does about it.
//!
//! The contract decides; here is what it would say, so that a person is told before money moves. What was ordered is sent
//! once: each order names what its funder had pledged when it was shown, and is refused where that is not so any more.
//! After a crash the same order finds the transaction that is under way, and no other one is sent.

mod acting;
mod terms;
#[cfg(test)]
mod tests;

use alloy_primitives::{Address, B256, U256, hex};
use hearth_api::money::Money;
use hearth_api::runs::{FundingState, FundingView};
use hearth_chain::ledger::{Ledger, LedgerError, LedgerRefusal, RunProgress};
use hearth_chain::sender::SendError;
use hearth_protocol::id::AssetId;
use hearth_protocol::ledger::statement::RunTerms;
use hearth_protocol::money::Amount;
use thiserror::Error;

use super::folder::RunFolder;
use super::ticket::RunTicket;
use super::{Runs, RunsError};
use crate::advice::Advice;

pub(super) use terms::RunBeginning;
pub use terms::{FundingRecipe, FundingTermsError};

/// How Ember is called where the configuration has no name for it.
const EMBER: &str = "EMBER";
/// Decimals of Ember.
const EMBER_DECIMALS: u8 = 18;
/// Decimals of Voice.
const VOICE_DECIMALS: u8 = 9;

/// Why a run is not funded, or nothing comes back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum FundingError {
    /// The run.
    #[error(transparent)]
    Run(Box<RunsError>),
    /// Its terms name no token.
    #[error("the run {0} takes no pledges")]
    NoPledges(String),
    /// Pledges are in one asset.
    #[error("the run is funded in {wanted}, not in {given:?}")]
    OtherAsset {
        /// The asset of the run.
        wanted: String,
        /// What was named.
        given: String,
    },
    /// Not an amount.
    #[error("{given:?} is not an amount of {symbol}: {reason}")]
    Amount {
        /// What was given.
        given: String,
        /// The asset.
        symbol: String,
        /// Why not.
        reason: String,
    },
    /// The household has less.
    #[error("the account holds {held}, which is less than {wanted}")]
    TooLittle {
        /// What there is, with the asset's name.
        held: String,
        /// What was ordered.
        wanted: String,
    },
    /// More than was pledged.
    #[error("{pledged} are pledged, which is less than {wanted}")]
    ExceedsPledge {
        /// By this household.
        pledged: String,
        /// What was ordered.
        wanted: String,
    },
    /// This household has nothing there.
    #[error("this household has nothing pledged to the run")]
    NothingPledged,
    /// The deadline is over.
    #[error(
        "the run takes no pledges any more, and gives none back before its end: its deadline is over"
    )]
    Closed,
    /// The deadline is ahead.
    #[error(
        "pledges to the run are not final yet: they can be made and withdrawn until its deadline"
    )]
    Open,
    /// The soft cap was reached.
    #[error("the pledges are bound until the run's end: the soft cap was reached")]
    Bound,
    /// The soft cap was missed.
    #[error(
        "the run missed its soft cap, so that nothing is released: everything goes back to its funders"
    )]
    Missed,
    /// Every checkpoint was reached.
    #[error("nothing of the pledge is left: the checkpoints of the run took all of it")]
    NothingLeft,
    /// No checkpoint waits.
    #[error("no checkpoint of the run waits for its part of the pledges")]
    NothingToRelease,
    /// Something came in between.
    #[error("this household's pledge has changed since it was shown")]
    Changed,
    /// The same is being sent with another amount.
    #[error("another order of this household for the run is under way")]
    UnderWay,
    /// The token did not let the contract take it.
    #[error("the token {0} was told to let the run's contract take the amount, and does not")]
    NotAllowed(Address),
    /// The token moved nothing.
    #[error("the token {0} says that it moved, and nothing arrived")]
    NothingArrived(Address),
    /// The token said no.
    #[error("the token {0} refused to move")]
    TokenRefused(Address),
    /// The chain does not answer.
    #[error("the chain could not be asked")]
    ChainAway(#[source] Box<LedgerError>),
    /// Anything else that the ledger says.
    #[error("the ledger did not take it")]
    Ledger(#[source] Box<LedgerError>),
}

impl From<RunsError> for FundingError {
    fn from(error: RunsError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<LedgerError> for FundingError {
    fn from(error: LedgerError) -> Self {
        match &error {
            LedgerError::Refused(refusal) => match **refusal {
                LedgerRefusal::PledgesClosed(_) => Self::Closed,
                LedgerRefusal::PledgesBound(_) => Self::Bound,
                LedgerRefusal::NothingToRelease(_) => Self::NothingToRelease,
                LedgerRefusal::TokenFailed(token) => Self::TokenRefused(token),
                _ => Self::Ledger(Box::new(error)),
            },
            LedgerError::Send(send) if matches!(**send, SendError::NameTaken(_)) => Self::UnderWay,
            LedgerError::Chain(_) => Self::ChainAway(Box::new(error)),
            _ => Self::Ledger(Box::new(error)),
        }
    }
}

impl Advice for FundingError {
    fn code(&self) -> &str {
        match self {
            Self::Run(error) => error.code(),
            Self::NoPledges(_) => "no_pledges",
            Self::OtherAsset { .. } => "other_asset",
            Self::Amount { .. } => "bad_amount",
            Self::TooLittle { .. } => "too_little",
            Self::ExceedsPledge { .. } => "exceeds_pledge",
            Self::NothingPledged => "nothing_pledged",
            Self::Closed => "pledges_closed",
            Self::Open => "pledges_open",
            Self::Bound => "pledges_bound",
            Self::Missed => "soft_cap_missed",
            Self::NothingLeft => "nothing_left",
            Self::NothingToRelease => "nothing_to_release",
            Self::Changed => "pledge_changed",
            Self::UnderWay => "under_way",
            Self::NotAllowed(_) => "no_allowance",
            Self::NothingArrived(_) => "nothing_arrived",
            Self::TokenRefused(_) => "token_refused",
            Self::ChainAway(_) => "chain_unavailable",
            Self::Ledger(_) => "ledger",
        }
    }

    fn next_step(&self) -> String {
        let step = match self {
            Self::Run(error) => return error.next_step(),
            Self::NoPledges(_) => {
                "Name another run: one takes pledges where the file that it was made of has a [funding] section"
            }
            Self::OtherAsset { .. } => "Leave --asset out, or name that asset",
            Self::Amount { .. } => "Give whole tokens, such as 1.25",
            Self::TooLittle { .. } => {
                "Pledge less, or see `hearth wallet balances` for what there is"
            }
            Self::ExceedsPledge { .. } => "Leave the amount out to withdraw all of it",
            Self::NothingPledged => "See `hearth run fund RUN` for what is pledged, and by whom",
            Self::Closed => {
                "See `hearth run fund RUN`: `--refund` gives back what no checkpoint released once the run has ended, \
                 and everything where the soft cap was missed"
            }
            Self::Open => "Take it back with `--withdraw`, or wait for the deadline",
            Self::Bound => {
                "Wait for the run's end, which `hearth run fund RUN` shows: what no checkpoint released goes back then"
            }
            Self::Missed => "Take yours back with `--refund`",
            Self::NothingLeft => {
                "There is nothing to do: all of it was earned by those who trained"
            }
            Self::NothingToRelease => {
                "Wait until more rounds are recorded: `hearth run fund RUN` says how many make a checkpoint"
            }
            Self::Changed => "Look at it again, and order what you still want",
            Self::UnderWay => "Wait a moment, then look at `hearth run fund RUN`",
            Self::NotAllowed(_) | Self::NothingArrived(_) | Self::TokenRefused(_) => {
                "Do not use this token: it does not do what an ERC-20 does. Ask the maker of the run"
            }
            Self::ChainAway(_) => "Try again in a moment: an order that was sent is not sent twice",
            Self::Ledger(_) => {
                "See `hearth wallet balances`, also for the chain's own coin, and try again"
            }
        };
        step.to_owned()
    }
}

/// An asset as people read it. What a token calls itself is not asked: anybody may call a token anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownAsset {
    /// The name in the configuration; the contract's address where it has none.
    symbol: String,
    id: AssetId,
    pub(super) decimals: u8,
}

impl ShownAsset {
    pub(super) fn money(&self, amount: Amount) -> Money {
        Money::of_units(
            self.symbol.as_str(),
            self.id.to_string(),
            self.decimals,
            amount.units(),
        )
    }

    fn said(&self, amount: Amount) -> String {
        let money = self.money(amount);
        format!("{} {}", money.amount, money.symbol)
    }
}

/// What stands on chain of the pledges to a run.
#[derive(Debug, Clone)]
pub(super) struct Funding {
    run: B256,
    terms: RunTerms,
    progress: RunProgress,
    asset: ShownAsset,
    account: Address,
    /// What this household has pledged and not got back.
    mine: Amount,
    now_s: u64,
}

impl Funding {
    fn state(&self) -> FundingState {
        if self.now_s < self.terms.deadline_s {
            FundingState::Open
        } else if self.progress.pledged < self.terms.soft_cap {
            FundingState::Missed
        } else if self.now_s < self.terms.end_s {
            FundingState::Bound
        } else {
            FundingState::Ended
        }
    }

    /// Checkpoints that the recorded rounds make.
    fn reached(&self) -> u32 {
        let rounds = u64::from(self.terms.rounds_per_checkpoint);
        let reached = self.progress.rounds.checked_div(rounds).unwrap_or_default();
        let most = self.terms.checkpoints;
        u32::try_from(reached).map_or(most, |reached| reached.min(most))
    }

    /// What the first `count` checkpoints release together.
    fn part(&self, count: u32) -> Amount {
        share(
            self.progress.pledged,
            U256::from(count),
            U256::from(self.terms.checkpoints),
        )
    }

    fn releasable(&self) -> Amount {
        match self.state() {
            FundingState::Open | FundingState::Missed => Amount::ZERO,
            FundingState::Bound | FundingState::Ended => {
                less(self.part(self.reached()), self.part(self.progress.released))
            }
        }
    }

    fn refundable(&self) -> Amount {
        match self.state() {
            FundingState::Open | FundingState::Bound => Amount::ZERO,
            FundingState::Missed => self.mine,
            FundingState::Ended => {
                let pledged = self.progress.pledged;
                let rest = less(pledged, self.part(self.reached()));
                share(
                    self.mine,
                    U256::from(rest.units()),
                    U256::from(pledged.units()),
                )
            }
        }
    }

    fn view(&self) -> FundingView {
        let money = |amount| self.asset.money(amount);
        let (terms, progress) = (&self.terms, &self.progress);
        FundingView {
            run: hex::encode(self.run),
            state: self.state(),
            account: self.account.to_checksum(None),
            pledged: money(progress.pledged),
            mine: money(self.mine),
            soft_cap: money(terms.soft_cap),
            deadline_s: terms.deadline_s,
            end_s: terms.end_s,
            now_s: self.now_s,
            checkpoints: terms.checkpoints,
            rounds_per_checkpoint: terms.rounds_per_checkpoint,
            checkpoints_reached: self.reached(),
            checkpoints_released: progress.released,
            released: money(match self.state() {
                FundingState::Open | FundingState::Missed => Amount::ZERO,
                FundingState::Bound | FundingState::Ended => self.part(progress.released),
            }),
            releasable: money(self.releasable()),
            refundable: money(self.refundable()),
        }
    }
}

/// `whole * of / all`, rounded down; nothing where `all` is.
fn share(whole: Amount, of: U256, all: U256) -> Amount {
    let product = U256::from(whole.units()).saturating_mul(of);
    Amount::new(product.checked_div(all).unwrap_or_default().saturating_to())
}

fn less(amount: Amount, by: Amount) -> Amount {
    Amount::new(amount.units().saturating_sub(by.units()))
}

impl Runs {
    fn ledger(&self) -> &Ledger {
        &self.0.parts.ledger
    }

    /// The terms of a run on this device, or of a ticket.
    fn terms_of(&self, which: &str) -> Result<RunTerms, RunsError> {
        let ticket = match which.trim().parse::<RunTicket>() {
            Ok(ticket) => ticket,
            Err(error) if which.starts_with("hearth") => return Err(error.into()),
            Err(_) => RunFolder::open(&self.below(), self.find(which)?)?.ticket()?,
        };
        let used = self.ledger().chain();
        match ticket.chain == used {
            true => Ok(ticket.terms),
            false => Err(RunsError::OtherChain {
                wanted: ticket.chain.to_string(),
                used: used.to_string(),
            }),
        }
    }

    /// The token with this name in the configuration, or this CAIP-19 id, on the ledger's chain.
    pub(super) fn token_named(&self, wanted: &str) -> Result<Address, FundingTermsError> {
        let chain = self.ledger().chain();
        let here = || {
            let assets = self.0.parts.assets.iter();
            assets.filter(|(_, asset)| asset.id.chain == chain)
        };
        let id = wanted.parse::<AssetId>().ok();
        let mut named = here().filter(|(name, asset)| *name == wanted || Some(asset.id) == id);
        if let Some((_, asset)) = named.next() {
            return Ok(asset.id.token);
        }
        if wanted == EMBER {
            return Ok(self.ledger().addresses().ember);
        }
        let mut known: Vec<&str> = here().map(|(name, _)| name.as_str()).collect();
        if !known.contains(&EMBER) {
            known.push(EMBER);
        }
        Err(FundingTermsError::Asset {
            wanted: wanted.chars().take(96).collect(),
            known: known.join(", "),
        })
    }

    /// How a token of the ledger's chain is shown.
    pub(super) async fn asset(&self, token: Address) -> Result<ShownAsset, LedgerError> {
        let addresses = self.ledger().addresses();
        let id = AssetId {
            chain: self.ledger().chain(),
            token,
        };
        let mut configured = self.0.parts.assets.iter();
        let (symbol, decimals) = match configured.find(|(_, asset)| asset.id == id) {
            Some((name, asset)) => (name.clone(), asset.decimals),
            None if token == addresses.ember => (EMBER.to_owned(), EMBER_DECIMALS),
            None if token == addresses.voice => ("VOICE".to_owned(), VOICE_DECIMALS),
            None => {
                let decimals = match self.ledger().decimals(token).await {
                    Ok(decimals) => decimals,
                    Err(LedgerError::Chain(error)) if error.is_retryable() => {
                        return Err(error.into());
                    }
                    // It says nothing that can be used: its amounts are shown in atomic units.
                    Err(_) => 0,
                };
                (token.to_checksum(None), decimals)
            }
        };
        Ok(ShownAsset {
            symbol,
            id,
            decimals,
        })
    }

    async fn pledges(&self, terms: RunTerms) -> Result<Funding, FundingError> {
        let run = terms.run();
        if terms.token.is_zero() {
            return Err(FundingError::NoPledges(hex::encode(run)));
        }
        let account = self.0.parts.account;
        let asset = self.asset(terms.token).await?;
        Ok(Funding {
            run,
            progress: self.ledger().run_progress(run).await?,
            mine: self.ledger().pledge_of(run, account).await?,
            now_s: self.0.parts.environment.now_ms() / 1_000,
            terms,
            asset,
            account,
        })
    }

    /// What is pledged to a run, named by its id or its ticket.
    ///
    /// # Errors
    /// When it takes no pledges, or the chain does not answer.
    pub(crate) async fn funding(&self, which: &str) -> Result<FundingView, FundingError> {
        Ok(self.pledges(self.terms_of(which)?).await?.view())
    }
}
