//! The network's chain while this device is up: run here for all, or asked of the device that runs it.

use std::sync::Arc;
use std::time::Duration;

use hearth_api::household::NetworkChainView;
use hearth_causes::WithCauses;
use hearth_chain::client::{Carrier, ChainClient, HttpOptions};
use hearth_net::Network;
use hearth_payments::till::ChainAccess;
use tokio::time::timeout;

use super::{Building, UpError};
use crate::home::{Config, Home, NetworkChain, Part};
use crate::local_chain::LocalChainError;
use crate::shared_chain::guest::GuestLine;
use crate::shared_chain::host::HostedChain;
use crate::shared_chain::ticket::ChainTicket;
use crate::shared_chain::{carried, money};
use crate::terms::{self, ChainAccesses};

/// How long the start of a node waits for the device that runs the chain, and for the first test money.
const GREET_TIME_MAX: Duration = Duration::from_secs(5);

/// What this device has to do with the network's chain; nothing where the configuration names chains.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainLine {
    used: Option<Used>,
    /// The chain that this device runs, also where it uses another.
    hosted: Option<Arc<HostedChain>>,
}

/// The chain that this device pays and is paid on.
#[derive(Debug, Clone)]
struct Used {
    network: NetworkChain,
    client: ChainClient,
    /// Where another device runs it: the line to that one.
    guest: Option<Arc<GuestLine>>,
}

impl ChainLine {
    /// The ways to the chains that this device uses.
    pub(super) async fn accesses(&self, config: &Config) -> ChainAccesses {
        let Some(used) = &self.used else {
            return terms::chain_accesses(config).await;
        };
        let access = ChainAccess {
            client: used.client.clone(),
            sender: terms::sender_config(1),
        };
        ChainAccesses {
            all: vec![access],
            silent: Vec::new(),
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
    pub(super) fn view(&self, network: &Network) -> Option<NetworkChainView> {
        let chain = &self.used.as_ref()?.network;
        let host = chain.joined().map(|joined| joined.host.device);
        Some(NetworkChainView {
            chain: chain.id().to_string(),
            host: host.unwrap_or(network.device()).to_string(),
            is_own: host.is_none(),
        })
    }

    /// Closes the chain that this device runs, once nobody asks it any more.
    pub(super) fn close(&self) {
        if let Some(hosted) = &self.hosted {
            hosted.close();
        }
    }
}

/// Opens the chain that this device runs. One that uses another goes on running its own for those who joined it.
fn hosted(
    home: &Home,
    network: &NetworkChain,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<HostedChain>>, LocalChainError> {
    let is_used = network.joined().is_none();
    if !is_used && !home.store_path(Part::Chain).exists() {
        return Ok(None);
    }
    match HostedChain::open(home, network) {
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

impl Building<'_> {
    /// Opens the network's chain, or the line to it.
    pub(super) fn open_chain(&mut self) -> Result<ChainLine, UpError> {
        let Some(network) = self.config.network_chain.clone() else {
            return Ok(ChainLine::default());
        };
        let hosted = hosted(self.home, &network, &mut self.warnings)?;
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
            (None, None) => return Ok(ChainLine::default()),
        };
        let used = Some(Used {
            network,
            client,
            guest,
        });
        Ok(ChainLine { used, hosted })
    }

    /// Answers others about the chain that this device runs, reaches the one that it uses, and sees that there is test
    /// money to begin with.
    pub(super) async fn attach_chain(&mut self, line: &ChainLine, network: &Network) {
        if let Some(hosted) = &line.hosted {
            network.answer_chain(Arc::<HostedChain>::clone(hosted));
        }
        let Some(used) = &line.used else {
            return;
        };
        if let Some(guest) = &used.guest {
            guest.attach(network);
        }
        let reached = timeout(GREET_TIME_MAX, used.client.connect()).await;
        let is_reached = matches!(reached, Ok(Ok(())));
        if !is_reached {
            self.warnings.push(format!(
                "The chain of this network ({}) does not answer yet: another device runs it, and is away. Nothing is \
                 sold or bought until it is back; then it is used by itself",
                used.network.id()
            ));
        }
        let Some(escrow) = self.escrows.get(used.network.id()) else {
            return;
        };
        if is_reached {
            // What goes wrong is tried again below.
            drop(timeout(GREET_TIME_MAX, money::supply(&escrow)).await);
        }
        self.tasks.spawn(async move {
            money::keep_supplied(escrow).await;
            "the supply of test money"
        });
    }
}
