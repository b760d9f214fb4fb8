//! Where others' connections come in: handshakes within bounds, then the protocol's handler.
//!
//! iroh's own router begins a task for each handshake, without a bound and without an end to one
//! that is never finished. Here each has a place that the gate gives, and a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_causes::WithCauses;
use iroh::Endpoint;
use iroh::endpoint::{Connection, Incoming, IncomingAddr};
use iroh::protocol::DynProtocolHandler;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::admission::{Admission, Entry, Pass};
use crate::limits::HANDSHAKE_TIME_MAX;
use crate::origin::Origin;

type Protocols = BTreeMap<&'static [u8], Box<dyn DynProtocolHandler>>;

/// Takes the connections that others begin.
#[derive(Debug)]
pub(crate) struct Entrance {
    endpoint: Endpoint,
    admission: Admission,
    protocols: Protocols,
}

fn origin(incoming: &Incoming) -> Origin {
    match incoming.remote_addr() {
        IncomingAddr::Ip(address) => Origin::ip(address.ip()),
        IncomingAddr::Relay { url, .. } => Origin::Relay(url.to_string()),
        _ => Origin::Unknown,
    }
}

impl Entrance {
    pub(crate) fn new(endpoint: Endpoint, admission: Admission) -> Self {
        Self {
            endpoint,
            admission,
            protocols: BTreeMap::new(),
        }
    }

    /// Lets `handler` take the connections of a protocol.
    pub(crate) fn accept(
        mut self,
        alpn: &'static [u8],
        handler: impl Into<Box<dyn DynProtocolHandler>>,
    ) -> Self {
        self.protocols.insert(alpn, handler.into());
        self
    }

    /// Runs until it is told to stop; then the handlers and the endpoint are shut down.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let protocols = Arc::new(self.protocols);
        let alpns = protocols.keys().map(|alpn| alpn.to_vec()).collect();
        self.endpoint.set_alpns(alpns);
        // As many tasks as there are handshakes and connections, which the gate bounds.
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        warn!(error = %error.with_causes(), "the task of a connection failed");
                    }
                }
                incoming = self.endpoint.accept() => match incoming {
                    None => break,
                    Some(incoming) => {
                        if let Some((incoming, pass)) = admit(&self.admission, incoming) {
                            tasks.spawn(serve(incoming, pass, Arc::clone(&protocols)));
                        }
                    }
                }
            }
        }
        for handler in protocols.values() {
            handler.shutdown().await;
        }
        tasks.shutdown().await;
        self.endpoint.close().await;
    }
}

fn admit(admission: &Admission, incoming: Incoming) -> Option<(Incoming, Pass)> {
    match admission.knock(&origin(&incoming), incoming.remote_addr_validated()) {
        Entry::Enter(pass) => Some((incoming, pass)),
        Entry::ProveAddress => {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            None
        }
        Entry::Refuse => {
            incoming.refuse();
            None
        }
    }
}

async fn serve(incoming: Incoming, mut pass: Pass, protocols: Arc<Protocols>) {
    let entered = timeout(HANDSHAKE_TIME_MAX, enter(incoming, &protocols));
    let entered = tokio::select! {
        entered = entered => entered.ok().flatten(),
        () = pass.displaced() => None,
    };
    drop(pass);
    let Some((handler, connection)) = entered else {
        return;
    };
    if let Err(error) = handler.accept(connection).await {
        debug!(error = %error.with_causes(), "a connection ended with an error");
    }
}

/// Finishes the handshake.
async fn enter(
    incoming: Incoming,
    protocols: &Protocols,
) -> Option<(&dyn DynProtocolHandler, Connection)> {
    let mut accepting = incoming.accept().ok()?;
    let alpn = accepting.alpn().await.ok()?;
    let handler = protocols.get(alpn.as_slice())?;
    let connection = handler.on_accepting(accepting).await.ok()?;
    Some((handler.as_ref(), connection))
}
