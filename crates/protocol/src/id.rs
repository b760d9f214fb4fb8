//! Names of chains, accounts, assets, channels and devices.
//!
//! Chains are named by CAIP-2, accounts by CAIP-10, tokens by CAIP-19, always in the `eip155`
//! namespace (spec: identifiers). Addresses compare as bytes: the case of their hex digits is
//! never significant on reading, and is the EIP-55 checksum on writing.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::content::ContentHash;

/// The longest identifier that is read: `eip155:` + 20 digits + `/erc20:` + an address.
pub const IDENTIFIER_BYTES_MAX: usize = 80;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not `eip155:<decimal>`.
    #[error("a chain is named like \"eip155:8453\" (CAIP-2)")]
    Chain,
    /// Not `eip155:<decimal>:0x<40 hex>`.
    #[error("an account is named like \"eip155:8453:0x…\" (CAIP-10)")]
    Account,
    /// Not `eip155:<decimal>/erc20:0x<40 hex>`.
    #[error("a token is named like \"eip155:8453/erc20:0x…\" (CAIP-19)")]
    Asset,
    /// Its capitals are wrong.
    #[error(transparent)]
    Address(#[from] crate::address::TypedAddressError),
    /// Not 32 bytes of hex after `0x`.
    #[error("a channel is named by 32 bytes of hex, like \"0x…\"")]
    Channel,
}

/// An EVM chain: the number of EIP-155, written `eip155:<number>` (CAIP-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub u64);

/// An account on a chain (CAIP-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId {
    /// The chain.
    pub chain: ChainId,
    /// The account's address there.
    pub address: Address,
}

/// An ERC-20 token on a chain (CAIP-19).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetId {
    /// The chain.
    pub chain: ChainId,
    /// The token's contract there.
    pub token: Address,
}

/// A payment channel: the EIP-712 digest of its configuration, bound to chain and contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelId(pub B256);

fn parse_address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    (digits.len() == 40).then_some(())?;
    digits.parse().ok()
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eip155:{}", self.0)
    }
}

impl FromStr for ChainId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("eip155:").ok_or(IdError::Chain)?;
        let plain = !digits.is_empty()
            && digits.len() <= 20
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        if !plain {
            return Err(IdError::Chain);
        }
        digits.parse().map(Self).map_err(|_| IdError::Chain)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.chain, self.address)
    }
}

impl FromStr for AccountId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (chain, address) = text.rsplit_once(':').ok_or(IdError::Account)?;
        Ok(Self {
            chain: chain.parse().map_err(|_| IdError::Account)?,
            address: parse_address(address).ok_or(IdError::Account)?,
        })
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/erc20:{}", self.chain, self.token)
    }
}

impl FromStr for AssetId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (chain, token) = text.split_once("/erc20:").ok_or(IdError::Asset)?;
        Ok(Self {
            chain: chain.parse().map_err(|_| IdError::Asset)?,
            token: parse_address(token).ok_or(IdError::Asset)?,
        })
    }
}

impl AssetId {
    /// A token as a person names it: like [`AssetId::from_str`], and capitals that are mixed must
    /// be the checksum's.
    ///
    /// # Errors
    /// Says what is wrong, with the right form.
    pub fn typed(text: &str) -> Result<Self, IdError> {
        let id: Self = text.parse()?;
        let (_, token) = text.split_once("/erc20:").ok_or(IdError::Asset)?;
        match crate::address::typed(token) {
            Ok(_) => Ok(id),
            Err(error) => Err(IdError::Address(error)),
        }
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ChannelId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("0x").ok_or(IdError::Channel)?;
        if digits.len() != 64 {
            return Err(IdError::Channel);
        }
        digits.parse().map(Self).map_err(|_| IdError::Channel)
    }
}

macro_rules! string_form {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                if text.len() > IDENTIFIER_BYTES_MAX {
                    return Err(serde::de::Error::custom("the identifier is too long"));
                }
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

string_form!(ChainId, AccountId, AssetId);

/// A device: its Ed25519 endpoint key, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 32]);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ContentHash(self.0).fmt(f)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// Why a text is not a device's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a device is named by 64 hex digits, its endpoint key")]
pub struct DeviceIdError;

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let hash: ContentHash = text.parse().map_err(|_| DeviceIdError)?;
        Ok(Self(hash.0))
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ContentHash(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ContentHash::deserialize(deserializer).map(|hash| Self(hash.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

    #[test]
    fn identifiers_survive_a_round_trip() {
        for text in ["eip155:1", "eip155:31337", "eip155:18446744073709551615"] {
            assert_eq!(text.parse::<ChainId>().unwrap().to_string(), text);
        }
        let account = format!("eip155:8453:{TOKEN}");
        assert_eq!(account.parse::<AccountId>().unwrap().to_string(), account);
        let asset = format!("eip155:8453/erc20:{TOKEN}");
        assert_eq!(asset.parse::<AssetId>().unwrap().to_string(), asset);
        let lower = asset.to_lowercase();
        assert_eq!(lower.parse::<AssetId>().unwrap().to_string(), asset);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "eip155:",
            "eip155:0",
            "eip155:01",
            "eip155:-1",
            "EIP155:1",
            "solana:1",
            "eip155:18446744073709551616",
            "eip155:1 ",
        ] {
            assert_eq!(text.parse::<ChainId>(), Err(IdError::Chain), "{text:?}");
        }
        for text in [
            "eip155:1/erc20:0x12",
            "eip155:1/erc721:0x",
            "eip155:1",
            "/erc20:",
        ] {
            assert_eq!(text.parse::<AssetId>(), Err(IdError::Asset), "{text:?}");
        }
        assert_eq!("0x12".parse::<ChannelId>(), Err(IdError::Channel));
    }
}
