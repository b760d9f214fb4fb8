//! What a device that is up has to do with the network's chain: it runs it, or has a line to the device that does.

use std::sync::Arc;

use hearth_api::household::NetworkChainView;
use hearth_causes::WithCauses;
use hearth_chain::client::{Carrier, ChainClient, HttpOptions};
use hearth_chain::deployment::LedgerTerms;
use hearth_net::Network;

use super::carried;
use super::guest::GuestLine;
use super::host::HostedChain;
use super::ticket::ChainTicket;
use crate::home::{Home, NetworkChain, Part};
use crate::local_chain::LocalChainError;

/// What this device has to do with the network's chain; nothing where the configuration names chains.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainLine {
    used: Option<Used>,
    /// The chain that this device runs, also where it uses another.
    hosted: Option<Arc<HostedChain>>,
}

/// The chain that this device pays and is paid on.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    network: NetworkChain,
    client: ChainClient,
    /// Where another device runs it: the line to that one.
    guest: Option<Arc<GuestLine>>,
}

impl Used {
    /// Which chain it is.
    pub(crate) fn network(&self) -> &NetworkChain {
        &self.network
    }

    /// The way to it.
    pub(crate) fn client(&self) -> &ChainClient {
        &self.client
    }
}

impl ChainLine {
    /// Opens the network's chain, or the line to it. A chain that this device makes begins with a ledger of these terms.
    ///
    /// # Errors
    /// When the chain that this device runs and uses cannot be opened.
    pub(crate) fn open(
        home: &Home,
        network: NetworkChain,
        terms: &LedgerTerms,
        warnings: &mut Vec<String>,
    ) -> Result<Self, LocalChainError> {
        let hosted = hosted(home, &network, terms, warnings)?;
        let (client, guest) = match (network.joined(), &hosted) {
            (Some(joined), _) => {
                let line = Arc::new(GuestLine::new(joined.host.clone()));
                let carrier: Arc<dyn Carrier> = Arc::<GuestLine>::clone(&line);
                let client = carried(carrier, &network, HttpOptions::default());
                (client, Some(line))
            }
            (None, Some(hosted)) => {
                let transport = hosted.chain().transport();
                (ChainClient::from_transport(transport, hosted.id()), None)
            }
            (None, None) => return Ok(Self::default()),
        };
        let used = Some(Used {
            network,
            client,
            guest,
        });
        Ok(Self { used, hosted })
    }

    /// The chain that this device pays and is paid on; nothing where the configuration names chains.
    pub(crate) fn used(&self) -> Option<&Used> {
        self.used.as_ref()
    }

    /// Answers others about the chain that this device runs, and reaches the one that it uses.
    pub(crate) fn attach(&self, network: &Network) {
        if let Some(hosted) = &self.hosted {
            network.answer_chain(Arc::<HostedChain>::clone(hosted));
        }
        if let Some(guest) = self.used.as_ref().and_then(|used| used.guest.as_ref()) {
            guest.attach(network);
        }
    }

    /// What a ticket of this device says of the chain.
    pub(crate) fn ticket(&self) -> Option<ChainTicket> {
        let network = &self.used.as_ref()?.network;
        Some(ChainTicket {
            chain_id: network.id().0,
            host: network.joined().map(|joined| joined.host.clone()),
        })
    }

    /// How the owner's commands reach the chain.
    pub(crate) fn carrier(&self) -> Option<Arc<dyn Carrier>> {
        let used = self.used.as_ref()?;
        match (&used.guest, &self.hosted) {
            (Some(guest), _) => Some(Arc::<GuestLine>::clone(guest)),
            (None, Some(hosted)) => Some(Arc::<HostedChain>::clone(hosted)),
            (None, None) => None,
        }
    }

    /// Which chain it is, for people.
    pub(crate) fn view(&self, network: &Network) -> Option<NetworkChainView> {
        let chain = &self.used.as_ref()?.network;
        let host = chain.joined().map(|joined| joined.host.device);
        Some(NetworkChainView {
            chain: chain.id().to_string(),
            host: host.unwrap_or(network.device()).to_string(),
            is_own: host.is_none(),
        })
    }

    /// Closes the chain that this device runs, once nobody asks it any more.
    pub(crate) fn close(&self) {
        if let Some(hosted) = &self.hosted {
            hosted.close();
        }
    }
}

/// Opens the chain that this device runs. One that uses another goes on running its own for those who joined it.
fn hosted(
    home: &Home,
    network: &NetworkChain,
    terms: &LedgerTerms,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<HostedChain>>, LocalChainError> {
    let is_used = network.joined().is_none();
    if !is_used && !home.store_path(Part::Chain).exists() {
        return Ok(None);
    }
    match HostedChain::open(home, network, Some(terms)) {
        Ok(hosted) => Ok(Some(Arc::new(hosted))),
        Err(error) if is_used => Err(error),
        Err(error) => {
            warnings.push(format!(
                "The chain of this device's own, which it does not use, is not run for others: {}",
                error.with_causes()
            ));
            Ok(None)
        }
    }
}
