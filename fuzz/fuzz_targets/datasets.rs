//! Fuzzes `hearth_fuzz::datasets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::datasets(input);
});
