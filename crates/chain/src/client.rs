//! One client for one chain, over HTTP or over a chain in this process.
//!
//! A [`ChainClient`] knows which chain it is for and refuses to work with an endpoint that serves another one: the
//! id is asked for before the first call, and again after anything odd (a lost connection, an answer that makes no
//! sense), because that is when an endpoint may have been replaced. Every call is bounded in time, size and number of
//! tries; what fails says whether asking again may help ([`ChainError::kind`]).
//!
//! It deliberately does not send transactions in order, follow events or keep state: that is [`crate::sender`] and
//! [`crate::index`]. Implements docs/spec/06-chain.md.

mod environment;
mod error;
mod http;
mod read;
mod retry;
mod revert;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, Bytes, U64, hex, keccak256};
use alloy_rpc_client::RpcClient;
use alloy_transport::{IntoBoxTransport, TransportError, TransportErrorKind};
use reqwest::Url;
use serde::de::DeserializeOwned;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

pub use environment::{Environment, SystemEnvironment, Wait};
pub use error::{ChainError, ErrorKind};
pub use http::{BoundedHttp, DEFAULT_MAX_RESPONSE_BYTES, HttpOptions};
pub use read::{BlockAt, BlockHeader, BlockTransaction, OnchainChannel, TxReceipt, TxRequest};
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
    rpc: RpcClient,
    chain_id: u64,
    timeout: Duration,
    retry: RetryPolicy,
    environment: Arc<dyn Environment>,
    /// Whether the endpoint has named the right chain since the last odd event.
    verified: AtomicBool,
}

/// One call of a batch.
type Call = (&'static str, Value);

impl ChainClient {
    /// A client for chain `chain_id` at an HTTP endpoint. Nothing is sent before the first call; use
    /// [`ChainClient::connect`] to check the endpoint now.
    ///
    /// # Errors
    /// [`ChainError::Setup`] if the HTTP client cannot be made.
    pub fn http(url: Url, chain_id: u64, options: HttpOptions) -> Result<Self, ChainError> {
        Self::http_in(url, chain_id, options, Arc::new(SystemEnvironment))
    }

    /// As [`ChainClient::http`], with the clock and randomness given.
    ///
    /// # Errors
    /// As [`ChainClient::http`].
    pub fn http_in(
        url: Url,
        chain_id: u64,
        options: HttpOptions,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, ChainError> {
        let transport = BoundedHttp::new(url, &options)?;
        // The HTTP client keeps the time of a try itself; this outer bound only guards against its failing to.
        let timeout = options.timeout.saturating_mul(2);
        Ok(Self::assemble(
            transport,
            chain_id,
            timeout,
            options.retry,
            environment,
        ))
    }

    /// A client for chain `chain_id` over any alloy transport, such as a chain in this process.
    #[must_use]
    pub fn from_transport(transport: impl IntoBoxTransport, chain_id: u64) -> Self {
        let options = HttpOptions::default();
        Self::assemble(
            transport,
            chain_id,
            options.timeout,
            options.retry,
            Arc::new(SystemEnvironment),
        )
    }

    fn assemble(
        transport: impl IntoBoxTransport,
        chain_id: u64,
        timeout: Duration,
        retry: RetryPolicy,
        environment: Arc<dyn Environment>,
    ) -> Self {
        let rpc = RpcClient::new(transport, true);
        let verified = AtomicBool::new(false);
        Self {
            shared: Arc::new(Shared {
                rpc,
                chain_id,
                timeout,
                retry,
                environment,
                verified,
            }),
        }
    }

    /// The chain this client is for (the number of its CAIP-2 id `eip155:<number>`).
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.shared.chain_id
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
        self.shared.verified.store(false, Ordering::Release);
        self.verify().await
    }

    async fn verify(&self) -> Result<(), ChainError> {
        if self.shared.verified.load(Ordering::Acquire) {
            return Ok(());
        }
        let raw = self
            .repeat("eth_chainId", || {
                self.exchange_one("eth_chainId", json!([]))
            })
            .await?;
        let actual: U64 = decode("eth_chainId", &raw)?;
        let (expected, actual) = (self.shared.chain_id, actual.to::<u64>());
        if actual != expected {
            tracing::error!(
                expected,
                actual,
                "the endpoint serves another chain; refusing to use it"
            );
            return Err(ChainError::WrongChain { expected, actual });
        }
        self.shared.verified.store(true, Ordering::Release);
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
        self.verify().await?;
        let raw = self
            .repeat(method, || self.exchange_one(method, params.clone()))
            .await?;
        self.mark_odd_answers(decode(method, &raw))
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
        self.verify().await?;
        self.repeat("a batch", || self.exchange_batch(calls)).await
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
                self.doubt();
                Err(ChainError::malformed(
                    METHOD,
                    format!("named transaction {hash}, sent was {expected}"),
                ))
            }
            Err(ChainError::Refused { message, .. }) if is_already_known(&message) => Ok(expected),
            Err(error) => {
                if matches!(&error, ChainError::Refused { message, .. } if hints_at_another_chain(message))
                {
                    self.doubt();
                    self.verify().await?;
                }
                Err(error)
            }
        }
    }

    /// Tries until an answer or the end of patience.
    async fn repeat<T, F>(
        &self,
        method: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, TransportError>>,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let outcome = match tokio::time::timeout(self.shared.timeout, attempt()).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => Err(TransportErrorKind::custom_str("timed out")),
            };
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (reason, retry_after) = match retry::classify(method, error) {
                retry::Failure::Final(error) => return self.mark_odd_answers(Err(error)),
                retry::Failure::Again {
                    reason,
                    retry_after,
                } => (reason, retry_after),
            };
            self.doubt();
            let random = self.shared.environment.random();
            let Some(delay) = self.shared.retry.delay(attempts, retry_after, random) else {
                return Err(ChainError::Unavailable {
                    method: method.to_owned(),
                    attempts,
                    reason,
                    retry_after,
                });
            };
            tracing::warn!(method, attempts, %reason, delay_ms = delay.as_millis(), "asking the chain again");
            self.shared.environment.sleep(delay).await;
        }
    }

    async fn exchange_one(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Box<RawValue>, TransportError> {
        self.shared
            .rpc
            .request::<Value, Box<RawValue>>(method, params)
            .await
    }

    async fn exchange_batch(
        &self,
        calls: &[Call],
    ) -> Result<Vec<Result<Box<RawValue>, ChainError>>, TransportError> {
        let mut batch = self.shared.rpc.new_batch();
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

    /// After an answer that makes no sense the endpoint has to name its chain again.
    fn mark_odd_answers<T>(&self, outcome: Result<T, ChainError>) -> Result<T, ChainError> {
        if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Malformed) {
            self.doubt();
        }
        outcome
    }

    fn doubt(&self) {
        self.shared.verified.store(false, Ordering::Release);
    }
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
