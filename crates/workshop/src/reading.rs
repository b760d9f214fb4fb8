//! The windows of a run: which ones a trainer reads in a round, and their tokens (spec: 16 runs, section 2.2).

use std::path::PathBuf;

use hearth_datasets::folder::{Folder, FolderError, WhichPart};
use hearth_datasets::hash::Hash32;
use hearth_datasets::windows::{WindowError, WindowSeed, Windowed, draw};
use thiserror::Error;

use crate::settings::Settings;

/// A dataset of the run, and what is known of it without reading it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) root: PathBuf,
    pub(crate) training: Windowed,
    pub(crate) held_out: Windowed,
}

/// Why windows cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadingError {
    /// A dataset's folder.
    #[error("dataset {dataset} cannot be read")]
    Folder {
        /// Which.
        dataset: Hash32,
        /// Why.
        #[source]
        source: Box<FolderError>,
    },
    /// Windows that cannot be drawn.
    #[error("the windows of the round cannot be drawn")]
    Draw(#[from] WindowError),
}

/// A window: of which dataset, and which one of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WindowPlace {
    pub(crate) dataset: usize,
    pub(crate) window: u64,
}

/// Returns the windows of the first `steps` steps of a round, in the order in which they are read.
pub(crate) fn drawn(
    settings: &Settings,
    sources: &[Source],
    seed: &WindowSeed,
    steps: u32,
) -> Result<Vec<WindowPlace>, WindowError> {
    let a_step = u64::from(settings.manifest.inner.windows);
    let begin = seed.round * settings.manifest.round_bounds().windows;
    let numbers = begin..begin + u64::from(steps) * a_step;
    let turns: Vec<usize> = numbers.map(|n| settings.mixture.dataset(n)).collect();
    let draws = sources.iter().enumerate().map(|(dataset, source)| {
        let count = turns.iter().filter(|turn| **turn == dataset).count();
        let count = u32::try_from(count).expect("a round reads few windows");
        Ok(draw(&source.training, seed, count)?.into_iter())
    });
    let mut draws = draws.collect::<Result<Vec<_>, WindowError>>()?;
    let places = turns.into_iter().map(|dataset| {
        let window = draws[dataset].next();
        let window = window.expect("as many were drawn as have their turn");
        WindowPlace { dataset, window }
    });
    Ok(places.collect())
}

/// Returns the windows on which everybody measures.
pub(crate) fn held_out(settings: &Settings, sources: &[Source]) -> Vec<WindowPlace> {
    let mut next = vec![0; sources.len()];
    let numbers = 0..u64::from(settings.manifest.evaluation.windows);
    let places = numbers.map(|number| {
        let dataset = settings.mixture.dataset(number);
        let window = next[dataset];
        next[dataset] += 1;
        WindowPlace { dataset, window }
    });
    places.collect()
}

/// Reads windows, one behind the other. They are read in the order in which they lie, so that each shard is read once.
pub(crate) fn tokens(
    sources: &[Source],
    part: WhichPart,
    places: &[WindowPlace],
) -> Result<Vec<u32>, ReadingError> {
    let Some(first) = places.first() else {
        return Ok(Vec::new());
    };
    let window_tokens = sources[first.dataset].training.window_tokens;
    let length = window_tokens as usize + 1;
    let mut tokens = vec![0; places.len() * length];
    let mut order: Vec<(WindowPlace, usize)> = places
        .iter()
        .enumerate()
        .map(|(at, place)| (*place, at))
        .collect();
    order.sort_unstable();
    for of_one in order.chunk_by(|(a, _), (b, _)| a.dataset == b.dataset) {
        let source = &sources[of_one[0].0.dataset];
        let dataset = source.training.dataset;
        let failed = |source| ReadingError::Folder {
            dataset,
            source: Box::new(source),
        };
        let mut folder = Folder::open_as(&source.root, dataset).map_err(failed)?;
        for (place, at) in of_one {
            let window = folder.window(part, window_tokens, place.window);
            tokens[at * length..(at + 1) * length].copy_from_slice(&window.map_err(failed)?);
        }
    }
    Ok(tokens)
}
