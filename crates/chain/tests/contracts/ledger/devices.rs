//! Registration, bonds, and what is lost by saying two things.

use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_sol_types::SolCall;
use hearth_chain::bindings::{Devices, test_dollar_init};
use hearth_protocol::ledger::statement::{LedgerStatement, subject};

use super::town::{Town, device, empty_chain, household, key, sign};
use crate::chain::{Chain, Receipt};
use crate::peers::{self, FalseToken, FeeToken, ReentrantToken};

const UNBONDING_S: u64 = 21 * 24 * 60 * 60;

/// A stake of these tests: device 0 before the court "court".
struct Bond {
    token: Address,
    court: Address,
}

fn court() -> alloy_signer_local::PrivateKeySigner {
    key("court")
}

fn bond_call(bond: &Bond, amount: u128) -> Devices::bondCall {
    Devices::bondCall {
        device: device(0).address(),
        court: bond.court,
        token: bond.token,
        amount: U256::from(amount),
    }
}

/// A town in which device 0 has `amount` at stake, put up by its household, in a token with this init code.
fn bonded(init: alloy_primitives::Bytes, amount: u128) -> (Town, Bond) {
    let mut town = Town::new(2);
    let token = town.create(init);
    let owner = household(0);
    town.mint(token, owner.address(), amount * 4);
    town.approve(&owner, token, town.at.devices);
    let bond = Bond {
        token,
        court: court().address(),
    };
    let devices = town.at.devices;
    town.send(&owner, devices, &bond_call(&bond, amount))
        .succeeded();
    (town, bond)
}

fn unbond(town: &mut Town, bond: &Bond, amount: u128) -> Receipt {
    let call = Devices::unbondCall {
        device: device(0).address(),
        court: bond.court,
        token: bond.token,
        amount: U256::from(amount),
    };
    let devices = town.at.devices;
    town.send(&household(0), devices, &call)
}

fn withdraw(town: &mut Town, bond: &Bond) -> Receipt {
    let call = Devices::withdrawCall {
        device: device(0).address(),
        court: bond.court,
        token: bond.token,
    };
    town.relay(town.at.devices, &call)
}

fn slash(town: &mut Town, bond: &Bond, amount: u128) -> Receipt {
    let call = Devices::slashCall {
        device: device(0).address(),
        token: bond.token,
        amount: U256::from(amount),
    };
    let devices = town.at.devices;
    town.send(&court(), devices, &call)
}

fn stake(town: &mut Town, bond: &Bond) -> (u128, u128) {
    town.stake(0, bond.court, bond.token)
}

/// Two statements of `signer` under one subject and sequence.
fn expel_call(town: &Town, contents: [B256; 2], signers: [usize; 2]) -> Devices::expelCall {
    let subject = subject(town.at.rewards, B256::repeat_byte(1));
    let signature = |place: usize| {
        let statement = LedgerStatement {
            subject,
            sequence: 7,
            content: contents[place],
        };
        sign(
            &device(signers[place]),
            town.domain().statement_digest(&statement),
        )
    };
    Devices::expelCall {
        device: device(0).address(),
        subject,
        sequence: 7,
        contents,
        firstSignature: signature(0),
        secondSignature: signature(1),
    }
}

fn registered(town: &mut Town, number: usize) -> Devices::Device {
    let call = Devices::deviceOfCall {
        sessionKey: device(number).address(),
    };
    town.read(town.at.devices, &call)
}

const TWO: [B256; 2] = [B256::repeat_byte(2), B256::repeat_byte(3)];

fn expel(town: &mut Town) -> Receipt {
    let call = expel_call(town, TWO, [0, 0]);
    town.relay(town.at.devices, &call)
}

#[test]
fn household_and_device_both_sign_and_anyone_may_send_it() {
    let mut town = Town::new(1);
    let found = registered(&mut town, 0);
    assert_eq!(found.household, household(0).address());
    assert_eq!(found.endpointKey.0, town.registration(0).device.0);
    town.register(0).reverted_with::<Devices::DeviceExists>();

    let good = town.register_call(1);
    let stranger = town.register_call(2);
    for bad in [
        Devices::registerCall {
            householdSignature: stranger.householdSignature.clone(),
            ..good.clone()
        },
        Devices::registerCall {
            sessionSignature: stranger.sessionSignature.clone(),
            ..good.clone()
        },
        // Another household takes the device for its own.
        Devices::registerCall {
            household: household(2).address(),
            ..good.clone()
        },
        Devices::registerCall {
            endpointKey: B256::ZERO,
            ..good.clone()
        },
        Devices::registerCall {
            household: Address::ZERO,
            ..good.clone()
        },
    ] {
        town.relay(town.at.devices, &bad)
            .reverted_with::<Devices::InvalidSignature>();
    }
    town.relay(town.at.devices, &good).succeeded();
}

#[test]
fn what_was_signed_for_another_chain_registers_nothing() {
    let mut there = Town::on(empty_chain(5), 0);
    let here = Town::new(0);
    assert_eq!(there.at, here.at);
    let call = here.register_call(0);
    there
        .relay(there.at.devices, &call)
        .reverted_with::<Devices::InvalidSignature>();
}

#[test]
fn a_household_can_be_a_contract() {
    let mut town = Town::new(0);
    let wallet = town.create(peers::one_key_wallet(household(0).address()));
    let mut registration = town.registration(0);
    registration.household = wallet;
    let digest = town.domain().registration_digest(&registration);
    let call = Devices::registerCall {
        endpointKey: registration.device.0.into(),
        household: wallet,
        sessionKey: registration.session_key,
        householdSignature: sign(&household(0), digest),
        sessionSignature: sign(&device(0), digest),
    };
    town.relay(town.at.devices, &call).succeeded();
}

#[test]
fn only_device_and_household_take_it_out_of_service() {
    let mut town = Town::new(2);
    let devices = town.at.devices;
    let call = Devices::retireCall {
        sessionKey: device(0).address(),
    };
    town.relay(devices, &call)
        .reverted_with::<Devices::NotOfDevice>();
    town.send(&household(0), devices, &call).succeeded();
    let call = Devices::retireCall {
        sessionKey: device(1).address(),
    };
    town.send(&device(1), devices, &call).succeeded();
    town.go(0, 1);
    town.enroll(0, 0).reverted_with::<Devices::DeviceInactive>();
    let unknown = Devices::retireCall {
        sessionKey: device(5).address(),
    };
    town.relay(devices, &unknown)
        .reverted_with::<Devices::DeviceUnknown>();
}

#[test]
fn a_bond_leaves_after_the_delay_and_to_the_household_alone() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    assert_eq!(stake(&mut town, &bond), (1_000, 0));
    let call = Devices::unbondCall {
        device: device(0).address(),
        court: bond.court,
        token: bond.token,
        amount: U256::from(400),
    };
    let devices = town.at.devices;
    town.send(&device(0), devices, &call)
        .reverted_with::<Devices::NotOfDevice>();
    unbond(&mut town, &bond, 1_001).reverted_with::<Devices::InvalidAmount>();
    unbond(&mut town, &bond, 0).reverted_with::<Devices::InvalidAmount>();
    unbond(&mut town, &bond, 400).succeeded();
    assert_eq!(stake(&mut town, &bond), (600, 400));
    town.chain.advance(UNBONDING_S - 1);
    withdraw(&mut town, &bond).reverted_with::<Devices::BondLeavesAt>();
    town.chain.advance(1);
    let before = town.balance(bond.token, household(0).address());
    withdraw(&mut town, &bond).succeeded();
    let after = town.balance(bond.token, household(0).address());
    assert_eq!(after - before, 400);
    withdraw(&mut town, &bond).reverted_with::<Devices::BondLeavesAt>();
    assert_eq!(stake(&mut town, &bond), (600, 0));
}

#[test]
fn asking_for_more_back_starts_the_delay_again() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    unbond(&mut town, &bond, 400).succeeded();
    town.chain.advance(UNBONDING_S - 1);
    unbond(&mut town, &bond, 100).succeeded();
    town.chain.advance(UNBONDING_S - 1);
    withdraw(&mut town, &bond).reverted_with::<Devices::BondLeavesAt>();
    town.chain.advance(1);
    withdraw(&mut town, &bond).succeeded();
}

#[test]
fn a_verdict_takes_a_quarter_at_most_of_what_leaves_too() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    unbond(&mut town, &bond, 900).succeeded();
    slash(&mut town, &bond, 251).reverted_with::<Devices::ExcessiveSlash>();
    slash(&mut town, &bond, 0).reverted_with::<Devices::ExcessiveSlash>();
    slash(&mut town, &bond, 250).succeeded();
    assert_eq!(stake(&mut town, &bond), (0, 750));
    let burnt = Devices::burntCall { token: bond.token };
    assert_eq!(town.read(town.at.devices, &burnt).to::<u128>(), 250);
    let devices = town.at.devices;
    assert_eq!(town.balance(bond.token, devices), 1_000, "it stays there");
}

#[test]
fn a_court_can_do_nothing_to_bonds_before_others() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    let call = Devices::slashCall {
        device: device(0).address(),
        token: bond.token,
        amount: U256::from(1),
    };
    let devices = town.at.devices;
    town.send(&key("another court"), devices, &call)
        .reverted_with::<Devices::ExcessiveSlash>();
    assert_eq!(stake(&mut town, &bond), (1_000, 0));
}

#[test]
fn two_statements_of_one_sequence_prove_themselves() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    unbond(&mut town, &bond, 500).succeeded();
    expel(&mut town).succeeded();
    let seize = Devices::seizeCall {
        device: device(0).address(),
        court: bond.court,
        token: bond.token,
    };
    town.relay(town.at.devices, &seize).succeeded();
    assert_eq!(stake(&mut town, &bond), (0, 500));
    // Once, however often somebody asks.
    town.relay(town.at.devices, &seize).succeeded();
    assert_eq!(stake(&mut town, &bond), (0, 500));
    expel(&mut town).reverted_with::<Devices::DeviceInactive>();
    let devices = town.at.devices;
    town.send(&household(0), devices, &bond_call(&bond, 1))
        .reverted_with::<Devices::DeviceInactive>();
}

/// A device that is found out while its bond leaves does not get away with all of it.
#[test]
fn a_withdrawal_gives_an_expelled_device_half() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    unbond(&mut town, &bond, 1_000).succeeded();
    town.chain.advance(UNBONDING_S);
    expel(&mut town).succeeded();
    let before = town.balance(bond.token, household(0).address());
    withdraw(&mut town, &bond).succeeded();
    let after = town.balance(bond.token, household(0).address());
    assert_eq!(after - before, 500);
}

#[test]
fn what_proves_nothing_expels_nobody() {
    let mut town = Town::new(2);
    let same = expel_call(&town, [TWO[0], TWO[0]], [0, 0]);
    town.relay(town.at.devices, &same)
        .reverted_with::<Devices::SameStatement>();
    for signers in [[0, 1], [1, 0], [1, 1]] {
        let call = expel_call(&town, TWO, signers);
        town.relay(town.at.devices, &call)
            .reverted_with::<Devices::InvalidSignature>();
    }
    // The second one was of another sequence.
    let mut call = expel_call(&town, TWO, [0, 0]);
    call.sequence = 8;
    town.relay(town.at.devices, &call)
        .reverted_with::<Devices::InvalidSignature>();
    let seize = Devices::seizeCall {
        device: device(0).address(),
        court: court().address(),
        token: Address::ZERO,
    };
    town.relay(town.at.devices, &seize)
        .reverted_with::<Devices::InvalidAmount>();
}

#[test]
fn no_other_device_of_the_household_takes_its_place() {
    let mut town = Town::new(1);
    let mut second = town.registration(7);
    second.household = household(0).address();
    let digest = town.domain().registration_digest(&second);
    let call = Devices::registerCall {
        endpointKey: second.device.0.into(),
        household: second.household,
        sessionKey: second.session_key,
        householdSignature: sign(&household(0), digest),
        sessionSignature: sign(&device(7), digest),
    };
    town.relay(town.at.devices, &call).succeeded();
    expel(&mut town).succeeded();
    town.go(0, 1);
    town.enroll(7, 0).reverted_with::<Devices::DeviceInactive>();
}

/// A court convicts by statements that were made for it: a stranger's contract has none.
#[test]
fn nobody_convicts_by_statements_for_another_contract() {
    let mut town = Town::new(1);
    let (topic, content) = (B256::repeat_byte(1), B256::repeat_byte(2));
    let statement = LedgerStatement {
        subject: subject(town.at.rewards, topic),
        sequence: 1,
        content,
    };
    let signature = sign(&device(0), town.domain().statement_digest(&statement));
    let call = Devices::convictCall {
        topic,
        sequence: 1,
        content,
        signatures: signature,
    };
    town.relay(town.at.devices, &call).succeeded();
    let found = registered(&mut town, 0);
    assert!(!found.isExpelled);
}

#[test]
fn a_fee_is_no_bond() {
    let (mut town, bond) = bonded(FeeToken::BYTECODE.clone(), 1_000);
    assert_eq!(stake(&mut town, &bond), (990, 0));
    let devices = town.at.devices;
    assert_eq!(town.balance(bond.token, devices), 990);
}

#[test]
fn a_token_that_says_no_keeps_the_books_as_they_are() {
    let (mut town, bond) = bonded(FalseToken::BYTECODE.clone(), 1_000);
    unbond(&mut town, &bond, 1_000).succeeded();
    town.chain.advance(UNBONDING_S);
    town.relay(bond.token, &FalseToken::refuseCall {})
        .succeeded();
    assert!(withdraw(&mut town, &bond).outcome.is_err());
    assert_eq!(stake(&mut town, &bond), (0, 1_000));
    // It does not stand in the way of a verdict.
    slash(&mut town, &bond, 250).succeeded();
}

#[test]
fn a_token_that_calls_back_gets_nothing_twice() {
    let (mut town, bond) = bonded(ReentrantToken::BYTECODE.clone(), 1_000);
    unbond(&mut town, &bond, 1_000).succeeded();
    town.chain.advance(UNBONDING_S);
    let again = Devices::withdrawCall {
        device: device(0).address(),
        court: bond.court,
        token: bond.token,
    };
    let arm = ReentrantToken::armCall {
        target_: town.at.devices,
        callback_: again.abi_encode().into(),
    };
    town.relay(bond.token, &arm).succeeded();
    assert!(withdraw(&mut town, &bond).outcome.is_err());
    assert_eq!(stake(&mut town, &bond), (0, 1_000));
}

/// A bond of somebody else's dust changes nothing for the household.
#[test]
fn dust_from_strangers_does_not_hold_a_bond_back() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    unbond(&mut town, &bond, 1_000).succeeded();
    town.chain.advance(UNBONDING_S - 1);
    let stranger = key("stranger");
    town.mint(bond.token, stranger.address(), 1);
    town.approve(&stranger, bond.token, town.at.devices);
    let devices = town.at.devices;
    town.send(&stranger, devices, &bond_call(&bond, 1))
        .succeeded();
    town.chain.advance(1);
    withdraw(&mut town, &bond).succeeded();
    assert_eq!(stake(&mut town, &bond), (1, 0));
}

#[test]
fn nothing_arrives_from_an_empty_purse() {
    let (mut town, bond) = bonded(test_dollar_init(), 1_000);
    let devices = town.at.devices;
    town.send(&household(0), devices, &bond_call(&bond, 0))
        .reverted_with::<Devices::InvalidAmount>();
    let to = TxKind::Call(devices);
    let data = bond_call(&bond, 1).abi_encode().into();
    assert!(town.chain.send(&key("poor"), to, data).outcome.is_err());
}
