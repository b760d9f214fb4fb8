//! The line to a chain that another device runs.

use std::fmt;

use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_chain::client::{Carrier, CarryError};
use hearth_net::{Network, PeerAddress};
use tokio::sync::watch;

/// Carries requests to the chain of `host`, once the network is open. Until then they wait, within the time of the one
/// who asks: the books are opened before the network is.
pub(crate) struct GuestLine {
    host: PeerAddress,
    network: watch::Sender<Option<Network>>,
}

impl fmt::Debug for GuestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestLine")
            .field("host", &self.host.device)
            .finish_non_exhaustive()
    }
}

impl GuestLine {
    pub(crate) fn new(host: PeerAddress) -> Self {
        let network = watch::Sender::new(None);
        Self { host, network }
    }

    /// Uses `network` from now on.
    pub(crate) fn attach(&self, network: &Network) {
        self.network.send_replace(Some(network.clone()));
    }

    async fn network(&self) -> Option<Network> {
        let mut open = self.network.subscribe();
        let network = open.wait_for(Option::is_some).await.ok()?;
        network.clone()
    }
}

impl Carrier for GuestLine {
    fn carry(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, CarryError>> {
        Box::pin(async move {
            let away = || CarryError::Away("the network is not open".to_owned());
            let network = self.network().await.ok_or_else(away)?;
            let asked = network.ask_chain(&self.host, &request).await;
            asked.map_err(|error| {
                let words = error.with_causes().to_string();
                if error.is_retryable() {
                    CarryError::Away(words)
                } else {
                    CarryError::Refused(words)
                }
            })
        })
    }
}
