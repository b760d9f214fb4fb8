//! Addresses as text, in the one place that says how (spec: identifiers, section 1).
//!
//! A writer writes the checksum of EIP-55, because wallets refuse an address whose capitals are
//! wrong. A reader of what programs send compares bytes and never looks at the case. What a person
//! typed is another matter: capitals that are mixed and wrong mean a slip of the hand, and money that
//! is sent to it is lost.

use alloy_primitives::Address;
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
use thiserror::Error;

/// Why what a person typed is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TypedAddressError {
    /// It is not `0x` and 40 hex digits.
    #[error("an address is \"0x\" and 40 hex digits")]
    Malformed,
    /// Its capitals are wrong.
    #[error("the capitals of {given} are wrong: a digit was mistyped, or it is {right}")]
    Checksum {
        /// What was typed.
        given: String,
        /// The same digits with the right capitals.
        right: String,
    },
}

/// An address as a person gives it. Mixed capitals are a checksum, which must be right.
///
/// # Errors
/// Says the right form.
pub fn typed(text: &str) -> Result<Address, TypedAddressError> {
    let digits = text
        .strip_prefix("0x")
        .ok_or(TypedAddressError::Malformed)?;
    if digits.len() != 40 {
        return Err(TypedAddressError::Malformed);
    }
    let address: Address = digits.parse().map_err(|_| TypedAddressError::Malformed)?;
    let has = |which: fn(&u8) -> bool| digits.bytes().any(|byte| which(&byte));
    let is_mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    if is_mixed && address.to_checksum(None) != text {
        return Err(TypedAddressError::Checksum {
            given: text.to_owned(),
            right: address.to_checksum(None),
        });
    }
    Ok(address)
}

/// Writes an address with its checksum; in binary forms, its bytes. For `#[serde(with)]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(address)
    } else {
        address.serialize(serializer)
    }
}

/// Reads an address in either case.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    Address::deserialize(deserializer)
}

/// The same for an address that may be missing.
pub mod option {
    use super::*;

    /// Writes an address with its checksum, or nothing.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(
        address: &Option<Address>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) if serializer.is_human_readable() => {
                serializer.serialize_some(&address.to_checksum(None))
            }
            other => other.serialize(serializer),
        }
    }

    /// Reads an address in either case, or nothing.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Address>, D::Error> {
        Option::<Address>::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E";

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Written {
        #[serde(with = "super")]
        one: Address,
        #[serde(default, with = "super::option")]
        other: Option<Address>,
    }

    #[test]
    fn what_is_written_has_its_checksum_and_is_read_in_either_case() {
        let address: Address = RIGHT.parse().unwrap();
        let written = Written {
            one: address,
            other: Some(address),
        };
        let json = serde_json::to_string(&written).unwrap();
        assert_eq!(json, format!(r#"{{"one":"{RIGHT}","other":"{RIGHT}"}}"#));
        for text in [json.clone(), json.to_lowercase()] {
            assert_eq!(serde_json::from_str::<Written>(&text).unwrap(), written);
        }
        let none: Written = serde_json::from_str(&format!(r#"{{"one":"{RIGHT}"}}"#)).unwrap();
        assert_eq!(none.other, None);
    }

    #[test]
    fn a_slip_of_the_hand_is_told_with_the_right_form() {
        let address: Address = RIGHT.parse().unwrap();
        let lower = RIGHT.to_lowercase();
        let upper = format!("0x{}", RIGHT[2..].to_uppercase());
        for right in [RIGHT, &lower, &upper] {
            assert_eq!(typed(right), Ok(address), "{right}");
        }
        // The one that stood in the configuration once, and each digit's capital in turn.
        let mut wrong = vec!["0x569b35Ed675c9ca42DBD1b6Dd75bdC2965D5ec8E".to_owned()];
        for (at, digit) in RIGHT
            .char_indices()
            .skip(2)
            .filter(|(_, c)| c.is_alphabetic())
        {
            let other = if digit.is_lowercase() {
                digit.to_ascii_uppercase()
            } else {
                digit.to_ascii_lowercase()
            };
            wrong.push(format!("{}{other}{}", &RIGHT[..at], &RIGHT[at + 1..]));
        }
        for wrong in wrong {
            let error = typed(&wrong).unwrap_err();
            assert!(error.to_string().contains(RIGHT), "{error}");
        }
        for malformed in ["", "0x", "bob", &RIGHT[2..], &RIGHT[..41], "0X00", " 0x"] {
            assert_eq!(
                typed(malformed),
                Err(TypedAddressError::Malformed),
                "{malformed}"
            );
        }
        let wide = format!("0x{}", "é".repeat(20));
        assert_eq!(typed(&wide), Err(TypedAddressError::Malformed));
    }
}
