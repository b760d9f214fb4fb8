//! The length and hashes of a file, taken without holding it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hearth_datasets::hash::{FileSeal, Hash32};
use sha2::{Digest, Sha256};

/// Bytes that are hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Returns what a manifest says of a file.
///
/// # Errors
/// When the file cannot be read.
pub fn seal_file(path: &Path) -> io::Result<FileSeal> {
    let mut file = File::open(path)?;
    let mut blake3 = blake3::Hasher::new();
    let mut sha256 = Sha256::new();
    let mut bytes = 0;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        blake3.update(&piece[..length]);
        sha256.update(&piece[..length]);
        bytes += length as u64;
    }
    Ok(FileSeal {
        blake3: Hash32(*blake3.finalize().as_bytes()),
        sha256: Hash32(sha256.finalize().into()),
        bytes,
    })
}
