//! The channels from which this node pays: one request at a time on each, several side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::B256;
use hearth_protocol::channel::OnchainState;
use hearth_protocol::channel::payer::{Channel, Record, Status};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain};
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{asset_of, day};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::PaymentRequirements;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::store::{Batch, Store, StoreError, Table};

/// Channels that are opened with one provider at most, for requests side by side.
pub const CHANNELS_PER_PROVIDER_MAX: usize = 8;

/// A channel as it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredPayerChannel {
    /// The chain.
    pub chain: ChainId,
    /// Where it was opened: the address that was asked.
    pub url: String,
    /// What must not be forgotten.
    pub record: Record,
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
    channel: Option<Channel>,
    config: ChannelConfig,
    open: bool,
}

#[derive(Debug)]
struct Shared {
    slots: Mutex<BTreeMap<ChannelId, Slot>>,
    /// What was promised or spent today, by token.
    spent: Mutex<(u64, BTreeMap<AssetId, Amount>)>,
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
    channel: Option<Channel>,
    chain: ChainId,
    url: String,
    /// What counts as spent today for this payment.
    counted: Amount,
    charged_before: Amount,
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

fn day_key(day: u64, asset: &AssetId) -> Vec<u8> {
    [day.to_be_bytes().as_slice(), asset.to_string().as_bytes()].concat()
}

impl Channels {
    pub(super) fn load(store: Store) -> Result<Self, StoreError> {
        let mut slots = BTreeMap::new();
        store.each(Table::PayerChannels, |key, stored: StoredPayerChannel| {
            if key.len() == 32 {
                let id = ChannelId(B256::from_slice(key));
                slots.insert(id, Slot::new(id, stored));
            }
        })?;
        let mut spent: (u64, BTreeMap<AssetId, Amount>) = (0, BTreeMap::new());
        store.each(Table::Spent, |key, amount: Amount| {
            let (day, asset) = key.split_at(key.len().min(8));
            let day = u64::from_be_bytes(day.try_into().unwrap_or_default());
            let asset = std::str::from_utf8(asset)
                .ok()
                .and_then(|asset| asset.parse().ok());
            if let Some(asset) = asset.filter(|_| day >= spent.0) {
                if day > spent.0 {
                    spent = (day, BTreeMap::new());
                }
                spent.1.insert(asset, amount);
            }
        })?;
        let (slots, spent) = (Mutex::new(slots), Mutex::new(spent));
        Ok(Self(Arc::new(Shared {
            slots,
            spent,
            freed: Notify::new(),
            store,
        })))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Slot>> {
        // Channels are put back whole or not at all, so a panic elsewhere leaves the map whole.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> Result<Vec<ChannelView>, StoreError> {
        let mut views = Vec::new();
        self.0.store.each(Table::PayerChannels, |key, stored| {
            if key.len() == 32 {
                views.push(ChannelView {
                    channel: ChannelId(B256::from_slice(key)),
                    stored,
                });
            }
        })?;
        Ok(views)
    }

    pub(super) fn spent_today(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<AssetId, Amount>, StoreError> {
        let spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if spent.0 == day(now) {
            spent.1.clone()
        } else {
            BTreeMap::new()
        })
    }

    /// Adds to what counts as spent today, and says how it is to be written.
    fn count(
        &self,
        asset: AssetId,
        now: Timestamp,
        plus: Amount,
        minus: Amount,
    ) -> (Vec<u8>, Amount) {
        let mut spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let today = day(now);
        if spent.0 != today {
            *spent = (today, BTreeMap::new());
        }
        let sum = spent.1.entry(asset).or_default();
        *sum = sum.saturating_add(plus).saturating_sub(minus);
        (day_key(today, &asset), *sum)
    }

    pub(super) async fn note_spent(
        &self,
        requirements: &PaymentRequirements,
        amount: Amount,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (key, sum) = self.count(asset_of(requirements), now, amount, Amount::ZERO);
        let mut batch = Batch::default();
        batch.put(Table::Spent, &key, &sum)?;
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
        let mut count = 0;
        for slot in slots.values_mut() {
            let fits =
                slot.open && slot.chain == domain.chain() && same_but_salt(&slot.config, &config);
            if !fits {
                continue;
            }
            count += 1;
            if slot.channel.as_ref().is_some_and(Channel::is_ready) {
                let channel = slot.channel.take()?;
                return Some(Held::new(self, channel, slot.chain, slot.url.clone()));
            }
        }
        if count >= CHANNELS_PER_PROVIDER_MAX {
            return None;
        }
        Some(self.insert(&mut slots, domain, Record::new(config), url))
    }

    fn insert(
        &self,
        slots: &mut BTreeMap<ChannelId, Slot>,
        domain: &SettlementDomain,
        record: Record,
        url: &str,
    ) -> Held {
        let config = record.config;
        let id = domain.channel_id(&config);
        let channel = Channel::new(id, record);
        let (chain, url) = (domain.chain(), url.to_owned());
        slots.insert(
            id,
            Slot {
                chain,
                url: url.clone(),
                channel: None,
                config,
                open: true,
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
        let record = Record {
            deposit_in_doubt: true,
            ..Record::new(config)
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

    /// Takes what the chain says of a channel that no request holds.
    pub(super) async fn observe(
        &self,
        id: ChannelId,
        onchain: &OnchainState,
    ) -> Result<(), StoreError> {
        self.amend(id, |channel| {
            channel.observe(onchain);
            true
        })
        .await
    }

    /// Changes a channel durably, where `change` says that there is something to keep. One that a
    /// request holds is left alone: what comes of that request puts it right.
    async fn amend(
        &self,
        id: ChannelId,
        change: impl FnOnce(&mut Channel) -> bool,
    ) -> Result<(), StoreError> {
        let stored = {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(&id) else {
                return Ok(());
            };
            let Some(channel) = slot.channel.as_mut() else {
                return Ok(());
            };
            if !change(channel) {
                return Ok(());
            }
            let record = channel.record().clone();
            slot.open = record.status == Status::Open;
            StoredPayerChannel {
                chain: slot.chain,
                url: slot.url.clone(),
                record,
            }
        };
        let mut batch = Batch::default();
        batch.put(Table::PayerChannels, id.0.as_slice(), &stored)?;
        self.0.store.commit(batch).await
    }
}

impl Slot {
    fn new(id: ChannelId, stored: StoredPayerChannel) -> Self {
        let config = stored.record.config;
        let open = stored.record.status == Status::Open;
        let channel = Some(Channel::new(id, stored.record));
        Self {
            chain: stored.chain,
            url: stored.url,
            channel,
            config,
            open,
        }
    }
}

impl Held {
    fn new(channels: &Channels, channel: Channel, chain: ChainId, url: String) -> Self {
        let charged_before = channel.record().charged;
        Self {
            channels: channels.clone(),
            channel: Some(channel),
            chain,
            url,
            counted: Amount::ZERO,
            charged_before,
        }
    }

    pub(super) fn channel(&mut self) -> &mut Channel {
        self.channel
            .as_mut()
            .expect("a channel is held until it is dropped")
    }

    /// Makes the promise durable, and counts it as spent.
    pub(super) async fn save_signed(
        &mut self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.charged_before = self.channel().record().charged;
        self.counted = requirements.amount;
        let counted = self.counted;
        self.write(requirements, now, counted, Amount::ZERO).await
    }

    /// Makes the channel durable as it is, and counts what was really charged.
    pub(super) async fn save(
        &mut self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let charged = self
            .channel()
            .record()
            .charged
            .saturating_sub(self.charged_before);
        let back = self.counted.saturating_sub(charged);
        self.counted = Amount::ZERO;
        self.write(requirements, now, Amount::ZERO, back).await
    }

    async fn write(
        &mut self,
        requirements: &PaymentRequirements,
        now: Timestamp,
        plus: Amount,
        minus: Amount,
    ) -> Result<(), StoreError> {
        let (chain, url) = (self.chain, self.url.clone());
        let channel = self.channel();
        let stored = StoredPayerChannel {
            chain,
            url,
            record: channel.record().clone(),
        };
        let mut batch = Batch::default();
        batch.put(Table::PayerChannels, channel.id().0.as_slice(), &stored)?;
        let (key, sum) = self
            .channels
            .count(asset_of(requirements), now, plus, minus);
        batch.put(Table::Spent, &key, &sum)?;
        self.channels.0.store.commit(batch).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(channel) = self.channel.take() else {
            return;
        };
        let id = channel.id();
        let mut slots = self.channels.slots();
        let record = channel.record();
        if record.signed.is_none() && record.deposited.is_zero() && !record.deposit_in_doubt {
            // Nothing was ever signed on it or put into it: it never was.
            slots.remove(&id);
        } else if let Some(slot) = slots.get_mut(&id) {
            slot.open = channel.record().status == Status::Open;
            slot.channel = Some(channel);
        }
        drop(slots);
        self.channels.0.freed.notify_waiters();
    }
}
