//! What the ledger's contracts compute, computed alike: statements that devices sign, trees of rewards, votes that
//! fade, and who is drawn to validate (spec: 14 ledger).
//!
//! Every number here is an integer, and `vectors/ledger.json` has been computed by the contracts themselves. What
//! validators agree on before they sign is not decided here.

pub mod draw;
pub mod emission;
pub mod growth;
pub mod statement;
pub mod sum_tree;

#[cfg(test)]
mod vectors;
