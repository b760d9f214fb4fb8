//! Amounts as programs and people read them.

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
