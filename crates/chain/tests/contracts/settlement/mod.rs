//! The rules of the settlement contract and its collector, one function each.
//!
//! A rule uses the canonical addresses and [`World`] alone. Each is a test of its own on a fresh chain, and all of them
//! also run one after the other on one chain, as they would on a chain that is not ours.

mod claim;
mod deposit;
mod refund;
mod settle;
mod views;
mod withdraw;

use crate::chain::{Chain, RevmChain};
use crate::world::World;

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

#[test]
fn every_rule_holds_on_a_chain_with_a_past() {
    let tables = [
        claim::RULES,
        deposit::RULES,
        refund::RULES,
        settle::RULES,
        views::RULES,
        withdraw::RULES,
    ];
    let mut chain: Box<dyn Chain> = Box::new(RevmChain::new());
    for (name, rule) in tables.concat() {
        println!("{name}");
        let mut world = World::enter(chain, &format!("{name}, shared"));
        rule(&mut world);
        chain = world.leave();
    }
}
