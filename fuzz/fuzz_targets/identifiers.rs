//! Fuzzes `hearth_fuzz::identifiers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::identifiers(input);
});
