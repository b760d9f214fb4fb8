//! Fuzzes `hearth_fuzz::quotes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::quotes(input);
});
