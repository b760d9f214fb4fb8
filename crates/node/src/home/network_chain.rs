//! The chain of a data folder whose configuration names none: its own, or the one that it joined by a ticket.
//!
//! Which one it is stands in a file of its own, not in `config.toml`, which is the owner's, and not in a store, because commands
//! ask it while the node has the stores. It is replaced as a whole and synced before anybody is told, so that a kill
//! loses nothing. Each device's own chain has an id drawn at random, so that nothing signed for one chain holds on
//! another, and the books of two chains are never taken for those of one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hearth_chain::embedded::{DEFAULT_CHAIN_ID, OWN_CHAIN_IDS, is_embedded_id};
use hearth_environment::Environment;
use hearth_net::PeerAddress;
use hearth_protocol::id::ChainId;
use serde::{Deserialize, Serialize};

/// The store of this device's own chain.
const STORE: &str = "chain.redb";
/// The longest such file, in bytes.
const FILE_BYTES_MAX: u64 = 16_384;

/// Which chain a data folder uses whose configuration names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkChain {
    root: PathBuf,
    stored: Stored,
}

/// A chain that another device runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedChain {
    /// Its EIP-155 id, which only an embedded chain can have.
    pub chain_id: u64,
    /// The device that runs it, and where it was when it was joined.
    pub host: PeerAddress,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// The id of this device's own chain, whether it was made or not.
    own: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    joined: Option<JoinedChain>,
}

impl Stored {
    fn is_sound(&self) -> bool {
        let joined =
            |joined: &JoinedChain| is_embedded_id(joined.chain_id) && joined.host.is_sound();
        self.joined.as_ref().is_none_or(joined)
    }
}

impl NetworkChain {
    /// The name of the file in the data folder.
    pub const FILE: &'static str = "chain.json";

    /// Reads which chain the data folder at `root` uses. An id for a chain of its own is drawn the first time.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is damaged.
    pub fn of(root: &Path, environment: &dyn Environment) -> io::Result<Self> {
        let stored = match read(&root.join(Self::FILE))? {
            Some(stored) => stored,
            None => {
                let own = if root.join(STORE).exists() {
                    // A chain that an earlier version made; it says its id when it is opened.
                    DEFAULT_CHAIN_ID
                } else {
                    drawn_id(environment)?
                };
                let stored = Stored { own, joined: None };
                write(root, &stored, false)?;
                // Two commands may be the first at once: what is there now holds for both.
                read(&root.join(Self::FILE))?.unwrap_or(stored)
            }
        };
        let root = root.to_owned();
        Ok(Self { root, stored })
    }

    /// Stands for the chain of any folder, where a text is only checked.
    pub(crate) fn any() -> Self {
        let own = OWN_CHAIN_IDS.start;
        let stored = Stored { own, joined: None };
        let root = PathBuf::new();
        Self { root, stored }
    }

    /// The data folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The chain that is used.
    pub fn id(&self) -> ChainId {
        let joined = self.stored.joined.as_ref();
        ChainId(joined.map_or(self.stored.own, |joined| joined.chain_id))
    }

    /// Whether the chain is there: it was joined, or this device has made it.
    pub fn is_there(&self) -> bool {
        self.stored.joined.is_some() || self.root.join(STORE).exists()
    }

    /// The chain of this device's own, which it may run for others while it uses another.
    pub fn own(&self) -> ChainId {
        ChainId(self.stored.own)
    }

    /// The chain that it joined, if it did.
    pub fn joined(&self) -> Option<&JoinedChain> {
        self.stored.joined.as_ref()
    }

    /// Uses the chain of another device from now on, or its own again.
    ///
    /// # Errors
    /// When the file cannot be written, or the chain is none that a device runs.
    pub fn join(&mut self, joined: Option<JoinedChain>) -> io::Result<()> {
        self.replace(Stored {
            own: self.stored.own,
            joined,
        })
    }

    /// Notes the id of the chain that this device has made.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_own(&mut self, chain: ChainId) -> io::Result<()> {
        if self.stored.own == chain.0 {
            return Ok(());
        }
        self.replace(Stored {
            own: chain.0,
            joined: self.stored.joined.clone(),
        })
    }

    fn replace(&mut self, stored: Stored) -> io::Result<()> {
        if !stored.is_sound() {
            return Err(damaged("it names a chain that no device runs"));
        }
        write(&self.root, &stored, true)?;
        self.stored = stored;
        Ok(())
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn drawn_id(environment: &dyn Environment) -> io::Result<u64> {
    let random = environment.draw_u64().map_err(io::Error::other)?;
    let count = OWN_CHAIN_IDS.end - OWN_CHAIN_IDS.start;
    Ok(OWN_CHAIN_IDS.start + random % count)
}

fn read(path: &Path) -> io::Result<Option<Stored>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let stored: Option<Stored> = (length <= FILE_BYTES_MAX)
        .then(|| serde_json::from_slice(&bytes).ok())
        .flatten();
    let sound = stored.filter(Stored::is_sound);
    let sound = sound.ok_or_else(|| damaged("it is damaged; move it away to begin anew"))?;
    Ok(Some(sound))
}

/// Writes the file whole and synced, or not at all. `replaces` says whether one that is there gives way.
fn write(root: &Path, stored: &Stored, replaces: bool) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(stored)?;
    let mut file = tempfile::NamedTempFile::new_in(root)?;
    file.write_all(&json)?;
    file.as_file().sync_all()?;
    let path = root.join(NetworkChain::FILE);
    let kept = if replaces {
        file.persist(&path).map(drop)
    } else {
        file.persist_noclobber(&path).map(drop)
    };
    match kept {
        Ok(()) => {}
        Err(error) if !replaces && error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error),
    }
    // Where folders can be synced the name is durable now; elsewhere the system sees to it.
    if let Ok(folder) = File::open(root) {
        drop(folder.sync_all());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hearth_protocol::offer::DeviceId;

    use hearth_environment::SystemEnvironment;

    use super::*;

    fn joined(chain_id: u64) -> JoinedChain {
        // A point of the curve: the base point of Ed25519.
        let mut key = [0x66; 32];
        key[0] = 0x58;
        let mut host = PeerAddress::of(DeviceId(key));
        host.direct.push("192.0.2.7:4041".parse().unwrap());
        JoinedChain { chain_id, host }
    }

    #[test]
    fn a_folder_keeps_the_id_that_it_drew_and_another_folder_draws_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = NetworkChain::of(one.path(), &SystemEnvironment).unwrap();
        assert!(OWN_CHAIN_IDS.contains(&first.id().0));
        assert_eq!(
            NetworkChain::of(one.path(), &SystemEnvironment).unwrap(),
            first
        );
        assert_ne!(
            NetworkChain::of(other.path(), &SystemEnvironment)
                .unwrap()
                .id(),
            first.id()
        );
        // A chain that an earlier version made has the usual id.
        let old = tempfile::tempdir().unwrap();
        std::fs::write(old.path().join(STORE), "").unwrap();
        let old = NetworkChain::of(old.path(), &SystemEnvironment).unwrap();
        assert_eq!(old.id().0, DEFAULT_CHAIN_ID);
    }

    #[test]
    fn what_was_joined_is_read_back_and_own_comes_back_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = NetworkChain::of(folder.path(), &SystemEnvironment).unwrap();
        let own = chain.id();
        let there = joined(OWN_CHAIN_IDS.end - 1);
        chain.join(Some(there.clone())).unwrap();
        let read = NetworkChain::of(folder.path(), &SystemEnvironment).unwrap();
        assert_eq!((read.id().0, read.own()), (there.chain_id, own));
        assert_eq!(read.joined(), Some(&there));
        chain.join(None).unwrap();
        assert_eq!(
            NetworkChain::of(folder.path(), &SystemEnvironment)
                .unwrap()
                .id(),
            own
        );
    }

    #[test]
    fn a_public_chain_is_never_joined_and_a_damaged_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = NetworkChain::of(folder.path(), &SystemEnvironment).unwrap();
        for public in [1, 8_453, 11_155_111] {
            assert!(chain.join(Some(joined(public))).is_err(), "{public}");
        }
        let path = folder.path().join(NetworkChain::FILE);
        let before = std::fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            before.replace("own", "won"),
            " ".repeat(20_000),
            format!(
                "{{\"own\":1,\"joined\":{}}}",
                serde_json::to_string(&joined(1)).unwrap()
            ),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(NetworkChain::of(folder.path(), &SystemEnvironment).is_err());
        }
    }
}
