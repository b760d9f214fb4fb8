//! Hostile payers: each attempt gets its own documented code, changes nothing, and leaves the next
//! honest request as it was.

mod attempts;
mod exact;
mod forger;
mod messages;
mod repeats;
mod stale;
mod strangers;

use alloy_primitives::{Address, U256};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_protocol::x402::ErrorCode;
use http::StatusCode;
use serde_json::json;

use crate::world::{World, amount};
use forger::{Forger, Reply};

const OK: StatusCode = StatusCode::OK;
const MALFORMED: StatusCode = StatusCode::BAD_REQUEST;
const UNPAID: StatusCode = StatusCode::PAYMENT_REQUIRED;

/// Everything that an attempt must leave as it is.
async fn books(forger: &Forger<'_>) -> String {
    let mut records = Vec::new();
    // What the chain did reaches the books a moment later.
    forger.shop.till.desk.written().await.unwrap();
    let store = &forger.shop.store;
    store
        .each(PROVIDER_CHANNELS, |key, stored: StoredChannel| {
            records.push(format!("{key:?} {stored:?}"));
        })
        .unwrap();
    let block = forger.world.chain.block_number().unwrap();
    format!("block {block}: {records:?}")
}

/// Sends `reply`'s request and looks at everything that it might have changed.
async fn refused(
    forger: &mut Forger<'_>,
    name: &str,
    attempt: impl AsyncFnOnce(&Forger<'_>) -> Reply,
    status: StatusCode,
    code: &str,
) {
    let before = books(forger).await;
    let reply = attempt(forger).await;
    assert_eq!((reply.status, &*reply.code), (status, code), "{name}");
    assert!(!reply.message.is_empty(), "{name}");
    assert_eq!(books(forger).await, before, "{name} changed something");
    forger.buy_honestly().await;
}

#[tokio::test]
async fn headers_that_cannot_be_read_are_malformed() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let honest = forger.header(&forger.voucher_payment(100));
    let mut headers = attempts::unreadable_headers(&honest);
    headers.push((
        "cut in half".into(),
        honest.as_bytes()[..honest.len() / 2].to_vec(),
    ));
    for (name, header) in headers {
        let attempt = async |forger: &Forger<'_>| forger.send_raw("/hello", &[header]).await;
        refused(&mut forger, &name, attempt, MALFORMED, "invalid_payload").await;
    }
    let twice = honest.into_bytes();
    let attempt =
        async |forger: &Forger<'_>| forger.send_raw("/hello", &[twice.clone(), twice]).await;
    refused(
        &mut forger,
        "two headers",
        attempt,
        MALFORMED,
        "bad_request",
    )
    .await;
}

#[tokio::test]
async fn payments_that_are_wrong_in_one_place_get_the_code_of_that_place() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    for attempt in attempts::wrong_payments() {
        let payment = (attempt.forge)(&forger);
        let code = attempt.code.as_str();
        let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
        refused(&mut forger, attempt.name, send, attempt.status, code).await;
    }
}

#[tokio::test]
async fn a_token_that_keeps_a_fee_is_refused_before_anything_is_sent() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = forger.fee_token_deposit();
    let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
    let code = ErrorCode::DepositSimulation.as_str();
    refused(&mut forger, "fee on transfer", send, UNPAID, code).await;
    let held = world.client.balance_of(
        crate::world::FEE_TOKEN,
        hearth_chain::bindings::SETTLEMENT_ADDRESS,
    );
    assert_eq!(held.await.unwrap(), U256::ZERO);
}

#[tokio::test]
async fn a_channel_that_is_busy_says_so_and_serves_on() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = forger.voucher_payment(100);
    let most = hearth_protocol::channel::provider::WAITING_MAX;
    let mut sends: FuturesUnordered<_> = (0..most + 2)
        .map(|_| forger.send("/held", &payment))
        .collect();
    // One works, the others fill the queue, and the one that finds it full is answered at once.
    let mut replies = vec![sends.next().await.unwrap()];
    assert_eq!(replies[0].code, ErrorCode::ChannelBusy.as_str());
    shop.turnstile.add_permits(1);
    replies.extend(sends.by_ref().collect::<Vec<_>>().await);
    drop(sends);
    let count = |status: StatusCode, code: &str| {
        let same = |reply: &&Reply| reply.status == status && reply.code == code;
        replies.iter().filter(same).count()
    };
    assert_eq!(count(OK, ""), 1);
    assert_eq!(count(UNPAID, ErrorCode::ChannelBusy.as_str()), 1);
    assert_eq!(count(UNPAID, ErrorCode::CumulativeMismatch.as_str()), most);
    forger.charged += 100;
    forger.buy_honestly().await;
}

#[tokio::test]
async fn an_old_voucher_is_worth_nothing_after_everything_was_returned() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let forger = Forger::new(&world, &shop).await;
    let old = forger.voucher_payment(100);
    let refund = forger.refund_payment(forger.charged, None);
    assert_eq!(forger.send("/hello", &refund).await.status, OK);
    let before = books(&forger).await;
    let reply = forger.send("/hello", &old).await;
    let code = ErrorCode::CumulativeExceedsBalance.as_str();
    assert_eq!((reply.status, &*reply.code), (UNPAID, code));
    let again = forger.send("/hello", &refund).await;
    let code = ErrorCode::RefundNoBalance.as_str();
    assert_eq!((again.status, &*again.code), (UNPAID, code));
    assert_eq!(books(&forger).await, before);
}

#[tokio::test]
async fn a_purse_never_uses_the_salt_of_a_closed_channel_again() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
        purse.refund(&shop.url("/hello"), None, None).await.unwrap();
        seen.extend(purse.channels().unwrap().iter().map(|view| view.channel));
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_refund_of_what_is_not_there_is_final_and_moves_nothing() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    for (name, amount, code) in [
        ("nothing", json!("0"), ErrorCode::RefundAmount),
        ("too much", json!("1000000"), ErrorCode::RefundAmount),
    ] {
        let payment = forger.refund_payment(forger.charged, Some(amount));
        let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
        refused(&mut forger, name, send, UNPAID, code.as_str()).await;
    }
    let payment = forger.refund_payment(forger.charged + 101, None);
    let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
    let code = ErrorCode::CumulativeMismatch.as_str();
    refused(&mut forger, "above", send, UNPAID, code).await;
}

/// An address that nobody has a key for.
fn nobody() -> Address {
    Address::repeat_byte(0xee)
}
