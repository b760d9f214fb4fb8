//! The facilitator API, asked as another program's service would ask it.

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_doors::{Budget, Listener, Policy, serve};
use hearth_payments::facilitator::{Callers, Facilitator};
use hearth_payments::offer::{AcceptedAsset, Price};
use hearth_payments::signing::sign;
use hearth_payments::till::{Tasks, TillKeys, open_escrows};
use hearth_protocol::exact::transfer_message;
use hearth_protocol::x402::{
    Authorization, ErrorCode, ExactPayload, Extensions, PaymentPayload, PaymentRequirements,
    Scheme, SettleResponse, VerifyRequest, VerifyResponse, Version,
};
use serde_json::Value;

use super::world::{World, amount, asset, key};

/// The API keys of two services of the household.
const KEYS: [(&str, &str); 2] = [("shop", "hearth-shop"), ("sibling", "hearth-sibling")];

struct Office {
    base: String,
    accepted: AcceptedAsset,
    _tasks: Tasks,
}

impl Office {
    async fn open(world: &World) -> Self {
        Self::open_that(world, "facilitator", |facilitator| facilitator).await
    }

    async fn open_that(
        world: &World,
        name: &str,
        differs: impl FnOnce(Facilitator) -> Facilitator,
    ) -> Self {
        let mut tasks = Tasks::new();
        let store = world.store(name);
        let keys = TillKeys {
            account: key(3),
            session: key(4),
        };
        let escrows = open_escrows(world.access(), &keys, &store, &mut tasks).unwrap();
        let receivers = BTreeSet::from([key(3).address()]);
        let environment = Arc::clone(&world.environment);
        let find = |text: &str| {
            let found = KEYS.iter().find(|(_, key)| *key == text);
            found.map(|(name, _)| (*name).to_owned())
        };
        let callers = Callers::new(store, Arc::new(find));
        let facilitator = Facilitator::new(escrows, receivers, callers, environment);
        let router = differs(facilitator).router();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.address());
        let policy = Policy::household(listener.address(), &[], Budget::of_process());
        tasks.spawn(async move {
            serve(listener, router, policy, Box::pin(std::future::pending())).await;
            "the facilitator"
        });
        let accepted = AcceptedAsset {
            asset: asset(),
            name: "Test Dollar (worthless)".to_owned(),
            version: "1".to_owned(),
            receiver: key(3).address(),
            receiver_authorizer: key(4).address(),
            withdraw_delay: 86_400,
            deposit_ceilings: 10,
            batch: true,
            exact: true,
        };
        Self {
            base,
            accepted,
            _tasks: tasks,
        }
    }

    fn exact(&self) -> PaymentRequirements {
        let price = Price {
            need: amount(250),
            ceiling: amount(250),
        };
        let ways = self.accepted.requirements(price);
        ways.into_iter()
            .find(|way| way.scheme == Scheme::Exact)
            .unwrap()
    }

    fn pay(&self, requirements: &PaymentRequirements, nonce: u8, now_s: u64) -> VerifyRequest {
        let authorization = Authorization {
            from: key(1).address(),
            to: requirements.pay_to,
            value: requirements.amount,
            valid_after: 0,
            valid_before: now_s + 60,
            nonce: [nonce; 32].into(),
        };
        let message = transfer_message(&authorization);
        let digest = self.accepted.token_domain().transfer_digest(&message);
        let payload = ExactPayload {
            signature: sign(&key(1), digest),
            authorization,
        };
        VerifyRequest {
            x402_version: Version,
            payment_payload: PaymentPayload {
                x402_version: Version,
                resource: None,
                accepted: requirements.clone(),
                payload: serde_json::to_value(payload).unwrap(),
                extensions: Extensions::new(),
            },
            payment_requirements: requirements.clone(),
        }
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        let http = hearth_payments::http::client().unwrap();
        http.post(format!("{}{path}", self.base))
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str, request: &VerifyRequest) -> T {
        self.ask_as(KEYS[0].1, path, request).await
    }

    async fn ask_as<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        path: &str,
        request: &VerifyRequest,
    ) -> T {
        let request = self.post(path).bearer_auth(key).json(request);
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.json().await.unwrap()
    }
}

#[tokio::test]
async fn a_payment_to_the_household_is_verified_then_settled_once() {
    let world = World::start().await;
    let office = Office::open(&world).await;
    let now_s = world.environment.now_ms() / 1_000;
    let request = office.pay(&office.exact(), 7, now_s);
    let verified: VerifyResponse = office.ask("/verify", &request).await;
    assert!(verified.is_valid, "{verified:?}");
    assert_eq!(verified.payer, Some(key(1).address()));
    let settled: SettleResponse = office.ask("/settle", &request).await;
    assert!(settled.success, "{settled:?}");
    assert_eq!(world.balance(key(3).address()).await, amount(250));
    let again: SettleResponse = office.ask("/settle", &request).await;
    assert_eq!(
        again.error_reason.as_deref(),
        Some(ErrorCode::ExactNonceUsed.as_str())
    );
    assert_eq!(world.balance(key(3).address()).await, amount(250));
}

#[tokio::test]
async fn a_payment_to_a_stranger_is_not_sent_at_the_households_cost() {
    let world = World::start().await;
    let office = Office::open(&world).await;
    let now_s = world.environment.now_ms() / 1_000;
    let mut requirements = office.exact();
    requirements.pay_to = key(9).address();
    let request = office.pay(&requirements, 7, now_s);
    let verified: VerifyResponse = office.ask("/verify", &request).await;
    assert_eq!(
        verified.invalid_reason.as_deref(),
        Some(ErrorCode::ReceiverMismatch.as_str())
    );
    let settled: SettleResponse = office.ask("/settle", &request).await;
    assert!(!settled.success);
}

#[tokio::test]
async fn nothing_is_signed_for_channels_of_the_desk_beside_it() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    let channel = purse.channels().unwrap()[0].channel;
    let row = shop.claim_row(channel);
    let guarded = Office::open_that(&world, "guarded", |facilitator| {
        facilitator.beside_desk(shop.store.clone())
    })
    .await;
    let ways = guarded.accepted.requirements(Price {
        need: amount(100),
        ceiling: amount(100),
    });
    let mut request = guarded.pay(&ways[0], 7, 0);
    // Everything back, although 100 were charged and not claimed.
    request.payment_payload.payload = serde_json::json!({
        "type": "refund",
        "channelConfig": row.voucher.channel,
        "voucher": {
            "channelId": channel,
            "maxClaimableAmount": row.voucher.max_claimable_amount,
            "signature": row.signature,
        },
        "amount": "1000",
        "refundNonce": "0",
        "claims": [],
    });
    let refused: SettleResponse = guarded.ask("/settle", &request).await;
    assert_eq!(
        refused.error_reason.as_deref(),
        Some(ErrorCode::ClaimAuthorizer.as_str())
    );
}

#[tokio::test]
async fn a_channels_refund_is_signed_for_the_service_that_it_pays_and_for_no_sibling() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    let channel = purse.channels().unwrap()[0].channel;
    let row = shop.claim_row(channel);
    let office = Office::open(&world).await;
    let ways = office.accepted.requirements(Price {
        need: amount(100),
        ceiling: amount(100),
    });
    let voucher = serde_json::json!({
        "channelId": channel,
        "maxClaimableAmount": row.voucher.max_claimable_amount,
        "signature": row.signature,
    });
    let mut refund = office.pay(&ways[0], 7, 0);
    refund.payment_payload.payload = serde_json::json!({
        "type": "refund",
        "channelConfig": row.voucher.channel,
        "voucher": voucher,
        "amount": "1000",
        "refundNonce": "0",
        "claims": [],
    });
    let refused = Some(ErrorCode::ClaimAuthorizer.as_str());
    // Nobody has shown that the channel pays it.
    for (_, key) in KEYS {
        let reply: SettleResponse = office.ask_as(key, "/settle", &refund).await;
        assert_eq!(reply.error_reason.as_deref(), refused);
    }
    let mut paid = refund.clone();
    paid.payment_payload.payload = serde_json::json!({
        "type": "voucher",
        "channelConfig": row.voucher.channel,
        "voucher": voucher,
    });
    // The sibling sees the voucher later, as everybody may once it is claimed.
    for (_, key) in KEYS {
        let verified: VerifyResponse = office.ask_as(key, "/verify", &paid).await;
        assert!(verified.is_valid, "{verified:?}");
    }
    let mut claim = refund.clone();
    claim.payment_payload.payload = serde_json::json!({ "type": "claim", "claims": [row] });
    for request in [&refund, &claim] {
        let reply: SettleResponse = office.ask_as(KEYS[1].1, "/settle", request).await;
        assert_eq!(reply.error_reason.as_deref(), refused);
    }
    let settled: SettleResponse = office.ask("/settle", &refund).await;
    assert!(settled.success, "{settled:?}");
}

#[tokio::test]
async fn who_shows_no_key_of_the_household_or_comes_from_a_page_gets_nothing() {
    let world = World::start().await;
    let office = Office::open(&world).await;
    let now_s = world.environment.now_ms() / 1_000;
    let request = office.pay(&office.exact(), 7, now_s);
    let host = office.base.trim_start_matches("http://").to_owned();
    let key = format!("Bearer {}", KEYS[0].1);
    let key = ("authorization", key.as_str());
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer hearth-other")], 401),
        (vec![("authorization", KEYS[0].1)], 401),
        (vec![("authorization", "Basic hearth-shop")], 401),
        (vec![key, ("host", "evil.example")], 421),
        (vec![key, ("host", "facilitator@127.0.0.1")], 400),
        (vec![key, ("origin", "https://evil.example")], 403),
        (vec![key, ("origin", "null")], 403),
        (vec![key, ("sec-fetch-site", "cross-site")], 403),
        (vec![key, ("content-encoding", "br")], 415),
        (vec![key, ("host", host.as_str())], 200),
    ] {
        for path in ["/verify", "/settle"] {
            if status == 200 && path == "/settle" {
                continue;
            }
            let mut asked = office.post(path).json(&request);
            for (name, value) in &headers {
                asked = asked.header(*name, *value);
            }
            let reply = asked.send().await.unwrap();
            assert_eq!(reply.status(), status, "{path} {headers:?}");
        }
    }
    assert_eq!(world.balance(key_of_household()).await, amount(0));
}

fn key_of_household() -> alloy_primitives::Address {
    key(3).address()
}

#[tokio::test]
async fn what_is_supported_is_said() {
    let world = World::start().await;
    let office = Office::open(&world).await;
    let http = hearth_payments::http::client().unwrap();
    let reply = http
        .get(format!("{}/supported", office.base))
        .send()
        .await
        .unwrap();
    let supported: Value = reply.json().await.unwrap();
    let schemes: Vec<_> = supported["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| &kind["scheme"])
        .collect();
    assert_eq!(schemes, ["exact", "batch-settlement"]);
}
