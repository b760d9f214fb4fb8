//! Numbers that need not be whole, as JSON carries them without loss: decimal digits in a string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The longest text of a fraction, in bytes: the smallest single-precision number has 47.
const FRACTION_BYTES_MAX: usize = 64;

/// A finite number of single precision that is not negative.
///
/// It is written with the fewest decimal digits that give the same number again, without an exponent, and in no other way.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub struct Fraction(f32);

/// Why something is not a fraction in the one form that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a fraction is a string of decimal digits, the fewest that give the same number of single precision, without sign \
     and exponent"
)]
pub struct FractionError;

impl Fraction {
    /// Takes a number that is finite and has no sign.
    ///
    /// # Errors
    /// For any other number, -0 among them.
    pub fn new(value: f32) -> Result<Self, FractionError> {
        if value.is_finite() && value.is_sign_positive() {
            Ok(Self(value))
        } else {
            Err(FractionError)
        }
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fraction({self})")
    }
}

impl FromStr for Fraction {
    type Err = FractionError;

    fn from_str(text: &str) -> Result<Self, FractionError> {
        let is_plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        if text.len() > FRACTION_BYTES_MAX || !text.bytes().all(is_plain) {
            return Err(FractionError);
        }
        let value = text.parse().map_err(|_| FractionError)?;
        let fraction = Self::new(value)?;
        if fraction.to_string() == text {
            Ok(fraction)
        } else {
            Err(FractionError)
        }
    }
}

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fraction_has_one_form() {
        for (value, text) in [
            (0.95, "0.95"),
            (0.0, "0"),
            (1.0, "1"),
            (1e-8, "0.00000001"),
            (1e9, "1000000000"),
            (0.1 + 0.2, "0.3"),
            (16_777_216.0, "16777216"),
        ] {
            let fraction = Fraction::new(value).unwrap();
            assert_eq!(fraction.to_string(), text);
            assert_eq!(text.parse(), Ok(fraction));
        }
        for wrong in [
            "",
            ".",
            ".5",
            "5.",
            "1.0",
            "01",
            "0.950",
            "-1",
            "-0",
            "+1",
            "1e-8",
            "NaN",
            "inf",
            "1_0",
            " 1",
            "0.950000001",
            "16777217",
        ] {
            assert_eq!(wrong.parse::<Fraction>(), Err(FractionError), "{wrong}");
        }
        assert!(["9"; 100].concat().parse::<Fraction>().is_err());
        for wrong in [f32::NAN, f32::INFINITY, -1.0, -0.0] {
            assert!(Fraction::new(wrong).is_err());
        }
    }

    proptest! {
        #[test]
        fn every_number_reads_back(bits in 0_u32..0x7f80_0000) {
            let fraction = Fraction::new(f32::from_bits(bits)).unwrap();
            prop_assert_eq!(fraction.to_string().parse::<Fraction>().unwrap().get().to_bits(), bits);
        }
    }
}
