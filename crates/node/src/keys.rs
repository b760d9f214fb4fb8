//! The keys of a household: one recovery phrase, from which every other key follows.
//!
//! A household is one account on every EVM chain. Its key is derived from a BIP-39 phrase at the path that other
//! wallets use, so that the phrase alone gets everything back, also without this program. A device never signs
//! payments with that key: it has a session key of its own, derived from the same phrase and authorised by a signed
//! statement. On disk there is one encrypted file ([`Keystore`]); what it holds is usable only as [`Unlocked`].
//!
//! Deliberately absent: hardware wallets, the optional 25th word of BIP-39, and keys that do not come from the phrase.
//! Nothing here prints or logs a secret, and every type that holds one hides it from `Debug`. Implements
//! docs/spec/04-keys.md; reasons are in docs/adr/0007-keys.md.

mod authorization;
mod keystore;
mod passphrase;
mod phrase;
mod unlocked;

#[cfg(test)]
mod secrecy_tests;

pub use authorization::{AuthorizationError, DEVICE_NAME_BYTES_MAX, SessionAuthorization};
pub use keystore::{KDF_MEMORY_KIB_MAX, KEYSTORE_BYTES_MAX, KdfCost, Keystore, KeystoreError};
pub use passphrase::{PASSPHRASE_BYTES_MAX, PASSPHRASE_CHARS_MIN, Passphrase, PassphraseError};
pub use phrase::{PHRASE_BYTES_MAX, PhraseError, RecoveryPhrase, WordCount};
pub use unlocked::{DeviceIndex, DeviceIndexError, Unlocked};
