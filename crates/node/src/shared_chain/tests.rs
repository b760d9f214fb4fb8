//! A chain in one place of the network, used from another: in this process, over loopback.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, U256};
use alloy_signer_local::PrivateKeySigner;
use hearth_chain::client::{Carrier, ChainClient, ChainError, ErrorKind, HttpOptions};
use hearth_chain::embedded::{DEFAULT_CHAIN_ID, TEST_DOLLAR_ADDRESS};
use hearth_environment::SystemEnvironment;
use hearth_net::{Network, NetworkOptions, OpenError};
use hearth_payments::store::Store;
use hearth_payments::till::{ChainAccess, Tasks, TillKeys, open_escrows};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::GuestLine;
use super::host::HostedChain;
use super::{carried, money};
use crate::home::{Home, JoinedChain, NetworkChain};
use crate::terms::sender_config;

/// How long anything may take.
const SOON: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(SOON, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not happen within {SOON:?}"))
}

/// A data folder with a place in the network.
struct Place {
    home: Home,
    folder: TempDir,
    seed: u8,
}

impl Place {
    fn new(seed: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        Self { home, folder, seed }
    }

    fn chain(&self) -> NetworkChain {
        self.home.config().unwrap().network_chain.unwrap()
    }

    /// Opens the network, on the ports of the last time.
    async fn network(&self) -> Network {
        let blobs = self.folder.path().join("blobs");
        let opened = async {
            loop {
                let mut options = NetworkOptions::loopback([self.seed; 32], &blobs);
                options.ports_file = Some(self.home.ports_path());
                match Network::open(options).await {
                    Ok((network, _)) => return network,
                    // The system frees the port in its own time.
                    Err(OpenError::Bind(_)) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        soon("opening the network", opened).await
    }

    /// Runs the chain of this folder for others.
    async fn host(&self) -> (Network, Arc<HostedChain>) {
        let network = self.network().await;
        let hosted = Arc::new(HostedChain::open(&self.home, &self.chain(), None).unwrap());
        network.answer_chain(Arc::<HostedChain>::clone(&hosted));
        (network, hosted)
    }

    /// Uses the chain that another runs.
    fn join(&self, host: &Network, chain_id: u64) -> (ChainClient, Arc<GuestLine>) {
        let host = host.address();
        let mut chain = self.chain();
        let joined = JoinedChain {
            chain_id,
            host: host.clone(),
        };
        chain.join(Some(joined)).unwrap();
        let line = Arc::new(GuestLine::new(host));
        let carrier: Arc<dyn Carrier> = Arc::<GuestLine>::clone(&line);
        (carried(carrier, &chain, HttpOptions::default()), line)
    }
}

fn key(seed: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(seed)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_gets_test_money_on_the_hosts_chain_and_finds_it_after_the_host_was_away() {
    let (host, guest) = (Place::new(71), Place::new(72));
    let (network, hosted) = host.host().await;
    let (client, line) = guest.join(&network, hosted.id().0);
    // What is asked before the network is open waits for it.
    let early = tokio::spawn({
        let client = client.clone();
        async move { client.head().await }
    });
    let own = guest.network().await;
    line.attach(&own);
    soon("the first answer", early).await.unwrap().unwrap();

    let store = Store::open(&guest.folder.path().join("store"), &SystemEnvironment).unwrap();
    let keys = TillKeys {
        account: key(73),
        session: key(74),
    };
    let access = ChainAccess {
        client: client.clone(),
        sender: sender_config(1),
    };
    let mut tasks = Tasks::new();
    let escrows = open_escrows(vec![access], &keys, &store, &mut tasks).unwrap();
    let escrow = escrows.get(hosted.id()).unwrap();
    soon("test money", money::supply(&escrow)).await.unwrap();
    // With enough of it, no more is made.
    soon("test money", money::supply(&escrow)).await.unwrap();
    let held = || client.balance_of(TEST_DOLLAR_ADDRESS, key(73).address());
    assert_eq!(held().await.unwrap(), U256::from(100_000_000));
    assert_eq!(hosted.chain().block_number().unwrap(), 1);

    soon("the end", network.shutdown()).await;
    hosted.close();
    drop((network, hosted));
    let (again, hosted) = host.host().await;
    assert_eq!(again.device(), line_host(&guest));
    let back = async {
        loop {
            match held().await {
                Ok(units) => return units,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    };
    let units = soon("the host that is back", back).await;
    assert_eq!(units, U256::from(100_000_000));
    assert_eq!(hosted.chain().block_number().unwrap(), 1);
    soon("the end", own.shutdown()).await;
    soon("the end", again.shutdown()).await;
}

/// The device whose chain a place uses.
fn line_host(place: &Place) -> hearth_protocol::offer::DeviceId {
    place.chain().joined().unwrap().host.device
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_gets_no_method_that_changes_the_chain_and_no_other_chain() {
    let (host, guest) = (Place::new(75), Place::new(76));
    let (network, hosted) = host.host().await;
    let own = guest.network().await;
    let (client, line) = guest.join(&network, hosted.id().0);
    line.attach(&own);
    for method in ["evm_mine", "evm_increaseTime", "eth_newFilter"] {
        let asked = client.request::<Value>(method, json!([1]));
        let refused = soon("a refusal", asked).await.unwrap_err();
        assert!(
            matches!(refused, ChainError::Refused { code: -32_601, .. }),
            "{refused}"
        );
    }
    assert_eq!(hosted.chain().block_number().unwrap(), 0);
    // A ticket that names another chain than the host runs leads to none.
    let (other, line) = guest.join(&network, DEFAULT_CHAIN_ID);
    line.attach(&own);
    let refused = soon("a refusal", other.head()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongChain);
    soon("the end", own.shutdown()).await;
    soon("the end", network.shutdown()).await;
}
