//! Puts a ledger up on a chain that has none: three transactions, which anyone may send, and which leave out what stands.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy_primitives::{Address, U256};
use futures::future::BoxFuture;
use hearth_api::chain::LedgerDeployed;
use hearth_causes::WithCauses;
use hearth_chain::client::{ChainClient, ChainError};
use hearth_chain::deployment::{CREATE2_DEPLOYER, DeploymentStep, LedgerDeployment, LedgerTerms};
use hearth_chain::ledger::{Ledger, LedgerError};
use hearth_chain::sender::{
    IntentId, RedbJournal, SendError, Sender, SenderConfig, SenderStopped, TxIntent,
};
use hearth_protocol::id::ChainId;
use thiserror::Error;

use crate::advice::Advice;
use crate::chains::ChainAccess;
use crate::home::{Home, HomeError, Part};
use crate::keys::Unlocked;

/// The most gas of one step: nearly twice what the largest needs.
const STEP_GAS_MAX: u64 = 15_000_000;
/// Gas that every step takes at least: less than a tenth of the smallest.
const STEP_GAS_LEAST: u64 = 100_000;
/// How long a step may wait before it is signed, for gas to become cheaper for example, in milliseconds.
const STEP_DEADLINE_MS: u64 = 10 * 60 * 1_000;
/// How often the chain is asked how a step is, in milliseconds: somebody is waiting.
const POLL_INTERVAL_MS: u64 = 250;

/// Why no ledger was put up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeployError {
    /// The chain cannot be asked.
    #[error("the chain could not be asked")]
    Chain(#[from] ChainError),
    /// The chain does not have what creates contracts at known addresses.
    #[error("chain {0} has no deployment proxy at {CREATE2_DEPLOYER}")]
    NoProxy(ChainId),
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Gas costs something, and the wallet cannot pay for any of it.
    #[error("{account} has {balance} wei on chain {chain}, which pays for no transaction there")]
    NoCoin {
        /// The household's account.
        account: Address,
        /// What it has of the chain's own coin.
        balance: U256,
        /// The chain.
        chain: ChainId,
    },
    /// The journal of transactions.
    #[error("the wallet's journal cannot be used: {0}")]
    Journal(String),
    /// A step was not sent, or it failed.
    #[error("{step} was not put up")]
    Step {
        /// The contract.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<SendError>,
    },
    /// The sender stopped.
    #[error(transparent)]
    Stopped(#[from] SenderStopped),
    /// What stands there now does not make a ledger.
    #[error("what was put up cannot be used")]
    Ledger(#[from] LedgerError),
}

impl Advice for DeployError {
    fn code(&self) -> &str {
        match self {
            Self::Chain(_) => "chain_unavailable",
            Self::NoProxy(_) => "no_deployment_proxy",
            Self::Home(error) => error.code(),
            Self::Journal(_) | Self::Stopped(_) => "journal",
            Self::Step { .. } => "not_sent",
            Self::NoCoin { .. } => "no_coin",
            Self::Ledger(_) => "ledger_unusable",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Chain(_) => "Try again, or name another endpoint with --rpc".to_owned(),
            Self::NoProxy(_) => {
                "Use a chain that has it, as nearly every public one does; an embedded chain begins with a ledger and \
                 needs none put up"
                    .to_owned()
            }
            Self::Home(error) => error.next_step(),
            Self::Journal(_) | Self::Stopped(_) => {
                "Check the disk; run the same command again afterwards".to_owned()
            }
            Self::Step { .. } => {
                "Check that the wallet has the chain's own coin for gas, and run the same command again: what stands is \
                 not put up twice"
                    .to_owned()
            }
            Self::NoCoin { account, chain, .. } => format!(
                "Send some of the chain's own coin, which gas is paid in, to {account} on {chain}, and run the same command \
                 again"
            ),
            Self::Ledger(_) => "Run the same command again".to_owned(),
        }
    }
}

/// Puts up the ledger of `terms` on a chain, as far as it does not stand there, by transactions of the household's account.
///
/// # Errors
/// See [`DeployError`]. What was put up before stays; the same again goes on from there.
pub fn deploy<'a>(
    home: &'a Home,
    keys: &'a Unlocked,
    access: &'a ChainAccess,
    terms: &'a LedgerTerms,
) -> BoxFuture<'a, Result<LedgerDeployed, DeployError>> {
    Box::pin(deploy_now(home, keys, access, terms))
}

async fn deploy_now(
    home: &Home,
    keys: &Unlocked,
    access: &ChainAccess,
    terms: &LedgerTerms,
) -> Result<LedgerDeployed, DeployError> {
    let deployment = LedgerDeployment::new(terms);
    let standing = standing(&access.client, &deployment).await?;
    let remaining: Vec<&DeploymentStep> = deployment
        .remaining(|address| standing.contains(&address))
        .collect();
    let transactions = if remaining.is_empty() {
        Vec::new()
    } else {
        if access.client.code(CREATE2_DEPLOYER).await?.is_empty() {
            return Err(DeployError::NoProxy(access.id));
        }
        check_coin(access, keys.address()).await?;
        send(home, keys, access, &remaining).await?
    };
    let at = deployment.addresses;
    Ledger::find(access.client.clone(), at.runs).await?;
    let founders = terms.founders.iter();
    Ok(LedgerDeployed {
        chain: access.id.to_string(),
        founders: founders.map(Address::to_string).collect(),
        epoch_s: terms.epoch_s,
        window_s: terms.window_s,
        devices: at.devices.to_string(),
        ember: at.ember.to_string(),
        voice: at.voice.to_string(),
        validators: at.validators.to_string(),
        rewards: at.rewards.to_string(),
        runs: at.runs.to_string(),
        transactions,
    })
}

/// Sees that the account can pay for something: a transaction without money waits for cheaper gas, and says nothing.
async fn check_coin(access: &ChainAccess, account: Address) -> Result<(), DeployError> {
    let price = access.client.gas_price().await?;
    let balance = access.client.native_balance(account).await?;
    let least = U256::from(price).saturating_mul(U256::from(STEP_GAS_LEAST));
    if balance >= least {
        return Ok(());
    }
    let chain = access.id;
    Err(DeployError::NoCoin {
        account,
        balance,
        chain,
    })
}

/// The addresses of the steps that have code.
async fn standing(
    client: &ChainClient,
    deployment: &LedgerDeployment,
) -> Result<BTreeSet<Address>, ChainError> {
    let mut standing = BTreeSet::new();
    for step in &deployment.steps {
        if !client.code(step.address).await?.is_empty() {
            standing.insert(step.address);
        }
    }
    Ok(standing)
}

/// Sends the steps, each when the one before it is final. Returns the hashes of their transactions.
async fn send(
    home: &Home,
    keys: &Unlocked,
    access: &ChainAccess,
    steps: &[&DeploymentStep],
) -> Result<Vec<String>, DeployError> {
    let _lock = home.lock(Part::Wallet)?;
    let journal = open_journal(home)?;
    let config = SenderConfig {
        confirmations: access.confirmations,
        poll_interval_ms: POLL_INTERVAL_MS,
        ..SenderConfig::default()
    };
    let signer = Arc::new(keys.household());
    let client = access.client.clone();
    let (sender, task) = Sender::new(client, signer, Arc::new(journal), config)
        .map_err(|error| DeployError::Journal(error.with_causes().to_string()))?;
    let work = async {
        let mut transactions = Vec::with_capacity(steps.len());
        for step in steps {
            let hash = send_step(&sender, access, step).await;
            transactions.push(hash.map_err(|source| DeployError::Step {
                step: step.name,
                source: Box::new(source),
            })?);
        }
        Ok(transactions)
    };
    tokio::select! {
        outcome = work => outcome,
        stopped = task.run() => {
            stopped?;
            Err(DeployError::Journal(SendError::Stopped.to_string()))
        }
    }
}

async fn send_step(
    sender: &Sender,
    access: &ChainAccess,
    step: &DeploymentStep,
) -> Result<String, SendError> {
    let now_ms = access.client.environment().now_ms();
    let intent = TxIntent {
        to: CREATE2_DEPLOYER,
        data: step.input.clone(),
        value: U256::ZERO,
        gas_cap: STEP_GAS_MAX,
        deadline_ms: now_ms.saturating_add(STEP_DEADLINE_MS),
    };
    let name = IntentId::new(format!("deploy:{}", step.address))
        .expect("the name is shorter than an intent's may be");
    let outcome = sender.submit(name.clone(), intent).await;
    if matches!(outcome, Ok(_) | Err(SendError::Reverted { .. })) {
        // On a chain that was undone the same step is sent again.
        sender.forget(name).await?;
    }
    outcome.map(|receipt| receipt.transaction_hash.to_string())
}

fn open_journal(home: &Home) -> Result<RedbJournal, DeployError> {
    let database = redb::Database::create(home.store_path(Part::Wallet))
        .map_err(|error| DeployError::Journal(error.with_causes().to_string()))?;
    RedbJournal::new(Arc::new(database))
        .map_err(|error| DeployError::Journal(error.with_causes().to_string()))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Bytes, bytes};
    use hearth_chain::embedded::{Embedded, EmbeddedConfig, Genesis, GenesisCode};
    use hearth_environment::SystemEnvironment;

    use super::*;
    use crate::home::LedgerConfig;
    use crate::keys::{RecoveryPhrase, WordCount};

    /// Runtime code of the deployment proxy, as it is on public chains.
    const PROXY: Bytes = bytes!(
        "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
    );

    fn access(genesis: Genesis) -> (ChainAccess, Embedded) {
        let chain = Embedded::in_memory(EmbeddedConfig::new(genesis)).unwrap();
        let id = ChainId(chain.chain_id());
        let access = ChainAccess {
            id,
            name: "test".to_owned(),
            confirmations: 1,
            place: "here".to_owned(),
            client: ChainClient::from_transport(chain.transport(), id),
        };
        (access, chain)
    }

    #[tokio::test]
    async fn a_ledger_is_put_up_once_and_found_where_it_was_said_to_stand() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let phrase = RecoveryPhrase::generate(WordCount::Twelve, &SystemEnvironment).unwrap();
        let keys = Unlocked::from_phrase(phrase);
        let terms = LedgerConfig::default().terms(vec![keys.address()]);
        let (bare, _chain) = access(Genesis::default());
        let refused = deploy(&home, &keys, &bare, &terms).await.unwrap_err();
        assert_eq!(refused.code(), "no_deployment_proxy");

        let proxy = GenesisCode::Runtime(PROXY);
        let (access, _chain) = access(Genesis::default().with_contract(CREATE2_DEPLOYER, proxy));
        let first = deploy(&home, &keys, &access, &terms).await.unwrap();
        assert_eq!(first.transactions.len(), 3);
        let again = deploy(&home, &keys, &access, &terms).await.unwrap();
        assert!(again.transactions.is_empty());
        assert_eq!(again.runs, first.runs);
        let runs: Address = first.runs.parse().unwrap();
        let ledger = Ledger::find(access.client.clone(), runs).await.unwrap();
        assert_eq!(ledger.clock().epoch_s(), terms.epoch_s);
        assert_eq!(
            ledger.votes(keys.address()).await.unwrap(),
            terms.votes_each
        );
    }
}
