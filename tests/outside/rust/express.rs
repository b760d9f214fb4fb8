//! A seller that is other people's program: npm `@x402/express`, with the SDK's own facilitator.

use serde_json::{Value, json};

use crate::chain::{TestChain, keys};
use crate::process::{self, Process};
use crate::programs;

/// The price of a call of these tests, in atomic units.
pub(crate) const PRICE: u128 = 1_000;

/// A running server of `tests/outside/js/server.mjs`.
pub(crate) struct Express {
    url: String,
    // Kept for its end: the server dies with it.
    _process: Process,
}

impl Express {
    /// Starts a server that sells on `chain`, paid to [`keys::RECEIVER`].
    pub(crate) fn start(chain: &TestChain) -> Self {
        let config = json!({
            "rpc": chain.rpc(),
            "key": keys::SENDER,
            "payTo": keys::RECEIVER,
            "authorizerKey": keys::AUTHORIZER,
            "token": chain.token(),
            "name": chain.fact("name"),
            "version": chain.fact("version"),
            "amount": PRICE.to_string(),
        });
        let mut process = Process::start("server.mjs", &mut programs::node("server.mjs", &config));
        let url = process.json("ready")["ready"]
            .as_str()
            .expect("a URL")
            .to_owned();
        Self {
            url,
            _process: process,
        }
    }

    /// The URL of one of its routes.
    pub(crate) fn url(&self, route: &str) -> String {
        format!("{}{route}", self.url)
    }

    /// Lets it claim what is due and settle what is claimed; returns what the SDK says of it.
    pub(crate) fn claim(&self) -> Value {
        let address = self.url.trim_start_matches("http://");
        process::ask(address, "POST /control/claim")
    }
}
