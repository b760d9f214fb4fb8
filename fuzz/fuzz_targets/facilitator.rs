//! Fuzzes `hearth_fuzz::facilitator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::facilitator(input);
});
