//! Runs of the simulation.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use hearth_sim::training::{Cheats, TrainingSummary, TrainingTally};
use hearth_sim::{Liars, Summary};

/// Runs in each test run; `cargo run -p hearth-sim -- run COUNT` does more.
const RUNS: u64 = 200;
const FIRST: u64 = 0x51a0;

#[test]
fn no_run_breaks_an_invariant_and_every_kind_of_thing_happens() {
    let mut all: Vec<Summary> = Vec::new();
    for seed in FIRST..FIRST + RUNS {
        match hearth_sim::run(seed) {
            Ok(summary) => all.push(summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{RUNS} runs from seed {FIRST:#x} on");
    let sum = |of: fn(&Summary) -> u64| all.iter().map(of).sum::<u64>();
    let sold = |of: fn(&hearth_sim::SellerTally) -> u64| {
        all.iter().flat_map(|one| &one.sellers).map(of).sum::<u64>()
    };
    for (what, least, seen) in [
        ("whole answers", 200, sum(|one| one.payer.whole)),
        (
            "answers that others went on with",
            20,
            sum(|one| one.payer.failovers),
        ),
        ("deposits", 100, sum(|one| one.payer.deposits)),
        ("corrections", 20, sum(|one| one.payer.corrected)),
        ("refunds", 50, sum(|one| one.payer.refunds)),
        ("providers that lied", 20, sum(|one| one.payer.distrusted)),
        ("crashes", 50, sold(|one| one.crashes)),
        ("claims", 200, sold(|one| one.claims)),
        ("charges", 500, sold(|one| one.charges)),
    ] {
        println!("{what}: {seen}");
        assert!(seen >= least, "{what}: {seen}, {least} expected");
    }
    for liars in [Liars::Nobody, Liars::Providers, Liars::Payer] {
        assert!(all.iter().any(|one| one.liars == liars), "{liars:?}");
    }
}

#[test]
fn two_processes_give_the_same_hash_for_the_same_seeds() {
    let run = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_hearth-sim"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    for arguments in [
        &["run", "10", "0x77"][..],
        &["training", "run", "10", "0x77"],
    ] {
        let first = run(arguments);
        assert!(first.contains("hash "), "{first}");
        assert_eq!(first, run(arguments));
    }
}

#[test]
fn a_replay_shows_what_happened_and_a_strange_command_says_what_there_is() {
    let hearth_sim = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-sim"));
        command.args(arguments).output().unwrap()
    };
    for world in [&["replay", "0x77"][..], &["training", "replay", "0x77"]] {
        let replayed = hearth_sim(world);
        let text = String::from_utf8(replayed.stdout).unwrap();
        assert!(text.lines().count() > 20, "{text}");
    }
    for strange in [
        &[][..],
        &["replay", "none"],
        &["run"],
        &["run", "-1"],
        &["training"],
    ] {
        let refused = hearth_sim(strange);
        assert_eq!(refused.status.code(), Some(2));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.starts_with("usage:"), "{text}");
    }
}

#[test]
fn no_training_run_breaks_an_invariant_and_every_kind_of_thing_happens() {
    let mut all: Vec<TrainingSummary> = Vec::new();
    for seed in FIRST..FIRST + RUNS {
        match hearth_sim::training::run(seed) {
            Ok(summary) => all.push(summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{RUNS} training runs from seed {FIRST:#x} on");
    let sum = |of: fn(&TrainingTally) -> u64| all.iter().map(|one| of(&one.tally)).sum::<u64>();
    for (what, least, seen) in [
        ("rounds", 2_000, sum(|one| one.rounds)),
        ("contributions", 4_000, sum(|one| one.admitted)),
        ("numbers that were leapt over", 100, sum(|one| one.leaps)),
        ("false contributions", 100, sum(|one| one.false_admitted)),
        ("trainers that were excluded", 30, sum(|one| one.excluded)),
        ("audits that passed", 500, sum(|one| one.passed)),
        (
            "starts that could not be had",
            5,
            sum(|one| one.unavailable),
        ),
        (
            "starts that validators computed",
            5,
            sum(|one| one.computed),
        ),
        ("books of audits", 20, sum(|one| one.ends)),
        ("crashes", 500, sum(|one| one.crashes)),
        ("chains that were undone", 200, sum(|one| one.undone)),
        ("links that were cut", 500, sum(|one| one.cuts)),
        ("pauses", 200, sum(|one| one.pauses)),
        ("lies of validators", 500, sum(|one| one.lies)),
    ] {
        println!("{what}: {seen}");
        assert!(seen >= least, "{what}: {seen}, {least} expected");
    }
    for cheats in [Cheats::Nobody, Cheats::Few, Cheats::Many] {
        assert!(all.iter().any(|one| one.cheats == cheats), "{cheats:?}");
    }
}
