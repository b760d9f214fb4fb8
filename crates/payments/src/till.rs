//! The till: everything a node needs to take and make payments, put together and kept running.

use std::sync::Arc;

use alloy_primitives::keccak256;
use alloy_signer_local::PrivateKeySigner;
use hearth_causes::WithCauses;
use hearth_chain::client::ChainClient;
use hearth_chain::sender::{JournalError, RedbJournal, Sender, SenderConfig};
use hearth_environment::Environment;
use hearth_protocol::claim::ClaimPolicy;
use thiserror::Error;
use tokio::task::JoinSet;
use tracing::error;

use super::cashier::Cashier;
use super::desk::Desk;
use super::escrow::{Escrow, Escrows};
use super::follower::{Followed, Follower, POLL_INTERVAL_MS};
use super::gate::Gate;
use super::offer::{AcceptedAsset, Pricing};
use super::replies::Replies;
use super::settlement::Settlement;
use super::watchtower::TowerClient;
use crate::store::Store;

/// For what the secret is by which kept replies are sealed.
const REPLIES_PURPOSE: &str = "hearth: kept replies";

/// A chain on which payments are taken or made. It cannot be cloned: it becomes the one sender of an account on the
/// chain ([`open_escrows`]), which all parts of a process share as [`Escrows`]. Two would take the same nonces.
#[derive(Debug)]
pub struct ChainAccess {
    /// The chain.
    pub client: ChainClient,
    /// How transactions are sent.
    pub sender: SenderConfig,
}

/// The keys that act on chains.
#[derive(Clone)]
pub struct TillKeys {
    /// Pays for gas.
    pub account: PrivateKeySigner,
    /// Signs claims and refunds.
    pub session: PrivateKeySigner,
}

/// Why the till cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TillError {
    /// The journal of transactions cannot be read.
    #[error("the journal of sent transactions cannot be read")]
    Journal(#[from] JournalError),
}

/// Tasks that run until they are dropped. One that ends early is said, and ends the node.
pub type Tasks = JoinSet<&'static str>;

/// Everything that takes payments.
#[derive(Debug, Clone)]
pub struct Till {
    /// Channels.
    pub desk: Desk,
    /// One-off payments.
    pub cashier: Cashier,
    /// Replies for requests that are asked again.
    pub replies: Replies,
    /// Claims.
    pub settlement: Settlement,
    /// The chains.
    pub escrows: Escrows,
    /// What it keeps.
    pub store: Store,
    environment: Arc<dyn Environment>,
}

/// Opens the way to the contracts on each chain, and keeps their senders running in `tasks`.
///
/// # Errors
/// When the journal cannot be read.
pub fn open_escrows(
    chains: Vec<ChainAccess>,
    keys: &TillKeys,
    store: &Store,
    tasks: &mut Tasks,
) -> Result<Escrows, TillError> {
    let journal = Arc::new(RedbJournal::new(Arc::clone(store.database()))?);
    let mut escrows = Escrows::default();
    for ChainAccess { client, sender } in chains {
        let account = Arc::new(keys.account.clone());
        let confirmations = sender.confirmations;
        let (handle, task) = Sender::new(client.clone(), account, journal.clone(), sender)?;
        tasks.spawn(async move {
            if let Err(error) = task.run().await {
                error!(error = %error.with_causes(), "the sender of transactions stopped");
            }
            "the sender of transactions"
        });
        let session = keys.session.clone();
        escrows.insert(Escrow::new(client, handle, session, confirmations));
    }
    Ok(escrows)
}

impl Till {
    /// Opens the till over `store`, and keeps its parts running in `tasks`.
    ///
    /// `run` tells this run of the node from every other; the caller draws it at random.
    pub fn open(
        store: &Store,
        escrows: Escrows,
        policy: ClaimPolicy,
        tower: Option<TowerClient>,
        environment: &Arc<dyn Environment>,
        run: u64,
        tasks: &mut Tasks,
    ) -> Self {
        let clock = Arc::clone(environment);
        let (desk, task) = Desk::new(store.clone(), escrows.clone(), Arc::clone(&clock), run);
        tasks.spawn(async move {
            if let Err(error) = task.run().await {
                error!(error = %error.with_causes(), "the payment desk stopped");
            }
            "the payment desk"
        });
        let followed = Followed::default();
        for escrow in escrows.iter() {
            let (escrow, followed) = (Arc::clone(escrow), followed.clone());
            let desk = desk.clone();
            let follower = Follower::new(store.clone(), escrow, desk, followed, POLL_INTERVAL_MS);
            tasks.spawn(async move {
                follower.run().await;
                "the follower of events"
            });
        }
        let gas_share_ppm = policy.gas_share_ppm;
        let settlement = Settlement::new(
            store.clone(),
            escrows.clone(),
            desk.clone(),
            policy,
            tower,
            clock,
        )
        .beside_followers(followed);
        // Without a chain nothing is paid, and no reply is kept.
        let secret = escrows.iter().next();
        let secret = secret.map_or_else(
            || keccak256(run.to_be_bytes()),
            |escrow| escrow.secret(REPLIES_PURPOSE),
        );
        let replies = Replies::new(store.clone(), secret, Arc::clone(environment));
        let forgetful = replies.clone();
        tasks.spawn(async move {
            forgetful.forget().await;
            "the keeper of replies"
        });
        let claims = settlement.clone();
        tasks.spawn(async move {
            claims.run().await;
            "settlement"
        });
        Self {
            desk,
            cashier: Cashier::new(store.clone(), escrows.clone(), gas_share_ppm),
            replies,
            settlement,
            escrows,
            store: store.clone(),
            environment: Arc::clone(environment),
        }
    }

    /// Returns a gate that takes `assets`, the preferred one first, for what `pricing` says. Put a service behind it with
    /// [`PaidLayer`](crate::gate::PaidLayer).
    pub fn gate(&self, assets: Vec<AcceptedAsset>, pricing: impl Pricing) -> Gate {
        Gate {
            assets,
            pricing: Box::new(pricing),
            desk: self.desk.clone(),
            cashier: self.cashier.clone(),
            replies: self.replies.clone(),
            base_url: None,
            description: None,
            environment: Arc::clone(&self.environment),
        }
    }
}
