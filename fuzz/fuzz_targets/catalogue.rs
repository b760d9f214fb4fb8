//! Fuzzes `hearth_fuzz::readers::catalogue`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::readers::catalogue(input);
});
