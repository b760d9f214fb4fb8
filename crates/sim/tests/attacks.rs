//! What an attack brings its attacker.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

use hearth_sim::training::{HonestPay, attacks};

/// Runs of each attack; `cargo run -p hearth-sim -- training attacks COUNT` does more.
const RUNS: u32 = 6;
const FIRST: u64 = 0x51a0;

#[test]
fn nobody_gains_by_an_attack_whatever_work_costs() {
    println!("{RUNS} runs of each from seed {FIRST:#x} on");
    let honest = HonestPay::play(RUNS, FIRST).unwrap_or_else(|failure| panic!("{failure}"));
    for attack in attacks() {
        let brought = match attack.play(RUNS, FIRST, honest) {
            Ok(brought) => brought,
            Err(failure) => panic!("{}: {failure}", attack.name),
        };
        println!("{} after {} rounds: {brought}", attack.name, attack.after());
        // Work costs something between nothing and its pay; what an attack brings, lies between these two.
        assert!(brought.net_of_pay() < 0.0, "{}", attack.name);
        assert!(brought.net_of_cost() <= 0.0, "{}", attack.name);
        let nearly_all = 0.1 * brought.net_of_pay() + 0.9 * brought.net_of_cost();
        assert!(nearly_all < -0.1, "{}", attack.name);
    }
}
