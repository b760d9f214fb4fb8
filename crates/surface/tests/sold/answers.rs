//! Models sold over HTTP: the ceiling comes from the request, the charge from what was generated.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use hearth_environment::SystemEnvironment;
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::gate::Gate;
use hearth_payments::offer::Price as Quoted;
use hearth_payments::purse::Purchase;
use hearth_protocol::answer::Price;
use hearth_protocol::audience::Openness;
use hearth_surface::answers::{Answerer, AskError, Tier};
use hearth_surface::{ForSale, PriceTable, Surface, sold};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::script::{PATIENCE, Script, events, said};
use crate::world::{Shop, World, amount, asset};

/// A unit for a token that is read, ten for one that is said, five at least.
fn prices(open: &watch::Sender<Openness>) -> PriceTable {
    let price = Price {
        asset: asset(),
        per_million_prompt: amount(1_000_000),
        per_million_output: amount(10_000_000),
        floor: amount(5),
    };
    let model = || ForSale {
        prices: vec![price],
        context_tokens: 4_096,
    };
    PriceTable {
        models: ["parrot", "breaks", "endless"]
            .map(|name| (name.to_owned(), model()))
            .into(),
        requests_per_voucher: 1,
        answers_at_once: 4,
        open: open.subscribe(),
    }
}

struct Seller {
    world: World,
    script: Arc<Script>,
    shop: Shop,
    open: watch::Sender<Openness>,
}

impl Seller {
    async fn start() -> Self {
        let world = World::start().await;
        let script = Arc::new(Script::default());
        let answerer: Arc<dyn Answerer> = script.clone();
        let surface = Surface::new(answerer, Arc::new(SystemEnvironment));
        let unused = Quoted {
            need: amount(1),
            ceiling: amount(1),
        };
        let open = watch::Sender::new(Openness::Everyone);
        let prices = prices(&open);
        let build = |gate: Gate| sold(&surface, prices, |pricing| Gate { pricing, ..gate });
        let shop = world.shop_of("seller", unused, |_| {}, build).await;
        Self {
            world,
            script,
            shop,
            open,
        }
    }

    /// Waits until so much was charged on the only channel, as the books on disk have it.
    async fn charges(&self, charged: u128) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = Vec::new();
            let table = PROVIDER_CHANNELS;
            let seen = |_: &[u8], stored: StoredChannel| found.push(stored.record.charged);
            self.shop.store.each(table, seen).unwrap();
            if found == [amount(charged)] {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?} for {charged}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn ask(&self, path: &str, body: &Value) -> Purchase {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        Purchase {
            method: Method::POST,
            url: self.shop.url(path),
            headers,
            body: Bytes::from(body.to_string()),
            patience_ms: 0,
        }
    }
}

#[tokio::test]
async fn a_whole_answer_costs_what_was_read_and_said() {
    let seller = Seller::start().await;
    let purse = seller.world.purse("payer").await;
    let body = json!({ "model": "parrot", "messages": said("one two three"), "max_tokens": 20 });
    let purchase = seller.ask("/v1/chat/completions", &body);
    let mut response = purse.buy(&purchase, |_| true).await.unwrap();
    assert_eq!(response.status, 200);
    let reply: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(reply["choices"][0]["message"]["content"], "one two three");
    assert_eq!(reply["hearth"]["source"], "network", "as the buyer sees it");
    assert_eq!(reply["hearth"]["charged"][0]["units"], "33");
    assert_eq!(reply["hearth"]["charged"][0]["asset"], asset().to_string());
    let record = &purse.channels().unwrap()[0].stored.record;
    assert_eq!(record.charged, amount(3 + 30));
    let ceiling = body.to_string().len() as u128 + 256 + 200;
    assert_eq!(
        record.deposited,
        amount(10 * ceiling),
        "ten of what it could cost"
    );
    let question = seller.script.last();
    assert_eq!(
        question.tier,
        Tier::Device,
        "it is not bought elsewhere to be sold again"
    );
    assert_eq!(question.output_tokens_max, Some(20));
}

#[tokio::test]
async fn a_stream_is_charged_as_it_was_delivered_though_it_breaks() {
    let seller = Seller::start().await;
    let purse = seller.world.purse("payer").await;
    let mut body = json!({ "model": "parrot", "stream": true, "max_tokens": 9,
        "messages": said("one two three four") });
    let purchase = seller.ask("/v1/messages", &body);
    let mut response = purse.buy(&purchase, |_| true).await.unwrap();
    let text = response.bytes().await.unwrap();
    let events = events(std::str::from_utf8(&text).unwrap());
    assert_eq!(events.last().unwrap().0, "message_stop");
    let receipt = response.final_receipt().unwrap();
    assert_eq!(receipt.extra["chargedAmount"], "44");
    body["model"] = json!("breaks");
    let purchase = seller.ask("/v1/messages", &body);
    let mut response = purse.buy(&purchase, |_| true).await.unwrap();
    let text = response.bytes().await.unwrap();
    assert!(std::str::from_utf8(&text).unwrap().contains("event: error"));
    let receipt = response.final_receipt().unwrap();
    assert_eq!(
        receipt.extra["chargedAmount"], "34",
        "four read, three said"
    );
    // It fails after its stream began, and before a word.
    let nobody = AskError::NoProvider("asleep".to_owned());
    *seller.script.fault.lock().unwrap() = Some(nobody);
    seller.script.late.store(true, Ordering::Relaxed);
    let mut response = purse.buy(&purchase, |_| true).await.unwrap();
    let text = response.bytes().await.unwrap();
    assert!(std::str::from_utf8(&text).unwrap().contains("event: error"));
    let receipt = response.final_receipt().unwrap();
    assert_eq!(receipt.extra["chargedAmount"], "0");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_before_anything_is_paid() {
    let seller = Seller::start().await;
    let http = hearth_payments::http::client().unwrap();
    let post = |body: Value| {
        http.post(seller.shop.url("/v1/chat/completions"))
            .json(&body)
            .send()
    };
    let unknown = json!({ "model": "poet", "messages": said("hello") });
    assert_eq!(post(unknown).await.unwrap().status(), 404);
    let wrong = json!({ "messages": said("hello") });
    assert_eq!(post(wrong).await.unwrap().status(), 400);
    let unpaid = json!({ "model": "parrot", "messages": said("hello") });
    assert_eq!(post(unpaid).await.unwrap().status(), 402);
    let listed = http
        .get(seller.shop.url("/v1/models"))
        .send()
        .await
        .unwrap();
    let listed: Value = listed.json().await.unwrap();
    assert_eq!(listed["data"].as_array().unwrap().len(), 3);
    // What a 404 points to is there.
    let nowhere = http
        .get(seller.shop.url("/v1/nowhere"))
        .send()
        .await
        .unwrap();
    assert_eq!(nowhere.status(), 404);
    assert!(nowhere.text().await.unwrap().contains("/openapi.json"));
    let document = http
        .get(seller.shop.url("/openapi.json"))
        .send()
        .await
        .unwrap();
    assert_eq!(document.status(), 200);
    let probe = http
        .get(seller.shop.url("/v1/chat/completions"))
        .send()
        .await
        .unwrap();
    assert_eq!(probe.status(), 402, "clients look for refunds so");
    let purse = seller.world.purse("payer").await;
    let too_hot = json!({
        "model": "parrot",
        "messages": said("hello"),
        "max_tokens": 10,
        "temperature": 9,
    });
    let purchase = seller.ask("/v1/chat/completions", &too_hot);
    let response = purse.buy(&purchase, |_| true).await.unwrap();
    assert_eq!(response.status, 400);
    let record = &purse.channels().unwrap()[0].stored.record;
    assert_eq!(record.charged, amount(0));
}

#[tokio::test]
async fn a_payer_that_goes_away_is_charged_what_was_said_until_then_and_no_more() {
    let seller = Seller::start().await;
    let purse = seller.world.purse("payer").await;
    // It says one word and then nothing.
    let mut body = json!({ "model": "endless", "max_tokens": 20, "stream": true,
        "messages": said("one two three") });
    let purchase = seller.ask("/v1/chat/completions", &body);
    let mut response = purse.buy(&purchase, |_| true).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("word") {
        let chunk = response.body.chunk().await.unwrap().unwrap();
        heard.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    drop(response);
    seller.charges(3 + 10).await;
    // The same where the whole answer was waited for in vain.
    body["stream"] = json!(false);
    let purchase = seller.ask("/v1/chat/completions", &body);
    let begun = async {
        while seller.script.asked.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = purse.buy(&purchase, |_| true) => panic!("the answer has no end"),
        begun = tokio::time::timeout(PATIENCE, begun) => begun.unwrap(),
    }
    seller.charges(2 * (3 + 10)).await;
}

#[tokio::test]
async fn while_the_owner_needs_the_device_nothing_is_sold() {
    let seller = Seller::start().await;
    let http = hearth_payments::http::client().unwrap();
    let ask = || {
        let body = json!({ "model": "parrot", "messages": said("hello") });
        http.post(seller.shop.url("/v1/chat/completions"))
            .json(&body)
            .send()
    };
    seller.open.send_replace(Openness::Household);
    let closed = ask().await.unwrap();
    assert_eq!(closed.status(), 503);
    assert!(closed.headers().contains_key("retry-after"));
    let reply: Value = closed.json().await.unwrap();
    assert_eq!(reply["error"]["code"], "closed");
    seller.open.send_replace(Openness::Everyone);
    assert_eq!(ask().await.unwrap().status(), 402);
}
