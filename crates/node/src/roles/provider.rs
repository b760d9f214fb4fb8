//! The provider's role: it answers what others ask, on the promise that they pay for it.
//!
//! One task serves one stream. What happens on it is decided by the machine of
//! `hearth_protocol::answer::answering`, and on a channel by the machine behind the payment desk; here is
//! what they need: the models, the desk, the key that signs, and the owner's limits.

mod conversation;
mod places;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use alloy_signer_local::PrivateKeySigner;
use hearth_environment::Environment;
use hearth_net::IncomingAnswer;
use hearth_payments::desk::Desk;
use hearth_payments::offer::AcceptedAsset;
use hearth_payments::store::Table;
use hearth_protocol::answer::SignedReceipt;
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::AssetId;
pub use hearth_protocol::offer::Openness;
use hearth_protocol::offer::{Audience, DeviceId, OfferedModel};
use hearth_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::debug;

use super::served::Served;

use conversation::Conversation;
pub use places::Place;
use places::Places;

/// What the provider needs to be paid.
#[derive(Debug, Clone)]
pub struct Sales {
    /// Takes promises.
    pub desk: Desk,
    /// The tokens that are taken.
    pub assets: Vec<AcceptedAsset>,
}

/// Which devices belong to this household, and are answered for nothing.
pub type IsHousehold = Arc<dyn Fn(&DeviceId) -> bool + Send + Sync>;

/// What a provider is made of.
#[derive(Clone)]
pub struct ProviderParts {
    /// Signs receipts.
    pub session: PrivateKeySigner,
    /// Takes payments; without it only free answers are given.
    pub sales: Option<Sales>,
    /// Tells the household's own devices.
    pub is_household: IsHousehold,
    /// The clock.
    pub environment: Arc<dyn Environment>,
}

/// The provider. Clones share everything.
#[derive(Clone)]
pub struct Provider(Arc<Shared>);

struct Shared {
    parts: ProviderParts,
    served: RwLock<BTreeMap<ContentHash, Served>>,
    /// Who may use this device now.
    open: watch::Sender<Openness>,
    /// How many sales were begun.
    sales: AtomicU64,
    places: Places,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider")
            .field("open", &*self.0.open.borrow())
            .finish_non_exhaustive()
    }
}

/// Answers that were sold, by the answer's id, the channel, and a number of the provider's own.
pub const SALES: Table<StoredSale> = Table::new("sales");

/// A sale as it stands in the store, under a key of this provider's own ([`StoredSale::key`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredSale {
    /// What was signed last.
    pub receipt: SignedReceipt,
    /// The token that paid.
    pub asset: AssetId,
    /// The model's name.
    pub model: String,
    /// Who asked.
    pub device: DeviceId,
}

/// Which of this provider's sales since it started; no payer has a say in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleNumber(u64);

impl StoredSale {
    /// Where it stands in the store. The answer's id alone would do for honest payers; one that chooses the id of
    /// another's answer, or its own again, must not replace a receipt.
    pub fn key(&self, number: SaleNumber) -> Vec<u8> {
        let receipt = &self.receipt.receipt;
        [
            &receipt.answer.0[..],
            receipt.channel.0.as_slice(),
            &receipt.started_at.0.to_be_bytes(),
            &number.0.to_be_bytes(),
        ]
        .concat()
    }
}

impl Provider {
    /// A provider that serves no model yet.
    pub fn new(parts: ProviderParts) -> Self {
        Self(Arc::new(Shared {
            parts,
            served: RwLock::default(),
            open: watch::Sender::new(Openness::Everyone),
            sales: AtomicU64::new(0),
            places: Places::default(),
        }))
    }

    /// Serves a model, instead of one with the same weights.
    pub fn serve(&self, served: Served) {
        let weights = served.serving.weights;
        self.write().insert(weights, served);
    }

    /// Serves a model no more. Answers that are under way go on.
    pub fn stop_serving(&self, weights: &ContentHash) -> Option<Served> {
        self.write().remove(weights)
    }

    /// The model with these weights.
    pub fn find(&self, weights: &ContentHash) -> Option<Served> {
        self.read().get(weights).cloned()
    }

    /// Every model that is served.
    pub fn served(&self) -> Vec<Served> {
        self.read().values().cloned().collect()
    }

    /// What is offered now: to the household alone while the owner keeps others away.
    pub fn offered(&self) -> Vec<OfferedModel> {
        let open = *self.0.open.borrow();
        let served = self.read();
        let offered = served.values().map(Served::offered);
        match open {
            Openness::Everyone => offered.collect(),
            Openness::Household => offered
                .map(|model| OfferedModel {
                    audience: Audience::Household,
                    ..model
                })
                .collect(),
            Openness::Nobody => Vec::new(),
        }
    }

    /// Says who may use this device from now on. Answers to those who may not end at once, charged
    /// for what was delivered.
    pub fn set_open(&self, open: Openness) {
        self.0.open.send_replace(open);
    }

    /// Answers one question, to its end.
    pub async fn answer(&self, incoming: IncomingAnswer) {
        let device = incoming.device;
        if let Err(end) = Conversation::hold(self, incoming).await {
            debug!(%device, %end, "a conversation ended early");
        }
    }

    /// A place for one conversation more, if there is one for whoever begins it.
    pub fn place(&self, incoming: &IncomingAnswer) -> Option<Place> {
        let is_household = (self.parts().is_household)(&incoming.device);
        let site = incoming.origin.site();
        let guest = (!is_household).then_some((site, incoming.device));
        self.0.places.enter(guest)
    }

    fn begin_sale(&self) -> SaleNumber {
        SaleNumber(self.0.sales.fetch_add(1, Ordering::Relaxed))
    }

    fn parts(&self) -> &ProviderParts {
        &self.0.parts
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.parts().environment.now_ms())
    }

    /// Who may use this device, as it changes.
    pub fn opened(&self) -> watch::Receiver<Openness> {
        self.0.open.subscribe()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ContentHash, Served>> {
        self.0.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<ContentHash, Served>> {
        self.0
            .served
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
