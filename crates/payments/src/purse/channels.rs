//! The channels from which this node pays: one request at a time on each, several side by side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::B256;
use hearth_protocol::channel::OnchainState;
use hearth_protocol::channel::payer::{Outcome, PayerChannel, PayerRecord, Promise, Status};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain};
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{
    AssetLimit, AuthorizationOutlay, AuthorizationReservation, ChannelOutlay, Declined, Outlays,
    PromiseReservation, Promised, SeenChannel,
};
use hearth_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::store::{Batch, Store, StoreError, Table};

/// The channels from which this node pays, by channel id.
pub const PAYER_CHANNELS: Table<StoredPayerChannel> = Table::own("payer_channels");
/// What earlier versions counted as spent, by day and token.
const SPENT: Table<Amount> = Table::own("spent");
/// What counts of each channel, by channel id.
const OUTLAYS: Table<ChannelOutlay> = Table::own("outlays");
/// One-off payments that this node signed, by their nonce.
const AUTHORIZED: Table<AuthorizationOutlay> = Table::own("authorized");

/// Channels that are opened with one provider at most, for requests side by side.
pub const CHANNELS_PER_PROVIDER_MAX: usize = 8;

/// How often the chains are asked at most what counts no more, in milliseconds.
const RECOUNT_EVERY_MS: u64 = 5_000;

/// A channel as it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredPayerChannel {
    /// The chain.
    pub chain: ChainId,
    /// Where it was opened: the address that was asked.
    pub url: String,
    /// What must not be forgotten.
    pub record: PayerRecord,
}

/// A channel, for people.
#[derive(Debug, Clone)]
pub struct ChannelView {
    /// Its id.
    pub channel: ChannelId,
    /// What is known of it.
    pub stored: StoredPayerChannel,
}

#[derive(Debug)]
struct Slot {
    chain: ChainId,
    url: String,
    /// `None` while a request holds it.
    channel: Option<PayerChannel>,
    config: ChannelConfig,
    open: bool,
    /// It is held for a moment only, and worth waiting for.
    amending: bool,
}

#[derive(Debug)]
struct Shared {
    slots: Mutex<BTreeMap<ChannelId, Slot>>,
    /// What was signed, and what counts of it.
    outlays: Mutex<Outlays>,
    /// When the chains were last asked what counts no more, in milliseconds.
    recounted_at_ms: AtomicU64,
    freed: Notify,
    store: Store,
}

/// The channels of a purse. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Channels(Arc<Shared>);

/// A channel that a request holds; it goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    channels: Channels,
    channel: Option<PayerChannel>,
    chain: ChainId,
    url: String,
    /// Room within the limits for what is about to be signed.
    reserved: Option<PromiseReservation>,
}

/// What the chain has of a channel as of a block that no longer goes away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sure {
    /// Everything that was put in, less what went back.
    pub(super) balance: Amount,
    /// The time of that block, in seconds.
    pub(super) at_s: u64,
}

/// Whether two configurations differ in their salt alone.
fn same_but_salt(one: &ChannelConfig, other: &ChannelConfig) -> bool {
    ChannelConfig {
        salt: B256::ZERO,
        ..*one
    } == ChannelConfig {
        salt: B256::ZERO,
        ..*other
    }
}

/// What an earlier version counted, on the newest day that it has.
fn counted_before(store: &Store) -> Result<(u64, BTreeMap<AssetId, Amount>), StoreError> {
    let mut spent: (u64, BTreeMap<AssetId, Amount>) = (0, BTreeMap::new());
    store.each(SPENT, |key, amount: Amount| {
        let (day, asset) = key.split_at(key.len().min(8));
        let day = u64::from_be_bytes(day.try_into().unwrap_or_default());
        let asset = std::str::from_utf8(asset).ok();
        let asset = asset.and_then(|asset| asset.parse().ok());
        if let Some(asset) = asset.filter(|_| day >= spent.0) {
            if day > spent.0 {
                spent = (day, BTreeMap::new());
            }
            spent.1.insert(asset, amount);
        }
    })?;
    Ok(spent)
}

/// What counts of a channel that an earlier version opened: up to its highest voucher everything was counted.
fn adopted(stored: &StoredPayerChannel) -> ChannelOutlay {
    let StoredPayerChannel { chain, record, .. } = stored;
    ChannelOutlay {
        asset: AssetId {
            chain: *chain,
            token: record.config.token,
        },
        day: 0,
        today: Amount::ZERO,
        level: record.promised(),
        deposited_today: Amount::ZERO,
        locked: record.refundable(),
        pending: Amount::ZERO,
        pending_until_s: 0,
    }
}

fn outlays(store: &Store) -> Result<Outlays, StoreError> {
    let mut channels = BTreeMap::new();
    store.each(PAYER_CHANNELS, |key, stored: StoredPayerChannel| {
        if key.len() == 32 {
            channels.insert(ChannelId(B256::from_slice(key)), adopted(&stored));
        }
    })?;
    store.each(OUTLAYS, |key, row: ChannelOutlay| {
        if key.len() == 32 {
            channels.insert(ChannelId(B256::from_slice(key)), row);
        }
    })?;
    let mut authorizations = BTreeMap::new();
    store.each(AUTHORIZED, |key, row: AuthorizationOutlay| {
        if key.len() == 32 {
            authorizations.insert(B256::from_slice(key), row);
        }
    })?;
    let before = counted_before(store)?;
    Ok(Outlays::restore(channels, authorizations, before))
}

impl Channels {
    pub(super) fn load(store: Store) -> Result<Self, StoreError> {
        let mut slots = BTreeMap::new();
        store.each(PAYER_CHANNELS, |key, stored: StoredPayerChannel| {
            if key.len() == 32 {
                let id = ChannelId(B256::from_slice(key));
                slots.insert(id, Slot::new(id, stored));
            }
        })?;
        let outlays = Mutex::new(outlays(&store)?);
        Ok(Self(Arc::new(Shared {
            slots: Mutex::new(slots),
            outlays,
            recounted_at_ms: AtomicU64::new(0),
            freed: Notify::new(),
            store,
        })))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Slot>> {
        // Channels are put back whole or not at all, so a panic elsewhere leaves the map whole.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outlays(&self) -> MutexGuard<'_, Outlays> {
        // Each step counts before it does anything else, so after a panic at most too much counts.
        let outlays = self.0.outlays.lock();
        outlays.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> Result<Vec<ChannelView>, StoreError> {
        let mut views = Vec::new();
        self.0.store.each(PAYER_CHANNELS, |key, stored| {
            if key.len() == 32 {
                views.push(ChannelView {
                    channel: ChannelId(B256::from_slice(key)),
                    stored,
                });
            }
        })?;
        Ok(views)
    }

    /// What counts as spent today of a token.
    pub(super) fn spent_today(&self, asset: AssetId, now: Timestamp) -> Amount {
        self.outlays().spent_today(asset, now)
    }

    /// Finds room for a one-off payment, and counts it.
    pub(super) fn reserve_authorization(
        &self,
        asset: AssetId,
        amount: Amount,
        limit: &AssetLimit,
        now: Timestamp,
    ) -> Result<AuthorizationReservation, Declined> {
        let mut outlays = self.outlays();
        outlays.reserve_authorization(asset, amount, limit, now)
    }

    /// Gives the room for a one-off payment back.
    pub(super) fn release_authorization(&self, reserved: AuthorizationReservation) {
        self.outlays().release_authorization(reserved);
    }

    /// Makes a one-off payment durable before it leaves, and forgets those that are over.
    pub(super) async fn save_authorized(
        &self,
        reserved: AuthorizationReservation,
        nonce: B256,
        valid_before_s: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        {
            let mut outlays = self.outlays();
            let (row, over) = outlays.authorized(reserved, nonce, valid_before_s, now);
            batch.put(AUTHORIZED, nonce.as_slice(), &row)?;
            for over in over {
                batch.remove(AUTHORIZED, over.as_slice());
            }
        }
        self.0.store.commit(batch).await
    }

    /// The channels of a token of which the chain may say that less counts.
    pub(super) fn recountable(&self, asset: AssetId) -> Vec<ChannelId> {
        self.outlays().recountable(asset)
    }

    /// Whether the chains may be asked again what counts no more, at `now`.
    pub(super) fn may_recount(&self, now: Timestamp) -> bool {
        let at = &self.0.recounted_at_ms;
        let last = at.load(Ordering::Relaxed);
        let is_due = now.0.abs_diff(last) >= RECOUNT_EVERY_MS;
        // Of several at once, one asks.
        is_due
            && at
                .compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// The one-off payments of a token that may yet be used.
    pub(super) fn outstanding(&self, asset: AssetId) -> Vec<(B256, AuthorizationOutlay)> {
        self.outlays().outstanding(asset)
    }

    /// Takes that the chain had a one-off payment as unused at `at_s`.
    pub(super) async fn unused(&self, nonce: B256, at_s: u64) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        if self.outlays().unused(nonce, at_s) {
            batch.remove(AUTHORIZED, nonce.as_slice());
        }
        self.0.store.commit(batch).await
    }

    /// Takes a free channel with the provider that `config` names, or a new one with its salt;
    /// waits if there are as many as may be and all are in use.
    pub(super) async fn take(
        &self,
        domain: &SettlementDomain,
        config: ChannelConfig,
        url: &str,
    ) -> Result<Held, StoreError> {
        loop {
            let freed = self.0.freed.notified();
            if let Some(held) = self.try_take(domain, config, url) {
                return Ok(held);
            }
            freed.await;
        }
    }

    fn try_take(
        &self,
        domain: &SettlementDomain,
        config: ChannelConfig,
        url: &str,
    ) -> Option<Held> {
        let mut slots = self.slots();
        let (mut count, mut amending) = (0, false);
        for slot in slots.values_mut() {
            let fits =
                slot.open && slot.chain == domain.chain() && same_but_salt(&slot.config, &config);
            if !fits {
                continue;
            }
            count += 1;
            amending |= slot.amending;
            if slot.channel.as_ref().is_some_and(PayerChannel::is_ready) {
                let channel = slot.channel.take()?;
                return Some(Held::new(self, channel, slot.chain, slot.url.clone()));
            }
        }
        if amending || count >= CHANNELS_PER_PROVIDER_MAX {
            return None;
        }
        Some(self.insert(&mut slots, domain, PayerRecord::new(config), url))
    }

    fn insert(
        &self,
        slots: &mut BTreeMap<ChannelId, Slot>,
        domain: &SettlementDomain,
        record: PayerRecord,
        url: &str,
    ) -> Held {
        let config = record.config;
        let id = domain.channel_id(&config);
        let channel = PayerChannel::new(id, record);
        let (chain, url) = (domain.chain(), url.to_owned());
        slots.insert(
            id,
            Slot {
                chain,
                url: url.clone(),
                channel: None,
                config,
                open: true,
                amending: false,
            },
        );
        Held::new(self, channel, chain, url)
    }

    /// A new channel into which a deposit is about to be put; none if there are as many with the provider as may be.
    pub(super) fn add(
        &self,
        domain: &SettlementDomain,
        config: ChannelConfig,
        url: &str,
    ) -> Option<Held> {
        let mut slots = self.slots();
        let fits = |slot: &&Slot| {
            slot.open && slot.chain == domain.chain() && same_but_salt(&slot.config, &config)
        };
        if slots.values().filter(fits).count() >= CHANNELS_PER_PROVIDER_MAX {
            return None;
        }
        let record = PayerRecord {
            deposit_in_doubt: true,
            ..PayerRecord::new(config)
        };
        Some(self.insert(&mut slots, domain, record, url))
    }

    /// Takes no more payments on a channel whose rest the payer is about to withdraw, durably.
    pub(super) async fn begin_withdrawal(&self, id: ChannelId) -> Result<(), StoreError> {
        // Where nothing is left beyond what was charged, nothing more can be paid either.
        self.amend(id, |channel| {
            channel.is_ready() && channel.prepare_refund().is_ok()
        })
        .await
    }

    /// Takes a channel with the provider that `config` names, if there is one with something left.
    pub(super) fn find(
        &self,
        domain: &SettlementDomain,
        config: &ChannelConfig,
        wanted: Option<ChannelId>,
    ) -> Option<Held> {
        let mut slots = self.slots();
        let (_, slot) = slots.iter_mut().find(|(id, slot)| {
            slot.chain == domain.chain()
                && same_but_salt(&slot.config, config)
                && wanted.is_none_or(|wanted| wanted == **id)
                && slot
                    .channel
                    .as_ref()
                    .is_some_and(|channel| !channel.record().refundable().is_zero())
        })?;
        let channel = slot.channel.take()?;
        Some(Held::new(self, channel, slot.chain, slot.url.clone()))
    }

    /// Comes down to the true charge that the end of a stream stated.
    pub(super) async fn correct_down(
        &self,
        id: ChannelId,
        charged_total: Amount,
    ) -> Result<(), StoreError> {
        self.amend(id, |channel| {
            channel.correct_down(charged_total);
            true
        })
        .await
    }

    /// Takes what the chain says of a channel that no request holds: now, and for sure.
    pub(super) async fn observe(
        &self,
        id: ChannelId,
        onchain: &OnchainState,
        sure: Option<Sure>,
    ) -> Result<(), StoreError> {
        let Some(mut held) = self.hold(id) else {
            return Ok(());
        };
        held.channel().observe(onchain);
        held.save().await?;
        match sure {
            Some(sure) => held.lower(sure).await,
            None => Ok(()),
        }
    }

    /// Writes a channel, and what counts of it.
    fn writing(&self, id: ChannelId, stored: &StoredPayerChannel) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        batch.put(PAYER_CHANNELS, id.0.as_slice(), stored)?;
        let record = &stored.record;
        let kept = self.outlays().keep(id, record.refundable());
        if let Some(row) = kept {
            batch.put(OUTLAYS, id.0.as_slice(), &row)?;
        }
        Ok(batch)
    }

    /// Takes a channel to change what is on record of it; nothing where a request holds it: what comes of that request
    /// puts it right. It is held until the change is durable, so that no older state can be written after a newer one.
    fn hold(&self, id: ChannelId) -> Option<Held> {
        let mut slots = self.slots();
        let slot = slots.get_mut(&id)?;
        let channel = slot.channel.take()?;
        slot.amending = true;
        Some(Held::new(self, channel, slot.chain, slot.url.clone()))
    }

    /// Changes a channel durably, where `change` says that there is something to keep.
    async fn amend(
        &self,
        id: ChannelId,
        change: impl FnOnce(&mut PayerChannel) -> bool,
    ) -> Result<(), StoreError> {
        let Some(mut held) = self.hold(id) else {
            return Ok(());
        };
        if !change(held.channel()) {
            return Ok(());
        }
        held.save().await
    }
}

impl Slot {
    fn new(id: ChannelId, stored: StoredPayerChannel) -> Self {
        let config = stored.record.config;
        let open = stored.record.status == Status::Open;
        let channel = Some(PayerChannel::new(id, stored.record));
        Self {
            chain: stored.chain,
            url: stored.url,
            channel,
            config,
            open,
            amending: false,
        }
    }
}

impl Held {
    fn new(channels: &Channels, channel: PayerChannel, chain: ChainId, url: String) -> Self {
        Self {
            channels: channels.clone(),
            channel: Some(channel),
            chain,
            url,
            reserved: None,
        }
    }

    pub(super) fn channel(&mut self) -> &mut PayerChannel {
        self.channel
            .as_mut()
            .expect("a channel is held until it is dropped")
    }

    /// Finds room within the limits for a promise, and counts it. Returns what it adds to what can be
    /// taken. Nothing is signed yet.
    pub(super) fn reserve(
        &mut self,
        asset: AssetId,
        promise: &Promise,
        limit: &AssetLimit,
        now: Timestamp,
    ) -> Result<Amount, Declined> {
        self.release();
        let channel = self.channel();
        let promised = Promised {
            channel: channel.id(),
            asset,
            signed: channel.record().promised(),
            max_claimable: promise.max_claimable,
            deposit: promise.deposit,
        };
        let reserved = self
            .channels
            .outlays()
            .reserve_promise(promised, limit, now)?;
        let amount = reserved.amount();
        self.reserved = Some(reserved);
        Ok(amount)
    }

    /// Gives the room back: nothing was signed.
    pub(super) fn release(&mut self) {
        if let Some(reserved) = self.reserved.take() {
            self.channels.outlays().release_promise(reserved);
        }
    }

    /// Counts what was signed for good, and makes it durable before it leaves.
    pub(super) async fn save_signed(&mut self, now: Timestamp) -> Result<(), StoreError> {
        // Counted before anything is awaited: a caller that gives up waiting has signed all the same.
        if let Some(reserved) = self.reserved.take() {
            self.channels.outlays().promised(reserved, now);
        }
        self.save().await
    }

    /// Forgets a channel on which nothing was signed and nothing is on record.
    pub(super) fn discard(mut self) {
        if let Some(channel) = self.channel.take() {
            self.channels.slots().remove(&channel.id());
            self.channels.0.freed.notify_waiters();
        }
    }

    /// Makes the channel durable as it is.
    pub(super) async fn save(&mut self) -> Result<(), StoreError> {
        let batch = self.writing()?;
        self.channels.0.store.commit(batch).await
    }

    fn writing(&mut self) -> Result<Batch, StoreError> {
        let (chain, url) = (self.chain, self.url.clone());
        let channel = self.channel();
        let id = channel.id();
        let record = channel.record().clone();
        let stored = StoredPayerChannel { chain, url, record };
        self.channels.writing(id, &stored)
    }

    /// Counts no more of this channel than the chain is sure of.
    pub(super) async fn lower(&mut self, sure: Sure) -> Result<(), StoreError> {
        let Sure { balance, at_s } = sure;
        let channel = self.channel();
        let (id, locked) = (channel.id(), channel.record().refundable());
        let seen = SeenChannel {
            balance,
            locked,
            at_s,
        };
        let mut batch = Batch::default();
        if let Some(row) = self.channels.outlays().observe(id, seen) {
            batch.put(OUTLAYS, id.0.as_slice(), &row)?;
        }
        self.channels.0.store.commit(batch).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
        let Some(mut channel) = self.channel.take() else {
            return;
        };
        if channel.is_in_flight() {
            // The request was given up, or its end could not be read: nobody knows what was charged.
            let _ = channel.finish(Outcome::Unknown);
        }
        let id = channel.id();
        let mut slots = self.channels.slots();
        let record = channel.record();
        if record.signed.is_none() && record.deposited.is_zero() && !record.deposit_in_doubt {
            // Nothing was ever signed on it or put into it: it never was.
            slots.remove(&id);
        } else if let Some(slot) = slots.get_mut(&id) {
            slot.open = channel.record().status == Status::Open;
            slot.amending = false;
            slot.channel = Some(channel);
        }
        drop(slots);
        self.channels.0.freed.notify_waiters();
    }
}
