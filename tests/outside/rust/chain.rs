//! Chains to pay on: anvil, prepared to look like ours, and any other chain that a test runs itself.

use std::any::Any;

use serde_json::{Value, json};

use crate::process::{Process, free_port};
use crate::programs;

/// Keys that every anvil starts with; they hold nothing anywhere else.
pub(crate) mod keys {
    /// Deploys and mints.
    pub(crate) const DEPLOYER: &str =
        "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    /// Pays.
    pub(crate) const PAYER: &str =
        "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
    /// The payer's account.
    pub(crate) const PAYER_ADDRESS: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    /// A session key of the payer.
    pub(crate) const SESSION: &str =
        "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba";
    /// Sends transactions for a seller.
    pub(crate) const SENDER: &str =
        "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
    /// Signs claims and refunds for a seller.
    pub(crate) const AUTHORIZER: &str =
        "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6";
    /// Where a seller of these tests is paid to.
    pub(crate) const RECEIVER: &str = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65";
}

/// What the payer holds at first, in atomic units.
pub(crate) const FUNDS: u128 = 1_000_000_000;

/// The canonical settlement contract, which holds what is in channels.
pub(crate) const SETTLEMENT: &str = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003";

/// A running chain with a token of tests on it, of which the payer holds [`FUNDS`].
pub(crate) struct TestChain {
    rpc: String,
    facts: Value,
    // Kept for its end: the node dies with it.
    _node: Box<dyn Any>,
}

impl TestChain {
    /// anvil, with the contracts placed at their canonical addresses; [`keys::PAYER_ADDRESS`] holds [`FUNDS`].
    pub(crate) fn anvil() -> Self {
        Self::anvil_for(keys::PAYER_ADDRESS)
    }

    /// anvil, with the contracts placed at their canonical addresses; `holder` holds [`FUNDS`].
    pub(crate) fn anvil_for(holder: &str) -> Self {
        let port = free_port();
        let mut command = programs::foundry("anvil");
        let mut node = Process::start("anvil", command.args(["--port", &port.to_string()]));
        node.line("that it listens", |line| {
            line.starts_with("Listening on").then_some(())
        });
        let rpc = format!("http://127.0.0.1:{port}");
        Self::prepared(rpc, Box::new(node), holder, Some("anvil_setCode"))
    }

    /// The chain that `node` serves at `rpc`, with a new token of which `holder` holds [`FUNDS`]. `set_code` is the
    /// method that places code, for a chain which has no payment contracts from its genesis.
    pub(crate) fn prepared(
        rpc: String,
        node: Box<dyn Any>,
        holder: &str,
        set_code: Option<&str>,
    ) -> Self {
        let mut config = json!({
            "rpc": rpc,
            "artifacts": programs::artifacts(),
            "key": keys::DEPLOYER,
            "mint": [{ "to": holder, "amount": FUNDS.to_string() }],
        });
        if let Some(method) = set_code {
            config["setCode"] = json!(method);
        }
        let mut script = Process::start("prepare.mjs", &mut programs::node("prepare.mjs", &config));
        let facts = script.json("token");
        Self::known(rpc, node, facts)
    }

    /// The chain that `node` serves at `rpc`, of which `facts` says what `prepare.mjs` would: `chainId`, `token`, `name`
    /// and `version`.
    pub(crate) fn known(rpc: String, node: Box<dyn Any>, facts: Value) -> Self {
        Self {
            rpc,
            facts,
            _node: node,
        }
    }

    /// The URL of its JSON-RPC.
    pub(crate) fn rpc(&self) -> &str {
        &self.rpc
    }

    /// Its CAIP-2 id.
    pub(crate) fn network(&self) -> String {
        format!("eip155:{}", self.facts["chainId"])
    }

    /// Its EIP-155 id.
    pub(crate) fn chain_id(&self) -> u64 {
        self.facts["chainId"]
            .as_u64()
            .expect("prepare.mjs prints it")
    }

    /// The address of the token.
    pub(crate) fn token(&self) -> &str {
        self.fact("token")
    }

    /// A string that preparing the chain printed: `token`, `name`, `version`.
    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().expect("prepare.mjs prints it")
    }

    /// Gives `owner` one whole coin of anvil's, for gas.
    pub(crate) fn give_coin(&self, owner: &str) {
        let output = programs::foundry("cast")
            .args(["rpc", "anvil_setBalance", owner, "0xde0b6b3a7640000"])
            .args(["--rpc-url", &self.rpc])
            .output()
            .expect("cast runs");
        assert!(output.status.success(), "cast: {output:?}");
    }

    /// What `owner` holds of the token.
    pub(crate) fn holds(&self, owner: &str) -> u128 {
        self.read(self.token(), "balanceOf(address)(uint256)", &[owner])[0]
    }

    /// What was claimed for `receiver` and is not yet settled to it: the contract holds it in the receiver's name.
    pub(crate) fn claimed_for(&self, receiver: &str) -> u128 {
        let function = "receivers(address,address)(uint128,uint128)";
        let [claimed, settled] = self.read(SETTLEMENT, function, &[receiver, self.token()])[..]
        else {
            panic!("the contract returns two amounts");
        };
        claimed - settled
    }

    /// Asks the chain by cast, which knows nothing of ours, for the amounts that a function returns.
    fn read(&self, contract: &str, function: &str, arguments: &[&str]) -> Vec<u128> {
        let output = programs::foundry("cast")
            .args(["call", contract, function])
            .args(arguments)
            .args(["--rpc-url", &self.rpc])
            .output()
            .expect("cast runs");
        assert!(
            output.status.success(),
            "cast: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("cast prints text");
        // One value a line, a large one followed by a short form in brackets.
        let digits = text
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        digits
            .map(|number| number.parse().expect("cast prints a number"))
            .collect()
    }
}
