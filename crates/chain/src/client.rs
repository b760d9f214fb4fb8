//! One client for one chain, over HTTP or over a chain in this process.
//!
//! A [`ChainClient`] knows which chain it is for and refuses to work with an endpoint that serves another one: the
//! id is asked for before the first call, and again after anything odd (a lost connection, an answer that makes no
//! sense), because that is when an endpoint may have been replaced. Every call is bounded in time, size and number of
//! tries; what fails says whether asking again may help ([`ChainError::kind`]).
//!
//! It deliberately does not send transactions in order, follow events or keep state: that is [`crate::sender`] and
//! [`crate::index`]. (spec: 06-chain, sections 1 and 2)

mod authorizations;
mod carried;
mod chains;
mod error;
mod http;
mod read;
mod retry;
mod revert;
mod views;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, Bytes, U64, hex, keccak256};
use alloy_rpc_client::RpcClient;
use alloy_transport::{IntoBoxTransport, TransportError, TransportErrorKind};
use futures::future::BoxFuture;
use hearth_environment::{Environment, SystemEnvironment};
use hearth_protocol::id::ChainId;
use reqwest::Url;
use serde::de::DeserializeOwned;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

pub use authorizations::AuthorizedTransfer;
pub use carried::{Carrier, CarryError};
pub use chains::{Chain, ChainSettings, Chains, SettlementProblem};
pub use error::{ChainError, ErrorKind};
pub use http::{BoundedHttp, DEFAULT_MAX_RESPONSE_BYTES, HttpOptions};
pub use read::{
    BlockAt, BlockHeader, BlockTransaction, ChannelReading, OnchainChannel, TxReceipt, TxRequest,
};
pub use retry::RetryPolicy;
pub use revert::{MAX_REASON_CHARS, Revert, RevertReason};

/// The most calls that travel in one JSON-RPC batch.
pub const MAX_BATCH_CALLS: usize = 64;

/// A client for one chain. Cloning is cheap; clones share the connection.
#[derive(Clone, Debug)]
pub struct ChainClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// At least one.
    endpoints: Vec<Endpoint>,
    /// The endpoint that is asked next; it changes when one fails.
    current: AtomicUsize,
    chain: ChainId,
    timeout: Duration,
    retry: RetryPolicy,
    environment: Arc<dyn Environment>,
}

#[derive(Debug)]
struct Endpoint {
    rpc: RpcClient,
    /// Whether it has named the right chain since the last odd event.
    verified: AtomicBool,
}

/// One call of a batch.
type Call = (&'static str, Value);

impl ChainClient {
    /// A client for `chain` at an HTTP endpoint. Nothing is sent before the first call; use
    /// [`ChainClient::connect`] to check the endpoint now.
    ///
    /// # Errors
    /// [`ChainError::Setup`] if the HTTP client cannot be made.
    pub fn http(url: Url, chain: ChainId, options: HttpOptions) -> Result<Self, ChainError> {
        Self::http_in(vec![url], chain, options, Arc::new(SystemEnvironment))
    }

    /// As [`ChainClient::http`], with several endpoints of the same chain, of which another is asked when one fails,
    /// and with the clock and randomness given.
    ///
    /// # Errors
    /// [`ChainError::Setup`] if there is no endpoint, or the HTTP client cannot be made.
    pub fn http_in(
        urls: Vec<Url>,
        chain: ChainId,
        options: HttpOptions,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, ChainError> {
        if urls.is_empty() {
            return Err(ChainError::Setup {
                reason: format!("chain {chain} has no endpoint; name at least one"),
            });
        }
        let transports = urls.into_iter().map(|url| BoundedHttp::new(url, &options));
        let rpcs = transports
            .map(|transport| Ok(RpcClient::new(transport?, true)))
            .collect::<Result<_, _>>()?;
        // The HTTP client keeps the time of each exchange itself; this outer bound, for the check of the chain and
        // the call together, only guards against its failing to.
        let timeout = options.timeout.saturating_mul(3);
        Ok(Self::assemble(
            rpcs,
            chain,
            timeout,
            options.retry,
            environment,
        ))
    }

    /// A client for `chain` over any alloy transport, such as a chain in this process.
    #[must_use]
    pub fn from_transport(transport: impl IntoBoxTransport, chain: ChainId) -> Self {
        let options = HttpOptions::default();
        let rpcs = vec![RpcClient::new(transport, true)];
        Self::assemble(
            rpcs,
            chain,
            options.timeout,
            options.retry,
            Arc::new(SystemEnvironment),
        )
    }

    /// A client for `chain` whose requests `carrier` brings to the chain and back, each within the time of `options`.
    #[must_use]
    pub fn carried(
        carrier: Arc<dyn Carrier>,
        chain: ChainId,
        options: HttpOptions,
        environment: Arc<dyn Environment>,
    ) -> Self {
        let rpcs = vec![RpcClient::new(carried::Carried(carrier), true)];
        // The check of the chain and the call itself.
        let timeout = options.timeout.saturating_mul(2);
        Self::assemble(rpcs, chain, timeout, options.retry, environment)
    }

    fn assemble(
        rpcs: Vec<RpcClient>,
        chain: ChainId,
        timeout: Duration,
        retry: RetryPolicy,
        environment: Arc<dyn Environment>,
    ) -> Self {
        let endpoint = |rpc| Endpoint {
            rpc,
            verified: AtomicBool::new(false),
        };
        let endpoints = rpcs.into_iter().map(endpoint).collect();
        let current = AtomicUsize::new(0);
        Self {
            shared: Arc::new(Shared {
                endpoints,
                current,
                chain,
                timeout,
                retry,
                environment,
            }),
        }
    }

    /// The chain this client is for.
    #[must_use]
    pub fn chain(&self) -> ChainId {
        self.shared.chain
    }

    /// The clock and randomness this client uses.
    #[must_use]
    pub fn environment(&self) -> &Arc<dyn Environment> {
        &self.shared.environment
    }

    /// Asks the endpoint which chain it serves.
    ///
    /// # Errors
    /// [`ChainError::WrongChain`] if it is another one; otherwise what any call may meet.
    pub async fn connect(&self) -> Result<(), ChainError> {
        self.doubt(self.current());
        self.repeat("eth_chainId", |_rpc| async { Ok(()) }).await
    }

    fn current(&self) -> usize {
        self.shared.current.load(Ordering::Acquire) % self.shared.endpoints.len()
    }

    /// Asks an endpoint for its chain, unless it has named the right one and nothing odd happened since.
    async fn verify(&self, endpoint: &Endpoint) -> Result<(), Trouble> {
        const METHOD: &str = "eth_chainId";
        if endpoint.verified.load(Ordering::Acquire) {
            return Ok(());
        }
        let raw = exchange_one(endpoint.rpc.clone(), METHOD, json!([]))
            .await
            .map_err(Trouble::Transport)?;
        let actual: U64 = decode(METHOD, &raw).map_err(Trouble::Final)?;
        let (expected, actual) = (self.shared.chain, ChainId(actual.to()));
        if actual != expected {
            tracing::error!(%expected, %actual, "the endpoint serves another chain; refusing to use it");
            return Err(Trouble::Final(ChainError::WrongChain { expected, actual }));
        }
        endpoint.verified.store(true, Ordering::Release);
        Ok(())
    }

    /// One JSON-RPC call, tried as often as the retry policy allows.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        let raw = self.answer(method, params).await?;
        decode(method, &raw).inspect_err(|_| self.doubt(self.current()))
    }

    /// The answer to a call as it came. Boxed, so that it is compiled once and not for each type that is asked for.
    fn answer(
        &self,
        method: &'static str,
        params: Value,
    ) -> BoxFuture<'_, Result<Box<RawValue>, ChainError>> {
        Box::pin(self.repeat(method, move |rpc| exchange_one(rpc, method, params.clone())))
    }

    /// Several calls in one round trip, at most [`MAX_BATCH_CALLS`]; each has its own outcome.
    ///
    /// # Errors
    /// What concerns the round trip as a whole; a call's own refusal is in its place in the list.
    pub async fn batch(
        &self,
        calls: &[Call],
    ) -> Result<Vec<Result<Box<RawValue>, ChainError>>, ChainError> {
        assert!(
            calls.len() <= MAX_BATCH_CALLS,
            "callers split their work by MAX_BATCH_CALLS"
        );
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.repeat("a batch", |rpc| exchange_batch(rpc, calls))
            .await
    }

    /// Broadcasts a signed transaction and returns its hash. Sending the same bytes twice is harmless, so this is
    /// retried like a read, and "already known" is success.
    ///
    /// # Errors
    /// [`ChainError::Refused`] with the endpoint's words if the transaction is not taken.
    pub async fn send_raw(&self, raw: &Bytes) -> Result<B256, ChainError> {
        const METHOD: &str = "eth_sendRawTransaction";
        let expected = keccak256(raw);
        match self
            .request::<B256>(METHOD, json!([hex::encode_prefixed(raw)]))
            .await
        {
            Ok(hash) if hash == expected => Ok(hash),
            Ok(hash) => {
                self.doubt(self.current());
                Err(ChainError::malformed(
                    METHOD,
                    format!("named transaction {hash}, sent was {expected}"),
                ))
            }
            Err(ChainError::Refused { message, .. }) if is_already_known(&message) => Ok(expected),
            Err(error) => {
                if matches!(&error, ChainError::Refused { message, .. } if hints_at_another_chain(message))
                {
                    self.doubt(self.current());
                    self.connect().await?;
                }
                Err(error)
            }
        }
    }

    /// Tries until an answer or the end of patience, at another endpoint after each failure if there are several. No
    /// endpoint is asked anything before it has named the right chain.
    async fn repeat<T, F>(
        &self,
        method: &str,
        mut attempt: impl FnMut(RpcClient) -> F,
    ) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, TransportError>>,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let place = self.current();
            let endpoint = &self.shared.endpoints[place];
            let whole = async {
                self.verify(endpoint).await?;
                attempt(endpoint.rpc.clone())
                    .await
                    .map_err(Trouble::Transport)
            };
            let trouble = match tokio::time::timeout(self.shared.timeout, whole).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(trouble)) => trouble,
                Err(_elapsed) => Trouble::Transport(TransportErrorKind::custom_str("timed out")),
            };
            let failure = match trouble {
                Trouble::Transport(error) => retry::classify(method, error),
                Trouble::Final(error) => retry::Failure::Final(error),
            };
            let (reason, retry_after) = match failure {
                retry::Failure::Again {
                    reason,
                    retry_after,
                } => (reason, retry_after),
                retry::Failure::Final(error) => {
                    if matches!(error.kind(), ErrorKind::Malformed | ErrorKind::WrongChain) {
                        self.doubt(place);
                    }
                    return Err(error);
                }
            };
            self.doubt(place);
            let random = self.shared.environment.jitter();
            let Some(delay) = self.shared.retry.delay(attempts, retry_after, random) else {
                return Err(ChainError::Unavailable {
                    method: method.to_owned(),
                    attempts,
                    reason,
                    retry_after,
                });
            };
            // The caller reports it once all attempts have failed.
            tracing::debug!(method, attempts, %reason, delay_ms = delay.as_millis(), "asking the chain again");
            self.shared.environment.sleep(delay).await;
        }
    }

    /// After something odd an endpoint has to name its chain again, and another one is asked first.
    fn doubt(&self, place: usize) {
        self.shared.endpoints[place]
            .verified
            .store(false, Ordering::Release);
        let next = (place + 1) % self.shared.endpoints.len();
        // If another call has moved on already, that is where this one goes too.
        let _moved =
            self.shared
                .current
                .compare_exchange(place, next, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// What one try met.
enum Trouble {
    Transport(TransportError),
    Final(ChainError),
}

async fn exchange_one(
    rpc: RpcClient,
    method: &'static str,
    params: Value,
) -> Result<Box<RawValue>, TransportError> {
    rpc.request::<Value, Box<RawValue>>(method, params).await
}

async fn exchange_batch(
    rpc: RpcClient,
    calls: &[Call],
) -> Result<Vec<Result<Box<RawValue>, ChainError>>, TransportError> {
    let mut batch = rpc.new_batch();
    let mut waiters = Vec::with_capacity(calls.len());
    for (method, params) in calls {
        waiters.push((
            *method,
            batch.add_call::<Value, Box<RawValue>>(*method, params)?,
        ));
    }
    batch.send().await?;
    let mut answers = Vec::with_capacity(waiters.len());
    for (method, waiter) in waiters {
        let answer = match waiter.await {
            Ok(raw) => Ok(raw),
            Err(error) => match retry::classify(method, error) {
                retry::Failure::Final(error) => Err(error),
                // One answer that is missing or rate limited makes the whole round trip worth repeating.
                retry::Failure::Again { reason, .. } => {
                    return Err(TransportErrorKind::custom_str(&reason));
                }
            },
        };
        answers.push(answer);
    }
    Ok(answers)
}

/// Decodes an answer to `method`.
fn decode<T: DeserializeOwned>(method: &str, raw: &RawValue) -> Result<T, ChainError> {
    serde_json::from_str(raw.get())
        .map_err(|error| ChainError::malformed(method, error.to_string()))
}

/// A value as JSON-RPC parameter.
fn to_param(value: &impl serde::Serialize) -> Value {
    to_raw_value(value)
        .and_then(|raw| serde_json::from_str(raw.get()))
        .expect("the types of this module serialise to JSON")
}

/// Whether an endpoint's refusal means that it has this very transaction already (geth, anvil, hardhat, Erigon,
/// Nethermind and Besu use different words).
fn is_already_known(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "already known",
        "known transaction",
        "already imported",
        "alreadyknown",
        "already exists",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// A signature for another chain recovers to a stranger, or the node says so outright.
fn hints_at_another_chain(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["invalid sender", "chain id", "chainid"]
        .iter()
        .any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests;
