//! Payers that are other people's programs: the drivers of `tests/outside`, one step at a time.

use serde_json::{Value, json};

use crate::chain::TestChain;
use crate::process::Process;
use crate::programs;

/// Which SDK pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// npm `@x402/fetch` and `@x402/evm`.
    JavaScript,
    /// PyPI `x402`.
    Python,
}

/// What the payer's program has besides its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing: it cannot recover what it lost.
    BareKey,
    /// The URL of a node: it reads the chain when it has to.
    ReadsChain,
}

/// Every kind of payer that a scenario is run with.
pub(crate) const PAYERS: [(Sdk, Sight); 4] = [
    (Sdk::JavaScript, Sight::BareKey),
    (Sdk::JavaScript, Sight::ReadsChain),
    (Sdk::Python, Sight::BareKey),
    (Sdk::Python, Sight::ReadsChain),
];

/// One living client.
pub(crate) struct Payer {
    process: Process,
    /// Its account.
    pub(crate) address: String,
    sent: usize,
}

impl Payer {
    /// Starts a client with `key` on `chain`; `options` are merged into its configuration.
    pub(crate) fn start(
        chain: &TestChain,
        sdk: Sdk,
        sight: Sight,
        key: &str,
        options: &Value,
    ) -> Self {
        let mut config = json!({ "key": key, "network": chain.network() });
        if sight == Sight::ReadsChain {
            config["rpc"] = json!(chain.rpc());
        }
        for (name, value) in options.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        let mut process = match sdk {
            Sdk::JavaScript => Process::start(
                "the JavaScript payer",
                &mut programs::node("pay.mjs", &config),
            ),
            Sdk::Python => {
                Process::start("the Python payer", &mut programs::python("pay.py", &config))
            }
        };
        let address = process.json("ready")["ready"]
            .as_str()
            .expect("an address")
            .to_owned();
        Self {
            process,
            address,
            sent: 0,
        }
    }

    /// Does one step to its end.
    pub(crate) fn step(&mut self, step: &Value) -> Outcome {
        self.begin(step);
        self.end()
    }

    /// One paid call.
    pub(crate) fn call(&mut self, url: &str) -> Outcome {
        self.step(&json!({ "do": "call", "url": url }))
    }

    /// Starts a step without waiting for its end, for what happens while it lasts.
    pub(crate) fn begin(&mut self, step: &Value) {
        self.sent += 1;
        self.process.send(step);
    }

    /// Waits until the first bytes of a streamed body are with the client, and returns them.
    pub(crate) fn first_bytes(&mut self) -> String {
        let event = self.process.json("first");
        event["first"].as_str().expect("text").to_owned()
    }

    /// Waits for the end of the step that was begun.
    pub(crate) fn end(&mut self) -> Outcome {
        let line = self.process.json("done");
        assert_eq!(
            line["step"], self.sent,
            "the lines of a driver come in order: {line}"
        );
        Outcome(line)
    }
}

/// What the client's caller saw of one step, and what went over the wire.
#[derive(Debug)]
pub(crate) struct Outcome(pub(crate) Value);

impl Outcome {
    /// Asserts that the call was answered with 200, and returns the body.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(
            self.0["status"], 200,
            "the call was to succeed: {:#}",
            self.0
        );
        self.0["body"].as_str().unwrap_or_default()
    }

    /// HTTP requests made, the first unpaid one included.
    pub(crate) fn requests(&self) -> u64 {
        self.0["requests"].as_u64().expect("the driver counts")
    }

    /// The atomic units that the reply says were charged.
    #[track_caller]
    pub(crate) fn charged(&self) -> u128 {
        amount(&self.0["response"]["extra"]["chargedAmount"])
    }

    /// What the client's own record says was charged on the channel so far.
    #[track_caller]
    pub(crate) fn view(&self) -> u128 {
        amount(&self.0["channel"]["chargedCumulativeAmount"])
    }

    /// What the client's own record says stands on the channel.
    #[track_caller]
    pub(crate) fn balance(&self) -> u128 {
        amount(&self.0["channel"]["balance"])
    }

    /// The kinds of payment sent, in order.
    pub(crate) fn sent(&self) -> Vec<&str> {
        let sent = self.0["sent"].as_array().into_iter().flatten();
        sent.filter_map(|payment| payment["type"].as_str())
            .collect()
    }
}

#[track_caller]
fn amount(value: &Value) -> u128 {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("not a decimal string: {value}"));
    text.parse()
        .unwrap_or_else(|_| panic!("not an amount: {text}"))
}
