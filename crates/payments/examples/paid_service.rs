//! An axum service behind a price, and a client that pays it, on a chain inside this very program.
//!
//! Run it with `cargo run -p hearth-payments --example paid_service`. For a chain elsewhere, make the client with
//! `ChainClient::http`, name a token of that chain, and give the buyer's escrows too.

use std::path::Path;
use std::sync::Arc;

use alloy_primitives::U256;
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Result, ensure};
use axum::{Router, routing::get};
use hearth_chain::client::ChainClient;
use hearth_chain::embedded::{
    DEFAULT_CHAIN_ID, Embedded, EmbeddedConfig, Genesis, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::sender::SenderConfig;
use hearth_environment::{Environment, SystemEnvironment};
use hearth_payments::gate::PaidLayer;
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::purse::{PayerKeys, PriceTag, Purse};
use hearth_payments::till::{ChainAccess, Tasks, Till, TillKeys, open_escrows};
use hearth_payments::{escrow::Escrows, http, store::Store};
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::spending::{AssetLimit, Spending};
use hearth_protocol::{claim::ClaimPolicy, money::Amount};

/// The EIP-712 name of the token.
const DOLLAR: &str = "Test Dollar (worthless)";
const CENT: Amount = Amount::new(10_000);
const ASSET: AssetId = AssetId {
    chain: ChainId(DEFAULT_CHAIN_ID),
    token: TEST_DOLLAR_ADDRESS,
};

/// Any axum router, at a cent a request, claimed once a dollar is due. Returns its till and its address.
async fn sell(client: ChainClient, folder: &Path, tasks: &mut Tasks) -> Result<(Till, String)> {
    let clock: Arc<dyn Environment> = Arc::new(SystemEnvironment);
    let [account, session] = std::array::from_fn(|_| PrivateKeySigner::random());
    let (name, receiver, signer) = (DOLLAR, account.address(), session.address());
    let dollar = AcceptedAsset::new(ASSET, name, "1", receiver, signer);
    let sender = SenderConfig {
        confirmations: 1,
        ..SenderConfig::default()
    };
    let store = Store::open(&folder.join("seller.redb"), &SystemEnvironment)?;
    let keys = TillKeys { account, session };
    let escrows = open_escrows(vec![ChainAccess { client, sender }], &keys, &store, tasks)?;
    let policy = ClaimPolicy::usual(Amount::new(1_000_000));
    let till = Till::open(
        &store,
        escrows,
        policy,
        None,
        &clock,
        clock.draw_u64()?,
        tasks,
    );
    let gate = till.gate(vec![dollar], FixedPrice(vec![(ASSET, Price::fixed(CENT))]));
    let router = Router::new().route("/weather", get(|| async { "sunny" }));
    let router = router.layer(PaidLayer(Arc::new(gate)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/weather", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((till, url))
}

/// Any request of reqwest, within limits for each payment, each deposit and each day.
async fn buy(household: PrivateKeySigner, folder: &Path, url: &str) -> Result<()> {
    let limit = AssetLimit::new(CENT, Amount::new(1_000_000), Amount::new(5_000_000));
    let session = PrivateKeySigner::random();
    let keys = PayerKeys { household, session };
    let (spending, http) = (Spending([(ASSET, limit)].into()), http::client()?);
    let store = Store::open(&folder.join("buyer.redb"), &SystemEnvironment)?;
    let (escrows, clock) = (Escrows::default(), Arc::new(SystemEnvironment));
    let purse = Purse::new(keys, spending, store, escrows, http.clone(), clock)?;
    for _ in 0..3 {
        let request = http.get(url).build()?.try_into()?;
        let agrees = |price: &PriceTag| price.requirements.amount <= CENT;
        let mut reply = purse.buy(&request, agrees).await?;
        ensure!(reply.status.is_success(), "{}", reply.status);
        let said = reply.bytes().await?;
        println!("paid a cent for {:?}", std::str::from_utf8(&said)?);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let (folder, mut tasks) = (tempfile::tempdir()?, Tasks::new());
    // A chain on which the buyer has a hundred test dollars.
    let buyer = PrivateKeySigner::random();
    let genesis = Genesis::standard(buyer.address());
    let genesis = genesis.with_test_dollars(buyer.address(), U256::from(100_000_000));
    let chain = Embedded::in_memory(EmbeddedConfig::new(genesis))?;
    let client = ChainClient::from_transport(chain.transport(), ASSET.chain);
    client.connect().await?;
    let (till, url) = sell(client, folder.path(), &mut tasks).await?;
    buy(buyer, folder.path(), &url).await?;
    // Three requests, one deposit, one claim.
    for claim in till.settlement.claim(true).await? {
        let (transaction, paid) = claim.outcome?;
        println!("{paid} units were paid out by {transaction}");
    }
    Ok(())
}

#[test]
fn a_seller_and_a_buyer_agree() {
    main().unwrap();
}
