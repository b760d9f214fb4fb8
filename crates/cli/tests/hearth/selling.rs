//! Payers that know nothing of Hearth buy from `hearth serve-paid` on a chain of `hearth chain run`: npm `@x402/fetch`
//! and PyPI `x402`, each with a bare key and with one that can read the chain.

use serde_json::{Value, json};

use crate::chain::{FUNDS, SETTLEMENT, TestChain, keys};
use crate::payer::{PAYERS, Payer};
use crate::program::{Home, Running, RunningChain, RunningService};
use crate::trade::units;
use crate::upstream::Upstream;

/// The price of a call, as a person writes it and in atomic units.
const PRICE: (&str, u128) = ("0.01", 10_000);

/// The chain's process and its data folder, kept together.
struct ChainOfItsOwn {
    _running: Running,
    _home: Home,
}

/// A chain of `hearth chain run` on which the outside payer holds [`FUNDS`] of the test token.
pub(crate) fn chain() -> TestChain {
    let home = Home::new();
    let fund = format!("{}={}", keys::PAYER_ADDRESS, FUNDS / 1_000_000);
    let running = RunningChain::start(&home, &["--fund", &fund]);
    let network = running.ready["chain"].as_str().unwrap();
    let token = running.ready["test_dollar"].as_str().unwrap();
    let facts = json!({
        "chainId": network.strip_prefix("eip155:").unwrap().parse::<u64>().unwrap(),
        "token": token.rsplit_once(':').map_or(token, |(_, address)| address),
        "name": "Test Dollar (worthless)",
        "version": "1",
    });
    let rpc = running.url().to_owned();
    let node = ChainOfItsOwn {
        _running: running,
        _home: home,
    };
    TestChain::known(rpc, Box::new(node), facts)
}

/// A household that sells.
struct Seller {
    home: Home,
    account: String,
    upstream: Upstream,
}

impl Seller {
    fn on(chain: &TestChain) -> Self {
        let home = Home::with_wallet();
        home.point_config_at(chain.rpc());
        Self {
            account: home.household(),
            home,
            upstream: Upstream::start(),
        }
    }

    fn serve(&self) -> Running {
        RunningService::start(
            &self.home,
            &["--price", PRICE.0, "--to", &self.upstream.url()],
        )
    }

    fn channels(&self) -> Vec<Value> {
        let listed = self.home.run(&["channels", "--json"]).json();
        listed["earning"].as_array().unwrap().clone()
    }
}

/// What the payer holds, what the contract holds, what the seller holds. None is ever missing.
fn books(chain: &TestChain, seller: &Seller) -> (u128, u128, u128) {
    let books = (
        chain.holds(keys::PAYER_ADDRESS),
        chain.holds(SETTLEMENT),
        chain.holds(&seller.account),
    );
    assert_eq!(
        books.0 + books.1 + books.2,
        FUNDS,
        "an atomic unit is missing: {books:?}"
    );
    books
}

#[test]
#[ignore = "needs outside programs"]
fn outside_payers_use_channels_with_the_real_program_and_get_the_rest_back() {
    let chain = chain();
    let seller = Seller::on(&chain);
    let mut earned = 0;
    for (number, (sdk, sight)) in PAYERS.into_iter().enumerate() {
        println!("{sdk:?}, {sight:?}");
        let service = seller.serve();
        let url = format!("{}/echo", service.url());
        let options = json!({ "salt": format!("0x{number:064x}"), "voucherKey": keys::SESSION });
        let mut payer = Payer::start(&chain, sdk, sight, keys::PAYER, &options);
        let served = seller.upstream.served();
        let first = payer.call(&url);
        first.ok();
        assert_eq!(first.sent(), ["deposit"]);
        let deposit = first.balance();
        let in_contract = deposit + chain.claimed_for(&seller.account);
        assert_eq!(
            books(&chain, &seller).1,
            in_contract,
            "only deposits, and what is the seller's"
        );
        let posted = payer.step(&json!({ "do": "call", "url": url, "body": { "question": 1 } }));
        assert!(posted.ok().contains(r#""question":1"#));
        assert_eq!(posted.sent(), ["voucher"]);
        let less = payer.call(&format!("{url}?charge=0.000037"));
        less.ok();
        assert_eq!((less.charged(), less.view()), (37, 2 * PRICE.1 + 37));
        let failed = payer.call(&format!("{}/fails", service.url()));
        assert_eq!(
            (&failed.0["status"], failed.view()),
            (&Value::from(500), 2 * PRICE.1 + 37)
        );
        let charged = 2 * PRICE.1 + 37;
        assert_eq!(
            seller.upstream.served() - served,
            4,
            "the unpaid requests stay before the price"
        );

        let refund = payer.step(&json!({ "do": "refund", "url": url }));
        assert_eq!(refund.0["refund"]["success"], true, "{:#}", refund.0);
        earned += charged;
        assert_eq!(chain.holds(keys::PAYER_ADDRESS), FUNDS - earned);
        assert_eq!(service.stop("TERM")["event"], "stopped");
        seller.home.run(&["channels", "claim", "--json"]).json();
        let earning = seller.channels();
        assert_eq!(earning.len(), number + 1);
        assert_eq!(
            earning
                .iter()
                .map(|channel| units(&channel["charged"]))
                .sum::<u128>(),
            earned
        );
    }
    let unsettled = chain.claimed_for(&seller.account);
    let (payer, in_contract, received) = books(&chain, &seller);
    assert_eq!((payer, received + in_contract), (FUNDS - earned, earned));
    assert_eq!(
        in_contract, unsettled,
        "what is left in the contract is the seller's"
    );
}

#[test]
#[ignore = "needs outside programs"]
fn outside_payers_pay_the_real_program_once_by_a_signed_transfer() {
    let chain = chain();
    let seller = Seller::on(&chain);
    let service = seller.serve();
    let url = format!("{}/echo", service.url());
    for (bought, (sdk, sight)) in (1..).zip(PAYERS) {
        println!("{sdk:?}, {sight:?}");
        let mut payer = Payer::start(
            &chain,
            sdk,
            sight,
            keys::PAYER,
            &json!({ "schemes": ["exact"] }),
        );
        let outcome = payer.call(&url);
        outcome.ok();
        assert_eq!(outcome.requests(), 2);
        assert_eq!(
            payer.call(&format!("{}/fails", service.url())).0["status"],
            500
        );
        assert_eq!(
            books(&chain, &seller),
            (FUNDS - bought * PRICE.1, 0, bought * PRICE.1)
        );
    }
}
