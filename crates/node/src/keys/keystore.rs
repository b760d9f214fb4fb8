//! The encrypted file that holds a household's recovery phrase.
//!
//! One JSON document: a key is derived from the passphrase with argon2id, and seals the phrase with XChaCha20-Poly1305.
//! Everything else in the file is authenticated with it. A checksum without a key lies beside the seal, so that a file
//! damaged by accident is told apart from a wrong passphrase; somebody who changes the file on purpose and mends the
//! checksum is still stopped by the seal, and then the message says "passphrase".
//!
//! The file is written whole, readable by its owner only, and never over another one, except where the same phrase is
//! sealed again with another passphrase ([`Keystore::reseal`]). Implements
//! docs/spec/04-keys.md, section 4.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, hex, keccak256};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hearth_environment::Environment;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use thiserror::Error;
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use super::phrase::RecoveryPhrase;
use super::unlocked::Unlocked;
use crate::advice::Advice;

/// The number of the format that is written and read.
const VERSION: u32 = 1;
/// The longest keystore file that is read, in bytes.
pub const KEYSTORE_BYTES_MAX: u64 = 16_384;
/// The most memory that a keystore may ask for, in KiB: a hostile file must not exhaust the machine.
pub const KDF_MEMORY_KIB_MAX: u32 = 1 << 20;
/// The most passes that a keystore may ask for.
const KDF_PASSES_MAX: u32 = 16;
/// The most lanes that a keystore may ask for.
const KDF_LANES_MAX: u32 = 16;
/// The sealed text has always this length, in bytes, so that the file does not tell how long the phrase is.
const PLAINTEXT_BYTES: usize = 256;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// The seal's length behind the ciphertext, in bytes.
const TAG_BYTES: usize = 16;
/// The only permissions the file may have.
const MODE: u32 = 0o600;

/// What it costs to try one passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl KdfCost {
    /// The second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.
    pub const STRONG: Self = Self {
        memory_kib: 1 << 16,
        passes: 3,
        lanes: 4,
    };

    /// As cheap as argon2 can be, so that tests of everything else are quick.
    #[cfg(test)]
    pub(crate) const WEAK_FOR_TESTS: Self = Self {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    fn is_acceptable(self) -> bool {
        self.memory_kib <= KDF_MEMORY_KIB_MAX
            && (1..=KDF_PASSES_MAX).contains(&self.passes)
            && (1..=KDF_LANES_MAX).contains(&self.lanes)
            && self.memory_kib >= self.lanes.saturating_mul(8)
    }
}

/// Why a keystore cannot be made, read or opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// There is one already.
    #[error("there is a keystore already at {}", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is none.
    #[error("there is no wallet yet: {} does not exist", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others on this machine may read it.
    #[error("the keystore {} has permissions {mode:04o}: others may read or change it", path.display())]
    Exposed {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It ends in the middle.
    #[error("the keystore {} is cut off", path.display())]
    Truncated {
        /// Where.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("the keystore {} is damaged: {reason}", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is in a format of another version of the program.
    #[error("the keystore {} has format {found}, and this program reads format {VERSION}", path.display())]
    OtherVersion {
        /// Where.
        path: PathBuf,
        /// The format it states.
        found: u32,
    },
    /// The passphrase does not open it.
    #[error("the passphrase does not open the keystore {}", path.display())]
    WrongPassphrase {
        /// Where.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
    /// The file cannot be read or written.
    #[error("the keystore {} cannot be read or written", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Advice for KeystoreError {
    fn code(&self) -> &str {
        match self {
            Self::Exists { .. } => "keystore_exists",
            Self::Missing { .. } => "keystore_missing",
            Self::Exposed { .. } => "keystore_exposed",
            Self::Truncated { .. } => "keystore_truncated",
            Self::Damaged { .. } => "keystore_damaged",
            Self::OtherVersion { .. } => "keystore_version",
            Self::WrongPassphrase { .. } => "wrong_passphrase",
            Self::Randomness => "no_randomness",
            Self::Io { .. } => "keystore_io",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Exists { path } => format!(
                "To replace it, move {} away first, and only when you have its recovery phrase; or use another \
                 data folder with --home",
                path.display()
            ),
            Self::Missing { .. } => {
                "Run `hearth wallet new`, or `hearth wallet recover` if you have a recovery phrase"
                    .to_owned()
            }
            Self::Exposed { path, .. } => format!("Run `chmod 600 {}`", path.display()),
            Self::Truncated { path } | Self::Damaged { path, .. } => format!(
                "Restore {0} from a copy, or move it away and run `hearth wallet recover` with your recovery phrase",
                path.display()
            ),
            Self::OtherVersion { .. } => {
                "Use the version of hearth that wrote it, or `hearth wallet recover` in another data folder"
                    .to_owned()
            }
            Self::WrongPassphrase { .. } => {
                "Try again; without the passphrase, `hearth wallet recover` in another data folder works with the \
                 recovery phrase"
                    .to_owned()
            }
            Self::Randomness => "Try again; if it persists, the system is at fault".to_owned(),
            Self::Io { path, .. } => format!(
                "Check that {} is on a working disk and belongs to you",
                path.display()
            ),
        }
    }
}

/// The file as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(with = "hearth_protocol::address")]
    household: Address,
    kdf: KdfPart,
    cipher: CipherPart,
    /// Hex of the sealed phrase with its tag.
    ciphertext: String,
    /// Hex of the keccak-256 of everything above.
    checksum: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KdfPart {
    name: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CipherPart {
    name: String,
    nonce: String,
}

const KDF_NAME: &str = "argon2id";
const CIPHER_NAME: &str = "xchacha20poly1305";

impl Document {
    /// Everything that the seal covers besides the phrase, one value a line.
    fn associated_data(&self) -> String {
        let Self {
            version,
            household,
            kdf,
            cipher,
            ..
        } = self;
        format!(
            "hearth keystore\n{version}\n{household}\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
            kdf.name, kdf.memory_kib, kdf.passes, kdf.lanes, kdf.salt, cipher.name, cipher.nonce
        )
    }

    fn expected_checksum(&self) -> String {
        let text = format!("{}\n{}", self.associated_data(), self.ciphertext);
        hex::encode(keccak256(text))
    }
}

/// A keystore that was read and is not opened.
#[derive(Debug, Clone)]
pub struct Keystore {
    path: PathBuf,
    household: Address,
    cost: KdfCost,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
    associated_data: String,
}

impl Keystore {
    /// Seals `phrase` with `passphrase` in a new file at `path`, readable by its owner only.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`] where there is a file already, which stays as it is; or what writing meets.
    pub fn create(
        path: &Path,
        phrase: RecoveryPhrase,
        passphrase: &Passphrase,
        environment: &dyn Environment,
    ) -> Result<Unlocked, KeystoreError> {
        Self::create_at_cost(path, phrase, passphrase, KdfCost::STRONG, environment)
    }

    pub(crate) fn create_at_cost(
        path: &Path,
        phrase: RecoveryPhrase,
        passphrase: &Passphrase,
        cost: KdfCost,
        environment: &dyn Environment,
    ) -> Result<Unlocked, KeystoreError> {
        if path.exists() {
            // Said before the work; the write itself refuses as well.
            return Err(KeystoreError::Exists { path: path.into() });
        }
        let unlocked = Unlocked::new(phrase);
        let document = seal(&unlocked, passphrase.as_bytes(), cost, environment)?;
        write_new(path, &document)?;
        tracing::info!(household = %unlocked.address(), path = %path.display(), "made a keystore");
        Ok(unlocked)
    }

    /// Reads the file at `path` and checks all that can be checked without the passphrase.
    ///
    /// # Errors
    /// See [`KeystoreError`].
    pub fn read(path: &Path) -> Result<Self, KeystoreError> {
        let text = read_bounded(path)?;
        let document = parse(path, &text)?;
        Self::from_document(path, document)
    }

    fn from_document(path: &Path, document: Document) -> Result<Self, KeystoreError> {
        let damaged = |reason| KeystoreError::Damaged {
            path: path.to_owned(),
            reason,
        };
        if document.checksum != document.expected_checksum() {
            return Err(damaged("its checksum does not fit its content"));
        }
        if document.kdf.name != KDF_NAME || document.cipher.name != CIPHER_NAME {
            return Err(damaged(
                "it names an algorithm that its format does not have",
            ));
        }
        let cost = KdfCost {
            memory_kib: document.kdf.memory_kib,
            passes: document.kdf.passes,
            lanes: document.kdf.lanes,
        };
        if !cost.is_acceptable() {
            return Err(damaged("it asks for an absurd amount of work or memory"));
        }
        let salt = hex::decode_to_array(&document.kdf.salt)
            .map_err(|_| damaged("its salt is not 16 bytes of hex"))?;
        let nonce = hex::decode_to_array(&document.cipher.nonce)
            .map_err(|_| damaged("its nonce is not 24 bytes of hex"))?;
        let ciphertext = hex::decode(&document.ciphertext)
            .ok()
            .filter(|bytes| bytes.len() == PLAINTEXT_BYTES + TAG_BYTES)
            .ok_or_else(|| damaged("its ciphertext does not have the length of its format"))?;
        Ok(Self {
            path: path.to_owned(),
            household: document.household,
            cost,
            salt,
            nonce,
            ciphertext,
            associated_data: document.associated_data(),
        })
    }

    /// The household's account, as the file states it. Only [`Keystore::unlock`] proves it.
    pub fn household(&self) -> Address {
        self.household
    }

    /// What one try of a passphrase costs.
    pub fn cost(&self) -> KdfCost {
        self.cost
    }

    /// Opens the keystore. Takes as long as its cost says; from async code call it on a blocking thread.
    ///
    /// # Errors
    /// [`KeystoreError::WrongPassphrase`]; [`KeystoreError::Damaged`] where the phrase inside is not the household's.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<Unlocked, KeystoreError> {
        let opened = passphrase.forms().find_map(|form| self.opened_with(form));
        let opened = opened.ok_or_else(|| KeystoreError::WrongPassphrase {
            path: self.path.clone(),
        })?;
        let damaged = |reason| KeystoreError::Damaged {
            path: self.path.clone(),
            reason,
        };
        let phrase = std::str::from_utf8(&opened)
            .ok()
            .and_then(|text| RecoveryPhrase::parse(text).ok())
            .ok_or_else(|| damaged("it was sealed around something that is no recovery phrase"))?;
        let unlocked = Unlocked::new(phrase);
        if unlocked.address() != self.household {
            return Err(damaged("it names another household than the one inside"));
        }
        tracing::debug!(household = %self.household, "opened the keystore");
        Ok(unlocked)
    }

    /// Seals what `current` opens with `new` instead, at today's cost and in today's form of a passphrase; they may be the
    /// same. What was written is read back before it takes the old one's place, so a crash leaves one of the two, whole.
    ///
    /// # Errors
    /// As [`Keystore::unlock`], and what writing meets; the old keystore stays then.
    pub fn reseal(
        &self,
        current: &Passphrase,
        new: &Passphrase,
        environment: &dyn Environment,
    ) -> Result<Self, KeystoreError> {
        self.reseal_at_cost(current, new, KdfCost::STRONG, environment)
    }

    fn reseal_at_cost(
        &self,
        current: &Passphrase,
        new: &Passphrase,
        cost: KdfCost,
        environment: &dyn Environment,
    ) -> Result<Self, KeystoreError> {
        let failed = |source| KeystoreError::Io {
            path: self.path.clone(),
            source,
        };
        let unlocked = self.unlock(current)?;
        // Where the path is a link, the file that it names is replaced, and the link stays.
        let path = self.path.canonicalize().map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let document = seal(&unlocked, new.as_bytes(), cost, environment)?;
        let file = write_beside(folder, &document).map_err(failed)?;
        let written = Self::read(file.path())?;
        if written.unlock(new)?.address() != self.household {
            return Err(KeystoreError::Damaged {
                path: file.path().to_owned(),
                reason: "it does not hold what was sealed",
            });
        }
        file.persist(&path).map_err(|error| failed(error.error))?;
        sync_folder(folder).map_err(failed)?;
        tracing::info!(household = %self.household, "sealed the keystore anew");
        Self::read(&self.path)
    }

    /// What is sealed, if these bytes open it.
    fn opened_with(&self, passphrase: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let key = derive_key(passphrase, &self.salt, self.cost);
        let payload = Payload {
            msg: &self.ciphertext,
            aad: self.associated_data.as_bytes(),
        };
        let cipher = XChaCha20Poly1305::new(key.as_slice().into());
        let opened = cipher.decrypt(XNonce::from_slice(&self.nonce), payload);
        opened.ok().map(Zeroizing::new)
    }
}

/// The key that a passphrase gives.
fn derive_key(
    passphrase: &[u8],
    salt: &[u8; SALT_BYTES],
    cost: KdfCost,
) -> Zeroizing<[u8; KEY_BYTES]> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES))
        .expect("the cost is inside the bounds of argon2");
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, key.as_mut_slice())
        .expect("salt and output have lengths that argon2 takes");
    key
}

fn seal(
    unlocked: &Unlocked,
    passphrase: &[u8],
    cost: KdfCost,
    environment: &dyn Environment,
) -> Result<Document, KeystoreError> {
    let salt: [u8; SALT_BYTES] = environment.draw().map_err(|_| KeystoreError::Randomness)?;
    let nonce: [u8; NONCE_BYTES] = environment.draw().map_err(|_| KeystoreError::Randomness)?;
    let mut document = Document {
        version: VERSION,
        household: unlocked.address(),
        kdf: KdfPart {
            name: KDF_NAME.to_owned(),
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
            salt: hex::encode(salt),
        },
        cipher: CipherPart {
            name: CIPHER_NAME.to_owned(),
            nonce: hex::encode(nonce),
        },
        ciphertext: String::new(),
        checksum: String::new(),
    };
    let mut plaintext = Zeroizing::new([b' '; PLAINTEXT_BYTES]);
    let words = unlocked.phrase().words().as_bytes();
    plaintext[..words.len()].copy_from_slice(words);
    let key = derive_key(passphrase, &salt, cost);
    let associated_data = document.associated_data();
    let payload = Payload {
        msg: plaintext.as_slice(),
        aad: associated_data.as_bytes(),
    };
    let ciphertext = XChaCha20Poly1305::new(key.as_slice().into())
        .encrypt(XNonce::from_slice(&nonce), payload)
        .expect("a text of 256 bytes can always be sealed");
    document.ciphertext = hex::encode(ciphertext);
    document.checksum = document.expected_checksum();
    Ok(document)
}

/// Writes the file whole or not at all, and never over another one.
fn write_new(path: &Path, document: &Document) -> Result<(), KeystoreError> {
    let failed = |source| KeystoreError::Io {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = write_beside(folder, document).map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| {
        if error.error.kind() == ErrorKind::AlreadyExists {
            KeystoreError::Exists {
                path: path.to_owned(),
            }
        } else {
            failed(error.error)
        }
    })?;
    sync_folder(folder).map_err(failed)
}

/// Writes a document under a name of its own, durably.
fn write_beside(folder: &Path, document: &Document) -> std::io::Result<NamedTempFile> {
    let mut text = serde_json::to_string_pretty(document).expect("strings and numbers serialise");
    text.push('\n');
    // A temporary file is made with the permissions 0600.
    let mut file = tempfile::Builder::new()
        .prefix(".keystore-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// A new name is durable only when its folder is.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

fn read_bounded(path: &Path) -> Result<String, KeystoreError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => KeystoreError::Missing { path: path.into() },
        _ => KeystoreError::Io {
            path: path.into(),
            source,
        },
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & !MODE != 0 {
        return Err(KeystoreError::Exposed {
            path: path.into(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(KEYSTORE_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let damaged = |reason| KeystoreError::Damaged {
        path: path.into(),
        reason,
    };
    if u64::try_from(bytes.len()).is_ok_and(|length| length > KEYSTORE_BYTES_MAX) {
        return Err(damaged("it is far too long"));
    }
    String::from_utf8(bytes).map_err(|_| damaged("it is not text"))
}

fn parse(path: &Path, text: &str) -> Result<Document, KeystoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let unreadable = |error: serde_json::Error| {
        if error.is_eof() {
            KeystoreError::Truncated { path: path.into() }
        } else {
            KeystoreError::Damaged {
                path: path.into(),
                reason: "it is not the JSON that was written",
            }
        }
    };
    let found = serde_json::from_str::<Versioned>(text)
        .map_err(unreadable)?
        .version;
    if found != VERSION {
        return Err(KeystoreError::OtherVersion {
            path: path.into(),
            found,
        });
    }
    serde_json::from_str(text).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use hearth_environment::SystemEnvironment;

    use super::*;

    const KNOWN: &str = "test test test test test test test test test test test junk";

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::entered(Zeroizing::new(text.to_owned())).unwrap()
    }

    fn made(folder: &Path) -> PathBuf {
        let path = folder.join("keystore.json");
        let phrase = RecoveryPhrase::parse(KNOWN).unwrap();
        let cost = KdfCost::WEAK_FOR_TESTS;
        Keystore::create_at_cost(
            &path,
            phrase,
            &passphrase("correct horse"),
            cost,
            &SystemEnvironment,
        )
        .unwrap();
        path
    }

    fn rewrite(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_wallet_opens_however_its_passphrase_is_written_and_an_old_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let forms = [
            "Käse é",
            "Ka\u{308}se e\u{301}",
            "Käse\u{a0}e\u{301}",
            "Ka\u{308}se\u{3000}é",
        ];
        let phrase = || RecoveryPhrase::parse(KNOWN).unwrap();
        let cost = KdfCost::WEAK_FOR_TESTS;
        for (number, made_with) in forms.iter().enumerate() {
            let path = folder.path().join(format!("new-{number}"));
            Keystore::create_at_cost(
                &path,
                phrase(),
                &passphrase(made_with),
                cost,
                &SystemEnvironment,
            )
            .unwrap();
            for typed in forms {
                let opened = Keystore::read(&path).unwrap().unlock(&passphrase(typed));
                assert!(opened.is_ok(), "{made_with:?} by {typed:?}");
            }
            let wrong = Keystore::read(&path).unwrap().unlock(&passphrase("Kase e"));
            assert!(wrong.is_err());
        }
        // As it was before: sealed with the bytes that were typed, composed, decomposed, or mixed.
        for (number, made_with) in forms.iter().enumerate() {
            let path = folder.path().join(format!("old-{number}"));
            let document = seal(
                &Unlocked::new(phrase()),
                made_with.as_bytes(),
                cost,
                &SystemEnvironment,
            )
            .unwrap();
            write_new(&path, &document).unwrap();
            let store = Keystore::read(&path).unwrap();
            assert!(
                store.unlock(&passphrase(made_with)).is_ok(),
                "{made_with:?}"
            );
        }
        let store = Keystore::read(&folder.path().join("old-1")).unwrap();
        assert!(
            store.unlock(&passphrase("Käse é")).is_ok(),
            "made on one system, typed on another"
        );
    }

    #[test]
    fn what_is_sealed_comes_back_with_the_passphrase_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let keystore = Keystore::read(&path).unwrap();
        let unlocked = keystore.unlock(&passphrase("correct horse")).unwrap();
        assert_eq!(unlocked.phrase().words(), KNOWN);
        assert_eq!(unlocked.address(), keystore.household());
        for wrong in ["correct hors", "Correct horse", "correct horse "] {
            let error = keystore.unlock(&passphrase(wrong)).unwrap_err();
            assert_eq!(error.code(), "wrong_passphrase");
        }
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing but the keystore stays behind");
    }

    #[test]
    fn a_keystore_takes_another_passphrase_and_an_old_form_is_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keystore.json");
        let typed = "Ka\u{308}se\u{a0}alt";
        let cost = KdfCost::WEAK_FOR_TESTS;
        let unlocked = Unlocked::new(RecoveryPhrase::parse(KNOWN).unwrap());
        let document = seal(&unlocked, typed.as_bytes(), cost, &SystemEnvironment).unwrap();
        write_new(&path, &document).unwrap();
        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();

        let old = Keystore::read(&link).unwrap();
        let normal = passphrase("K\u{e4}se alt");
        assert!(
            old.unlock(&normal).is_err(),
            "it was sealed with other bytes"
        );
        let before = std::fs::read(&path).unwrap();
        let wrong = old.reseal_at_cost(&normal, &passphrase("new one!"), cost, &SystemEnvironment);
        assert_eq!(wrong.unwrap_err().code(), "wrong_passphrase");
        assert_eq!(std::fs::read(&path).unwrap(), before);

        let same = old.reseal_at_cost(
            &passphrase(typed),
            &passphrase(typed),
            cost,
            &SystemEnvironment,
        );
        assert!(same.unwrap().unlock(&normal).is_ok(), "in the one form now");
        let again = Keystore::read(&path).unwrap();
        again
            .reseal_at_cost(&normal, &passphrase("new one!"), cost, &SystemEnvironment)
            .unwrap();
        let now = Keystore::read(&link).unwrap();
        assert_eq!(now.unlock(&normal).unwrap_err().code(), "wrong_passphrase");
        let opened = now.unlock(&passphrase("new one!")).unwrap();
        assert_eq!(opened.phrase().words(), KNOWN);
        assert!(link.is_symlink(), "only what it names was replaced");
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "nothing else stays behind");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn the_default_cost_is_the_strong_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keystore.json");
        let phrase =
            RecoveryPhrase::generate(super::super::WordCount::TwentyFour, &SystemEnvironment)
                .unwrap();
        let words = phrase.words().to_owned();
        Keystore::create(
            &path,
            phrase,
            &passphrase("correct horse"),
            &SystemEnvironment,
        )
        .unwrap();
        let keystore = Keystore::read(&path).unwrap();
        assert_eq!(keystore.cost(), KdfCost::STRONG);
        let unlocked = keystore.unlock(&passphrase("correct horse")).unwrap();
        assert_eq!(unlocked.phrase().words(), words);
    }

    #[test]
    fn a_keystore_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let before = std::fs::read(&path).unwrap();
        let phrase = RecoveryPhrase::parse(KNOWN).unwrap();
        let error = Keystore::create_at_cost(
            &path,
            phrase,
            &passphrase("another one"),
            KdfCost::WEAK_FOR_TESTS,
            &SystemEnvironment,
        )
        .unwrap_err();
        assert_eq!(error.code(), "keystore_exists");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn every_cut_is_told_from_a_wrong_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let end = text.rfind('}').unwrap();
        for length in 0..=end {
            rewrite(&path, &text[..length]);
            let error = Keystore::read(&path).unwrap_err();
            assert_eq!(error.code(), "keystore_truncated", "cut at {length}");
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let unlocked = |path: &Path| Keystore::read(path)?.unlock(&passphrase("correct horse"));
        let mut refused = 0;
        for (index, byte) in text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| byte.is_ascii_alphanumeric())
        {
            let mut changed = text.clone().into_bytes();
            changed[index] = if byte == b'7' { b'8' } else { b'7' };
            rewrite(&path, std::str::from_utf8(&changed).unwrap());
            match unlocked(&path) {
                // The case of an address is not significant, and neither is that of hex digits: but a digit for a
                // letter always is.
                Ok(_) => panic!("a change at {index} went unnoticed"),
                Err(error) => {
                    assert!(
                        ["keystore_damaged", "keystore_version", "keystore_truncated"]
                            .contains(&error.code()),
                        "{index}: {error}"
                    );
                    refused += 1;
                }
            }
        }
        assert!(
            refused > 700,
            "the whole document was tried, {refused} changes"
        );
    }

    fn change_first_byte(hex: &mut String) {
        let other = if hex.starts_with("00") { "11" } else { "00" };
        hex.replace_range(0..2, other);
    }

    #[test]
    fn a_forger_who_mends_the_checksum_meets_the_seal() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let original: Document = serde_json::from_str(&text).unwrap();
        let edits: [fn(&mut Document); 4] = [
            |d| d.household = Address::repeat_byte(9),
            |d| d.kdf.passes = 2,
            |d| change_first_byte(&mut d.kdf.salt),
            |d| change_first_byte(&mut d.ciphertext),
        ];
        for edit in edits {
            let mut forged = original.clone();
            edit(&mut forged);
            forged.checksum = forged.expected_checksum();
            rewrite(&path, &serde_json::to_string(&forged).unwrap());
            let error = Keystore::read(&path)
                .unwrap()
                .unlock(&passphrase("correct horse"));
            assert_eq!(error.unwrap_err().code(), "wrong_passphrase");
        }
    }

    #[test]
    fn absurd_files_are_refused_before_any_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let original: Document = serde_json::from_str(&text).unwrap();
        let edits: [fn(&mut Document); 6] = [
            |d| d.kdf.memory_kib = u32::MAX,
            |d| d.kdf.memory_kib = 0,
            |d| d.kdf.passes = 0,
            |d| d.kdf.passes = u32::MAX,
            |d| d.kdf.lanes = 0,
            |d| d.kdf.name = "scrypt".to_owned(),
        ];
        for edit in edits {
            let mut absurd = original.clone();
            edit(&mut absurd);
            absurd.checksum = absurd.expected_checksum();
            rewrite(&path, &serde_json::to_string(&absurd).unwrap());
            assert_eq!(
                Keystore::read(&path).unwrap_err().code(),
                "keystore_damaged"
            );
        }
        rewrite(&path, &" ".repeat(20_000));
        assert_eq!(
            Keystore::read(&path).unwrap_err().code(),
            "keystore_damaged"
        );
        rewrite(&path, &text.replace("\"version\": 1", "\"version\": 2"));
        let error = Keystore::read(&path).unwrap_err();
        assert!(matches!(
            error,
            KeystoreError::OtherVersion { found: 2, .. }
        ));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            Keystore::read(&path).unwrap_err().code(),
            "keystore_missing"
        );
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        for mode in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Keystore::read(&path).unwrap_err();
            assert_eq!(error.code(), "keystore_exposed");
            assert!(error.next_step().contains("chmod 600"));
        }
    }
}
