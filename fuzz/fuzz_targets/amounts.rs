//! Fuzzes `hearth_fuzz::amounts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::amounts(input);
});
