//! Settlement: claims what is due, when it is worth it or when waiting is dangerous.
//!
//! What is claimed is read from the store, never from memory: only a durable voucher is a promise.
//! A claim that was sent is known by its content, so that asking again after a crash repeats
//! nothing. What a refund claimed on its way stays in the contract; it is transferred by the same
//! policy (spec: payments, section 8).
//!
//! Each chain has a loop of its own, so that one that does not answer delays no claim on another.
//! Handing claims to a watchtower goes on beside them, so that one that is slow delays no claim.
//!
//! A voucher that leaves this node is public: the desk notes that before ([`Desk::publish`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use futures::StreamExt;
use futures::future::join_all;
use hearth_causes::WithCauses;
use hearth_chain::client::ChainError;
use hearth_environment::Environment;
use hearth_protocol::channel::provider::ProviderRecord;
use hearth_protocol::claim::{
    ClaimBatch, ClaimPolicy, ClaimReason, gas_price_nano, plan, settle_reason,
};
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::ClaimRow;
use tracing::{info, warn};

use super::desk::{Desk, DeskStopped, PROVIDER_CHANNELS, StoredChannel};
use super::escrow::{Escrow, EscrowError, Escrows};
use super::follower::Followed;
use super::watchtower::{Handover, TowerClient};
use crate::store::{Store, StoreError};

/// How often what is due is looked at.
const PERIOD: Duration = Duration::from_secs(20);
/// How often claims that grew are handed to the watchtower: what a crash of this device and a
/// withdrawal right after it can cost at most is what was charged in between.
const HAND_OVER_PERIOD: Duration = Duration::from_secs(5);
/// Claims that are handed over at once.
const HANDOVERS_AT_ONCE: usize = 8;
/// How often every channel with something due is read where events are followed, so that no fault of
/// an endpoint can hide a withdrawal, in milliseconds. Elsewhere that is each time.
const READ_ALL_MS: u64 = 600_000;
/// Channels that are read from the chain at once.
const READS_AT_ONCE: usize = 8;

/// Claims what is due.
#[derive(Debug, Clone)]
pub struct Settlement {
    store: Store,
    escrows: Escrows,
    desk: Desk,
    policy: ClaimPolicy,
    tower: Option<TowerClient>,
    environment: Arc<dyn Environment>,
    /// When something was first seen that is claimed for a receiver and not transferred to it.
    unsettled_since: Arc<Mutex<BTreeMap<(AssetId, Address), Timestamp>>>,
    followed: Followed,
    /// When the channels of a token were last read one by one.
    read_all_at: Arc<Mutex<BTreeMap<AssetId, Timestamp>>>,
}

/// What the store has of one token.
#[derive(Default)]
struct Ledger {
    /// The channels on which something is due.
    due: BTreeMap<ChannelId, ProviderRecord>,
    /// Everyone who is paid on a channel.
    receivers: BTreeSet<Address>,
}

/// What became of one claim.
#[derive(Debug)]
pub struct ClaimReport {
    /// In which token.
    pub asset: AssetId,
    /// How many channels; 0 where only what was claimed before was transferred to the receiver.
    pub channels: usize,
    /// Why now.
    pub reason: ClaimReason,
    /// The transaction and what it transferred to the receiver; or why there is none.
    pub outcome: Result<(B256, Amount), EscrowError>,
    /// The channels whose rows the chain refused.
    pub dropped: Vec<(ChannelId, String)>,
}

impl Settlement {
    /// Settlement of what `store` holds.
    pub fn new(
        store: Store,
        escrows: Escrows,
        desk: Desk,
        policy: ClaimPolicy,
        tower: Option<TowerClient>,
        environment: Arc<dyn Environment>,
    ) -> Self {
        Self {
            store,
            escrows,
            desk,
            policy,
            tower,
            environment,
            unsettled_since: Arc::default(),
            followed: Followed::default(),
            read_all_at: Arc::default(),
        }
    }

    /// The same beside followers, which tell what happens on the chains of `followed`.
    #[must_use]
    pub fn beside_followers(self, followed: Followed) -> Self {
        Self { followed, ..self }
    }

    /// Looks at what is due again and again, until the future is dropped.
    pub async fn run(self) {
        let claims = self.escrows.iter().map(|escrow| self.keep_claiming(escrow));
        futures::join!(join_all(claims), self.keep_handing_over());
    }

    async fn keep_claiming(&self, escrow: &Escrow) {
        loop {
            match self.claim_on(escrow, false).await {
                Ok(reports) => reports.iter().for_each(log_report),
                Err(error) => warn!(error = %error.with_causes(), "what is due could not be read"),
            }
            self.environment.sleep(PERIOD).await;
        }
    }

    async fn keep_handing_over(&self) {
        let Some(tower) = &self.tower else { return };
        let mut handed_over = BTreeMap::new();
        loop {
            if let Err(error) = self.hand_over(tower, &mut handed_over).await {
                warn!(error = %error.with_causes(), "what to hand to the watchtower could not be read");
            }
            self.environment.sleep(HAND_OVER_PERIOD).await;
        }
    }

    /// The channels of each token of a chain, as they are durable.
    fn ledgers(&self, on: ChainId) -> Result<BTreeMap<AssetId, Ledger>, StoreError> {
        let mut ledgers: BTreeMap<AssetId, Ledger> = BTreeMap::new();
        self.store
            .each(PROVIDER_CHANNELS, |key, stored: StoredChannel| {
                if key.len() != 32 {
                    return;
                }
                let StoredChannel { chain, record, .. } = stored;
                if chain != on {
                    return;
                }
                let token = record.config.token;
                let ledger = ledgers.entry(AssetId { chain, token }).or_default();
                ledger.receivers.insert(record.config.receiver);
                if record.may_be_due() {
                    let channel = ChannelId(B256::from_slice(key));
                    ledger.due.insert(channel, record);
                }
            })?;
        Ok(ledgers)
    }

    /// Claims what should be claimed now, and transfers what was claimed before; everything if
    /// `asked`.
    ///
    /// # Errors
    /// When the store cannot be read. What goes wrong on a chain is in the reports.
    pub async fn claim(&self, asked: bool) -> Result<Vec<ClaimReport>, StoreError> {
        let chains = self
            .escrows
            .iter()
            .map(|escrow| self.claim_on(escrow, asked));
        let reports = join_all(chains).await.into_iter();
        let reports: Vec<Vec<_>> = reports.collect::<Result<_, _>>()?;
        Ok(reports.into_iter().flatten().collect())
    }

    /// The same on one chain.
    async fn claim_on(&self, escrow: &Escrow, asked: bool) -> Result<Vec<ClaimReport>, StoreError> {
        let mut reports = Vec::new();
        for (asset, mut ledger) in self.ledgers(escrow.domain().chain())? {
            if asked || self.should_read_all(asset) {
                self.refresh(escrow, &mut ledger.due).await;
            }
            let policy = match self.priced(escrow, asset).await {
                Ok(policy) => policy,
                Err(error) if asked => {
                    warn!(error = %error.with_causes(), "the price of gas is unknown; claiming whatever it is");
                    self.policy
                }
                Err(error) => {
                    warn!(error = %error.with_causes(), %asset, "the price of gas is unknown, so claims wait");
                    continue;
                }
            };
            let now = self.time_on(escrow, &ledger).await;
            let due = ledger
                .due
                .iter()
                .map(|(channel, record)| (*channel, record));
            for batch in plan(due, &policy, now, asked) {
                reports.push(self.send(asset.chain, escrow, &batch).await);
            }
            for receiver in ledger.receivers {
                let settled = self.settle(escrow, asset, receiver, &policy, asked).await;
                reports.extend(settled);
            }
        }
        Ok(reports)
    }

    /// What time it is for the channels of `ledger`. A withdrawal ends by the chain's clock: where this device's own stands
    /// behind it, the chain's counts.
    async fn time_on(&self, escrow: &Escrow, ledger: &Ledger) -> Timestamp {
        let now = Timestamp(self.environment.now_ms());
        let withdraws = |record: &ProviderRecord| {
            let onchain = record.onchain.unwrap_or_default();
            onchain.withdraw_requested_at != 0
        };
        if !ledger.due.values().any(withdraws) {
            return now;
        }
        match escrow.client().head().await {
            Ok(head) => now.max(Timestamp::from_secs(head.timestamp_s)),
            Err(error) => {
                warn!(error = %error.with_causes(), "the chain's time could not be read");
                now
            }
        }
    }

    /// Whether the channels of a token should be read one by one now.
    fn should_read_all(&self, asset: AssetId) -> bool {
        let now = Timestamp(self.environment.now_ms());
        // Times are whole after any panic.
        let mut read_all_at = self
            .read_all_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_time = read_all_at
            .get(&asset)
            .is_none_or(|last| *last > now || now.ms_since(*last) >= READ_ALL_MS);
        let should = self.followed.may_have_missed(asset.chain, now) || is_time;
        if should {
            read_all_at.insert(asset, now);
        }
        should
    }

    /// The policy with what gas costs now in `asset`. Where nobody said what the chain's coin is
    /// worth, the policy's own price of gas stands.
    async fn priced(&self, escrow: &Escrow, asset: AssetId) -> Result<ClaimPolicy, ChainError> {
        let Some(worth) = self.escrows.coin_worth(asset) else {
            return Ok(self.policy);
        };
        let gas_price_wei = escrow.client().gas_price().await?;
        Ok(ClaimPolicy {
            gas_price_nano: gas_price_nano(gas_price_wei, worth),
            ..self.policy
        })
    }

    /// Transfers to a receiver what is claimed for it and still in the contract, if there is a
    /// reason to.
    async fn settle(
        &self,
        escrow: &Escrow,
        asset: AssetId,
        receiver: Address,
        policy: &ClaimPolicy,
        asked: bool,
    ) -> Option<ClaimReport> {
        let unsettled = match escrow.unsettled(receiver, asset.token).await {
            Ok(unsettled) => unsettled,
            Err(error) => {
                warn!(error = %error.with_causes(), %asset, "what is left to transfer could not be read");
                return None;
            }
        };
        let now = Timestamp(self.environment.now_ms());
        let since = self.unsettled_since(asset, receiver, unsettled, now);
        let reason = settle_reason(unsettled, since, policy, now, asked)?;
        let outcome = match escrow.settle(receiver, asset.token).await {
            Ok(Some(settled)) => Ok(settled),
            // Somebody else transferred it in between.
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        Some(ClaimReport {
            asset,
            channels: 0,
            reason,
            outcome,
            dropped: Vec::new(),
        })
    }

    /// Since when something is left to transfer to a receiver.
    fn unsettled_since(
        &self,
        asset: AssetId,
        receiver: Address,
        unsettled: Amount,
        now: Timestamp,
    ) -> Timestamp {
        // Times are whole after any panic.
        let mut since = self
            .unsettled_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unsettled.is_zero() {
            since.remove(&(asset, receiver));
            return now;
        }
        *since.entry((asset, receiver)).or_insert(now)
    }

    /// Brings the chain's side of the records up to date, as far as the chain can be read.
    async fn refresh(&self, escrow: &Escrow, records: &mut BTreeMap<ChannelId, ProviderRecord>) {
        let channels: Vec<_> = records.keys().copied().collect();
        let mut reads = futures::stream::iter(channels)
            .map(|channel| async move { (channel, escrow.look(channel).await) })
            .buffer_unordered(READS_AT_ONCE);
        while let Some((channel, read)) = reads.next().await {
            match read {
                Ok(reading) => {
                    if let Some(record) = records.get_mut(&channel) {
                        record.onchain = Some(reading.0);
                    }
                    // A desk that has stopped hears it when it starts again.
                    let _ = self.desk.observe(channel, reading);
                }
                Err(error) => {
                    warn!(error = %error.with_causes(), %channel, "a channel could not be read")
                }
            }
        }
    }

    /// Notes that the vouchers of these rows leave this node.
    async fn publish<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a (ChannelId, ClaimRow)>,
    ) -> Result<(), DeskStopped> {
        for (channel, row) in rows {
            let max_claimable = row.voucher.max_claimable_amount;
            self.desk.publish(*channel, max_claimable).await?;
        }
        Ok(())
    }

    async fn send(&self, chain: ChainId, escrow: &Escrow, batch: &ClaimBatch) -> ClaimReport {
        let claimed = match self.publish(&batch.rows).await {
            Ok(()) => escrow.claim(batch).await,
            Err(error) => Err(error.into()),
        };
        let (outcome, dropped) = match claimed {
            Ok(claimed) => (Ok((claimed.transaction, claimed.settled)), claimed.dropped),
            Err(error) => (Err(error), Vec::new()),
        };
        let left: BTreeSet<_> = dropped.iter().map(|(channel, _)| *channel).collect();
        if outcome.is_ok() {
            for (channel, _) in batch
                .rows
                .iter()
                .filter(|(channel, _)| !left.contains(channel))
            {
                if let Ok(reading) = escrow.look(*channel).await {
                    let _ = self.desk.observe(*channel, reading);
                }
            }
        }
        let token = batch.token;
        ClaimReport {
            asset: AssetId { chain, token },
            channels: batch.rows.len(),
            reason: batch.reason,
            outcome,
            dropped,
        }
    }

    /// Gives every claim that grew since the last time to the watchtower.
    async fn hand_over(
        &self,
        tower: &TowerClient,
        handed_over: &mut BTreeMap<ChannelId, Amount>,
    ) -> Result<(), StoreError> {
        let mut grown = Vec::new();
        let mut unclaimed = BTreeSet::new();
        for escrow in self.escrows.iter() {
            let chain = escrow.domain().chain();
            let due = self.ledgers(chain)?.into_values();
            for (channel, record) in due.flat_map(|ledger| ledger.due) {
                unclaimed.insert(channel);
                let row = record.claim_row();
                let row = row.filter(|row| handed_over.get(&channel) != Some(&row.total_claimed));
                grown.extend(row.map(|row| (Arc::clone(escrow), (channel, row))));
            }
        }
        // A channel that is claimed needs no place here.
        handed_over.retain(|channel, _| unclaimed.contains(channel));
        let mut sent = futures::stream::iter(grown)
            .map(|(escrow, (channel, row))| async move {
                // A desk that has stopped has nothing to hand over any more.
                if self.publish(&[(channel, row)]).await.is_err() {
                    std::future::pending::<()>().await;
                }
                let handover = Handover::new(escrow.domain().chain(), &escrow, row);
                (channel, row.total_claimed, tower.hand_over(&handover).await)
            })
            .buffer_unordered(HANDOVERS_AT_ONCE);
        while let Some((channel, total_claimed, outcome)) = sent.next().await {
            match outcome {
                Ok(()) => {
                    handed_over.insert(channel, total_claimed);
                }
                Err(error) => {
                    warn!(error = %error.with_causes(), %channel, "the watchtower did not take a claim")
                }
            }
        }
        Ok(())
    }
}

fn log_report(report: &ClaimReport) {
    let ClaimReport {
        asset,
        channels,
        reason,
        outcome,
        ..
    } = report;
    match outcome {
        Ok((transaction, settled)) => {
            info!(%asset, channels, ?reason, %transaction, %settled, "claimed");
        }
        Err(error) => {
            warn!(%asset, channels, ?reason, error = %error.with_causes(), "a claim failed")
        }
    }
}
