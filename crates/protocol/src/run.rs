//! A run: what its participants agree on before the first round, and what they say to each other in one (spec: 16 runs).

pub mod manifest;
