//! The text: imported once as any dataset is, then held in memory.

use std::path::Path;

use anyhow::{Context, Result};
use hearth_datasets::folder::{Folder, WhichPart};
use hearth_datasets::import::{Import, TokenizerChoice, import};
use hearth_datasets::manifest::Label;
use hearth_datasets::windows::{WindowSeed, Windowed, draw};

use crate::Size;

/// Windows of tokens.
pub(crate) struct Text {
    windowed: Windowed,
    training: Vec<Vec<u32>>,
    /// Windows that nobody trains on, one behind the other.
    pub(crate) held_out: Vec<u32>,
    /// Tokens that there are to train on.
    pub(crate) tokens: u64,
}

impl Text {
    /// Reads the dataset of `files`, which is made in the folder `keep` if it is not there yet.
    pub(crate) fn open(files: &Path, keep: &Path, size: &Size) -> Result<Self> {
        let root = keep.join(format!("data-{}", size.vocabulary));
        if !root.is_dir() {
            let label = Label {
                name: "plays".to_owned(),
                description: "Plays of the bench".to_owned(),
                license: "CC0-1.0".to_owned(),
                ..Label::default()
            };
            let tokenizer = TokenizerChoice::Train(size.vocabulary);
            let order = Import::of(vec![files.to_owned()], label, tokenizer);
            import(&order, &root, &mut |_| {}).context("the text cannot be imported")?;
        }
        let mut folder = Folder::open(&root)?;
        let windowed = folder.windowed(WhichPart::Training, size.window_tokens);
        let count = windowed.count()?;
        let training = (0..count)
            .map(|window| folder.window(WhichPart::Training, size.window_tokens, window))
            .collect::<Result<_, _>>()?;
        let mut held_out = Vec::new();
        for window in 0..size.held_out as u64 {
            held_out.extend(folder.window(WhichPart::HeldOut, size.window_tokens, window)?);
        }
        Ok(Self {
            windowed,
            training,
            held_out,
            tokens: windowed.tokens,
        })
    }

    /// Draws the windows that a trainer reads in a round, as in a run.
    pub(crate) fn drawn(&self, seed: u64, trainer: u8, round: u32, count: u32) -> Result<Vec<u32>> {
        let mut beacon = [0; 32];
        beacon[..4].copy_from_slice(&round.to_le_bytes());
        let mut run = [0; 32];
        run[..8].copy_from_slice(&seed.to_le_bytes());
        let seed = WindowSeed {
            beacon,
            run,
            trainer: [trainer; 32],
            round: round.into(),
        };
        let drawn = draw(&self.windowed, &seed, count)?;
        let windows = drawn.into_iter().map(|window| {
            let window = usize::try_from(window).expect("the text is in memory");
            self.training[window].as_slice()
        });
        Ok(windows.collect::<Vec<_>>().concat())
    }
}
