//! Amounts as programs and people read them.

use std::fmt::Display;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An amount of one asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Money {
    /// The asset's CAIP-19 id; for the chain's own coin its CAIP-2 id and `/slip44:60`.
    pub asset: String,
    /// The name that the configuration gives it.
    pub symbol: String,
    /// Atomic units, in decimal digits.
    pub units: String,
    /// Digits behind the point.
    pub decimals: u8,
    /// Whole tokens, in decimal notation.
    pub amount: String,
}

impl Money {
    /// An amount of so many atomic `units`, an unsigned integer, of an asset with `decimals` digits behind the point.
    pub fn of_units(
        symbol: impl Into<String>,
        asset: impl Into<String>,
        decimals: u8,
        units: impl Display,
    ) -> Self {
        let units = units.to_string();
        Self {
            asset: asset.into(),
            symbol: symbol.into(),
            amount: whole(&units, decimals.into()),
            units,
            decimals,
        }
    }
}

/// The digits of `units` with a point before the last `decimals`, without needless zeros.
fn whole(units: &str, decimals: usize) -> String {
    let padded = format!("{units:0>width$}", width = decimals.saturating_add(1));
    let (whole, fraction) = padded.split_at(padded.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_without_needless_zeros() {
        let shown = |units: u128, decimals| Money::of_units("X", "", decimals, units).amount;
        assert_eq!(shown(1_500_000, 6), "1.5");
        assert_eq!(shown(1_000_000, 6), "1");
        assert_eq!(shown(10_000_000, 6), "10");
        assert_eq!(shown(1, 6), "0.000001");
        assert_eq!(shown(0, 6), "0");
        assert_eq!(shown(100, 0), "100");
        assert_eq!(
            shown(u128::MAX, 38),
            "3.40282366920938463463374607431768211455"
        );
    }
}
