//! The network's chain while this device is up: opened with it, attached to its network, supplied with test money.

use std::time::Duration;

use hearth_net::Network;
use hearth_payments::till::ChainAccess;
use tokio::time::timeout;

use super::{Building, UpError};
use crate::home::Config;
use crate::shared_chain::line::ChainLine;
use crate::shared_chain::money;
use crate::terms::{self, ChainAccesses};

/// How long the start of a node waits for the device that runs the chain, and for the first test money.
const GREET_TIME_MAX: Duration = Duration::from_secs(5);

/// The ways to the chains that this device uses.
pub(super) async fn accesses(line: &ChainLine, config: &Config) -> ChainAccesses {
    let Some(used) = line.used() else {
        return terms::chain_accesses(config).await;
    };
    let access = ChainAccess {
        client: used.client().clone(),
        sender: terms::sender_config(1),
    };
    ChainAccesses {
        all: vec![access],
        silent: Vec::new(),
    }
}

impl Building<'_> {
    /// Opens the network's chain, or the line to it.
    pub(super) fn open_chain(&mut self) -> Result<ChainLine, UpError> {
        let Some(network) = self.config.network_chain.clone() else {
            return Ok(ChainLine::default());
        };
        let terms = self.config.ledger.terms(vec![self.keys.address()]);
        Ok(ChainLine::open(
            self.home,
            network,
            &terms,
            &mut self.warnings,
        )?)
    }

    /// Answers others about the chain that this device runs, reaches the one that it uses, and sees that there is test
    /// money to begin with.
    pub(super) async fn attach_chain(&mut self, line: &ChainLine, network: &Network) {
        line.attach(network);
        let Some(used) = line.used() else {
            return;
        };
        let reached = timeout(GREET_TIME_MAX, used.client().connect()).await;
        let is_reached = matches!(reached, Ok(Ok(())));
        let id = used.network().id();
        if !is_reached {
            self.warnings.push(format!(
                "The chain of this network ({id}) does not answer yet: another device runs it, and is away. Nothing is sold \
                 or bought until it is back; then it is used by itself",
            ));
        }
        let Some(escrow) = self.escrows.get(id) else {
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
