//! Sends transactions for one account on one chain, each intent exactly once.
//!
//! A [`Sender`] is a handle; its [`SenderTask`] is the one owner of the account's nonces, and is run by the caller that made
//! it. [`Sender::submit`] takes a name for what is to be done and returns when it is final. The name is the promise:
//! after a crash the same name leads to the same transaction, never to a second one. What is sent next is decided in
//! [`machine`]; this module signs, asks, writes and waits as it is told.
//!
//! Two senders for one account on one chain are a mistake that the chain survives (one of them is a stranger to the
//! other) but that costs time; [`Sender::new`] cannot see across processes. Submit an intent that depends on another
//! after the other is final: its gas is estimated on top of the newest block. (spec: 06-chain,
//! section 3)

mod driver;
pub mod fees;
mod intent;
pub mod journal;
pub mod machine;

use std::sync::Arc;

use alloy_network::TxSigner;
use alloy_primitives::Signature;
use tokio::sync::{mpsc, oneshot};

use crate::client::ChainClient;
pub use driver::{SenderStopped, SenderTask};
pub use intent::{Attempt, BadIntentId, IntentId, MAX_INTENT_ID_BYTES, Receipt, TxIntent};
pub use journal::{Journal, JournalEntry, JournalError, JournalKey, RedbJournal};
pub use machine::{Lane, SenderConfig};

/// The most requests of a lane that wait for the sender's task.
const MAX_WAITING_REQUESTS: usize = 256;

/// The key that signs.
pub type DynSigner = Arc<dyn TxSigner<Signature> + Send + Sync>;

/// An intent was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It is in the chain but did nothing: the contract refused. Only its gas was spent.
    #[error("the transaction {} reverted: {reason}", receipt.transaction_hash)]
    Reverted {
        /// Where it is.
        receipt: Receipt,
        /// The contract's reason, or that none could be found out.
        reason: String,
    },
    /// The chain says that it would fail; nothing was sent.
    #[error("nothing was sent, because it would fail: {reason}")]
    WouldFail {
        /// The chain's words.
        reason: String,
    },
    /// The endpoint does not do it, whatever the call says: it is of another chain, or the account that sends has no coin
    /// for the gas; nothing was sent.
    #[error("nothing was sent, because the endpoint refuses: {reason}")]
    Unusable {
        /// The endpoint's words, or what is wrong with it.
        reason: String,
    },
    /// It needs more gas than its cap; nothing was sent.
    #[error("nothing was sent: it needs {needed} gas, more than its cap")]
    TooMuchGas {
        /// The estimate.
        needed: u64,
    },
    /// Its deadline passed before it could be signed; nothing was sent.
    #[error(
        "nothing was sent before the deadline; check the connection to the chain and the fee cap, then try again"
    )]
    DeadlinePassed,
    /// The key did not sign; nothing was sent.
    #[error("nothing was sent, because the key did not sign: {reason}")]
    NotSigned {
        /// The key's words.
        reason: String,
    },
    /// Too many intents wait; nothing was sent.
    #[error(
        "nothing was sent: {} intents wait already; try again later",
        machine::MAX_QUEUED
    )]
    QueueFull,
    /// The name stands for something else already; nothing was sent.
    #[error("nothing was sent: the name `{0}` stands for another transaction already")]
    NameTaken(IntentId),
    /// The sender's task has ended. Whether the intent was sent is in its journal: submit it again after a restart.
    #[error("the sender has stopped; restart it and submit the same intent again")]
    Stopped,
}

/// A request to the sender's task.
#[derive(Debug)]
enum Request {
    Submit(
        IntentId,
        TxIntent,
        Lane,
        oneshot::Sender<Result<Receipt, SendError>>,
    ),
    Forget(IntentId, oneshot::Sender<Result<(), SendError>>),
}

/// A handle on the sender of one account on one chain. Clones share it.
#[derive(Clone, Debug)]
pub struct Sender {
    requests: mpsc::Sender<Request>,
    first: mpsc::Sender<Request>,
    key: JournalKey,
}

/// Where the sender's task hears what it is asked.
#[derive(Debug)]
struct Inbox {
    requests: mpsc::Receiver<Request>,
    /// What [`Sender::submit_first`] asks: it has a queue of its own all the way.
    first: mpsc::Receiver<Request>,
}

impl Sender {
    /// A handle and the task that must be run for it. What the journal has is continued as soon as the task runs.
    ///
    /// # Errors
    /// [`JournalError`] if the journal cannot be read.
    pub fn new(
        client: ChainClient,
        signer: DynSigner,
        journal: Arc<dyn Journal>,
        config: SenderConfig,
    ) -> Result<(Self, SenderTask), JournalError> {
        let key = JournalKey {
            chain: client.chain(),
            account: signer.address(),
        };
        let (requests, usual) = mpsc::channel(MAX_WAITING_REQUESTS);
        let (first, firsts) = mpsc::channel(MAX_WAITING_REQUESTS);
        let inbox = Inbox {
            requests: usual,
            first: firsts,
        };
        let task = SenderTask::new(client, signer, journal, key, config, inbox)?;
        let sender = Self {
            requests,
            first,
            key,
        };
        Ok((sender, task))
    }

    /// The chain and account that this sender is for.
    #[must_use]
    pub fn key(&self) -> JournalKey {
        self.key
    }

    /// Does `intent` once and returns when that is final. The same name with the same content, now or after a
    /// restart, is answered with the same transaction. Dropping the returned future stops the waiting, not the
    /// sending.
    ///
    /// # Errors
    /// [`SendError`]; for all but [`SendError::Reverted`] and [`SendError::Stopped`] nothing was or will be sent, and
    /// the name is free again.
    pub async fn submit(&self, id: IntentId, intent: TxIntent) -> Result<Receipt, SendError> {
        ask(&self.requests, |reply| {
            Request::Submit(id, intent, Lane::Usual, reply)
        })
        .await
    }

    /// The same ahead of everything that [`Sender::submit`] asked and that has no nonce yet, with a queue and some
    /// places under way of its own: however much others ask for, it waits for none of that.
    ///
    /// # Errors
    /// As [`Sender::submit`].
    pub async fn submit_first(&self, id: IntentId, intent: TxIntent) -> Result<Receipt, SendError> {
        ask(&self.first, |reply| {
            Request::Submit(id, intent, Lane::First, reply)
        })
        .await
    }

    /// Removes a finished intent from the journal: the caller will never ask for it again.
    ///
    /// # Errors
    /// [`SendError::NameTaken`] while it is under way; [`SendError::Stopped`].
    pub async fn forget(&self, id: IntentId) -> Result<(), SendError> {
        ask(&self.first, |reply| Request::Forget(id, reply)).await
    }
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<Result<T, SendError>>) -> Request,
) -> Result<T, SendError> {
    let (reply, answer) = oneshot::channel();
    requests
        .send(request(reply))
        .await
        .map_err(|_| SendError::Stopped)?;
    answer.await.unwrap_or(Err(SendError::Stopped))
}
