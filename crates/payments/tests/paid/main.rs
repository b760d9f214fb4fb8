//! Payments end to end, over real HTTP and a real EVM: the gate, the desk, the contracts, the
//! purse.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

mod crash;
mod endpoint;
mod facilitator;
mod follower;
mod hostile;
mod limits;
mod proxy;
mod settlement;
mod slow;
mod watchtower;
mod world;

use hearth_payments::till::Tasks;
use hearth_protocol::money::Amount;
use world::{World, amount};

#[tokio::test]
async fn a_payer_buys_many_times_on_one_channel_and_one_claim_pays_the_provider() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for round in 0..20 {
        let mut response = purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
        assert_eq!(response.status, 200, "round {round}");
        assert_eq!(response.bytes().await.unwrap(), "hello");
    }
    let channels = purse.channels().unwrap();
    assert_eq!(channels.len(), 1);
    assert_eq!(channels[0].stored.record.charged, amount(2_000));
    assert_eq!(
        channels[0].stored.record.balance,
        amount(2_000),
        "two deposits of ten each"
    );
    let reports = shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(reports.len(), 1);
    let (_, settled) = reports[0].outcome.as_ref().unwrap();
    assert_eq!(*settled, amount(2_000));
    assert_eq!(world.balance(shop.receiver).await, amount(2_000));
    assert_eq!(
        shop.till.settlement.claim(true).await.unwrap().len(),
        0,
        "nothing more is due"
    );
}

#[tokio::test]
async fn a_refund_returns_everything_that_was_not_charged() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(1_000)).await;
    let purse = world.purse("payer").await;
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    let before = world.balance(world.household).await;
    let refunded = purse.refund(&shop.url("/hello"), None, None).await.unwrap();
    assert_eq!(refunded.settled.amount.as_deref(), Some("9900"));
    assert_eq!(
        world.balance(world.household).await,
        before.saturating_add(amount(9_900))
    );
    assert_eq!(
        purse.channels().unwrap()[0].stored.record.refundable(),
        Amount::ZERO
    );
}

#[tokio::test]
async fn a_channel_that_was_claimed_to_the_unit_is_refunded_to_its_payer() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for _ in 0..3 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    }
    shop.till.settlement.claim(true).await.unwrap();
    let before = world.balance(world.household).await;
    // What the purse would sign for is public now: it signs for what it is told instead.
    let part = Some(amount(50));
    purse.refund(&shop.url("/hello"), None, part).await.unwrap();
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    purse.refund(&shop.url("/hello"), None, None).await.unwrap();
    let returned = world.balance(world.household).await;
    assert_eq!(returned, before.saturating_add(amount(1_000 - 400)));
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(world.balance(shop.receiver).await, amount(400));
}

#[tokio::test]
async fn a_failed_request_costs_nothing_and_its_deposit_is_not_made_again() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut tasks = Tasks::new();
    let purse = world.purse_on_chain("payer", &mut tasks).await;
    let response = purse.buy(&shop.get("/fails"), |_| true).await.unwrap();
    assert_eq!(response.status, 500);
    assert!(response.receipt.is_none());
    let mut response = purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), "hello");
    let record = purse.channels().unwrap()[0].stored.record.clone();
    assert_eq!(record.charged, amount(100));
    assert_eq!(record.deposited, amount(1_000));
    assert_eq!(record.balance, amount(1_000), "one deposit of ten");
}

#[tokio::test]
async fn a_stream_is_charged_at_its_end_and_its_trailers_say_how_much() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for _ in 0..3 {
        let mut response = purse.buy(&shop.get("/stream"), |_| true).await.unwrap();
        assert_eq!(response.bytes().await.unwrap(), "tick tick tick ");
        let receipt = response.final_receipt().unwrap();
        assert_eq!(receipt.extra["chargedAmount"], "7");
    }
    assert_eq!(
        purse.channels().unwrap()[0].stored.record.charged,
        amount(21)
    );
}

#[tokio::test]
async fn a_one_off_payment_is_transferred_once_and_serves_once() {
    let world = World::start().await;
    let shop = world
        .shop_that(amount(100), amount(100), |asset| asset.batch = false)
        .await;
    let purse = world.purse("payer").await;
    let mut response = purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), "hello");
    let receipt = response.receipt.unwrap();
    assert!(
        receipt.success && receipt.transaction.len() == 66,
        "{receipt:?}"
    );
    assert_eq!(world.balance(shop.receiver).await, amount(100));
    let failed = purse.buy(&shop.get("/fails"), |_| true).await.unwrap();
    assert_eq!(failed.status, 500);
    assert_eq!(
        world.balance(shop.receiver).await,
        amount(100),
        "a failure costs nothing"
    );
}

#[tokio::test]
async fn nothing_is_signed_that_is_not_approved_or_not_within_the_limits() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    let refused = purse.buy(&shop.get("/hello"), |_| false).await;
    assert!(refused.unwrap_err().to_string().contains("not approved"));
    assert_eq!(purse.channels().unwrap().len(), 0);
    let dear = world
        .shop_named("dear", amount(20_000), amount(20_000))
        .await;
    let refused = purse.buy(&dear.get("/hello"), |_| true).await.unwrap_err();
    assert!(
        refused.to_string().contains("above the limit of 10000"),
        "{refused}"
    );
}
