//! What was computed, in files: measured losses, and what a race needs to go on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hearth_training::Moments;
use serde::{Deserialize, Serialize};

/// The folder.
pub(crate) struct Keep {
    folder: PathBuf,
}

/// What was found at some time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Look {
    /// Rounds until then.
    pub(crate) round: u32,
    /// Simulated seconds until then.
    pub(crate) time_s: f64,
    /// Held-out loss, in nats a token.
    pub(crate) loss: f64,
}

/// A race of one contender, on one link with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// All settings on which it depends, in words.
    pub(crate) settings: String,
    /// Rounds that it has.
    pub(crate) rounds: u32,
    /// Rounds that are done.
    pub(crate) done: u32,
    /// What was found.
    pub(crate) looks: Vec<Look>,
}

/// What a trainer keeps from round to round.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// Its optimizer's moments.
    pub(crate) moments: Moments,
    /// What it has not sent yet; nothing where all is sent.
    pub(crate) residuals: Vec<Vec<f32>>,
}

/// Everything on which later rounds depend.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The shared weights.
    pub(crate) weights: Vec<f32>,
    /// The outer momentum's velocity; nothing where there is none.
    pub(crate) velocity: Vec<f32>,
    /// One for each trainer.
    pub(crate) own: Vec<Own>,
}

impl Keep {
    /// Opens the folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Whether somebody wants it to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.folder.join("stop").exists()
    }

    /// Returns where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the seconds that a step takes of each kind, as they were measured for this size; `measure` is asked once.
    pub(crate) fn speeds(
        &self,
        size: &str,
        measure: impl FnOnce() -> Result<[f64; 2]>,
    ) -> Result<[f64; 2]> {
        let path = self.folder.join("speeds.json");
        let mut all: BTreeMap<String, [f64; 2]> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(_) => BTreeMap::new(),
        };
        if let Some(speeds) = all.get(size) {
            return Ok(*speeds);
        }
        let speeds = measure()?;
        all.insert(size.to_owned(), speeds);
        replace(&path, &serde_json::to_vec_pretty(&all)?)?;
        Ok(speeds)
    }

    /// Returns what is known of a race with these settings; of one with others, nothing.
    pub(crate) fn record(&self, name: &str, settings: &str) -> Result<Option<Record>> {
        let Ok(bytes) = fs::read(self.path(name, "json")) else {
            return Ok(None);
        };
        let record: Record = serde_json::from_slice(&bytes)?;
        Ok((record.settings == settings).then_some(record))
    }

    /// Writes a race down: the state first, so that the record never says more than there is.
    pub(crate) fn write(&self, name: &str, record: &Record, state: &State) -> Result<()> {
        replace(&self.path(name, "state"), &bytes_of(record.done, state))?;
        replace(
            &self.path(name, "json"),
            &serde_json::to_vec_pretty(record)?,
        )
    }

    /// Reads the state into one of the same form; whether it is that of round `done`.
    pub(crate) fn read_into(&self, name: &str, done: u32, state: &mut State) -> Result<bool> {
        let bytes = fs::read(self.path(name, "state")).context("a race's state is missing")?;
        let mut numbers = bytes.chunks_exact(4).map(|four| {
            let four = four.try_into().expect("chunks of four");
            u32::from_le_bytes(four)
        });
        let same = numbers.next() == Some(done);
        let mut fill = |room: &mut [f32]| -> Result<()> {
            for value in room {
                *value = f32::from_bits(numbers.next().context("a race's state is cut off")?);
            }
            Ok(())
        };
        fill(&mut state.weights)?;
        fill(&mut state.velocity)?;
        for own in &mut state.own {
            let mut steps = [0.0];
            fill(&mut steps)?;
            own.moments.steps = steps[0].to_bits().into();
            fill(&mut own.moments.first)?;
            fill(&mut own.moments.second)?;
            own.residuals
                .iter_mut()
                .try_for_each(|values| fill(values))?;
        }
        ensure!(numbers.next().is_none(), "a race's state is too long");
        Ok(same)
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        let plain = |letter: char| {
            if letter.is_alphanumeric() {
                letter
            } else {
                '-'
            }
        };
        let name: String = name.chars().map(plain).collect();
        self.folder.join(format!("{name}.{ending}"))
    }
}

fn bytes_of(done: u32, state: &State) -> Vec<u8> {
    let mut bytes = done.to_le_bytes().to_vec();
    let mut put = |values: &[f32]| {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    put(&state.weights);
    put(&state.velocity);
    for own in &state.own {
        let steps = u32::try_from(own.moments.steps).expect("a race has few steps");
        put(&[f32::from_bits(steps)]);
        put(&own.moments.first);
        put(&own.moments.second);
        own.residuals.iter().for_each(|values| put(values));
    }
    bytes
}

/// Writes a file aside and renames it, so that a killed program leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, bytes)?;
    fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}
