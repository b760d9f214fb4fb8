//! A chain, shops and purses, all in this process, talking over loopback.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::{Address, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use hearth_chain::bindings::{SETTLEMENT_ADDRESS, TestDollar, test_dollar_init};
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{
    Embedded, EmbeddedConfig, Genesis, GenesisCall, GenesisCode, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::sender::{DynSigner, IntentId, RedbJournal, Sender, SenderConfig, TxIntent};
use hearth_environment::{Environment, NoRandomness, SystemEnvironment, Wait};
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::escrow::Escrows;
use hearth_payments::gate::{Gate, Meter, PaidLayer};
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::purse::{PAYER_CHANNELS, PayerKeys, Purchase, Purse};
use hearth_payments::store::{Batch, Store};
use hearth_payments::till::{ChainAccess, Tasks, Till, TillKeys, open_escrows};
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Spending};
use hearth_protocol::x402::ClaimRow;
use http::{HeaderMap, Method};
use tempfile::TempDir;
use tokio::sync::{Notify, Semaphore};
use url::Url;

pub(crate) const CHAIN: u64 = 402_402;

/// Each shop is a run of its own.
static RUNS: AtomicU64 = AtomicU64::new(1);
/// The key of an account that has a hundred units: one payment of most shops here.
pub(crate) const POOR: u8 = 0x67;

pub(crate) const fn amount(units: u128) -> Amount {
    Amount::new(units)
}

pub(crate) fn key(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&alloy_primitives::B256::repeat_byte(byte)).unwrap()
}

pub(crate) fn asset() -> AssetId {
    AssetId {
        chain: ChainId(CHAIN),
        token: TEST_DOLLAR_ADDRESS,
    }
}

/// Test Dollars by either scheme.
pub(crate) fn accepted(receiver: Address, receiver_authorizer: Address) -> AcceptedAsset {
    AcceptedAsset {
        asset: asset(),
        name: "Test Dollar (worthless)".to_owned(),
        version: "1".to_owned(),
        receiver,
        receiver_authorizer,
        withdraw_delay: 86_400,
        deposit_ceilings: 10,
        batch: true,
        exact: true,
    }
}

/// A token that keeps one percent of each transfer.
pub(crate) const FEE_TOKEN: Address = Address::repeat_byte(0xfe);

fn fee_asset() -> AssetId {
    AssetId {
        chain: ChainId(CHAIN),
        token: FEE_TOKEN,
    }
}

/// The token with a fee, as a provider that knows no better takes it.
pub(crate) fn fee_token(receiver: Address, receiver_authorizer: Address) -> AcceptedAsset {
    AcceptedAsset {
        asset: fee_asset(),
        name: "Fee Dollar".to_owned(),
        ..accepted(receiver, receiver_authorizer)
    }
}

/// A second token that is what it says.
pub(crate) const SECOND_TOKEN: Address = Address::repeat_byte(0x5e);

pub(crate) fn second_asset() -> AssetId {
    AssetId {
        chain: ChainId(CHAIN),
        token: SECOND_TOKEN,
    }
}

fn second_token(receiver: Address, receiver_authorizer: Address) -> AcceptedAsset {
    AcceptedAsset {
        asset: second_asset(),
        ..accepted(receiver, receiver_authorizer)
    }
}

fn fee_token_code() -> alloy_primitives::Bytes {
    let artifact = include_str!("../../../../contracts/artifacts/test/FeeAuthorizedToken.json");
    let artifact: serde_json::Value = serde_json::from_str(artifact).unwrap();
    artifact["bytecode"].as_str().unwrap().parse().unwrap()
}

fn mint(token: Address, to: Address) -> GenesisCall {
    let value = U256::from(1_000_000_000_u64);
    GenesisCall {
        from: to,
        to: token,
        input: TestDollar::mintCall { to, value }.abi_encode().into(),
    }
}

/// Claim whatever there is: gas is free.
pub(crate) fn policy() -> ClaimPolicy {
    ClaimPolicy {
        gas_price_nano: 0,
        gas_share_ppm: 10_000,
        age_ms_max: 3_600_000,
        amount_min: amount(1_000_000_000),
        withdrawal_margin_s: 900,
    }
}

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) chain: Embedded,
    pub(crate) client: ChainClient,
    pub(crate) household: Address,
    pub(crate) environment: Arc<dyn Environment>,
}

/// A clock that is behind the system's, in milliseconds; it can be set.
#[derive(Debug, Default)]
pub(crate) struct SlowClock(pub(crate) AtomicU64);

impl Environment for SlowClock {
    fn now_ms(&self) -> u64 {
        SystemEnvironment.now_ms() - self.0.load(Ordering::Relaxed)
    }

    fn sleep(&self, duration: Duration) -> Wait {
        SystemEnvironment.sleep(duration)
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        SystemEnvironment.fill(bytes)
    }
}

/// A clock whose long waits are over at once.
#[derive(Debug)]
pub(crate) struct Impatient;

impl Environment for Impatient {
    fn now_ms(&self) -> u64 {
        SystemEnvironment.now_ms()
    }

    fn sleep(&self, duration: Duration) -> Wait {
        SystemEnvironment.sleep(duration / 1_000)
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        SystemEnvironment.fill(bytes)
    }
}

/// A service behind a price.
pub(crate) struct Shop {
    pub(crate) till: Till,
    pub(crate) store: Store,
    /// Each permit lets one request at `/held` go on.
    pub(crate) turnstile: Arc<Semaphore>,
    /// Told when a request at `/held` waits.
    held: Arc<Notify>,
    pub(crate) receiver: Address,
    base: Url,
    _tasks: Tasks,
}

impl Shop {
    /// Waits until a request at `/held` is admitted.
    pub(crate) async fn held_request(&self) {
        self.held.notified().await;
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        self.base.join(path).unwrap()
    }

    /// What this shop could claim from a channel, as its store has it.
    pub(crate) fn claim_row(&self, channel: ChannelId) -> ClaimRow {
        let stored: StoredChannel = self
            .store
            .get(PROVIDER_CHANNELS, channel.0.as_slice())
            .unwrap()
            .unwrap();
        stored.record.claim_row().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Purchase {
        Purchase {
            method: Method::GET,
            url: self.url(path),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience_ms: 0,
        }
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        let household = key(1).address();
        let mut genesis = Genesis::standard(household)
            .with_contract(FEE_TOKEN, GenesisCode::Constructor(fee_token_code()))
            .with_contract(SECOND_TOKEN, GenesisCode::Constructor(test_dollar_init()))
            .with_test_dollars(household, U256::from(1_000_000_000_u64))
            .with_test_dollars(key(POOR).address(), U256::from(100_u64));
        genesis.calls.push(mint(FEE_TOKEN, household));
        genesis.calls.push(mint(SECOND_TOKEN, household));
        let config = EmbeddedConfig {
            dev_rpc: true,
            ..EmbeddedConfig::new(genesis)
        };
        let chain = Embedded::in_memory(config).unwrap();
        let client = ChainClient::from_transport(chain.transport(), ChainId(CHAIN));
        client.connect().await.unwrap();
        let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
        Self {
            folder: tempfile::tempdir().unwrap(),
            chain,
            client,
            household,
            environment,
        }
    }

    pub(crate) fn access(&self) -> Vec<ChainAccess> {
        let sender = SenderConfig {
            confirmations: 1,
            poll_interval_ms: 5,
            ..Default::default()
        };
        vec![ChainAccess {
            client: self.client.clone(),
            sender,
        }]
    }

    /// The store of this name. One that was dropped just now is closed by its writer a moment later.
    pub(crate) fn store(&self, name: &str) -> Store {
        let path = self.folder.path().join(name);
        let until = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            match Store::open(&path, &SystemEnvironment) {
                Ok(store) => return store,
                Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) async fn balance(&self, account: Address) -> Amount {
        let units = self
            .client
            .balance_of(TEST_DOLLAR_ADDRESS, account)
            .await
            .unwrap();
        amount(units.to())
    }

    /// A shop that quotes `ceiling` and charges `need` at most.
    pub(crate) async fn shop(&self, need: Amount, ceiling: Amount) -> Shop {
        self.shop_that(need, ceiling, |_| {}).await
    }

    /// A second shop beside the first.
    pub(crate) async fn shop_named(&self, name: &str, need: Amount, ceiling: Amount) -> Shop {
        self.open_shop(name, need, ceiling, |_| {}).await
    }

    /// A shop that takes payments in another way than most.
    pub(crate) async fn shop_that(
        &self,
        need: Amount,
        ceiling: Amount,
        differs: impl FnOnce(&mut AcceptedAsset),
    ) -> Shop {
        self.open_shop("shop", need, ceiling, differs).await
    }

    /// A shop of this name that takes payments in another way than most.
    pub(crate) async fn open_shop(
        &self,
        name: &str,
        need: Amount,
        ceiling: Amount,
        differs: impl FnOnce(&mut AcceptedAsset),
    ) -> Shop {
        let (turnstile, held) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let hold = (Arc::clone(&turnstile), Arc::clone(&held));
        let price = Price { need, ceiling };
        let build = |gate| goods(hold).layer(PaidLayer(Arc::new(gate)));
        let mut shop = self.shop_of(name, price, differs, build).await;
        (shop.turnstile, shop.held) = (turnstile, held);
        shop
    }

    /// A shop that sells what `build` puts behind its gate.
    pub(crate) async fn shop_of(
        &self,
        name: &str,
        price: Price,
        differs: impl FnOnce(&mut AcceptedAsset),
        build: impl FnOnce(Gate) -> Router,
    ) -> Shop {
        let mut tasks = Tasks::new();
        let store = self.store(name);
        let keys = TillKeys {
            account: key(3),
            session: key(4),
        };
        let escrows = open_escrows(self.access(), &keys, &store, &mut tasks).unwrap();
        let till = Till::open(
            &store,
            escrows,
            policy(),
            None,
            &self.environment,
            RUNS.fetch_add(1, Ordering::Relaxed),
            &mut tasks,
        );
        let receiver = key(3).address();
        let mut usual = accepted(receiver, key(4).address());
        differs(&mut usual);
        let gate = Gate {
            assets: vec![
                usual,
                fee_token(receiver, key(4).address()),
                second_token(receiver, key(4).address()),
            ],
            pricing: Box::new(FixedPrice(
                [asset(), fee_asset(), second_asset()]
                    .map(|asset| (asset, price))
                    .into(),
            )),
            desk: till.desk.clone(),
            cashier: till.cashier.clone(),
            replies: till.replies.clone(),
            base_url: None,
            description: None,
            environment: Arc::clone(&self.environment),
        };
        let router = build(gate);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tasks.spawn(async move {
            axum::serve(listener, router).await.unwrap();
            "the shop"
        });
        Shop {
            till,
            store,
            turnstile: Arc::new(Semaphore::new(0)),
            held: Arc::new(Notify::new()),
            receiver,
            base,
            _tasks: tasks,
        }
    }

    /// A purse that cannot read the chain.
    pub(crate) async fn purse(&self, name: &str) -> Purse {
        self.open_purse(name, Escrows::default())
    }

    /// A purse that can; the tasks keep its way to the chain open.
    pub(crate) async fn purse_on_chain(&self, name: &str, tasks: &mut Tasks) -> Purse {
        let keys = TillKeys {
            account: key(1),
            session: key(2),
        };
        let store = self.store(&format!("{name} sender"));
        let escrows = open_escrows(self.access(), &keys, &store, tasks).unwrap();
        self.open_purse(name, escrows)
    }

    /// A purse that cannot read the chain, with limits of its own.
    pub(crate) fn purse_within(&self, name: &str, limit: AssetLimit) -> Purse {
        self.open_purse_within(name, Escrows::default(), limit)
    }

    /// A purse that can read the chain, with limits and a clock of its own.
    pub(crate) async fn purse_by(
        &self,
        name: &str,
        limit: AssetLimit,
        clock: Arc<dyn Environment>,
        tasks: &mut Tasks,
    ) -> Purse {
        let keys = TillKeys {
            account: key(1),
            session: key(2),
        };
        let store = self.store(&format!("{name} sender"));
        let escrows = open_escrows(self.access(), &keys, &store, tasks).unwrap();
        self.open_purse_by(name, escrows, limit, clock)
    }

    /// A purse that pays in the second token, and cannot read the chain.
    pub(crate) fn purse_of_second(&self, name: &str) -> Purse {
        let limit = AssetLimit::new(amount(10_000), amount(100_000), amount(10_000_000));
        let spending = Spending([(second_asset(), limit)].into());
        let clock = Arc::clone(&self.environment);
        self.purse_that_spends(name, Escrows::default(), spending, clock)
    }

    fn open_purse(&self, name: &str, escrows: Escrows) -> Purse {
        let limit = AssetLimit::new(amount(10_000), amount(100_000), amount(10_000_000));
        self.open_purse_within(name, escrows, limit)
    }

    fn open_purse_within(&self, name: &str, escrows: Escrows, limit: AssetLimit) -> Purse {
        let clock = Arc::clone(&self.environment);
        self.open_purse_by(name, escrows, limit, clock)
    }

    fn open_purse_by(
        &self,
        name: &str,
        escrows: Escrows,
        limit: AssetLimit,
        clock: Arc<dyn Environment>,
    ) -> Purse {
        let spending = Spending([(asset(), limit)].into());
        self.purse_that_spends(name, escrows, spending, clock)
    }

    fn purse_that_spends(
        &self,
        name: &str,
        escrows: Escrows,
        spending: Spending,
        clock: Arc<dyn Environment>,
    ) -> Purse {
        let keys = PayerKeys {
            household: key(1),
            session: key(2),
        };
        let http = hearth_payments::http::client().unwrap();
        Purse::new(keys, spending, self.store(name), escrows, http, clock).unwrap()
    }
}

impl World {
    /// Sends a call to the settlement contract from the household's own account, and waits for it.
    pub(crate) async fn send_as_household(&self, name: &str, data: Vec<u8>) {
        self.send_from(key(1), name, SETTLEMENT_ADDRESS, data).await;
    }

    /// Sends a call from an account, and waits for it.
    pub(crate) async fn send_from(
        &self,
        account: PrivateKeySigner,
        name: &str,
        to: Address,
        data: Vec<u8>,
    ) {
        let access = self.access().remove(0);
        let client = ChainClient::from_transport(self.chain.transport(), ChainId(CHAIN));
        let store = self.store(name);
        let journal = RedbJournal::new(Arc::clone(store.database())).unwrap();
        let account: DynSigner = Arc::new(account);
        let (sender, task) =
            Sender::new(client.clone(), account, Arc::new(journal), access.sender).unwrap();
        let running = tokio::spawn(task.run());
        let intent = TxIntent {
            to,
            data: data.into(),
            value: U256::ZERO,
            gas_cap: 1_000_000,
            deadline_ms: u64::MAX,
        };
        let id = IntentId::new(name).unwrap();
        sender.submit(id, intent).await.unwrap();
        running.abort();
    }

    /// The payer of `purse` with a way to the chain of its own and the same channels, so that it can
    /// withdraw without the provider. It lives as long as the tasks.
    pub(crate) async fn withdrawing(&self, purse: &Purse, name: &str) -> (Purse, Tasks) {
        let store = self.store(name);
        let mut tasks = Tasks::new();
        let keys = TillKeys {
            account: key(1),
            session: key(2),
        };
        let escrows = open_escrows(self.access(), &keys, &store, &mut tasks).unwrap();
        let mut batch = Batch::default();
        for view in purse.channels().unwrap() {
            let key = view.channel.0;
            batch
                .put(PAYER_CHANNELS, key.as_slice(), &view.stored)
                .unwrap();
        }
        store.commit(batch).await.unwrap();
        let keys = PayerKeys {
            household: key(1),
            session: key(2),
        };
        let http = hearth_payments::http::client().unwrap();
        let environment = Arc::clone(&self.environment);
        let payer = Purse::new(keys, Spending::default(), store, escrows, http, environment);
        (payer.unwrap(), tasks)
    }
}

fn goods((turnstile, held): (Arc<Semaphore>, Arc<Notify>)) -> Router {
    let hold = async move || {
        held.notify_one();
        turnstile.acquire().await.unwrap().forget();
        "held"
    };
    Router::new()
        .route("/held", get(hold))
        .route("/hello", get(|| async { "hello" }))
        .route(
            "/fails",
            get(|| async { http::StatusCode::INTERNAL_SERVER_ERROR }),
        )
        .route("/stream", get(stream))
}

/// Three pieces without a stated length, for seven units in all.
pub(crate) async fn stream(Extension(meter): Extension<Meter>, _: Request) -> Response {
    let pieces = futures::stream::iter((0..3).map(move |piece| {
        meter.set(amount([2, 5, 7][piece]));
        Ok::<_, Infallible>("tick ")
    }));
    Response::new(Body::from_stream(pieces))
}
