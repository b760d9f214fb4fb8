//! What this household has earned: what is on the way, what can be claimed, and claiming it.

use alloy_primitives::{Address, hex};
use hearth_api::money::Money;
use hearth_api::runs::{CreditState, CreditView, RewardsClaimed, RewardsView};
use hearth_chain::ledger::LedgerError;
use hearth_protocol::id::AssetId;
use hearth_protocol::ledger::sum_tree::ShownLeaf;
use hearth_protocol::money::Amount;
use hearth_protocol::run::message::AuditOutcome;
use hearth_protocol::run::pay::{self, Credit, PayState};
use thiserror::Error;

use std::sync::PoisonError;

use super::Runs;
use super::settling::{FinalTree, PaidRuns, Settling, SettlingError, ledger_topic};
use crate::advice::Advice;

/// Decimals of Ember.
const EMBER_DECIMALS: u8 = 18;
/// Decimals of Voice.
const VOICE_DECIMALS: u8 = 9;

/// Why rewards cannot be shown or claimed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RewardsError {
    /// They are not known.
    #[error("what was earned is not known here")]
    Settling(#[from] SettlingError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Nothing is there.
    #[error("nothing can be claimed now")]
    Nothing,
    /// The device is not set up for it.
    #[error("this device follows no ledger")]
    NoLedger,
}

impl Advice for RewardsError {
    fn code(&self) -> &str {
        match self {
            Self::Settling(_) => "rewards_unknown",
            Self::Ledger(_) => "ledger",
            Self::Nothing => "nothing_to_claim",
            Self::NoLedger => "no_ledger",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Settling(_) | Self::Ledger(_) => {
                "Try again in a moment, when the network and the chain answer".to_owned()
            }
            Self::Nothing => {
                "See `hearth rewards` for what is on the way: an epoch is recorded after it is over, and can be claimed \
                 once its challenge window has passed"
                    .to_owned()
            }
            Self::NoLedger => {
                "Use the network's chain, or name a ledger in [chains] of config.toml".to_owned()
            }
        }
    }
}

/// A tree of what is final, and how much of it an account has claimed.
struct Due {
    tree: FinalTree,
    asset: Address,
    claimed: Amount,
    claimable: Amount,
}

fn state(state: &PayState) -> CreditState {
    match state {
        PayState::Audited => CreditState::Audited,
        PayState::Vesting { .. } => CreditState::Vesting,
        PayState::Vested => CreditState::Vested,
        PayState::Refused(_) => CreditState::Refused,
        PayState::Forfeited => CreditState::Forfeited,
    }
}

fn why(state: &PayState) -> String {
    match state {
        PayState::Audited => {
            "it was drawn for a replay, and pays once the replay is reported".to_owned()
        }
        PayState::Vesting { rounds_left } => {
            format!("it is paid part by part over the next {rounds_left} rounds")
        }
        PayState::Vested => "all of it is paid".to_owned(),
        PayState::Refused(AuditOutcome::Unavailable) => {
            "nothing: what its replay starts from was not given by the trainer".to_owned()
        }
        PayState::Refused(_) => "nothing: a replay gave other bytes".to_owned(),
        PayState::Forfeited => {
            "no more: a replay of another round gave other bytes, or lacked what the trainer has to give, so what had not vested is gone"
                .to_owned()
        }
    }
}

impl Runs {
    fn settling(&self) -> Result<Settling, RewardsError> {
        let kept = self.0.settling.lock();
        let kept = kept.unwrap_or_else(PoisonError::into_inner).clone();
        kept.ok_or(RewardsError::NoLedger)
    }

    async fn due(&self, settling: &Settling, asset: Address) -> Result<Option<Due>, RewardsError> {
        let ledger = &settling.ledger;
        let now_s = settling.environment.now_ms() / 1_000;
        let epoch = ledger.clock().epoch_at(now_s).unwrap_or_default();
        let Some((epoch, data)) = settling.newest_final(asset, epoch).await? else {
            return Ok(None);
        };
        let topic = settling.network.take_part(ledger_topic(ledger));
        let topic = topic.map_err(SettlingError::from)?;
        let tree = settling.tree(&topic, asset, epoch, data).await?;
        let account = self.0.parts.account;
        let claimed = ledger.claimed(account, asset).await?;
        let earned = tree.tree.cumulative(account).unwrap_or_default();
        Ok(Some(Due {
            tree,
            asset,
            claimed,
            claimable: Amount::new(earned.units().saturating_sub(claimed.units())),
        }))
    }

    /// What this household has earned.
    ///
    /// # Errors
    /// When the ledger or the data of its records cannot be read.
    pub(crate) async fn rewards(&self) -> Result<RewardsView, RewardsError> {
        let settling = self.settling()?;
        let addresses = *settling.ledger.addresses();
        let clock = *settling.ledger.clock();
        let now_s = settling.environment.now_ms() / 1_000;
        let epoch = clock.epoch_at(now_s).unwrap_or_default();
        let account = self.0.parts.account;
        let credits = pay::credits(&self.0.paid_runs(), epoch, clock.epoch_s());
        let credits = credits.map_err(SettlingError::from)?;
        let mine = credits.iter().filter(|credit| credit.account == account);
        let mut view = RewardsView {
            account: account.to_checksum(None),
            epoch,
            final_epoch: None,
            claimable: Vec::new(),
            claimed: Vec::new(),
            credits: mine.map(|credit| self.credit_view(credit)).collect(),
        };
        for asset in [addresses.ember, addresses.voice] {
            if let Some(due) = self.due(&settling, asset).await? {
                view.final_epoch = Some(due.tree.epoch);
                view.claimable.push(self.money(asset, due.claimable));
                view.claimed.push(self.money(asset, due.claimed));
            }
        }
        Ok(view)
    }

    fn credit_view(&self, credit: &Credit) -> CreditView {
        let ember = self.0.parts.ledger.addresses().ember;
        CreditView {
            run: hex::encode(credit.run),
            index: credit.index,
            kind: match credit.is_replay {
                true => "replay",
                false => "contribution",
            }
            .to_owned(),
            trainer: credit.trainer.to_string(),
            whole: self.money(ember, credit.whole),
            vested: self.money(ember, credit.vested),
            state: state(&credit.state),
            why: why(&credit.state),
        }
    }

    fn money(&self, asset: Address, amount: Amount) -> Money {
        let ledger = &self.0.parts.ledger;
        let (symbol, decimals) = match asset == ledger.addresses().voice {
            true => ("VOICE", VOICE_DECIMALS),
            false => ("EMBER", EMBER_DECIMALS),
        };
        let id = AssetId {
            chain: ledger.chain(),
            token: asset,
        };
        Money::of_units(symbol, id.to_string(), decimals, amount.units())
    }

    /// Claims what is final, for this household.
    ///
    /// # Errors
    /// [`RewardsError::Nothing`] where there is nothing; otherwise when the ledger does not take it.
    pub(crate) async fn claim(&self) -> Result<RewardsClaimed, RewardsError> {
        let _claiming = self.0.claiming.lock().await;
        let settling = self.settling()?;
        let addresses = *settling.ledger.addresses();
        let account = self.0.parts.account;
        let mut claimed = Vec::new();
        for asset in [addresses.ember, addresses.voice] {
            let due = self.due(&settling, asset).await?;
            let Some(due) = due.filter(|due| due.claimable.units() > 0) else {
                continue;
            };
            let tree = &due.tree.tree;
            let leaf = tree.cumulative(account).zip(tree.proof(account));
            let Some((cumulative, proof)) = leaf else {
                continue;
            };
            let leaf = ShownLeaf {
                account,
                cumulative,
                proof,
            };
            let call = addresses.claim(due.asset, due.tree.epoch, &leaf);
            settling.ledger.send(&settling.sender, &call).await?;
            claimed.push(self.money(asset, due.claimable));
        }
        match claimed.is_empty() {
            true => Err(RewardsError::Nothing),
            false => Ok(RewardsClaimed { claimed }),
        }
    }
}
