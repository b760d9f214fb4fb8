//! Fuzzes `hearth_fuzz::models`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::models(input);
});
