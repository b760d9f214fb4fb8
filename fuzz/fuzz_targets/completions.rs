//! Fuzzes `hearth_fuzz::completions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::completions(input);
});
