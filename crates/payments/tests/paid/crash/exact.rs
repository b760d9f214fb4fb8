//! One-off payments while the provider is killed at every write.
//!
//! Two payments, each for a request of its own, are sent until they are served. Whatever the point, each is taken once, and
//! the payer gets what it paid for: only where the provider was killed after it had noted that the reply leaves can the
//! reply be lost. No payment serves another request, or serves again once its reply arrived.

use alloy_primitives::B256;
use hearth_payments::offer::Price;
use hearth_payments::signing::sign;
use hearth_protocol::exact::transfer_message;
use hearth_protocol::x402::{Authorization, ErrorCode, PAYMENT_SIGNATURE, encode_header};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    CEILING, Case, TOKENS, TRIES_MAX, Trade, Victim, household, kill_at_every_point, numbered,
    receiver,
};
use crate::world::accepted;

#[test]
fn a_provider_killed_at_any_write_takes_a_one_off_payment_once_and_serves_it() {
    assert!(kill_at_every_point(Victim::Provider, sell) >= 80);
}

/// What a request came to.
#[derive(Debug)]
enum Reply {
    Served,
    Refused(u16, String),
    /// The provider was killed meanwhile.
    None,
}

fn sell(case: &Case, runtime: &Runtime) -> bool {
    let mut trade = Trade::without_payer(case, runtime);
    let mut served = 0;
    for nonce in 1..=2 {
        let payment = payment(case, nonce);
        served += u64::from(is_served(&mut trade, &payment));
        // Neither serves another request, nor the same one again: but that a reply left may be forgotten in a crash.
        for path in ["/plain?other", "/plain"] {
            let reply = ask(&mut trade, path, &payment);
            let used = ErrorCode::ExactNonceUsed.as_str();
            let is_right = match &reply {
                Reply::Refused(402, code) => code == used,
                Reply::Served => path == "/plain" && trade.crashes > 0,
                Reply::Refused(..) => false,
                Reply::None => true,
            };
            assert!(is_right, "{path}: {reply:?}");
        }
    }
    let crashes = u64::from(trade.crashes);
    assert!(
        served + crashes >= 2,
        "{served} of 2 served, {crashes} crashes"
    );
    let worked = trade.provider().worked();
    assert!(
        (2..=2 + crashes).contains(&worked),
        "worked {worked} times, {crashes} crashes"
    );
    let taken = CEILING.saturating_mul(2);
    assert_eq!(trade.balance(receiver(case.point).address()), taken);
    let left = trade.balance(household(case.point).address());
    assert_eq!(left.saturating_add(taken), TOKENS);
    crashes > 0
}

/// Sends a payment until it is served, or its reply is lost for good.
fn is_served(trade: &mut Trade<'_>, payment: &Value) -> bool {
    for _ in 0..TRIES_MAX {
        match ask(trade, "/plain", payment) {
            Reply::Served => return true,
            Reply::Refused(402, code) if code == ErrorCode::ExactNonceUsed.as_str() => {
                assert!(trade.crashes > 0, "refused before anything happened");
                return false;
            }
            reply => assert!(trade.crashes > 0, "{reply:?}"),
        }
    }
    panic!("{payment} is not served");
}

/// Asks once, and starts the provider again where it was killed.
fn ask(trade: &mut Trade<'_>, path: &str, payment: &Value) -> Reply {
    let url = trade.provider().url(path);
    let header = encode_header(payment).unwrap();
    let reply = trade.runtime.block_on(async {
        let http = hearth_payments::http::client().unwrap();
        let sent = http.get(url).header(PAYMENT_SIGNATURE, header).send().await;
        let Ok(response) = sent else {
            return Reply::None;
        };
        let status = response.status().as_u16();
        let body = response.text().await.unwrap_or_default();
        if status == 200 {
            assert_eq!(body, "work");
            return Reply::Served;
        }
        let error: Value = serde_json::from_str(&body).unwrap_or_default();
        Reply::Refused(
            status,
            error["error"]["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    });
    if trade.provider().disk.stopped() {
        trade.restart_provider();
    }
    reply
}

fn payment(case: &Case, nonce: u8) -> Value {
    let payee = receiver(case.point).address();
    let asset = accepted(payee, numbered(4).address());
    let price = Price {
        need: CEILING,
        ceiling: CEILING,
    };
    let payer = household(case.point);
    let authorization = Authorization {
        from: payer.address(),
        to: payee,
        value: CEILING,
        valid_after: 0,
        valid_before: u64::from(u32::MAX),
        nonce: B256::repeat_byte(nonce),
    };
    let digest = asset
        .token_domain()
        .transfer_digest(&transfer_message(&authorization));
    json!({
        "x402Version": 2,
        "accepted": asset.requirements(price).remove(1),
        "payload": { "signature": sign(&payer, digest), "authorization": authorization },
    })
}
