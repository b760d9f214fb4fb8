//! The first scene: four households train a model together. One cheats; one is killed and comes back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{EPOCHS, Earned, Houses, Reach, Round, TrainingRun, VOCABULARY, say, use_ember};
use crate::households::{Household, PASSPHRASE, Up};

/// Rounds of the run.
const ROUNDS: u64 = 16;
/// After how many recorded rounds C is killed, and after how many it comes back.
const AWAY: (u64, u64) = (4, 8);
/// How long the run may take on a busy machine.
const LONGEST: Duration = Duration::from_secs(360);
/// How long it may take until the rewards of an epoch are final.
const CLAIM_LONGEST: Duration = Duration::from_secs(120);

/// What the household that makes the run writes.
const RECIPE: &str = r#"
name = "plays"
license = "CC0-1.0"
rounds = 16
[model]
width = 96
layers = 3
query_heads = 4
key_value_heads = 2
context = 256
[training]
window_tokens = 128
windows = 8
rate = 0.006
[devices]
trainers = 4
up_mbit = 20
[round]
steps = 12
quorum = 2
grace_s = 2
attempt_s = 40
[audit]
per_mille = 250
newcomer_rounds = 1
"#;

/// What came of the scene.
pub(super) struct Trained {
    /// The rounds that were recorded.
    pub(super) rounds: Vec<Round>,
    /// Contributions of A, B, C and D that were admitted.
    pub(super) contributions: [u64; 4],
    /// Bytes of each.
    pub(super) contribution_bytes: u64,
    /// What A, B, C and D earned.
    pub(super) earned: [Earned; 4],
}

/// Makes the households, brings their devices up, and makes the run.
pub(super) fn begin(
    hearth: &Path,
    cheat: &Path,
    text: &Path,
    folder: &Path,
) -> Result<(Houses, TrainingRun)> {
    say("four households, A, B, C and D, make their wallets");
    let named = |name: &str, epochs| -> Result<Household> {
        let household = Household::new(hearth, folder.join(name));
        household.prepare_to_train(Reach::Loopback, epochs)?;
        use_ember(&household)?;
        Ok(household)
    };
    let (a, b) = (named("a", Some(EPOCHS))?, named("b", None)?);
    let (c, d) = (named("c", None)?, named("d", None)?);
    // Programs of B that have no key ask the network.
    b.edit(&[("keyless_tier = \"household\"", "keyless_tier = \"network\"")])?;
    let data = a.import_text(text, "plays", VOCABULARY)?;
    let a = Up::start_without_model("A", a)?;
    let ticket = a.household.network_ticket()?;
    say("A is up: it orders the network's chain. The others join with its ticket");
    for household in [&b, &c, &d] {
        household.join_network(&ticket)?;
    }
    let (b, c) = (
        Up::start_without_model("B", b)?,
        Up::start_without_model("C", c)?,
    );
    let mut cheating = Command::new(cheat);
    cheating
        .arg("--home")
        .arg(d.path(""))
        .arg("--hearth")
        .arg(hearth)
        .env("HEARTH_PASSPHRASE", PASSPHRASE);
    let d = Up::start_program("D", d, &mut cheating)?;
    let run = a.household.create_run(RECIPE, &data, true)?;
    for up in [&b, &c, &d] {
        up.household.join_run(&run.ticket)?;
    }
    let houses = Houses {
        a,
        b,
        c: Some(c),
        d,
    };
    let shown = houses.a.household.ask(&["run", "show", &run.id])?;
    let parameters = shown["parameters"]
        .as_u64()
        .context("a run has parameters")?;
    say(&format!(
        "A makes the run {}: {parameters} parameters from nothing, {ROUNDS} rounds. All four join it; D takes a quarter \
         of the steps, and says that it took all",
        &run.id[..8]
    ));
    Ok((houses, run))
}

/// Trains until the run has all its rounds.
pub(super) fn train(houses: &mut Houses, run: &TrainingRun) -> Result<Vec<Round>> {
    let mut told = 0;
    let mut away = None;
    let a = houses.a.household.clone();
    let rounds = a.wait_for_rounds(run, ROUNDS, LONGEST, |rounds| {
        for round in rounds.iter().skip(told) {
            tell(houses, round);
        }
        told = rounds.len();
        let done = told as u64;
        if done >= AWAY.0
            && away.is_none()
            && let Some(c) = houses.c.take()
        {
            say("C is killed (kill -9) in the middle of its work");
            away = Some(c.stop()?);
        }
        if done >= AWAY.1
            && houses.c.is_none()
            && let Some(c) = &away
        {
            houses.c = Some(Up::start_without_model("C", c.clone())?);
            say("C is back, and goes on from the newest state");
        }
        Ok(())
    })?;
    check(houses, &rounds)?;
    Ok(rounds)
}

fn tell(houses: &Houses, round: &Round) {
    let letters = |devices: &[String]| {
        let mut letters: Vec<_> = devices.iter().map(|device| houses.letter(device)).collect();
        letters.sort_unstable();
        letters.join(" ")
    };
    say(&format!(
        "round {:>2}: loss {:.3}, by {}",
        round.index,
        round.loss,
        letters(&round.trainers)
    ));
    for (index, trainer, outcome) in &round.audits {
        if outcome != "same" {
            let letter = houses.letter(trainer);
            say(&format!(
                "          {letter}'s work of round {index}, done again by A, is {outcome}: {letter} is out, and is paid nothing"
            ));
        }
    }
}

/// Checks that the scene went as it is told.
fn check(houses: &Houses, rounds: &[Round]) -> Result<()> {
    let c = houses.c.as_ref().context("C came back too late")?;
    let caught = rounds.iter().position(|round| {
        let mut audits = round.audits.iter();
        audits.any(|(_, whose, outcome)| *whose == houses.d.device && outcome == "different")
    });
    let caught = caught.context("nobody has caught D")?;
    ensure!(
        rounds[caught..]
            .iter()
            .all(|round| !round.has(&houses.d.device)),
        "D was admitted after it was caught"
    );
    let back = rounds
        .iter()
        .rev()
        .take_while(|round| round.index >= AWAY.1);
    ensure!(
        back.into_iter().any(|round| round.has(&c.device)),
        "C did not contribute after it came back"
    );
    let (first, last) = (rounds.first(), rounds.last());
    let (first, last) = (
        first.context("no rounds")?.loss,
        last.context("no rounds")?.loss,
    );
    ensure!(last < first * 0.9, "the loss was {first} and is {last}");
    Ok(())
}

/// Waits until what was earned is final, and claims it.
pub(super) fn claim(houses: &Houses, run: &TrainingRun, rounds: Vec<Round>) -> Result<Trained> {
    say("an epoch's rewards are recorded, can be challenged for a while, and are claimed");
    let (mut earned, mut contributions) = (Vec::new(), Vec::new());
    for (letter, up) in houses.all() {
        let admitted = rounds.iter().filter(|round| round.has(&up.device)).count();
        let mine = up.household.claim_all(admitted, 0, CLAIM_LONGEST)?;
        if letter == "D" {
            ensure!(mine.claimed == 0, "D was paid for work that it did not do");
        } else {
            ensure!(mine.claimed > 0, "{letter} has earned nothing");
        }
        earned.push(mine);
        contributions.push(admitted as u64);
    }
    let shown = houses.a.household.ask(&["run", "show", &run.id])?;
    let bytes = shown["contribution_bytes"].as_u64();
    Ok(Trained {
        rounds,
        contributions: contributions
            .try_into()
            .ok()
            .context("there are four households")?,
        contribution_bytes: bytes.context("a run says what a contribution takes")?,
        earned: earned
            .try_into()
            .ok()
            .context("there are four households")?,
    })
}
