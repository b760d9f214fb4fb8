//! Payment identifiers: the same request again, and what only looks like it.

use serde_json::{Value, json};

use super::forger::Forger;
use super::{MALFORMED, OK, refused};
use crate::world::{World, amount};
use http::StatusCode;

fn with_id(mut payment: Value, id: Value) -> Value {
    payment["extensions"] = json!({ "payment-identifier": { "info": { "id": id } } });
    payment
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_reply_for_one_charge() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = with_id(forger.voucher_payment(100), json!("an-identifier-of-mine"));
    let first = forger.send("/hello", &payment).await;
    assert_eq!((first.status, &*first.body), (OK, "hello"));
    let before = super::books(&forger).await;
    let again = forger.send("/hello", &payment).await;
    assert_eq!((again.status, &*again.body), (OK, "hello"));
    assert_eq!(again.settled, first.settled);
    assert_eq!(super::books(&forger).await, before, "charged once");
    forger.charged += 100;
    let other = with_id(forger.voucher_payment(100), json!("an-identifier-of-mine"));
    let send = async |forger: &Forger<'_>| forger.send("/hello", &other).await;
    let name = "the identifier of another payment";
    refused(&mut forger, name, send, StatusCode::CONFLICT, "conflict").await;
}

#[tokio::test]
async fn a_request_in_flight_is_not_begun_again() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = with_id(forger.voucher_payment(100), json!("an-identifier-of-mine"));
    let held = forger.send("/held", &payment);
    let second = async {
        shop.held_request().await;
        let reply = forger.send("/held", &payment).await;
        shop.turnstile.add_permits(1);
        reply
    };
    let (first, second) = futures::join!(held, second);
    assert_eq!(first.status, OK);
    assert_eq!(
        (second.status, &*second.code),
        (StatusCode::CONFLICT, "conflict")
    );
    forger.charged += 100;
    forger.buy_honestly().await;
}

#[tokio::test]
async fn identifiers_that_are_not_well_formed_are_malformed() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    for id in [
        json!("short"),
        json!("x".repeat(129)),
        json!("with a space in it"),
        json!("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}"),
        json!(1_234_567_890_123_456_u64),
    ] {
        let payment = with_id(forger.voucher_payment(100), id.clone());
        let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
        let name = id.to_string();
        refused(&mut forger, &name, send, MALFORMED, "invalid_payload").await;
    }
}
