//! The API keys of a data folder: made once, shown once, kept as hashes.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use hearth_environment::Environment;
use hearth_protocol::content::ContentHash;
use hearth_protocol::money::Amount;
use hearth_protocol::text::is_name;
use hearth_surface::answers::Tier;
use hearth_surface::{
    ApiKey, BUYER, Cap, KEYLESS, KEYS_MAX, KeyTable, KeyTableError, hash, secret,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::advice::Advice;
use crate::home::{Config, ConfigError, Home};

/// The name of the file in the data folder.
const FILE: &str = "api-keys.json";
/// The longest such file, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The longest name of a key, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Why nothing could be done with keys.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The file.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys make no table.
    #[error(transparent)]
    Table(#[from] KeyTableError),
    /// No key has that name.
    #[error("no API key is named {0:?}")]
    Unknown(String),
    /// What was said makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
}

impl Advice for KeysError {
    fn code(&self) -> &str {
        match self {
            Self::Io { .. } => "home_io",
            Self::Config(error) => error.code(),
            Self::Table(_) => "bad_keys",
            Self::Unknown(_) => "no_key",
            Self::Asked(_) => "bad_request",
            Self::Randomness => "no_randomness",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Io { .. } => "Check that the folder belongs to you".to_owned(),
            Self::Config(error) => error.next_step(),
            Self::Table(_) | Self::Unknown(_) => "See `hearth keys` for what there is".to_owned(),
            Self::Asked(_) => "See `hearth keys --help`".to_owned(),
            Self::Randomness => "Try again".to_owned(),
        }
    }
}

/// What a key may spend, as it is said: in whole tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredCap {
    /// The asset's name in the configuration.
    pub asset: String,
    /// For one answer.
    pub per_request: String,
    /// In one day by UTC.
    pub per_day: String,
}

/// A key as it is kept: whoever reads the file cannot ask with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// Its name.
    pub name: String,
    hash: ContentHash,
    /// How far its prompts may travel: `device`, `household` or `network`.
    pub tier: String,
    /// What it may spend; without a line only the household's own limits hold.
    pub caps: Vec<StoredCap>,
}

/// The keys of a data folder.
#[derive(Debug)]
pub struct Keys {
    home: Home,
    stored: Vec<StoredKey>,
}

impl Keys {
    /// Reads the keys of `home`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(home: &Home) -> Result<Self, KeysError> {
        let path = home.root().join(FILE);
        let io = |source| KeysError::Io {
            path: path.clone(),
            source,
        };
        let stored = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
            Ok(found) if found.len() > FILE_BYTES_MAX => {
                return Err(io(std::io::Error::other("the file is too long")));
            }
            Ok(_) => {
                let bytes = std::fs::read(&path).map_err(io)?;
                serde_json::from_slice(&bytes).map_err(|error| io(error.into()))?
            }
        };
        Ok(Self {
            home: home.clone(),
            stored,
        })
    }

    /// What is kept.
    pub fn list(&self) -> &[StoredKey] {
        &self.stored
    }

    /// Makes a key, and returns its text: it is not kept and cannot be shown again.
    ///
    /// # Errors
    /// When the name is taken, or a limit makes no sense.
    pub fn add(
        &mut self,
        name: &str,
        tier: &str,
        caps: Vec<StoredCap>,
        environment: &dyn Environment,
    ) -> Result<String, KeysError> {
        if name.len() > NAME_BYTES_MAX || !is_name(name) {
            let most = NAME_BYTES_MAX;
            return Err(KeysError::Asked(format!(
                "a key's name has 1 to {most} bytes, none of them unseen, and no space at its ends"
            )));
        }
        // Budgets and turns are kept by name: these are taken.
        if [KEYLESS, BUYER].contains(&name) {
            return Err(KeysError::Asked(format!(
                "{name:?} is what the node itself calls those who show no key; choose another name"
            )));
        }
        if self.stored.len() >= KEYS_MAX {
            return Err(KeyTableError::TooMany.into());
        }
        let random = environment.draw().map_err(|_| KeysError::Randomness)?;
        let text = secret(random);
        self.stored.push(StoredKey {
            name: name.to_owned(),
            hash: hash(&text),
            tier: tier.to_owned(),
            caps,
        });
        // What the node could not read is not written.
        self.table(&self.home.config()?)?;
        self.write()?;
        Ok(text)
    }

    /// Takes a key away.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<(), KeysError> {
        let before = self.stored.len();
        self.stored.retain(|key| key.name != name);
        if self.stored.len() == before {
            return Err(KeysError::Unknown(name.to_owned()));
        }
        self.write()
    }

    /// The keys as the surface knows them.
    ///
    /// # Errors
    /// When two are alike, or a limit makes no sense.
    pub fn table(&self, config: &Config) -> Result<KeyTable, KeysError> {
        let keys: Result<Vec<_>, _> = self.stored.iter().map(|key| key.read(config)).collect();
        Ok(KeyTable::new(keys?)?)
    }

    fn write(&self) -> Result<(), KeysError> {
        let path = self.home.root().join(FILE);
        let io = |source| KeysError::Io {
            path: path.clone(),
            source,
        };
        let json = serde_json::to_vec_pretty(&self.stored).map_err(|error| io(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(self.home.root()).map_err(io)?;
        let private = std::fs::Permissions::from_mode(0o600);
        file.as_file().set_permissions(private).map_err(io)?;
        file.write_all(&json).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&path).map_err(|error| io(error.error))?;
        Ok(())
    }
}

impl StoredKey {
    fn read(&self, config: &Config) -> Result<ApiKey, KeysError> {
        let tier = match self.tier.as_str() {
            "device" => Tier::Device,
            "household" => Tier::Household,
            "network" => Tier::Network,
            other => {
                return Err(KeysError::Asked(format!(
                    "{other:?} is no tier: device, household or network"
                )));
            }
        };
        let caps = self.caps.iter().map(|cap| cap.read(config));
        Ok(ApiKey {
            hash: self.hash,
            caps: caps.collect::<Result<_, _>>()?,
            tier,
            answers_at_once: config.api.at_once,
            ..ApiKey::new(&*self.name, "")
        })
    }
}

impl StoredCap {
    fn read(&self, config: &Config) -> Result<Cap, KeysError> {
        let (symbol, asset) = config.asset(&self.asset).ok_or_else(|| {
            KeysError::Asked(format!("the asset {:?} is not configured", self.asset))
        })?;
        let amount = |text: &str| {
            Amount::parse_decimal(text, asset.decimals)
                .map_err(|error| KeysError::Asked(format!("{text:?}: {error}")))
        };
        Ok(Cap {
            asset: asset.id,
            symbol: symbol.to_owned(),
            decimals: asset.decimals,
            per_request: amount(&self.per_request)?,
            per_day: amount(&self.per_day)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use hearth_environment::SystemEnvironment;

    use super::*;

    fn cap(per_day: &str) -> StoredCap {
        StoredCap {
            asset: "TESTUSD".to_owned(),
            per_request: "0.01".to_owned(),
            per_day: per_day.to_owned(),
        }
    }

    #[test]
    fn a_key_is_found_by_the_text_that_was_shown_and_the_file_does_not_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let mut keys = Keys::open(&home).unwrap();
        let text = keys
            .add("phone", "household", vec![cap("1")], &SystemEnvironment)
            .unwrap();
        let kept = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!kept.contains(&text));
        let again = Keys::open(&home).unwrap();
        let table = again.table(&home.config().unwrap()).unwrap();
        let found = table.find(&text).unwrap();
        assert_eq!(
            (found.name.as_str(), found.tier),
            ("phone", Tier::Household)
        );
        assert_eq!(found.caps[0].per_day, Amount::new(1_000_000));
        let mut again = again;
        again.remove("phone").unwrap();
        assert!(Keys::open(&home).unwrap().list().is_empty());
        assert_eq!(again.remove("phone").unwrap_err().code(), "no_key");
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let refused = |name: &str, tier: &str, caps: Vec<StoredCap>| {
            let mut keys = Keys::open(&home).unwrap();
            assert!(
                keys.add(name, tier, caps, &SystemEnvironment).is_err(),
                "{name} {tier}"
            );
            assert!(Keys::open(&home).unwrap().list().is_empty());
        };
        refused("", "network", Vec::new());
        refused(KEYLESS, "network", Vec::new());
        refused(BUYER, "network", Vec::new());
        refused("a", "everywhere", Vec::new());
        refused("a", "network", vec![cap("much")]);
        let unknown = StoredCap {
            asset: "EUR".to_owned(),
            ..cap("1")
        };
        refused("a", "network", vec![unknown]);
        let mut keys = Keys::open(&home).unwrap();
        keys.add("twice", "network", Vec::new(), &SystemEnvironment)
            .unwrap();
        assert!(
            keys.add("twice", "network", Vec::new(), &SystemEnvironment)
                .is_err()
        );
    }
}
