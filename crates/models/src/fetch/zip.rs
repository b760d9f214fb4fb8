//! One file out of a zip archive: the list at its end is read, and the one entry.
//!
//! Stored and deflated entries of archives below 4 GiB, which is what wheels are. Format: PKWARE's APPNOTE.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::DeflateDecoder;

use super::sum::{self, Sums};
use super::{SourceError, Watch};

/// The record that ends an archive, without its comment, in bytes.
const END_BYTES: u64 = 22;

/// The longest comment after it, in bytes.
const COMMENT_BYTES_MAX: u64 = 65_535;

/// The largest list of files that is read, in bytes.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// The fixed part of an entry of the list, in bytes.
const ENTRY_BYTES: usize = 46;

/// The fixed part of what stands before a file's data, in bytes.
const LOCAL_BYTES: usize = 30;

/// A file in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    method: u16,
    packed_bytes: u64,
    bytes: u64,
    offset: u64,
}

fn broken(what: &str) -> SourceError {
    SourceError::Package(format!("{what}: fetch it again"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes the file `name` of `archive`, which must have `expected` bytes, to `target`.
pub(super) fn extract(
    archive: &Path,
    name: &str,
    expected: u64,
    target: &Path,
    watch: &Watch,
) -> Result<Sums, SourceError> {
    let mut file = File::open(archive)?;
    let entry = find(&mut file, name)?;
    if entry.bytes != expected {
        let found = entry.bytes;
        return Err(SourceError::Length { expected, found });
    }
    file.seek(SeekFrom::Start(entry.offset))?;
    let mut local = [0; LOCAL_BYTES];
    file.read_exact(&mut local)
        .map_err(|_| broken("it ends before its file"))?;
    if &local[..4] != b"PK\x03\x04" {
        return Err(broken("its list points to no file"));
    }
    let names = i64::from(u16_at(&local, 26)) + i64::from(u16_at(&local, 28));
    file.seek(SeekFrom::Current(names))?;
    let packed = BufReader::new(file).take(entry.packed_bytes);
    let sums = match entry.method {
        0 => sum::write(&mut { packed }, target, expected, watch),
        8 => sum::write(&mut DeflateDecoder::new(packed), target, expected, watch),
        other => {
            return Err(broken(&format!(
                "it is packed by the unknown method {other}"
            )));
        }
    };
    let sums = sums.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            broken("its file is damaged")
        }
        _ => SourceError::Io(error),
    })?;
    if sums.bytes != expected {
        return Err(broken("its file ends early"));
    }
    Ok(sums)
}

/// Looks for a file in the archive's list.
fn find(file: &mut File, name: &str) -> Result<Entry, SourceError> {
    let length = file.metadata()?.len();
    let tail_bytes = length.min(END_BYTES + COMMENT_BYTES_MAX);
    file.seek(SeekFrom::Start(length - tail_bytes))?;
    let mut tail = Vec::new();
    file.take(tail_bytes).read_to_end(&mut tail)?;
    let end = tail
        .windows(END_BYTES as usize)
        .rposition(|window| window.starts_with(b"PK\x05\x06"))
        .ok_or_else(|| broken("it is no zip archive"))?;
    let (list_bytes, offset) = (u32_at(&tail, end + 12), u32_at(&tail, end + 16));
    if u64::from(list_bytes) > LIST_BYTES_MAX {
        return Err(broken("its list of files is too long"));
    }
    file.seek(SeekFrom::Start(offset.into()))?;
    let mut list = Vec::new();
    file.take(list_bytes.into()).read_to_end(&mut list)?;
    entry(&list, name)
}

fn entry(mut list: &[u8], name: &str) -> Result<Entry, SourceError> {
    while list.len() >= ENTRY_BYTES && list.starts_with(b"PK\x01\x02") {
        let name_bytes = usize::from(u16_at(list, 28));
        let rest = usize::from(u16_at(list, 30)) + usize::from(u16_at(list, 32));
        let found = list.get(ENTRY_BYTES..ENTRY_BYTES + name_bytes);
        let entry = Entry {
            method: u16_at(list, 10),
            packed_bytes: u32_at(list, 20).into(),
            bytes: u32_at(list, 24).into(),
            offset: u32_at(list, 42).into(),
        };
        if found == Some(name.as_bytes()) {
            let large = [entry.packed_bytes, entry.bytes, entry.offset];
            return if large.contains(&u32::MAX.into()) {
                Err(SourceError::Package(format!(
                    "{name} in it is larger than 4 GiB"
                )))
            } else {
                Ok(entry)
            };
        }
        let next = list.get(ENTRY_BYTES + name_bytes + rest..);
        list = next.ok_or_else(|| broken("its list of files is cut off"))?;
    }
    Err(SourceError::Package(format!("there is no {name} in it")))
}
