//! Fuzzes `hearth_fuzz::files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::files(input);
});
