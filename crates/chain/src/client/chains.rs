//! The chains that a node works with, by their CAIP-2 ids.
//!
//! No chain is privileged: the embedded one, a test chain and public ones stand side by side, each with endpoints and
//! confirmations of its own. Whether a chain can settle payments is checked, not assumed: the settlement contract must
//! be at its address and must sign for this chain.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use hearth_protocol::eip712::{SETTLEMENT_DOMAIN_NAME, SETTLEMENT_DOMAIN_VERSION};
use hearth_protocol::id::ChainId;
use reqwest::Url;

use super::{BlockAt, ChainClient, ChainError, ErrorKind, HttpOptions};
use crate::bindings::{SETTLEMENT_ADDRESS, Settlement};
use hearth_environment::SystemEnvironment;

/// How one chain is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSettings {
    /// Which chain it is.
    pub chain: ChainId,
    /// Its endpoints; another is asked when one fails.
    pub urls: Vec<Url>,
    /// Blocks, the one of a transaction included, until it is final.
    pub confirmations: u64,
    /// Bounds on each call.
    pub http: HttpOptions,
}

/// One chain that can be worked with.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Where to ask.
    pub client: ChainClient,
    /// Blocks, the one of a transaction included, until it is final.
    pub confirmations: u64,
}

/// The chains of a node.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    by_id: BTreeMap<ChainId, Chain>,
}

/// A chain that is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chain {chain} is not configured; add it with the address of an endpoint")]
pub struct UnknownChain {
    /// Which one was asked for.
    pub chain: ChainId,
}

/// A chain cannot settle payments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettlementProblem {
    /// Nothing is at the address.
    #[error(
        "chain {chain} has no contract at {address}: batch-settlement payments do not work there; use another chain, \
         or deploy the contract"
    )]
    Missing {
        /// The chain.
        chain: ChainId,
        /// Where the contract should be.
        address: Address,
    },
    /// What is at the address does not sign for this chain.
    #[error("chain {chain} has another contract at {address}: {difference}; do not pay there")]
    Another {
        /// The chain.
        chain: ChainId,
        /// Where the contract should be.
        address: Address,
        /// What differs.
        difference: String,
    },
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl Chains {
    /// Clients for all configured chains. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ChainError::Setup`] if one has no endpoint.
    pub fn new(settings: impl IntoIterator<Item = ChainSettings>) -> Result<Self, ChainError> {
        let mut chains = Self::default();
        for ChainSettings {
            chain,
            urls,
            confirmations,
            http,
        } in settings
        {
            let client = ChainClient::http_in(urls, chain, http, Arc::new(SystemEnvironment))?;
            chains.insert(Chain {
                client,
                confirmations,
            });
        }
        Ok(chains)
    }

    /// Adds a chain, such as the embedded one; a chain with the same id is replaced.
    pub fn insert(&mut self, chain: Chain) {
        self.by_id.insert(chain.client.chain(), chain);
    }

    /// The chain with this id.
    ///
    /// # Errors
    /// [`UnknownChain`] if it is not configured.
    pub fn get(&self, chain: ChainId) -> Result<&Chain, UnknownChain> {
        self.by_id.get(&chain).ok_or(UnknownChain { chain })
    }

    /// All chains, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Chain> {
        self.by_id.values()
    }
}

impl Chain {
    /// Checks that the settlement contract is at its address and signs for this chain.
    ///
    /// # Errors
    /// [`SettlementProblem`].
    pub async fn check_settlement(&self) -> Result<(), SettlementProblem> {
        let (chain, address) = (self.client.chain(), SETTLEMENT_ADDRESS);
        if self.client.code(address).await?.is_empty() {
            return Err(SettlementProblem::Missing { chain, address });
        }
        let another = |difference: String| SettlementProblem::Another {
            chain,
            address,
            difference,
        };
        let call = Settlement::eip712DomainCall {}.abi_encode();
        let answer = match self
            .client
            .call(address, call.into(), BlockAt::Latest)
            .await
        {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::Refused => {
                return Err(another("it names no EIP-712 domain".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let domain = Settlement::eip712DomainCall::abi_decode_returns(&answer)
            .map_err(|_| another("it names no EIP-712 domain".to_owned()))?;
        let same = domain.name == SETTLEMENT_DOMAIN_NAME
            && domain.version == SETTLEMENT_DOMAIN_VERSION
            && domain.chainId == U256::from(chain.0)
            && domain.verifyingContract == address;
        if same {
            return Ok(());
        }
        let name: String = domain
            .name
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect();
        Err(another(format!(
            "it signs as `{name}` for chain {} at {}",
            domain.chainId, domain.verifyingContract
        )))
    }
}
