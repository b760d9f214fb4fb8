//! Both hashes of a file in one reading, and copies that are hashed on the way.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Progress, SourceError, Stage, Watch};
use crate::digest::Digest;

/// How much is read at once, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// What is known of bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) bytes: u64,
    pub(crate) sha256: Digest,
    pub(crate) blake3: Digest,
}

/// Both hashes while bytes pass by.
#[derive(Debug, Default)]
pub(super) struct Summing {
    bytes: u64,
    sha256: Sha256,
    blake3: blake3::Hasher,
}

impl Summing {
    pub(super) fn update(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.sha256.update(piece);
        self.blake3.update(piece);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn finish(self) -> Sums {
        Sums {
            bytes: self.bytes,
            sha256: Digest(self.sha256.finalize().into()),
            blake3: Digest(*self.blake3.finalize().as_bytes()),
        }
    }
}

/// Hashes what is in a file.
pub(crate) fn of_file(path: &Path, watch: &Watch) -> io::Result<Sums> {
    Ok(begin(path, watch)?.finish())
}

/// Hashes what is in a file, to go on with what follows it.
pub(super) fn begin(path: &Path, watch: &Watch) -> io::Result<Summing> {
    let mut file = File::open(path)?;
    let total = file.metadata()?.len();
    let mut summing = Summing::default();
    pass(
        &mut file,
        total,
        &mut summing,
        Stage::Checking,
        watch,
        |_| Ok(()),
    )?;
    Ok(summing)
}

/// Writes at most `bytes_max` bytes of `source` to `target`, in place of what was there.
pub(super) fn write(
    source: &mut impl Read,
    target: &Path,
    bytes_max: u64,
    watch: &Watch,
) -> io::Result<Sums> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(target)?;
    let mut summing = Summing::default();
    let write = |piece: &[u8]| file.write_all(piece);
    pass(
        source,
        bytes_max,
        &mut summing,
        Stage::Extracting,
        watch,
        write,
    )?;
    file.sync_all()?;
    Ok(summing.finish())
}

fn pass(
    source: &mut impl Read,
    bytes_max: u64,
    summing: &mut Summing,
    stage: Stage,
    watch: &Watch,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut source = source.take(bytes_max);
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(&buffer[..length])?;
        summing.update(&buffer[..length]);
        watch(Progress {
            stage,
            done_bytes: summing.bytes,
            total_bytes: Some(bytes_max),
        });
    }
}

/// Copies a file that must have exactly `expected` bytes.
pub(crate) fn copy(
    source: &Path,
    target: &Path,
    expected: u64,
    watch: &Watch,
) -> Result<Sums, SourceError> {
    let mut file = File::open(source)?;
    let found = file.metadata()?.len();
    if found != expected {
        return Err(SourceError::Length { expected, found });
    }
    Ok(write(&mut file, target, expected, watch)?)
}
