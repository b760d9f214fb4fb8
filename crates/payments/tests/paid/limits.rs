//! What a purse can lose to sellers that break off, lie, vanish or ask for what makes no sense.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::Address;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_environment::Environment;
use hearth_payments::purse::{PaidResponse, PayError, Purchase, Purse};
use hearth_payments::till::Tasks;
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Declined};
use hearth_protocol::x402::{
    PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE, PaymentRequirements,
};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::world::{Impatient, SlowClock, World, amount, asset};

const PRICE: u128 = 100;

/// What a seller answers to a payment.
type Answer = dyn Fn(&Value) -> Response + Send + Sync;

/// A seller that answers as it likes, and keeps what it was paid with.
struct Seller {
    url: Url,
    payments: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Seller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seller {
    async fn start(
        required: Value,
        answer: impl Fn(&Value) -> Response + Send + Sync + 'static,
    ) -> Self {
        let quote = STANDARD.encode(required.to_string());
        Self::quoting(quote, Arc::new(answer)).await
    }

    async fn quoting(quote: String, answer: Arc<Answer>) -> Self {
        let payments: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&payments);
        let handler = move |request: Request| {
            let paid = request.headers().get(PAYMENT_SIGNATURE);
            let reply = match paid {
                None => unpaid(&quote),
                Some(paid) => {
                    let json = STANDARD.decode(paid).unwrap();
                    let payment: Value = serde_json::from_slice(&json).unwrap();
                    kept.lock().unwrap().push(payment.clone());
                    answer(&payment)
                }
            };
            async move { reply }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let router = Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            payments,
            task,
        }
    }

    fn payments(&self) -> Vec<Value> {
        self.payments.lock().unwrap().clone()
    }

    async fn buy(&self, purse: &Purse) -> Result<PaidResponse, PayError> {
        let purchase = Purchase {
            method: Method::GET,
            url: self.url.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience_ms: 0,
        };
        let bought = purse.buy(&purchase, |_| true);
        let bought = tokio::time::timeout(Duration::from_secs(60), bought);
        bought
            .await
            .expect("a seller cannot hold the purse for ever")
    }
}

fn unpaid(quote: &str) -> Response {
    reply(StatusCode::PAYMENT_REQUIRED, PAYMENT_REQUIRED, quote)
}

fn reply(status: StatusCode, name: &'static str, value: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

fn broken_off(_: &Value) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

fn way(seller: u8, scheme: &str) -> Value {
    json!({
        "scheme": scheme, "network": asset().chain.to_string(), "amount": PRICE.to_string(),
        "asset": asset().token, "payTo": Address::repeat_byte(seller), "maxTimeoutSeconds": 120,
        "extra": { "name": "Test Dollar (worthless)", "version": "1",
            "receiverAuthorizer": Address::repeat_byte(seller), "withdrawDelay": 86_400 },
    })
}

fn required(ways: &[Value]) -> Value {
    json!({ "x402Version": 2, "resource": { "url": "http://seller/" }, "accepts": ways })
}

fn limit(per_day: u128) -> AssetLimit {
    AssetLimit::new(amount(PRICE), amount(PRICE), amount(per_day))
}

/// What vouchers on distinct channels and authorizations add up to: what a seller can take.
fn takeable(payments: &[Value]) -> u128 {
    let mut highest = std::collections::BTreeMap::new();
    let mut sum = 0;
    for payment in payments {
        let payload = &payment["payload"];
        let units = |value: &Value| value.as_str().unwrap().parse::<u128>().unwrap();
        if payload["authorization"].is_object() {
            sum += units(&payload["authorization"]["value"]);
        } else {
            let channel = payload["voucher"]["channelId"].to_string();
            let max = units(&payload["voucher"]["maxClaimableAmount"]);
            let entry = highest.entry(channel).or_insert(0);
            *entry = max.max(*entry);
        }
    }
    sum + highest.values().sum::<u128>()
}

fn is_beyond_the_day(error: &PayError) -> bool {
    let PayError::Declined(declined) = error else {
        return false;
    };
    let beyond = |one: &Declined| {
        matches!(
            one,
            Declined::PerDay { .. } | Declined::DepositsPerDay { .. }
        )
    };
    declined.iter().any(beyond)
}

#[tokio::test]
async fn six_sellers_that_break_off_cannot_take_six_times_the_limit_of_a_day() {
    for scheme in ["batch-settlement", "exact"] {
        let world = World::start().await;
        let purse = world.purse_within("payer", limit(250));
        let (mut taken, mut declined) = (0, 0);
        for seller in 1..=6 {
            let seller = Seller::start(required(&[way(seller, scheme)]), broken_off).await;
            match seller.buy(&purse).await {
                Err(error) if is_beyond_the_day(&error) => declined += 1,
                // It was not served, and what it signed counts all the same.
                _ => {}
            }
            taken += takeable(&seller.payments());
        }
        assert_eq!((taken, declined), (200, 4), "{scheme}");
        drop(purse);
        let again = world.purse_within("payer", limit(250));
        let seller = Seller::start(required(&[way(7, scheme)]), broken_off).await;
        let error = seller.buy(&again).await.unwrap_err();
        assert!(
            is_beyond_the_day(&error),
            "{scheme}, after a restart: {error}"
        );
        assert!(seller.payments().is_empty());
    }
}

#[tokio::test]
async fn payments_side_by_side_meet_the_limit_and_do_not_pass_it() {
    for scheme in ["batch-settlement", "exact"] {
        let world = World::start().await;
        let purse = world.purse_within("payer", limit(350));
        let mut sellers = Vec::new();
        for seller in 1..=12 {
            sellers.push(Seller::start(required(&[way(seller, scheme)]), broken_off).await);
        }
        let bought = sellers.iter().map(|seller| seller.buy(&purse));
        let bought = futures::future::join_all(bought).await;
        let beyond = bought
            .iter()
            .filter(|bought| bought.as_ref().is_err_and(is_beyond_the_day))
            .count();
        let payments: Vec<_> = sellers.iter().flat_map(Seller::payments).collect();
        assert_eq!((takeable(&payments), beyond), (300, 9), "{scheme}");
    }
}

#[tokio::test]
async fn a_statement_gives_nothing_back_that_can_still_be_taken() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(250));
    let mut taken = 0;
    for number in 1..=6 {
        let lies = |payment: &Value| {
            let channel = &payment["payload"]["voucher"]["channelId"];
            let settled = json!({
                "success": true, "network": asset().chain.to_string(), "transaction": "",
                "extra": { "chargedAmount": "0", "chargedTotal": "0", "channelState": {
                    "channelId": channel, "balance": PRICE.to_string(), "totalClaimed": "0",
                    "withdrawRequestedAt": 0, "refundNonce": "0", "chargedCumulativeAmount": "0" } },
            });
            let header = STANDARD.encode(settled.to_string());
            reply(StatusCode::OK, PAYMENT_RESPONSE, &header)
        };
        let ways = [way(number, "batch-settlement")];
        let seller = Seller::start(required(&ways), lies).await;
        let _ = seller.buy(&purse).await;
        taken += takeable(&seller.payments());
    }
    assert_eq!(taken, 200);
}

#[tokio::test]
async fn a_seller_that_refuses_what_it_charged_gets_no_second_promise() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(1_000));
    let ways = [way(1, "batch-settlement")];
    let charges_and_refuses = |payment: &Value| {
        let voucher = &payment["payload"]["voucher"];
        let mut entry = way(1, "batch-settlement");
        entry["extra"]["channelState"] = json!({
            "channelId": voucher["channelId"], "balance": "1000", "totalClaimed": "0",
            "withdrawRequestedAt": 0, "refundNonce": "0",
            "chargedCumulativeAmount": voucher["maxClaimableAmount"] });
        entry["extra"]["voucherState"] = json!({
            "signedMaxClaimable": voucher["maxClaimableAmount"], "signature": voucher["signature"] });
        let mut required = required(&[entry]);
        required["error"] = json!("invalid_batch_settlement_evm_cumulative_amount_mismatch");
        unpaid(&STANDARD.encode(required.to_string()))
    };
    let seller = Seller::start(required(&ways), charges_and_refuses).await;
    let error = seller.buy(&purse).await.unwrap_err();
    assert!(matches!(error, PayError::Correction(_)), "{error}");
    assert_eq!(
        takeable(&seller.payments()),
        PRICE,
        "never more than agreed"
    );
}

#[tokio::test]
async fn a_price_that_changes_after_the_payment_is_not_paid() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(1_000));
    for scheme in ["batch-settlement", "exact"] {
        let dearer = move |_: &Value| {
            let mut entry = way(1, scheme);
            entry["amount"] = json!("100");
            entry["payTo"] = json!(Address::repeat_byte(9));
            unpaid(&STANDARD.encode(required(&[entry]).to_string()))
        };
        let seller = Seller::start(required(&[way(1, scheme)]), dearer).await;
        let error = seller.buy(&purse).await.unwrap_err();
        assert!(
            matches!(error, PayError::Refused { .. }),
            "{scheme}: {error}"
        );
        assert_eq!(takeable(&seller.payments()), PRICE);
    }
}

#[tokio::test]
async fn a_payment_is_not_redirected() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(1_000));
    let other = Seller::start(required(&[way(2, "exact")]), broken_off).await;
    for status in [301, 302, 303, 307, 308] {
        let to = other.url.to_string();
        let sends_on =
            move |_: &Value| reply(StatusCode::from_u16(status).unwrap(), "location", &to);
        let seller = Seller::start(required(&[way(1, "exact")]), sends_on).await;
        let _ = seller.buy(&purse).await;
        assert_eq!(seller.payments().len(), 1, "{status}");
        assert!(other.payments().is_empty(), "{status}");
    }
}

#[tokio::test]
async fn statements_that_cannot_be_read_hold_no_channel() {
    let world = World::start().await;
    let mut tasks = Tasks::new();
    let clock = Arc::clone(&world.environment);
    let purse = world.purse_by("payer", limit(100_000), clock, &mut tasks);
    let purse = purse.await;
    let garbage = [
        json!({ "success": true, "network": "eip155:1", "extra": { "chargedAmount": -1 } }),
        json!({ "success": true, "network": "eip155:1", "extra": { "chargedAmount": [] } }),
        json!({ "success": true, "network": "eip155:1", "extra": { "channelState": 7 } }),
        json!({ "success": "perhaps" }),
        json!([[[[]]]]),
    ];
    for (number, settled) in (1..).zip(garbage) {
        let header = STANDARD.encode(settled.to_string());
        let answers = move |_: &Value| reply(StatusCode::OK, PAYMENT_RESPONSE, &header);
        let seller = Seller::start(required(&[way(number, "batch-settlement")]), answers).await;
        // More often than a provider may have channels: none may be lost.
        for _ in 0..10 {
            let _ = seller.buy(&purse).await;
        }
        assert_eq!(seller.payments().len(), 10);
        let channels = purse.channels().unwrap().len();
        assert_eq!(
            channels,
            usize::from(number),
            "one channel of each seller serves one request after the other"
        );
    }
}

fn wrong(change: impl Fn(&mut Value)) -> Value {
    let mut entry = way(1, "batch-settlement");
    change(&mut entry);
    required(&[entry])
}

/// Quotes of what must not be paid: their name, and what they are.
fn quotes_of_wrong_things() -> Vec<(&'static str, Value)> {
    vec![
        ("no ways", required(&[])),
        ("33 ways", required(&vec![way(1, "exact"); 33])),
        (
            "ways that are an object",
            json!({ "x402Version": 2, "resource": { "url": "" }, "accepts": {} }),
        ),
        (
            "another version",
            json!({ "x402Version": 1, "resource": { "url": "" }, "accepts": [way(1, "exact")] }),
        ),
        ("a negative amount", wrong(|it| it["amount"] = json!("-1"))),
        (
            "an amount that is a number",
            wrong(|it| it["amount"] = json!(1)),
        ),
        (
            "an amount beyond 128 bits",
            wrong(|it| it["amount"] = json!("340282366920938463463374607431768211456")),
        ),
        (
            "the greatest amount",
            wrong(|it| it["amount"] = json!(u128::MAX.to_string())),
        ),
        ("above one payment", wrong(|it| it["amount"] = json!("101"))),
        (
            "another token",
            wrong(|it| it["asset"] = json!(Address::repeat_byte(8))),
        ),
        (
            "another chain",
            wrong(|it| it["network"] = json!("eip155:1")),
        ),
        (
            "a chain that is none",
            wrong(|it| it["network"] = json!("solana:5eykt")),
        ),
        (
            "a scheme that is none",
            wrong(|it| it["scheme"] = json!("upto")),
        ),
        (
            "another way to deposit",
            wrong(|it| it["extra"]["assetTransferMethod"] = json!("permit2")),
        ),
    ]
}

/// Quotes on terms that must not be agreed to.
fn quotes_on_wrong_terms() -> Vec<(&'static str, Value)> {
    vec![
        (
            "ten minutes and a second",
            wrong(|it| it["maxTimeoutSeconds"] = json!(601)),
        ),
        (
            "a year",
            wrong(|it| it["maxTimeoutSeconds"] = json!(31_536_000)),
        ),
        (
            "for ever",
            wrong(|it| it["maxTimeoutSeconds"] = json!(u64::MAX)),
        ),
        (
            "a negative time",
            wrong(|it| it["maxTimeoutSeconds"] = json!(-1)),
        ),
        (
            "locked for ever",
            wrong(|it| it["extra"]["withdrawDelay"] = json!(u64::MAX)),
        ),
        (
            "locked for 31 days",
            wrong(|it| it["extra"]["withdrawDelay"] = json!(2_678_400)),
        ),
        (
            "withdrawn in an instant",
            wrong(|it| it["extra"]["withdrawDelay"] = json!(0)),
        ),
        (
            "a delay that is a text",
            wrong(|it| it["extra"]["withdrawDelay"] = json!("900")),
        ),
        (
            "no authorizer",
            wrong(|it| it["extra"]["receiverAuthorizer"] = Value::Null),
        ),
        (
            "a deposit above the limit",
            wrong(|it| it["extra"]["minDeposit"] = json!("-5")),
        ),
    ]
}

/// Every quote that must not be paid, as a header.
fn hostile_quotes() -> Vec<(&'static str, String)> {
    let quotes = quotes_of_wrong_things().into_iter();
    let mut quotes: Vec<_> = quotes
        .chain(quotes_on_wrong_terms())
        .map(|(name, quote)| (name, STANDARD.encode(quote.to_string())))
        .collect();
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let deep = format!("{{\"x402Version\":2,\"resource\":{{\"url\":\"\"}},\"accepts\":{deep}}}");
    quotes.push(("deep", STANDARD.encode(deep)));
    let mut huge = required(&[way(1, "exact")]);
    huge["resource"]["url"] = json!("x".repeat(16_000));
    quotes.push(("huge", STANDARD.encode(huge.to_string())));
    quotes.push(("not base64", "{}".to_owned()));
    quotes.push(("empty", String::new()));
    quotes
}

#[tokio::test]
async fn quotes_that_make_no_sense_are_refused_and_nothing_is_signed() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(250));
    for (name, quote) in hostile_quotes() {
        let seller = Seller::quoting(quote, Arc::new(broken_off)).await;
        let error = seller.buy(&purse).await.unwrap_err();
        assert!(!error.to_string().is_empty(), "{name}");
        assert!(seller.payments().is_empty(), "{name}: {error}");
    }
    assert!(purse.channels().unwrap().is_empty());
    // Nothing of it counts: an honest seller is paid up to the limit.
    let mut taken = 0;
    for number in 1..=3 {
        let ways = [way(number, "batch-settlement")];
        let seller = Seller::start(required(&ways), broken_off).await;
        let _ = seller.buy(&purse).await;
        taken += takeable(&seller.payments());
    }
    assert_eq!(taken, 200);
}

#[tokio::test]
async fn what_is_signed_stands_for_ten_minutes_at_most() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(100_000));
    for (number, timeout_s) in (1..).zip([0, 1, 60, 600]) {
        for scheme in ["batch-settlement", "exact"] {
            let mut entry = way(number, scheme);
            entry["maxTimeoutSeconds"] = json!(timeout_s);
            let seller = Seller::start(required(&[entry]), broken_off).await;
            let _ = seller.buy(&purse).await;
            let payment = seller.payments().remove(0);
            let signed = match scheme {
                "exact" => &payment["payload"]["authorization"]["validBefore"],
                _ => {
                    &payment["payload"]["deposit"]["authorization"]["erc3009Authorization"]["validBefore"]
                }
            };
            let until: u64 = signed.as_str().unwrap_or("0").parse().unwrap();
            let now = world.environment.now_ms() / 1_000;
            assert!(until <= now + 600, "{scheme} {timeout_s}");
        }
    }
}

#[tokio::test]
async fn a_price_that_the_owner_declines_counts_for_nothing() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(PRICE));
    for scheme in ["batch-settlement", "exact"] {
        let seller = Seller::start(required(&[way(1, scheme)]), broken_off).await;
        let purchase = Purchase {
            method: Method::GET,
            url: seller.url.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience_ms: 0,
        };
        for _ in 0..3 {
            let error = purse.buy(&purchase, |_| false).await.unwrap_err();
            assert!(matches!(error, PayError::NotApproved), "{error}");
        }
        assert!(seller.payments().is_empty());
    }
    let seller = Seller::start(required(&[way(1, "exact")]), broken_off).await;
    let _ = seller.buy(&purse).await;
    assert_eq!(takeable(&seller.payments()), PRICE);
}

#[tokio::test]
async fn money_in_escrow_is_bounded_whoever_asks_for_it() {
    let world = World::start().await;
    let limit = AssetLimit {
        deposits_per_day: amount(1_000),
        locked: amount(250),
        ..limit(10_000)
    };
    let purse = world.purse_within("payer", limit);
    let mut deposited = Amount::ZERO;
    for number in 1..=6 {
        let ways = [way(number, "batch-settlement")];
        let seller = Seller::start(required(&ways), broken_off).await;
        let bought = seller.buy(&purse).await;
        if number > 2 {
            let Err(PayError::Declined(declined)) = bought else {
                panic!("seller {number} locked more than may be");
            };
            assert!(
                matches!(declined[0], Declined::Locked { .. }),
                "{declined:?}"
            );
        }
        for payment in seller.payments() {
            let units = payment["payload"]["deposit"]["amount"].as_str().unwrap();
            deposited = deposited.saturating_add(units.parse().unwrap());
        }
    }
    assert_eq!(deposited, amount(200));
}

#[tokio::test]
async fn the_chain_gives_back_what_can_no_longer_be_taken_and_nothing_earlier() {
    for scheme in ["batch-settlement", "exact"] {
        let world = World::start().await;
        let mut tasks = Tasks::new();
        let clock = Arc::new(SlowClock::default());
        let environment: Arc<dyn Environment> = clock.clone();
        let purse = world.purse_by("payer", limit(150), environment, &mut tasks);
        let purse = purse.await;
        let seller = Seller::start(required(&[way(1, scheme)]), broken_off).await;
        let _ = seller.buy(&purse).await;
        assert_eq!(takeable(&seller.payments()), PRICE);
        let second = Seller::start(required(&[way(2, scheme)]), broken_off).await;
        let error = second.buy(&purse).await.unwrap_err();
        assert!(is_beyond_the_day(&error), "it can still be taken: {error}");
        // The household's clock alone gives nothing back.
        clock.0.store(3_000_000, Ordering::Relaxed);
        let third = Seller::start(required(&[way(3, scheme)]), broken_off).await;
        let error = third.buy(&purse).await.unwrap_err();
        assert!(is_beyond_the_day(&error), "{error}");
    }
}

#[tokio::test]
async fn what_expired_on_the_chain_counts_no_more() {
    for scheme in ["batch-settlement", "exact"] {
        let world = World::start().await;
        let shop = world.shop(amount(1), amount(1)).await;
        let mut tasks = Tasks::new();
        // What this purse signs has expired for the chain before it leaves.
        let clock = Arc::new(SlowClock(AtomicU64::new(3_000_000)));
        let environment: Arc<dyn Environment> = clock;
        let purse = world.purse_by("payer", limit(150), environment, &mut tasks);
        let purse = purse.await;
        let seller = Seller::start(required(&[way(1, scheme)]), broken_off).await;
        let _ = seller.buy(&purse).await;
        assert_eq!(takeable(&seller.payments()), PRICE);
        // A block, so that the chain has a time.
        let other = world.purse("other").await;
        other.buy(&shop.get("/hello"), |_| true).await.unwrap();
        let second = Seller::start(required(&[way(2, scheme)]), broken_off).await;
        let _ = second.buy(&purse).await;
        assert_eq!(takeable(&second.payments()), PRICE, "{scheme}");
    }
}

#[tokio::test]
async fn what_was_returned_counts_as_long_as_a_deposit_may_still_arrive() {
    let world = World::start().await;
    let shop = world
        .shop_that(amount(10), amount(100), |asset| asset.exact = false)
        .await;
    let mut tasks = Tasks::new();
    let limit = AssetLimit {
        deposits_per_day: amount(10_000),
        ..AssetLimit::new(amount(100), amount(1_000), amount(150))
    };
    let clock = Arc::clone(&world.environment);
    let purse = world.purse_by("payer", limit, clock, &mut tasks).await;
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    purse.refund(&shop.url("/hello"), None, None).await.unwrap();
    // The provider holds a voucher of 100, and the chain has not passed the end of the deposit.
    let error = purse.buy(&shop.get("/hello"), |_| true).await.unwrap_err();
    assert!(is_beyond_the_day(&error), "{error}");
}

/// A way to pay the provider with this number by channel, for an answer.
fn provider(number: u8, units: u128) -> PaymentRequirements {
    let mut entry = way(number, "batch-settlement");
    entry["amount"] = json!(units.to_string());
    serde_json::from_value(entry).unwrap()
}

#[tokio::test]
async fn sixteen_providers_of_one_answer_share_what_one_answer_may_cost() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(10_000));
    let (mut risked, mut promised) = (Amount::ZERO, 0);
    for number in 1..=16 {
        let tab = purse.open_tab("provider", provider(number, 40)).await;
        let mut tab = tab.unwrap();
        tab.go_on_after(risked);
        match tab.promise(amount(40)).await {
            Ok(_) => promised += 40,
            Err(PayError::Declined(declined)) => {
                assert!(
                    matches!(declined[0], Declined::PerPayment { .. }),
                    "{declined:?}"
                );
            }
            Err(error) => panic!("{error}"),
        }
        risked = risked.saturating_add(tab.risked());
        tab.lost().await.unwrap();
    }
    assert_eq!(promised, 80, "of the {PRICE} that one answer may cost");
}

#[tokio::test]
async fn answers_side_by_side_meet_the_limit_of_a_day_and_do_not_pass_it() {
    let world = World::start().await;
    let purse = world.purse_within("payer", limit(250));
    let answers = (1..=8).map(async |number| {
        let tab = purse.open_tab("provider", provider(number, 100)).await;
        let mut tab = tab.ok()?;
        let promised = tab.promise(amount(100)).await.ok()?;
        // The provider vanishes.
        tab.lost().await.unwrap();
        Some(promised)
    });
    let promised = futures::future::join_all(answers).await;
    assert_eq!(promised.into_iter().flatten().count(), 2);
    let late = purse.open_tab("provider", provider(9, 100)).await;
    assert!(late.is_err_and(|error| is_beyond_the_day(&error)));
}

#[tokio::test]
async fn a_seller_that_never_answers_is_left_and_what_it_holds_counts() {
    let world = World::start().await;
    let mut tasks = Tasks::new();
    let purse = world.purse_by("payer", limit(150), Arc::new(Impatient), &mut tasks);
    let purse = purse.await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let quote = STANDARD.encode(required(&[way(1, "exact")]).to_string());
    let handler = move |request: Request| {
        let paid = request.headers().contains_key(PAYMENT_SIGNATURE);
        let reply = unpaid(&quote);
        async move {
            if paid {
                std::future::pending::<()>().await;
            }
            reply
        }
    };
    let router = Router::new().fallback(handler);
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let seller = Seller {
        url,
        payments: Arc::default(),
        task: server,
    };
    let error = seller.buy(&purse).await.unwrap_err();
    assert!(matches!(error, PayError::Slow), "{error}");
    let other = Seller::start(required(&[way(2, "exact")]), broken_off).await;
    let error = other.buy(&purse).await.unwrap_err();
    assert!(is_beyond_the_day(&error), "{error}");
}
