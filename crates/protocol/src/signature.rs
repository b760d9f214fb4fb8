//! Signatures by an account's key: 65 bytes `r || s || v`, in the one form that the chain accepts.
//!
//! OpenZeppelin's `ECDSA` on chain refuses a high `s` and every `v` but 27 and 28. A library that
//! is more lenient would let a payer hand over a voucher that verifies at home and reverts in the
//! claim, so the same strictness holds here: [`Signature::from_bytes`] is the only way in.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256, U256, hex};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Half the order of secp256k1: the largest `s` that OpenZeppelin's `ECDSA` accepts.
const S_MAX: U256 = U256::from_be_bytes([
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
]);

/// A well-formed recoverable signature. Whose it is, only [`Signature::signer`] says.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 65]);

/// Why bytes are not a signature, or not one of the expected signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Not 65 bytes of hex after `0x`.
    #[error("a signature is 65 bytes of hex after 0x")]
    Length,
    /// `v` is neither 27 nor 28.
    #[error("the signature's last byte must be 27 or 28")]
    Parity,
    /// `s` is in the upper half of the curve's order.
    #[error("the signature is malleable: s must be in the lower half of the order")]
    Malleable,
    /// No public key fits.
    #[error("the signature fits no key")]
    NoKey,
}

impl Signature {
    /// Takes 65 bytes `r || s || v`.
    ///
    /// # Errors
    /// When the chain would refuse this form whatever the message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let bytes: [u8; 65] = bytes.try_into().map_err(|_| SignatureError::Length)?;
        if !matches!(bytes[64], 27 | 28) {
            return Err(SignatureError::Parity);
        }
        let s = U256::from_be_slice(&bytes[32..64]);
        if s > S_MAX {
            return Err(SignatureError::Malleable);
        }
        Ok(Self(bytes))
    }

    /// The 65 bytes `r || s || v`.
    pub fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// The address whose key signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError::NoKey`] where the numbers belong to no point of the curve.
    pub fn signer(&self, digest: B256) -> Result<Address, SignatureError> {
        let parity = self.0[64] == 28;
        alloy_primitives::Signature::from_bytes_and_parity(&self.0[..64], parity)
            .recover_address_from_prehash(&digest)
            .map_err(|_| SignatureError::NoKey)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_prefixed(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let digits = text.strip_prefix("0x").ok_or(SignatureError::Length)?;
        if digits.len() != 130 {
            return Err(SignatureError::Length);
        }
        let bytes = hex::decode(digits).map_err(|_| SignatureError::Length)?;
        Self::from_bytes(&bytes)
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let bytes = <&'de [u8]>::deserialize(deserializer)?;
            return Self::from_bytes(bytes).map_err(serde::de::Error::custom);
        }
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A key that signs as wallets do.
    pub(crate) struct Key(secp256k1::SecretKey);

    impl Key {
        pub(crate) fn new(byte: u8) -> Self {
            Self(secp256k1::SecretKey::from_byte_array([byte; 32]).unwrap())
        }

        pub(crate) fn address(&self) -> Address {
            let public = self
                .0
                .public_key(secp256k1::SECP256K1)
                .serialize_uncompressed();
            Address::from_raw_public_key(&public[1..])
        }

        pub(crate) fn sign(&self, digest: B256) -> Signature {
            let message = secp256k1::Message::from_digest(digest.0);
            let signed = secp256k1::SECP256K1.sign_ecdsa_recoverable(message, &self.0);
            let (id, rs) = signed.serialize_compact();
            let mut bytes = [0; 65];
            bytes[..64].copy_from_slice(&rs);
            bytes[64] = 27 + u8::try_from(i32::from(id)).unwrap();
            Signature::from_bytes(&bytes).unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{address, b256};

    // The first account of the well-known test phrase "test test … junk", message digest 0x11…11.
    const DIGEST: B256 = b256!("1111111111111111111111111111111111111111111111111111111111111111");

    fn sample() -> (Signature, Address) {
        let key = testing::Key::new(7);
        (key.sign(DIGEST), key.address())
    }

    #[test]
    fn the_signer_is_recovered_and_another_digest_gives_another_signer() {
        let (signature, signer) = sample();
        assert_eq!(signature.signer(DIGEST), Ok(signer));
        assert_ne!(signature.signer(B256::ZERO), Ok(signer));
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }

    #[test]
    fn forms_that_the_chain_refuses_are_refused() {
        let (good, _) = sample();
        for v in [0, 1, 26, 29, 255] {
            let mut bytes = *good.as_bytes();
            bytes[64] = v;
            assert_eq!(Signature::from_bytes(&bytes), Err(SignatureError::Parity));
        }
        let order = U256::from_be_slice(secp256k1::constants::CURVE_ORDER.as_slice());
        let mut bytes = *good.as_bytes();
        let flipped = order - U256::from_be_slice(&bytes[32..64]);
        bytes[32..64].copy_from_slice(&flipped.to_be_bytes::<32>());
        assert_eq!(
            Signature::from_bytes(&bytes),
            Err(SignatureError::Malleable)
        );
        assert_eq!(
            Signature::from_bytes(&good.as_bytes()[..64]),
            Err(SignatureError::Length)
        );
        assert_eq!("0x".parse::<Signature>(), Err(SignatureError::Length));
        let mut zero = [0; 65];
        zero[64] = 27;
        let zero = Signature::from_bytes(&zero).unwrap();
        assert_eq!(zero.signer(DIGEST), Err(SignatureError::NoKey));
        assert_ne!(
            good.signer(DIGEST),
            Ok(address!("0000000000000000000000000000000000000000"))
        );
    }
}
