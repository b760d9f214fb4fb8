//! Keys that sign as wallets do.

use alloy_primitives::{Address, B256};
use hearth_protocol::signature::Signature;
use secp256k1::{Message, SECP256K1, SecretKey};

/// A key, named by a number from 1 to 255.
#[derive(Debug, Clone)]
pub(crate) struct Key(SecretKey);

impl Key {
    /// The key with this number.
    pub(crate) fn numbered(number: u8) -> Self {
        let bytes = [number.max(1); 32];
        Self(
            SecretKey::from_byte_array(bytes)
                .expect("a number of 32 equal bytes is below the curve's order"),
        )
    }

    /// Its address.
    pub(crate) fn address(&self) -> Address {
        let public = self.0.public_key(SECP256K1).serialize_uncompressed();
        Address::from_raw_public_key(&public[1..])
    }

    /// Signs a digest.
    pub(crate) fn sign(&self, digest: B256) -> Signature {
        let signed = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.0);
        let (id, rs) = signed.serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&rs);
        bytes[64] = 27 + u8::from(i32::from(id) == 1);
        Signature::from_bytes(&bytes).expect("a signature that was just made has the right form")
    }
}
