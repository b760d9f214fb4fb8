//! The keys of a household while its keystore is open.

use alloy_primitives::{Address, hex};
use alloy_signer_local::PrivateKeySigner;
use hearth_environment::Environment;
use thiserror::Error;
use zeroize::Zeroizing;

use super::authorization::{AuthorizationError, SessionAuthorization};
use super::phrase::RecoveryPhrase;
use crate::advice::Advice;
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChainId;
use hearth_protocol::time::Timestamp;

/// The household's account: the first account of every Ethereum wallet.
const HOUSEHOLD_PATH: &str = "m/44'/60'/0'/0/0";
/// Session keys lie beside the accounts, hardened all the way: one that leaks tells nothing about any other key.
const SESSION_PATH_PREFIX: &str = "m/44'/60'/1'/0'";
/// Seconds of a day.
const DAY_S: u64 = 24 * 60 * 60;
/// A statement begins this long ago, in seconds, so that a device whose clock is behind believes it at once.
const CLOCK_MARGIN_S: u64 = 10 * 60;

/// Which device of the household, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceIndex(u32);

/// A number that cannot count devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the device number {0} is not below 2147483648")]
pub struct DeviceIndexError(u32);

impl Advice for DeviceIndexError {
    fn code(&self) -> &str {
        "bad_device"
    }

    fn next_step(&self) -> String {
        "Number the devices of the household from 0".to_owned()
    }
}

impl DeviceIndex {
    /// Device number `index`.
    ///
    /// # Errors
    /// [`DeviceIndexError`] from 2^31 up: the upper half of BIP-32 indices marks hardened steps.
    pub fn new(index: u32) -> Result<Self, DeviceIndexError> {
        if index >= 1 << 31 {
            return Err(DeviceIndexError(index));
        }
        Ok(Self(index))
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// The open keys of a household. Everything secret is wiped when this is dropped; `Debug` shows the address only.
pub struct Unlocked {
    phrase: RecoveryPhrase,
    household: PrivateKeySigner,
}

impl Unlocked {
    pub(super) fn new(phrase: RecoveryPhrase) -> Self {
        let household = derive(&phrase, HOUSEHOLD_PATH);
        Self { phrase, household }
    }

    /// The keys behind a phrase, without any file.
    pub fn from_phrase(phrase: RecoveryPhrase) -> Self {
        Self::new(phrase)
    }

    /// The household's account.
    pub fn address(&self) -> Address {
        self.household.address()
    }

    /// The household's key: it holds the tokens, sends transactions and authorises devices.
    pub fn household(&self) -> PrivateKeySigner {
        self.household.clone()
    }

    /// The key with which one device signs vouchers and claims. It holds nothing.
    pub fn session(&self, device: DeviceIndex) -> PrivateKeySigner {
        derive(
            &self.phrase,
            &format!("{SESSION_PATH_PREFIX}/{}'", device.0),
        )
    }

    /// The key by which one device is known in the network: BLAKE3 over "hearth endpoint key", a
    /// zero byte and the device's session key. It holds nothing, and is the same again after a
    /// recovery from the phrase.
    pub fn endpoint_key(&self, device: DeviceIndex) -> Zeroizing<[u8; 32]> {
        let session = Zeroizing::new(self.session(device).to_bytes().0);
        let mut bytes = Zeroizing::new(b"hearth endpoint key\0".to_vec());
        bytes.extend_from_slice(session.as_slice());
        Zeroizing::new(ContentHash::of(&bytes).0)
    }

    /// The household's signed statement that `device`, called `name`, may act for it on `chain`.
    ///
    /// # Errors
    /// [`AuthorizationError`] for a name or a period that the statement cannot have.
    pub fn authorization(
        &self,
        chain: ChainId,
        device: DeviceIndex,
        name: &str,
        valid_after: Timestamp,
        valid_before: Timestamp,
    ) -> Result<SessionAuthorization, AuthorizationError> {
        let key = self.session(device).address();
        SessionAuthorization::sign(&self.household, chain, key, name, valid_after, valid_before)
    }

    /// As [`Unlocked::authorization`], from now and for `days` days.
    ///
    /// # Errors
    /// As [`Unlocked::authorization`].
    pub fn authorize_for_days(
        &self,
        chain: ChainId,
        device: DeviceIndex,
        name: &str,
        days: u32,
        environment: &dyn Environment,
    ) -> Result<SessionAuthorization, AuthorizationError> {
        let now_s = environment.now_ms() / 1_000;
        let period_s = u64::from(days).saturating_mul(DAY_S);
        let from = Timestamp::from_secs(now_s.saturating_sub(CLOCK_MARGIN_S));
        let until = Timestamp::from_secs(now_s.saturating_add(period_s));
        self.authorization(chain, device, name, from, until)
    }

    /// The recovery phrase, for showing it to its owner.
    pub fn phrase(&self) -> &RecoveryPhrase {
        &self.phrase
    }

    /// The household's private key in hex after `0x`, for import into another wallet.
    pub fn private_key_hex(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(self.household.to_bytes().0);
        Zeroizing::new(hex::encode_prefixed(*key))
    }
}

impl std::fmt::Debug for Unlocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unlocked({})", self.address())
    }
}

fn derive(phrase: &RecoveryPhrase, path: &str) -> PrivateKeySigner {
    // A seed for which a step of BIP-32 has no key occurs once in 2^127 (BIP-32, "Private parent key").
    let key = phrase
        .mnemonic()
        .derive_key(path, None)
        .expect("the paths of this module are valid, and a seed without a key cannot be met");
    PrivateKeySigner::from_signing_key(Clone::clone(key.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::address;

    const KNOWN: &str = "test test test test test test test test test test test junk";

    fn known() -> Unlocked {
        Unlocked::from_phrase(RecoveryPhrase::parse(KNOWN).unwrap())
    }

    #[test]
    fn the_household_is_the_account_that_other_wallets_show() {
        // The first development account of anvil and hardhat.
        assert_eq!(
            known().address(),
            address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
        );
        assert_eq!(
            *known().private_key_hex(),
            "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
        );
    }

    #[test]
    fn every_device_has_a_key_of_its_own() {
        let unlocked = known();
        let mut all = vec![unlocked.address()];
        all.extend((0..5).map(|number| {
            let device = DeviceIndex::new(number).unwrap();
            unlocked.session(device).address()
        }));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_device_number_must_fit_a_hardened_step() {
        assert!(DeviceIndex::new(1 << 31).is_err());
        assert!(DeviceIndex::new(u32::MAX).is_err());
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        derivation: Vec<Derivation>,
        authorization: Authorization,
    }

    #[derive(serde::Deserialize)]
    struct Derivation {
        phrase: String,
        key: String,
        address: Address,
    }

    #[derive(serde::Deserialize)]
    struct Authorization {
        phrase: String,
        device: u32,
        statement: SessionAuthorization,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../../../vectors/keys.json")).unwrap()
    }

    #[test]
    fn derivation_is_that_of_another_implementation() {
        let derivation = vectors().derivation;
        assert!(!derivation.is_empty());
        for vector in derivation {
            let unlocked = Unlocked::from_phrase(RecoveryPhrase::parse(&vector.phrase).unwrap());
            let address = match vector.key.strip_prefix("session ") {
                Some(number) => {
                    let device = DeviceIndex::new(number.parse().unwrap()).unwrap();
                    unlocked.session(device).address()
                }
                None => unlocked.address(),
            };
            assert_eq!(address, vector.address, "{}", vector.key);
        }
    }

    #[test]
    fn an_authorization_is_that_of_another_implementation() {
        let vector = vectors().authorization;
        let unlocked = Unlocked::from_phrase(RecoveryPhrase::parse(&vector.phrase).unwrap());
        let statement = &vector.statement;
        let ours = unlocked.authorization(
            statement.chain,
            DeviceIndex::new(vector.device).unwrap(),
            &statement.device,
            Timestamp::from_secs(statement.valid_after_s),
            Timestamp::from_secs(statement.valid_before_s),
        );
        assert_eq!(ours.as_ref(), Ok(statement));
        let inside = Timestamp::from_secs(statement.valid_after_s + 1);
        assert_eq!(statement.verify(inside), Ok(()));
    }
}
