//! The embedded chain of this device, run inside the node for its household and for those who joined it.

use std::sync::Arc;

use futures::future::BoxFuture;
use hearth_chain::client::{Carrier, CarryError};
use hearth_chain::deployment::LedgerTerms;
use hearth_chain::embedded::{Embedded, VisitorDoor};
use hearth_net::AnswersChain;
use hearth_protocol::id::ChainId;
use hearth_protocol::offer::DeviceId;
use tokio::sync::Semaphore;

use crate::home::{Home, HomeLock, NetworkChain};
use crate::local_chain::{self, LocalChainError};

/// Requests that are computed at once, of the household's other devices and of strangers each: what they ask for costs
/// this device's processor. More wait, as many as the network lets in.
const COMPUTED_AT_ONCE: usize = 2;

/// A chain that this process has for itself. It is closed when the last clone of its chain is dropped.
#[derive(Debug)]
pub(crate) struct HostedChain {
    chain: Embedded,
    id: ChainId,
    /// How the household's other devices use it, and how strangers do.
    doors: [Arc<VisitorDoor>; 2],
    places: [Arc<Semaphore>; 2],
    _lock: HomeLock,
}

impl HostedChain {
    /// Opens the chain of a data folder, or makes it, with a ledger where `terms` are given.
    ///
    /// # Errors
    /// See [`LocalChainError`]; among others where `hearth chain run` has it.
    pub(crate) fn open(
        home: &Home,
        network: &NetworkChain,
        terms: Option<&LedgerTerms>,
    ) -> Result<Self, LocalChainError> {
        let (chain, id, lock) = local_chain::open_own(home, network.own(), terms)?;
        Ok(Self {
            doors: [(); 2].map(|()| Arc::new(chain.for_visitors())),
            places: [(); 2].map(|()| Arc::new(Semaphore::new(COMPUTED_AT_ONCE))),
            chain,
            id,
            _lock: lock,
        })
    }

    /// Which chain it is.
    pub(crate) fn id(&self) -> ChainId {
        self.id
    }

    /// The chain itself.
    pub(crate) fn chain(&self) -> &Embedded {
        &self.chain
    }

    /// Finishes what the chain has taken, and closes its file.
    pub(crate) fn close(&self) {
        self.chain.shutdown();
    }
}

impl AnswersChain for HostedChain {
    fn answer(
        &self,
        _device: DeviceId,
        is_member: bool,
        request: Vec<u8>,
    ) -> BoxFuture<'_, Vec<u8>> {
        let group = usize::from(!is_member);
        let (door, places) = (
            Arc::clone(&self.doors[group]),
            Arc::clone(&self.places[group]),
        );
        Box::pin(async move {
            // It is closed never, so there is always a permit in the end.
            let permit = places.acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let reply = door.answer(&request);
                drop(permit);
                reply
            });
            // A panic of the chain costs the visitor its reply.
            work.await.unwrap_or_default()
        })
    }
}

/// The owner's own commands: every method of the public JSON-RPC.
impl Carrier for HostedChain {
    fn carry(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, CarryError>> {
        let chain = self.chain.clone();
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || chain.answer(&request));
            let reply = work.await;
            reply
                .map(Option::unwrap_or_default)
                .map_err(|_| CarryError::Away("the chain failed".to_owned()))
        })
    }
}
