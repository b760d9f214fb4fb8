//! Fuzzes `hearth_fuzz::household`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::household(input);
});
