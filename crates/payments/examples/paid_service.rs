//! An axum service behind a price, and a client that pays it, on a chain inside this very program.
//!
//! Run it with `cargo run -p hearth-payments --example paid_service`. For a chain elsewhere, make the client with
//! `ChainClient::http`, name a token of that chain, and give the buyer's escrows too.

use std::sync::Arc;

use alloy_primitives::U256;
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Result, ensure};
use axum::{Router, routing::get};
use hearth_chain::client::{ChainClient, Environment, SystemEnvironment};
use hearth_chain::embedded::{
    DEFAULT_CHAIN_ID, Embedded, EmbeddedConfig, Genesis, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::sender::SenderConfig;
use hearth_payments::gate::PaidLayer;
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::purse::{PayerKeys, Purse};
use hearth_payments::till::{ChainAccess, Tasks, Till, TillKeys, open_escrows};
use hearth_payments::{escrow::Escrows, http, store::Store};
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::spending::{AssetLimit, Spending};
use hearth_protocol::{claim::ClaimPolicy, money::Amount};

const CENT: Amount = Amount::new(10_000);

#[tokio::main]
async fn main() -> Result<()> {
    let (folder, mut tasks) = (tempfile::tempdir()?, Tasks::new());
    let clock: Arc<dyn Environment> = Arc::new(SystemEnvironment);
    let [buyer, account, session] = std::array::from_fn(|_| PrivateKeySigner::random());

    // A chain on which the buyer has a hundred test dollars.
    let genesis = Genesis::standard(account.address());
    let genesis = genesis.with_test_dollars(buyer.address(), U256::from(100_000_000));
    let chain = Embedded::in_memory(EmbeddedConfig::new(genesis))?;
    let asset = AssetId {
        chain: ChainId(DEFAULT_CHAIN_ID),
        token: TEST_DOLLAR_ADDRESS,
    };
    let client = ChainClient::from_transport(chain.transport(), asset.chain);
    client.connect().await?;

    // The seller: any axum router, at a cent a request, claimed when a dollar is due.
    let (receiver, signer) = (account.address(), session.address());
    let dollar = AcceptedAsset::new(asset, "Test Dollar (worthless)", "1", receiver, signer);
    let policy = ClaimPolicy::usual(Amount::new(1_000_000));
    let store = Store::open(&folder.path().join("seller.redb"))?;
    let sender = SenderConfig {
        confirmations: 1,
        ..SenderConfig::default()
    };
    let keys = TillKeys { account, session };
    let escrows = open_escrows(
        vec![ChainAccess { client, sender }],
        &keys,
        &store,
        &mut tasks,
    )?;
    let till = Till::open(
        &store,
        escrows,
        policy,
        None,
        &clock,
        clock.random(),
        &mut tasks,
    );
    let price = FixedPrice(vec![(asset, Price::fixed(CENT))]);
    let gate = PaidLayer(Arc::new(till.gate(vec![dollar], price)));
    let router = Router::new().route("/weather", get(|| async { "sunny" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/weather", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router.layer(gate)).await });

    // The buyer: any request of reqwest, within limits for each payment, each deposit and each day.
    let limit = AssetLimit::new(CENT, Amount::new(1_000_000), Amount::new(5_000_000));
    let session = PrivateKeySigner::random();
    let keys = PayerKeys {
        household: buyer,
        session,
    };
    let (spending, http) = (Spending([(asset, limit)].into()), http::client()?);
    let store = Store::open(&folder.path().join("buyer.redb"))?;
    let purse = Purse::new(
        keys,
        spending,
        store,
        Escrows::default(),
        http.clone(),
        clock,
    )?;
    for _ in 0..3 {
        let request = http.get(&url).build()?;
        let mut reply = purse
            .buy(&request.try_into()?, |price| {
                price.requirements.amount <= CENT
            })
            .await?;
        ensure!(reply.status.is_success(), "{}", reply.status);
        let said = reply.bytes().await?;
        println!("paid a cent for {:?}", std::str::from_utf8(&said)?);
    }

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
