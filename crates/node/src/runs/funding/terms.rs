//! What a run promises to its funders: from the file that a person writes to the terms that name it on chain.

use alloy_primitives::{Address, B256};
use hearth_api::runs::MakeFunding;
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::RunTerms;
use hearth_protocol::money::Amount;
use serde::Deserialize;
use thiserror::Error;

/// How long a run takes pledges where nothing is said, in seconds: a week.
const OPEN_S: u64 = 7 * 86_400;
/// How long its rounds release them after that, in seconds: ninety days.
const LASTS_S: u64 = 90 * 86_400;
/// Checkpoints where nothing is said, if the rounds can be divided by so many.
const CHECKPOINTS: u32 = 10;
/// The longest that either lasts, in seconds: ten years.
const LONGEST_S: u64 = 10 * 365 * 86_400;
/// The shortest that either lasts, in seconds: a transaction has to find its way.
const SHORTEST_S: u64 = 5;
/// How long the terms of a run without pledges stand, in seconds: ten years.
const TERMS_S: u64 = 10 * 365 * 86_400;

/// What a person says about who may fund a run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FundingRecipe {
    /// The asset of the pledges, by its name in the configuration or its CAIP-19 id.
    #[serde(default = "ember")]
    pub asset: String,
    /// Whole tokens under which everything goes back.
    pub soft_cap: String,
    /// Seconds in which pledges are made and withdrawn. The first round is recorded after them.
    #[serde(default = "open_s")]
    pub open_s: u64,
    /// Seconds after that in which rounds release pledges. What is left then goes back.
    #[serde(default = "lasts_s")]
    pub lasts_s: u64,
    /// Equal parts that pledges are released in; at most ten where nothing is said.
    pub checkpoints: Option<u32>,
}

fn ember() -> String {
    "EMBER".to_owned()
}

fn open_s() -> u64 {
    OPEN_S
}

fn lasts_s() -> u64 {
    LASTS_S
}

/// Why no run can be funded so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FundingTermsError {
    /// The parts do not come out even.
    #[error(
        "{rounds} rounds cannot be divided into {checkpoints} checkpoints of as many rounds each"
    )]
    Checkpoints {
        /// Of the run.
        rounds: u32,
        /// What was said.
        checkpoints: u32,
    },
    /// Too short or too long.
    #[error("{field} is {value} s, and must be {SHORTEST_S} s to ten years")]
    Time {
        /// Which.
        field: &'static str,
        /// What was said.
        value: u64,
    },
    /// Not an amount.
    #[error("the soft cap {given:?} is not an amount of {asset}: {reason}")]
    SoftCap {
        /// What was said.
        given: String,
        /// The asset.
        asset: String,
        /// Why not.
        reason: String,
    },
    /// The asset is not known.
    #[error("the asset {wanted:?} is not configured on the ledger's chain; there is {known}")]
    Asset {
        /// What was named.
        wanted: String,
        /// The names of those that are.
        known: String,
    },
}

impl FundingRecipe {
    /// The recipe for a run of so many rounds, with everything said.
    ///
    /// # Errors
    /// When a value can be no run's.
    pub fn plan(&self, rounds: u32) -> Result<MakeFunding, FundingTermsError> {
        let usual = (1..=CHECKPOINTS.min(rounds)).rev();
        let mut usual = usual.filter(|count| rounds.is_multiple_of(*count));
        let funding = MakeFunding {
            asset: self.asset.clone(),
            soft_cap: self.soft_cap.clone(),
            open_s: self.open_s,
            lasts_s: self.lasts_s,
            checkpoints: (self.checkpoints.or_else(|| usual.next())).unwrap_or(1),
        };
        check(&funding, rounds)?;
        Ok(funding)
    }
}

fn check(funding: &MakeFunding, rounds: u32) -> Result<(), FundingTermsError> {
    let checkpoints = funding.checkpoints;
    if checkpoints == 0 || !rounds.is_multiple_of(checkpoints) {
        return Err(FundingTermsError::Checkpoints {
            rounds,
            checkpoints,
        });
    }
    let times = [("open_s", funding.open_s), ("lasts_s", funding.lasts_s)];
    match (times.into_iter()).find(|(_, value)| !(SHORTEST_S..=LONGEST_S).contains(value)) {
        Some((field, value)) => Err(FundingTermsError::Time { field, value }),
        None => Ok(()),
    }
}

/// What a run is and when it begins.
#[derive(Debug, Clone, Copy)]
pub(in crate::runs) struct RunBeginning {
    pub(in crate::runs) manifest: ContentHash,
    pub(in crate::runs) state: B256,
    pub(in crate::runs) rounds: u32,
    pub(in crate::runs) now_s: u64,
}

impl RunBeginning {
    /// The terms of a run that takes no pledges.
    pub(in crate::runs) fn without_pledges(self) -> RunTerms {
        RunTerms {
            manifest: self.manifest,
            state: self.state,
            token: Address::ZERO,
            soft_cap: Amount::ZERO,
            deadline_s: self.now_s,
            end_s: self.now_s.saturating_add(TERMS_S),
            checkpoints: 1,
            rounds_per_checkpoint: self.rounds,
        }
    }

    /// The terms of a run that takes pledges in `token`.
    ///
    /// # Errors
    /// When a value can be no run's.
    pub(in crate::runs) fn with_pledges(
        self,
        funding: &MakeFunding,
        token: Address,
        decimals: u8,
    ) -> Result<RunTerms, FundingTermsError> {
        check(funding, self.rounds)?;
        let bad = |reason: String| FundingTermsError::SoftCap {
            given: funding.soft_cap.chars().take(64).collect(),
            asset: funding.asset.chars().take(96).collect(),
            reason,
        };
        let soft_cap = Amount::parse_decimal(&funding.soft_cap, decimals);
        let soft_cap = soft_cap.map_err(|error| bad(error.to_string()))?;
        if soft_cap.is_zero() {
            return Err(bad("it is nothing".to_owned()));
        }
        let deadline_s = self.now_s.saturating_add(funding.open_s);
        Ok(RunTerms {
            manifest: self.manifest,
            state: self.state,
            token,
            soft_cap,
            deadline_s,
            end_s: deadline_s.saturating_add(funding.lasts_s),
            checkpoints: funding.checkpoints,
            rounds_per_checkpoint: self.rounds / funding.checkpoints,
        })
    }
}
