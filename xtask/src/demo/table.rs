//! What the demo ends with: who trained, earned, forfeited, spent and has what; and whether all of it agrees.

use anyhow::{Context, Result, ensure};

use super::answering::Answers;
use super::say;
use super::training::Trained;
use crate::households::Heard;

/// Prints the table, and fails where a sum does not agree with another.
pub(super) fn show(trained: &Trained, answers: &Answers) -> Result<()> {
    let rounds = &trained.rounds;
    let first = rounds.first().context("there are rounds")?;
    println!();
    println!("  loss before training {:>28.3}", first.loss);
    println!(
        "  loss after it, on text that nobody trained on {:>3.3}",
        answers.held_out_loss
    );
    println!();
    println!("  answer                     tokens   seconds   tokens/s");
    for (name, heard) in [
        ("C alone", &answers.short),
        ("C, killed, then A", &answers.long),
    ] {
        let Heard {
            tokens, seconds, ..
        } = heard;
        let speed = *tokens as f64 / seconds;
        println!("  {name:<24} {tokens:>8} {seconds:>9.1} {speed:>10.1}");
    }
    println!();
    println!("  Ember                        A            B            C            D");
    let row = |name: &str, values: [Option<u128>; 4]| {
        let cells = values.map(|value| value.map_or("-".to_owned(), ember));
        println!(
            "  {name:<17} {:>12} {:>12} {:>12} {:>12}",
            cells[0], cells[1], cells[2], cells[3]
        );
    };
    let of_all = |pick: &dyn Fn(usize) -> u128| [0, 1, 2, 3].map(|house| Some(pick(house)));
    let all = &trained.earned;
    row("work came to", of_all(&|house| all[house].whole()));
    row("earned, claimed", of_all(&|house| all[house].claimed));
    row("still to come", of_all(&|house| all[house].to_come()));
    row("forfeited", of_all(&|house| all[house].forfeited()));
    row(
        "sold answers for",
        [Some(answers.sold[0]), None, Some(answers.sold[1]), None],
    );
    row("spent on answers", [None, Some(answers.spent), None, None]);
    row("in channels", [None, Some(answers.deposited), None, None]);
    row("has on the chain", of_all(&|house| answers.balances[house]));
    println!();
    println!("  contributions          A            B            C            D");
    let counts = trained.contributions;
    println!(
        "  admitted          {:>12} {:>12} {:>12} {:>12}",
        counts[0], counts[1], counts[2], counts[3]
    );
    let bytes = counts.map(|count| count * trained.contribution_bytes);
    println!(
        "  bytes of them     {:>12} {:>12} {:>12} {:>12}",
        bytes[0], bytes[1], bytes[2], bytes[3]
    );
    println!();
    agree(trained, answers)?;
    say("the books of all four and the chain agree to the atomic unit");
    Ok(())
}

fn agree(trained: &Trained, answers: &Answers) -> Result<()> {
    let [_, b, _, d] = &trained.earned;
    let [_, has_b, _, has_d] = answers.balances;
    ensure!(
        has_b + answers.deposited == b.claimed,
        "B claimed {}, has {has_b}, and its channels hold {}",
        b.claimed,
        answers.deposited
    );
    ensure!(
        has_d == d.claimed,
        "D claimed {}, and has {has_d}",
        d.claimed
    );
    let sold = answers.sold[0] + answers.sold[1];
    let (spent, promised) = (answers.spent, answers.promised);
    ensure!(
        (spent..=spent + promised).contains(&sold),
        "A and C got {sold}; B was charged {spent} and had promised {promised} more"
    );
    ensure!(
        answers.sold.iter().all(|sold| *sold > 0),
        "A and C both sold something"
    );
    if sold > spent {
        say(&format!(
            "(C charged {} more than B had heard of when C was killed: B had promised it)",
            ember(sold - spent)
        ));
    }
    Ok(())
}

/// Ember with six digits after the point.
fn ember(units: u128) -> String {
    let millionths = units / 1_000_000_000_000;
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}
