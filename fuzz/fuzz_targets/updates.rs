//! Fuzzes `hearth_fuzz::updates`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::updates(input);
});
