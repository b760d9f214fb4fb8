//! The datasets of runs: in a folder each, brought from a folder of the owner's, or fetched from those who take part.
//!
//! A dataset's folder is made aside and renamed, so that one that is there is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_datasets::folder::{Folder, FolderError, MANIFEST_FILE};
use hearth_datasets::hash::{FileSeal, Hash32};
use hearth_datasets::manifest::{MANIFEST_BYTES_MAX, Manifest, TOKENIZER_FILE, shard_path};
use hearth_protocol::content::ContentHash;
use thiserror::Error;

use super::depot::{Depot, DepotError, Length};

/// Why a dataset is not here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum DataError {
    /// It was not fetched.
    #[error(transparent)]
    Depot(#[from] DepotError),
    /// It is not what it should be.
    #[error("a dataset of the run cannot be used")]
    Folder(#[from] FolderError),
    /// The disk.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DataError {
    /// Whether the same may be tried again later.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Depot(DepotError::Fetch { .. }))
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> DataError {
    move |source| DataError::Write {
        path: path.to_owned(),
        source,
    }
}

/// The files of a dataset beside its manifest, where they stand in its folder.
fn files(manifest: &Manifest) -> impl Iterator<Item = (String, FileSeal)> {
    let shards = manifest
        .training
        .shards
        .iter()
        .chain(&manifest.held_out.shards);
    let shards = shards.map(|seal| (shard_path(&seal.blake3), *seal));
    std::iter::once((TOKENIZER_FILE.to_owned(), manifest.tokenizer)).chain(shards)
}

/// Sees that a dataset is below `datasets`, and gives it to others too.
pub(crate) async fn dataset(
    depot: &Depot,
    datasets: &Path,
    id: ContentHash,
) -> Result<PathBuf, DataError> {
    let folder = datasets.join(id.to_string());
    if !folder.is_dir() {
        fetch(depot, datasets, id, &folder).await?;
    }
    let found = Folder::open_as(&folder, Hash32(id.0))?;
    let manifest = folder.join(MANIFEST_FILE);
    depot
        .get_to(
            id,
            Length::AtMost(MANIFEST_BYTES_MAX as u64),
            None,
            &manifest,
        )
        .await?;
    for (path, seal) in files(found.manifest()) {
        let length = Length::Exactly(seal.bytes);
        let name = ContentHash(seal.blake3.0);
        depot.get_to(name, length, None, &folder.join(path)).await?;
    }
    Ok(folder)
}

async fn fetch(
    depot: &Depot,
    datasets: &Path,
    id: ContentHash,
    folder: &Path,
) -> Result<(), DataError> {
    let aside = datasets.join(format!("{id}.part"));
    let shards = aside.join("shards");
    fs::create_dir_all(&shards).map_err(failed(&shards))?;
    let most = Length::AtMost(MANIFEST_BYTES_MAX as u64);
    let manifest = aside.join(MANIFEST_FILE);
    if !manifest.is_file() {
        depot.fetch(id, most, None, &manifest).await?;
    }
    let found = Folder::open_as(&aside, Hash32(id.0))?;
    for (path, seal) in files(found.manifest()) {
        let length = Length::Exactly(seal.bytes);
        let name = ContentHash(seal.blake3.0);
        let to = aside.join(path);
        if !to.is_file() {
            depot.fetch(name, length, None, &to).await?;
        }
    }
    fs::rename(&aside, folder).map_err(failed(folder))
}

/// Copies a dataset from a folder of the owner's to where runs read it, and returns its id.
pub(crate) fn bring(from: &Path, datasets: &Path) -> Result<ContentHash, DataError> {
    let found = Folder::open(from)?;
    found.verify(&mut |_| ())?;
    let id = ContentHash(found.id().0);
    let folder = datasets.join(id.to_string());
    if folder.is_dir() {
        return Ok(id);
    }
    let aside = datasets.join(format!("{id}.part"));
    let shards = aside.join("shards");
    fs::create_dir_all(&shards).map_err(failed(&shards))?;
    let manifest = std::iter::once(MANIFEST_FILE.to_owned());
    for path in manifest.chain(files(found.manifest()).map(|(path, _)| path)) {
        let to = aside.join(&path);
        fs::copy(from.join(&path), &to).map_err(failed(&to))?;
    }
    fs::rename(&aside, &folder).map_err(failed(&folder))?;
    Ok(id)
}
