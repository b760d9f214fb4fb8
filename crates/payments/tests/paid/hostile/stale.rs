//! Payers that take their money back while the provider cannot see it.

use hearth_payments::desk::{Admission, PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::store::Batch;
use hearth_payments::till::Tasks;
use hearth_protocol::channel::provider::Quote;
use hearth_protocol::channel::{CheckedPayment, PaymentKind, check};
use hearth_protocol::id::ChainId;
use hearth_protocol::money::Amount;
use hearth_protocol::x402::{BatchPayload, ErrorCode};
use serde::Deserialize;

use super::forger::Forger;
use super::{OK, UNPAID};
use crate::endpoint::{Temper, endpoint};
use crate::world::{World, amount};

/// A world whose chain is reached through an endpoint of this temper.
async fn world_through(temper: &Temper, tasks: &mut Tasks) -> World {
    let mut world = World::start().await;
    world.client = endpoint(&world.chain, temper, tasks).await;
    world
}

/// The forger's household begins to withdraw all that is in its channel.
async fn withdraws(forger: &Forger<'_>) {
    let world = forger.world;
    let data = {
        use alloy_sol_types::SolCall;
        use hearth_chain::bindings::Settlement;
        let config = forger.config;
        Settlement::initiateWithdrawCall {
            config: Settlement::ChannelConfig {
                payer: config.payer,
                payerAuthorizer: config.payer_authorizer,
                receiver: config.receiver,
                receiverAuthorizer: config.receiver_authorizer,
                token: config.token,
                withdrawDelay: alloy_primitives::aliases::U40::from(config.withdraw_delay),
                salt: config.salt,
            },
            amount: 99_900,
        }
        .abi_encode()
    };
    world.send_as_household("withdrawal", data).await;
}

async fn is_refused(forger: &Forger<'_>, payment: &serde_json::Value, code: ErrorCode) {
    for _ in 0..20 {
        let reply = forger.send("/hello", payment).await;
        assert_eq!((reply.status, &*reply.code), (UNPAID, code.as_str()));
        assert!(!reply.message.is_empty());
    }
}

#[tokio::test]
async fn where_events_are_refused_the_chain_is_read_before_work_is_admitted() {
    let (temper, mut tasks) = (Temper::default(), Tasks::new());
    temper.refuse("eth_getLogs");
    let world = world_through(&temper, &mut tasks).await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    forger.buy_honestly().await;
    withdraws(&forger).await;
    let payment = forger.voucher_payment(100);
    is_refused(&forger, &payment, ErrorCode::CumulativeExceedsBalance).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_lets_nothing_be_sold_and_says_so() {
    let (temper, mut tasks) = (Temper::default(), Tasks::new());
    temper.refuse("eth_getLogs");
    let world = world_through(&temper, &mut tasks).await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    forger.buy_honestly().await;
    temper.set_broken(true);
    let payment = forger.voucher_payment(100);
    let reply = forger.send("/hello", &payment).await;
    let code = ErrorCode::ChannelStateRead.as_str();
    assert_eq!((reply.status, &*reply.code), (UNPAID, code));
    assert!(reply.message.contains("try again"), "{}", reply.message);
    temper.set_broken(false);
    forger.buy_honestly().await;
}

#[tokio::test]
async fn a_provider_that_was_away_reads_a_channel_before_it_works_on_it() {
    let (temper, mut tasks) = (Temper::default(), Tasks::new());
    let world = world_through(&temper, &mut tasks).await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    forger.buy_honestly().await;
    // The books as they were when it went away: they know nothing of the withdrawal.
    let channel = forger.domain().channel_id(&forger.config).0;
    shop.till.desk.written().await.unwrap();
    let stored: Option<StoredChannel> = shop
        .store
        .get(PROVIDER_CHANNELS, channel.as_slice())
        .unwrap();
    let mut batch = Batch::default();
    batch
        .put(PROVIDER_CHANNELS, channel.as_slice(), &stored.unwrap())
        .unwrap();
    let books = world.store("away");
    books.commit(batch).await.unwrap();
    drop(books);
    withdraws(&forger).await;
    let back = world.shop_named("away", amount(100), amount(100)).await;
    let (charged, asset) = (forger.charged, forger.asset.clone());
    let forger = Forger::at(&world, &back, charged, asset);
    let payment = forger.voucher_payment(100);
    is_refused(&forger, &payment, ErrorCode::CumulativeExceedsBalance).await;
}

#[tokio::test]
async fn a_live_follower_spares_asking_the_chain_for_every_request() {
    let (temper, mut tasks) = (Temper::default(), Tasks::new());
    let world = world_through(&temper, &mut tasks).await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    // The follower looks every few seconds; a few rounds are without a look of its own in between.
    let mut quiet = 0;
    for _ in 0..200 {
        let before = temper.asked();
        forger.buy_honestly().await;
        quiet += u32::from(temper.asked() == before);
    }
    assert!(quiet >= 100, "{quiet} of 200 payments without a question");
}

#[tokio::test]
async fn a_payment_on_a_chain_that_is_not_used_is_refused_at_once_and_kept_nowhere() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let forger = Forger::new(&world, &shop).await;
    let payment = forger.voucher_payment(100);
    let payload = BatchPayload::deserialize(&payment["payload"]).unwrap();
    let now = hearth_protocol::time::Timestamp(world.environment.now_ms());
    let checked = check(&payload, &forger.asset.terms(), now).unwrap();
    let quote = Quote {
        ceiling: amount(100),
        need: amount(100),
        least_deposit: Amount::ZERO,
    };
    for kind in [
        PaymentKind::Voucher,
        PaymentKind::Refund(None),
        PaymentKind::Refund(Some(amount(1))),
    ] {
        let strange = CheckedPayment {
            channel: hearth_protocol::id::ChannelId(alloy_primitives::B256::repeat_byte(0x77)),
            kind,
            ..checked.clone()
        };
        let admission = shop
            .till
            .desk
            .pay(ChainId(1), strange, quote)
            .await
            .unwrap();
        match admission {
            Admission::Refused(refusal) => assert_eq!(refusal.code, ErrorCode::InvalidNetwork),
            other => panic!("{other:?}"),
        }
    }
    let reply = forger.send("/hello", &payment).await;
    assert_eq!(reply.status, OK);
}
