//! The rules of the settlement contract and its collector, one function each.
//!
//! A rule uses the canonical addresses and [`World`] alone. Each is a test of its own on a fresh chain, and all of them
//! also run one after the other on one chain: in memory, and over JSON-RPC on the embedded chain. On another chain they
//! need nothing but its JSON-RPC.

mod claim;
mod deposit;
mod refund;
mod settle;
mod views;
mod withdraw;

use std::sync::Arc;

use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::embedded::{Embedded, EmbeddedConfig, Genesis};
use hearth_environment::ManualEnvironment;

use crate::chain::{Chain, RevmChain};
use crate::rpc::RpcChain;
use crate::world::World;

/// Time at which the embedded chain of these tests begins, in Unix milliseconds.
const EMBEDDED_START_MS: u64 = 1_800_000_000_000;

/// A rule: its name, and what shows that it holds.
type Rule = (&'static str, fn(&mut World));

/// Makes a table of the rules of a module, and one test of each.
macro_rules! rules {
    ($($name:ident),+ $(,)?) => {
        /// The rules of this module.
        pub(super) const RULES: &[super::Rule] = &[$((stringify!($name), $name)),+];

        mod on_a_fresh_chain {
            $(
                #[test]
                fn $name() {
                    super::$name(&mut crate::world::World::on_revm(stringify!($name)));
                }
            )+
        }
    };
}
use rules;

/// Tries every rule on one chain, each with accounts of its own, so that none needs a chain without a past.
fn try_all(mut chain: Box<dyn Chain>) {
    let tables = [
        claim::RULES,
        deposit::RULES,
        refund::RULES,
        settle::RULES,
        views::RULES,
        withdraw::RULES,
    ];
    for (name, rule) in tables.concat() {
        println!("{name}");
        let mut world = World::enter(chain, &format!("{name}, shared"));
        rule(&mut world);
        chain = world.leave();
    }
}

#[test]
fn every_rule_holds_on_a_chain_with_a_past() {
    try_all(Box::new(RevmChain::new()));
}

#[test]
fn every_rule_holds_on_the_embedded_chain() {
    let clock = ManualEnvironment::new(EMBEDDED_START_MS);
    let config = EmbeddedConfig {
        environment: Arc::new(clock),
        dev_rpc: true,
        ..EmbeddedConfig::new(Genesis::standard(SETTLEMENT_ADDRESS))
    };
    let chain = Embedded::in_memory(config).expect("a new chain opens");
    let door =
        move |method: &str, params| chain.request(method, params).map_err(|error| error.data);
    try_all(Box::new(RpcChain::new(Box::new(door))));
}
