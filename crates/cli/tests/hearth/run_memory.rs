//! What a trainer says that a run takes of its memory is what it takes.

use std::fs;

use crate::program::Running;
use crate::training::{dataset, fresh, join_run, made_run, shown, until, up, up_in_network_of};

/// A model of some eight million parameters, so that its weights are most of what is taken; few steps.
const RECIPE: &str = r#"
name = "verses"
license = "CC0-1.0"
rounds = 2
[model]
width = 320
layers = 6
query_heads = 5
key_value_heads = 5
context = 32
[training]
window_tokens = 32
windows = 2
rate = 0.001
optimizer = "adamw"
[devices]
trainers = 1
[round]
steps = 2
grace_s = 1
attempt_s = 16
"#;

/// A line of what Linux says of a process, in bytes.
fn status(node: &Running, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1_024
}

#[test]
#[cfg(target_os = "linux")]
fn a_trainer_takes_the_memory_that_it_said_before() {
    let (tower, laptop) = (fresh(true), fresh(false));
    let data = dataset(&tower);
    let _host = up(&tower);
    let node = up_in_network_of(&tower, &laptop);
    let (run, ticket) = made_run(&tower, RECIPE, &data);
    let at_rest = status(&node, "VmRSS:");
    join_run(&laptop, &ticket);
    until("a model that is trained", || {
        (shown(&laptop, &run)["state"]["rounds_done"] == 2).then_some(())
    });

    let view = shown(&laptop, &run);
    assert!(view["parameters"].as_u64().unwrap() > 5_000_000, "{view}");
    let said = view["memory_bytes"].as_u64().unwrap();
    let taken = status(&node, "VmHWM:") - at_rest;
    println!("{said} bytes were said, {taken} taken over {at_rest} at rest");
    assert!(
        taken * 10 <= said * 13,
        "{taken} bytes were taken, and {said} said"
    );
    assert!(
        said * 10 <= taken * 13,
        "{said} bytes were said, and {taken} taken"
    );
}
