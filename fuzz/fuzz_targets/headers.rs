//! Fuzzes `hearth_fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::headers(input);
});
