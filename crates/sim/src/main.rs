//! Runs the simulation by hand.

use std::process::ExitCode;

use hearth_sim::training::{HonestPay, TrainingWorld};
use hearth_sim::{Failure, Log, World};

const USAGE: &str =
    "usage: hearth-sim run COUNT [FIRST]           runs so many seeds, from FIRST on (0)
       hearth-sim replay SEED                shows one run, line by line
       hearth-sim training run COUNT [FIRST] the same, of trainers and validators
       hearth-sim training replay SEED
       hearth-sim training attacks COUNT     plays each attack from so many seeds, and shows what it brings";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let pay = |seed| hearth_sim::run(seed).map(|summary| summary.hash);
    let train = |seed| hearth_sim::training::run(seed).map(|summary| summary.hash);
    match arguments[..] {
        ["run", count] => run(pay, number(count), Some(0)),
        ["run", count, first] => run(pay, number(count), number(first)),
        ["replay", seed] => replay(number(seed)),
        ["training", "run", count] => run(train, number(count), Some(0)),
        ["training", "run", count, first] => run(train, number(count), number(first)),
        ["training", "replay", seed] => replay_training(number(seed)),
        ["training", "attacks", count] => play_attacks(number(count)),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// A number in decimal digits, or in hexadecimal ones after `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn run(
    one: impl Fn(u64) -> Result<String, Failure>,
    count: Option<u64>,
    first: Option<u64>,
) -> ExitCode {
    let (Some(count), Some(first)) = (count, first) else {
        return usage();
    };
    let mut hasher = blake3::Hasher::new();
    let mut failures = 0_u64;
    for seed in first..first.saturating_add(count) {
        match one(seed) {
            Ok(hash) => {
                hasher.update(hash.as_bytes());
            }
            Err(failure) => {
                println!("{failure}");
                failures += 1;
            }
        }
    }
    println!(
        "{count} runs from {first:#x} on, {failures} failed; hash {}",
        hasher.finalize().to_hex()
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn replay(seed: Option<u64>) -> ExitCode {
    let Some(seed) = seed else {
        return usage();
    };
    let mut world = World::new(seed, true);
    let ran = world.run().map(|summary| format!("{summary:#?}"));
    show(world.log(), ran)
}

fn replay_training(seed: Option<u64>) -> ExitCode {
    let Some(seed) = seed else {
        return usage();
    };
    let mut world = TrainingWorld::new(seed, true);
    let ran = world.run().map(|summary| format!("{summary:#?}"));
    show(world.log(), ran)
}

/// Plays every attack, and shows what it brings in honest rounds of pay.
fn play_attacks(count: Option<u64>) -> ExitCode {
    let Some(count) = count.and_then(|count| u32::try_from(count).ok()) else {
        return usage();
    };
    let honest = match HonestPay::play(count, 0) {
        Ok(honest) => honest,
        Err(failure) => {
            println!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    let mut code = ExitCode::SUCCESS;
    for attack in hearth_sim::training::attacks() {
        match attack.play(count, 0, honest) {
            Ok(brought) => println!("{} after {} rounds: {brought}", attack.name, attack.after()),
            Err(failure) => {
                println!("{}: {failure}", attack.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn show(log: &Log, ran: Result<String, Failure>) -> ExitCode {
    for line in log.lines() {
        println!("{line}");
    }
    match ran {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}
