//! Fuzzes `hearth_fuzz::paths`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::paths(input);
});
