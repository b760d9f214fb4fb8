//! Gas of the ledger's functions, whole receipts, against our last snapshot. Nobody else's code does the same.

use std::collections::BTreeMap;
use std::path::Path;

use alloy_primitives::{Address, B256, U256};
use hearth_chain::bindings::{Devices, Rewards, Runs, Validators, test_dollar_init};
use hearth_chain::deployment::{CREATE2_DEPLOYER, LedgerDeployment};

use super::runs::{round_call, run_in};
use super::town::{ENROLLMENT_S, Town, WINDOW_S, device, empty_chain, household, key, terms, tree};
use crate::chain::{Chain, Receipt};

/// Set to write the snapshot instead of comparing with it.
const REGENERATE: &str = "HEARTH_REGENERATE";

/// Validators of these figures: the most that a set has.
const VALIDATORS: usize = 32;

type Figures = BTreeMap<String, u64>;

#[test]
fn gas_of_the_ledger_is_as_in_the_snapshot() {
    let mut figures = Figures::new();
    measure_deployment(&mut figures);
    measure_epoch(&mut figures);
    measure_bonds(&mut figures);
    for (name, gas) in &figures {
        println!("{name:<56}{gas:>10}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/gas-ledger.json");
    if std::env::var_os(REGENERATE).is_some() {
        let text = serde_json::to_string_pretty(&figures).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let snapshot: Figures = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        figures, snapshot,
        "gas changed; where that is meant, run this test with {REGENERATE}=1 and commit"
    );
}

fn note(figures: &mut Figures, name: &str, receipt: Receipt) {
    figures.insert(name.to_owned(), receipt.succeeded().gas_used);
}

fn measure_deployment(figures: &mut Figures) {
    let mut chain = empty_chain(1);
    for step in LedgerDeployment::new(&terms(3)).steps {
        let to = alloy_primitives::TxKind::Call(CREATE2_DEPLOYER);
        let receipt = chain.send(&key("anyone"), to, step.input.clone());
        note(figures, &format!("deploy {}", step.name), receipt);
    }
}

/// A whole epoch with all seats taken: what a day on a public chain costs everybody together.
fn measure_epoch(figures: &mut Figures) {
    let mut town = Town::new(VALIDATORS);
    let everybody: Vec<usize> = (0..VALIDATORS).collect();
    note(figures, "register", town.register(99));
    town.go(1, 1);
    let mut enrolled = (0..VALIDATORS).map(|number| town.enroll(number, 1));
    let first = enrolled.next().expect("there are validators");
    let last = enrolled.next_back().expect("there are validators");
    enrolled.for_each(|receipt| drop(receipt.succeeded()));
    note(figures, "enroll, first of an epoch", first);
    note(figures, "enroll", last);
    town.go(1, ENROLLMENT_S);

    let run = run_in(&mut town, Address::ZERO);
    for (name, round) in [
        ("recordRound, first of run and epoch", 0),
        ("recordRound", 1),
    ] {
        let call = round_call(&mut town, &run, round, 1, &everybody);
        let call = only_members(&mut town, &run.id, call);
        let receipt = town.relay(town.at.runs, &call);
        note(figures, name, receipt);
    }
    let accounts: Vec<(Address, u128)> = (0..1_000)
        .map(|n| (household(1_000 + n).address(), 5))
        .collect();
    let ember = tree(town.at.ember, &accounts);
    let voice = tree(town.at.voice, &accounts);
    let two_thirds: Vec<usize> = everybody[..22].to_vec();
    for (name, rewards) in [("record Ember", &ember), ("record Voice", &voice)] {
        note(figures, name, town.record(0, None, rewards, &two_thirds));
    }
    town.chain.advance(WINDOW_S);
    for (name, rewards, account) in [
        ("claim Ember of 1000 accounts, first of all", &ember, 0),
        ("claim Ember of 1000 accounts", &ember, 1),
        ("claim Voice of 1000 accounts", &voice, 1),
    ] {
        note(figures, name, town.claim(0, rewards, accounts[account].0));
    }
    let call = Rewards::claimCall {
        asset: town.at.ember,
        epoch: 0,
        leaf: super::town::leaf_of(&ember, accounts[1].0),
    };
    let receipt = town.relay(town.at.rewards, &call);
    note(figures, "claim, nothing new", receipt);
}

/// Keeps the signatures of those whom the run drew.
fn only_members(town: &mut Town, run: &B256, call: Runs::recordRoundCall) -> Runs::recordRoundCall {
    let beacon = town.read(town.at.validators, &Validators::beaconCall { epoch: 1 });
    let seats: Vec<_> = town
        .seats(1)
        .iter()
        .map(|seat| hearth_protocol::ledger::draw::Seat {
            device: seat.device,
            household: seat.household,
            weight: seat.weight.to(),
        })
        .collect();
    let drawn = hearth_protocol::ledger::draw::committee(beacon, *run, &seats);
    let mut mask = 0;
    let mut signatures = Vec::new();
    for (seat, signature) in call.signatures.chunks_exact(65).enumerate() {
        if drawn.mask >> seat & 1 == 1 && u32::count_ones(mask) < 11 {
            mask |= 1 << seat;
            signatures.extend_from_slice(signature);
        }
    }
    Runs::recordRoundCall {
        mask,
        signatures: signatures.into(),
        ..call
    }
}

fn measure_bonds(figures: &mut Figures) {
    let mut town = Town::new(1);
    let token = town.create(test_dollar_init());
    let owner = household(0);
    town.mint(token, owner.address(), 1_000);
    town.approve(&owner, token, town.at.devices);
    let (devices, court) = (town.at.devices, key("court"));
    let device_ = device(0).address();
    let bond = Devices::bondCall {
        device: device_,
        court: court.address(),
        token,
        amount: U256::from(500),
    };
    note(figures, "bond", town.send(&owner, devices, &bond));
    let slash = Devices::slashCall {
        device: device_,
        token,
        amount: U256::from(100),
    };
    note(figures, "slash", town.send(&court, devices, &slash));
    let unbond = Devices::unbondCall {
        device: device_,
        court: court.address(),
        token,
        amount: U256::from(300),
    };
    note(figures, "unbond", town.send(&owner, devices, &unbond));
    town.chain.advance(21 * 24 * 60 * 60);
    let withdraw = Devices::withdrawCall {
        device: device_,
        court: court.address(),
        token,
    };
    note(figures, "withdraw", town.relay(devices, &withdraw));
}
