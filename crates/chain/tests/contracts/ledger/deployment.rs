//! The same contracts at the addresses that were worked out beforehand, on any chain, put there by anyone.

use alloy_primitives::{Address, TxKind};
use hearth_chain::bindings::{Devices, Ember, Ledger, Rewards, Runs, Validators, Voice};
use hearth_chain::deployment::{CREATE2_DEPLOYER, LedgerDeployment, LedgerTerms};

use super::town::{Town, empty_chain, key, terms};
use crate::chain::{Chain, RevmChain};

#[test]
fn everything_stands_where_it_was_worked_out_to_stand() {
    let mut town = Town::new(3);
    let at = town.at;
    assert_eq!(town.read(at.ember, &Ember::minterCall {}), at.rewards);
    assert_eq!(town.read(at.voice, &Voice::minterCall {}), at.rewards);
    assert_eq!(town.read(at.rewards, &Rewards::emberCall {}), at.ember);
    assert_eq!(town.read(at.rewards, &Rewards::voiceCall {}), at.voice);
    assert_eq!(town.read(at.rewards, &Rewards::devicesCall {}), at.devices);
    assert_eq!(
        town.read(at.rewards, &Rewards::validatorsCall {}),
        at.validators
    );
    assert_eq!(
        town.read(at.validators, &Validators::voiceCall {}),
        at.voice
    );
    assert_eq!(
        town.read(at.validators, &Validators::devicesCall {}),
        at.devices
    );
    assert_eq!(town.read(at.runs, &Runs::rewardsCall {}), at.rewards);
    assert_eq!(town.read(at.runs, &Runs::validatorsCall {}), at.validators);
}

#[test]
fn a_deployment_can_be_gone_on_with_and_done_twice() {
    let mut chain = empty_chain(1);
    let deployment = LedgerDeployment::new(&terms(1));
    let send = |chain: &mut RevmChain, step: usize| {
        let to = TxKind::Call(CREATE2_DEPLOYER);
        let input = deployment.steps[step].input.clone();
        chain.send(&key("somebody"), to, input)
    };
    send(&mut chain, 0).succeeded();
    let left = |chain: &mut RevmChain| {
        let standing: Vec<Address> = deployment
            .steps
            .iter()
            .map(|step| step.address)
            .filter(|address| !chain.code(*address).is_empty())
            .collect();
        deployment
            .remaining(|address| standing.contains(&address))
            .count()
    };
    assert_eq!(left(&mut chain), 2);
    send(&mut chain, 1).succeeded();
    send(&mut chain, 2).succeeded();
    assert_eq!(left(&mut chain), 0);
    let code = chain.code(deployment.addresses.rewards);
    assert!(send(&mut chain, 1).outcome.is_err(), "it stands there");
    assert_eq!(chain.code(deployment.addresses.rewards), code);
    for address in deployment.addresses.all() {
        assert!(!chain.code(address).is_empty(), "{address}");
    }
}

#[test]
fn devices_that_a_genesis_places_are_those_that_are_deployed() {
    let mut town = Town::new(1);
    let deployed = town.chain.code(town.at.devices);
    assert_eq!(deployed, Devices::DEPLOYED_BYTECODE.clone());
    assert_eq!(deployed, hearth_chain::bindings::devices_runtime());
}

/// EIP-170 and EIP-3860 bound what a chain takes.
#[test]
fn no_contract_is_too_large_for_a_chain() {
    for (name, runtime) in [
        ("Devices", Devices::DEPLOYED_BYTECODE.len()),
        ("Rewards", Rewards::DEPLOYED_BYTECODE.len()),
        ("Runs", Runs::DEPLOYED_BYTECODE.len()),
        ("Validators", Validators::DEPLOYED_BYTECODE.len()),
        ("Voice", Voice::DEPLOYED_BYTECODE.len()),
    ] {
        assert!(runtime <= 24_576, "{name}: {runtime}");
    }
    assert!(Ledger::BYTECODE.len() <= 49_152);
}

#[test]
fn terms_that_make_no_ledger_are_refused() {
    let bad = [
        LedgerTerms {
            epoch_s: 3,
            ..terms(1)
        },
        LedgerTerms {
            epoch_s: 3_601,
            ..terms(1)
        },
        LedgerTerms {
            epoch_s: 1_209_600,
            ..terms(1)
        },
        LedgerTerms {
            window_s: 0,
            ..terms(1)
        },
        LedgerTerms {
            window_s: 604_801,
            ..terms(1)
        },
    ];
    for terms in bad {
        let mut chain = empty_chain(1);
        let deployment = LedgerDeployment::new(&terms);
        let outcomes: Vec<bool> = deployment
            .steps
            .iter()
            .map(|step| {
                let to = TxKind::Call(CREATE2_DEPLOYER);
                chain
                    .send(&key("somebody"), to, step.input.clone())
                    .outcome
                    .is_ok()
            })
            .collect();
        assert!(!outcomes[1], "{terms:?}");
    }
}
