//! What this household has earned: what is on the way, what can be claimed, and claiming it.

use std::sync::PoisonError;
use std::time::Duration;

use alloy_primitives::{Address, hex};
use hearth_api::money::Money;
use hearth_api::runs::{ClaimProblem, CreditState, CreditView, RewardsClaimed, RewardsView};
use hearth_causes::WithCauses;
use hearth_chain::ledger::LedgerError;
use hearth_net::Topic;
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::AssetId;
use hearth_protocol::ledger::sum_tree::ShownLeaf;
use hearth_protocol::money::Amount;
use hearth_protocol::run::message::AuditOutcome;
use hearth_protocol::run::pay::{self, Credit, PayState};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Runs;
use super::funding::ShownAsset;
use super::settling::{FinalTree, PaidRuns, Settling, SettlingError, ledger_topic};
use crate::advice::Advice;

/// How long an order waits for devices that give the data of records.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long between two tries.
const AGAIN: Duration = Duration::from_millis(500);

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
            Self::Settling(error) if error.may_come() => {
                "Let this device stay up, and ask again in a minute: the data of the record are at other devices of the \
                 ledger, which are not there, or have just started"
                    .to_owned()
            }
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
    claimed: Amount,
    claimable: Amount,
}

impl Due {
    fn is_nothing(&self) -> bool {
        self.claimed.is_zero() && self.claimable.is_zero()
    }
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

    /// What is due in an asset. Where nobody gives its record, somebody is waited for until then.
    async fn due(
        &self,
        settling: &Settling,
        asset: Address,
        until: Instant,
    ) -> Result<Option<Due>, RewardsError> {
        let ledger = &settling.ledger;
        let now_s = settling.environment.now_ms() / 1_000;
        let epoch = ledger.clock().epoch_at(now_s).unwrap_or_default();
        let Some((epoch, data)) = settling.newest_final(asset, epoch).await? else {
            return Ok(None);
        };
        let topic = settling.network.take_part(ledger_topic(ledger));
        let topic = topic.map_err(SettlingError::from)?;
        let tree = tree_until(until, settling, &topic, (asset, epoch, data)).await?;
        let account = self.0.parts.account;
        let claimed = ledger.claimed(account, asset).await?;
        let earned = tree.tree.cumulative(account).unwrap_or_default();
        Ok(Some(Due {
            tree,
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
        let clock = *settling.ledger.clock();
        let now_s = settling.environment.now_ms() / 1_000;
        let epoch = clock.epoch_at(now_s).unwrap_or_default();
        let account = self.0.parts.account;
        let mut view = RewardsView {
            account: account.to_checksum(None),
            epoch,
            final_epoch: None,
            claimable: Vec::new(),
            claimed: Vec::new(),
            credits: self.credits(epoch, clock.epoch_s()).await?,
            problems: Vec::new(),
        };
        let addresses = *settling.ledger.addresses();
        let until = Instant::now() + PATIENCE;
        for asset in settling.recorded_assets().await? {
            let due = match self.due(&settling, asset, until).await {
                Ok(due) => due,
                Err(error) if ![addresses.ember, addresses.voice].contains(&asset) => {
                    view.problems.push(problem(&settling, asset, &error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(due) = due {
                view.final_epoch = view.final_epoch.max(Some(due.tree.epoch));
                if due.is_nothing() {
                    continue;
                }
                let shown = self.asset(asset).await?;
                view.claimable.push(shown.money(due.claimable));
                view.claimed.push(shown.money(due.claimed));
            }
        }
        Ok(view)
    }

    /// What this household's work is paid, by the emission and by pledges.
    async fn credits(&self, epoch: u64, epoch_s: u64) -> Result<Vec<CreditView>, RewardsError> {
        let account = self.0.parts.account;
        let paid = self.0.paid_runs();
        let ember = self.asset(self.0.parts.ledger.addresses().ember).await?;
        let mine = |credits: Vec<Credit>| {
            let mine = move |credit: &Credit| credit.account == account;
            credits.into_iter().filter(mine)
        };
        let credits = pay::credits(&paid, epoch, epoch_s).map_err(SettlingError::from)?;
        let mut views: Vec<_> = mine(credits)
            .map(|credit| credit_view(&credit, &ember, kind(&credit)))
            .collect();
        for token in pay::released_tokens(&paid, epoch) {
            let shown = self.asset(token).await?;
            let credits = pay::pledge_credits(&paid, token, epoch, epoch_s);
            let credits = mine(credits.map_err(SettlingError::from)?);
            views.extend(credits.map(|credit| credit_view(&credit, &shown, "pledge")));
        }
        Ok(views)
    }

    /// Claims what is final, for this household. One asset that cannot be claimed does not stand in the way of others.
    ///
    /// # Errors
    /// [`RewardsError::Nothing`] where there is nothing; otherwise when the ledger takes none of it.
    pub(crate) async fn claim(&self) -> Result<RewardsClaimed, RewardsError> {
        let _claiming = self.0.claiming.lock().await;
        let settling = self.settling()?;
        let mut done = RewardsClaimed {
            claimed: Vec::new(),
            problems: Vec::new(),
        };
        let mut failed = None;
        let until = Instant::now() + PATIENCE;
        for asset in settling.recorded_assets().await? {
            match self.claim_in(&settling, asset, until).await {
                Ok(claimed) => done.claimed.extend(claimed),
                Err(error) => {
                    done.problems.push(problem(&settling, asset, &error));
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if done.claimed.is_empty() => Err(error),
            None if done.claimed.is_empty() => Err(RewardsError::Nothing),
            _ => Ok(done),
        }
    }

    /// Claims what is final in one asset; nothing where nothing is.
    async fn claim_in(
        &self,
        settling: &Settling,
        asset: Address,
        until: Instant,
    ) -> Result<Option<Money>, RewardsError> {
        let account = self.0.parts.account;
        let due = self.due(settling, asset, until).await?;
        let Some(due) = due.filter(|due| due.claimable.units() > 0) else {
            return Ok(None);
        };
        let tree = &due.tree.tree;
        let leaf = tree.cumulative(account).zip(tree.proof(account));
        let Some((cumulative, proof)) = leaf else {
            return Ok(None);
        };
        let leaf = ShownLeaf {
            account,
            cumulative,
            proof,
        };
        let shown = self.asset(asset).await?;
        let addresses = settling.ledger.addresses();
        let call = addresses.claim(asset, due.tree.epoch, &leaf);
        settling.ledger.send(&settling.sender, &call).await?;
        Ok(Some(shown.money(due.claimable)))
    }
}

/// The tree of a final record. Where nobody gives its data it is asked for again, until then: those who keep it may have
/// just started, and so may this device, which then knows nobody yet.
async fn tree_until(
    until: Instant,
    settling: &Settling,
    topic: &Topic,
    (asset, epoch, data): (Address, u64, ContentHash),
) -> Result<FinalTree, SettlingError> {
    loop {
        match settling.tree(topic, asset, epoch, data).await {
            Err(error) if error.may_come() && Instant::now() < until => {
                debug!(error = %error.with_causes(), epoch, "the data of a record of rewards are asked for again");
                sleep(AGAIN).await;
            }
            tree => return tree,
        }
    }
}

fn problem(settling: &Settling, asset: Address, error: &RewardsError) -> ClaimProblem {
    let id = AssetId {
        chain: settling.ledger.chain(),
        token: asset,
    };
    ClaimProblem {
        asset: id.to_string(),
        problem: error.with_causes().to_string(),
    }
}

fn kind(credit: &Credit) -> &'static str {
    match credit.is_replay {
        true => "replay",
        false => "contribution",
    }
}

fn credit_view(credit: &Credit, asset: &ShownAsset, kind: &str) -> CreditView {
    CreditView {
        run: hex::encode(credit.run),
        index: credit.index,
        kind: kind.to_owned(),
        trainer: credit.trainer.to_string(),
        whole: asset.money(credit.whole),
        vested: asset.money(credit.vested),
        state: state(&credit.state),
        why: why(&credit.state),
    }
}
