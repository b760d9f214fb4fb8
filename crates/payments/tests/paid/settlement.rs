//! When claims and transfers are made on a chain whose gas costs something, and when it is free.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::routing::post;
use hearth_chain::client::{ChainClient, HttpOptions};
use hearth_chain::embedded::Embedded;
use hearth_chain::sender::{DynSigner, RedbJournal, Sender};
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::escrow::{Escrow, Escrows};
use hearth_payments::purse::Purse;
use hearth_payments::settlement::Settlement;
use hearth_payments::store::Batch;
use hearth_payments::till::Tasks;
use hearth_protocol::claim::{ClaimPolicy, ClaimReason};
use hearth_protocol::id::ChainId;
use hearth_protocol::money::Amount;
use serde_json::{Value, json};

use super::world::{CHAIN, SECOND_TOKEN, Shop, World, amount, asset, key, policy, second_asset};

/// What a unit of gas costs where it costs something: 1 gwei.
const GAS_PRICE_WEI: u64 = 1_000_000_000;

/// The world's chain at an endpoint where gas costs [`GAS_PRICE_WEI`].
async fn dear_endpoint(chain: Embedded, tasks: &mut Tasks) -> ChainClient {
    let router = axum::Router::new()
        .route("/", post(answer))
        .with_state(chain);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        axum::serve(listener, router).await.unwrap();
        "the endpoint"
    });
    let url = url.parse().unwrap();
    ChainClient::http(url, ChainId(CHAIN), HttpOptions::default()).unwrap()
}

async fn answer(State(chain): State<Embedded>, Json(asked): Json<Value>) -> Json<Value> {
    let answered = tokio::task::spawn_blocking(move || match asked {
        Value::Array(calls) => calls.iter().map(|call| one(&chain, call)).collect(),
        call => one(&chain, &call),
    });
    Json(answered.await.unwrap())
}

fn one(chain: &Embedded, call: &Value) -> Value {
    let method = call["method"].as_str().unwrap();
    let (id, params) = (&call["id"], call["params"].clone());
    if method == "eth_gasPrice" {
        return json!({ "jsonrpc": "2.0", "id": id, "result": format!("{GAS_PRICE_WEI:#x}") });
    }
    match chain.request(method, params) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": { "code": error.code, "message": error.message, "data": error.data },
        }),
    }
}

/// The way to the world's chain where gas costs something, for the sender of this name.
pub(crate) async fn dear_escrows(world: &World, name: &str, tasks: &mut Tasks) -> Escrows {
    let client = dear_endpoint(world.chain.clone(), tasks).await;
    // Transactions go the world's own way: what they really cost is not what is tested.
    let access = world.access().remove(0);
    let mut escrows = Escrows::default();
    let sender = sender_on(world, name, access.client, tasks);
    escrows.insert(Escrow::new(client, sender, key(4), 1));
    escrows
}

fn sender_on(world: &World, name: &str, client: ChainClient, tasks: &mut Tasks) -> Sender {
    let journal = RedbJournal::new(Arc::clone(world.store(name).database())).unwrap();
    let account: DynSigner = Arc::new(key(3));
    let config = world.access().remove(0).sender;
    let (sender, task) = Sender::new(client, account, Arc::new(journal), config).unwrap();
    tasks.spawn(async move {
        task.run().await.unwrap();
        "the sender"
    });
    sender
}

/// The shop's claims where gas costs something, and a coin is worth `coin_worth`.
async fn dear_settlement(
    world: &World,
    shop: &Shop,
    coin_worth: Option<Amount>,
    tasks: &mut Tasks,
) -> Settlement {
    let name = format!("dear {coin_worth:?}");
    let mut escrows = dear_escrows(world, &name, tasks).await;
    if let Some(worth) = coin_worth {
        escrows.set_coin_worth(asset(), worth);
    }
    let policy = ClaimPolicy {
        amount_min: amount(50),
        ..policy()
    };
    let environment = Arc::clone(&world.environment);
    let (store, desk) = (shop.store.clone(), shop.till.desk.clone());
    Settlement::new(store, escrows, desk, policy, None, environment)
}

#[tokio::test]
async fn a_claim_waits_until_its_gas_is_one_percent_of_it() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for _ in 0..20 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    }
    // 2,000 units are due, so the 66,000 gas of a claim may cost 20 units: a coin of 10^18 wei may
    // be worth 303,030 units.
    let mut tasks = Tasks::new();
    let dear = dear_settlement(&world, &shop, Some(amount(303_031)), &mut tasks).await;
    assert_eq!(dear.claim(false).await.unwrap().len(), 0, "not worth it");
    let cheap = dear_settlement(&world, &shop, Some(amount(303_030)), &mut tasks).await;
    let reports = cheap.claim(false).await.unwrap();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].reason, ClaimReason::Worth);
    assert_eq!(reports[0].outcome.as_ref().unwrap().1, amount(2_000));
    assert_eq!(world.balance(shop.receiver).await, amount(2_000));
}

#[tokio::test]
async fn without_the_coins_worth_the_smallest_claim_alone_decides() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    let buy = async || {
        let bought = purse.buy(&shop.get("/hello"), |_| true).await;
        bought.unwrap();
    };
    buy().await;
    let mut tasks = Tasks::new();
    let known = dear_settlement(&world, &shop, Some(amount(1_000_000_000)), &mut tasks).await;
    assert_eq!(known.claim(false).await.unwrap().len(), 0);
    let unknown = dear_settlement(&world, &shop, None, &mut tasks).await;
    let reports = unknown.claim(false).await.unwrap();
    assert_eq!(reports[0].reason, ClaimReason::Worth);
    buy().await;
    let asked = known.claim(true).await.unwrap();
    assert_eq!(
        asked[0].reason,
        ClaimReason::Asked,
        "whatever the gas costs"
    );
    assert_eq!(world.balance(shop.receiver).await, amount(200));
}

#[tokio::test]
async fn what_a_refund_claimed_on_its_way_reaches_the_receiver() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    purse.refund(&shop.url("/hello"), None, None).await.unwrap();
    assert_eq!(world.balance(shop.receiver).await, Amount::ZERO);
    // The shop's own policy waits for far more; nothing but the transfer is left to do.
    assert_eq!(shop.till.settlement.claim(false).await.unwrap().len(), 0);
    let mut tasks = Tasks::new();
    // The transfer would cost more than 1% of it.
    let dear = dear_settlement(&world, &shop, Some(amount(1_000_000)), &mut tasks).await;
    assert_eq!(dear.claim(false).await.unwrap().len(), 0);
    let cheap = dear_settlement(&world, &shop, Some(amount(1)), &mut tasks).await;
    let reports = cheap.claim(false).await.unwrap();
    assert_eq!((reports.len(), reports[0].channels), (1, 0));
    assert_eq!(reports[0].reason, ClaimReason::Worth);
    assert_eq!(reports[0].outcome.as_ref().unwrap().1, amount(100));
    assert_eq!(world.balance(shop.receiver).await, amount(100));
    assert_eq!(cheap.claim(true).await.unwrap().len(), 0, "once");
}

#[tokio::test]
async fn a_claim_in_several_tokens_at_once_pays_each_in_its_own() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let (one, other) = (world.purse("one").await, world.purse_of_second("other"));
    let buy = async |purse: &Purse, times: usize| {
        for _ in 0..times {
            purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
        }
    };
    buy(&one, 3).await;
    buy(&other, 2).await;
    let mut tasks = Tasks::new();
    // In the first the gas of a claim would cost more than it brings; in the second it costs nothing.
    let mut escrows = dear_escrows(&world, "two tokens", &mut tasks).await;
    escrows.set_coin_worth(asset(), amount(1_000_000_000));
    escrows.set_coin_worth(second_asset(), Amount::ZERO);
    let policy = ClaimPolicy {
        amount_min: amount(50),
        ..policy()
    };
    let environment = Arc::clone(&world.environment);
    let (store, desk) = (shop.store.clone(), shop.till.desk.clone());
    let settlement = Settlement::new(store, escrows, desk, policy, None, environment);
    let claimed = async |asked: bool| {
        let reports = settlement.claim(asked).await.unwrap();
        let brought = reports.iter().map(|report| {
            let (_, settled) = report.outcome.as_ref().unwrap();
            (report.asset, report.channels, *settled)
        });
        brought.collect::<Vec<_>>()
    };
    assert_eq!(claimed(false).await, [(second_asset(), 1, amount(200))]);
    buy(&one, 1).await;
    buy(&other, 1).await;
    let mut all = claimed(true).await;
    all.sort();
    let mut expected = vec![(asset(), 1, amount(400)), (second_asset(), 1, amount(100))];
    expected.sort();
    assert_eq!(all, expected, "each in a transaction of its own");
    assert_eq!(world.balance(shop.receiver).await, amount(400));
    let held = world.client.balance_of(SECOND_TOKEN, shop.receiver);
    assert_eq!(held.await.unwrap(), alloy_primitives::U256::from(300));
    assert_eq!(claimed(true).await, [], "nothing more is due");
}

/// An endpoint that takes connections and answers nothing.
async fn dead_endpoint(chain: ChainId, tasks: &mut Tasks) -> ChainClient {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
        "the dead endpoint"
    });
    ChainClient::http(url.parse().unwrap(), chain, HttpOptions::default()).unwrap()
}

/// The way to the world's chain, and to one that answers nothing.
pub(crate) async fn beside_a_dead_chain(
    world: &World,
    dead: ChainId,
    tasks: &mut Tasks,
) -> Escrows {
    let mut escrows = Escrows::default();
    let clients = [dead_endpoint(dead, tasks).await, world.client.clone()];
    for (number, client) in clients.into_iter().enumerate() {
        let name = format!("two chains {number}");
        let sender = sender_on(world, &name, client.clone(), tasks);
        escrows.insert(Escrow::new(client, sender, key(4), 1));
    }
    escrows
}

#[tokio::test]
async fn a_chain_that_does_not_answer_delays_no_claim_on_another() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    // The same is due on a chain that comes first in every list.
    let dead = ChainId(1);
    let mut batch = Batch::default();
    let table = PROVIDER_CHANNELS;
    shop.store
        .each(table, |key, mut stored: StoredChannel| {
            stored.chain = dead;
            let other = key.iter().map(|byte| !byte).collect::<Vec<_>>();
            batch.put(table, &other, &stored).unwrap();
        })
        .unwrap();
    shop.store.commit(batch).await.unwrap();
    let mut tasks = Tasks::new();
    let escrows = beside_a_dead_chain(&world, dead, &mut tasks).await;
    let policy = ClaimPolicy {
        amount_min: amount(1),
        ..policy()
    };
    let (store, desk) = (shop.store.clone(), shop.till.desk.clone());
    let environment = Arc::clone(&world.environment);
    let settlement = Settlement::new(store, escrows, desk, policy, None, environment);
    tasks.spawn(async move {
        settlement.run().await;
        "settlement"
    });
    is_paid_before_the_dead_chain_is_given_up(&world, &shop).await;
}

/// Waits until the shop has what its one sale brought.
pub(super) async fn is_paid_before_the_dead_chain_is_given_up(world: &World, shop: &Shop) {
    // An endpoint that does not answer is waited for much longer than this.
    let deadline = Instant::now() + Duration::from_secs(8);
    while world.balance(shop.receiver).await != amount(100) {
        assert!(
            Instant::now() < deadline,
            "the claim waits for the other chain"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
