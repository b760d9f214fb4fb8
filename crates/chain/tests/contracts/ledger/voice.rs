//! Votes: earned, not transferable, fading without a write.

use alloy_primitives::{Address, TxKind, U256};
use alloy_sol_types::SolError;
use hearth_chain::bindings::{Voice, voice_init};
use hearth_protocol::ledger::growth::{HALF_LIFE_S, HALF_LIVES_MAX, votes};

use super::town::{FOUNDING_VOTES, Town, household, key};
use crate::chain::Chain;

const WEIGHT: u128 = 1_000_000_000_000;

/// A chain with votes that the key "minter" mints.
fn town_with_votes(founders: usize) -> (Town, Address) {
    let mut town = Town::new(0);
    let founders = (0..founders).map(|n| household(n).address()).collect();
    let init = voice_init(key("minter").address(), founders, U256::from(WEIGHT));
    let voice = town.create(init);
    (town, voice)
}

/// Mints what work of `WEIGHT` is worth now.
fn work(town: &mut Town, voice: Address, account: Address) {
    let elapsed = town.chain.now() - town.origin;
    let call = Voice::mintCall {
        account,
        votes: votes(WEIGHT, elapsed),
    };
    town.send(&key("minter"), voice, &call).succeeded();
}

#[test]
fn votes_halve_beside_newer_ones_without_a_write() {
    let (mut town, voice) = town_with_votes(1);
    let newcomer = household(9).address();
    town.chain.advance(HALF_LIFE_S);
    work(&mut town, voice, newcomer);
    let mut balance = |account| town.read(voice, &Voice::balanceOfCall { account });
    assert_eq!(
        balance(newcomer),
        balance(household(0).address()) * U256::from(2)
    );

    let timepoint = U256::from(town.chain.now());
    town.chain.advance(1);
    let account = household(0).address();
    let weight = town.read(voice, &Voice::weightAtCall { account, timepoint });
    assert_eq!(weight.to::<u128>(), WEIGHT / 2);
    let all = town.read(voice, &Voice::totalWeightAtCall { timepoint });
    assert_eq!(all.to::<u128>(), WEIGHT / 2 + WEIGHT);
}

#[test]
fn founders_have_votes_and_can_do_nothing_with_them() {
    let mut town = Town::new(2);
    let founder = household(0);
    assert_eq!(town.votes(founder.address()), U256::from(FOUNDING_VOTES));
    let mint = Voice::mintCall {
        account: founder.address(),
        votes: U256::from(1),
    };
    let voice = town.at.voice;
    town.send(&founder, voice, &mint)
        .reverted_with::<Voice::VoiceInvalidMinter>();
    let delegate = Voice::delegateCall {
        delegatee: household(1).address(),
    };
    town.send(&founder, voice, &delegate)
        .reverted_with::<Voice::VoiceNotDelegable>();
    // ERC-20's `transfer`: there is no such function.
    let transfer = hearth_chain::bindings::IERC20::transferCall {
        to: household(1).address(),
        value: U256::from(1),
    };
    assert!(town.send(&founder, voice, &transfer).outcome.is_err());
    assert_eq!(town.ember_supply(), 0);
}

#[test]
fn founders_cannot_start_with_more_than_all_work_gives() {
    let mut town = Town::new(0);
    let founders = vec![household(0).address(), household(1).address()];
    for votes in [U256::from(500_000_000_000_000_001_u64), U256::MAX] {
        let init = voice_init(key("minter").address(), founders.clone(), votes);
        let receipt = town.chain.send(&key("anyone"), TxKind::Create, init);
        receipt.reverted_with::<Voice::VoiceExcessiveFounding>();
    }
    let init = voice_init(Address::ZERO, vec![], U256::ZERO);
    let receipt = town.chain.send(&key("anyone"), TxKind::Create, init);
    let expected = Voice::VoiceInvalidMinter {
        account: Address::ZERO,
    };
    assert_eq!(receipt.outcome, Err(expected.abi_encode().into()));
}

/// Beyond the horizon votes stop fading, and a mint still works.
#[test]
fn the_largest_mint_works_long_after_the_horizon() {
    let (mut town, voice) = town_with_votes(1);
    town.chain.advance(HALF_LIVES_MAX * HALF_LIFE_S * 2);
    let newcomer = household(9).address();
    for _ in 0..3 {
        let call = Voice::mintCall {
            account: newcomer,
            votes: votes(1_000_000_000_000_000_000, town.chain.now() - town.origin),
        };
        town.send(&key("minter"), voice, &call).succeeded();
    }
    let timepoint = U256::from(town.chain.now());
    town.chain.advance(1);
    let weight = town.read(
        voice,
        &Voice::weightAtCall {
            account: newcomer,
            timepoint,
        },
    );
    assert_eq!(weight.to::<u128>(), 3_000_000_000_000_000_000);
}

#[test]
fn snapshots_are_of_the_past() {
    let (mut town, voice) = town_with_votes(1);
    let account = household(0).address();
    let now = U256::from(town.chain.now());
    let call = Voice::weightAtCall {
        account,
        timepoint: now,
    };
    let read = |town: &mut Town, call: &Voice::weightAtCall| {
        use alloy_sol_types::SolCall;
        town.chain.read(voice, call.abi_encode().into())
    };
    assert!(read(&mut town, &call).is_err(), "this second is not over");
    town.chain.advance(1);
    work(&mut town, voice, account);
    let weight = town.read(voice, &call);
    assert_eq!(
        weight.to::<u128>(),
        WEIGHT,
        "what came later does not count"
    );
}
