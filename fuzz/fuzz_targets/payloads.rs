//! Fuzzes `hearth_fuzz::payloads`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::payloads(input);
});
