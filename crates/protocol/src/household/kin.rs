//! The proof that a device holds the key of a household's account, for another that holds it too.
//!
//! Devices with one phrase have one account and find each other by their offers; but anybody can
//! offer in the name of any household. So the one that asks proves first that it has the key, in a
//! way that says nothing to one that has not, and that is of no use for any other two devices.

use serde::{Deserialize, Serialize};

use crate::content::ContentHash;
use crate::offer::DeviceId;

const DOMAIN: &[u8] = b"hearth household kin\0";

/// BLAKE3 over "hearth household kin", a zero byte, the account's secret key, the asker's and the
/// asked device's endpoint keys.
#[derive(Clone, Serialize, Deserialize)]
pub struct KinProof([u8; 32]);

impl KinProof {
    /// The proof of `asker` for `asked`.
    pub fn new(account_secret: &[u8; 32], asker: &DeviceId, asked: &DeviceId) -> Self {
        let bytes = [DOMAIN, account_secret, &asker.0, &asked.0].concat();
        Self(ContentHash::of(&bytes).0)
    }
}

impl PartialEq for KinProof {
    fn eq(&self, other: &Self) -> bool {
        // Of hashes of both, so that the time it takes tells nothing of the right one.
        ContentHash::of(&self.0) == ContentHash::of(&other.0)
    }
}

impl Eq for KinProof {}

impl std::fmt::Debug for KinProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KinProof")
    }
}
