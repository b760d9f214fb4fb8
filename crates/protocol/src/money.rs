//! Amounts of a token in atomic units, with checked arithmetic only.
//!
//! On the wire an amount is a string of decimal digits (spec: identifiers), in stores a number. There is
//! no implicit arithmetic: every addition and subtraction says what happens at the edge.

#![deny(clippy::arithmetic_side_effects)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The longest decimal form of an amount: `u128::MAX` has 39 digits.
pub const AMOUNT_DIGITS_MAX: usize = 39;

/// A number of atomic units of one token.
///
/// 128 bits, as in the settlement contract. A token whose supply does not fit cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AmountError {
    /// Not a non-empty string of ASCII digits without a leading zero.
    #[error("an amount is a string of decimal digits in atomic units, such as \"1500\"")]
    NotDecimal,
    /// No number of whole tokens.
    #[error("it has other characters than digits and one point between them")]
    NotTokens,
    /// More than `u128::MAX` atomic units.
    #[error("the amount does not fit in 128 bits")]
    TooLarge,
    /// More digits behind the point than the token has.
    #[error("the amount has more than {decimals} digits behind the point")]
    TooPrecise {
        /// Decimals of the token.
        decimals: u8,
    },
}

impl Amount {
    /// No units at all.
    pub const ZERO: Self = Self(0);
    /// The largest amount the settlement contract can hold.
    pub const MAX: Self = Self(u128::MAX);

    /// An amount of `units` atomic units.
    pub const fn new(units: u128) -> Self {
        Self(units)
    }

    /// The number of atomic units.
    pub const fn units(self) -> u128 {
        self.0
    }

    /// Whether there is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` where it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The difference, or `None` where `other` is larger.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The sum, at most [`Amount::MAX`].
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `factor` times this amount, at most [`Amount::MAX`].
    pub const fn saturating_mul(self, factor: u128) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// Reads a decimal number of whole tokens such as `1.25` for a token with `decimals` decimals.
    ///
    /// # Errors
    /// When the text is not a plain decimal number, is too precise for the token, or too large.
    pub fn parse_decimal(text: &str, decimals: u8) -> Result<Self, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) {
            return Err(AmountError::NotTokens);
        }
        if fraction.len() > usize::from(decimals) {
            return Err(AmountError::TooPrecise { decimals });
        }
        let padded = format!("{whole}{fraction:0<width$}", width = usize::from(decimals));
        let trimmed = padded.trim_start_matches('0');
        if trimmed.is_empty() {
            return Ok(Self::ZERO);
        }
        trimmed.parse()
    }

    /// The amount as a decimal number of whole tokens, without trailing zeros.
    pub fn to_decimal(self, decimals: u8) -> String {
        let width = usize::from(decimals).saturating_add(1);
        let digits = format!("{:0>width$}", self.0);
        let split = digits.len().saturating_sub(usize::from(decimals));
        let (whole, fraction) = digits.split_at(split);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() {
            whole.to_owned()
        } else {
            format!("{whole}.{fraction}")
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let bytes = text.as_bytes();
        let canonical = match bytes {
            [] => false,
            [b'0'] => true,
            [first, ..] => *first != b'0' && bytes.iter().all(u8::is_ascii_digit),
        };
        if !canonical {
            return Err(AmountError::NotDecimal);
        }
        if bytes.len() > AMOUNT_DIGITS_MAX {
            return Err(AmountError::TooLarge);
        }
        text.parse().map(Self).map_err(|_| AmountError::TooLarge)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            serializer.serialize_u128(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u128::deserialize(deserializer).map(Self);
        }
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for good in ["0", "1", "10", "340282366920938463463374607431768211455"] {
            assert_eq!(good.parse::<Amount>().unwrap().to_string(), good);
        }
        for bad in [
            "", "00", "01", "+1", "-1", " 1", "1 ", "1.0", "0x10", "1e3", "١",
        ] {
            assert_eq!(
                bad.parse::<Amount>(),
                Err(AmountError::NotDecimal),
                "{bad:?}"
            );
        }
        for large in [
            "340282366920938463463374607431768211456",
            &"9".repeat(4_000),
        ] {
            assert_eq!(large.parse::<Amount>(), Err(AmountError::TooLarge));
        }
    }

    #[test]
    fn whole_tokens_convert_exactly() {
        let cases = [
            ("1", 6, 1_000_000),
            ("1.25", 6, 1_250_000),
            ("0.000001", 6, 1),
            ("0", 6, 0),
            ("0.0", 6, 0),
            ("12", 0, 12),
        ];
        for (text, decimals, units) in cases {
            assert_eq!(
                Amount::parse_decimal(text, decimals),
                Ok(Amount(units)),
                "{text}"
            );
        }
        assert_eq!(Amount(1_250_000).to_decimal(6), "1.25");
        assert_eq!(Amount(1).to_decimal(6), "0.000001");
        assert_eq!(Amount(0).to_decimal(6), "0");
        assert_eq!(Amount(12).to_decimal(0), "12");
        assert_eq!(
            Amount::parse_decimal("0.0000001", 6),
            Err(AmountError::TooPrecise { decimals: 6 })
        );
        for bad in ["", ".5", "1,5", "1.2.3", "-1", "1 "] {
            assert_eq!(
                Amount::parse_decimal(bad, 6),
                Err(AmountError::NotTokens),
                "{bad:?}"
            );
            // A user who writes whole tokens is not told to write atomic units.
            let told = AmountError::NotTokens.to_string();
            assert!(!told.contains("atomic"), "{told}");
        }
    }
}
