//! Fuzzes `hearth_fuzz::readers::grammar`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::readers::grammar(input);
});
