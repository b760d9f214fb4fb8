//! Datasets: what a training run reads.
//!
//! [`import::import`] turns text and JSON lines into shards of tokens beside a Croissant manifest, whose canonical bytes give
//! the dataset its id. [`folder::Folder`] reads such a folder back and believes nothing that the manifest's hashes do not
//! cover. [`windows::draw`] says which windows of it a trainer reads in a round; trainers and validators compute the same.
//!
//! The crate knows no network, no clock and no thread of its own. Files are read and written in `documents`, `import` and
//! `folder`; everything else is a function of bytes. Parquet is not read: its readers are larger than all of this.
//!
//! spec: docs/spec/15-datasets.md

pub mod canonical;
pub mod documents;
pub mod folder;
pub mod hash;
pub mod import;
pub mod manifest;
pub mod shard;
pub mod tokenizer;
pub mod windows;
