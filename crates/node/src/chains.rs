//! The chains that the configuration names, as clients that were seen to serve the right chain.
//!
//! Endpoints are tried in their order; the first that answers as the configured chain is used. Which chain is meant
//! is never guessed: with several configured, the caller has to say. Where none is configured, the network's is meant, and
//! `door` finds the way to it.

mod door;

use futures::future::BoxFuture;
use hearth_chain::client::{ChainClient, ChainError, HttpOptions, RetryPolicy};
use hearth_chain::embedded::{DEFAULT_CHAIN_ID, is_embedded_id};
use hearth_protocol::id::ChainId;
use thiserror::Error;
use url::Url;

use crate::advice::Advice;
use crate::home::{Config, HomeError, NetworkChain};
use crate::local_chain::LocalChainError;

/// Tries of one call by a command that somebody waits for.
const ATTEMPTS_WHILE_WAITING: u32 = 2;

/// Which chain, as a person says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainChoice {
    /// The configured name or the CAIP-2 id; may be left out where only one chain is configured.
    pub chain: Option<String>,
    /// An endpoint to use instead of the configured ones.
    pub rpc: Option<String>,
}

/// A chain that answers.
#[derive(Debug, Clone)]
pub struct ChainAccess {
    /// Which one.
    pub id: ChainId,
    /// The configured name, or the id of a chain that is not configured.
    pub name: String,
    /// Blocks that make a transaction final, its own included.
    pub confirmations: u64,
    /// Where it answers, for people.
    pub place: String,
    /// The client.
    pub client: ChainClient,
}

/// Why a chain cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AccessError {
    /// None is configured, and none was named.
    #[error("no chain is configured")]
    None,
    /// Several are configured, and none was named.
    #[error("several chains are configured: {known}")]
    Several {
        /// Their ids.
        known: String,
    },
    /// The one that was named is not configured.
    #[error("the chain {wanted:?} is not configured; there is {known}")]
    Unknown {
        /// What was named.
        wanted: String,
        /// The ids of those that are.
        known: String,
    },
    /// The endpoint given is no URL.
    #[error("{0:?} is not an http or https URL")]
    BadUrl(String),
    /// No endpoint serves it.
    #[error("{id} does not answer at {url}")]
    Unusable {
        /// The chain.
        id: ChainId,
        /// Where it was looked for last.
        url: String,
        /// What it said.
        #[source]
        source: Box<ChainError>,
    },
    /// The data folder.
    #[error(transparent)]
    Home(HomeError),
    /// This device was never up, so it has no chain of its own yet.
    #[error("this device has no chain yet")]
    NotMade,
    /// Another device runs it, which only the node can ask.
    #[error("{0} is run by another device of the network, and this one is not up")]
    NodeNeeded(ChainId),
    /// The device that runs it does not answer.
    #[error("the device that runs {chain} for this network does not answer: {reason}")]
    HostAway {
        /// The chain.
        chain: ChainId,
        /// What the node met.
        reason: String,
    },
    /// The node that is up uses the chain of before it joined.
    #[error("the node that is up does not use {0} yet, the chain of the network that it joined")]
    NodeBehind(ChainId),
    /// This device's own chain cannot be opened.
    #[error(transparent)]
    Own(Box<LocalChainError>),
}

impl Advice for AccessError {
    fn code(&self) -> &str {
        match self {
            Self::None | Self::Several { .. } | Self::Unknown { .. } => "which_chain",
            Self::BadUrl(_) => "bad_url",
            Self::Unusable { source, .. } => match **source {
                ChainError::WrongChain { .. } => "wrong_chain",
                _ => "chain_unavailable",
            },
            Self::Home(error) => error.code(),
            Self::Own(error) => error.code(),
            Self::NotMade | Self::NodeNeeded(_) => "not_up",
            Self::HostAway { .. } => "chain_unavailable",
            Self::NodeBehind(_) => "start_again",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::None => "Add a [chains] table to config.toml".to_owned(),
            Self::Several { .. } => "Name one with --chain".to_owned(),
            Self::Unknown { .. } => {
                "Name one of those, name a CAIP-2 id together with --rpc, or add it to config.toml"
                    .to_owned()
            }
            Self::BadUrl(_) => "Give an address such as http://127.0.0.1:8545".to_owned(),
            Self::Unusable { source, id, .. } => match &**source {
                ChainError::WrongChain { actual, .. } => format!(
                    "Correct the address, or say `--chain {actual}` if that is the chain you mean"
                ),
                _ if is_embedded_id(id.0) => {
                    "Start the embedded chain with `hearth chain run`, or name its address with --rpc"
                        .to_owned()
                }
                _ => "Check the network and the address, or name another endpoint with --rpc".to_owned(),
            },
            Self::Home(error) => error.next_step(),
            Self::Own(error) => error.next_step(),
            Self::NotMade => {
                "Start `hearth up`, which makes one, or `hearth chain run`".to_owned()
            }
            Self::HostAway { .. } => {
                "Start `hearth up` on that device; this one goes on by itself when it answers".to_owned()
            }
            Self::NodeBehind(_) => "Stop `hearth up` and start it again".to_owned(),
            Self::NodeNeeded(_) => {
                "Start it with `hearth up` in another terminal, and ask again".to_owned()
            }
        }
    }
}

/// What a choice comes to, before anything is asked.
struct Target {
    id: ChainId,
    name: String,
    confirmations: u64,
    endpoints: Vec<Url>,
    /// The network's chain, where that is meant and no endpoint is given.
    network: Option<NetworkChain>,
}

fn resolve(config: &Config, choice: &ChainChoice) -> Result<Target, AccessError> {
    let known = || {
        let ids: Vec<String> = config.chains.keys().map(ToString::to_string).collect();
        ids.join(", ")
    };
    let given = choice.rpc.as_deref().map(endpoint).transpose()?;
    let configured = match &choice.chain {
        Some(wanted) => match (config.chain(wanted), wanted.parse::<ChainId>()) {
            (Some(found), _) => found,
            // A chain that is not configured can be looked at by its id and an endpoint.
            (None, Ok(id)) if given.is_some() => {
                return Ok(Target {
                    id,
                    name: id.to_string(),
                    confirmations: 1,
                    endpoints: given.into_iter().collect(),
                    network: None,
                });
            }
            (None, _) => {
                return Err(AccessError::Unknown {
                    wanted: wanted.clone(),
                    known: known(),
                });
            }
        },
        None => {
            let mut all = config.chains.iter();
            match (all.next(), all.next()) {
                (None, _) => return Err(AccessError::None),
                (Some((id, chain)), None) => (*id, chain),
                (Some(_), Some(_)) => return Err(AccessError::Several { known: known() }),
            }
        }
    };
    let (id, chain) = configured;
    let unmade = config
        .network_chain
        .as_ref()
        .filter(|chain| !chain.is_there());
    let id = match unmade {
        // Before there is a chain of the network, an endpoint without a name is that of `hearth chain run`.
        Some(_) if given.is_some() && choice.chain.is_none() => ChainId(DEFAULT_CHAIN_ID),
        _ => id,
    };
    Ok(Target {
        id,
        name: chain.name.clone(),
        confirmations: chain.confirmations,
        network: config.network_chain.clone().filter(|_| given.is_none()),
        endpoints: given.map_or_else(|| chain.rpc.clone(), |url| vec![url]),
    })
}

fn endpoint(text: &str) -> Result<Url, AccessError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| AccessError::BadUrl(text.to_owned()))
}

/// Connects to the chain that is meant.
///
/// # Errors
/// See [`AccessError`].
pub fn connect<'a>(
    config: &'a Config,
    choice: &'a ChainChoice,
) -> BoxFuture<'a, Result<ChainAccess, AccessError>> {
    Box::pin(async move {
        let target = resolve(config, choice)?;
        let options = HttpOptions {
            retry: RetryPolicy {
                max_attempts: ATTEMPTS_WHILE_WAITING,
                ..RetryPolicy::default()
            },
            ..HttpOptions::default()
        };
        if let Some(network) = &target.network {
            return through_door(&target, network, options).await;
        }
        let mut last = AccessError::None;
        for url in target.endpoints {
            match try_endpoint(&url, target.id, options).await {
                Ok(client) => {
                    return Ok(ChainAccess {
                        id: target.id,
                        name: target.name,
                        confirmations: target.confirmations,
                        place: url.to_string(),
                        client,
                    });
                }
                Err(source) => {
                    last = AccessError::Unusable {
                        id: target.id,
                        url: url.to_string(),
                        source: Box::new(source),
                    };
                }
            }
        }
        Err(last)
    })
}

/// The network's chain, wherever it is now.
async fn through_door(
    target: &Target,
    network: &NetworkChain,
    options: HttpOptions,
) -> Result<ChainAccess, AccessError> {
    let door = door::open(network, options).await?;
    let failed = |source| AccessError::Unusable {
        id: target.id,
        url: door.place.clone(),
        source: Box::new(source),
    };
    door.client.connect().await.map_err(failed)?;
    Ok(ChainAccess {
        id: target.id,
        name: target.name.clone(),
        confirmations: target.confirmations,
        place: door.place,
        client: door.client,
    })
}

async fn try_endpoint(
    url: &Url,
    id: ChainId,
    options: HttpOptions,
) -> Result<ChainClient, ChainError> {
    let client = ChainClient::http(url.clone(), id, options)?;
    client.connect().await?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    fn config(edit: impl Fn(String) -> String) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let text = std::fs::read_to_string(home.config_path()).unwrap();
        let text = crate::home::naming_the_embedded_chain(&text);
        std::fs::write(home.config_path(), edit(text)).unwrap();
        home.config().unwrap()
    }

    fn choice(chain: Option<&str>, rpc: Option<&str>) -> ChainChoice {
        ChainChoice {
            chain: chain.map(str::to_owned),
            rpc: rpc.map(str::to_owned),
        }
    }

    const SECOND: &str = "[chains.\"eip155:31337\"]\nname = \"anvil\"\nrpc = [\"http://127.0.0.1:1\"]\nconfirmations = 2\n";

    #[test]
    fn the_only_chain_is_meant_and_one_of_several_must_be_named() {
        let one = config(|text| text);
        assert_eq!(resolve(&one, &choice(None, None)).unwrap().id.0, 402_402);
        let two = config(|text| text + SECOND);
        let error = resolve(&two, &choice(None, None)).err().unwrap();
        assert_eq!(error.code(), "which_chain");
        assert!(error.to_string().contains("eip155:31337, eip155:402402"));
        let named = resolve(&two, &choice(Some("anvil"), None)).unwrap();
        assert_eq!((named.id.0, named.confirmations), (31_337, 2));
    }

    #[tokio::test]
    async fn the_networks_chain_is_meant_where_none_is_named_and_is_there_once_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let config = home.config().unwrap();
        let id = config.network_chain.clone().unwrap().id();
        let meant = choice(None, None);
        let error = connect(&config, &meant).await.unwrap_err();
        assert_eq!(error.code(), "not_up");
        assert!(!home.store_path(crate::home::Part::Chain).exists());
        drop(crate::local_chain::open_own(&home, id, None).unwrap());
        let access = connect(&config, &meant).await.unwrap();
        assert_eq!((access.id, access.name.as_str()), (id, "network"));
        assert_eq!(access.client.head().await.unwrap().number, 0);
        // It has the chain for itself as long as it uses it.
        let busy = connect(&config, &meant).await.unwrap_err();
        assert_eq!(busy.code(), "home_busy");
    }

    #[test]
    fn an_endpoint_given_replaces_the_configured_ones() {
        let one = config(|text| text);
        let target = resolve(&one, &choice(None, Some("http://127.0.0.1:9"))).unwrap();
        assert_eq!(target.endpoints.len(), 1);
        assert_eq!(target.endpoints[0].port(), Some(9));
        let foreign = choice(Some("eip155:1"), Some("http://127.0.0.1:9"));
        assert_eq!(resolve(&one, &foreign).unwrap().id.0, 1);
        for (wrong, code) in [
            (choice(Some("eip155:1"), None), "which_chain"),
            (
                choice(Some("mars"), Some("http://127.0.0.1:9")),
                "which_chain",
            ),
            (choice(None, Some("127.0.0.1:9")), "bad_url"),
        ] {
            assert_eq!(resolve(&one, &wrong).err().unwrap().code(), code);
        }
    }
}
