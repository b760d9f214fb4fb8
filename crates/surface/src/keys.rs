//! API keys: who may ask, for what, and how much it may cost.
//!
//! A key is a text of 256 random bits that only its holder has; what is kept is its hash, so that
//! whoever reads the table cannot use it. A pure table: drawing the randomness and keeping the
//! keys on disk is done by the node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use hearth_protocol::content::ContentHash;
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::answers::Tier;

/// What every key of this node begins with.
pub const KEY_PREFIX: &str = "hearth-";
/// Under which name programs of this machine ask that show no key.
pub const KEYLESS: &str = "this machine";
/// Under which name those ask who pay for each answer.
pub const BUYER: &str = "sold";
/// Under which name the owner's own commands ask.
pub const OWNER: &str = "the owner";
/// The most keys in a table.
pub const KEYS_MAX: usize = 1_024;
/// How many answers a key may have at once, unless it says otherwise.
pub const ANSWERS_AT_ONCE: u32 = 96;
/// The longest key that is looked at, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// How much a key may spend in one asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// The asset.
    pub asset: AssetId,
    /// The name that the configuration gives it, for people.
    pub symbol: String,
    /// Digits behind the point of a whole token.
    pub decimals: u8,
    /// For one answer.
    pub per_request: Amount,
    /// From midnight to midnight, UTC.
    pub per_day: Amount,
}

/// Someone who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name; answers and budgets are kept under it.
    pub name: String,
    /// The hash of its text, by [`hash`].
    pub hash: ContentHash,
    /// What it may spend; only the household's own limits where there is none.
    pub caps: Vec<Cap>,
    /// How far its prompts may travel.
    pub tier: Tier,
    /// The models that it may ask; all if nothing is said.
    pub models: Option<BTreeSet<String>>,
    /// How many answers it may have at once.
    pub answers_at_once: u32,
}

impl ApiKey {
    /// A key without limits of its own.
    pub fn new(name: impl Into<String>, secret: &str) -> Self {
        Self {
            name: name.into(),
            hash: hash(secret),
            caps: Vec::new(),
            tier: Tier::Network,
            models: None,
            answers_at_once: ANSWERS_AT_ONCE,
        }
    }

    /// Whether it may ask `model`.
    pub fn allows(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.contains(model))
    }
}

/// A key's text, made of randomness.
pub fn secret(random: [u8; 32]) -> String {
    format!("{KEY_PREFIX}{}", alloy_primitives::hex::encode(random))
}

/// What is kept of a key's text. A fast hash serves, because a key is random and cannot be guessed.
pub fn hash(secret: &str) -> ContentHash {
    ContentHash::of(&[b"hearth api key\0", secret.as_bytes()].concat())
}

/// Why keys make no table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyTableError {
    /// Too many.
    #[error("there are more than {KEYS_MAX} API keys; remove some")]
    TooMany,
    /// Two of the same name.
    #[error("two API keys are named {0:?}; give each a name of its own")]
    SameName(String),
    /// Two of the same text.
    #[error("the API keys {0:?} and {1:?} are the same; make one of them anew")]
    SameKey(String, String),
}

/// Those who may ask.
#[derive(Debug, Clone, Default)]
pub struct KeyTable {
    by_hash: HashMap<ContentHash, Arc<ApiKey>>,
}

impl KeyTable {
    /// A table of some keys.
    ///
    /// # Errors
    /// When two are alike, or there are too many.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Result<Self, KeyTableError> {
        let mut table = Self::default();
        let mut names = BTreeSet::new();
        for key in keys {
            if table.by_hash.len() == KEYS_MAX {
                return Err(KeyTableError::TooMany);
            }
            if !names.insert(key.name.clone()) {
                return Err(KeyTableError::SameName(key.name));
            }
            let name = key.name.clone();
            if let Some(other) = table.by_hash.insert(key.hash, Arc::new(key)) {
                return Err(KeyTableError::SameKey(other.name.clone(), name));
            }
        }
        Ok(table)
    }

    /// Who holds this text.
    pub fn find(&self, secret: &str) -> Option<Arc<ApiKey>> {
        if secret.len() > KEY_BYTES_MAX {
            return None;
        }
        self.by_hash.get(&hash(secret)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_text_only() {
        let (mine, yours) = (secret([1; 32]), secret([2; 32]));
        let table = KeyTable::new([ApiKey::new("mine", &mine)]).unwrap();
        assert_eq!(table.find(&mine).unwrap().name, "mine");
        assert!(table.find(&yours).is_none());
        assert!(table.find("").is_none());
        assert!(table.find(&"x".repeat(KEY_BYTES_MAX + 1)).is_none());
        let kept = format!("{table:?}");
        assert!(!kept.contains(&mine), "the text itself is not kept");
    }

    #[test]
    fn keys_that_are_alike_are_refused() {
        let (one, other) = (secret([1; 32]), secret([2; 32]));
        let names = [ApiKey::new("a", &one), ApiKey::new("a", &other)];
        let error = KeyTable::new(names).unwrap_err();
        assert_eq!(error, KeyTableError::SameName("a".to_owned()));
        let texts = [ApiKey::new("a", &one), ApiKey::new("b", &one)];
        let error = KeyTable::new(texts).unwrap_err();
        assert_eq!(error, KeyTableError::SameKey("a".into(), "b".into()));
        let many = (0..=KEYS_MAX).map(|i| ApiKey::new(i.to_string(), &i.to_string()));
        assert_eq!(KeyTable::new(many).unwrap_err(), KeyTableError::TooMany);
    }

    #[test]
    fn a_key_asks_the_models_that_it_names() {
        let mut key = ApiKey::new("a", "secret");
        assert!(key.allows("any"));
        key.models = Some(BTreeSet::from(["this".to_owned()]));
        assert!(key.allows("this") && !key.allows("any"));
    }
}
