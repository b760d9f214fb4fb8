//! Settlement: claims what is due, when it is worth it or when waiting is dangerous.
//!
//! What is claimed is read from the store, never from memory: only a durable voucher is a promise.
//! A claim that was sent is known by its content, so that asking again after a crash repeats
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use futures::StreamExt;
use hearth_chain::client::Environment;
use hearth_protocol::channel::provider::Record;
use hearth_protocol::claim::{ClaimBatch, ClaimPolicy, ClaimReason, plan};
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use tracing::{info, warn};

use super::desk::{Desk, StoredChannel};
use super::escrow::{Escrow, EscrowError, Escrows};
use super::watchtower::{Handover, TowerClient};
use crate::store::{Store, StoreError, Table};

/// How often what is due is looked at.
const PERIOD: Duration = Duration::from_secs(20);
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
}

/// What became of one claim.
#[derive(Debug)]
pub struct ClaimReport {
    /// On which chain.
    pub chain: ChainId,
    /// How many channels.
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
        }
    }

    /// Looks at what is due again and again, until the future is dropped.
    pub async fn run(self) {
        let mut handed_over = BTreeMap::new();
        loop {
            match self.claim(false).await {
                Ok(reports) => reports.iter().for_each(log_report),
                Err(error) => warn!(%error, "what is due could not be read"),
            }
            if let Some(tower) = &self.tower
                && let Err(error) = self.hand_over(tower, &mut handed_over).await
            {
                warn!(%error, "claims could not be handed to the watchtower");
            }
            self.environment.sleep(PERIOD).await;
        }
    }

    /// The channels on each chain, as they are durable.
    fn records(&self) -> Result<BTreeMap<ChainId, BTreeMap<ChannelId, Record>>, StoreError> {
        let mut chains: BTreeMap<ChainId, BTreeMap<ChannelId, Record>> = BTreeMap::new();
        self.store
            .each(Table::ProviderChannels, |key, stored: StoredChannel| {
                if key.len() == 32 && !stored.record.unclaimed().is_zero() {
                    let channel = ChannelId(B256::from_slice(key));
                    chains
                        .entry(stored.chain)
                        .or_default()
                        .insert(channel, stored.record);
                }
            })?;
        Ok(chains)
    }

    /// Claims what should be claimed now; everything that is due if `asked`.
    ///
    /// # Errors
    /// When the store cannot be read. What goes wrong on a chain is in the reports.
    pub async fn claim(&self, asked: bool) -> Result<Vec<ClaimReport>, StoreError> {
        let mut reports = Vec::new();
        for (chain, mut records) in self.records()? {
            let Some(escrow) = self.escrows.get(chain) else {
                continue;
            };
            self.refresh(&escrow, &mut records).await;
            let now = Timestamp(self.environment.now_ms());
            let batches = plan(
                records.iter().map(|(channel, record)| (*channel, record)),
                &self.policy,
                now,
                asked,
            );
            for batch in batches {
                reports.push(self.send(chain, &escrow, &batch).await);
            }
        }
        Ok(reports)
    }

    /// Brings the chain's side of the records up to date, as far as the chain can be read.
    async fn refresh(&self, escrow: &Escrow, records: &mut BTreeMap<ChannelId, Record>) {
        let channels: Vec<_> = records.keys().copied().collect();
        let mut reads = futures::stream::iter(channels)
            .map(|channel| async move { (channel, escrow.read(channel).await) })
            .buffer_unordered(READS_AT_ONCE);
        while let Some((channel, read)) = reads.next().await {
            match read {
                Ok(state) => {
                    if let Some(record) = records.get_mut(&channel) {
                        record.onchain = Some(state);
                    }
                    // A desk that has stopped hears it when it starts again.
                    let _ = self.desk.observe(channel, state);
                }
                Err(error) => warn!(%error, %channel, "a channel could not be read"),
            }
        }
    }

    async fn send(&self, chain: ChainId, escrow: &Escrow, batch: &ClaimBatch) -> ClaimReport {
        let (outcome, dropped) = match escrow.claim(batch).await {
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
                if let Ok(state) = escrow.read(*channel).await {
                    let _ = self.desk.observe(*channel, state);
                }
            }
        }
        ClaimReport {
            chain,
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
        for (chain, records) in self.records()? {
            let Some(escrow) = self.escrows.get(chain) else {
                continue;
            };
            for (channel, record) in records {
                let Some(row) = record.claim_row() else {
                    continue;
                };
                if handed_over.get(&channel) == Some(&row.total_claimed) {
                    continue;
                }
                let handover = Handover::new(chain, &escrow, row);
                match tower.hand_over(&handover).await {
                    Ok(()) => {
                        handed_over.insert(channel, row.total_claimed);
                    }
                    Err(error) => warn!(%error, %channel, "the watchtower did not take a claim"),
                }
            }
        }
        Ok(())
    }
}

fn log_report(report: &ClaimReport) {
    let ClaimReport {
        chain,
        channels,
        reason,
        outcome,
        ..
    } = report;
    match outcome {
        Ok((transaction, settled)) => {
            info!(%chain, channels, ?reason, %transaction, %settled, "claimed");
        }
        Err(error) => warn!(%chain, channels, ?reason, %error, "a claim failed"),
    }
}
