//! Runs of the simulation.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

use std::process::Command;

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
    let run = || {
        let ran = Command::new(env!("CARGO_BIN_EXE_hearth-sim"))
            .args(["run", "10", "0x77"])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let first = run();
    assert!(first.contains("hash "), "{first}");
    assert_eq!(first, run());
}

#[test]
fn a_replay_shows_what_happened_and_a_strange_command_says_what_there_is() {
    let hearth_sim = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-sim"));
        command.args(arguments).output().unwrap()
    };
    let replayed = hearth_sim(&["replay", "0x77"]);
    let text = String::from_utf8(replayed.stdout).unwrap();
    assert!(text.lines().count() > 20, "{text}");
    for strange in [&[][..], &["replay", "none"], &["run"], &["run", "-1"]] {
        let refused = hearth_sim(strange);
        assert_eq!(refused.status.code(), Some(2));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.starts_with("usage:"), "{text}");
    }
}
