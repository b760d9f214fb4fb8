//! JSON types of everything a program may read from Hearth: the HTTP surface and the output of the command line.
//!
//! Keys are `snake_case` and stay; amounts are strings in atomic units, with what a person reads beside them;
//! identifiers are CAIP-2, CAIP-10 and CAIP-19 texts. Data only: a program that speaks to a node, in any language,
//! needs nothing but these shapes.

pub mod anthropic;
pub mod chain;
pub mod doctor;
pub mod error;
pub mod household;
pub mod money;
pub mod node;
mod objects;
mod one_or_list;
pub mod openai;
pub mod payments;
pub mod runs;
pub mod wallet;
