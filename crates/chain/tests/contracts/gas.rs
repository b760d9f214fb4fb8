//! Gas of every function, whole receipts, against the figures of the canonical contract and against our own last
//! snapshot.

use std::collections::BTreeMap;
use std::path::Path;

use alloy_sol_types::SolCall;
use hearth_chain::bindings::Settlement::{self, ChannelConfig};
use serde::{Deserialize, Serialize};

use crate::chain::Receipt;
use crate::world::{DELAY_S, Role, World};

/// Set to write the snapshot instead of comparing with it.
const REGENERATE: &str = "HEARTH_REGENERATE";

/// Gas of one kind of transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Figures {
    /// Measured here, on revm.
    ours: u64,
    /// The canonical contract's, from the design.
    reference: u64,
}

#[test]
fn gas_is_as_in_the_snapshot_and_never_above_the_canonical_contract() {
    let figures = measure();
    print(&figures);
    for (name, figures) in &figures {
        assert!(
            figures.ours <= figures.reference,
            "{name} costs more than the canonical contract: {figures:?}"
        );
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/gas-snapshot.json");
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(
            &path,
            serde_json::to_string_pretty(&figures).unwrap() + "\n",
        )
        .unwrap();
    }
    let snapshot: BTreeMap<String, Figures> =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        figures, snapshot,
        "gas changed; where that is meant, run this test with {REGENERATE}=1 and commit"
    );
}

fn print(figures: &BTreeMap<String, Figures>) {
    println!(
        "{:<40}{:>10}{:>12}{:>10}",
        "transaction", "ours", "canonical", "saved"
    );
    for (name, Figures { ours, reference }) in figures {
        println!(
            "{name:<40}{ours:>10}{reference:>12}{:>10}",
            reference.saturating_sub(*ours)
        );
    }
}

/// Runs every kind of transaction in the state that its reference was measured in: payer, receiver and contract hold
/// the token already, and the receiver was paid before.
fn measure() -> BTreeMap<String, Figures> {
    let mut world = World::on_revm("gas");
    let mut figures = BTreeMap::new();
    let mut note = |name: &str, reference: u64, receipt: Receipt| {
        let ours = receipt.succeeded().gas_used;
        figures.insert(name.to_owned(), Figures { ours, reference });
    };

    let first = world.config_n(1);
    note(
        "deposit, very first",
        137_356,
        world.deposit(&first, 1_000_000),
    );
    note(
        "deposit, new channel",
        120_250,
        world.deposit(&world.config_n(2), 1_000_000),
    );
    note("deposit, top-up", 99_288, world.deposit(&first, 1_000_000));
    note(
        "claim 1, first of the receiver",
        65_943,
        world.claim(&first, 1_000),
    );
    note("claim 1", 48_831, world.claim(&world.config_n(2), 1_000));
    world.settle(&first).succeeded();
    note("settle, nothing to settle", 25_216, world.settle(&first));
    world.claim(&first, 2_000).succeeded();
    note("settle", 46_269, world.settle(&first));

    let ten: Vec<ChannelConfig> = (10..20).map(|n| world.config_n(n)).collect();
    for config in &ten {
        world.deposit(config, 1_000_000).succeeded();
    }
    let rows = ten
        .iter()
        .map(|config| world.row(config, 1_000, 1_000))
        .collect();
    note(
        "claim 10",
        243_270,
        world.claim_rows(Role::ReceiverAuthorizer, rows),
    );

    measure_signed(&mut world, &mut note);
    figures
}

/// The other half: what a receiver signs, and what a payer takes back.
fn measure_signed(world: &mut World, note: &mut impl FnMut(&str, u64, Receipt)) {
    let ten: Vec<ChannelConfig> = (20..30).map(|n| world.config_n(n)).collect();
    for config in &ten {
        world.deposit(config, 1_000_000).succeeded();
    }
    let rows = ten
        .iter()
        .map(|config| world.row(config, 1_000, 1_000))
        .collect();
    let signed = world.signed_claim(Role::ReceiverAuthorizer, rows);
    note(
        "claimWithSignature 10",
        280_265,
        world.settlement(Role::Stranger, &signed),
    );

    note("refund", 74_591, world.refund(&ten[0], 1_000));
    let call = claim_and_refund(world, &ten[1], 2_000);
    note(
        "multicall, claim and refund",
        123_265,
        world.settlement(Role::Stranger, &call),
    );
    let refund = world
        .signed_refund(Role::ReceiverAuthorizer, &ten[2], 1_000, 0)
        .abi_encode()
        .into();
    let call = Settlement::multicallCall { data: vec![refund] };
    note(
        "multicall, refund alone",
        91_245,
        world.settlement(Role::Stranger, &call),
    );

    note("initiateWithdraw", 52_907, world.initiate(&ten[3], 1_000));
    world.chain.advance(DELAY_S);
    note("finalizeWithdraw", 50_829, world.finalize(&ten[3]));
}

/// What the facilitator of the x402 SDK sends for a refund with a claim due.
fn claim_and_refund(
    world: &World,
    config: &ChannelConfig,
    total: u128,
) -> Settlement::multicallCall {
    let claim = world.signed_claim(
        Role::ReceiverAuthorizer,
        vec![world.row(config, total, total)],
    );
    let refund = world.signed_refund(Role::ReceiverAuthorizer, config, 1_000, 0);
    Settlement::multicallCall {
        data: vec![claim.abi_encode().into(), refund.abi_encode().into()],
    }
}
