//! The watchtower: another device claims while the provider's own sleeps.
//!
//! A provider signs, channel by channel, the claim of all that is due, and gives it to a device
//! that it trusts to be awake. That device can do nothing with it but send it: the claim pays the
//! receiver. It sends it when the payer begins to withdraw, so that a night's sleep costs nothing.
//!
//! Each chain is looked at by itself, so that one that does not answer delays no claim on another. A claim that brings
//! less than its gas costs is not sent: otherwise a payer could make the household pay for gas with channels of dust. A
//! claim is forgotten once a block that stays has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use futures::future::join_all;
use hearth_api::error::ErrorBody;
use hearth_causes::WithCauses;
use hearth_doors::{BodyError, read_body};
use hearth_environment::Environment;
use hearth_protocol::claim::{gas_price_nano, is_claim_covered, row_channel};
use hearth_protocol::eip712::SettlementDomain;
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::signature::Signature;
use hearth_protocol::x402::ClaimRow;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};
use url::Url;

use super::escrow::{Escrow, Escrows};
use crate::store::{Batch, Store, StoreError, Table};

/// Claims that another device asked this one to watch, by channel id.
pub const WATCHED: Table<Handover> = Table::own("watched");
/// Channels that one watchtower watches at most.
const WATCHED_MAX: usize = 10_000;
/// The longest handover that is read, in bytes.
const HANDOVER_BYTES_MAX: usize = 8 * 1024;
/// Channels of a chain that are read and claimed at once.
const CHANNELS_AT_ONCE: usize = 8;
/// Reports that wait to be heard; further ones are only logged.
pub const REPORTS_MAX: usize = 1_024;
/// The longest answer that a provider reads from a watchtower, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a provider waits for a watchtower.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A claim of one channel, signed so that anyone may send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handover {
    /// The chain.
    pub network: ChainId,
    /// The newest voucher and what is due.
    pub claim: ClaimRow,
    /// The receiver authorizer's signature over a batch of this one row.
    pub claim_authorizer_signature: Signature,
}

/// Why a handover is not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// The chain is not known here.
    #[error("this watchtower does not watch {0}; configure the chain first")]
    Chain(ChainId),
    /// The authorizer is not one of those that are served.
    #[error("this watchtower does not serve the authorizer {0}")]
    Authorizer(Address),
    /// The voucher or the claim is not signed as it should be.
    #[error("the claim is not signed by its authorizers")]
    Signature,
    /// It watches as many channels as it can.
    #[error("this watchtower watches {WATCHED_MAX} channels already")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Handover {
    /// In which token the channel pays.
    fn asset(&self) -> AssetId {
        AssetId {
            chain: self.network,
            token: self.claim.voucher.channel.token,
        }
    }

    /// The claim of one row, signed by the escrow's authorizer.
    pub fn new(network: ChainId, escrow: &Escrow, claim: ClaimRow) -> Self {
        let entry = row_channel(escrow.domain(), &claim);
        Self {
            network,
            claim,
            claim_authorizer_signature: escrow.sign_claim(&[entry]),
        }
    }

    /// Checks both signatures and returns the channel.
    ///
    /// # Errors
    /// [`HandoverError::Signature`].
    pub fn check(&self) -> Result<ChannelId, HandoverError> {
        let domain = SettlementDomain::new(self.network);
        let entry = row_channel(&domain, &self.claim);
        let config = &self.claim.voucher.channel;
        let voucher = domain.voucher_digest(entry.channel, entry.max_claimable);
        let batch = domain.claim_batch_digest(&[entry]);
        let good = self.claim.signature.signer(voucher) == Ok(config.payer_authorizer)
            && self.claim_authorizer_signature.signer(batch) == Ok(config.receiver_authorizer)
            && entry.total_claimed <= entry.max_claimable;
        if good {
            Ok(entry.channel)
        } else {
            Err(HandoverError::Signature)
        }
    }
}

/// What a watchtower did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchReport {
    /// It took a claim that is higher than what it had, durably.
    Taken {
        /// In which token it pays.
        asset: AssetId,
        /// The channel.
        channel: ChannelId,
        /// The claim, cumulative.
        total_claimed: Amount,
    },
    /// A payer withdraws, so the claim was sent.
    Claimed {
        /// In which token it pays.
        asset: AssetId,
        /// The channel.
        channel: ChannelId,
        /// The claim, cumulative.
        total_claimed: Amount,
        /// The transaction, or why there is none.
        outcome: Result<B256, String>,
    },
}

/// For whom a watchtower watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchScope {
    /// The session keys that it serves.
    pub authorizers: BTreeSet<Address>,
    /// The chains that it watches.
    pub networks: BTreeSet<ChainId>,
}

/// Watches claims for other devices.
#[derive(Debug, Clone)]
pub struct Watchtower {
    store: Store,
    escrows: Escrows,
    /// The authorizers that are served: the session keys of the household's devices.
    authorizers: Arc<BTreeSet<Address>>,
    environment: Arc<dyn Environment>,
    reports: Option<mpsc::Sender<WatchReport>>,
    /// What is kept is changed by one at a time: each looks at what is there before it replaces or removes it.
    turn: Arc<Semaphore>,
}

impl Watchtower {
    /// A watchtower for claims by `authorizers`.
    pub fn new(
        store: Store,
        escrows: Escrows,
        authorizers: BTreeSet<Address>,
        environment: Arc<dyn Environment>,
    ) -> Self {
        Self {
            store,
            escrows,
            authorizers: Arc::new(authorizers),
            environment,
            reports: None,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The same, which also says what it does.
    #[must_use]
    pub fn reporting(self, reports: mpsc::Sender<WatchReport>) -> Self {
        Self {
            reports: Some(reports),
            ..self
        }
    }

    fn report(&self, report: WatchReport) {
        let unheard = self
            .reports
            .as_ref()
            .and_then(|reports| reports.try_send(report).err());
        if let Some(unheard) = unheard {
            warn!(%unheard, "nobody hears what the watchtower did");
        }
    }

    /// For whom it watches.
    pub fn scope(&self) -> WatchScope {
        let chains = self.escrows.iter().map(|escrow| escrow.domain().chain());
        WatchScope {
            authorizers: (*self.authorizers).clone(),
            networks: chains.collect(),
        }
    }

    /// Takes a claim, if it is higher than the one it has.
    ///
    /// # Errors
    /// When it is not signed as it should be, or not for those that are served.
    pub async fn take(&self, handover: Handover) -> Result<(), HandoverError> {
        if self.escrows.get(handover.network).is_none() {
            return Err(HandoverError::Chain(handover.network));
        }
        let authorizer = handover.claim.voucher.channel.receiver_authorizer;
        if !self.authorizers.contains(&authorizer) {
            return Err(HandoverError::Authorizer(authorizer));
        }
        let channel = handover.check()?;
        if !self.keep(channel, &handover).await? {
            return Ok(());
        }
        self.report(WatchReport::Taken {
            asset: handover.asset(),
            channel,
            total_claimed: handover.claim.total_claimed,
        });
        Ok(())
    }

    /// Keeps a claim. Returns whether it is higher than the one that was kept.
    async fn keep(&self, channel: ChannelId, handover: &Handover) -> Result<bool, HandoverError> {
        let _turn = self.turn.acquire().await;
        match self.held(channel)? {
            Some(held) if held.claim.total_claimed >= handover.claim.total_claimed => {
                return Ok(false);
            }
            None if self.count()? >= WATCHED_MAX => return Err(HandoverError::Full),
            _ => {}
        }
        let mut batch = Batch::default();
        batch.put(WATCHED, channel.0.as_slice(), handover)?;
        self.store.commit(batch).await?;
        Ok(true)
    }

    /// Forgets the claim of a channel, unless a higher one than `claimed` was handed over meanwhile.
    async fn forget(&self, channel: ChannelId, claimed: Amount) -> Result<(), StoreError> {
        let _turn = self.turn.acquire().await;
        let held = self.held(channel)?;
        if held.is_none_or(|held| held.claim.total_claimed > claimed) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.remove(WATCHED, channel.0.as_slice());
        self.store.commit(batch).await
    }

    fn held(&self, channel: ChannelId) -> Result<Option<Handover>, StoreError> {
        self.store.get(WATCHED, channel.0.as_slice())
    }

    fn count(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        self.store.each(WATCHED, |_, _: Handover| count += 1)?;
        Ok(count)
    }

    /// Looks at every watched channel once, and claims where the payer is withdrawing. Returns how
    /// many claims were sent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn look(&self) -> Result<usize, StoreError> {
        let looks = self.escrows.iter().map(|escrow| self.look_at(escrow));
        let sent: Result<Vec<_>, _> = join_all(looks).await.into_iter().collect();
        Ok(sent?.into_iter().sum())
    }

    /// The same on one chain.
    async fn look_at(&self, escrow: &Escrow) -> Result<usize, StoreError> {
        let mut watched = Vec::new();
        self.store.each(WATCHED, |key, handover: Handover| {
            if key.len() == 32 && handover.network == escrow.domain().chain() {
                watched.push((ChannelId(B256::from_slice(key)), handover));
            }
        })?;
        let mut looks =
            futures::stream::iter(watched)
                .map(|(channel, handover)| async move {
                    self.look_after(channel, &handover, escrow).await
                })
                .buffer_unordered(CHANNELS_AT_ONCE);
        let mut sent = 0;
        while let Some(look) = looks.next().await {
            sent += usize::from(look?);
        }
        Ok(sent)
    }

    /// Looks at one channel. Returns whether its claim was sent.
    async fn look_after(
        &self,
        channel: ChannelId,
        handover: &Handover,
        escrow: &Escrow,
    ) -> Result<bool, StoreError> {
        let total_claimed = handover.claim.total_claimed;
        let state = match escrow.read(channel).await {
            Ok(state) => state,
            Err(error) => {
                warn!(error = %error.with_causes(), %channel, "a watched channel could not be read");
                return Ok(false);
            }
        };
        if state.total_claimed >= total_claimed {
            match escrow.claimed_for_sure(channel).await {
                Ok(claimed) => self.forget(channel, claimed).await?,
                Err(error) => {
                    warn!(error = %error.with_causes(), %channel, "a claim may not be final yet")
                }
            }
            return Ok(false);
        }
        let due = total_claimed.saturating_sub(state.total_claimed);
        let is_asked_for = state.withdraw_requested_at != 0;
        Ok(is_asked_for
            && self.is_worth(handover.asset(), due, escrow).await
            && self.claim(channel, handover, escrow).await)
    }

    /// Whether a claim brings more than its gas costs, as far as that is known.
    async fn is_worth(&self, asset: AssetId, due: Amount, escrow: &Escrow) -> bool {
        let Some(worth) = self.escrows.coin_worth(asset) else {
            return true;
        };
        match escrow.client().gas_price().await {
            Ok(price) => {
                let is_worth = is_claim_covered(due, gas_price_nano(price, worth));
                if !is_worth {
                    debug!(%asset, %due, "a watched claim brings less than its gas costs");
                }
                is_worth
            }
            // The withdrawal does not wait.
            Err(error) => {
                warn!(error = %error.with_causes(), "the price of gas is unknown; claiming whatever it is");
                true
            }
        }
    }

    /// Sends a claim. Returns whether it is on the chain.
    async fn claim(&self, channel: ChannelId, handover: &Handover, escrow: &Escrow) -> bool {
        let row = &handover.claim;
        let outcome = escrow
            .claim_for(&[*row], &handover.claim_authorizer_signature)
            .await;
        match &outcome {
            Ok(transaction) => info!(%channel, %transaction, "claimed for another device"),
            Err(error) => warn!(error = %error.with_causes(), %channel, "a watched claim failed"),
        }
        let is_sent = outcome.is_ok();
        self.report(WatchReport::Claimed {
            asset: handover.asset(),
            channel,
            total_claimed: row.total_claimed,
            outcome: outcome.map_err(|error| error.with_causes().to_string()),
        });
        is_sent
    }

    /// Looks at each chain every so often, until the future is dropped.
    pub async fn run(self, every: Duration) {
        let watches = self.escrows.iter().map(|escrow| self.watch(escrow, every));
        join_all(watches).await;
    }

    async fn watch(&self, escrow: &Escrow, every: Duration) {
        loop {
            if let Err(error) = self.look_at(escrow).await {
                warn!(error = %error.with_causes(), "the watched channels could not be read");
            }
            self.environment.sleep(every).await;
        }
    }

    /// The route by which claims are handed over, `POST /watch`; `GET` says for whom it watches.
    pub fn router(self) -> Router {
        Router::new()
            .route("/watch", post(take).get(scope))
            .with_state(self)
    }
}

async fn scope(State(tower): State<Watchtower>) -> Json<WatchScope> {
    Json(tower.scope())
}

type Refused = (StatusCode, Json<ErrorBody>);

/// Reads a handover.
async fn read(body: Body) -> Result<Handover, Refused> {
    let refused = |status, message: String| {
        let body = ErrorBody::new("handover_unreadable", message);
        (status, Json(body))
    };
    let bytes = read_body(body, HANDOVER_BYTES_MAX, ANSWER_TIMEOUT).await;
    let bytes = bytes.map_err(|error| {
        let status = match error {
            BodyError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Full => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        let message = format!("{error}; a handover is JSON of at most {HANDOVER_BYTES_MAX} bytes");
        refused(status, message)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("the handover cannot be read: {error}");
        refused(StatusCode::BAD_REQUEST, message)
    })
}

async fn take(State(tower): State<Watchtower>, body: Body) -> Result<StatusCode, Refused> {
    let handover = read(body).await?;
    tower
        .take(handover)
        .await
        .map(|()| StatusCode::NO_CONTENT)
        .map_err(|error| {
            let (status, code) = match &error {
                HandoverError::Full => (StatusCode::INSUFFICIENT_STORAGE, "watchtower_full"),
                HandoverError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "store_failed"),
                _ => (StatusCode::FORBIDDEN, "handover_refused"),
            };
            (
                status,
                Json(ErrorBody::new(code, error.with_causes().to_string())),
            )
        })
}

/// Why a watchtower did not take a claim.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TowerError {
    /// It could not be reached.
    #[error("the watchtower cannot be reached")]
    Unreachable(#[from] reqwest::Error),
    /// Something else answers there.
    #[error("what answers there is no watchtower")]
    NotATower,
    /// It refused.
    #[error("the watchtower answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

fn refusal(status: StatusCode, body: &[u8]) -> TowerError {
    let body: Result<ErrorBody, _> = serde_json::from_slice(body);
    TowerError::Refused {
        status: status.as_u16(),
        message: body.map_or_else(|_| String::new(), |body| body.error.message),
    }
}

/// The way to a watchtower.
#[derive(Debug, Clone)]
pub struct TowerClient {
    url: Url,
    http: reqwest::Client,
}

impl TowerClient {
    /// A watchtower at `url`, to which `/watch` is added.
    ///
    /// # Errors
    /// When the address has no path that can be extended.
    pub fn new(url: &Url, http: reqwest::Client) -> Result<Self, url::ParseError> {
        Ok(Self {
            url: url.join("watch")?,
            http,
        })
    }

    /// Asks for whom it watches.
    ///
    /// # Errors
    /// When it cannot be reached, refuses, or answers something else.
    pub async fn scope(&self) -> Result<WatchScope, TowerError> {
        let (status, body) = self.ask(self.http.get(self.url.clone())).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| TowerError::NotATower)
    }

    /// Hands a claim over.
    ///
    /// # Errors
    /// When the watchtower cannot be reached or refuses.
    pub async fn hand_over(&self, handover: &Handover) -> Result<(), TowerError> {
        let request = self.http.post(self.url.clone()).json(handover);
        let (status, body) = self.ask(request).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(refusal(status, &body))
        }
    }

    async fn ask(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(StatusCode, Vec<u8>), TowerError> {
        let mut response = request.timeout(ANSWER_TIMEOUT).send().await?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await? {
            if body.len().saturating_add(piece.len()) > ANSWER_BYTES_MAX {
                return Err(TowerError::NotATower);
            }
            body.extend_from_slice(&piece);
        }
        Ok((response.status(), body))
    }
}
