//! What the races have shown.

use anyhow::Result;
use serde_json::json;

use crate::contender::{
    Contender, LINKS, Link, NO_LINK, OURS, Sends, contenders, smallest_and_dense,
};
use crate::race::Race;

/// What is known of a contender on a link: a loss for each seed that is finished.
struct Shown {
    contender: Contender,
    losses: Vec<(u64, f64)>,
}

/// Prints what is finished.
pub(crate) fn print(race: &Race<'_>) -> Result<()> {
    for link in LINKS {
        let shown = shown(race, link, contenders(race, link)?)?;
        let place = format!("{} Mbit/s", link.up_mbit);
        for one in &shown {
            let name = format!("held-out loss, {place}: {}", one.contender.name);
            say(&name, one.mean(), "nats/token", &note(race, one, link)?);
        }
        let (ours, others): (Vec<_>, Vec<_>) =
            shown.iter().partition(|one| one.contender.name == OURS);
        let best = others
            .into_iter()
            .min_by(|a, b| a.mean().total_cmp(&b.mean()));
        if let ([ours], Some(best)) = (&ours[..], best) {
            let note = format!(
                "the best other, {}, less ours, by seed {:?}; target 0 or more",
                best.contender.name,
                best.less(ours)
            );
            say(
                &format!("lead, {place}"),
                mean(best.less(ours)),
                "nats/token",
                &note,
            );
        }
    }
    let pair = shown(race, NO_LINK, smallest_and_dense(race).to_vec())?;
    if let [smallest, dense] = &pair[..] {
        let note = format!(
            "{} of {:.4} less {} of {:.4}, as a share, step for step; by seed {:?}",
            smallest.contender.name,
            smallest.mean(),
            dense.contender.name,
            dense.mean(),
            smallest.less(dense)
        );
        let share = mean(smallest.less(dense)) / dense.mean();
        say(
            "gap of top-k 64 to dense averaging",
            share,
            "of the loss",
            &note,
        );
    }
    Ok(())
}

fn say(name: &str, value: f64, unit: &str, note: &str) {
    let line = json!({ "name": name, "value": value, "unit": unit, "note": note });
    println!("{line}");
}

fn shown(race: &Race<'_>, link: Link, contenders: Vec<Contender>) -> Result<Vec<Shown>> {
    let mut all = Vec::new();
    for contender in contenders {
        let mut losses = Vec::new();
        for seed in &race.size.seeds {
            let record = race.record(&contender, link, *seed)?;
            let done = record.filter(|record| record.done == record.rounds);
            let last = done.and_then(|record| record.looks.last().copied());
            losses.extend(last.map(|look| (*seed, look.loss)));
        }
        if !losses.is_empty() {
            all.push(Shown { contender, losses });
        }
    }
    Ok(all)
}

/// Says how a contender came to its loss.
fn note(race: &Race<'_>, shown: &Shown, link: Link) -> Result<String> {
    let Shown { contender, losses } = shown;
    let bytes = Link::sent_bytes(contender.sends, &race.shapes(), race.size.trainers)?;
    let round_s = race.round_s(contender, link)?;
    let rounds = (race.all_s() / round_s).floor();
    let inner = format!("{:?}", contender.method);
    let form = match contender.sends {
        Sends::Gradients => "gradients in 32 bits".to_owned(),
        Sends::Changes => "changes in 32 bits".to_owned(),
        Sends::Contributions(form) => format!("{form:?}, outer rate {}", contender.rate),
    };
    let early: Vec<String> = [0.25, 0.5]
        .into_iter()
        .filter_map(|part| {
            let record = race.record(contender, link, losses[0].0).ok()??;
            let until = part * race.all_s();
            let look = record
                .looks
                .iter()
                .rev()
                .find(|look| look.time_s <= until)?;
            Some(format!("{:.3} after {:.0} s", look.loss, look.time_s))
        })
        .collect();
    let by_seed: Vec<String> = losses
        .iter()
        .map(|(seed, loss)| format!("seed {seed} {loss:.4}"))
        .collect();
    Ok(format!(
        "{}; {:.0} s of simulated time: {rounds} rounds of {} steps of {inner}, {:.1} ms a step, {:.1} kB sent a round, \
         {:.0}% of the time computing; {form}; {}; {}",
        race.in_words(),
        race.all_s(),
        contender.steps,
        race.step_s(contender.method) * 1e3,
        bytes / 1e3,
        100.0 * f64::from(contender.steps) * race.step_s(contender.method) / round_s,
        by_seed.join(", "),
        early.join(", ")
    ))
}

impl Shown {
    fn mean(&self) -> f64 {
        mean(self.losses.iter().map(|(_, loss)| *loss))
    }

    /// The losses less those of another one, for each seed that both have.
    fn less(&self, other: &Self) -> Vec<f64> {
        let pairs = self.losses.iter().filter_map(|(seed, loss)| {
            let (_, theirs) = other.losses.iter().find(|(theirs, _)| theirs == seed)?;
            Some(loss - theirs)
        });
        pairs.collect()
    }
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}
