//! The benchmark `waiting`: how the threads of a model should wait for each other, on an idle machine and beside
//! programs that compute.
//!
//! llama.cpp as a bare loop generates in turn with GNU OpenMP's usual setting (threads keep the processor for
//! milliseconds), with none (they sleep at once), and with the one that `hearth up` sets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Result;

use super::bare::Bare;
use super::{Figure, figure, median};
use crate::{model, workspace};

/// The settings, with their names.
const SETTINGS: [(&str, Option<(&str, &str)>); 3] = [
    ("usual", None),
    ("passive", Some(("OMP_WAIT_POLICY", "passive"))),
    ("ours", Some(model::SPINS)),
];
/// Tokens of the prompt.
const PROMPT_TOKENS: u64 = 32;
/// Tokens of each answer.
const TOKENS: u64 = 48;
/// Rounds that count.
const ROUNDS: u64 = 5;

/// Runs the benchmark.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let program = workspace::build_one(&root, "--example", "bench_engine")?;
    let file = model::fetch(&root)?;
    let start = |setting| Bare::start(&program, &file, PROMPT_TOKENS, setting);
    let mut loops = Vec::new();
    for (_, setting) in SETTINGS {
        loops.push(start(setting)?);
    }
    let cores = thread::available_parallelism()?.get();
    let (rounds, tokens) = if smoke { (1, 2) } else { (ROUNDS, TOKENS) };
    let mut figures = Vec::new();
    for busy in [0, cores] {
        let speeds = beside(busy, || measure(&mut loops, rounds, tokens))?;
        let note = format!(
            "1 at a time, {tokens} tokens each, beside {busy} busy threads; median of {rounds} rounds"
        );
        for ((name, _), speeds) in SETTINGS.iter().zip(speeds) {
            figures.push(figure(
                &format!("output, {name}"),
                median(speeds),
                "tokens/s",
                &note,
            ));
        }
    }
    Ok(figures)
}

/// The speeds of each loop, in turn, round after round.
fn measure(loops: &mut [Bare], rounds: u64, tokens: u64) -> Result<Vec<Vec<f64>>> {
    let mut speeds = vec![Vec::new(); loops.len()];
    for one in loops.iter_mut() {
        one.run(1, 1, rounds)?;
    }
    for round in 0..rounds {
        for (one, speeds) in loops.iter_mut().zip(&mut speeds) {
            speeds.push(one.run(1, tokens, round)?.tokens_per_s);
        }
    }
    Ok(speeds)
}

/// Does something while so many threads compute.
fn beside<T>(busy: usize, does: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..busy {
            scope.spawn(|| {
                // Arithmetic, and no instruction that says to the processor that it only waits.
                let mut sum = 1_u64;
                while !ended.load(Ordering::Relaxed) {
                    for _ in 0..100_000 {
                        sum = std::hint::black_box(sum.wrapping_mul(6_364_136_223_846_793_005));
                    }
                }
            });
        }
        let done = does();
        ended.store(true, Ordering::Relaxed);
        done
    })
}
