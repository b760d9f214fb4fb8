//! Our paid server before a service: the gate and everything behind it, over real HTTP.
//!
//! It runs on a runtime of its own, so that a test can end it at any moment: every task stops where it stands, and what
//! was not durable is gone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use alloy_signer_local::PrivateKeySigner;
use hearth_chain::client::{ChainClient, HttpOptions};
use hearth_chain::sender::SenderConfig;
use hearth_environment::{Environment, SystemEnvironment};
use hearth_payments::gate::Gate;
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::proxy::Upstream as Proxied;
use hearth_payments::settlement::Settlement;
use hearth_payments::store::Store;
use hearth_payments::till::{ChainAccess, Tasks, Till, TillKeys, open_escrows};
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use url::Url;

use crate::chain::{TestChain, keys};
use crate::process::free_port;
use crate::upstream::Upstream;

/// What a request really costs at most, in atomic units.
pub(crate) const NEED: u128 = 150;
/// What is quoted: headroom for requests in parallel on one voucher.
pub(crate) const CEILING: u128 = 1_000;
/// How long the tasks of a server that is ended may take to be dropped.
const END: Duration = Duration::from_secs(10);

/// A paid server that can be ended and started again.
pub(crate) struct Seller {
    address: SocketAddr,
    asset: AssetId,
    token: (String, String),
    rpc: Url,
    upstream: Url,
    folder: TempDir,
    runs: u64,
    running: Option<(Runtime, Settlement)>,
}

impl Seller {
    /// Sells what `upstream` answers, on `chain`.
    pub(crate) fn start(chain: &TestChain, upstream: &Upstream) -> Self {
        let token: Address = chain.token().parse().expect("an address");
        let mut seller = Self {
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            asset: AssetId {
                chain: ChainId(chain.chain_id()),
                token,
            },
            token: (
                chain.fact("name").to_owned(),
                chain.fact("version").to_owned(),
            ),
            rpc: chain.rpc().parse().expect("a URL"),
            upstream: upstream.url().parse().expect("a URL"),
            folder: tempfile::tempdir().expect("a temporary folder"),
            runs: 0,
            running: None,
        };
        seller.open();
        seller
    }

    /// The URL of one of its routes.
    pub(crate) fn url(&self, route: &str) -> String {
        format!("http://{}{route}", self.address)
    }

    /// Ends the server where it stands and starts it again.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.open();
    }

    /// Ends the server, and starts one that remembers nothing.
    pub(crate) fn restart_without_memory(&mut self) {
        let nothing = tempfile::tempdir().expect("a temporary folder");
        self.restart_from(&nothing);
    }

    /// Ends the server and starts it again. Returns a copy of what it knew between.
    pub(crate) fn back_up(&mut self) -> TempDir {
        self.end();
        // Its threads may hold the store for a moment longer.
        let runtime = Runtime::new().expect("a runtime starts");
        drop(runtime.block_on(self.reopen()));
        let backup = tempfile::tempdir().expect("a temporary folder");
        copy_files(self.folder.path(), backup.path());
        self.open();
        backup
    }

    /// Ends the server, and starts one that knows what `backup` has.
    pub(crate) fn restart_from(&mut self, backup: &TempDir) {
        self.end();
        self.folder = tempfile::tempdir().expect("a temporary folder");
        copy_files(backup.path(), self.folder.path());
        self.open();
    }

    /// Claims all that is due, and settles it to the receiver.
    pub(crate) fn claim(&self) {
        let (runtime, settlement) = self.running.as_ref().expect("the server runs");
        for report in runtime
            .block_on(settlement.claim(true))
            .expect("the store works")
        {
            report.outcome.expect("the claim is accepted");
        }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("payments.redb")
    }

    fn end(&mut self) {
        if let Some((runtime, settlement)) = self.running.take() {
            drop(settlement);
            runtime.shutdown_timeout(END);
        }
    }

    fn open(&mut self) {
        let runtime = Runtime::new().expect("a runtime starts");
        self.runs += 1;
        let settlement = runtime.block_on(self.serve());
        self.running = Some((runtime, settlement));
    }

    async fn serve(&self) -> Settlement {
        let account: PrivateKeySigner = keys::SENDER.parse().expect("a key");
        let session: PrivateKeySigner = keys::AUTHORIZER.parse().expect("a key");
        let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
        let client = ChainClient::http(self.rpc.clone(), self.asset.chain, HttpOptions::default())
            .expect("an HTTP client");
        client.connect().await.expect("the chain answers");
        let sender = SenderConfig {
            confirmations: 1,
            poll_interval_ms: 20,
            ..SenderConfig::default()
        };
        let keys = TillKeys { account, session };
        let store = self.reopen().await;
        let mut tasks = Tasks::new();
        let chains = vec![ChainAccess { client, sender }];
        let escrows = open_escrows(chains, &keys, &store, &mut tasks).expect("the journal opens");
        let till = Till::open(
            &store,
            escrows,
            policy(),
            None,
            &environment,
            self.runs,
            &mut tasks,
        );
        let gate = Gate {
            assets: vec![self.accepted(keys.session.address())],
            pricing: Box::new(FixedPrice(vec![(
                self.asset,
                Price {
                    need: Amount::new(NEED),
                    ceiling: Amount::new(CEILING),
                },
            )])),
            desk: till.desk.clone(),
            cashier: till.cashier.clone(),
            replies: till.replies.clone(),
            base_url: None,
            description: None,
            environment,
        };
        let http = hearth_payments::http::client().expect("an HTTP client");
        // The service behind it counts in atomic units, as a token without decimals has them.
        let router = Proxied::new(self.upstream.clone(), http, 0).router(gate);
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the port is free again");
        tokio::spawn(async move {
            let _tasks = tasks;
            axum::serve(listener, router).await
        });
        till.settlement
    }

    /// Opens the store. The thread of a server that was ended may hold it for a moment longer.
    async fn reopen(&self) -> Store {
        let deadline = Instant::now() + END;
        loop {
            match Store::open(&self.store(), &SystemEnvironment) {
                Ok(store) => return store,
                Err(error) if Instant::now() > deadline => {
                    panic!("the ended server still holds its store after {END:?}: {error}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn accepted(&self, receiver_authorizer: Address) -> AcceptedAsset {
        AcceptedAsset {
            asset: self.asset,
            name: self.token.0.clone(),
            version: self.token.1.clone(),
            receiver: keys::RECEIVER.parse().expect("an address"),
            receiver_authorizer,
            withdraw_delay: 86_400,
            deposit_ceilings: 10,
            batch: true,
            exact: true,
        }
    }
}

impl Drop for Seller {
    fn drop(&mut self) {
        self.end();
    }
}

/// Claims only when asked, so that a test decides when.
fn policy() -> ClaimPolicy {
    ClaimPolicy {
        gas_price_nano: 0,
        gas_share_ppm: 10_000,
        age_ms_max: 3_600_000,
        amount_min: Amount::new(1_000_000_000_000),
        withdrawal_margin_s: 900,
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("the folder is there") {
        let file = file.expect("a name");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("it is copied");
    }
}
