//! Records of epochs, claims, and the bounds that no signature can move.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use hearth_chain::bindings::{Ember, Rewards, Validators, test_dollar_init};
use hearth_protocol::ledger::emission::{ember_cap, voice_cap};
use hearth_protocol::ledger::sum_tree::SumTree;

use super::town::{
    ENROLLMENT_S, EPOCH_S, Town, WINDOW_S, empty_chain, household, key, leaf_of, tree,
};
use crate::chain::{Chain, Receipt};
use crate::peers::{FalseToken, FeeToken, ReentrantToken};

const ALL: [usize; 3] = [0, 1, 2];

fn account(number: usize) -> Address {
    household(number).address()
}

/// A town in which epoch 1 has a set, so that epoch 0 can be recorded.
fn seated() -> Town {
    let mut town = Town::new(3);
    town.seat(1, ALL);
    town
}

/// Records `tree` for `epoch` and waits until it is final.
fn settled(town: &mut Town, epoch: u64, base: Option<u64>, tree: &SumTree) {
    town.seat(epoch + 1, ALL);
    town.record(epoch, base, tree, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
}

fn fund(town: &mut Town, asset: Address) -> Receipt {
    town.relay(town.at.rewards, &Rewards::fundCall { asset })
}

fn books(town: &mut Town, asset: Address) -> Rewards::Account {
    town.read(town.at.rewards, &Rewards::accountOfCall { asset })
}

#[test]
fn checked_work_mints_ember_and_votes_to_those_who_did_it() {
    let mut town = seated();
    let ember = tree(town.at.ember, &[(account(0), 100), (account(7), 50)]);
    let voice = tree(town.at.voice, &[(account(7), 9)]);
    town.record(0, None, &ember, &ALL).succeeded();
    town.record(0, None, &voice, &ALL).succeeded();
    town.claim(0, &ember, account(7))
        .reverted_with::<Rewards::NotFinal>();
    town.chain.advance(WINDOW_S);
    town.claim(0, &ember, account(7)).succeeded();
    town.claim(0, &voice, account(7)).succeeded();
    assert_eq!(town.balance(town.at.ember, account(7)), 50);
    assert_eq!(town.votes(account(7)), U256::from(9));
    assert_eq!(town.ember_supply(), 50);

    // Sending it again changes nothing.
    let receipt = town.claim(0, &ember, account(7)).succeeded();
    assert_eq!(receipt.logs.len(), 0);
    assert_eq!(town.ember_supply(), 50);
}

#[test]
fn a_claim_pays_what_is_new_and_old_roots_need_no_claim() {
    let mut town = Town::new(3);
    let asset = town.at.ember;
    let first = tree(asset, &[(account(5), 100)]);
    let second = tree(asset, &[(account(5), 130), (account(6), 1)]);
    settled(&mut town, 0, None, &first);
    settled(&mut town, 2, Some(0), &second);
    town.claim(2, &second, account(5)).succeeded();
    assert_eq!(town.balance(asset, account(5)), 130);
    // The older root gives nothing more, and is not an error.
    town.claim(0, &first, account(5)).succeeded();
    assert_eq!(town.balance(asset, account(5)), 130);
}

#[test]
fn an_epoch_is_recorded_when_it_is_over_and_once() {
    let mut town = Town::new(3);
    town.seat(0, ALL);
    let tree = tree(town.at.ember, &[(account(0), 1)]);
    town.record(0, None, &tree, &ALL)
        .reverted_with::<Rewards::EpochNotOver>();
    town.go(1, 1);
    // The set of the next epoch signs, once it is in office.
    town.record(0, None, &tree, &ALL)
        .reverted_with::<Validators::NotSealed>();
    town.seat(1, ALL);
    town.record(0, None, &tree, &[0])
        .reverted_with::<Validators::TooLittleWeight>();
    town.record(0, None, &tree, &ALL).succeeded();
    town.record(0, None, &tree, &ALL)
        .reverted_with::<Rewards::RecordExists>();
}

#[test]
fn no_record_gives_more_than_the_emission() {
    let mut town = seated();
    let asset = town.at.ember;
    let cap = ember_cap(0, EPOCH_S).units();
    let call = Rewards::capOfCall { asset, epoch: 0 };
    assert_eq!(town.read(town.at.rewards, &call), U256::from(cap));
    let excessive = tree(asset, &[(account(0), cap + 1)]);
    town.record(0, None, &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    town.record(0, None, &tree(asset, &[(account(0), cap)]), &ALL)
        .succeeded();

    let votes: u128 = voice_cap(0, EPOCH_S).to();
    let excessive = tree(town.at.voice, &[(account(0), votes + 1)]);
    town.record(0, None, &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    let all = tree(town.at.voice, &[(account(0), votes)]);
    town.record(0, None, &all, &ALL).succeeded();
}

#[test]
fn the_emission_halves_every_four_years() {
    let mut town = Town::new(1);
    let asset = town.at.ember;
    let per_era = hearth_protocol::ledger::emission::ERA_S / EPOCH_S;
    let mut caps = Vec::new();
    for epoch in [0, per_era - 1, per_era, 2 * per_era, 90 * per_era] {
        let call = Rewards::capOfCall { asset, epoch };
        let cap: u128 = town.read(town.at.rewards, &call).to();
        assert_eq!(cap, ember_cap(epoch, EPOCH_S).units());
        caps.push(cap);
    }
    assert_eq!(caps[1], caps[0]);
    assert_eq!(caps[2], caps[0] / 2);
    assert_eq!(caps[3], caps[0] / 4);
    assert_eq!(caps[4], 0);
}

#[test]
fn a_base_is_final_earlier_and_never_undercut() {
    let mut town = seated();
    let asset = town.at.ember;
    let first = tree(asset, &[(account(0), 100)]);
    town.record(0, None, &first, &ALL).succeeded();
    town.seat(2, ALL);
    let second = tree(asset, &[(account(0), 120)]);
    town.record(1, Some(1), &second, &ALL)
        .reverted_with::<Rewards::InvalidBase>();
    town.record(1, Some(2), &second, &ALL)
        .reverted_with::<Rewards::InvalidBase>();
    town.seat(3, ALL);
    let less = tree(asset, &[(account(0), 99)]);
    town.record(2, Some(0), &less, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    town.record(2, Some(1), &second, &ALL)
        .reverted_with::<Rewards::RecordMissing>();
    town.record(2, Some(0), &second, &ALL).succeeded();
    let third = tree(asset, &[(account(0), 130)]);
    town.seat(4, ALL);
    town.record(3, Some(2), &third, &ALL).succeeded();
}

#[test]
fn a_record_in_its_window_is_no_base() {
    let mut town = seated();
    let tree = tree(town.at.ember, &[(account(0), 100)]);
    town.go(1, EPOCH_S - 10);
    town.record(0, None, &tree, &ALL).succeeded();
    town.seat(2, ALL);
    town.record(1, Some(0), &tree, &ALL)
        .reverted_with::<Rewards::NotFinal>();
}

/// Nobody recorded for a while: what was earned meanwhile is not lost, and a week of epochs is the most at once.
#[test]
fn a_stalled_updater_holds_nothing_up() {
    let mut town = Town::new(3);
    let asset = town.at.ember;
    let cap = ember_cap(0, EPOCH_S).units();
    settled(&mut town, 0, None, &tree(asset, &[(account(0), cap)]));
    town.seat(6, ALL);
    let much = tree(asset, &[(account(0), 6 * cap)]);
    town.record(5, Some(0), &much, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
    town.seat(21, ALL);
    let excessive = tree(asset, &[(account(0), 13 * cap + 1)]);
    town.record(20, Some(5), &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    let most = tree(asset, &[(account(0), 13 * cap)]);
    town.record(20, Some(5), &most, &ALL).succeeded();
    // An epoch that was left out can still be recorded, and changes nothing for the later ones.
    town.chain.advance(WINDOW_S);
    town.claim(20, &most, account(0)).succeeded();
    assert_eq!(town.ember_supply(), 13 * cap);
}

/// A set that leaves somebody out to give the same sum to another gains nothing beyond the totals, even unchallenged.
#[test]
fn claims_never_pass_the_highest_total() {
    let mut town = Town::new(3);
    let asset = town.at.ember;
    let first = tree(asset, &[(account(5), 100)]);
    let forged = tree(asset, &[(account(6), 100)]);
    settled(&mut town, 0, None, &first);
    settled(&mut town, 2, Some(0), &forged);
    town.claim(0, &first, account(5)).succeeded();
    town.claim(2, &forged, account(6))
        .reverted_with::<Rewards::ExcessiveClaim>();
    assert_eq!(town.ember_supply(), 100);
}

#[test]
fn a_claim_needs_its_leaf() {
    let mut town = Town::new(3);
    let asset = town.at.ember;
    let rewards = tree(
        asset,
        &[(account(5), 100), (account(6), 1), (account(7), 2)],
    );
    settled(&mut town, 0, None, &rewards);
    let good = leaf_of(&rewards, account(6));
    let mut other_place = good.clone();
    other_place.path.index ^= U256::ONE;
    let mut shorter = good.clone();
    shorter.path.siblings.pop();
    let mut more = good.clone();
    more.cumulative = U256::from(2);
    let mut another = good.clone();
    another.account = account(8);
    for leaf in [other_place, shorter, more, another] {
        let call = Rewards::claimCall {
            asset,
            epoch: 0,
            leaf,
        };
        assert!(town.relay(town.at.rewards, &call).outcome.is_err());
    }
    let elsewhere = Rewards::claimCall {
        asset: town.at.voice,
        epoch: 0,
        leaf: good.clone(),
    };
    town.relay(town.at.rewards, &elsewhere)
        .reverted_with::<Rewards::RecordMissing>();
    // The empty leaf that fills the tree up belongs to nobody, whatever it is said to have.
    let [_, padding] = rewards.absence(Address::repeat_byte(0xff)).unwrap();
    let padding = padding.expect("three leaves are padded to four");
    for cumulative in [0, 1_000] {
        let leaf = Rewards::Leaf {
            account: Address::ZERO,
            cumulative: U256::from(cumulative),
            path: super::town::path(&padding.proof),
        };
        let call = Rewards::claimCall {
            asset,
            epoch: 0,
            leaf,
        };
        town.relay(town.at.rewards, &call)
            .reverted_with::<Rewards::InvalidProof>();
    }
}

#[test]
fn what_was_signed_on_another_chain_records_nothing() {
    let mut there = Town::on(empty_chain(5), 3);
    there.seat(1, ALL);
    let mut here = seated();
    assert_eq!(there.at, here.at);
    let rewards = tree(here.at.ember, &[(account(0), 1)]);
    let call = there.record_call(0, None, &rewards, &ALL);
    here.relay(here.at.rewards, &call)
        .reverted_with::<Validators::NotSigned>();
    there.relay(there.at.rewards, &call).succeeded();
}

#[test]
fn only_rewards_mint() {
    let mut town = Town::new(1);
    let mint = Ember::mintCall {
        to: account(0),
        value: U256::from(1),
    };
    let ember = town.at.ember;
    for sender in [household(0), key("anyone")] {
        town.send(&sender, ember, &mint)
            .reverted_with::<Ember::EmberInvalidMinter>();
    }
}

#[test]
fn what_funders_sent_is_earned_by_others_and_no_more() {
    let mut town = seated();
    let asset = town.create(test_dollar_init());
    fund(&mut town, asset).reverted_with::<Rewards::InvalidFunding>();
    let rewards = town.at.rewards;
    town.mint(asset, rewards, 500);
    let too_early = tree(asset, &[(account(5), 1)]);
    town.record(0, None, &too_early, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    fund(&mut town, asset).succeeded();
    fund(&mut town, asset).reverted_with::<Rewards::InvalidFunding>();
    let excessive = tree(asset, &[(account(5), 501)]);
    town.record(0, None, &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    let earned = tree(asset, &[(account(5), 300), (account(6), 200)]);
    town.record(0, None, &earned, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
    for number in [5, 6] {
        town.claim(0, &earned, account(number)).succeeded();
    }
    assert_eq!(town.balance(asset, account(5)), 300);
    assert_eq!(town.balance(asset, rewards), 0);
    let voice = town.at.voice;
    fund(&mut town, voice).reverted_with::<Rewards::InvalidFunding>();

    // What comes later is counted from the base on.
    town.mint(asset, rewards, 10);
    fund(&mut town, asset).succeeded();
    town.seat(3, ALL);
    let excessive = tree(asset, &[(account(5), 311), (account(6), 200)]);
    town.record(2, Some(0), &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    let more = tree(asset, &[(account(5), 310), (account(6), 200)]);
    town.record(2, Some(0), &more, &ALL).succeeded();
}

/// Work vests epochs after the money for it came: a record that uses little of it leaves the rest to be earned.
#[test]
fn what_arrived_is_earned_part_by_part() {
    let mut town = Town::new(3);
    let (asset, rewards) = (town.create(test_dollar_init()), town.at.rewards);
    town.mint(asset, rewards, 100);
    fund(&mut town, asset).succeeded();
    let first = tree(asset, &[(account(5), 30)]);
    settled(&mut town, 0, None, &first);
    // What arrives before a record is made, and after what it is about, is not lost either.
    town.mint(asset, rewards, 10);
    fund(&mut town, asset).succeeded();
    let same = tree(asset, &[(account(5), 30)]);
    settled(&mut town, 2, Some(0), &same);
    town.seat(5, ALL);
    let excessive = tree(asset, &[(account(5), 31), (account(6), 80)]);
    town.record(4, Some(2), &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    let last = tree(asset, &[(account(5), 30), (account(6), 80)]);
    town.record(4, Some(2), &last, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
    for number in [5, 6] {
        town.claim(4, &last, account(number)).succeeded();
    }
    assert_eq!(town.balance(asset, account(6)), 80);
    assert_eq!(town.balance(asset, rewards), 0);
}

/// The same in Ember, where what the emission covers uses nothing of what arrived.
#[test]
fn pledged_ember_is_used_only_beyond_the_emission() {
    let mut town = Town::new(3);
    let (asset, cap) = (town.at.ember, ember_cap(0, EPOCH_S).units());
    let first = tree(asset, &[(account(5), cap)]);
    settled(&mut town, 0, None, &first);
    town.claim(0, &first, account(5)).succeeded();
    let send = hearth_chain::bindings::IERC20::transferCall {
        to: town.at.rewards,
        value: U256::from(1_000),
    };
    town.send(&household(5), asset, &send).succeeded();
    fund(&mut town, asset).succeeded();

    let cap = |epochs: u128| epochs * ember_cap(2, EPOCH_S).units();
    let used = |town: &mut Town, epoch| {
        let call = Rewards::recordOfCall { asset, epoch };
        town.read(town.at.rewards, &call).used
    };
    let total = first.root().sum.units();
    let second = tree(asset, &[(account(5), total), (account(6), cap(2) + 400)]);
    settled(&mut town, 2, Some(0), &second);
    assert_eq!(used(&mut town, 2), 400);
    // Less than the emission of the next epochs: nothing more is used.
    let third = tree(
        asset,
        &[(account(5), total + 1), (account(6), cap(2) + 400)],
    );
    settled(&mut town, 4, Some(2), &third);
    assert_eq!(used(&mut town, 4), 400);
    let next = 2 * ember_cap(6, EPOCH_S).units();
    let too_much = tree(
        asset,
        &[
            (account(5), total + 1),
            (account(6), cap(2) + 400 + next + 601),
        ],
    );
    town.seat(7, ALL);
    town.record(6, Some(4), &too_much, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
    let all = tree(
        asset,
        &[
            (account(5), total + 1),
            (account(6), cap(2) + 400 + next + 600),
        ],
    );
    town.record(6, Some(4), &all, &ALL).succeeded();
    assert_eq!(used(&mut town, 6), 1_000);
}

/// A run paid in Ember: what funders sent is paid out before anything is minted.
#[test]
fn pledged_ember_is_paid_before_any_is_minted() {
    let mut town = Town::new(3);
    let asset = town.at.ember;
    let first = tree(asset, &[(account(5), 100)]);
    settled(&mut town, 0, None, &first);
    town.claim(0, &first, account(5)).succeeded();
    let rewards = town.at.rewards;
    let send = hearth_chain::bindings::IERC20::transferCall {
        to: rewards,
        value: U256::from(40),
    };
    town.send(&household(5), asset, &send).succeeded();
    fund(&mut town, asset).succeeded();
    let second = tree(asset, &[(account(5), 100), (account(6), 70)]);
    settled(&mut town, 2, Some(0), &second);
    town.claim(2, &second, account(6)).succeeded();
    assert_eq!(town.balance(asset, account(6)), 70);
    assert_eq!(town.balance(asset, rewards), 0);
    assert_eq!(town.ember_supply(), 130);
}

#[test]
fn a_fee_on_the_way_here_is_not_there_to_be_earned() {
    let mut town = seated();
    let asset = town.create(FeeToken::BYTECODE.clone());
    let funder = household(9);
    town.mint(asset, funder.address(), 1_000);
    let send = hearth_chain::bindings::IERC20::transferCall {
        to: town.at.rewards,
        value: U256::from(1_000),
    };
    town.send(&funder, asset, &send).succeeded();
    fund(&mut town, asset).succeeded();
    assert_eq!(books(&mut town, asset).funded, 990);
    let excessive = tree(asset, &[(account(5), 1_000)]);
    town.record(0, None, &excessive, &ALL)
        .reverted_with::<Rewards::InvalidTotal>();
}

#[test]
fn a_token_that_says_no_stops_its_own_claims_alone() {
    let mut town = seated();
    let asset = town.create(FalseToken::BYTECODE.clone());
    let rewards = town.at.rewards;
    town.mint(asset, rewards, 100);
    fund(&mut town, asset).succeeded();
    let earned = tree(asset, &[(account(5), 100)]);
    let ember = tree(town.at.ember, &[(account(5), 7)]);
    town.record(0, None, &earned, &ALL).succeeded();
    town.record(0, None, &ember, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
    town.relay(asset, &FalseToken::refuseCall {}).succeeded();
    assert!(town.claim(0, &earned, account(5)).outcome.is_err());
    assert_eq!(books(&mut town, asset).paid, 0);
    town.claim(0, &ember, account(5)).succeeded();
    assert_eq!(town.balance(town.at.ember, account(5)), 7);
}

/// A token that calls back while it is paid out, to have it counted as money that just arrived.
#[test]
fn money_on_its_way_out_is_not_counted_as_arriving() {
    let mut town = seated();
    let asset = town.create(ReentrantToken::BYTECODE.clone());
    let rewards = town.at.rewards;
    town.mint(asset, rewards, 100);
    fund(&mut town, asset).succeeded();
    let earned = tree(asset, &[(account(5), 100)]);
    town.record(0, None, &earned, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
    for callback in [
        Rewards::fundCall { asset }.abi_encode(),
        Rewards::claimCall {
            asset,
            epoch: 0,
            leaf: leaf_of(&earned, account(5)),
        }
        .abi_encode(),
    ] {
        let arm = ReentrantToken::armCall {
            target_: rewards,
            callback_: callback.into(),
        };
        town.relay(asset, &arm).succeeded();
        assert!(town.claim(0, &earned, account(5)).outcome.is_err());
    }
    let books = books(&mut town, asset);
    assert_eq!((books.funded, books.paid), (100, 0));
}

/// The record of an epoch comes from its own successor's set: an earlier set cannot speak for it.
#[test]
fn a_set_speaks_for_its_own_epoch() {
    let mut town = Town::new(4);
    town.seat(1, [0, 1]);
    town.seat(2, [2, 3]);
    let rewards = tree(town.at.ember, &[(account(0), 1)]);
    let mut call = town.record_call(0, None, &rewards, &[0, 1]);
    call.epoch = 1;
    town.relay(town.at.rewards, &call)
        .reverted_with::<Validators::NotSigned>();
    town.record(1, None, &rewards, &[2, 3]).succeeded();
    // Late, but its own: epoch 0 by the set of epoch 1.
    town.record(0, None, &rewards, &[0, 1]).succeeded();
    assert!(town.chain.now() >= town.origin + 2 * EPOCH_S + ENROLLMENT_S);
}
