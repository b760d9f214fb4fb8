//! Fuzzes the identifiers of chains, accounts, assets and channels.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hearth_fuzz::identifiers(input));
