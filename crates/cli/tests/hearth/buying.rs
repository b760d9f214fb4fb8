//! `hearth pay` buys from a server that knows nothing of Hearth: npm `@x402/express`, with the SDK's own facilitator,
//! on anvil.

use serde_json::Value;

use crate::chain::{FUNDS, SETTLEMENT, TestChain, keys};
use crate::express::{Express, PRICE};
use crate::program::Home;
use crate::trade::units;

/// What the server asks for as a first deposit, and gets.
const DEPOSIT: u128 = 10 * PRICE;

/// What a payer puts into a channel by a transaction of its own: 0.02.
const OPENED: u128 = 20_000;

/// A household with funds on anvil, and a seller of other people's making.
struct Scene {
    buyer: Home,
    account: String,
    server: Express,
    chain: TestChain,
}

impl Scene {
    fn open() -> Self {
        let buyer = Home::with_wallet();
        let account = buyer.household();
        let chain = TestChain::anvil_for(&account);
        buyer.point_config_at(chain.rpc());
        // The chain and the asset of a fresh configuration become those of this chain.
        buyer.edit_config(
            "[chains.\"eip155:402402\"]",
            &format!("[chains.\"{}\"]", chain.network()),
        );
        let embedded = "id = \"eip155:402402/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E";
        buyer.edit_config(
            embedded,
            &format!("id = \"{}/erc20:{}", chain.network(), chain.token()),
        );
        let server = Express::start(&chain);
        Self {
            buyer,
            account,
            server,
            chain,
        }
    }

    /// Pays for a route, with `more` arguments, and returns what `hearth pay` printed.
    fn pay(&self, route: &str, more: &[&str]) -> Value {
        let url = self.server.url(route);
        let arguments = [&["pay", &url, "--yes", "--json"], more].concat();
        self.buyer.run(&arguments).json()
    }

    /// Asks for a route whose handler fails.
    fn fails(&self, route: &str) {
        let url = self.server.url(route);
        let failed = self.buyer.run(&["pay", &url, "--yes", "--json"]);
        assert_eq!(failed.code, 1, "{failed:?}");
        let paid: Value = serde_json::from_str(&failed.stdout).unwrap();
        assert_eq!(paid["status"], 500);
    }

    fn channel(&self) -> Value {
        let listed = self.buyer.run(&["channels", "list", "--json"]).json();
        let paying = listed["paying"].as_array().unwrap();
        assert_eq!(paying.len(), 1, "one channel serves all calls: {listed:#}");
        paying[0].clone()
    }

    /// What the payer holds, what the contract holds, what the seller holds. None is ever missing.
    fn books(&self) -> (u128, u128, u128) {
        let books = (
            self.chain.holds(&self.account),
            self.chain.holds(SETTLEMENT),
            self.chain.holds(keys::RECEIVER),
        );
        assert_eq!(
            books.0 + books.1 + books.2,
            FUNDS,
            "an atomic unit is missing: {books:?}"
        );
        books
    }
}

/// Asserts that a call was served and paid by `scheme`; returns what it was charged.
#[track_caller]
fn served(paid: &Value, scheme: &str) -> u128 {
    let payment = &paid["payment"];
    assert_eq!(
        (&paid["status"], payment["scheme"].as_str()),
        (&Value::from(200), Some(scheme)),
        "{paid:#}"
    );
    assert_eq!(payment["receipt"]["success"], true, "{paid:#}");
    units(&payment["charged"])
}

#[test]
#[ignore = "needs outside programs"]
fn hearth_pays_an_sdk_server_by_voucher_and_gets_the_rest_back() {
    let scene = Scene::open();
    let first = scene.pay("/paid", &[]);
    assert_eq!(served(&first, "batch-settlement"), PRICE);
    assert_eq!(first["body"], r#"{"paid":"/paid","body":null}"#);
    assert_eq!(scene.books(), (FUNDS - DEPOSIT, DEPOSIT, 0));
    let posted = scene.pay(
        "/paid",
        &[
            "-H",
            "content-type: application/json",
            "-d",
            r#"{"question":1}"#,
        ],
    );
    assert_eq!(served(&posted, "batch-settlement"), PRICE);
    assert_eq!(posted["body"], r#"{"paid":"/paid","body":{"question":1}}"#);
    let less = scene.pay("/less?charge=137", &[]);
    assert_eq!(served(&less, "batch-settlement"), 137);
    let either = scene.pay("/either", &[]);
    assert_eq!(served(&either, "batch-settlement"), PRICE);
    scene.fails("/fails");
    let charged = 3 * PRICE + 137;
    assert_eq!(
        scene.books(),
        (FUNDS - DEPOSIT, DEPOSIT, 0),
        "vouchers need no transaction"
    );

    let channel = scene.channel();
    assert_eq!(channel["status"], "open");
    assert_eq!(channel["chain"], scene.chain.network());
    assert_eq!(units(&channel["balance"]), DEPOSIT);
    assert_eq!(
        units(&channel["charged"]),
        charged,
        "a failing handler charges nothing"
    );
    assert_eq!(units(&channel["due"]), DEPOSIT - charged);

    let url = scene.server.url("/paid");
    let refund = scene
        .buyer
        .run(&["channels", "refund", &url, "--yes", "--json"])
        .json();
    let returned = &refund["refunds"][0]["returned"];
    assert_eq!(units(returned), DEPOSIT - charged, "{refund:#}");
    assert_eq!(units(&scene.channel()["due"]), 0);
    assert_eq!(scene.books(), (FUNDS - charged, charged, 0));
    assert_eq!(
        scene.chain.claimed_for(keys::RECEIVER),
        charged,
        "what is left is the seller's"
    );

    // A channel that was given back is never used again; the next claim brings all that the seller earned.
    assert_eq!(served(&scene.pay("/paid", &[]), "batch-settlement"), PRICE);
    let claim = scene.server.claim();
    assert_eq!(claim["claims"].as_array().unwrap().len(), 1, "{claim:#}");
    let earned = charged + PRICE;
    let held = FUNDS - charged - DEPOSIT;
    assert_eq!(scene.books(), (held, DEPOSIT - PRICE, earned));
}

#[test]
#[ignore = "needs outside programs"]
fn hearth_opens_a_channel_with_an_sdk_server_where_it_has_gas() {
    let scene = Scene::open();
    let url = scene.server.url("/paid");
    let open = [
        "channels",
        "open",
        &url,
        "--deposit",
        "0.02",
        "--yes",
        "--json",
    ];
    let error = scene.buyer.run(&open).error(1);
    assert_eq!(error["code"], "no_coin", "{error}");
    assert!(error["message"].as_str().unwrap().contains(&scene.account));
    assert_eq!(scene.books(), (FUNDS, 0, 0));

    scene.chain.give_coin(&scene.account);
    let opened = scene.buyer.run(&open).json();
    assert_eq!(scene.books(), (FUNDS - OPENED, OPENED, 0));
    for _ in 0..2 {
        assert_eq!(served(&scene.pay("/paid", &[]), "batch-settlement"), PRICE);
    }
    assert_eq!(scene.channel()["channel"], opened["channel"]);
    assert_eq!(
        scene.books(),
        (FUNDS - OPENED, OPENED, 0),
        "without a further deposit"
    );
    let refund = ["channels", "refund", &url, "--yes", "--json"];
    assert_eq!(
        scene.buyer.run(&refund).json()["refunds"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(scene.books(), (FUNDS - 2 * PRICE, 2 * PRICE, 0));
}

#[test]
#[ignore = "needs outside programs"]
fn hearth_pays_an_sdk_server_once_by_a_signed_transfer() {
    let scene = Scene::open();
    for bought in 1..=2 {
        let once = scene.pay("/once", &[]);
        assert_eq!(served(&once, "exact"), PRICE);
        assert_eq!(once["body"], r#"{"paid":"/once","body":null}"#);
        let hash = once["payment"]["transaction"].as_str().unwrap();
        let seen = scene.buyer.run(&["chain", "tx", hash, "--json"]).json();
        assert_eq!(seen["status"], "succeeded");
        assert_eq!(scene.books(), (FUNDS - bought * PRICE, 0, bought * PRICE));
    }
    let none = scene.buyer.run(&["channels", "--json"]).json();
    assert_eq!(none["paying"], Value::Array(Vec::new()));
}
