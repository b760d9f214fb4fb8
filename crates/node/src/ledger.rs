//! The ledger, as this node uses it: where it stands on a chain, what this device signs for it, and how one is put up on a
//! chain that has none.
//!
//! What is read and which calls there are is in `hearth_chain::ledger`. Deliberately absent: when anything is signed or
//! sent. Implements docs/spec/14-ledger.md, section 11, and docs/spec/04-keys.md, section 6.

mod deploy;
mod signer;

use alloy_primitives::Address;
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{LEDGER_ADDRESSES, is_embedded_id};
use hearth_chain::ledger::{Ledger, LedgerError};
use hearth_protocol::id::ChainId;
use thiserror::Error;

use crate::advice::Advice;
use crate::home::Config;

pub use deploy::{DeployError, deploy};
pub use signer::{Declaration, LedgerSigner, RegistrationKeys, SignError, registration_call};

/// Why there is no ledger to use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoLedger {
    /// The configuration names none.
    #[error("config.toml names no ledger on {0}")]
    NotNamed(ChainId),
    /// The embedded chain began without one.
    #[error("the chain {0} began without a ledger")]
    Without(ChainId),
    /// What stands there cannot be used.
    #[error("the ledger on {chain} cannot be used")]
    Unusable {
        /// The chain.
        chain: ChainId,
        /// Why.
        #[source]
        source: LedgerError,
    },
}

impl Advice for NoLedger {
    fn code(&self) -> &str {
        match self {
            Self::NotNamed(_) => "ledger_not_named",
            Self::Without(_) => "ledger_missing",
            Self::Unusable { source, .. } if source.is_retryable() => "chain_unavailable",
            Self::Unusable { .. } => "ledger_unusable",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::NotNamed(chain) => format!(
                "Write ledger = \"0x…\" into [chains.\"{chain}\"] with the address of its ledger; \
                 `hearth chain deploy` puts one up and prints it"
            ),
            Self::Without(_) => {
                "A chain keeps what it began with: use another data folder with --home, which begins a chain with a \
                 ledger, or join a network that has one"
                    .to_owned()
            }
            Self::Unusable { source, .. } if source.is_retryable() => {
                "Try again when the chain answers".to_owned()
            }
            Self::Unusable { .. } => {
                "Correct the address of the ledger in config.toml".to_owned()
            }
        }
    }
}

/// The ledger on the chain of `client`: that of the configuration, or the one that embedded chains begin with.
///
/// # Errors
/// See [`NoLedger`].
pub async fn find(config: &Config, client: ChainClient) -> Result<Ledger, NoLedger> {
    let chain = client.chain();
    let runs = named(config, chain).ok_or(NoLedger::NotNamed(chain))?;
    let is_embedded = is_embedded_id(chain.0);
    Ledger::find(client, runs)
        .await
        .map_err(|source| match source {
            LedgerError::Missing { .. } if is_embedded => NoLedger::Without(chain),
            source => NoLedger::Unusable { chain, source },
        })
}

/// Where the `Runs` of a chain's ledger stands.
fn named(config: &Config, chain: ChainId) -> Option<Address> {
    let configured = config.chains.get(&chain).and_then(|chain| chain.ledger);
    configured.or_else(|| is_embedded_id(chain.0).then_some(LEDGER_ADDRESSES.runs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::{Home, NetworkChain};
    use crate::local_chain::open_own;

    #[tokio::test]
    async fn a_new_chain_has_a_ledger_and_one_of_before_says_that_it_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let config = home.config().unwrap();
        let id = config
            .network_chain
            .as_ref()
            .map(NetworkChain::own)
            .unwrap();
        let founder = Address::repeat_byte(7);
        let terms = config.ledger.terms(vec![founder]);
        let (chain, id, lock) = open_own(&home, id, Some(&terms)).unwrap();
        let client = ChainClient::from_transport(chain.transport(), id);
        let ledger = find(&config, client).await.unwrap();
        assert_eq!(
            (ledger.clock().epoch_s(), ledger.clock().window_s()),
            (600, 120)
        );
        assert_eq!(ledger.votes(founder).await.unwrap(), terms.votes_each);
        chain.shutdown();
        drop((ledger, chain, lock));

        let old = tempfile::tempdir().unwrap();
        let old = Home::open(old.path()).unwrap();
        let config = old.config().unwrap();
        let id = config
            .network_chain
            .as_ref()
            .map(NetworkChain::own)
            .unwrap();
        let (chain, id, lock) = open_own(&old, id, None).unwrap();
        let client = ChainClient::from_transport(chain.transport(), id);
        let none = find(&config, client).await.unwrap_err();
        assert_eq!(none.code(), "ledger_missing");
        chain.shutdown();
        drop((chain, lock));
        // Opened as `hearth up` does it, it stays what it was.
        let (chain, id, _lock) = open_own(&old, id, Some(&terms)).unwrap();
        let client = ChainClient::from_transport(chain.transport(), id);
        assert_eq!(client.head().await.unwrap().number, 0);
        assert!(find(&config, client).await.is_err());
    }

    #[tokio::test]
    async fn a_public_chain_has_the_ledger_that_the_configuration_names() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let text = std::fs::read_to_string(home.config_path()).unwrap();
        let (before, rest) = text.split_once("[assets.TESTUSD]").unwrap();
        let (_, after) = rest.split_once("# How this device is paid").unwrap();
        let with = |line: &str| {
            let chain = format!(
                "[chains.\"eip155:31337\"]\nname = \"test\"\nrpc = [\"http://127.0.0.1:1\"]\nconfirmations = 1\n{line}\n"
            );
            std::fs::write(home.config_path(), format!("{before}{chain}# {after}")).unwrap();
            home.config()
        };
        let none = with("").unwrap();
        assert_eq!(named(&none, ChainId(31_337)), None);
        let url = "http://127.0.0.1:1".parse().unwrap();
        let client = ChainClient::http(url, ChainId(31_337), Default::default()).unwrap();
        let error = find(&none, client).await.unwrap_err();
        assert_eq!(error.code(), "ledger_not_named");
        assert!(error.next_step().contains("hearth chain deploy"));
        let runs = LEDGER_ADDRESSES.runs;
        let some = with(&format!("ledger = \"{runs}\"")).unwrap();
        assert_eq!(named(&some, ChainId(31_337)), Some(runs));
        let wrong = with("ledger = \"0x12\"").unwrap_err().to_string();
        assert!(wrong.contains("line"), "{wrong}");
    }
}
