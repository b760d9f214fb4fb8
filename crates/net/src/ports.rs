//! The ports that the network listened on last, so that an address that was handed out stays good.
//!
//! A ticket, an offer and the address books of others name a port. Where the owner named none, the
//! system chooses one, and chooses another after a crash; so the last one is written down and tried
//! first. The file is text, a socket address a line; what cannot be read is left out.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4_096;
/// The most addresses in it.
const ADDRESSES_MAX: usize = 16;

/// The addresses that were listened on last; none where there is no such file.
pub(crate) fn last(path: &Path) -> Vec<SocketAddr> {
    let is_short = fs::metadata(path).is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
    let text = is_short.then(|| fs::read_to_string(path).unwrap_or_default());
    let text = text.unwrap_or_default();
    let read = text.lines().filter_map(|line| line.trim().parse().ok());
    read.take(ADDRESSES_MAX).collect()
}

/// The same addresses to listen on, with the last port of each whose port the system chooses.
pub(crate) fn with_last(wanted: &[SocketAddr], last: &[SocketAddr]) -> Vec<SocketAddr> {
    let again = |address: &SocketAddr| {
        let before = last.iter().find(|one| one.ip() == address.ip());
        match before {
            Some(before) if address.port() == 0 => *before,
            _ => *address,
        }
    };
    wanted.iter().map(again).collect()
}

/// Writes down what is listened on, aside and then in place.
pub(crate) fn remember(path: &Path, bound: &[SocketAddr]) -> io::Result<()> {
    let text: String = bound.iter().map(|one| format!("{one}\n")).collect();
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    let aside = path.with_extension("new");
    fs::write(&aside, text)?;
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_port_is_tried_where_the_owner_named_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports");
        assert_eq!(last(&path), []);
        remember(&path, &[at("0.0.0.0:4001"), at("[::]:4002")]).unwrap();
        let before = last(&path);
        let wanted = [at("0.0.0.0:0"), at("[::]:0"), at("127.0.0.1:0")];
        let again = [at("0.0.0.0:4001"), at("[::]:4002"), at("127.0.0.1:0")];
        assert_eq!(with_last(&wanted, &before), again);
        let named = [at("0.0.0.0:9000")];
        assert_eq!(with_last(&named, &before), named);
    }

    #[test]
    fn a_damaged_file_keeps_nobody_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports");
        fs::write(&path, "nonsense\n\u{fffd}\n127.0.0.1:5000\n").unwrap();
        assert_eq!(last(&path), [at("127.0.0.1:5000")]);
        fs::write(&path, "127.0.0.1:5000\n".repeat(1_000)).unwrap();
        assert_eq!(last(&path), []);
    }
}
